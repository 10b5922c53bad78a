"""Inspection: what a source of traces holds, and what a scorer would see of it, before anything is scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from backfill_spark.models import INCOMPLETE, ScorerKind, ScorerSpec, TimeWindow
from backfill_spark.schema import TRACES
from backfill_spark.scoring.arguments import Batch
from backfill_spark.scoring.columns import worker_columns, worker_inputs
from backfill_spark.traces.sources import open_source
from backfill_spark.traces.sources.row_source import RowSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pyspark.sql import DataFrame, SparkSession

    from backfill_spark.settings.schema import Settings
    from backfill_spark.traces.sources import TraceSource

_SEEN = ("inputs", "outputs", "expectations", "trace")
_EXPERIMENTS = 20


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect_traces` found."""

    source: str
    source_kind: str
    source_version: str
    shape: str
    """The name that `traces.shape` has for it."""
    title: str
    why: tuple[str, ...]
    """What the shape was told by."""
    mapping: dict[str, str]
    """Column of TRACES: what it is made of."""
    absent: tuple[str, ...]
    """Columns of TRACES that the source has not."""
    counts: dict[str, int]
    """traces, no_time, no_trace_id, duplicate_trace_id, no_request, no_response, in_progress, incomplete."""
    first_time: datetime | None
    last_time: datetime | None
    experiments: dict[str, int]
    """Experiment: traces; "" for those that name none. The largest twenty."""
    samples: tuple[dict[str, Any], ...]
    """Three traces: `trace_id`, and what a scorer is given as inputs, outputs, expectations and trace."""
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        from backfill_spark.display.sources import inspection_sheet

        return inspection_sheet(self).html()

    def __str__(self) -> str:
        from backfill_spark.display.sources import inspection_sheet

        return inspection_sheet(self).text()


def inspect(spark: SparkSession, settings: Settings, traces: Any = None) -> Inspection:
    """Open traces and look at all of them once.

    Raises:
        TraceSourceError: they are of no known shape (the message names the nearest), or do not fit it.
    """
    from backfill_spark.traces.sources.shapes import named

    source = open_source(spark, settings, traces)
    shape = named(source.shape)
    counts, times = _counts(source)
    return Inspection(
        source=source.name,
        source_kind=source.kind,
        source_version=source.version,
        shape=shape.name,
        title=shape.title,
        why=shape.tells(source.pinned).has,
        mapping={name: source.mapping[name] for name in TRACES.fieldNames() if name in source.mapping},
        absent=tuple(name for name in TRACES.fieldNames() if name not in source.columns),
        counts=counts,
        first_time=times[0],
        last_time=times[1],
        experiments=_experiments(source),
        samples=_samples(source, settings),
        notes=_notes(source),
    )


def _counts(source: TraceSource) -> tuple[dict[str, int], tuple[Any, Any]]:
    names = {"trace_id", "request_time", "request", "response", "state"} & source.columns
    rows = source.read(names, TimeWindow(), untimed=True)

    def missing(name: str) -> Any:
        return F.count(F.when(F.col(name).isNull(), 1)) if name in names else F.count(F.lit(1))

    def in_state(name: str) -> Any:
        return F.count(F.when(F.col("state") == name, 1) if "state" in names else F.lit(None)).alias(name.lower())

    found = rows.agg(
        F.count(F.lit(1)).alias("traces"),
        missing("request_time").alias("no_time"),
        missing("trace_id").alias("no_trace_id"),
        (F.count("trace_id") - F.count_distinct("trace_id")).alias("duplicate_trace_id"),
        missing("request").alias("no_request"),
        missing("response").alias("no_response"),
        in_state("IN_PROGRESS"),
        in_state(INCOMPLETE),
        F.unix_micros(F.min("request_time")).alias("first"),
        F.unix_micros(F.max("request_time")).alias("last"),
    ).collect()[0]
    counts = {name: found[name] for name in found.__fields__ if name not in ("first", "last")}
    return counts, (_moment(found["first"]), _moment(found["last"]))


def _moment(micros: int | None) -> datetime | None:
    from datetime import UTC, datetime, timedelta

    try:
        return None if micros is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    except OverflowError:
        return None


def _experiments(source: TraceSource) -> dict[str, int]:
    if "experiment_id" not in source.columns:
        return {}
    rows = source.read({"experiment_id"}, TimeWindow(), untimed=True).groupBy("experiment_id").count()
    largest = rows.orderBy(F.desc("count"), "experiment_id").limit(_EXPERIMENTS).collect()
    return {row["experiment_id"] or "": row["count"] for row in largest}


