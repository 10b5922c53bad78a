"""Adoption: results that other jobs have staged for this job's due pairs are taken over; no scorer is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from backfill_spark.models import Reprocess
from backfill_spark.results.due import candidates
from backfill_spark.selection import pairs as P

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from backfill_spark.backfill.attempt import Attempt
    from backfill_spark.results.counts import PairCounts


def reuse_staged(attempt: Attempt, selection: PairCounts) -> None:
    """Take what other jobs have staged for this job's due pairs; no scorer is called."""
    if sum(selection.elsewhere.values()) and attempt.staging_version is not None:
        take_over(attempt, all_candidates(attempt, attempt.staging_version), attempt.staging_version)


def poll_other_jobs(attempt: Attempt) -> None:
    """Adopt what other live jobs have staged for due pairs since the last look, so that it is not paid twice."""
    if attempt.request.reprocess is Reprocess.ALL:
        return
    store = attempt.results.staging
    seen = attempt.looked_at if attempt.looked_at is not None else attempt.staging_version or 0
    attempt.looked_at = store.version()
    versions = store.versions_of_others(seen, attempt.looked_at, attempt.job_id)
    for version in versions:
        take_over(attempt, all_candidates(attempt, version, own_version=store.version()), version)
    if versions:
        # What comes in between is not called either, and is adopted by the next look.
        attempt.staging_version = store.version()


def take_over(attempt: Attempt, pairs: DataFrame, version: int) -> None:
    """Copy to this job what other jobs have staged of `pairs` at a version, in one commit, and count it."""
    mine = P.due_mask().bitwiseAND(F.bitwise_not(F.col("own"))).bitwiseAND(F.col("elsewhere"))
    due = pairs.select("trace_id", "trace_date", mine.alias("adopt")).where("adopt != 0")
    number, attempt.next_chunk = attempt.next_chunk, attempt.next_chunk + 1
    txn = attempt.lease.next_txn()
    if not attempt.results.adopt(due, attempt.job_id, attempt.request, number, version, txn):
        attempt.fenced()
    rows = attempt.results.staged_by(attempt.job_id, [number]).select("trace_date").distinct().collect()
    if not rows:
        return
    attempt.waiting[number] = tuple(r[0] for r in rows)
    reused = attempt.results.tally(attempt.job_id, attempt.request.scorers, [number])
    attempt.staged(number, reused)
    count = sum(t.finished for t in reused.values())
    attempt.bar.discount(count)
    attempt.bar.tell(f"chunk {number}: reused {count:,} pairs that other jobs have staged, without a call")


def all_candidates(attempt: Attempt, version: int | None, *, own_version: int | None = None) -> DataFrame:
    """Return the light rows of the whole window with their masks, by a version of staging."""
    return candidates(
        attempt.request,
        attempt.source,
        attempt.results,
        choice=attempt.choice,
        job_id=attempt.job_id,
        staging_version=version,
        own_version=own_version,
    )
