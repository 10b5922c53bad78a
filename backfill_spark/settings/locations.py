"""Locations: where a table is, by path or by name, and which texts may never be one.

A checked location is the only thing that may reach SQL as an identifier. Standard library only.
"""

from __future__ import annotations

import codecs
import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from backfill_spark.errors import NameRefusedError

_NAME_PART = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_GLOB = re.compile(r"[*?\[\]{}]")
_PARTS = re.compile(r"[/\\{},]")  # Hadoop expands {a,../b} before it reads the parts
# Spark reads `text.secret` as the file "secret" when there is no schema "text" (ResolveSQLOnFile).
_DATA_FILE = re.compile(r"\.(parquet|jsonl?|ndjson|csv)(\.\w+)?$", re.IGNORECASE)
_VARIABLE = re.compile(r"(?:^|/)\$(?:\{|[A-Za-z_])")
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_FORMATS = frozenset(
    "avro binaryfile csv delta hudi iceberg image jdbc json kafka libsvm orc parquet rate socket text xml".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Location:
    """A table by path or by name: exactly one of the two is set, and it is checked.

    Raises:
        NameRefusedError: the path or name is one that no table may have.
    """

    path: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.name is None):
            raise NameRefusedError("A table is given by a path or by a name: set exactly one of them.")
        if self.path is not None:
            _check_path(self.path)
        else:
            _check_name(self.name)

    @property
    def shown(self) -> str:
        """The path or name as it was given."""
        return str(self.path if self.name is None else self.name)

    @property
    def quoted(self) -> str:
        """SQL identifier: `` `a`.`b`.`c` `` for a name, ``delta.`path` `` for a path."""
        if self.name is None:
            return f"delta.`{self.path}`"
        return ".".join(f"`{part}`" for part in self.name.split("."))

    @classmethod
    def of_path(cls, text: str, roots: Sequence[str] = ()) -> Location:
        """Check a path or URI; `roots` are the folders that it may lie in (none given: any).

        Raises:
            NameRefusedError: it holds control characters, backticks or `..`, or lies outside `roots`.
        """
        location = cls(path=text)
        if roots:
            if _GLOB.search(_decoded(text)):
                raise _refused(
                    "path", text, "has a wildcard, which could lead out of limits.path_roots; name one folder"
                )
            allowed = [_normalised(root) for root in roots]
            for spelling in {text, _decoded(text)}:
                if not any(_is_inside(_normalised(spelling), root) for root in allowed):
                    raise _refused(
                        "path", text, f"lies outside limits.path_roots {list(roots)}; move it, or add a root"
                    )
        return location

    @classmethod
    def of_name(cls, text: str) -> Location:
        """Check a table name `table`, `schema.table` or `catalog.schema.table`.

        Raises:
            NameRefusedError: it has more parts, or characters other than ASCII letters, digits and `_`.
        """
        return cls(name=text)

    @classmethod
    def parse(cls, text: str, roots: Sequence[str] = ()) -> Location:
        """Read a text with a slash or a scheme as a path, any other as a name.

        Raises:
            NameRefusedError: as `of_path` and `of_name`.
        """
        is_path = "/" in text or _SCHEME.match(text) is not None
        return cls.of_path(text, roots) if is_path else cls.of_name(text)

    @classmethod
    def given(cls, source: str | os.PathLike[str], roots: Sequence[str] = ()) -> Location:
        """Read what a person names: a table, or a path, which starts from the working directory.

        A text is a path as in `parse`, and also where a file of this name (`traces.jsonl`) lies here.

        Raises:
            NameRefusedError: as `of_path` and `of_name`.
        """
        text = os.fspath(source)
        is_file = not isinstance(source, str) or (_DATA_FILE.search(text) is not None and Path(text).exists())
        if not is_file and (named := cls.parse(text)).name is not None:
            return named
        return cls.of_path(absolute(text, str(Path.cwd())), roots)


