"""Writes the pages of docs/ that follow from the code: `python -m scripts.reference [FOLDER]`."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

import backfill_spark
from backfill_spark import filters, schema
from backfill_spark.models import ErrorCode, JobState, Outcome, SkipReason
from backfill_spark.settings.schema import RESERVED, Settings
from backfill_spark.settings.yaml_file import DEFAULT_FILE

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pyspark.sql import types as T

DOCS = Path(__file__).parents[1] / "docs"
SETTINGS_HEAD = """\
# Settings

*Generated from `backfill_spark/settings/schema.py` and `sections.py` by `make docs`.*

A setting comes from the first of these places that says it:

1. an argument: `Settings(tables={{"root": "./data"}})`, `configure(…)` with the same, or `--set tables.root=./data` \
on the command line;
2. the environment: `BACKFILL_SPARK_` and the name, sections parted by two underscores \
(`BACKFILL_SPARK_TABLES__ROOT`);
3. a YAML file: `--config FILE`, else the file that `{config}` names, else `{file}` in the current folder;
4. the default.

An unknown key is refused, with the nearest known one. Lists and mappings are JSON text in the environment. A duration \
is a number with `s`, `m`, `h`, `d` or `w`. An empty variable is as good as none. `{config}` and `{failpoint}` are no \
settings; the second is for tests.

Paths (`tables.root`, `traces.path`, `judge.spool`, `limits.path_roots`, `delta_jars`) become absolute when the \
settings are made. In a settings file they start from the file's folder (in `{file}` from the folder above `conf`), \
elsewhere from the working directory. `~` is the home folder; environment variables, and `..` but at the beginning, \
are refused. Of file URIs every spelling is taken, with percent signs decoded; a plain path is taken as it stands. \
Where Spark's default file system is not the driver's disk, write URIs (`s3a://…`). A settings file is UTF-8, or \
UTF-16 with a byte-order mark."""
TABLES_HEAD = """\
# Tables

*Generated from `backfill_spark/schema.py` by `make docs`.*

All of them are Delta tables, at `{tables.root}/{tables.prefix}{table}` or, with `tables.schema`, at \
`{tables.schema}.{tables.prefix}{table}`. They are made by the first command that needs them, or by \
`backfill-spark init`. Each has its version as the property `backfill_spark.schema_version`: a table with a higher one \
than this page's is refused, and one with a lower one gets the columns that it lacks when it is opened. Tables marked \
*contract* are for everyone to read; the others are internal and may change.

To count or average results, read them with `read_assessments()`: it keeps, of each trace and scorer, the rows of the \
newest version, and leaves out `empty` ones."""
TRACES_HEAD = """\
## Your traces table

It belongs to you and is only read. `trace_id` and `request_time` must be there; the rest may be absent. Other names \
are mapped with the setting `traces.columns`. A `request_time` without a time zone is read as UTC. What each column \
may hold, and which other shapes are read: [your-traces.md](your-traces.md)."""

API_HEAD = """\
# Public names

*Generated from `backfill_spark/__init__.pyi` and what it names by `make docs`.*

All of them are imported from `backfill_spark`, but for those of the last section. What is not listed here may change \
without a word. A line that this page loses, or changes, is told in CHANGELOG.md."""


def settings_page() -> str:
    """Return docs/settings.md, from settings/schema.py."""
    parts = [SETTINGS_HEAD.format(config=RESERVED[0], failpoint=RESERVED[1], file=DEFAULT_FILE)]
    plain = {n: f for n, f in Settings.model_fields.items() if _section(f) is None}
    parts += ["## General", _settings_table(plain, ())]
    for name, field in Settings.model_fields.items():
        section = _section(field)
        if section is not None:
            parts += [f"## {name}", (section.__doc__ or "").strip().splitlines()[0], *_section_parts(section, (name,))]
    return "\n\n".join(parts) + "\n"


def _section_parts(section: type[BaseModel], path: tuple[str, ...]) -> Iterator[str]:
    yield _settings_table(section.model_fields, path)
    for name, field in section.model_fields.items():
        inner = next((t for t in get_args(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)), None)
        if inner is not None:
            yield f"Each of `{'.'.join((*path, name))}`: {(inner.__doc__ or '').strip().splitlines()[0]}"
            yield from _section_parts(inner, (*path, name, "<name>"))


