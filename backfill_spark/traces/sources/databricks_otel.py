"""Spans in Databricks Unity Catalog: tables `<prefix>_otel_spans` of version 2 and version 1.

What is no span lies beside them: in `_otel_annotations` (version 2), as events in `_otel_logs` (version 1). Both are
append-only: of the rows about one thing the latest counts, and may say that it is deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.models import TimeWindow
from backfill_spark.schema import STRING, TEXTS, TIMESTAMP, TRACE_ASSESSMENT
from backfill_spark.traces.sources.otel import EVENTS, TOLD, otel_rows, refuse_columns
from backfill_spark.traces.sources.shape import Shape, by_columns
from backfill_spark.traces.sources.span_source import SpanSource
from backfill_spark.traces.texts import unquoted
from backfill_spark.traces.times import as_instant, in_window

if TYPE_CHECKING:
    from backfill_spark.traces.sources.mapping import Columns
    from backfill_spark.traces.sources.pinned import Pinned

_ASIDE = {
    "client_request_id": "as MLflow recorded it",
    "request_preview": "as MLflow recorded it",
    "response_preview": "as MLflow recorded it",
    "trace_metadata": "MLflow's metadata",
    "tags": "MLflow's tags",
    "assessments": "feedback and expectations",
}
_KINDS = {"tags": ("TAG",), "assessments": ("FEEDBACK", "EXPECTATION")}
_OF_EVENT = {"genai.trace.metadata": "METADATA", "genai.trace.tag": "TAG"}
_SNAPSHOT = "genai.assessments.snapshot"
_ERROR = ("error_code", "error_message", "stack_trace")
_SERIALIZED = ("serialization_format", "value", "stack_trace")
_OWN_KEYS = r"^mlflow\.(source\.source_(type|id)|span_id|error\.|overrides$|valid$|expectation\.serialization_format$)"


def _open(
    pinned: Pinned, columns: Columns, *, shape: str, beside: str, read: Callable[[DataFrame, TimeWindow], DataFrame]
) -> SpanSource:
    refuse_columns(pinned, columns)
    schema = pinned.schema
    trace_id = F.col("trace_id").cast(STRING)
    names = {
        "trace_id": trace_id,
        "span_id": F.col("span_id"),
        "parent_id": F.col("parent_span_id"),
        "name": F.col("name"),
        "start_ns": F.col("start_time_unix_nano"),
        "end_ns": F.col("end_time_unix_nano"),
        "status": F.col("status")["code"],
        "attributes": _texts(F.col("attributes"), schema["attributes"].dataType),
        "resource": _texts(
            F.col("resource")["attributes"], cast("T.StructType", schema["resource"].dataType)["attributes"].dataType
        ),
        "events": _events(schema),
    }
    time, unit = ("time", "") if "time" in schema.names else ("start_time_unix_nano", "ns")
    rows = otel_rows(pinned.frame, names, time=time, unit=unit)
    table = pinned.beside("_otel_spans", beside)
    if table is None:
        return SpanSource(pinned, shape, rows)
    told = {name: f"{text}, in {beside.lstrip('_')}" for name, text in _ASIDE.items()}
    told = {name: "; ".join(filter(None, (TOLD.get(name), text))) for name, text in told.items()}
    rows = replace(
        rows,
        told={**TOLD, **told},
        aside=lambda asked, scanned: _per_trace(read(table, scanned), asked),
        aside_columns=frozenset(_ASIDE),
    )
    return SpanSource(pinned, shape, rows)


def _texts(value: Column, kind: T.DataType) -> Column:
    if isinstance(kind, T.VariantType):
        return F.call_function("try_variant_get", value, F.lit("$"), F.lit("map<string,string>"))
    return F.from_json(value, TEXTS.simpleString()) if isinstance(kind, T.StringType) else value


def _text(value: Column) -> Column:
    return F.call_function("try_variant_get", value, F.lit("$"), F.lit("string"))


def _events(schema: T.StructType) -> Column:
    if "events" not in schema.names:
        return F.lit(None)
    kind = cast("T.StructType", cast("T.ArrayType", schema["events"].dataType).elementType)["attributes"].dataType
    return F.transform(
        F.col("events"),
        lambda event: F.struct(event["name"].alias("name"), _texts(event["attributes"], kind).alias("attributes")),
    ).cast(EVENTS)


def _per_trace(rows: DataFrame, asked: frozenset[str]) -> DataFrame:
    """Return what `rows` say of each trace: trace_id and the columns of `asked`.

    `rows`: trace_id, kind, thing (what the row is about), at, is_deleted, value, info (a struct, of METADATA), and
    assessment.
    """
    kinds = {kind for column in asked for kind in _KINDS.get(column, ("METADATA",))}
    newest = (
        rows.where(F.col("kind").isin(*sorted(kinds)))
        .groupBy("trace_id", "kind", "thing")
        .agg(F.max_by(F.struct("is_deleted", "value", "info", "assessment"), "at").alias("_row"))
        .where(~F.col("_row")["is_deleted"])
        .select("trace_id", "kind", "thing", "_row.*")
    )
    is_tag = F.col("kind") == "TAG"
    info = F.max_by("info", F.when(F.col("kind") == "METADATA", F.lit(1)))
    made = {
        "tags": F.map_from_entries(F.collect_list(F.when(is_tag, F.struct("thing", "value")))),
        "assessments": F.array_sort(F.collect_list("assessment"), _by_time),
        **{name: info[name] for name in ("client_request_id", "request_preview", "response_preview", "trace_metadata")},
    }
    return newest.groupBy("trace_id").agg(*(made[name].alias(name) for name in sorted(asked)))


def _by_time(one: Column, other: Column) -> Column:
    a, b = (F.struct(entry["create_time"], entry["assessment_id"]) for entry in (one, other))
    return F.when(a < b, -1).when(a > b, 1).otherwise(0)


def _annotations(table: DataFrame, scanned: TimeWindow) -> DataFrame:
    # Nothing is said of a trace before it began.
    since = in_window(F.col("created_at"), TIMESTAMP, TimeWindow(scanned.start, None), untimed=True)
    rows = table.where(F.upper("target_type") == "TRACE")
    rows = rows if since is None else rows.where(since)
    kind, metadata = F.upper("annotation_type"), _texts(F.col("metadata"), table.schema["metadata"].dataType)
    told = _text(F.col("value"))
    error = F.struct(*(_under(metadata, f"mlflow.error.{n}", n) for n in _ERROR))
    serialized = F.struct(
        _under(metadata, "mlflow.expectation.serialization_format", "serialization_format"),
        told.alias("value"),
        F.lit(None).cast(STRING).alias("stack_trace"),
    )
    encoding = metadata["mlflow.expectation.serialization_format"]
    assessment = {
        "assessment_id": F.col("annotation_id"),
        "trace_id": F.col("target_id"),
        "assessment_name": F.col("name"),
        "source": F.struct(*(_under(metadata, f"mlflow.source.{n}", n) for n in ("source_id", "source_type"))),
        "create_time": F.col("created_at"),
        "last_update_time": F.coalesce("updated_at", "created_at"),
        "expectation": F.when(
            kind == "EXPECTATION",
            F.struct(
                F.when(encoding.isNull(), told).alias("value"),
                F.when(encoding.isNotNull(), serialized).alias("serialized_value"),
            ),
        ),
        "feedback": F.when(
            kind == "FEEDBACK",
            F.struct(told.alias("value"), F.when(_has_any(error, *_ERROR), error).alias("error")),
        ),
        "rationale": F.col("comment"),
        "metadata": F.map_filter(metadata, lambda key, _: ~key.rlike(_OWN_KEYS)),
        **{name: metadata[f"mlflow.{name}"] for name in ("span_id", "overrides", "valid")},
    }
    value = F.col("value")
    previews = ("client_request_id", "request_preview", "response_preview")
    info = F.struct(
        *(F.call_function("try_variant_get", value, F.lit(f"$.{n}"), F.lit("string")).alias(n) for n in previews),
        F.call_function("try_variant_get", value, F.lit("$.trace_metadata"), F.lit("map<string,string>")).alias(
            "trace_metadata"
        ),
    )
    return rows.select(
        F.col("target_id").alias("trace_id"),
        kind.alias("kind"),
        F.when(kind.isin("TAG", "METADATA"), F.col("name")).otherwise(F.col("annotation_id")).alias("thing"),
        F.greatest("created_at", "updated_at", "deleted_at").alias("at"),
        F.col("deleted_at").isNotNull().alias("is_deleted"),
        told.alias("value"),
        info.alias("info"),
        _assessment(assessment, kind.isin("FEEDBACK", "EXPECTATION")),
    )


def _logs(table: DataFrame, scanned: TimeWindow) -> DataFrame:
    since = in_window(F.col("time_unix_nano"), T.LongType(), TimeWindow(scanned.start, None), unit="ns", untimed=True)
    rows = table.where(F.col("event_name").isin(*_OF_EVENT, _SNAPSHOT))
    rows = rows if since is None else rows.where(since)
    said = F.col("attributes")
    of_event = F.create_map(*(F.lit(text) for pair in _OF_EVENT.items() for text in pair))
    kind = F.coalesce(F.element_at(of_event, F.col("event_name")), F.upper(said["kind"]))
    error = F.struct(*(_under(said, f"feedback.error.{n}", n) for n in _ERROR))
    serialized = F.struct(*(_under(said, f"expectation.serialized_value.{n}", n) for n in _SERIALIZED))
    assessment = {
        **{name: said[name] for name in ("assessment_id", "assessment_name", "rationale", "span_id")},
        **{name: said[name] for name in ("overrides", "valid")},
        "trace_id": F.col("trace_id"),
        "source": F.struct(*(_under(said, f"source.{n}", n) for n in ("source_id", "source_type"))),
        **{name: as_instant(said[name], STRING, "ms") for name in ("create_time", "last_update_time")},
        "expectation": F.when(
            kind == "EXPECTATION",
            F.struct(
                unquoted(said["expectation.value"]).alias("value"),
                F.when(_has_any(serialized, *_SERIALIZED), serialized).alias("serialized_value"),
            ),
        ),
        "feedback": F.when(
            kind == "FEEDBACK",
            F.struct(
                unquoted(said["feedback.value"]).alias("value"), F.when(_has_any(error, *_ERROR), error).alias("error")
            ),
        ),
        "metadata": F.transform_keys(
            F.map_filter(said, lambda key, _: key.startswith("metadata.")),
            lambda key, _: F.substr(key, F.lit(len("metadata.") + 1)),
        ),
    }
    info = F.struct(
        *(said[name].alias(name) for name in ("client_request_id", "request_preview", "response_preview")),
        F.from_json(said["trace_metadata"], TEXTS.simpleString()).alias("trace_metadata"),
    )
    return rows.select(
        F.col("trace_id"),
        kind.alias("kind"),
        F.coalesce(said["key"], said["assessment_id"], F.lit("")).alias("thing"),
        F.col("time_unix_nano").alias("at"),
        (F.coalesce(F.lower(said["deleted"]), F.lit("")) == "true").alias("is_deleted"),
        said["value"].alias("value"),
        info.alias("info"),
        _assessment(assessment, kind.isin("FEEDBACK", "EXPECTATION")),
    )


def _assessment(made: dict[str, Column], is_one: Column) -> Column:
    fields = (made[f.name].cast(f.dataType).alias(f.name) for f in TRACE_ASSESSMENT.fields)
    return F.when(is_one, F.struct(*fields)).alias("assessment")


def _under(values: Column, key: str, name: str) -> Column:
    return values[key].alias(name)


def _has_any(fields: Column, *names: str) -> Column:
    return F.coalesce(*(fields[name] for name in names)).isNotNull()


V2 = Shape(
    "databricks_otel_v2",
    "spans of MLflow in Databricks Unity Catalog (<prefix>_otel_spans, version 2)",
    lambda pinned: by_columns(
        pinned, "trace_id", "span_id", "parent_span_id", "start_time_unix_nano", "attributes", "resource", "time"
    ),
    partial(_open, shape="databricks_otel_v2", beside="_otel_annotations", read=_annotations),
)
V1 = Shape(
    "databricks_otel_v1",
    "spans of MLflow in Databricks Unity Catalog (…_otel_spans, version 1)",
    lambda pinned: by_columns(
        pinned, "trace_id", "span_id", "parent_span_id", "start_time_unix_nano", "attributes", "resource"
    ),
    partial(_open, shape="databricks_otel_v1", beside="_otel_logs", read=_logs),
)
