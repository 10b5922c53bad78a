"""Which pairs have a result, and which are staged: masks beside the chosen ones, at pinned versions."""

from __future__ import annotations

from datetime import date
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from backfill_spark.models import Outcome, Reprocess, Request, ScorerSpec
from backfill_spark.results.rows import position_of
from backfill_spark.results.store import day_literal
from backfill_spark.selection import pairs as P

if TYPE_CHECKING:
    from backfill_spark.results.store import ResultStore


def with_done(
    results: ResultStore,
    chosen: DataFrame,
    request: Request,
    *,
    job_id: str | None,
    staging_version: int | None,
    own_version: int | None = None,
    dates: tuple[date, date] | None = None,
) -> DataFrame:
    """Add the masks `done` (has a result of another job), `own` (staged by `job_id`) and `elsewhere` (by another).

    Versions are pinned. `own_version` adds what `job_id` has staged by then. Of both tables only the dates of the
    window are read, or `dates`, a chunk's own.
    """
    parts = []
    dates = request.window.dates if dates is None else dates
    scorers = {"experiment_id": [request.experiment_id], "scorer_name": [s.name for s in request.scorers]}
    at = request.results_version
    if at is not None and request.reprocess is not Reprocess.ALL and results.assessments.may_hold(scorers, at, dates):
        parts.append(_existing(results, request, dates))
    if staging_version is not None and results.staging.may_hold({}, staging_version):
        parts.append(_staged(results, request, job_id, staging_version, dates))
    if own_version is not None:
        parts.append(_staged(results, request, job_id, own_version, dates).where("own != 0"))
    if not parts:
        return chosen.withColumns({name: F.lit(0).cast("bigint") for name in ("done", "own", "elsewhere")})
    masks = (
        reduce(DataFrame.unionByName, parts)
        .groupBy("trace_id", "trace_date")
        .agg(*(F.bit_or(name).alias(name) for name in ("done", "own", "elsewhere")))
    )
    joined = chosen.join(masks, ["trace_id", "trace_date"], "left")
    joined = joined.withColumns(
        {name: F.coalesce(F.col(name), F.lit(0).cast("bigint")) for name in ("done", "own", "elsewhere")}
    )
    # What an earlier epoch of the job has staged is the job's, merged or not.
    return joined.withColumn("done", F.col("done").bitwiseAND(F.bitwise_not(F.col("own"))))


def _existing(results: ResultStore, request: Request, dates: tuple[date, date]) -> DataFrame:
    rows = _within(results.assessments.read(request.results_version), request, dates)
    rows = rows.where(F.col("scorer_name").isin([s.name for s in request.scorers]))  # reaches the scan
    position = position_of(request.scorers, F.col("scorer_name"), F.col("scorer_version"))
    rows = rows.select("trace_id", "trace_date", "outcome", position.alias("i")).where("i is not null")
    if request.reprocess is Reprocess.FAILED:
        rows = (
            rows.groupBy("trace_id", "trace_date", "i")
            .agg(F.max((F.col("outcome") == Outcome.ERROR.value).cast("int")).alias("failed"))
            .where("failed = 0")
        )
    zero, done = F.lit(0).cast("bigint"), F.expr("shiftleft(1L, i) AS done")
    return rows.select("trace_id", "trace_date", done, zero.alias("own"), zero.alias("elsewhere"))


def _staged(
    results: ResultStore, request: Request, job_id: str | None, version: int, dates: tuple[date, date]
) -> DataFrame:
    rows = _within(results.staging.read(version), request, dates)
    if request.reprocess is Reprocess.ALL:
        rows = rows.where(F.col("job_id") == F.lit(job_id))
    is_own = F.coalesce(F.col("job_id") == F.lit(job_id), F.lit(False))
    result = F.arrays_zip("results.scorer_name", "results.scorer_version", "results.error_code")
    rows = rows.select("trace_id", "trace_date", is_own.alias("is_own"), result.alias("result"))
    mask = P.mask_of([_holds(s, request.reprocess) for s in request.scorers])
    zero = F.lit(0).cast("bigint")
    return rows.select(
        "trace_id",
        "trace_date",
        zero.alias("done"),
        F.when(F.col("is_own"), mask).otherwise(zero).alias("own"),
        F.when(F.col("is_own"), zero).otherwise(mask).alias("elsewhere"),
    )


def _within(rows: DataFrame, request: Request, dates: tuple[date, date]) -> DataFrame:
    rows = rows.where(F.col("experiment_id") == request.experiment_id)
    return rows.where(F.col("trace_date").between(*map(day_literal, dates)))


def _holds(spec: ScorerSpec, reprocess: Reprocess) -> Column:
    """True where the column `result` has the scorer's pair, in a state that counts."""
    mine = F.filter("result", lambda x: (x["scorer_name"] == spec.name) & (x["scorer_version"] == spec.version))
    there = F.size(mine) > 0
    if reprocess is Reprocess.FAILED:
        good = ~F.exists(mine, lambda x: x["error_code"].isNotNull())
        return there & (F.col("is_own") | good)
    return there
