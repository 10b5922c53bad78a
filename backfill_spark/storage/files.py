"""Small files beside the tables, on any file system that the tables may lie on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow import fs


def filesystem_of(folder: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URI, and the path in it."""
    from pyarrow import fs

    if folder.startswith("file:"):  # not as a URI, in which blanks and percent signs mean something else
        folder = "/" + folder.removeprefix("file:").lstrip("/")
    elif "://" in folder:
        return fs.FileSystem.from_uri(folder.rstrip("/"))  # type: ignore[no-any-return]
    return fs.LocalFileSystem(), folder.rstrip("/") or "/"
