"""SpanSource: traces put together from rows that are spans.

A shape says how its columns are read (`SpanRows`). What all of them share is here:

1. The window, with slack on both sides, goes to the scan: spans of a trace begin before and after its root.
2. Rows of one trace and one span id are one span; the newest counts.
3. Rows are grouped by trace. The head of a trace is its root: of the rows of the lowest rank the earliest, of those
   that begin together the longest. So a trace without a root has its earliest span as head.
4. The columns of TRACES are made from the head. What is not asked for is not read.
5. A trace is in the window in which its head begins. One that lasts longer than the slack is INCOMPLETE: spans of it
   may lie outside of what a window reads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.models import INCOMPLETE, TimeWindow
from backfill_spark.schema import BIGINT, SPAN, STRING, TEXTS, TRACES
from backfill_spark.traces.sources.trace_source import POSITIONS, Query, TraceSource
from backfill_spark.traces.texts import json_text
from backfill_spark.traces.times import as_instant, in_window, utc_date

if TYPE_CHECKING:
    from backfill_spark.traces.sources.pinned import Pinned

SLACK = timedelta(hours=1)
"""How long a trace may last. The scan of a day then reads 26 hours."""
NAME, SESSION, USER = "mlflow.traceName", "mlflow.trace.session", "mlflow.trace.user"
"""Keys of tags and metadata by which MLflow's filters find them."""
_ALWAYS = frozenset({"key", "trace_id", "span_id", "start_ns", "end_ns", "rank", "version"})
_HEAD = {
    "experiment_id": "experiment_id",
    "client_request_id": "client_request_id",
    "session_id": "session_id",
    "trace_metadata": "metadata",
    "tags": "tags",
    "request": "inputs",
    "response": "outputs",
}
"""Column of TRACES: the head's field that it is."""
_IO_FROM = "backfill_spark.io_from"
"""Key of metadata: the span whose inputs stand for those of a head without any."""
_Single = Mapping[str, Mapping[str, str]]
"""Column of TRACES of which only some keys are asked for: key → the field that holds it."""
_OF_SPAN = {"start_time_ns": "start_ns", "end_time_ns": "end_ns"}