def _samples(source: TraceSource, settings: Settings, n: int = 3) -> tuple[dict[str, Any], ...]:
    spec = ScorerSpec("inspection", 1, "", ScorerKind.FUNCTION, {}, None, _SEEN, 1.0)
    names, _, given = worker_inputs([spec], source.columns, trace_mb=settings.limits.trace_mb)
    assert given is not None
    rows = source.read(set(names), TimeWindow()).limit(n).select(given.alias("given")).collect()
    columns = worker_columns(names, [[row["given"][name] for row in rows] for name in names])
    batch = Batch(columns, [spec.signature], settings.traces.payload)
    return tuple(_seen(batch, row) for row in range(len(rows)))


def _seen(batch: Batch, row: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for parameter in _SEEN:
        try:
            value = batch.argument(parameter)(row)
        except Exception as error:
            value = f"{type(error).__name__}: {error}"
        found[parameter] = value
    trace = found["trace"]
    return {"trace_id": getattr(getattr(trace, "info", None), "trace_id", None)} | found


def source_problems(source: TraceSource, scorers: Sequence[ScorerSpec]) -> list[str]:
    """Return a sentence for each scorer that the traces hold nothing for: it would score nothing but None."""
    problems = []
    for spec in scorers:
        asked = [name for name in ("inputs", "outputs") if name in spec.signature]
        if not asked or "trace" in spec.signature or _payloads(source, asked):
            continue
        columns = [{"inputs": "request", "outputs": "response"}[name] for name in asked]
        problems.append(
            f"Scorer {spec.name!r} takes {' and '.join(asked)}, and the traces at {source.name!r} have neither "
            f"{' or '.join(columns)} nor spans. {_which_columns(source, columns)}"
        )
    return problems


def _which_columns(source: TraceSource, columns: Sequence[str]) -> str:
    """Say how a column that the source has becomes one that it lacks."""
    unread = _unread(source)
    if not unread:
        return "Name the column with the setting traces.columns, or export the traces with it."
    named = " ".join(f"--set traces.columns.{name}=NAME" for name in columns)
    return f"Name it with the setting traces.columns ({named}): they also have {', '.join(map(repr, unread[:10]))}."


def _unread(source: TraceSource) -> list[str]:
    """Return the columns of a table that are no column of TRACES."""
    if not isinstance(source, RowSource) or source.frame is not source.pinned.frame:
        return []
    return sorted(source.pinned.columns.difference(origin.told for origin in source.origins.values()))


def _notes(source: TraceSource) -> tuple[str, ...]:
    lacking = [name for name in ("request", "response") if name not in source.columns]
    told = f"There is no {' and no '.join(lacking)}. {_which_columns(source, lacking)}"
    return (*source.notes, told) if lacking and _unread(source) else source.notes


def _payloads(source: TraceSource, asked: Sequence[str]) -> list[str]:
    columns = {"inputs": "request", "outputs": "response"}
    return [name for name in asked if {columns[name], "spans"} & source.columns]


def expectation_notes(
    source: TraceSource, scorers: Sequence[ScorerSpec], window: TimeWindow, payload: str
) -> list[str]:
    """Say how values of expectations are spelled, where a scorer takes them: looks at 1,000 of them."""
    if "assessments" not in source.columns or not any("expectations" in s.signature for s in scorers):
        return []
    values = _expected(source.read({"assessments"}, window)).limit(1000)
    quoted = F.col("value").rlike('(?s)^\\s*".*"\\s*$')
    found = values.agg(F.count("value").alias("all"), F.count(F.when(quoted, 1)).alias("quoted")).collect()[0]
    if not found["quoted"]:
        return []
    how = "with the quotes (traces.payload: text)" if payload == "text" else "without the quotes"
    rest = "" if found["quoted"] == found["all"] else " The others are plain text: do they come from another writer?"
    of = f"{found['quoted']:,} of the first {found['all']:,}"
    return [f"expectation.value is JSON text in quotes in {of}: scorers get it {how}.{rest}"]


def _expected(rows: DataFrame) -> DataFrame:
    from backfill_spark.traces.sources.lists import as_assessments

    kind = rows.schema["assessments"].dataType
    each = rows.select(F.explode(as_assessments(F.col("assessments"), kind)).alias("a"))
    return each.select(F.col("a.expectation.value").alias("value")).where("value IS NOT NULL")
