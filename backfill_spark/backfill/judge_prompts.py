"""Prompts of judges: rendered once a job into `work`, and those whose question or pair is still open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from backfill_spark.jobs.failpoints import Failpoint, failpoint
from backfill_spark.judges.answers import known
from backfill_spark.judges.spark import Rendering, render
from backfill_spark.selection import pairs as P

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from backfill_spark.backfill.attempt import Attempt
    from backfill_spark.backfill.inputs import Inputs


def rendered(inputs: Inputs) -> DataFrame:
    """Return the prompts of the judges' due pairs."""
    request, settings = inputs.request, inputs.tables.settings
    specs, judge = tuple(request.scorers[i] for i in request.judges), settings.judge
    rendering = Rendering(specs, dict(request.models), request.payload, judge.token_cap, judge.marker_key_env)
    due = inputs.due_traces(request.judges)
    return render(due, rendering, inputs.source.columns, trace_mb=settings.limits.trace_mb)


def unanswered(inputs: Inputs, pairs: DataFrame) -> DataFrame:
    """Return the distinct prompts without an answer: prompt_hash, first (lowest draw), tokens, scorer_name."""
    hashes = (
        pairs.where("prompt_hash is not null")
        .groupBy("prompt_hash")
        .agg(F.min("draw").alias("first"), F.max("tokens").alias("tokens"), F.first("scorer_name").alias("scorer_name"))
    )
    return hashes.join(answers_of(inputs).select("prompt_hash"), "prompt_hash", "left_anti")


def answers_of(inputs: Inputs) -> DataFrame:
    """Return the answers that the job, or a plan's job to be, may use; `judgements` must be there."""
    return known(inputs.tables.judgements, inputs.job_id or "", inputs.tables.settings.judge.cache)


def keep_prompts(attempt: Attempt) -> None:
    """Render the job's prompts into `work`, unless an earlier epoch has."""
    work = attempt.tables.work
    if attempt.lease.epoch > 1 and not work.store.ensure().append(work.store.frame([]), txn=attempt.lease.next_txn()):
        attempt.fenced()  # an earlier runner that is still rendering must not land its prompts beside these
    if not work.has_prompts(attempt.job_id):
        _write(attempt, rendered(attempt.inputs))
        attempt.bar.tell("prompts of judges rendered")


def _write(attempt: Attempt, prompts: DataFrame) -> None:
    failpoint(Failpoint.BEFORE_PROMPTS)
    if not attempt.tables.work.keep_prompts(attempt.job_id, prompts, attempt.lease.next_txn()):
        attempt.fenced()


@contextmanager
def open_pairs(attempt: Attempt) -> Iterator[DataFrame]:
    """Yield the job's prompts whose pairs no job has staged yet."""
    work, job_id = attempt.tables.work, attempt.job_id
    if attempt.lease.epoch == 1:
        yield work.prompts(job_id)
        return
    judges = attempt.request.judges
    # Those that are staged now: this epoch may have adopted pairs since it began. Cached, since each slice asks again.
    now = attempt.inputs.candidates(attempt.mine)
    still = now.select("trace_id", "trace_date", P.to_call_mask().alias("still")).where("still != 0").cache()
    try:
        mine = [F.when(F.col("scorer_name") == attempt.request.scorers[i].name, P.bit(i)) for i in judges]
        is_open = F.col("still").bitwiseAND(F.coalesce(*mine).cast("bigint")) != 0

        def opened() -> DataFrame:
            pairs = work.prompts(job_id).join(still, ["trace_id", "trace_date"])
            return pairs.where(is_open).drop("still")

        wanted = still.agg(F.sum(F.bit_count(P.submask(F.col("still"), judges)))).collect()[0][0] or 0
        if opened().count() < wanted:
            # Somebody had a trace forgotten: its prompt is gone, and the source may still have it.
            have = work.prompts(job_id).select("trace_id", "scorer_name")
            _write(attempt, rendered(attempt.inputs).join(have, have.columns, "left_anti"))
        yield opened()
    finally:
        still.unpersist()
