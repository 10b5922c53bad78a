"""Slices: which questions a job's judges ask next, in exact order of the draw, and what its budget allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from pyspark.sql import functions as F

from backfill_spark.backfill.judge_prompts import unanswered
from backfill_spark.judges.llm.endpoints import output_limit

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from backfill_spark.backfill.attempt import Attempt


@dataclass(frozen=True, slots=True)
class Slice:
    """Questions to ask next, and how far they reach."""

    draw_to: float
    """Pairs below it are answered when its questions are; above 1 means all."""
    questions: int
    tokens: int
    requests: int | None
    cost_usd: float | None
    """What it may spend."""
    highest_usd: float = 0.0
    """What one of its answers may cost at most."""


def lowest_draw(attempt: Attempt, pairs: DataFrame) -> float:
    """Return the draw below which earlier epochs have staged every pair."""
    if attempt.lease.epoch == 1:
        return 0.0
    return float(pairs.agg(F.min("draw").alias("draw")).collect()[0]["draw"] or 0.0)


def next_slice(
    attempt: Attempt, pairs: DataFrame, limits: Mapping[str, int | None], draw_from: float, calls: int
) -> Slice | None:
    """Choose the next questions, in exact order of the draw; None when the budget fits no more."""
    spending = attempt.progress.spending
    affords = spending.affords(max(1, len(limits)))
    limit = calls if affords is None else min(calls, affords)
    questions = unanswered(attempt.inputs, pairs.where(F.col("draw") >= draw_from))
    next_one = F.min_by(F.struct("first", "scorer_name", "tokens"), "first")
    row = (
        questions.orderBy("first")
        .limit(limit + 1)
        .agg(
            F.count(F.lit(1)).alias("n"),
            F.max("first").alias("last"),
            F.sum("tokens").alias("tokens"),
            F.max("tokens").alias("longest"),
            next_one.alias("next"),
        )
        .collect()[0]
    )
    highest = 0.0
    if spending.cost_usd is not None and row["n"]:
        if highest_cost(attempt, limits, row["next"]["scorer_name"], row["next"]["tokens"]) > spending.cost_usd:
            limit = 0
        highest = max(highest_cost(attempt, limits, name, row["longest"]) for name in limits)
    if row["n"] <= limit:
        return Slice(2.0, row["n"], row["tokens"] or 0, spending.calls, spending.cost_usd, highest)
    edge = row["last"] if limit else row["next"]["first"]
    count = (
        questions.where(F.col("first") < edge)
        .agg(F.count(F.lit(1)).alias("n"), F.sum("tokens").alias("t"))
        .collect()[0]
    )
    answered = pairs.where((F.col("draw") >= draw_from) & (F.col("draw") < edge)).limit(1).count()
    if not count["n"] and not answered:
        return None
    return Slice(edge, count["n"], count["t"] or 0, spending.calls, spending.cost_usd, highest)


def output_limits(pairs: DataFrame) -> dict[str, int | None]:
    """Return each judge's own limit for the length of an answer, by name; of those that have something to ask."""
    asked = pairs.where("prompt is not null and prompt_hash is not null")
    rows = asked.groupBy("scorer_name").agg(F.first("prompt").alias("prompt")).collect()
    return {row["scorer_name"]: output_limit(orjson.loads(row["prompt"])) for row in rows}


def highest_cost(attempt: Attempt, limits: Mapping[str, int | None], name: str, tokens: int | None) -> float:
    """Return the highest cost of one question of a judge."""
    return attempt.inputs.services[attempt.request.models[name]].highest_cost(tokens or 0, limits.get(name))
