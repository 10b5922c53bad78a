"""BackfillJob: what a caller sees of one job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from backfill_spark.jobs.events import moment
from backfill_spark.models import Counts, JobState, ScorerSpec, TimeWindow

if TYPE_CHECKING:
    import pandas as pd

    from backfill_spark.jobs.events import JobRecord


@dataclass(frozen=True, slots=True, repr=False)
class BackfillJob:
    """A backfill job as it was when it was asked for; `get_backfill` gives a fresh one."""

    job_id: str
    state: JobState
    alive: bool
    """True while a runner holds the job's lease."""
    experiment_id: str
    window: TimeWindow
    scorers: tuple[ScorerSpec, ...]
    counts: dict[str, Counts]
    calls: int
    cost_usd: float | None
    rate_reached: float | None
    source: str
    source_version: str
    error: str | None
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    owner: str | None = None
    notes: tuple[str, ...] = ()
    trace_ids_missing: tuple[str, ...] = ()
    source_kind: str = ""
    """`delta path`, `parquet path` or `table`; "" in jobs of versions that did not record it."""
    tables: str = ""
    """Where the job's tables are: a folder or `catalog.schema`."""
    warnings: tuple[str, ...] = ()
    """A sentence for each scorer that failed on more than half of its pairs, with its most frequent error."""
    known_summary: tuple[Mapping[str, Any], ...] | None = field(default=None, repr=False, compare=False)
    """The rows of `summary()` as somebody last read them, and `summary_at` when; None when nobody has."""
    summary_at: datetime | None = field(default=None, repr=False, compare=False)
    _summarise: Callable[[], Sequence[Mapping[str, Any]]] | None = field(default=None, repr=False, compare=False)

    @property
    def progress(self) -> float:
        """Share of the due pairs that have a result staged, in [0, 1]."""
        due = sum(c.due for c in self.counts.values())
        if due == 0:
            return 1.0 if self.state.is_at_rest else 0.0
        return (due - sum(c.left for c in self.counts.values())) / due

    def summary(self) -> pd.DataFrame:
        """Return a pandas frame over the current results of the job's selected pairs: a row a scorer and feedback name.

        Columns, in the order in which they are read: scorer, feedback (its name), version, rate_reached (the sampling
        rate, or less in a job that stopped before), n (numbers among the values), population (traces that the
        scorer's filter matches), mean, ci_low and ci_high (95 %), results_errored and most_frequent_error, the
        scorer's aggregations, results, sample_rate, and the job's counts of the scorer.

        Where the pinned source cannot be read, these are empty, `source_unreadable` says why, and n_seen, mean_seen
        and the like are over the results that the job itself merged.
        """
        if self._summarise is None:
            raise RuntimeError("this BackfillJob was not read from the tables; use get_backfill(job_id)")
        import pandas as pd

        return pd.DataFrame(self._summarise())

    def __repr__(self) -> str:
        names = ", ".join(spec.name for spec in self.scorers)
        return f"BackfillJob({self.job_id!r}, {self.state}, {self.progress:.0%} of {names})"

    def _repr_html_(self) -> str:
        from backfill_spark.display import views

        return views.job_sheet(self).html()

    def __str__(self) -> str:
        from backfill_spark.display import views

        return views.job_sheet(self).text()


def job_of(
    record: JobRecord,
    *,
    now: float | None = None,
    tables: str = "",
    summarise: Callable[[BackfillJob], Sequence[Mapping[str, Any]]] | None = None,
) -> BackfillJob:
    """Return the job that a record tells of."""
    request: dict[str, Any] = record.created["request"] | dict(record.changes)
    planned = {n: Counts.from_json(c) for n, c in record.created["counts"].items()}
    counts = (
        {n: Counts.from_json(c) for n, c in record.end["counts"].items()} if record.end else _running(record, planned)
    )
    made: list[BackfillJob] = []
    job = BackfillJob(
        job_id=record.job_id,
        state=record.state,
        alive=record.is_alive(time.time() if now is None else now),
        experiment_id=request["experiment_id"],
        window=TimeWindow.from_json(request["window"]),
        scorers=tuple(ScorerSpec.from_json(s) for s in request["scorers"]),
        counts=counts,
        calls=sum(c.calls for c in counts.values()),
        cost_usd=record.end.get("cost_usd"),
        rate_reached=record.end.get("rate_reached"),
        source=request["source"],
        source_version=request["source_version"],
        error=record.end.get("error"),
        created_at=moment(record.created.get("created_at")),
        started_at=moment(record.started_at),
        ended_at=moment(record.ended_at),
        owner=record.owner,
        notes=tuple(request["notes"]),
        trace_ids_missing=tuple(record.created.get("trace_ids_missing", ())),
        source_kind=request.get("source_kind", ""),
        tables=tables,
        warnings=tuple(record.end.get("warnings", ())),
        known_summary=None if record.summary is None else tuple(record.summary["rows"]),
        summary_at=None if record.summary is None else moment(record.summary["at"]),
        _summarise=(lambda: summarise(made[0])) if summarise is not None else None,
    )
    made.append(job)
    return job


def _running(record: JobRecord, planned: Mapping[str, Counts]) -> dict[str, Counts]:
    """Counts of a job on its way: the plan's, with what its chunks have staged."""
    out = {}
    for name, counts in planned.items():
        rows = [c["counts"].get(name, (0, 0, 0, 0)) for c in record.staged.values()]
        scored, empty, errored, calls = (sum(r[i] for r in rows) for i in range(4))
        left = max(counts.due - scored - empty - errored, 0)
        out[name] = replace(counts, scored=scored, empty=empty, errored=errored, calls=calls, left=left)
    return out
