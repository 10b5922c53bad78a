"""Adoption: results that other jobs have staged for this job's due pairs are taken over; no scorer is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from backfill_spark import pairs as P
from backfill_spark.models import Reprocess
from backfill_spark.plan import chosen_pairs

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from backfill_spark.epoch import Epoch
    from backfill_spark.plan import Selection


def adopt(epoch: Epoch, selection: Selection) -> None:
    """Take what other jobs have staged for this job's due pairs; no scorer is called."""
    if sum(selection.elsewhere.values()) and epoch.staging_version is not None:
        take_over(epoch, everything(epoch, epoch.staging_version), epoch.staging_version)


def look_again(epoch: Epoch) -> None:
    """Adopt what other live jobs have staged for due pairs since the last look, so that it is not paid twice."""
    if epoch.request.reprocess is Reprocess.ALL:
        return
    store = epoch.results.staging
    seen = epoch.looked_at if epoch.looked_at is not None else epoch.staging_version or 0
    epoch.looked_at = store.version()
    versions = store.versions_of_others(seen, epoch.looked_at, epoch.job_id)
    for version in versions:
        take_over(epoch, everything(epoch, version, own_version=store.version()), version)
    if versions:
        # What comes in between is not called either, and is adopted by the next look.
        epoch.staging_version = store.version()


def take_over(epoch: Epoch, pairs: DataFrame, version: int) -> None:
    """Copy to this job what other jobs have staged of `pairs` at a version, in one commit, and count it."""
    mine = P.due_mask().bitwiseAND(F.bitwise_not(F.col("own"))).bitwiseAND(F.col("elsewhere"))
    due = pairs.select("trace_id", "trace_date", mine.alias("adopt")).where("adopt != 0")
    number, epoch.next_chunk = epoch.next_chunk, epoch.next_chunk + 1
    txn = epoch.lease.next_txn()
    if not epoch.results.adopt(due, epoch.job_id, epoch.request, number, version, txn):
        epoch.fenced()
    rows = epoch.results.staged_by(epoch.job_id, [number]).select("trace_date").distinct().collect()
    if not rows:
        return
    epoch.waiting[number] = tuple(r[0] for r in rows)
    epoch.staged(number, epoch.results.tally(epoch.job_id, epoch.request.scorers, [number]))


def everything(epoch: Epoch, version: int | None, *, own_version: int | None = None) -> DataFrame:
    """Return the light rows of the whole window with their masks, by a version of staging."""
    return chosen_pairs(
        epoch.request,
        epoch.source,
        epoch.results,
        choice=epoch.choice,
        job_id=epoch.job_id,
        staging_version=version,
        own_version=own_version,
    )
