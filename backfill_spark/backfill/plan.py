"""The plan: what a request comes to, in counts. It calls no scorer and loads no scorer code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backfill_spark.backfill.chunks import TARGET_PAIRS, Cutter
from backfill_spark.models import Counts, Request, ScorerSpec, TimeWindow
from backfill_spark.results.counts import PairCounts
from backfill_spark.results.due import highest_rate

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, repr=False)
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

    def __repr__(self) -> str:
        names = ", ".join(spec.name for spec in self.scorers)
        return f"BackfillPlan({self.calls:,} calls of {names} in {self.window})"

    def _repr_html_(self) -> str:
        from backfill_spark.display import views

        return views.plan_sheet(self).html()

    def __str__(self) -> str:
        from backfill_spark.display import views

        return views.plan_sheet(self).text()


def plan(request: Request, selection: PairCounts, *, missing: tuple[str, ...] = ()) -> BackfillPlan:
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
