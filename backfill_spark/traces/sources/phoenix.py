"""Spans of Phoenix, as its client's data frame saves them to Parquet: a column an attribute, times in nanoseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

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

_PREFIX = "attributes."
_IN, _OUT = f"{_PREFIX}input.value", f"{_PREFIX}output.value"
_TOLD = {
    "trace_id": "context.trace_id",
    "request_time": "start_time of the root span (without a parent_id)",
    "execution_duration_ms": "its end_time - its start_time",
    "state": "ERROR where its status_code is ERROR, else OK",
    "request": "its attributes.input.value",
    "response": "its attributes.output.value",
    "session_id": "attributes.session.id of any span",
    "trace_metadata": "its attributes.metadata; mlflow.trace.session, mlflow.trace.user",
    "tags": "its attributes.tag.tags (each is `true`); mlflow.traceName",
    "spans": "the spans",
}


def _open(pinned: Pinned, columns: Columns) -> SpanSource:
    refuse_columns(pinned, columns)
    schema = pinned.schema
    if not {_IN, _OUT}.intersection(schema.names):
        raise TraceSourceError(
            f"The Phoenix spans at {pinned.name!r} have no columns {_IN} and {_OUT}, so nothing can be scored. "
            "Take the frame of all spans: client.spans.get_spans_dataframe(project_identifier=…)."
        )

    def text(name: str) -> Column:
        return column_or_null(schema, name)

    start, end = (as_nanoseconds(F.col(n), schema[n].dataType) for n in ("start_time", "end_time"))
    session, user = text(f"{_PREFIX}session.id"), text(f"{_PREFIX}user.id")
    known = texts({SESSION: session, USER: user})
    names = [n for n in schema.names if n.startswith(_PREFIX) and n not in (_IN, _OUT)]
    fields = {
        "trace_id": text("context.trace_id"),
        "span_id": text("context.span_id"),
        "parent_id": text("parent_id"),
        "name": text("name"),
        "span_type": span_type(text("span_kind")),
        "start_ns": start,
        "end_ns": end,
        "status_code": F.upper(text("status_code")),
        "inputs": text(_IN),
        "outputs": text(_OUT),
        "attributes": texts({n.removeprefix(_PREFIX): text(n) for n in names}),
        "session_id": session,
        "metadata": merged(F.from_json(text(f"{_PREFIX}metadata"), TEXTS.simpleString()), known),
        "tags": merged(marks(text(f"{_PREFIX}tag.tags")), texts({NAME: text("name")})),
    }
    # Evaluations are saved beside the spans.
    is_beside = [name for name in pinned.names if not _has_spans(name)]
    frame = pinned.of_files(_has_spans) if is_beside else pinned.frame
    unit = "ns" if isinstance(schema["start_time"].dataType, T.LongType) else ""
    return SpanSource(pinned, "phoenix", SpanRows(frame, fields, _TOLD, time="start_time", unit=unit))


def _has_spans(name: str) -> bool:
    return not name.rsplit("/", 1)[-1].startswith("evaluations-")


SHAPE = Shape(
    "phoenix",
    "spans of Phoenix, as its client's data frame is saved to Parquet",
    lambda pinned: by_columns(
        pinned, "context.trace_id", "context.span_id", "parent_id", "start_time", "end_time", "span_kind"
    ),
    _open,
)
