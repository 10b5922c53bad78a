"""Which pairs are due: the candidates of a window with what decides each, and their counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from backfill_spark.models import Counts, Request, Sampling, SkipReason
from backfill_spark.results.counts import PairCounts
from backfill_spark.results.done import MASKS, done_elsewhere, found_masks, with_done
from backfill_spark.results.related import with_related
from backfill_spark.selection import pairs as P
from backfill_spark.storage.session import compiled, rows_read

if TYPE_CHECKING:
    from backfill_spark.results.done import Found
    from backfill_spark.results.staged import StagedChunk
    from backfill_spark.results.store import ResultStore
    from backfill_spark.traces.sources import TraceSource

_DECIDED = ("no_expectations", "matched", "sampled")


def candidates(
    request: Request,
    source: TraceSource,
    results: ResultStore,
    *,
    choice: DataFrame | None,
    job_id: str | None,
    staged: Sequence[StagedChunk],
) -> DataFrame:
    """Return every row of the window with what decides its pairs; reads no texts."""
    chosen = P.mark_duplicates(_chosen(request, source, results, choice, positions=True))
    keep = ["trace_id", "request_time", "trace_time", "trace_date", "session_id", "draw", "skip", "ties"]
    return with_done(results, chosen.select(*keep, *_DECIDED), request, job_id=job_id, staged=staged)


def _chosen(
    request: Request, source: TraceSource, results: ResultStore, choice: DataFrame | None, *, positions: bool
) -> DataFrame:
    light = P.light_columns(request, source.columns)
    traces = source.read(
        light,
        request.window,
        untimed=True,
        positions=positions,
        experiment_id=P.experiment_filter(request),
        keys=P.light_keys(request),
    )
    return P.choose(with_related(traces, request, source, results), request, source.columns, choice)


def _in_one_pass(chosen: DataFrame, found: Found | None) -> DataFrame:
    """Return a row for each trace with the masks of its results, by one aggregation and no sort.

    As `candidates`, but where a trace has several scorable rows, or results of another date: there `ties` is above 1,
    and the masks are not right.
    """
    skipped = F.when(F.col("skip").isNotNull(), F.monotonically_increasing_id())
    # Without results only duplicates matter, and two ids of one hash are at worst looked at again.
    of_trace = F.xxhash64("trace_id") if found is None else F.col("trace_id")
    rows = chosen.select(of_trace.alias("of"), "trace_date", "request_time", "skip", skipped.alias("row"), *_DECIDED)
    rows = rows.withColumn("n", F.lit(1))
    masks: Sequence[str] = ()
    if found is not None:
        results, masks = found.frame.withColumns({"of": F.col("trace_id"), "n": F.lit(0)}).drop("trace_id"), MASKS
        rows = rows.unionByName(results, allowMissingColumns=True)
    whole = rows.groupBy("of", "skip", "row").agg(
        F.sum("n").alias("n"),
        F.max("request_time").alias("request_time"),
        (F.min("trace_date") != F.max("trace_date")).alias("has_dates"),
        *(F.bit_or(name).alias(name) for name in (*_DECIDED, *masks)),
    )
    zero = F.lit(0).cast("bigint")
    odd = (F.col("n") > 1) | F.coalesce("has_dates", F.lit(False))
    whole = whole.where("n > 0").withColumns(
        {"ties": F.when(odd, 2).otherwise(1), **{m: F.coalesce(m, zero) if masks else zero for m in MASKS}}
    )
    return whole.withColumn("done", done_elsewhere())


def count_due(
    request: Request,
    source: TraceSource,
    results: ResultStore,
    *,
    choice: DataFrame | None = None,
    job_id: str | None = None,
    staged: Sequence[StagedChunk] = (),
) -> PairCounts:
    """Count the request's pairs in one pass over the light columns; in a second one where traces have duplicates."""
    found = found_masks(results, request, job_id=job_id, staged=staged)
    pairs = _in_one_pass(_chosen(request, source, results, choice, positions=False), found)
    query = P.counted(pairs, request.scorers)
    with compiled(results.assessments.spark, rows=rows_read(query)):
        rows = [r.asDict() for r in query.collect()]

    def total(name: str) -> int:
        return sum(r[name] for r in rows)

    if total("ties"):
        pairs = candidates(request, source, results, choice=choice, job_id=job_id, staged=staged)
        rows = [r.asDict() for r in P.counted(pairs, request.scorers).collect()]

    reasons = {r.value: total(f"skip_{r.value}") for r in SkipReason if r is not SkipReason.NO_EXPECTATIONS}
    counts, own, elsewhere = {}, {}, {}
    for i, spec in enumerate(request.scorers):
        skipped = {
            k: v for k, v in (reasons | {SkipReason.NO_EXPECTATIONS.value: total(f"unexpected_{i}")}).items() if v
        }
        counts[spec.name] = Counts(
            in_window=total("rows"),
            skipped=sum(skipped.values()),
            filtered_out=total(f"filtered_{i}"),
            sampled_out=total(f"unsampled_{i}"),
            already_scored=total(f"done_{i}"),
            due=total(f"due_{i}"),
            left=total(f"due_{i}"),
            skipped_reasons=Counter(skipped),
        )
        own[spec.name] = total(f"own_{i}")
        elsewhere[spec.name] = total(f"elsewhere_{i}")

    def by_hour(indexes: Sequence[int]) -> dict[int, int]:
        calls = {r["hour"]: sum(r[f"due_{i}"] - r[f"own_{i}"] - r[f"elsewhere_{i}"] for i in indexes) for r in rows}
        return {h: n for h, n in calls.items() if h is not None and n}

    return PairCounts(
        counts=counts,
        own=own,
        elsewhere=elsewhere,
        calls_by_hour=by_hour(request.code),
        asks_by_hour=by_hour(request.judges),
        has_duplicates=reasons[SkipReason.DUPLICATE_TRACE_ID.value] > 0,
        has_ties=total("ties") > 0,
    )


