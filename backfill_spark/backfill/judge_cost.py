"""What judges would cost: questions, tokens and prices of a job that does not exist yet. Asks nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from backfill_spark import schema
from backfill_spark.backfill.attempt import Attempt
from backfill_spark.backfill.judge_steps import judge_specs, rendered
from backfill_spark.judges.answers import known
from backfill_spark.results.store import ResultStore
from backfill_spark.storage.delta_table import Store

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.backfill.runner import Prepared
    from backfill_spark.models import Request
    from backfill_spark.settings.schema import Settings


def draft(prepared: Prepared, spark: SparkSession, settings: Settings) -> Attempt:
    """Return an epoch of no job, good for rendering prompts and for nothing else."""
    return Attempt(
        spark=spark,
        settings=settings,
        job_id="",
        request=prepared.request,
        source=prepared.source,
        results=ResultStore(spark, settings),
        lease=None,  # type: ignore[arg-type]
        bar=None,  # type: ignore[arg-type]
        planned={},
        choice=prepared.choice,
        selection=prepared.selection,
        staging_version=prepared.staging_version,
    )


def has_questions(prepared: Prepared, spark: SparkSession, settings: Settings) -> bool:
    """True when at least one prompt has no answer yet."""
    if not sum(prepared.selection.asks_by_hour.values()):
        return False
    attempt = draft(prepared, spark, settings)
    prompts = rendered(attempt, prepared.selection).where("prompt_hash is not null").select("prompt_hash")
    store = Store(spark, schema.JUDGEMENTS, settings)
    if store.exists():
        prompts = prompts.join(
            F.broadcast(known(store, attempt.job_id, attempt.settings.judge.cache).select("prompt_hash")),
            "prompt_hash",
            "left_anti",
        )
    return bool(prompts.head(1))


SAMPLED_PROMPTS = 200
ANSWER_TOKENS = (30, 227)
"""Tokens of an answer where nothing is known: a bare verdict, and the mean of 8,181 real judge replies."""


def expected_cost(prepared: Prepared, spark: SparkSession, settings: Settings) -> dict[str, Any]:
    """Return the plan's fields about judges: calls, tokens and cost as ranges, without any call.

    From earlier results of the same judge where there are 30 of them, else from sampled prompts.
    """
    request, selection = prepared.request, prepared.selection
    asks = {
        s.name: selection.counts[s.name].due - selection.own[s.name] - selection.elsewhere[s.name]
        for s in judge_specs(request)
    }
    if not sum(asks.values()):
        return {}
    tokens = {**_sampled_tokens(prepared, spark, settings), **_earlier_tokens(request, spark, settings)}
    ranges: dict[str, Any] = {}
    notes = []
    for name, calls in asks.items():
        uri = request.models[name]
        read, (least, most) = tokens.get(name, (0, ANSWER_TOKENS))
        price = prepared.services[uri].price
        cost = None if price is None else [calls * price.of(read, least), calls * price.of(read, most)]
        ranges[name] = {
            "model": uri,
            "calls": calls,
            "tokens": [calls * (read + least), calls * (read + most)],
            "cost_usd": cost,
        }
        shown = "at an unknown price" if cost is None else f"{cost[0]:.2f} to {cost[1]:.2f} USD"
        notes.append(
            f"{name}: at most {calls:,} calls to {uri}, {calls * (read + least):,} to {calls * (read + most):,} "
            f"tokens, {shown}; equal prompts are asked once."
        )
    costs = [r["cost_usd"] for r in ranges.values()]
    known_cost = None if any(c is None for c in costs) else sum((c[0] + c[1]) / 2 for c in costs)
    return {"cost_usd": known_cost, "notes": (*request.notes, *notes), "extra": {"judges": ranges}}


def _sampled_tokens(
    prepared: Prepared, spark: SparkSession, settings: Settings
) -> dict[str, tuple[int, tuple[int, int]]]:
    attempt = draft(prepared, spark, settings)
    some = rendered(attempt, prepared.selection).where("prompt_hash is not null").limit(SAMPLED_PROMPTS)
    rows = some.groupBy("scorer_name").agg(F.avg("tokens").alias("tokens")).collect()
    return {r["scorer_name"]: (round(r["tokens"]), ANSWER_TOKENS) for r in rows}


def _earlier_tokens(
    request: Request, spark: SparkSession, settings: Settings
) -> dict[str, tuple[int, tuple[int, int]]]:
    store = ResultStore(spark, settings).assessments
    if not store.exists():
        return {}
    names = [s.name for s in judge_specs(request)]
    rows = (
        store.read()
        .where(
            (F.col("experiment_id") == request.experiment_id)
            & F.col("scorer_name").isin(names)
            & (F.col("input_tokens") > 0)
        )
        .groupBy("scorer_name")
        .agg(
            F.count(F.lit(1)).alias("n"),
            F.avg("input_tokens").alias("read"),
            F.percentile("output_tokens", 0.1).alias("least"),
            F.percentile("output_tokens", 0.9).alias("most"),
        )
        .where("n >= 30")
        .collect()
    )
    return {r["scorer_name"]: (round(r["read"]), (round(r["least"] or 0), round(r["most"] or 0))) for r in rows}
