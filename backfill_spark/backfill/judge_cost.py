"""What judges would cost: questions, tokens and prices of a job that does not exist yet. Asks nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from backfill_spark.backfill.judge_prompts import answers_of, rendered

if TYPE_CHECKING:
    from backfill_spark.backfill.inputs import Inputs

SAMPLED_PROMPTS = 200
ANSWER_TOKENS = (30, 227)
"""Tokens of an answer where nothing is known: a bare verdict, and the mean of 8,181 real judge replies."""


def has_questions(inputs: Inputs) -> bool:
    """True when at least one prompt has no answer yet."""
    if not sum(inputs.pairs.asks_by_hour.values()):
        return False
    prompts = rendered(inputs).where("prompt_hash is not null").select("prompt_hash")
    if inputs.tables.judgements.exists():
        # Broadcast, so that rendering ends with the first prompt that is not known.
        prompts = prompts.join(F.broadcast(answers_of(inputs).select("prompt_hash")), "prompt_hash", "left_anti")
    return bool(prompts.head(1))


def expected_cost(inputs: Inputs) -> dict[str, Any]:
    """Return the plan's fields about judges: calls, tokens and cost as ranges, without any call.

    From earlier results of the same judge where there are 30 of them, else from sampled prompts.
    """
    request, pairs = inputs.request, inputs.pairs
    names = [request.scorers[i].name for i in request.judges]
    asks = {n: pairs.counts[n].due - pairs.own[n] - pairs.elsewhere[n] for n in names}
    if not sum(asks.values()):
        return {}
    tokens = _sampled_tokens(inputs) | _earlier_tokens(inputs, names)
    ranges: dict[str, Any] = {}
    notes = []
    for name, calls in asks.items():
        uri = request.models[name]
        read, (least, most) = tokens.get(name, (0, ANSWER_TOKENS))
        price = inputs.services[uri].price
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


def _sampled_tokens(inputs: Inputs) -> dict[str, tuple[int, tuple[int, int]]]:
    some = rendered(inputs).where("prompt_hash is not null").limit(SAMPLED_PROMPTS)
    rows = some.groupBy("scorer_name").agg(F.avg("tokens").alias("tokens")).collect()
    return {r["scorer_name"]: (round(r["tokens"]), ANSWER_TOKENS) for r in rows}


def _earlier_tokens(inputs: Inputs, names: list[str]) -> dict[str, tuple[int, tuple[int, int]]]:
    store = inputs.tables.results.assessments
    if not store.exists():
        return {}
    rows = (
        store.read()
        .where(
            (F.col("experiment_id") == inputs.request.experiment_id)
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
