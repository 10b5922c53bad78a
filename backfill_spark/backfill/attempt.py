"""An attempt: one runner's work at one job, made of what it reads, how far it is, and its right to write."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, NoReturn

from backfill_spark.errors import BackfillError
from backfill_spark.jobs.events import Event
from backfill_spark.models import Chunk, Counts
from backfill_spark.results.counts import StagedChunk, StagedCounts

if TYPE_CHECKING:
    from backfill_spark.backfill.inputs import Inputs
    from backfill_spark.backfill.spending import Spending
    from backfill_spark.backfill.tables import Tables
    from backfill_spark.display.progress import Progress
    from backfill_spark.jobs.lease import Lease
    from backfill_spark.models import Request


class Canceled(BackfillError):  # noqa: N818 - what a person asked for is no error
    """Somebody asked for the job's end."""


class TooManyErrors(BackfillError):  # noqa: N818 - its name says error already
    """A scorer's share of errors passed the limit."""


@dataclass(slots=True)
class JobProgress:
    """How far a job is."""

    planned: Mapping[str, Counts]
    """Counts up to `due`: those that the job was created with, until this attempt has counted."""
    spending: Spending
    staged: dict[str, StagedCounts] = field(default_factory=dict)
    """Scorer → what all attempts at the job have staged."""
    gone: Mapping[str, int] | None = None
    """Pairs that an earlier attempt has staged and that the source, now read at another version, does not have.

    None until this attempt has counted.
    """
    waiting: dict[int, tuple[date, ...]] = field(default_factory=dict)
    """Staged chunks that no MERGE has taken yet."""
    fresh: dict[int, StagedChunk] = field(default_factory=dict)
    """Chunks that this attempt has scored, and whose MERGE it has not tried: nobody can have merged them."""
    rows_waiting: int = 0
    next_chunk: int = 0
    says_part: bool = False
    """True when an event says which part of the job is under way; before, the claim says all of it."""
    looked_at: int | None = None
    """Version of staging up to which other jobs' writes have been looked at."""
    stage_seconds: float = 0.0
    """Time in which this attempt scored and staged chunks."""
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
        return sum(t.calls for t in self.staged.values())

    @property
    def call_seconds(self) -> float:
        """Time in those calls, added up."""
        return sum(t.seconds for t in self.staged.values())

    def numbered(self, chunk: Chunk) -> Chunk:
        """Return the chunk under the job's next number; numbers of earlier attempts are not used again."""
        self.next_chunk += 1
        return replace(chunk, index=self.next_chunk - 1)


@dataclass(slots=True)
class Attempt:
    """One runner at one job."""

    tables: Tables
    request: Request
    """As it was recorded."""
    lease: Lease
    progress: JobProgress
    bar: Progress
    inputs: Inputs = field(init=False)
    """There from `open` on."""

    @property
    def job_id(self) -> str:
        return self.lease.job_id

    def open(self, inputs: Inputs) -> None:
        """Take over what the job reads, and what it comes to."""
        self.inputs, progress = inputs, self.progress
        progress.planned, own = inputs.pairs.counts, inputs.pairs.own
        progress.gone = {name: max(t.finished - own[name], 0) for name, t in progress.staged.items()}

    def check(self) -> None:
        """Stop when the lease is lost or the job canceled."""
        self.lease.check()
        if self.lease.is_canceled:
            raise Canceled(f"Job {self.job_id} was canceled.")

    def record_staged(self, chunk: int, staged: Mapping[str, StagedCounts]) -> None:
        """Record what a staged chunk holds, and count it."""
        counts = {name: [t.scored, t.empty, t.errored, t.calls] for name, t in staged.items()}
        self.lease.record(Event.CHUNK_STAGED, {"chunk": chunk, "counts": counts})
        self.lease.flush_when_due()
        self.count(staged)

    def count(self, staged: Mapping[str, StagedCounts]) -> None:
        """Add to the job's counts.

        Raises:
            TooManyErrors: a scorer fails too often.
        """
        progress = self.progress
        progress.staged = {name: progress.staged[name] + t for name, t in staged.items()}
        finished = sum(t.finished for t in staged.values())
        progress.rows_waiting += finished
        self.bar.advance(finished, errors=sum(t.errored for t in staged.values()))
        for name, total in progress.staged.items():
            if total.finished and total.errored / total.finished > self.request.max_error_rate:
                raise TooManyErrors(
                    f"Scorer {name!r} failed on {total.errored:,} of {total.finished:,} pairs, more than the limit of "
                    f"{self.request.max_error_rate:.0%}. Its error rows say why: outcome = 'error' in assessments."
                )

    def fenced(self) -> NoReturn:
        """Stop: a write of this epoch was skipped, so another runner owns the job.

        Raises:
            LeaseLostError: always.
        """
        self.lease.revoke("a newer epoch of the job has been claimed")
        raise self.lease.lost()
