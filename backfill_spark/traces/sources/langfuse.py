"""Exports of Langfuse to blob storage: `observations_v2` and `scores`, or the older `traces` and `observations`.

Only files that a manifest names are read: a manifest is written last, and what a failed export left has none.
Facts: Langfuse's documentation of the export and its server's source, 2026-08.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.errors import TraceSourceError
from backfill_spark.models import TimeWindow
from backfill_spark.schema import STRING, TEXTS, TRACE_ASSESSMENT
from backfill_spark.traces.sources.otel import as_nanoseconds, refuse_columns
from backfill_spark.traces.sources.otel_keys import span_type
from backfill_spark.traces.sources.shape import Match, Shape, by_columns
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
from backfill_spark.traces.times import as_instant, in_window

if TYPE_CHECKING:
    from backfill_spark.traces.sources.mapping import Columns
    from backfill_spark.traces.sources.pinned import Pinned

_TOLD = {
    "trace_id": "trace_id of the observations",
    "experiment_id": "project_id",
    "request_time": "start_time of the root: is_root_observation, else without a parent, else the earliest",
    "execution_duration_ms": "its end_time - its start_time",
    "state": "ERROR where its level is ERROR, IN_PROGRESS where it has no end_time, else OK",
    "request": "its input",
    "response": "its output",
    "session_id": "session_id of any observation",
    "trace_metadata": "its metadata, release, version; mlflow.trace.session, mlflow.trace.user",
    "tags": "its tags (each is `true`), environment; mlflow.traceName",
    "spans": "the observations",
}
_LEGACY = {
    "request": "input of the trace, else of the root observation",
    "response": "output of the trace, else of the root observation",
    "request_time": "timestamp of the trace",
}
# Written as JSON lines everything is read as text, times too.
_TEXT_COLUMNS = (
    "id trace_id project_id parent_observation_id type start_time end_time name level status_message version"
    " environment user_id session_id is_root_observation input output metadata tags release trace_name updated_at"
    " provided_model_name timestamp value string_value data_type source comment observation_id created_at"
)
_FIRST_LINES = 20


class _Table:
    """One table of the export; columns that it lacks are NULL."""

    def __init__(self, frame: DataFrame, fields: Collection[str] | None = None) -> None:
        self.frame = frame
        self.types = {field.name: field.dataType for field in frame.schema.fields}
        self.has_texts = bool({"input", "output"}.intersection(self.types if fields is None else fields))
        """False where `fields`, which are those of the first lines, or the columns are without them."""

    def text(self, name: str) -> Column:
        """Return a column as text; NULL for an empty one, which Langfuse writes for what is not set."""
        return column_or_null(self.frame.schema, name)

    def nanoseconds(self, name: str) -> Column:
        if name not in self.types:
            return F.lit(None).cast("bigint")
        return as_nanoseconds(F.col(name), self.types[name])

    def map(self, name: str) -> Column:
        kind = self.types.get(name)
        if isinstance(kind, T.MapType):
            return F.col(name).cast(TEXTS)
        return F.from_json(self.text(name), TEXTS.simpleString())


def _is_manifest(name: str) -> bool:
    return "/manifests/" in f"/{name}" and name.endswith(".json")


def _in(folder: str) -> Callable[[str], bool]:
    return lambda name: f"/{folder}/" in f"/{name}"


def _tells(pinned: Pinned, *folders: str) -> Match:
    """Told by folders; a folder of observations itself by its columns."""
    there = [folder for folder in folders if any(map(_in(folder), pinned.names))]
    if there or any(map(_is_manifest, pinned.names)):
        has = tuple(f"files {folder}/*" for folder in there)
        return Match(has, tuple(f"files {folder}/*" for folder in folders if folder not in there))
    return by_columns(pinned, "parent_observation_id", "trace_id", "is_root_observation")


def listed_files(pinned: Pinned) -> frozenset[str]:
    """Return the names of the files that manifests list.

    Raises:
        TraceSourceError: a manifest lists a file that is not there, or cannot be read.
    """
    manifests = pinned.texts_of(_is_manifest)
    if not manifests:
        raise TraceSourceError(
            f"The Langfuse export at {pinned.name!r} has no manifests (manifests/*.json), by which whole exports are "
            "told from those that failed. Name the folder above it that holds them, or copy them too."
        )
    keys: dict[str, str] = {}
    for name, text in sorted(manifests.items()):
        try:
            keys |= {str(file["key"]): name for file in json.loads(text)["files"]}
        except (ValueError, KeyError, TypeError):
            raise TraceSourceError(
                f"The manifest {name!r} of the Langfuse export at {pinned.name!r} is no manifest of version 1. "
                "Copy the export again."
            ) from None
    there = {key: name for key in keys for name in pinned.names if f"/{key}".endswith(f"/{name}")}
    gone = sorted(set(keys) - set(there))
    if gone:
        raise TraceSourceError(
            f"The Langfuse export at {pinned.name!r} is not whole: {len(gone)} of the files that its manifests name "
            f"are not there, such as {gone[0]!r} (of {keys[gone[0]]!r}). Copy them, or take the manifests away, too."
        )
    return frozenset(there.values())


def _table(pinned: Pinned, listed: frozenset[str], folder: str) -> _Table | None:
    files = set(filter(_in(folder), listed))
    if not files:
        return None
    frame = pinned.of_files(files.__contains__)
    if pinned.format != "json":
        return _Table(frame)
    schema = T.StructType([T.StructField(name, STRING) for name in _TEXT_COLUMNS.split()])
    first = frame.select(F.json_object_keys("value").alias("keys")).limit(_FIRST_LINES).collect()
    fields = {key for row in first for key in row["keys"] or ()} if first else None
    return _Table(frame.select(F.from_json("value", schema).alias("row")).select("row.*"), fields)


def _open(pinned: Pinned, columns: Columns, *, is_legacy: bool) -> SpanSource:
    refuse_columns(pinned, columns)
    listed = listed_files(pinned)
    folder = "observations" if is_legacy else "observations_v2"
    observations, scores = _table(pinned, listed, folder), _table(pinned, listed, "scores")
    traces = _table(pinned, listed, "traces") if is_legacy else None
    if observations is None or (is_legacy and traces is None):
        raise TraceSourceError(
            f"The Langfuse export at {pinned.name!r} has no files of {folder}{' and traces' if is_legacy else ''} that "
            "a manifest names. Name the folder of a project, with its manifests."
        )
    if not any(table.has_texts for table in (observations, traces) if table is not None):
        raise TraceSourceError(
            f"The Langfuse export at {pinned.name!r} has no fields input and output, so nothing can be scored. Turn "
            "on the field group io of the export, and export again."
        )
    frame = _observations(observations)
    told = dict(_TOLD)
    if traces is not None:
        frame = frame.unionByName(_traces(traces))
        told |= _LEGACY
    # Only the row of a trace may have neither input nor output although its root has.
    unused = ("_time",) if is_legacy else ("_time", "stands_in")
    fields = {name: F.col(name) for name in frame.columns if name not in unused}
    aside = None
    if scores is not None:
        told["assessments"] = "scores of the trace and its observations"
        aside = partial(_assessments, scores)
    rows = SpanRows(frame, fields, told, time="_time", aside=aside, aside_columns=frozenset({"assessments"}))
    return SpanSource(pinned, LEGACY.name if is_legacy else SHAPE.name, rows)


def _observations(table: _Table) -> DataFrame:
    text, start = table.text, table.nanoseconds("start_time")
    is_root = F.coalesce(F.lower(text("is_root_observation")).isin("true", "1"), F.lit(False))
    above = text("parent_observation_id")
    metadata = table.map("metadata")
    model = texts({"mlflow.llm.model": text("provided_model_name"), "status_message": text("status_message")})
    return table.frame.select(
        (F.col("start_time") if "start_time" in table.types else F.lit(None).cast("timestamp")).alias("_time"),
        text("trace_id").alias("trace_id"),
        text("id").alias("span_id"),
        above.alias("parent_id"),
        F.when(is_root, 0).when(above.isNull(), 1).otherwise(2).alias("rank"),
        F.lit(True).alias("is_span"),
        text("name").alias("name"),
        span_type(text("type")).alias("span_type"),
        start.alias("start_ns"),
        F.coalesce(table.nanoseconds("end_time"), F.when(F.upper(text("type")) == "EVENT", start)).alias("end_ns"),
        F.when(text("level") == "ERROR", "ERROR").otherwise("OK").alias("status_code"),
        text("input").alias("inputs"),
        text("output").alias("outputs"),
        merged(metadata, model).alias("attributes"),
        *_of_trace(table, F.coalesce(text("trace_name"), text("name"))),
        # Of a trace whose own row has neither input nor output.
        (is_root | above.isNull()).alias("stands_in"),
        table.nanoseconds("updated_at").alias("version"),
    )


def _traces(table: _Table) -> DataFrame:
    text, start = table.text, table.nanoseconds("timestamp")
    none = F.lit(None).cast(STRING)
    return table.frame.select(
        F.col("timestamp").alias("_time"),
        text("id").alias("trace_id"),
        F.concat(F.lit("trace:"), text("id")).alias("span_id"),
        none.alias("parent_id"),
        F.lit(-1).alias("rank"),
        F.lit(False).alias("is_span"),
        text("name").alias("name"),
        none.alias("span_type"),
        start.alias("start_ns"),
        F.lit(None).cast("bigint").alias("end_ns"),
        F.lit("OK").alias("status_code"),
        text("input").alias("inputs"),
        text("output").alias("outputs"),
        F.lit(None).cast(TEXTS).alias("attributes"),
        *_of_trace(table, text("name")),
        F.lit(False).alias("stands_in"),
        table.nanoseconds("updated_at").alias("version"),
    )


def _of_trace(table: _Table, name: Column) -> tuple[Column, ...]:
    text = table.text
    of_both = {name: text(name) for name in ("release", "version")}
    known = texts({SESSION: text("session_id"), USER: text("user_id"), **of_both})
    tags = merged(marks(table.text("tags")), texts({"environment": text("environment"), NAME: name}))
    return (
        text("project_id").alias("experiment_id"),
        text("session_id").alias("session_id"),
        merged(table.map("metadata"), known).alias("metadata"),
        tags.alias("tags"),
    )


def _assessments(table: _Table, _asked: frozenset[str], scanned: TimeWindow) -> DataFrame:
    text, rows = table.text, table.frame
    if "timestamp" in table.types:
        since = in_window(F.col("timestamp"), table.types["timestamp"], TimeWindow(scanned.start, None), untimed=True)
        rows = rows if since is None else rows.where(since)
    kind = F.upper(text("data_type"))
    number = text("value").try_cast("double")
    value = (
        F.when(kind == "BOOLEAN", F.when(number == 1, "true").otherwise("false"))
        .when(kind == "NUMERIC", text("value"))
        .otherwise(F.coalesce(text("string_value"), text("value")))
    )
    source = F.upper(text("source"))
    who = F.when(source == "EVAL", "LLM_JUDGE").when(source == "ANNOTATION", "HUMAN").otherwise("CODE")
    made: Mapping[str, Column] = {
        "assessment_id": text("id"),
        "trace_id": text("trace_id"),
        "assessment_name": text("name"),
        "source": F.struct(F.lit("langfuse"), who),
        "create_time": _instant(table, "timestamp"),
        "last_update_time": _instant(table, "updated_at"),
        "feedback": F.struct(value, F.lit(None)),
        "rationale": text("comment"),
        "span_id": text("observation_id"),
        "valid": F.lit("true"),
    }
    one = F.struct(*(made.get(f.name, F.lit(None)).cast(f.dataType).alias(f.name) for f in TRACE_ASSESSMENT.fields))
    entries = rows.where(text("trace_id").isNotNull()).select(
        text("trace_id").alias("trace_id"),
        text("id").alias("id"),
        one.alias("one"),
        F.coalesce(table.nanoseconds("updated_at"), F.lit(0)).alias("at"),
    )
    newest = entries.groupBy("trace_id", "id").agg(F.max_by("one", "at").alias("one"))
    return newest.groupBy("trace_id").agg(F.collect_list("one").alias("assessments"))


def _instant(table: _Table, name: str) -> Column:
    kind = table.types.get(name)
    return F.lit(None) if kind is None else as_instant(F.col(name), kind)


SHAPE = Shape(
    "langfuse",
    "an export of Langfuse: observations_v2 and scores, with their manifests",
    lambda pinned: _tells(pinned, "observations_v2"),
    partial(_open, is_legacy=False),
)
LEGACY = Shape(
    "langfuse_legacy",
    "an older export of Langfuse: traces, observations and scores, with their manifests",
    lambda pinned: _tells(pinned, "observations", "traces"),
    partial(_open, is_legacy=True),
)
