"""Staging: what a job scores, or takes over from other jobs, becomes its own staged chunks, and is merged."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from pyspark.errors import AnalysisException
from pyspark.sql import functions as F

from backfill_spark.display.render import duration
from backfill_spark.jobs.events import Event
from backfill_spark.jobs.failpoints import Failpoint, failpoint
from backfill_spark.models import Reprocess
from backfill_spark.results.staged import Staged, StagedChunk, StagedCounts
from backfill_spark.results.staged_files import RECOVERED
from backfill_spark.selection import pairs as P
from backfill_spark.settings.sections import parse_duration
from backfill_spark.storage.retry import until_alone
from backfill_spark.storage.session import compiled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import DataFrame

    from backfill_spark.backfill.attempt import Attempt
    from backfill_spark.backfill.tables import Tables
    from backfill_spark.jobs.events import JobRecord
    from backfill_spark.models import Chunk
    from backfill_spark.results.write import Scoring

MERGE_ROWS = 200_000
MERGE_SECONDS = 600.0
MERGE_ATTEMPTS = 50


def collect_earlier(attempt: Attempt) -> None:
    """Take over what earlier epochs of this job have staged: its counts, and its chunks for a MERGE."""
    results, progress, record = attempt.tables.results, attempt.progress, attempt.lease.claimed
    progress.staged = {s.name: StagedCounts() for s in attempt.request.scorers}
    chunks = staged_by(record)
    progress.next_chunk = max((chunk.chunk for chunk in chunks), default=-1) + 1
    if record.epoch > 1 and not any(chunk.paths for chunk in chunks):
        _collect_of_older_version(attempt)
        chunks = [chunk for chunk in chunks if chunk.paths or not chunk.pairs or chunk.chunk in record.merged]
    if not chunks:
        return
    unmerged = [chunk for chunk in chunks if chunk.chunk not in record.merged]
    gone = {chunk.chunk for chunk in results.waiting.gone(unmerged)}
    if gone:
        lost = sum(chunk.pairs for chunk in unmerged if chunk.chunk in gone)
        attempt.bar.tell(f"staged files of {len(gone):,} chunks are gone; their {lost:,} pairs are scored again")
    for chunk in unmerged:
        if chunk.chunk not in gone:
            progress.chunks[chunk.chunk] = chunk
            progress.waiting.add(chunk.chunk)
            progress.rows_waiting += chunk.pairs
    for chunk in chunks:
        if chunk.chunk not in gone:
            attempt.count(chunk)
    attempt.bar.discount(attempt.bar.done)
    attempt.bar.tell("took over what earlier runners have staged")


def _collect_of_older_version(attempt: Attempt) -> None:
    """Take over what an older version of this package has staged of the job, whose events name no files."""
    merged, number = attempt.lease.claimed.merged, attempt.progress.next_chunk
    found = attempt.tables.results.staged_before(attempt.job_id, attempt.request, merged, number)
    if found is not None and found.pairs:
        attempt.progress.next_chunk += 1
        attempt.add(found, is_fresh=False)


def stage(attempt: Attempt, chunk: Chunk, scored: DataFrame | Scoring) -> None:
    """Score the chunk, write what came of it, stage and count it."""
    failpoint(Failpoint.BEFORE_STAGE)
    results, progress, began = attempt.tables.results, attempt.progress, time.monotonic()
    with compiled(attempt.tables.spark, rows=chunk.pairs):
        staged = results.stage(scored, attempt.job_id, attempt.request, chunk, attempt.lease.epoch)
    failpoint(Failpoint.AFTER_FILES)
    attempt.add(staged, is_fresh=True)
    results.waiting.drop_recovered(attempt.job_id)
    progress.stage_seconds += time.monotonic() - began
    failpoint(Failpoint.AFTER_STAGE)
    took = duration(time.monotonic() - began)
    attempt.bar.tell(f"chunk {chunk.index} of {chunk.window}: {staged.pairs:,} pairs in {took}")


# --- what other jobs have staged


def staged_by(record: JobRecord) -> list[StagedChunk]:
    """Return the chunks that a job has staged, merged or not."""
    return [StagedChunk.from_json(record.job_id, told) for told in record.staged.values()]


def staged_elsewhere(tables: Tables, experiment_id: str, job_id: str = "") -> Staged:
    """Return what other jobs have staged; for a job whose runner is dead, with what that had scored and not staged.

    A version of `assessments` is to be pinned afterwards.
    """
    succeeded, merged = tables.jobs.succeeded(experiment_id), set[tuple[str, int]]()
    kept_s = parse_duration(tables.settings.limits.staging_retention).total_seconds()
    waiting, now = tables.results.waiting, tables.jobs.clock()
    found: list[StagedChunk] = []
    for record in tables.jobs.with_staged(experiment_id, job_id, kept_s):
        chunks = staged_by(record)
        merged |= {chunk.key for chunk in chunks if chunk.chunk in record.merged}
        found += [chunk for chunk in chunks if chunk.chunk not in record.merged]
        if not record.is_alive(now) and (recovered := waiting.recovered(record.job_id, chunks)) is not None:
            found.append(recovered)
    gone = {chunk.key for chunk in waiting.gone(found)}
    return Staged(tuple(chunk for chunk in found if chunk.key not in gone), frozenset(merged), succeeded)


def reuse_staged(attempt: Attempt) -> None:
    """Take what other jobs have staged for this job's due pairs, or runners that are gone; no scorer is called."""
    staged = attempt.inputs.staged
    theirs = [c for c in staged.chunks if c.job_id != attempt.job_id or c.chunk == RECOVERED]
    attempt.progress.seen |= staged.merged | {chunk.key for chunk in theirs}
    if sum(attempt.inputs.pairs.elsewhere.values()):
        _take_over(attempt, theirs)
        for chunk in theirs:
            if chunk.job_id == attempt.job_id:
                attempt.tables.results.waiting.drop_recovered(attempt.job_id, chunk)
    attempt.inputs = replace(attempt.inputs, staged=replace(staged, chunks=attempt.mine))


