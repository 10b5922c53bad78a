"""Spans of OpenTelemetry: OTLP in JSON, ClickHouse's table, and what Databricks' two versions have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.errors import TraceSourceError
from backfill_spark.schema import BIGINT, STRING, TEXTS
from backfill_spark.traces.sources import otlp_json
from backfill_spark.traces.sources.lists import hex_id
from backfill_spark.traces.sources.otel_keys import (
    IS_PAYLOAD,
    SESSION_KEYS,
    TYPE_KEYS,
    USER_KEYS,
    first_text,
    is_model,
    span_type,
    with_inputs_and_outputs,
)
from backfill_spark.traces.sources.shape import Shape, by_columns
from backfill_spark.traces.sources.span_source import NAME, SESSION, USER, SpanRows, SpanSource, parent
from backfill_spark.traces.texts import unquoted
from backfill_spark.traces.times import as_instant

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

    from backfill_spark.traces.sources.mapping import Columns
    from backfill_spark.traces.sources.pinned import Pinned

TOLD = {
    "trace_id": "the trace id of the spans, in hex digits",
    "request_time": "start of the root span, or of the earliest span where there is no root",
    "execution_duration_ms": "end of the root span - its start",
    "state": "ERROR where the root span's status is an error, else OK",
    "request": "what the root span was given, by the keys of its instrumentation; "
    "where it has none: the first span of a model or agent",
    "response": "what the root span gave, likewise; where it has none: the last span of a model or agent",
    "session_id": "session.id, gen_ai.conversation.id and the like, of any span",
    "trace_metadata": "attributes of the root span, without texts; mlflow.trace.session, mlflow.trace.user",
    "tags": "attributes of the resource; mlflow.traceName",
    "spans": "the spans",
}
EVENTS = "array<struct<name: string, attributes: map<string, string>>>"


def otel_rows(
    frame: DataFrame,
    names: Mapping[str, Column],
    *,
    time: str,
    unit: str = "",
    told: Mapping[str, str] = TOLD,
) -> SpanRows:
    """Return how spans of OpenTelemetry are read.

    `names` has trace_id (hex digits, base64, or what is no id), span_id, parent_id, name, start_ns, end_ns, status,
    attributes and resource (maps of texts), events (EVENTS), or NULL; also key, where it is not the trace_id.
    """
    # Columns of their own, or Spark would work them out again at each use.
    frame = frame.withColumns({"_attributes": names["attributes"].cast(TEXTS), "_events": names["events"].cast(EVENTS)})
    attributes = F.col("_attributes")
    told_keys = {"_type": TYPE_KEYS, "_session": SESSION_KEYS, "_user": USER_KEYS}
    frame = frame.withColumns({name: first_text(attributes, keys) for name, keys in told_keys.items()})
    frame = with_inputs_and_outputs(frame)
    code = F.upper(names["status"].cast(STRING))
    status = F.when(code.isin("2", "ERROR", "STATUS_CODE_ERROR"), "ERROR")
    status = status.when(code.isin("1", "OK", "STATUS_CODE_OK"), "OK").otherwise("UNSET")
    above = parent(names["parent_id"])
    plain = F.map_filter(attributes, lambda key, _: ~key.rlike(IS_PAYLOAD))
    of_root = above.isNull()
    fields = {
        **{name: names[name] for name in ("trace_id", "key", "span_id", "name") if name in names},
        "parent_id": above,
        "start_ns": nanoseconds(names["start_ns"]),
        "end_ns": nanoseconds(names["end_ns"]),
        "status_code": status,
        "span_type": span_type(F.col("_type")),
        "inputs": F.col("_inputs"),
        "outputs": F.col("_outputs"),
        "stands_in": of_root | is_model(F.col("_type")),
        "attributes": attributes,
        # MLflow writes each attribute as JSON text.
        "session_id": unquoted(F.col("_session")),
        "user_id": unquoted(F.col("_user")),
        "root_name": F.when(of_root, names["name"]),
        # Only of roots, which become heads.
        "metadata": F.when(of_root, plain),
        "tags": names["resource"].cast(TEXTS),
    }
    added = {"trace_metadata": {SESSION: "session_id", USER: "user_id"}, "tags": {NAME: "root_name"}}
    return SpanRows(
        frame,
        fields,
        told,
        time=time,
        unit=unit,
        of_head=added,
        trace_id=trace_id_of,
        one={"metadata": lambda key: F.when(of_root, attributes[key])},
    )


def nanoseconds(value: Column) -> Column:
    """Return BIGINT nanoseconds, NULL for 0: protocols that leave out zeros cannot tell it from no time."""
    number = value.try_cast(BIGINT)
    return F.when(number != 0, number)


def trace_id_of(value: Column) -> Column:
    """Return a trace id as 32 hex digits, of such or of base64; NULL for all else, and for zeros."""
    of_base64 = F.when(value.rlike("^[A-Za-z0-9+/]{22}==$"), F.lower(F.hex(F.unbase64(value))))
    found = F.when(value.rlike("^[0-9A-Fa-f]{32}$"), F.lower(value)).otherwise(of_base64)
    return F.when(found != "0" * 32, found)


def as_nanoseconds(value: Column, kind: T.DataType) -> Column:
    """Return BIGINT nanoseconds of a time: TIMESTAMP, a wall time in UTC, or nanoseconds as they are."""
    return value.cast(BIGINT) if isinstance(kind, T.IntegralType) else F.unix_micros(as_instant(value, kind)) * 1000


def refuse_columns(pinned: Pinned, columns: Columns) -> None:
    """Refuse the setting traces.columns, which names columns of rows that are traces."""
    if columns:
        raise TraceSourceError(
            f"traces.columns does not fit the traces at {pinned.name!r}, whose rows are spans: their columns are "
            "known. Leave it out, or set traces.shape to canonical for a table with a row a trace."
        )


def _open_otlp_json(pinned: Pinned, columns: Columns) -> SpanSource:
    refuse_columns(pinned, columns)
    from pyspark.sql.pandas.types import from_arrow_schema

    rows = pinned.frame.select("value").mapInArrow(otlp_json.batches_of, from_arrow_schema(otlp_json.ROWS))
    names = {
        **{name: F.col(name) for name in ("key", "trace_id", "span_id", "name", "status", "attributes", "resource")},
        "events": F.col("events"),
        "parent_id": F.col("parent_span_id"),
        "start_ns": F.col("start_time_unix_nano"),
        "end_ns": F.col("end_time_unix_nano"),
    }
    return SpanSource(pinned, "otlp_json", otel_rows(rows, names, time="start_time_unix_nano", unit="ns"))


def _open_clickhouse(pinned: Pinned, columns: Columns) -> SpanSource:
    refuse_columns(pinned, columns)
    schema = pinned.schema
    # Strings come as bytes from a server whose output_format_parquet_string_as_string is off.
    trace_id, span_id, name = (F.col(n).cast(STRING) for n in ("TraceId", "SpanId", "SpanName"))
    start = as_nanoseconds(F.col("Timestamp"), schema["Timestamp"].dataType)
    names = {
        "trace_id": trace_id,
        "span_id": hex_id(span_id),
        "parent_id": hex_id(F.col("ParentSpanId").cast(STRING)),
        "name": name,
        "start_ns": start,
        "end_ns": start + F.col("Duration").cast(BIGINT),
        "status": F.col("StatusCode").cast(STRING),
        "attributes": F.col("SpanAttributes"),
        "resource": F.col("ResourceAttributes") if "ResourceAttributes" in schema.names else F.lit(None),
        "events": _clickhouse_events(schema),
    }
    unit = "ns" if isinstance(schema["Timestamp"].dataType, T.LongType) else ""
    return SpanSource(pinned, "clickhouse_otel", otel_rows(pinned.frame, names, time="Timestamp", unit=unit))


def _clickhouse_events(schema: StructType) -> Column:
    """Of a nested column ClickHouse makes one list a field."""
    if not {"Events.Name", "Events.Attributes"} <= set(schema.names):
        return F.lit(None)
    pairs = F.arrays_zip(F.col("`Events.Name`").alias("name"), F.col("`Events.Attributes`").alias("attributes"))
    return F.transform(pairs, lambda pair: F.struct(pair["name"].alias("name"), pair["attributes"].alias("attributes")))


OTLP_JSON = Shape(
    "otlp_json",
    "spans of OpenTelemetry in JSON, as the collector's file exporter writes them",
    lambda pinned: by_columns(pinned, "resourceSpans"),
    _open_otlp_json,
)
CLICKHOUSE = Shape(
    "clickhouse_otel",
    "the table otel_traces of the collector's ClickHouse exporter, as Parquet",
    lambda pinned: by_columns(
        pinned, "TraceId", "SpanId", "ParentSpanId", "SpanName", "Timestamp", "Duration", "StatusCode", "SpanAttributes"
    ),
    _open_clickhouse,
)
