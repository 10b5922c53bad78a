"""An attempt: one runner's work at one job, and what it knows of it so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, NoReturn

from backfill_spark.errors import BackfillError
from backfill_spark.jobs.events import Event
from backfill_spark.models import Counts, Request
from backfill_spark.results.counts import StagedCounts
from backfill_spark.results.store import ResultStore

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from backfill_spark.display.progress import Progress
    from backfill_spark.jobs.lease import Lease
    from backfill_spark.judges.llm.endpoints import Service
    from backfill_spark.results.counts import PairCounts
    from backfill_spark.settings.schema import Settings
    from backfill_spark.traces.sources import TraceSource


class Canceled(BackfillError):  # noqa: N818 - what a person asked for is no error
    """Somebody asked for the job's end."""


class TooManyErrors(BackfillError):  # noqa: N818 - its name says error already
    """A scorer's share of errors passed the limit."""


@dataclass(slots=True)
class Attempt:
    """One runner at one job."""

    spark: SparkSession
    settings: Settings
    job_id: str
    request: Request
    source: TraceSource
    results: ResultStore
    lease: Lease
    bar: Progress
    planned: Mapping[str, Counts]
    """The counts that the job was created with."""
    choice: DataFrame | None = None
    selection: PairCounts | None = None
    staging_version: int | None = None
    looked_at: int | None = None
    """Version of staging up to which other jobs' writes have been looked at."""
    tallies: dict[str, StagedCounts] = field(default_factory=dict)
    gone: Mapping[str, int] = field(default_factory=dict)
    """Pairs that an earlier epoch has staged and that the source, now read at another version, does not have."""
    waiting: dict[int, tuple[date, ...]] = field(default_factory=dict)
    """Staged chunks that no MERGE has taken yet."""
    stage_seconds: float = 0.0
    """Time in which this epoch scored and staged chunks."""
    rows_waiting: int = 0
    next_chunk: int = 0
    services: Mapping[str, Service] = field(default_factory=dict)
    """Model URI → the service that is asked."""
    probed: frozenset[str] = frozenset()
    """Model URIs whose service has answered a probe."""
    ask_judges: Callable[[Attempt, PairCounts], None] | None = None
    """Gives the judges' pairs their answers, slice of the draw by slice."""
    spent_usd: float = 0.0
    """What all epochs of the job have spent on judges, at most; of unknown prices only what is known."""
    asked: int = 0
    """Requests to models that all epochs of the job have sent, as far as answers tell."""
    reached: float | None = None
    """Draw that the judges came to, when they stopped early."""
    stopped: str | None = None
    """Why the judges stopped early."""
    merged_at: float = field(default_factory=time.monotonic)
    is_merge_open: bool = False
    """True when nobody knows whether the last MERGE landed, or still will."""

    @property
    def calls(self) -> int:
        """Calls that the job has made."""
        return sum(t.calls for t in self.tallies.values())

    @property
    def call_seconds(self) -> float:
        """Time in those calls, added up."""
        return sum(t.seconds for t in self.tallies.values())

    def check(self) -> None:
        """Stop when the lease is lost or the job canceled."""
        self.lease.check()
        if self.lease.is_canceled:
            raise Canceled(f"Job {self.job_id} was canceled.")

    def staged(self, chunk: int, tallies: dict[str, StagedCounts]) -> None:
        """Tell what a staged chunk holds, and count it."""
        counts = {name: [t.scored, t.empty, t.errored, t.calls] for name, t in tallies.items()}
        self.lease.record(Event.CHUNK_STAGED, {"chunk": chunk, "counts": counts})
        self.lease.flush_when_due()
        self.count(tallies)

    def count(self, tallies: dict[str, StagedCounts]) -> None:
        """Add to the job's counts.

        Raises:
            TooManyErrors: a scorer fails too often.
        """
        self.tallies = {name: self.tallies[name] + t for name, t in tallies.items()}
        finished = sum(t.finished for t in tallies.values())
        self.rows_waiting += finished
        self.bar.advance(finished, errors=sum(t.errored for t in tallies.values()))
        for name, tally in self.tallies.items():
            if tally.finished and tally.errored / tally.finished > self.request.max_error_rate:
                raise TooManyErrors(
                    f"Scorer {name!r} failed on {tally.errored:,} of {tally.finished:,} pairs, more than the limit of "
                    f"{self.request.max_error_rate:.0%}. Its error rows say why: outcome = 'error' in assessments."
                )

    def fenced(self) -> NoReturn:
        """Stop: a write of this epoch was skipped, so another runner owns the job.

        Raises:
            LeaseLostError: always.
        """
        self.lease.revoke("a newer epoch of the job has been claimed")
        raise self.lease.lost()
