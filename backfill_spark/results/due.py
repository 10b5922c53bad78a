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
from backfill_spark.results.done import with_done
from backfill_spark.results.related import with_related
from backfill_spark.selection import pairs as P

if TYPE_CHECKING:
    from backfill_spark.results.staged import StagedChunk
    from backfill_spark.results.store import ResultStore
    from backfill_spark.traces.sources import TraceSource


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
    light = P.light_columns(request, source.columns)
    traces = source.read(
        light,
        request.window,
        untimed=True,
        positions=True,
        experiment_id=P.experiment_filter(request),
        keys=P.light_keys(request),
    )
    traces = with_related(traces, request, source, results)
    chosen = P.mark_duplicates(P.choose(traces, request, source.columns, choice))
    keep = ["trace_id", "request_time", "trace_time", "trace_date", "session_id", "draw", "skip", "ties"]
    chosen = chosen.select(*keep, "no_expectations", "matched", "sampled")
    return with_done(results, chosen, request, job_id=job_id, staged=staged)


def count_due(
    request: Request,
    source: TraceSource,
    results: ResultStore,
    *,
    choice: DataFrame | None = None,
    job_id: str | None = None,
    staged: Sequence[StagedChunk] = (),
) -> PairCounts:
    """Count the request's pairs in one pass over the light columns."""
    pairs = candidates(request, source, results, choice=choice, job_id=job_id, staged=staged)
    rows = [r.asDict() for r in P.counted(pairs, request.scorers).collect()]

    def total(name: str) -> int:
        return sum(r[name] for r in rows)

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
