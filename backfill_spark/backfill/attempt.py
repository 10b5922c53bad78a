"""An attempt: one runner's work at one job, made of what it reads, how far it is, and its right to write."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn

from backfill_spark.errors import BackfillError
from backfill_spark.jobs.events import Event
from backfill_spark.models import Chunk, Counts
from backfill_spark.results.staged import StagedChunk, StagedCounts, added

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
    chunks: dict[int, StagedChunk] = field(default_factory=dict)
    """Those that this attempt has staged, and those of earlier ones that are not merged."""
    waiting: set[int] = field(default_factory=set)
    """Of them those that no MERGE has taken yet."""
    fresh: set[int] = field(default_factory=set)
    """Those that this attempt has scored, and whose MERGE it has not tried: nobody can have merged them."""
    rows_waiting: int = 0
    next_chunk: int = 0
    says_part: bool = False
    """True when an event says which part of the job is under way; before, the claim says all of it."""
    seen: set[tuple[str, int]] = field(default_factory=set)
    """Chunks of other jobs that have been looked at."""
    looked_at: str | None = None
    """Stamp of the table `jobs` when other jobs were looked at last."""
    others: set[str] = field(default_factory=set)
    """Other jobs that were not at rest then."""
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

    @property
    def mine(self) -> tuple[StagedChunk, ...]:
        """What the job has staged and `assessments` may lack, at the version that its inputs go by."""
        return tuple(self.progress.chunks.values())

    def check(self) -> None:
        """Stop when the lease is lost or the job canceled."""
        self.lease.check()
        if self.lease.is_canceled:
            raise Canceled(f"Job {self.job_id} was canceled.")

    def add(self, staged: StagedChunk, *, is_fresh: bool) -> None:
        """Stage a chunk: from this event on its pairs are paid for, and are never called again.

        Args:
            is_fresh: it was scored just now, not taken over.

        Raises:
            TooManyErrors: a scorer fails too often.
            LeaseLostError: another runner has fenced this one off: nothing was staged.
        """
        progress = self.progress
        self.lease.record(Event.CHUNK_STAGED, staged.to_json())
        progress.chunks[staged.chunk] = staged
        progress.waiting.add(staged.chunk)
        if is_fresh:
            progress.fresh.add(staged.chunk)
        progress.rows_waiting += staged.pairs
        try:
            self.count(staged)
        finally:
            # What cannot be written now is written before the next MERGE, or with the job's end.
            self.lease.flush()

    def count(self, staged: StagedChunk) -> None:
        """Add a chunk to the job's counts.

        Raises:
            TooManyErrors: a scorer fails too often.
        """
        progress = self.progress
        progress.staged = added([progress.staged, staged.counts])
        self.bar.advance(staged.pairs, errors=sum(t.errored for t in staged.counts.values()))
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