def poll_other_jobs(attempt: Attempt) -> None:
    """Adopt what other jobs have staged for due pairs since the last look, so that it is not paid twice."""
    if attempt.request.reprocess is not Reprocess.ALL and (new := _staged_since(attempt)):
        _take_over(attempt, new)


def _staged_since(attempt: Attempt) -> list[StagedChunk]:
    """Return the chunks that other jobs have staged since the last look, merged or not."""
    jobs, progress = attempt.tables.jobs, attempt.progress
    stamp = jobs.jobs.stamp()
    if stamp is not None and stamp == progress.looked_at and not progress.others:
        return []
    experiment = attempt.request.experiment_id
    # One may have begun and SUCCEEDED between two looks.
    more = progress.others | (jobs.succeeded(experiment) - attempt.inputs.staged.succeeded)
    found = jobs.active(experiment, attempt.job_id, more)
    progress.looked_at, progress.others = stamp, {r.job_id for r in found if not r.state.is_at_rest}
    new = [chunk for record in found for chunk in staged_by(record) if chunk.key not in progress.seen]
    progress.seen |= {chunk.key for chunk in new}
    return new


def _take_over(attempt: Attempt, theirs: Sequence[StagedChunk]) -> None:
    """Copy to this job what other jobs have staged of its due pairs, as a chunk of its own, and count it."""
    results, progress = attempt.tables.results, attempt.progress
    if gone := {chunk.key for chunk in results.waiting.gone(theirs)}:
        # Their job has SUCCEEDED: what it staged is among the results of now.
        attempt.open(attempt.inputs.recounted(replace(attempt.inputs.staged, chunks=attempt.mine)))
        theirs = [chunk for chunk in theirs if chunk.key not in gone]
    number, progress.next_chunk = progress.next_chunk, progress.next_chunk + 1
    try:
        pairs = attempt.inputs.candidates((*theirs, *attempt.mine))
        mine = P.due_mask().bitwiseAND(F.bitwise_not(F.col("own"))).bitwiseAND(F.col("elsewhere"))
        due = pairs.select("trace_id", "trace_date", mine.alias("adopt")).where("adopt != 0")
        reused = results.adopt(due, theirs, attempt.job_id, attempt.request, number)
    except Exception:
        if not results.waiting.gone(theirs):
            raise
        _take_over(attempt, theirs)
        return
    if reused.pairs:
        attempt.add(reused, is_fresh=False)
        attempt.bar.discount(reused.pairs)
        attempt.bar.tell(
            f"chunk {number}: reused {reused.pairs:,} pairs that other runners have scored, without a call"
        )
    # What comes in between is not called either, and is adopted by the next look.
    staged = replace(attempt.inputs.staged, chunks=attempt.mine)
    attempt.inputs = replace(attempt.inputs, staged=staged, is_untouched=False)


# --- merge


def merge(attempt: Attempt) -> None:
    """MERGE every waiting chunk into `assessments`; conflicts with other jobs are tried again."""
    progress = attempt.progress
    if not progress.waiting:
        return
    failpoint(Failpoint.BEFORE_MERGE)
    numbers = sorted(progress.waiting)
    chunks = [progress.chunks[number] for number in numbers]
    began = time.monotonic()

    def once() -> bool:
        attempt.check()
        attempt.lease.flush_recorded()
        txn, rows, is_fresh = attempt.lease.next_txn(), progress.rows_waiting, progress.fresh.issuperset(numbers)
        progress.fresh.difference_update(numbers)  # of the next try nobody can say so
        try:
            with attempt.bar.merging(rows), compiled(attempt.tables.spark, rows=rows):
                return attempt.tables.results.merge(attempt.job_id, attempt.request, chunks, txn, is_fresh=is_fresh)
        except Exception as error:
            # What Spark refuses to plan was never sent.
            progress.is_merge_open = not isinstance(error, AnalysisException)
            raise

    def note(tried: int) -> None:
        attempt.lease.record(Event.CONFLICT, {"chunks": numbers, "attempt": tried})
        attempt.bar.tell(f"conflict with another writer at MERGE, tried again (attempt {tried})")
        attempt.lease.flush()

    if not until_alone(once, attempts=MERGE_ATTEMPTS, between=note):
        attempt.fenced()
    progress.is_merge_open = False
    failpoint(Failpoint.AFTER_MERGE)
    attempt.lease.record(Event.CHUNK_MERGED, {"chunks": numbers})
    took = duration(time.monotonic() - began)
    attempt.bar.tell(f"MERGE of {progress.rows_waiting:,} pairs from {len(numbers):,} chunks in {took}")
    for number in numbers:
        progress.chunks[number] = replace(progress.chunks[number], files=())
    progress.waiting.clear()
    progress.rows_waiting = 0
    progress.merged_at = time.monotonic()


def merge_when_due(attempt: Attempt) -> None:
    """MERGE when enough rows wait, or when the last one was long ago."""
    progress = attempt.progress
    if progress.rows_waiting >= MERGE_ROWS or time.monotonic() - progress.merged_at >= MERGE_SECONDS:
        merge(attempt)


def fence_open_merge(attempt: Attempt) -> None:
    """Shut out a MERGE that may still land: after this write, one with a lower number fails or is skipped."""
    if not attempt.progress.is_merge_open:
        return
    store = attempt.tables.results.assessments
    if not store.append(store.frame([]), txn=attempt.lease.next_txn()):
        attempt.fenced()
    attempt.progress.is_merge_open = False