def _settings_table(fields: dict[str, FieldInfo], path: tuple[str, ...]) -> str:
    lines = ["| setting | values | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        key = ".".join((*path, field.alias or name))
        lines.append(
            f"| `{key}` | {_values(field.annotation)} | {_default(field)} | {_cell(field.description or '')} |"
        )
    return "\n".join(lines)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _values(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " \\| ".join(f"`{a}`" for a in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_values(a) for a in arguments if a is not type(None)) + ", or nothing"
    if origin is dict:
        return "mapping"
    if origin is list:
        return "list"
    return {str: "text", bool: "true, false", int: "whole number", float: "number"}.get(kind) or str(kind.__name__)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "nothing"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if value != "" else "empty text"


def tables_page() -> str:
    """Return docs/tables.md, from schema.py and models.py."""
    parts = [TABLES_HEAD]
    for table in schema.ALL_TABLES:
        traits = ["contract" if table.is_contract else "internal"]
        if table.append_only:
            traits.append("append-only")
        if table.partitioned_by:
            traits.append("partitioned by " + ", ".join(f"`{c}`" for c in table.partitioned_by))
        traits.append(f"version {table.version}")
        parts += [f"## {table.name}", f"{table.comment} *{', '.join(traits)}*", _columns(table.schema)]
        if table is schema.ASSESSMENTS:
            parts.append(
                f"Key of a pair: {_listed(schema.PAIR_KEY)}. Key of a row: that and `ordinal`. "
                f"`outcome` is one of {_listed(Outcome)}. `error_code` is one of {_listed(ErrorCode)}."
            )
        if table is schema.JOBS:
            parts.append(
                f"`state` is one of {_listed(JobState)}. In `counts`, the keys of `skipped_reasons` are out of "
                f"{_listed(SkipReason)}."
            )
    parts += [
        TRACES_HEAD,
        _columns(schema.TRACES),
        "An element of `spans`:",
        _columns(schema.SPAN),
        "An element of `assessments`:",
        _columns(schema.TRACE_ASSESSMENT),
    ]
    return "\n\n".join(parts) + "\n"


def _columns(schema: T.StructType) -> str:
    lines = ["| column | type | meaning |", "|---|---|---|"]
    for field in schema.fields:
        kind = field.dataType.simpleString()
        kind = "array<struct>" if kind.startswith("array<struct") else kind
        lines.append(f"| `{field.name}` | {kind} | {_cell(field.metadata.get('comment', ''))} |")
    return "\n".join(lines)


def api_page() -> str:
    """docs/api.md: the public names, their signatures, and what public classes define."""
    pages = [API_HEAD, _names_of(backfill_spark), "## backfill_spark.filters", _names_of(filters)]
    return "\n\n".join(pages) + "\n"


def _names_of(module: Any) -> str:
    lines = [line for name in module.__all__ for line in _definition(name, getattr(module, name))]
    return "```\n" + "\n".join(lines) + "\n```"


def _definition(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, type):
        yield name + _signature(value)
        return
    bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
    has_signature = not issubclass(value, Exception | Enum | BaseModel)
    yield f"class {name}{_signature(value) if has_signature else ''}" + (f": {bases}" if bases else "")
    if issubclass(value, Enum):
        yield "    " + ", ".join(value.__members__)
        return
    arguments = inspect.signature(value).parameters if has_signature else {}
    for attribute, member in sorted(vars(value).items()):
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        is_internal = attribute.startswith("_") or attribute in arguments or issubclass(value, BaseModel)
        if not is_internal:
            yield f"    {attribute}" + (_signature(function) if inspect.isfunction(function) else "")


def _signature(function: Any) -> str:
    """The signature, without the quotes around its types and without what a constructor returns."""
    text = re.sub(r"(: |-> )(['\"])(.*?)\2", r"\1\3", str(inspect.signature(function)))
    return text.removesuffix(" -> None") if isinstance(function, type) else text


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES = {"api.md": api_page, "settings.md": settings_page, "tables.md": tables_page}


def main(folder: Path = DOCS) -> None:
    """Write all pages."""
    folder.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
