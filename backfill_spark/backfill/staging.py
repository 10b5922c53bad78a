"""Staging: what a job scores, or takes over from other jobs, becomes its own staged rows, and is merged."""

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
from backfill_spark.results.counts import StagedCounts
from backfill_spark.selection import pairs as P
from backfill_spark.storage.retry import until_alone
from backfill_spark.storage.session import compiled

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from backfill_spark.backfill.attempt import Attempt
    from backfill_spark.models import Chunk
    from backfill_spark.results.stage import Scoring

MERGE_ROWS = 200_000
MERGE_SECONDS = 600.0
MERGE_ATTEMPTS = 50


def collect_earlier(attempt: Attempt) -> None:
    """Take over what earlier epochs of this job have staged: its counts, and its chunks for a MERGE."""
    results, progress = attempt.tables.results, attempt.progress
    progress.staged = {s.name: StagedCounts() for s in attempt.request.scorers}
    if attempt.lease.epoch == 1:
        return
    if results.staging.light is not None and (gone := results.staging.light.drop_missing()):
        attempt.bar.tell(f"{len(gone):,} files of staged results are gone; their pairs are scored again")
    rows = results.staged_by(attempt.job_id).select("chunk", "trace_date").distinct().collect()
    progress.next_chunk = max((row["chunk"] for row in rows), default=-1) + 1
    for row in rows:
        progress.waiting[row["chunk"]] = (*progress.waiting.get(row["chunk"], ()), row["trace_date"])
    if rows:
        attempt.count(results.count(attempt.job_id, attempt.request.scorers))
        attempt.bar.discount(attempt.bar.done)
        attempt.bar.tell("took over what earlier runners have staged")


def stage(attempt: Attempt, chunk: Chunk, scored: DataFrame | Scoring) -> None:
    """Score the chunk, append what came of it in one commit, and count it."""
    failpoint(Failpoint.BEFORE_STAGE)
    results, progress, began = attempt.tables.results, attempt.progress, time.monotonic()
    with compiled(attempt.tables.spark, rows=chunk.pairs):
        txn = attempt.lease.next_txn()
        staged = results.stage(scored, attempt.job_id, attempt.request, chunk, txn)
    if staged is None:
        attempt.fenced()
    progress.stage_seconds += time.monotonic() - began
    failpoint(Failpoint.AFTER_STAGE)
    progress.waiting[chunk.index] = chunk.dates
    progress.fresh[chunk.index] = staged
    attempt.record_staged(chunk.index, staged.counts)
    took = duration(time.monotonic() - began)
    attempt.bar.tell(f"chunk {chunk.index} of {chunk.window}: {staged.pairs:,} pairs in {took}")


# --- what other jobs have staged


def reuse_staged(attempt: Attempt) -> None:
    """Take what other jobs have staged for this job's due pairs; no scorer is called."""
    version = attempt.inputs.staging_version
    if sum(attempt.inputs.pairs.elsewhere.values()) and version is not None:
        _take_over(attempt, attempt.inputs.candidates(version), version)


def poll_other_jobs(attempt: Attempt) -> None:
    """Adopt what other live jobs have staged for due pairs since the last look, so that it is not paid twice."""
    if attempt.request.reprocess is Reprocess.ALL:
        return
    store, inputs, progress = attempt.tables.results.staging, attempt.inputs, attempt.progress
    seen = progress.looked_at if progress.looked_at is not None else inputs.staging_version or 0
    progress.looked_at = store.version()
    versions = store.versions_of_others(seen, progress.looked_at, attempt.job_id)
    for version in versions:
        _take_over(attempt, inputs.candidates(version, own_version=store.version()), version)
    if versions:
        # What comes in between is not called either, and is adopted by the next look.
        attempt.inputs = replace(inputs, staging_version=store.version(), is_untouched=False)


def _take_over(attempt: Attempt, pairs: DataFrame, version: int) -> None:
    """Copy to this job what other jobs have staged of `pairs` at a version, in one commit, and count it."""
    results, job_id, progress = attempt.tables.results, attempt.job_id, attempt.progress
    mine = P.due_mask().bitwiseAND(F.bitwise_not(F.col("own"))).bitwiseAND(F.col("elsewhere"))
    due = pairs.select("trace_id", "trace_date", mine.alias("adopt")).where("adopt != 0")
    number, progress.next_chunk = progress.next_chunk, progress.next_chunk + 1
    if not results.adopt(due, job_id, attempt.request, number, version, attempt.lease.next_txn()):
        attempt.fenced()
    rows = results.staged_by(job_id, [number]).select("trace_date").distinct().collect()
    if not rows:
        return
    progress.waiting[number] = tuple(r[0] for r in rows)
    reused = results.count(job_id, attempt.request.scorers, [number])
    attempt.record_staged(number, reused)
    count = sum(t.finished for t in reused.values())
    attempt.bar.discount(count)
    attempt.bar.tell(f"chunk {number}: reused {count:,} pairs that other jobs have staged, without a call")


# --- merge


def merge(attempt: Attempt) -> None:
    """MERGE every waiting chunk into `assessments`; conflicts with other jobs are tried again."""
    progress = attempt.progress
    if not progress.waiting:
        return
    failpoint(Failpoint.BEFORE_MERGE)
    numbers = sorted(progress.waiting)
    dates = sorted({d for days in progress.waiting.values() for d in days})
    began = time.monotonic()

    fresh = {number: progress.fresh.pop(number) for number in numbers if number in progress.fresh}

    def once() -> bool:
        attempt.check()
        txn, rows, scored = attempt.lease.next_txn(), progress.rows_waiting, dict(fresh)
        fresh.clear()  # of the next try nobody can say so
        try:
            with attempt.bar.merging(rows), compiled(attempt.tables.spark, rows=rows):
                return attempt.tables.results.merge(attempt.job_id, attempt.request, numbers, dates, txn, fresh=scored)
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