@dataclass(frozen=True)
class SpanRows:
    """Rows that are spans, and how their fields are read."""

    frame: DataFrame = field(repr=False)
    fields: Mapping[str, Column] = field(repr=False)
    """Field: expression over `frame`.

    Required: trace_id (NULL where it is no id), span_id, parent_id (NULL for none), start_ns, end_ns. Others: key
    (what the rows of a trace share; default trace_id), rank (default 1 without a parent, else 2; below 0 for a row
    about the whole trace, which has no end of its own), is_span (default true), name, span_type, status_code, inputs,
    outputs, attributes; experiment_id, state, session_id, client_request_id, metadata and tags of the head; stands_in
    (true where inputs and outputs may stand for those of a head that has neither); version (of the rows of one span
    the one with the greatest counts).
    """
    told: Mapping[str, str]
    """Column of TRACES that there is: what it is made of, in words."""
    time: str
    """Column of `frame` by which the scan is cut."""
    unit: str = ""
    """Unit of `time` where it is a number."""
    of_head: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Column of TRACES (trace_metadata, tags): key → the field of the head that is added under it.

    Once a trace: for each row it is what takes longest.
    """
    one: Mapping[str, Callable[[str], Column]] = field(default_factory=dict)
    """Field that is a map: how one key of it is read, where that is less than making the map."""
    trace_id: Callable[[Column], Column] | None = None
    """Makes the id of a trace of the trace_id of its rows, once a trace."""
    aside: Callable[[frozenset[str], TimeWindow], DataFrame] | None = field(default=None, repr=False)
    """Gives what is said of traces outside of their spans: trace_id and those columns that are asked for.

    Called with them and the window that is scanned. Maps are added to those of the head.
    """
    aside_columns: frozenset[str] = frozenset()
    """The columns that `aside` may be asked for."""


@dataclass(frozen=True)
class SpanSource(TraceSource):
    """Traces whose rows are spans."""

    pinned: Pinned
    shape: str
    spans: SpanRows = field(repr=False)
    slack: timedelta = SLACK

    @property
    def columns(self) -> frozenset[str]:
        return frozenset({*self.spans.told, "trace_date"})

    @property
    def mapping(self) -> Mapping[str, str]:
        return self.spans.told

    def look(self) -> None:
        spans = self.spans
        # Not all that is made of the fields: it has the same types in each source, and is most of the work.
        spans.frame.select(*(value.alias(name) for name, value in spans.fields.items())).schema  # noqa: B018
        if spans.aside is not None:
            spans.aside(spans.aside_columns, TimeWindow()).schema  # noqa: B018

    def _read(self, query: Query) -> DataFrame:
        one_experiment = query.experiment_id is not None and "experiment_id" in self.columns
        asked = frozenset({*query.columns, "trace_id", "request_time", *(["experiment_id"] if one_experiment else [])})
        scanned = _wider(query.window, self.slack)
        single = {
            column: {key: f"_{_HEAD[column]}_{n}" for n, key in enumerate(sorted(wanted))}
            for column, wanted in query.keys.items()
            if column in asked and _HEAD[column] in self.spans.fields and _IO_FROM not in wanted
        }
        inside = partial(in_window, kind=BIGINT, window=query.window, unit="ns", untimed=query.untimed)
        traces = self._grouped(self._scan(asked, scanned, single), asked, single, inside)
        if one_experiment:
            traces = traces.where(
                (F.col("experiment_id") == F.lit(query.experiment_id)) | F.col("experiment_id").isNull()
            )
        aside = asked & self.spans.aside_columns
        if aside and self.spans.aside is not None:
            traces = _joined(traces, self.spans.aside(aside, scanned))
        traces = traces.withColumn("trace_date", utc_date(F.col("request_time")))
        wanted = [
            F.col(n).cast(TRACES[n].dataType.simpleString()).alias(n) for n in TRACES.fieldNames() if n in query.columns
        ]
        if query.positions:
            places = (F.lit(""), F.lit(0).cast(BIGINT), F.lit(0).cast(BIGINT))
            wanted += [place.alias(name) for place, name in zip(places, POSITIONS, strict=True)]
        return traces.select(*wanted)

    def _scan(self, asked: frozenset[str], scanned: TimeWindow, single: _Single) -> DataFrame:
        """Return the fields that are needed, of the rows in `scanned`; those without a time are in every window."""
        rows, fields = self.spans.frame, _with_defaults(self.spans.fields)
        inside = in_window(
            F.col(self.spans.time),
            rows.schema[self.spans.time].dataType,
            scanned,
            unit=self.spans.unit,
            untimed=True,
        )
        if inside is not None:
            rows = rows.where(inside)
        needed = _ALWAYS.union(_HEAD[column] for column in asked if column in _HEAD and column not in single)
        if "state" in asked:
            needed |= {"state", "status_code"}
        needed |= {name for column in asked for name in self._of_head(column, single).values()}
        if asked & {"request", "response"} or "metadata" in needed:
            needed |= {"stands_in", "has_io"}
        if "spans" in asked:
            needed |= {"is_span", *(_OF_SPAN.get(name, name) for name in SPAN.fieldNames())}
        for column, names in single.items():
            whole, one = fields[_HEAD[column]], self.spans.one.get(_HEAD[column])
            fields |= {name: whole[key] if one is None else one(key) for key, name in names.items()}
            needed |= set(names.values())
        chosen = rows.select(*(value.alias(name) for name, value in fields.items() if name in needed))
        return _newest(chosen) if "spans" in asked or "version" in fields else chosen

    def _of_head(self, column: str, single: _Single) -> dict[str, str]:
        added = self.spans.of_head.get(column, {})
        return {key: name for key, name in added.items() if key in single.get(column, added)}

    def _grouped(
        self,
        rows: DataFrame,
        asked: frozenset[str],
        single: _Single,
        inside: Callable[[Column], Column | None],
    ) -> DataFrame:
        have = rows.columns
        added = {name for keys in self.spans.of_head.values() for name in keys.values()}
        added |= {name for keys in single.values() for name in keys.values()}
        always = {"start_ns", "end_ns", "rank", "state", "status_code", "has_io"}
        of_head = [n for n in have if n in {*always, *added, *_HEAD.values()}]
        # Of spans that begin at one moment the longest is around the others.
        order = F.struct("rank", "start_ns", F.coalesce(-F.col("end_ns"), F.lit(0)).alias("_ended"), "span_id")
        # Columns of their own, or each aggregate makes the structs again, and the code of each is compiled.
        rows = rows.withColumns({"_row": F.struct(*of_head), "_order": order})
        order, first, head = F.col("_order"), F.min_by("_row", "_order"), F.col("_head")
        started = F.coalesce(first["start_ns"], F.min("start_ns"))
        ended = F.when(first["rank"] < 0, F.max("end_ns")).otherwise(first["end_ns"])
        # What is asked more than once of a trace is made with the aggregates: Spark repeats what a `select` makes.
        found = {
            "trace_id": F.max("trace_id") if self.spans.trace_id is None else self.spans.trace_id(F.max("trace_id")),
            "_head": first,
            "_started": started,
            "request_time": as_instant(started, BIGINT, "ns"),
        }
        made = {column: head[name] for column, name in _HEAD.items() if name in have}
        for column in asked.intersection(self.spans.of_head).difference(single):
            keys = self.spans.of_head[column]
            made[column] = merged(made[column], texts({key: head[name] for key, name in keys.items()}))
        for column, keys in single.items():
            given = self._of_head(column, single)
            each = {key: F.coalesce(*(head[n] for n in (given.get(key), name) if n)) for key, name in keys.items()}
            made[column] = F.create_map(*(part for key, value in each.items() for part in (F.lit(key), value)))
        if "execution_duration_ms" in asked:
            found["execution_duration_ms"] = F.call_function("div", ended - started, F.lit(1_000_000))
        if "state" in asked:
            found["state"] = self._state(first, ended, ended - started, have)
        if "session_id" in have:
            any_session = F.min_by("session_id", F.when(F.col("session_id").isNotNull(), order))
            found["session_id"] = F.coalesce(first["session_id"], any_session)
        made |= {name: F.col(name) for name in found if name in TRACES.names}
        if "stands_in" in have:
            stand_ins, instead = _stand_ins(have, order)
            found |= stand_ins
            is_bare = ~head["has_io"]
            made |= {c: F.when(is_bare, value(made[c])).otherwise(made[c]) for c, value in instead.items() if c in made}
        if "spans" in asked:
            one = F.struct(*(_part(name, have) for name in SPAN.fieldNames()))
            found["_spans"] = F.collect_list(F.when(F.col("is_span"), one))
            made["spans"] = F.array_sort("_spans", _by_start)
        grouped = rows.groupBy("key").agg(*(value.alias(name) for name, value in found.items()))
        if (is_inside := inside(F.col("_started"))) is not None:
            grouped = grouped.where(is_inside)
        return grouped.select(*(value.alias(name) for name, value in made.items() if name in asked))

    def _state(self, head: Column, ended: Column, lasted: Column, have: Collection[str]) -> Column:
        limit = self.slack // timedelta(microseconds=1) * 1000
        state = F.when(lasted > F.lit(limit), INCOMPLETE)
        if "state" in have:
            return F.coalesce(state, head["state"])
        return (state.when(ended.isNull(), "IN_PROGRESS").when(head["status_code"] == "ERROR", "ERROR")).otherwise("OK")


def _wider(window: TimeWindow, slack: timedelta) -> TimeWindow:
    start, end = window.start, window.end
    first, last = datetime.min.replace(tzinfo=UTC) + slack, datetime.max.replace(tzinfo=UTC) - slack
    return TimeWindow(
        None if start is None or start < first else start - slack, None if end is None or end > last else end + slack
    )


def parent(value: Column) -> Column:
    """Return the id of the span above, NULL where there is none."""
    return F.when(~value.isin("", "0" * 16), value)


def merged(one: Column, other: Column) -> Column:
    """Return both maps as one, where `other` counts for a key of both, and NULL is an empty one."""
    empty = F.create_map().cast(TEXTS)
    first, second = F.coalesce(one, empty), F.coalesce(other, empty)
    return F.map_concat(F.map_filter(first, lambda key, _: ~F.map_contains_key(second, key)), second)


def texts(values: Mapping[str, Column]) -> Column:
    """Return a map of those values that are not NULL."""
    pairs = [F.struct(F.lit(name).alias("key"), value.alias("value")) for name, value in values.items()]
    return F.map_from_entries(F.filter(F.array(*pairs), lambda pair: pair["value"].isNotNull())).cast(TEXTS)


def marks(text: Column) -> Column:
    """Return a JSON list of tags as a map of each to `true`."""
    tags = F.array_distinct(F.filter(F.from_json(text, "array<string>"), lambda tag: tag.isNotNull()))
    return F.map_from_entries(F.transform(tags, lambda tag: F.struct(tag, F.lit("true"))))


def column_or_null(schema: T.StructType, name: str) -> Column:
    """Return a column as text, nested values as JSON; NULL where there is no such column, or an empty text."""
    if name not in schema.names:
        return F.lit(None).cast(STRING)
    value = F.col(f"`{name}`")
    is_nested = isinstance(schema[name].dataType, T.StructType | T.MapType | T.ArrayType)
    text = json_text(value) if is_nested else value.cast(STRING)
    return F.when(text != "", text)


def _with_defaults(fields: Mapping[str, Column]) -> dict[str, Column]:
    given = dict(fields)
    given.setdefault("key", given["trace_id"])
    given.setdefault("rank", F.when(given["parent_id"].isNull(), 1).otherwise(2))
    given.setdefault("is_span", F.lit(True))
    if "stands_in" in given:
        given.setdefault("has_io", given["inputs"].isNotNull() | given["outputs"].isNotNull())
    return given


def _newest(rows: DataFrame) -> DataFrame:
    """Return one row a span; rows without a span id all stay.

    Spread by trace first, so that grouping by trace needs no second shuffle.
    """
    newest = F.struct(*(name for name in ("version", "end_ns") if name in rows.columns))
    nameless = F.when(F.col("span_id").isNull(), F.struct("start_ns", "end_ns", *_named(rows)))
    whole = F.struct(*rows.columns)
    spread = rows.withColumn("_nameless", nameless).repartition("key")
    return spread.groupBy("key", "span_id", "_nameless").agg(F.max_by(whole, newest).alias("_row")).select("_row.*")


def _named(rows: DataFrame) -> list[str]:
    return [name for name in ("name", "parent_id") if name in rows.columns]


def _stand_ins(have: Collection[str], order: Column) -> tuple[dict[str, Column], dict[str, Callable[[Column], Column]]]:
    """Return aggregates, and by them the columns of a trace whose head has neither inputs nor outputs.

    Inputs of the first row that may stand in, outputs of the last one; metadata say which row was the first.
    """
    found: dict[str, Column] = {}
    made: dict[str, Callable[[Column], Column]] = {}
    may = F.col("stands_in") & F.col("has_io")
    last = F.struct((-F.col("rank")).alias("_rank"), "end_ns", "span_id")
    if "inputs" in have:
        found["_first"] = F.min_by("inputs", F.when(may & F.col("inputs").isNotNull(), order))
        made["request"] = lambda _: F.col("_first")
    if "outputs" in have:
        found["_last"] = F.max_by("outputs", F.when(may & F.col("outputs").isNotNull(), last))
        made["response"] = lambda _: F.col("_last")
    if "metadata" in have:
        found["_from"] = F.min_by("span_id", F.when(may, order))
        made["trace_metadata"] = lambda own: merged(own, texts({_IO_FROM: F.col("_from")}))
    return found, made


def _part(name: str, have: Collection[str]) -> Column:
    ours = _OF_SPAN.get(name, name)
    return (F.col(ours) if ours in have else F.lit(None)).cast(SPAN[name].dataType).alias(name)


def _by_start(one: Column, other: Column) -> Column:
    a, b = (F.struct(span["start_time_ns"], span["span_id"]) for span in (one, other))
    return F.when(a < b, -1).when(a > b, 1).otherwise(0)


def _joined(traces: DataFrame, aside: DataFrame) -> DataFrame:
    """Add columns of `aside` by trace_id: maps are merged, other values fill what the trace lacks."""
    added = [name for name in aside.columns if name != "trace_id"]
    aside = aside.select(F.col("trace_id").alias("_id"), *(F.col(name).alias(f"_{name}") for name in added))
    joined = traces.join(aside, F.col("trace_id") == F.col("_id"), "left")
    values = {}
    for name in added:
        theirs, is_map = F.col(f"_{name}"), isinstance(TRACES[name].dataType, T.MapType)
        own = F.col(name) if name in traces.columns else None
        values[name] = theirs if own is None else merged(own, theirs) if is_map else F.coalesce(own, theirs)
    return joined.withColumns(values)
