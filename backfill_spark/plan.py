"""The plan: what a request comes to, in counts. It calls no scorer and loads no scorer code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from backfill_spark import pairs as P
from backfill_spark.chunks import TARGET_PAIRS, Cutter
from backfill_spark.models import Counts, Request, ScorerSpec, SkipReason, TimeWindow

if TYPE_CHECKING:
    import pandas as pd

    from backfill_spark.results import ResultStore
    from backfill_spark.sources import TraceSource


@dataclass(frozen=True, slots=True)
class Selection:
    """How many pairs of each kind a request comes to, at pinned versions."""

    counts: Mapping[str, Counts]
    """Scorer → counts up to `due`."""
    own: Mapping[str, int]
    """Scorer → due pairs that this job has staged already."""
    elsewhere: Mapping[str, int]
    """Scorer → due pairs that other jobs have staged: adopted at 0 calls."""
    calls_by_hour: Mapping[int, int]
    """Hour since the epoch → pairs of code scorers that must be called."""
    asks_by_hour: Mapping[int, int]
    """Hour since the epoch → pairs of judges that must be asked, or answered from earlier answers."""
    has_duplicates: bool
    has_ties: bool

    @property
    def calls(self) -> int:
        """Pairs that must be called."""
        return sum(self.calls_by_hour.values()) + sum(self.asks_by_hour.values())


@dataclass(frozen=True, slots=True)
class BackfillPlan:
    """What a backfill would do."""

    experiment_id: str
    window: TimeWindow
    scorers: tuple[ScorerSpec, ...]
    counts: dict[str, Counts]
    """Scorer → counts up to `due`."""
    calls: int
    """Scorer calls that the job would make."""
    chunks: int
    source: str
    source_version: str
    cost_usd: float | None = None
    notes: tuple[str, ...] = ()
    trace_ids_missing: tuple[str, ...] = ()
    """Listed trace ids that the window does not have."""
    source_kind: str = ""
    """`delta path`, `parquet path` or `table`."""
    tables: str = ""
    """Where our tables are: a folder or `catalog.schema`."""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def summary(self) -> pd.DataFrame:
        """Return a pandas frame, a row a scorer: version, rate, filter and counts up to `due`."""
        import pandas as pd

        names = ("in_window", "skipped", "filtered_out", "sampled_out", "already_scored", "due")
        rows = [
            {"scorer": s.name, "version": s.version, "sample_rate": s.sample_rate, "filter_string": s.filter_string}
            | {n: getattr(self.counts[s.name], n) for n in names}
            for s in self.scorers
        ]
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        from backfill_spark import display

        return display.plan_html(self)

    def __str__(self) -> str:
        from backfill_spark import display

        return display.plan_text(self)


def chosen_pairs(
    request: Request,
    source: TraceSource,
    results: ResultStore,
    *,
    choice: DataFrame | None,
    job_id: str | None,
    staging_version: int | None,
    own_version: int | None = None,
) -> DataFrame:
    """Return every row of the window with what decides its pairs; reads no texts."""
    light = P.light_columns(request, source.columns)
    traces = source.read(light, request.window, untimed=True, positions=True, experiment_id=experiment_filter(request))
    chosen = P.mark_duplicates(P.choose(traces, request, source.columns, choice))
    keep = ["trace_id", "request_time", "trace_time", "trace_date", "session_id", "draw", "skip", "ties"]
    chosen = chosen.select(*keep, "no_expectations", "matched", "sampled")
    return results.with_done(chosen, request, job_id=job_id, staging_version=staging_version, own_version=own_version)


def experiment_filter(request: Request) -> str | None:
    """Return the experiment that traces are filtered by: only one that was given."""
    return request.experiment_id if request.experiment_given else None


def select(
    request: Request,
    source: TraceSource,
    results: ResultStore,
    *,
    choice: DataFrame | None = None,
    job_id: str | None = None,
    staging_version: int | None = None,
) -> Selection:
    """Count the request's pairs in one pass over the light columns."""
    pairs = chosen_pairs(request, source, results, choice=choice, job_id=job_id, staging_version=staging_version)
    rows = [r.asDict() for r in P.counted(pairs, request.scorers).collect()]

    def total(name: str) -> int:
        return sum(r[name] for r in rows)

    reasons = {r.value: total(f"skip_{r.value}") for r in SkipReason if r is not SkipReason.NO_EXPECTATIONS}
    counts, own, elsewhere = {}, {}, {}
    for i, spec in enumerate(request.scorers):
        skipped = {
            k: v for k, v in (reasons | {SkipReason.NO_EXPECTATIONS.value: total(f"unexpected_{i}")}).items() if v
        }
        counts[spec.name] = Counts(
            in_window=total("rows"),
            skipped=sum(skipped.values()),
            filtered_out=total(f"filtered_{i}"),
            sampled_out=total(f"unsampled_{i}"),
            already_scored=total(f"done_{i}"),
            due=total(f"due_{i}"),
            left=total(f"due_{i}"),
            skipped_reasons=Counter(skipped),
        )
        own[spec.name] = total(f"own_{i}")
        elsewhere[spec.name] = total(f"elsewhere_{i}")

    def by_hour(indexes: Sequence[int]) -> dict[int, int]:
        calls = {r["hour"]: sum(r[f"due_{i}"] - r[f"own_{i}"] - r[f"elsewhere_{i}"] for i in indexes) for r in rows}
        return {h: n for h, n in calls.items() if h is not None and n}

    return Selection(
        counts=counts,
        own=own,
        elsewhere=elsewhere,
        calls_by_hour=by_hour(request.code),
        asks_by_hour=by_hour(request.judges),
        has_duplicates=reasons[SkipReason.DUPLICATE_TRACE_ID.value] > 0,
        has_ties=total("ties") > 0,
    )


def plan(request: Request, selection: Selection, *, missing: tuple[str, ...] = ()) -> BackfillPlan:
    """Return the plan of a request whose pairs have been counted."""
    cutter = Cutter(selection.calls_by_hour, request.window, draw_to=highest_rate(request))
    chunks = 0
    while cutter.next(TARGET_PAIRS) is not None:
        chunks += 1
    # How judges' questions are sliced follows their pace: at least one slice.
    chunks += bool(selection.asks_by_hour)
    return BackfillPlan(
        experiment_id=request.experiment_id,
        window=request.window,
        scorers=request.scorers,
        counts=dict(selection.counts),
        calls=selection.calls,
        chunks=chunks,
        source=request.source,
        source_kind=request.source_kind,
        source_version=request.source_version,
        notes=request.notes,
        trace_ids_missing=missing,
    )


def highest_rate(request: Request) -> float:
    """Return the draw that no chosen pair reaches."""
    if request.lists_traces or request.sampling != "hash":
        return 1.0
    return max((s.sample_rate for s in request.scorers), default=1.0) or 1.0


def missing_ids(source: TraceSource, request: Request, choice: DataFrame) -> tuple[str, ...]:
    """Return the listed trace ids that the window does not have (at most 1,000 of them)."""
    there = source.read(
        frozenset({"trace_id", "request_time", "experiment_id"}) & source.columns,
        request.window,
        untimed=True,
        experiment_id=experiment_filter(request),
    ).select("trace_id")
    gone = choice.join(there, "trace_id", "left_anti").select(F.col("trace_id")).orderBy("trace_id").limit(1000)
    return tuple(r[0] for r in gone.collect())
