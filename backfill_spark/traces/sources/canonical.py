"""The canonical shape: which column of a source each column of TRACES is, and how it is read.

Every rule reads instants as microseconds since the epoch, so that `spark.sql.session.timeZone` changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.errors import TraceSourceError, nearest_first
from backfill_spark.models import UNREADABLE, TimeWindow
from backfill_spark.schema import DATE, REQUIRED_TRACE_COLUMNS, STRING, TEXTS, TRACES
from backfill_spark.traces.texts import json_text, unquoted

COMPUTED = "trace_date"
_DAY = 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def resolve(
    found: T.StructType,
    mapping: Mapping[str, str],
    source: str,
    is_all_null: Callable[[T.StructField], bool] = lambda _: False,
    *,
    case_sensitive: bool = True,
) -> dict[str, T.StructField]:
    """Return the source's field for each canonical column that it has (without `trace_date`, which is computed).

    `mapping` is canonical column to column of the source; other columns are found by their own name, in any case
    when only one fits. `is_all_null` is asked about optional columns of a type that cannot be read: writers give a
    column without a value any type, and one of NULLs only is read as VOID.

    Raises:
        TraceSourceError: the mapping names columns that are not there, a required column lacks, a name stands
            twice, or a type cannot be read; all such problems of one kind at once.
    """
    names = [f.name for f in found.fields]
    problems = _mapping_problems(mapping, names)
    if problems:
        raise TraceSourceError(f"traces.columns does not fit the traces at {source!r}. {' '.join(problems)}")
    fields = {}
    for name in TRACES.fieldNames():
        field = _field(found, mapping.get(name, name))
        if field is not None and name != COMPUTED:
            fields[name] = field
    missing = [name for name in REQUIRED_TRACE_COLUMNS if name not in fields]
    if missing:
        raise TraceSourceError.missing_columns(source, missing, names)
    same = str if case_sensitive else str.lower
    spelled = Counter(map(same, names))
    twice = sorted({f.name for f in fields.values() if spelled[same(f.name)] > 1})
    if twice:
        raise TraceSourceError(f"The traces at {source!r} have the columns {twice} more than once. Rename or drop one.")
    for name, field in fields.items():
        if name not in REQUIRED_TRACE_COLUMNS and not _can_read(name, field) and is_all_null(field):
            fields[name] = T.StructField(field.name, T.NullType())
    wrong = [
        f"{_spelled(name, field)} is {field.dataType.simpleString().upper()}, expected {_RULES[name].expected}"
        for name, field in fields.items()
        if not _can_read(name, field)
    ]
    if wrong:
        raise TraceSourceError(
            f"The traces at {source!r} have columns of types that cannot be read: {'; '.join(wrong)}. "
            "Cast them in the table, or name other columns with the setting traces.columns."
        )
    return fields


def _can_read(name: str, field: T.StructField) -> bool:
    is_void = isinstance(field.dataType, T.NullType) and name not in REQUIRED_TRACE_COLUMNS
    return is_void or _RULES[name].accepts(field.dataType)


def _mapping_problems(mapping: Mapping[str, str], names: Collection[str]) -> list[str]:
    known = [name for name in TRACES.fieldNames() if name != COMPUTED]
    problems = []
    for canonical, theirs in mapping.items():
        if canonical == COMPUTED:
            problems.append(f"{COMPUTED} is always computed from request_time; leave it out.")
        elif canonical not in known:
            problems.append(f"{canonical!r} is no trace column; did you mean {nearest_first(canonical, known)[0]!r}?")
        elif theirs not in names:
            nearest = nearest_first(theirs, names)[:5]
            problems.append(f"{canonical}: the column {theirs!r} is not there; the nearest are {nearest}.")
    return problems


def _field(found: T.StructType, name: str) -> T.StructField | None:
    exact = [f for f in found.fields if f.name == name]
    alike = exact or [f for f in found.fields if f.name.lower() == name.lower()]
    return alike[0] if exact or len(alike) == 1 else None


def _spelled(name: str, field: T.StructField) -> str:
    return name if name == field.name else f"{name} (their {field.name!r})"


def raw(field: T.StructField) -> Column:
    """Return the source's own column; dots in its name are part of the name."""
    quoted = field.name.replace("`", "``")
    return F.col(f"`{quoted}`")


def column(name: str, fields: Mapping[str, T.StructField]) -> Column:
    """Return a canonical column, cast to TRACES; spans and assessments stay as they are: an array, or JSON text."""
    if name == COMPUTED:
        return utc_date(column("request_time", fields)).alias(name)
    field = fields[name]
    if isinstance(field.dataType, T.NullType):
        return F.lit(None).cast(TRACES[name].dataType).alias(name)
    return _RULES[name].read(raw(field), field.dataType).alias(name)


def in_window(field: T.StructField, window: TimeWindow, *, untimed: bool) -> Column | None:
    """Return the predicate `start <= request_time < end` on the source's own column; None when all rows are in.

    It compares the bare column with literals of its own type, which is what reaches the file scan.
    """
    time = raw(field)
    bounds = []
    if window.start is not None:
        bounds.append(time >= _literal(window.start, field.dataType))
    if window.end is not None:
        bounds.append(time < _literal(window.end, field.dataType))
    if not bounds:
        return None if untimed else time.isNotNull()
    inside = bounds[0] if len(bounds) == 1 else bounds[0] & bounds[1]
    return (inside | time.isNull()) if untimed else inside


