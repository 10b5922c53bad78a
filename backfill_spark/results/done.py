"""Which pairs have a result, and which are staged: masks beside the chosen ones, at pinned versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from backfill_spark.models import Outcome, Reprocess, Request
from backfill_spark.results.rows import position_of
from backfill_spark.results.store import day_literal

if TYPE_CHECKING:
    from backfill_spark.results.staged import StagedChunk
    from backfill_spark.results.store import ResultStore

MASKS = ("done", "own", "elsewhere")
NAMED_FILES = 1_000
"""So many files of results Spark is given by name."""
SENT_ROWS = 500_000
"""Masks of so many results are sent to all tasks; else the traces of a chunk are sorted, with their texts."""


def with_done(
    results: ResultStore,
    chosen: DataFrame,
    request: Request,
    *,
    job_id: str | None,
    staged: Sequence[StagedChunk],
    dates: tuple[date, date] | None = None,
) -> DataFrame:
    """Add the masks `done` (has a result of another job), `own` (of `job_id`) and `elsewhere` (staged by another).

    Args: as of `found_masks`.
    """
    found = found_masks(results, request, job_id=job_id, staged=staged, dates=dates)
    if found is None:
        return chosen.withColumns({name: F.lit(0).cast("bigint") for name in MASKS})
    masks = found.frame.groupBy("trace_id", "trace_date").agg(*(F.bit_or(name).alias(name) for name in MASKS))
    if found.most_rows is not None and found.most_rows <= SENT_ROWS:
        masks = F.broadcast(masks)
    joined = chosen.join(masks, ["trace_id", "trace_date"], "left")
    joined = joined.withColumns({name: F.coalesce(F.col(name), F.lit(0).cast("bigint")) for name in MASKS})
    return joined.withColumn("done", done_elsewhere())


def done_elsewhere() -> Column:
    """The mask `done` but for `own`: what an earlier epoch of the job has staged is the job's, merged or not."""
    return F.col("done").bitwiseAND(F.bitwise_not(F.col("own")))


@dataclass(frozen=True, slots=True)
class Found:
    """Pairs that have a result or a staged one."""

    frame: DataFrame
    """trace_id, trace_date and the masks; several rows a trace, and of pairs that are both staged and merged."""
    most_rows: int | None
    """How many results are read at most; None where that is not known."""


def found_masks(
    results: ResultStore,
    request: Request,
    *,
    job_id: str | None,
    staged: Sequence[StagedChunk],
    dates: tuple[date, date] | None = None,
) -> Found | None:
    """Return which pairs of the job's scorers have a result, or a staged one; None where it is known that none has.

    Args:
        job_id: whose results are `own`.
        staged: chunks whose results `assessments` may lack at the request's version, of this job and of others.
        dates: of a chunk; default: those of the window. Results of other dates are not read.
    """
    parts: list[DataFrame] = []
    most: int | None = sum(chunk.pairs for chunk in staged)
    dates = request.window.dates if dates is None else dates
    where = {"experiment_id": [request.experiment_id], "scorer_name": [s.name for s in request.scorers]}
    at = request.results_version
    if request.reprocess is Reprocess.ALL:
        # Nothing else counts.
        at, where["job_id"] = (None if job_id is None else at), [str(job_id)]
        staged = [chunk for chunk in staged if chunk.job_id == job_id]
    files = None if at is None else results.assessments.files_with(where, at, dates)
    if at is not None and (files is None or files.names):
        # Measured with 30 files: 1 CPU second, and 3 where Spark reads Delta's log of the version first.
        is_named = files is not None and files.is_plain and len(files.names) <= NAMED_FILES
        rows = results.waiting.rows_of(files.names) if files and is_named else results.assessments.read(at)
        parts.append(_existing(rows, request, job_id, dates))
        most = None if files is None else files.rows + sum(chunk.pairs for chunk in staged)
    if staged:
        parts.append(_staged(results, request, job_id, staged, dates))
    return Found(reduce(DataFrame.unionByName, parts), most) if parts else None


def _existing(rows: DataFrame, request: Request, job_id: str | None, dates: tuple[date, date]) -> DataFrame:
    rows = _within(rows, request, dates)
    if request.reprocess is Reprocess.ALL:
        rows = rows.where(F.col("job_id") == F.lit(job_id))
    pairs = _pairs(rows, request, job_id)
    is_done = F.lit(request.reprocess is Reprocess.MISSING) | ~F.col("failed")
    return _masks(pairs, done=is_done, own=F.col("is_own"))


def _staged(
    results: ResultStore,
    request: Request,
    job_id: str | None,
    staged: Sequence[StagedChunk],
    dates: tuple[date, date],
) -> DataFrame:
    pairs = _pairs(_within(results.waiting.read(staged), request, dates), request, job_id)
    counts = F.lit(request.reprocess is not Reprocess.FAILED) | ~F.col("failed")
    return _masks(pairs, own=F.col("is_own"), elsewhere=~F.col("is_own") & counts)


def _pairs(rows: DataFrame, request: Request, job_id: str | None) -> DataFrame:
    """Return the pairs of the job's scorers among rows: trace, `i` (index of the scorer), `is_own`, `failed`."""
    rows = rows.where(F.col("scorer_name").isin([s.name for s in request.scorers]))  # reaches the scan
    is_own = F.coalesce(F.col("job_id") == F.lit(job_id), F.lit(False)).alias("is_own")
    failed = (F.col("outcome") == Outcome.ERROR.value).alias("failed")
    position = position_of(request.scorers, F.col("scorer_name"), F.col("scorer_version"))
    rows = rows.select("trace_id", "trace_date", position.alias("i"), is_own, failed).where("i is not null")
    if request.reprocess is not Reprocess.FAILED:
        return rows
    return rows.groupBy("trace_id", "trace_date", "i", "is_own").agg(F.max("failed").alias("failed"))


def _masks(pairs: DataFrame, **holds: Column) -> DataFrame:
    """Give each trace the masks `done`, `own` and `elsewhere`: the bit of a pair's scorer where the column holds."""
    bit, zero = F.expr("shiftleft(1L, i)"), F.lit(0).cast("bigint")
    masks = [F.when(holds.get(n, F.lit(False)), bit).otherwise(zero).alias(n) for n in MASKS]
    return pairs.select("trace_id", "trace_date", *masks)


def _within(rows: DataFrame, request: Request, dates: tuple[date, date]) -> DataFrame:
    rows = rows.where(F.col("experiment_id") == request.experiment_id)
    return rows.where(F.col("trace_date").between(*map(day_literal, dates)))