def highest_rate(request: Request) -> float:
    """Return the draw that no chosen pair reaches."""
    if request.lists_traces or request.sampling != "hash":
        return 1.0
    return max((s.sample_rate for s in request.scorers), default=1.0) or 1.0


def missing_ids(source: TraceSource, request: Request, choice: DataFrame) -> tuple[str, ...]:
    """Return the listed trace ids that the window does not have (at most 1,000 of them)."""
    there = source.read(
        frozenset({"trace_id", "request_time", "experiment_id"}) & source.columns,
        request.window,
        untimed=True,
        experiment_id=P.experiment_filter(request),
    ).select("trace_id")
    gone = choice.join(there, "trace_id", "left_anti").select(F.col("trace_id")).orderBy("trace_id").limit(1000)
    return tuple(r[0] for r in gone.collect())


def spark_samples(request: Request, source: TraceSource, results: ResultStore, ids: DataFrame | None) -> DataFrame:
    """Return `DataFrame.sample` of the matching trace ids for each scorer: trace_id and `chosen` (mask)."""
    by_hash = replace(request, sampling=Sampling.HASH, results_version=None)
    matching = candidates(by_hash, source, results, choice=ids, job_id=None, staged=()).where("skip is null")
    samples = [
        # By keyword: sample(0.1, seed=5) loses its seed.
        matching.where(P.has_bit(F.col("matched"), i))
        .select("trace_id")
        .sample(fraction=spec.sample_rate, seed=request.seed)
        .withColumn("chosen", F.lit(P.bit(i)).cast("bigint"))
        for i, spec in enumerate(request.scorers)
    ]
    chosen = reduce(DataFrame.unionByName, samples).groupBy("trace_id").agg(F.bit_or("chosen").alias("chosen"))
    # Listed ones that were not drawn are counted as such.
    return chosen if ids is None else ids.join(chosen, "trace_id", "left").fillna(0, ["chosen"])