def _literal(moment: datetime, kind: T.DataType) -> Column:
    if isinstance(kind, T.TimestampNTZType):
        text = moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")
        return F.lit(text).cast(kind)
    return F.timestamp_micros(F.lit((moment - _EPOCH) // timedelta(microseconds=1)).cast("bigint"))


def of_experiment(field: T.StructField, experiment_id: str) -> Column:
    """Return the predicate: the row is of this experiment, or of none."""
    return (raw(field).cast(STRING) == F.lit(experiment_id)) | raw(field).isNull()


def utc_date(instant: Column) -> Column:
    """Return the UTC date of a TIMESTAMP, whatever the session's zone."""
    micros = F.unix_micros(instant)
    # A whole number of days divides exactly, also before 1970; a last microsecond need not.
    days = ((micros - F.pmod(micros, F.lit(_DAY))) / F.lit(_DAY)).cast("int")
    return F.date_add(F.lit("1970-01-01").cast(DATE), days)


def _as_instant(value: Column, kind: T.DataType) -> Column:
    if isinstance(kind, T.TimestampType):
        return value
    # A cast would read the wall time in the session's zone. The difference of two of them is free of it.
    epoch = F.lit("1970-01-01 00:00:00").cast(T.TimestampNTZType())
    seconds = (value - epoch).cast(T.DayTimeIntervalType(T.DayTimeIntervalType.SECOND)).cast("decimal(20,6)")
    return F.timestamp_micros((seconds * 1_000_000).cast("bigint"))


def _as_text(value: Column, kind: T.DataType) -> Column:
    if isinstance(kind, T.VariantType):
        text = json_text(value)
        return F.when(text != "null", unquoted(text))
    if isinstance(kind, T.TimestampType):
        return F.get_json_object(json_text(F.named_struct(F.lit("v"), value)), "$.v")
    return json_text(value) if isinstance(kind, _NESTED) else value.cast(STRING)


def _as_texts(value: Column, kind: T.DataType) -> Column:
    if isinstance(kind, T.MapType):
        if isinstance(kind.valueType, (*_NESTED, T.TimestampType)):
            value = F.transform_values(value, lambda _, inner: _as_text(inner, kind.valueType))
        return value.cast(TEXTS)
    text = _as_text(value, kind)
    # Python reads no single quotes either: a filter and a scorer see the same.
    found = F.from_json(unquoted(text), TEXTS.simpleString(), {"allowSingleQuotes": "false"})
    is_readable = found.isNotNull() & F.is_valid_utf8(text)
    unreadable = F.create_map(F.lit(UNREADABLE), text)
    return F.when(is_readable, found).when(F.trim(text) != "null", unreadable).cast(TEXTS)


def _as_state(value: Column, _: T.DataType) -> Column:
    # upper() would put U+FFFD where a text is no UTF-8.
    return F.when(F.is_valid_utf8(value), F.upper(value.cast(STRING))).otherwise(value.cast(STRING))


_NESTED = (T.StructType, T.MapType, T.ArrayType, T.VariantType)
_PLAIN = (T.StringType, T.NumericType, T.BooleanType)


@dataclass(frozen=True, slots=True)
class _Rule:
    expected: str
    accepts: Callable[[T.DataType], bool]
    read: Callable[[Column, T.DataType], Column]


_ID = _Rule(
    "STRING (integers are read as text)",
    lambda kind: isinstance(kind, T.StringType | T.IntegralType),
    lambda value, _: value.cast(STRING),
)
_PAYLOAD = _Rule(
    "STRING (numbers, structs, maps and arrays are read as JSON text)",
    lambda kind: isinstance(kind, (*_PLAIN, *_NESTED)),
    _as_text,
)
_MAP = _Rule(
    "MAP<STRING,STRING> or a JSON object as STRING",
    lambda kind: (
        isinstance(kind, T.StringType | T.StructType | T.VariantType)
        or (isinstance(kind, T.MapType) and isinstance(kind.keyType, _PLAIN))
    ),
    _as_texts,
)
_LIST = _Rule(
    "ARRAY<STRUCT> or a JSON list as STRING",
    lambda kind: (
        isinstance(kind, T.StringType | T.VariantType)
        or (isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.StructType))
    ),
    lambda value, kind: _as_text(value, kind) if isinstance(kind, T.VariantType) else value,
)
_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(("trace_id", "experiment_id", "client_request_id", "session_id"), _ID),
    **dict.fromkeys(("request", "response", "request_preview", "response_preview"), _PAYLOAD),
    **dict.fromkeys(("trace_metadata", "tags"), _MAP),
    **dict.fromkeys(("spans", "assessments"), _LIST),
    "request_time": _Rule(
        "TIMESTAMP or TIMESTAMP_NTZ", lambda kind: isinstance(kind, T.TimestampType | T.TimestampNTZType), _as_instant
    ),
    "execution_duration_ms": _Rule(
        "BIGINT or another number",
        lambda kind: isinstance(kind, T.NumericType),
        # One NaN or overflow must not stop the job, as a cast would in ANSI mode.
        lambda value, _: value.try_cast("bigint"),
    ),
    "state": _Rule("STRING", lambda kind: isinstance(kind, T.StringType), _as_state),
}
