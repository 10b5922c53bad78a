"""Origin: where a column of TRACES comes from, and how each type is read as it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.models import UNREADABLE
from backfill_spark.schema import REQUIRED_TRACE_COLUMNS, STRING, TEXTS, TRACES
from backfill_spark.traces.texts import json_text, unquoted
from backfill_spark.traces.times import as_instant

COMPUTED = "trace_date"
"""The column of TRACES that no source gives: it is made of request_time."""
CANONICAL = tuple(name for name in TRACES.fieldNames() if name != COMPUTED)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a column of TRACES is made of."""

    make: Callable[[], Column]
    type: T.DataType
    told: str
    """In words, for people: the name or path of the column, or what else it is."""
    unit: str = ""
    """Of a time that is a number: s, ms, us or ns."""

    @property
    def value(self) -> Column:
        """The value as the source has it."""
        return self.make()

    @property
    def is_void(self) -> bool:
        """True for a column that holds NULLs only."""
        return isinstance(self.type, T.NullType)

    def fits(self, name: str) -> bool:
        """True when the type can be read as the column `name` of TRACES."""
        return (self.is_void and name not in REQUIRED_TRACE_COLUMNS) or _RULES[name].accepts(self.type)

    def read(self, name: str) -> Column:
        """Return the column `name`, cast to TRACES; spans and assessments may stay JSON text, or structs of others."""
        if self.is_void:
            return F.lit(None).cast(TRACES[name].dataType).alias(name)
        return _RULES[name].read(self).alias(name)


def of_field(field: T.StructField) -> Origin:
    """Return a column of the source's own as it stands; dots in its name are part of the name."""
    quoted = field.name.replace("`", "``")
    return Origin(lambda: F.col(f"`{quoted}`"), field.dataType, field.name)


def expected(name: str) -> str:
    """Return which types can be read as a column of TRACES, in words."""
    return _RULES[name].expected


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


def _as_state(value: Column) -> Column:
    # upper() would put U+FFFD where a text is no UTF-8.
    return F.when(F.is_valid_utf8(value), F.upper(value.cast(STRING))).otherwise(value.cast(STRING))


_NESTED = (T.StructType, T.MapType, T.ArrayType, T.VariantType)
_PLAIN = (T.StringType, T.NumericType, T.BooleanType)
_TIMES = (T.TimestampType, T.TimestampNTZType, T.DateType, T.StringType, T.NumericType)


@dataclass(frozen=True, slots=True)
class _Rule:
    expected: str
    accepts: Callable[[T.DataType], bool]
    read: Callable[[Origin], Column]


_ID = _Rule(
    "STRING (integers are read as text)",
    lambda kind: isinstance(kind, T.StringType | T.IntegralType),
    lambda origin: origin.value.cast(STRING),
)
_PAYLOAD = _Rule(
    "STRING (numbers, structs, maps and arrays are read as JSON text)",
    lambda kind: isinstance(kind, (*_PLAIN, *_NESTED)),
    lambda origin: _as_text(origin.value, origin.type),
)
_MAP = _Rule(
    "MAP<STRING,STRING> or a JSON object as STRING",
    lambda kind: (
        isinstance(kind, T.StringType | T.StructType | T.VariantType)
        or (isinstance(kind, T.MapType) and isinstance(kind.keyType, _PLAIN))
    ),
    lambda origin: _as_texts(origin.value, origin.type),
)
_LIST = _Rule(
    "ARRAY<STRUCT> or a JSON list as STRING",
    lambda kind: (
        isinstance(kind, T.StringType | T.VariantType)
        or (isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.StructType))
    ),
    lambda origin: _as_text(origin.value, origin.type) if isinstance(origin.type, T.VariantType) else origin.value,
)
_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(("trace_id", "experiment_id", "client_request_id", "session_id"), _ID),
    **dict.fromkeys(("request", "response", "request_preview", "response_preview"), _PAYLOAD),
    **dict.fromkeys(("trace_metadata", "tags"), _MAP),
    **dict.fromkeys(("spans", "assessments"), _LIST),
    "request_time": _Rule(
        "TIMESTAMP, TIMESTAMP_NTZ (read as UTC), DATE, ISO 8601 text, or a number since 1970",
        lambda kind: isinstance(kind, _TIMES),
        lambda origin: as_instant(origin.value, origin.type, origin.unit),
    ),
    "execution_duration_ms": _Rule(
        "BIGINT or another number",
        lambda kind: isinstance(kind, T.NumericType | T.StringType),
        # One NaN or overflow must not stop the job, as a cast would in ANSI mode.
        lambda origin: (
            origin.value.try_cast("double").try_cast("bigint")
            if isinstance(origin.type, T.StringType)
            else origin.value.try_cast("bigint")
        ),
    ),
    "state": _Rule("STRING", lambda kind: isinstance(kind, T.StringType), lambda origin: _as_state(origin.value)),
}
