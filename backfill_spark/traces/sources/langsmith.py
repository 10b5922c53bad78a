"""Bulk exports of LangSmith: Parquet, a row a run.

Facts: LangSmith's documentation of the bulk export, 2026-11. A `session_id` is a project there, a conversation stands
in the metadata. Nothing marks an export that failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import Column
from pyspark.sql import functions as F

from backfill_spark.errors import TraceSourceError
from backfill_spark.schema import TEXTS
from backfill_spark.traces.sources.otel import as_nanoseconds, refuse_columns
from backfill_spark.traces.sources.otel_keys import span_type
from backfill_spark.traces.sources.shape import Shape, by_columns
from backfill_spark.traces.sources.span_source import (
    NAME,
    SESSION,
    USER,
    SpanRows,
    SpanSource,
    column_or_null,
    marks,
    merged,
    texts,
)

if TYPE_CHECKING:
    from backfill_spark.traces.sources.mapping import Columns
    from backfill_spark.traces.sources.pinned import Pinned

_TOLD = {
    "trace_id": "trace_id of the runs",
    "experiment_id": "session_id (the project)",
    "request_time": "start_time of the root run",
    "execution_duration_ms": "its end_time - its start_time",
    "state": "its status: success is OK, error is ERROR, pending is IN_PROGRESS",
    "request": "its inputs; {'input': x} alone is x",
    "response": "its outputs; {'output': x} alone is x",
    "session_id": "session_id, thread_id or conversation_id in extra.metadata, of any run",
    "trace_metadata": "extra.metadata; mlflow.sourceRun where it has a reference_example_id",
    "tags": "its tags (each is `true`); mlflow.traceName",
    "spans": "the runs",
}
_SESSION = ("session_id", "thread_id", "conversation_id")


def _open(pinned: Pinned, columns: Columns) -> SpanSource:
    refuse_columns(pinned, columns)
    schema = pinned.schema
    if not {"inputs", "outputs"}.intersection(schema.names):
        raise TraceSourceError(
            f"The LangSmith export at {pinned.name!r} has no columns inputs and outputs, so nothing can be scored. "
            "Export again without export_fields, or with these two among them."
        )

    def text(name: str) -> Column:
        return column_or_null(schema, name)

    start, end = (as_nanoseconds(F.col(n), schema[n].dataType) for n in ("start_time", "end_time"))
    status = F.lower(text("status"))
    extra = F.from_json(F.get_json_object(text("extra"), "$.metadata"), TEXTS.simpleString())
    session = F.coalesce(*(extra[key] for key in _SESSION))
    example = text("reference_example_id")
    known = texts({SESSION: session, USER: extra["user_id"], "mlflow.sourceRun": example})
    counts = {name: text(name) for name in ("error", "total_tokens", "prompt_tokens", "completion_tokens")}
    is_root = text("parent_run_id").isNull()
    fields = {
        "trace_id": text("trace_id"),
        "span_id": text("id"),
        "parent_id": text("parent_run_id"),
        "name": text("name"),
        "span_type": span_type(text("run_type")),
        "start_ns": start,
        "end_ns": end,
        "status_code": F.when(status == "error", "ERROR").when(status == "success", "OK").otherwise("UNSET"),
        "inputs": _unwrapped(text("inputs"), "input"),
        "outputs": _unwrapped(text("outputs"), "output"),
        "attributes": texts({"mlflow.llm.model": extra["ls_model_name"], **counts}),
        "experiment_id": text("session_id"),
        "state": F.when(status == "error", "ERROR").when(status == "pending", "IN_PROGRESS").otherwise("OK"),
        "session_id": session,
        "metadata": merged(extra, known),
        "tags": F.when(is_root, merged(marks(text("tags")), texts({NAME: text("name")}))),
        # A run that a later export has again may have ended meanwhile.
        "version": F.struct(F.col("end_time").isNotNull(), (status != "pending"), text("export_id")),
    }
    return SpanSource(pinned, "langsmith", SpanRows(pinned.frame, fields, _TOLD, time="start_time"))


def _unwrapped(text: Column, key: str) -> Column:
    """Of a value that is no dict, the SDK makes one with the key `input` or `output`."""
    is_wrapped = F.json_object_keys(text) == F.array(F.lit(key))
    return F.when(is_wrapped, F.get_json_object(text, f"$.{key}")).otherwise(text)


SHAPE = Shape(
    "langsmith",
    "a bulk export of LangSmith, with a row a run",
    lambda pinned: by_columns(
        pinned, "id", "trace_id", "parent_run_id", "run_type", "dotted_order", "start_time", "end_time"
    ),
    _open,
)