def absolute(text: str, folder: str) -> str:
    """Return a path or URI as it must be written to mean the same from everywhere.

    A relative path starts from `folder`, or above it where it begins with `..`; `~` is the home folder, and a file URI
    becomes `file:/path` without percent signs, which Spark would take as they stand. Symbolic links stay, and so do
    URIs of other schemes.

    Raises:
        NameRefusedError: no table may have the path, or it is a file URI of another machine.
    """
    parts = text.split("/")
    climbed = next((i for i, part in enumerate(parts) if part not in (".", "..")), len(parts))
    _check_path("/".join(parts[climbed:]) or "." * (climbed > 0))
    scheme = _SCHEME.match(text)
    if scheme is not None:
        if scheme[1].lower() != "file":
            return text
        return "file:" + _plain(_path_of_uri(text, text[scheme.end() :]))
    if text.startswith("~"):
        home = os.path.expanduser(text)  # noqa: PTH111 - Path() fails where the user is not known
        if home == text:
            raise _refused("path", text, "names a user who is not known here; write the folder's path, or ./~…")
        return _plain(home)
    if _VARIABLE.search(text):
        raise _refused("path", text, "names an environment variable, which is not filled in; write the path itself")
    if not text.startswith("/") and not folder:
        raise _refused("path", text, "is relative, and the working directory is gone; write the whole path")
    return _plain(posixpath.join(folder, text))


def _path_of_uri(text: str, rest: str) -> str:
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise _refused("path", text, f"is on the machine {host!r}; a file URI is of this one: write file:/folder")
        rest = slash + rest
    try:
        path = unquote(rest, errors="strict")
    except UnicodeDecodeError:
        raise _refused("path", text, "has percent signs that are no UTF-8; write the plain path") from None
    if not path.startswith("/"):
        raise _refused("path", text, "is a file URI without a whole path; write file:/folder, or the path alone")
    return path


def _plain(path: str) -> str:
    """Drop `.`, doubled slashes and the last slash, in which Delta sees another place."""
    return "/" + posixpath.normpath(path).lstrip("/")


def local_file(text: str) -> Path:
    """Return the file of this machine that a path or file URI names; it is no table, so `..` may stand anywhere.

    Raises:
        NameRefusedError: it is a file URI of another machine.
    """
    is_uri = text[:5].lower() == "file:"
    return Path(absolute(text, "").removeprefix("file:") if is_uri else os.path.expanduser(text))  # noqa: PTH111 - as above


def read_text(file: str | Path) -> str:
    """Return the text of a file that people write: UTF-8, or UTF-16 with its byte-order mark.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is of another encoding.
    """
    raw = Path(file).read_bytes()
    return raw.decode(next((encoding for mark, encoding in _MARKS.items() if raw.startswith(mark)), "utf-8"))


def _check_path(text: object) -> None:
    if not isinstance(text, str) or not text or text != text.strip():
        raise _refused("path", text, "is empty, or begins or ends with a blank; write the folder's path")
    for spelling in (text, _decoded(text)):
        if _CONTROL.search(spelling):
            raise _refused("path", text, "has a control character; write a plain path")
        if "`" in spelling:
            raise _refused("path", text, "has a backtick; write the path alone, without delta.`…`")
        if ".." in _PARTS.split(spelling):
            raise _refused("path", text, "has a '..' part; write the folder it leads to")


def _check_name(text: object) -> None:
    parts = text.split(".") if isinstance(text, str) else [""]
    if len(parts) > 3 or not all(_NAME_PART.fullmatch(part) for part in parts):
        raise _refused(
            "table name",
            text,
            "is not one to three parts of ASCII letters, digits and '_' (each at most 128, no digit first); "
            "write catalog.schema.table, or a path with a slash",
        )
    if len(parts) == 2 and parts[0].lower() in _FORMATS:
        raise _refused("table name", text, f"would be read as a file of format {parts[0]!r}; write the file's path")


def _refused(kind: str, text: object, why: str) -> NameRefusedError:
    shown = ascii(text)
    return NameRefusedError(f"The {kind} {shown if len(shown) <= 200 else shown[:200] + '…'} {why}.")


def _decoded(text: str) -> str:
    """Undo percent encoding until nothing changes: `%252e` is `%2e` is `.`."""
    for _ in range(len(text)):
        plain = unquote(text)
        if plain == text:
            break
        text = plain
    return text


def _normalised(text: str) -> tuple[str, str]:
    """Return (scheme and authority, path): local paths with symlinks resolved and no scheme."""
    match = _SCHEME.match(text)
    if match is None:
        return "", os.path.realpath(text)
    scheme, rest = match[1].lower(), text[match.end() :]
    authority = ""
    if rest.startswith("//"):
        authority, slash, rest = rest[2:].partition("/")
        rest = slash + rest
    if scheme == "file":  # Hadoop's local file system ignores the authority
        return "", os.path.realpath(rest or "/")
    return f"{scheme}://{authority}", posixpath.normpath("/" + rest.lstrip("/"))


def _is_inside(place: tuple[str, str], root: tuple[str, str]) -> bool:
    return place[0] == root[0] and (place[1] == root[1] or place[1].startswith(root[1].rstrip("/") + "/"))
