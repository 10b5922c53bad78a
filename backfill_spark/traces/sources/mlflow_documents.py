"""MLflow's own documents: `Trace.to_json()` lines, and saved frames of `mlflow.search_traces()`.

A frame's column `trace` holds the whole trace as a document. Where it is there, only it counts: of the other columns
CSV has Python's spelling, and Parquet a struct of all keys.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pyspark.sql import Column
from pyspark.sql import functions as F

from backfill_spark.errors import TraceSourceError
from backfill_spark.models import INCOMPLETE
from backfill_spark.schema import STRING, TIMESTAMP
from backfill_spark.traces.sources.canonical import row_source, with_keys
from backfill_spark.traces.sources.origin import Origin, of_field
from backfill_spark.traces.sources.shape import Match, Shape, by_columns
from backfill_spark.traces.sources.span_source import column_or_null
from backfill_spark.traces.texts import unquoted
from backfill_spark.traces.times import as_instant

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

    from backfill_spark.traces.sources.mapping import Columns
    from backfill_spark.traces.sources.pinned import Pinned
    from backfill_spark.traces.sources.row_source import RowSource

_DOCUMENT = (
    "struct<info: struct<trace_id: string, request_id: string, client_request_id: string, experiment_id: string,"
    " trace_location: struct<mlflow_experiment: struct<experiment_id: string>>, request_time: string,"
    " timestamp_ms: string, execution_duration: string, execution_duration_ms: string, execution_time_ms: string,"
    " state: string, status: string, request_preview: string, response_preview: string, trace_metadata: string,"
    " request_metadata: string, tags: string, assessments: string>,"
    " data: struct<spans: string>>"
)
_PLACE = "mlflow.trace.spansLocation"
_UNREAD = "INCOMPLETE where its file of spans was not read"
_ROOTS = "array<struct<parent_id: string, parent_span_id: string, attributes: map<string, string>>>"


def _tells_documents(pinned: Pinned) -> Match:
    if pinned.format == "json":
        match = by_columns(pinned, "info", "data")
        if match.has:
            return match
    if "trace" not in pinned.columns:
        return Match((), ("info", "data")) if pinned.format == "json" else Match((), ("trace",))
    first = _whole(pinned).where("document IS NOT NULL").head(1)
    is_document = bool(first) and first[0]["document"].lstrip().startswith('{"info"')
    return Match(("trace",)) if is_document else Match(("trace",), ("a trace in MLflow's JSON in the column trace",))


def _whole(pinned: Pinned) -> DataFrame:
    """Return the documents, a row each."""
    if pinned.format != "json":
        return pinned.frame.select(F.col("trace").cast("string").alias("document"))
    whole = F.coalesce(F.get_json_object("value", "$.trace"), F.col("value"))
    return pinned.frame.select(whole.alias("document"))


def _open_documents(pinned: Pinned, columns: Columns) -> RowSource:
    parsed = _whole(pinned).select(F.from_json("document", _DOCUMENT).alias("document")).select("document.*")
    return row_source(pinned, columns, DOCUMENTS.name, parsed, _of_document())


def _of_document() -> dict[str, Origin]:
    metadata = _first_of("trace_metadata", "request_metadata")
    return {
        "trace_id": _info("trace_id", "request_id"),
        "experiment_id": Origin(_experiment, STRING, "info.trace_location, or info.experiment_id"),
        "request_time": Origin(_started, TIMESTAMP, "info.request_time, or info.timestamp_ms"),
        "execution_duration_ms": Origin(_took, STRING, "info.execution_duration_ms, or its older names"),
        "state": Origin(_state, STRING, f"info.state, or info.status; {_UNREAD}"),
        "request": Origin(partial(_of_root, "mlflow.spanInputs"), STRING, "mlflow.spanInputs of the root span"),
        "response": Origin(partial(_of_root, "mlflow.spanOutputs"), STRING, "mlflow.spanOutputs of the root span"),
        "request_preview": _info("request_preview"),
        "response_preview": _info("response_preview"),
        "client_request_id": _info("client_request_id"),
        "session_id": Origin(
            lambda: F.get_json_object(metadata(), "$['mlflow.trace.session']"),
            STRING,
            "mlflow.trace.session of the metadata",
        ),
        "trace_metadata": _info("trace_metadata", "request_metadata"),
        "tags": _info("tags"),
        "spans": Origin(lambda: F.col("data.spans"), STRING, "data.spans"),
        "assessments": _info("assessments"),
    }


def _info(*names: str) -> Origin:
    """The part of `info` that MLflow calls so, or has called so."""
    make = _first_of(*names)
    return Origin(make, STRING, ", or ".join(f"info.{name}" for name in names))


def _first_of(*names: str) -> partial[Column]:
    return partial(_coalesced, names)


def _coalesced(names: tuple[str, ...]) -> Column:
    return F.coalesce(*(F.col(f"info.{name}") for name in names))


def _experiment() -> Column:
    return F.coalesce(F.col("info.trace_location.mlflow_experiment.experiment_id"), F.col("info.experiment_id"))


def _state() -> Column:
    place = F.get_json_object(F.col("info.tags"), f"$['{_PLACE}']")
    return _unless_unread(_coalesced(("state", "status")), place, F.contains(F.col("data.spans"), F.lit("{")))


def _state_of_frame(schema: StructType) -> Column:
    place = of_field(schema["tags"]).read("tags")[_PLACE]
    texts = F.coalesce(*(column_or_null(schema, name) for name in ("request", "response")))
    has_spans = F.contains(column_or_null(schema, "spans"), F.lit("{"))
    state = of_field(schema["state"]).read("state")
    return _unless_unread(state, place, texts.isNotNull() | F.coalesce(has_spans, F.lit(False)))


def _unless_unread(state: Column, place: Column, has_spans: Column) -> Column:
    """Of a trace whose file is gone MLflow gives everything but the spans, and these hold the texts."""
    is_unread = place.isin("ARCHIVE_REPO", "ARTIFACT_REPO") & ~F.coalesce(has_spans, F.lit(False))
    return F.when(is_unread, F.lit(INCOMPLETE)).otherwise(state)


def _started() -> Column:
    told, older = F.col("info.request_time"), F.col("info.timestamp_ms")
    of_text = as_instant(told, STRING)
    return F.coalesce(of_text, as_instant(told, STRING, "ms"), as_instant(older, STRING, "ms"))


def _took() -> Column:
    told = _coalesced(("execution_duration_ms", "execution_time_ms", "execution_duration"))
    # The REST interface writes seconds: 1.200s.
    seconds = F.when(told.endswith("s"), F.rtrim(told, F.lit("s")).try_cast("double") * 1000)
    return F.coalesce(seconds.cast("string"), told)


def _of_root(key: str) -> Column:
    spans = F.from_json(F.col("data.spans"), _ROOTS)
    roots = F.filter(spans, lambda span: F.coalesce(span["parent_span_id"], span["parent_id"], F.lit("")) == "")
    # Of a root in another service there is no span: the first one then.
    root = F.coalesce(F.get(roots, F.lit(0)), F.get(spans, F.lit(0)))
    # MLflow writes each attribute as JSON text.
    text = F.try_element_at(root["attributes"], F.lit(key))
    return F.when(F.trim(text) != "null", unquoted(text))


def _tells_frame(pinned: Pinned) -> Match:
    return by_columns(pinned, "trace_id", "request_time", "execution_duration", "trace_metadata")


def _open_frame(pinned: Pinned, columns: Columns) -> RowSource:
    if pinned.format == "csv":
        raise TraceSourceError(
            f"The CSV at {pinned.name!r} is a frame of mlflow.search_traces() without its column trace. The other "
            "columns hold Python's spelling of dicts, which is no JSON and is not read. Save the frame with the "
            "column trace, or as JSON lines (frame.to_json(path, orient='records', lines=True))."
        )
    frame = with_keys(pinned)
    own = {"execution_duration_ms": of_field(frame.schema["execution_duration"])}
    if all(name in frame.columns and of_field(frame.schema[name]).fits(name) for name in ("tags", "state")):
        own["state"] = Origin(partial(_state_of_frame, frame.schema), STRING, f"state; {_UNREAD}")
    return row_source(pinned, columns, FRAME.name, frame, own)


DOCUMENTS = Shape(
    "mlflow_documents", "MLflow traces as JSON: Trace.to_json(), or the column trace", _tells_documents, _open_documents
)
FRAME = Shape("mlflow_frame", "a frame of mlflow.search_traces() without its column trace", _tells_frame, _open_frame)
