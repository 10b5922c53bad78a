"""The canonical shape: a row a trace, its columns called as those of TRACES, or named by `traces.columns`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.errors import TraceSourceError
from backfill_spark.schema import REQUIRED_TRACE_COLUMNS, STRING
from backfill_spark.traces.sources.mapping import Columns, mapped
from backfill_spark.traces.sources.origin import CANONICAL, Origin, expected, of_field
from backfill_spark.traces.sources.row_source import RowSource
from backfill_spark.traces.sources.shape import Match, Shape
from backfill_spark.traces.times import unit_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from backfill_spark.traces.sources.pinned import Pinned


def resolve(
    found: T.StructType,
    columns: Columns,
    source: str,
    first: Callable[[Origin], Any] = lambda _: "",
    *,
    own: Mapping[str, Origin] | None = None,
    case_sensitive: bool = True,
) -> dict[str, Origin]:
    """Return the origin of each column of TRACES that the source has (without `trace_date`, which is computed).

    Args:
        found: The source's own columns.
        columns: The setting `traces.columns`; it wins over all else.
        source: Its name, for messages.
        first: Is asked for a column's first value that is no NULL, where its type leaves a question: an optional one
            of a type that cannot be read is VOID when it has none (writers give a column without a value any type),
            and a time that is a number has the unit that its size tells.
        own: What the source's shape makes of it; wins over columns called as those of TRACES, which are found in any
            case when only one fits.
        case_sensitive: As Spark compares names.

    Raises:
        TraceSourceError: the mapping names columns that are not there, a required column lacks, a name stands
            twice, or a type cannot be read; all at once.
    """
    chosen, wrong = mapped(columns, found)
    problems = [f"traces.columns does not fit the traces at {source!r}. {' '.join(wrong)}"] if wrong else []
    names = found.fieldNames()
    by_name = {name: of_field(f) for name in CANONICAL if (f := _field(found, name)) is not None}
    origins = {name: o for name in CANONICAL if (o := (by_name | dict(own or {}) | chosen).get(name)) is not None}
    missing = [name for name in REQUIRED_TRACE_COLUMNS if name not in origins and name not in columns]
    if missing:
        problems.append(str(TraceSourceError.missing_columns(source, missing, names)))
    same = str if case_sensitive else str.lower
    spelled = Counter(map(same, names))
    twice = sorted({o.told for o in origins.values() if spelled[same(o.told)] > 1})
    if twice:
        problems.append(f"The traces at {source!r} have the columns {twice} more than once. Rename or drop one.")
    else:
        origins = {name: _looked_at(name, origin, first) for name, origin in origins.items()}
    unread = [
        f"{_spelled(name, o)} is {o.type.simpleString().upper()}, expected {expected(name)}"
        for name, o in origins.items()
        if not o.fits(name)
    ]
    if unread:
        problems.append(
            f"The traces at {source!r} have columns of types that cannot be read: {'; '.join(unread)}. "
            "Cast them in the table, or name other columns with the setting traces.columns."
        )
    if problems:
        raise TraceSourceError(" ".join(problems))
    return origins


def _looked_at(name: str, origin: Origin, first: Callable[[Origin], Any]) -> Origin:
    if name not in REQUIRED_TRACE_COLUMNS and not origin.fits(name):
        return replace(origin, type=T.NullType()) if first(origin) is None else origin
    if name == "request_time" and not origin.unit and isinstance(origin.type, T.StringType | T.NumericType):
        unit = unit_of(first(origin))
        return replace(origin, unit=unit or ("" if isinstance(origin.type, T.StringType) else "ms"))
    return origin


def _field(found: T.StructType, name: str) -> T.StructField | None:
    exact = [f for f in found.fields if f.name == name]
    alike = exact or [f for f in found.fields if f.name.lower() == name.lower()]
    return alike[0] if exact or len(alike) == 1 else None


def _spelled(name: str, origin: Origin) -> str:
    return name if name == origin.told else f"{name} (their {origin.told!r})"


def row_source(
    pinned: Pinned, columns: Columns, shape: str, frame: DataFrame, own: Mapping[str, Origin] | None = None
) -> RowSource:
    """Return the traces of a source with a row a trace; `frame` is the pinned one, or made of it by row expressions.

    Raises:
        TraceSourceError: see `resolve`.
    """

    def first(origin: Origin) -> Any:
        found = frame.where(origin.value.isNotNull()).select(origin.value.alias("value")).head(1)
        return found[0][0] if found else None

    sensitive = frame.sparkSession.conf.get("spark.sql.caseSensitive") == "true"
    origins = resolve(frame.schema, columns, pinned.name, first, own=own, case_sensitive=sensitive)
    return RowSource(pinned, shape, origins, frame)


def with_keys(pinned: Pinned) -> DataFrame:
    """Return the rows of a source; of JSON documents their top keys as columns: texts, and JSON of what is nested."""
    if pinned.format != "json":
        return pinned.frame
    rows = pinned.frame.select(F.explode(F.json_object_keys("value")).alias("name")).distinct().collect()
    names = sorted(row["name"] for row in rows)
    kind = T.StructType([T.StructField(name, STRING) for name in names])
    folders = [name for name in pinned.schema.fieldNames() if name != "value" and name not in names]
    return pinned.frame.select(F.from_json("value", kind).alias("document"), *folders).select("document.*", *folders)


def _tells(pinned: Pinned) -> Match:
    have = {name.lower() for name in pinned.columns}
    lacks = tuple(n for n in REQUIRED_TRACE_COLUMNS if n not in have)
    # What may be absent only tells how near a table is that does not fit.
    marks = CANONICAL if lacks else REQUIRED_TRACE_COLUMNS
    return Match(tuple(n for n in marks if n in have), lacks)


def _open(pinned: Pinned, columns: Columns) -> RowSource:
    return row_source(pinned, columns, SHAPE.name, with_keys(pinned))


SHAPE = Shape("canonical", "a row a trace, with the columns of docs/tables.md", _tells, _open)
