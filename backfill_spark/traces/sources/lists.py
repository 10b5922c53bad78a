"""Spans and assessments as the arrays of TRACES, of whatever structs or JSON lists a source has them."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.schema import BIGINT, SPAN, STRING, TEXTS, TIMESTAMP, TRACE_ASSESSMENT
from backfill_spark.traces.texts import json_text, unquoted
from backfill_spark.traces.times import as_instant

_NO_PARENT = ("", "0" * 16)
_STATUS = {"0": "UNSET", "1": "OK", "2": "ERROR"}
# All names that MLflow, Databricks and OpenTelemetry have for them; values as texts, or JSON of what is nested.
_ANY_SPAN = (
    "array<struct<span_id: string, context: struct<span_id: string>, parent_id: string, parent_span_id: string,"
    " name: string, span_type: string, start_time_ns: string, start_time_unix_nano: string, start_time: string,"
    " end_time_ns: string, end_time_unix_nano: string, end_time: string, status_code: string, status: string,"
    " inputs: string, outputs: string, attributes: string>>"
)
_ANY_ASSESSMENT = (
    "array<struct<assessment_id: string, trace_id: string, assessment_name: string, name: string,"
    " source: struct<source_id: string, source_type: string>, create_time: string, last_update_time: string,"
    " expectation: struct<value: string, serialized_value:"
    " struct<serialization_format: string, value: string, stack_trace: string>>, feedback: struct<value: string,"
    " error: struct<error_code: string, error_message: string, stack_trace: string>>, rationale: string,"
    " metadata: map<string, string>, span_id: string, overrides: string, valid: string>>"
)


def as_spans(column: Column, kind: T.DataType) -> Column:
    """Return ARRAY<SPAN>; NULL where a text is no JSON list."""
    return F.transform(_items(column, kind, _ANY_SPAN), _span).cast(T.ArrayType(SPAN))


def as_assessments(column: Column, kind: T.DataType) -> Column:
    """Return ARRAY<TRACE_ASSESSMENT>; NULL where a text is no JSON list."""
    return F.transform(_items(column, kind, _ANY_ASSESSMENT), _assessment).cast(T.ArrayType(TRACE_ASSESSMENT))


def _items(column: Column, kind: T.DataType, schema: str) -> Column:
    text = unquoted(column) if isinstance(kind, T.StringType) else json_text(column)
    return F.from_json(text, schema)


def _span(span: Column) -> Column:
    attributes = F.from_json(span["attributes"], TEXTS.simpleString())
    status = F.coalesce(
        span["status_code"],
        F.get_json_object(span["status"], "$.code"),
        F.get_json_object(span["status"], "$.status_code"),
        span["status"],
        F.lit("UNSET"),
    )
    status = F.regexp_replace(status, "^STATUS_CODE_", "")
    for number, word in _STATUS.items():
        status = F.when(status == number, word).otherwise(status)
    parent = hex_id(F.coalesce(span["parent_id"], span["parent_span_id"]))
    kinds = [unquoted(F.try_element_at(attributes, F.lit(k))) for k in ("mlflow.spanType", "openinference.span.kind")]
    made = {
        "span_id": hex_id(F.coalesce(span["span_id"], span["context"]["span_id"])),
        "parent_id": F.when(~parent.isin(*_NO_PARENT), parent),
        "name": span["name"],
        "span_type": F.coalesce(span["span_type"], *kinds),
        **{f"{which}_time_ns": _nanos(span, which) for which in ("start", "end")},
        "status_code": status,
        "inputs": F.coalesce(span["inputs"], unquoted(F.try_element_at(attributes, F.lit("mlflow.spanInputs")))),
        "outputs": F.coalesce(span["outputs"], unquoted(F.try_element_at(attributes, F.lit("mlflow.spanOutputs")))),
        "attributes": attributes,
    }
    return F.struct(*(made[name].cast(SPAN[name].dataType).alias(name) for name in SPAN.fieldNames()))


def hex_id(value: Column) -> Column:
    """Return an id of 8 bytes as hex digits: MLflow writes base64 (V3) or 0x… (V2); others stay as they are."""
    of_base64 = F.lower(F.hex(F.unbase64(value)))
    of_number = F.lpad(F.substring(value, 3, 16), 16, "0")
    return (
        F.when(value.rlike("^[A-Za-z0-9+/]{11}=$"), of_base64).when(value.startswith("0x"), of_number).otherwise(value)
    )


def _nanos(span: Column, which: str) -> Column:
    told = F.coalesce(span[f"{which}_time_ns"], span[f"{which}_time_unix_nano"], span[f"{which}_time"])
    return F.coalesce(told.try_cast(BIGINT), F.unix_micros(as_instant(told, STRING)) * 1000)


def _assessment(one: Column) -> Column:
    made = {name: one[name] for name in TRACE_ASSESSMENT.fieldNames()}
    made["assessment_name"] = F.coalesce(one["assessment_name"], one["name"])
    for name in ("create_time", "last_update_time"):
        of_number = as_instant(one[name], STRING, "ms")
        made[name] = F.coalesce(of_number, as_instant(one[name], STRING)).cast(TIMESTAMP)
    return F.struct(*(value.alias(name) for name, value in made.items()))
