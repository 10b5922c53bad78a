"""The judge stage: how judges get their answers, in ascending order of the draw.

Render (once a job) → `work` → distinct prompts without an answer → ask → `judgements` → fan out → staging. What is
staged at any moment is a finished uniform sample: all pairs whose draw lies below one number.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from backfill_spark.backfill.chunks import Cutter
from backfill_spark.backfill.judge_prompts import answers_of, keep_prompts, open_pairs, unanswered
from backfill_spark.backfill.judge_slices import Slice, lowest_draw, next_slice, output_limits
from backfill_spark.backfill.staging import merge_when_due, stage
from backfill_spark.backfill.turns import take_turn
from backfill_spark.display.render import duration
from backfill_spark.errors import BackfillError
from backfill_spark.jobs.events import Event
from backfill_spark.judges.answers import keep
from backfill_spark.judges.llm.journal import Journaled, delete_journal, journal_folder, read_journal
from backfill_spark.judges.llm.patience import FAILURES_IN_A_ROW, OF_THE_ENDPOINT, no_verdicts
from backfill_spark.judges.services import probed
from backfill_spark.judges.spark import Asking, ask, fan
from backfill_spark.models import Chunk
from backfill_spark.storage.capabilities import capabilities

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from backfill_spark.backfill.attempt import Attempt
    from backfill_spark.judges.llm.endpoints import Service

SLICE_CALLS = 2_000
SLICE_SECONDS = 120.0
BUDGET_LEFT = "budget"
"""What the client says of a question that its budget left."""
IN_FLIGHT = 4
"""Requests that the budget of each task pays for at the same time, should each cost the most."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What came back of a slice's questions to one model."""

    questions: int = 0
    attempts: int = 0
    failures: int = 0
    verdicts: int = 0
    """Good answers, and refusals of the model."""
    why: str | None = None
    """Why some were left, other than for the budget."""
    code: str | None = None
    message: str | None = None
    """Of a question without a verdict."""


def ask_judges(attempt: Attempt) -> None:
    """Ask, fan out and stage until every judge's pair has its answer, or the budget or the endpoint ends it."""
    if not sum(attempt.inputs.pairs.asks_by_hour.values()):
        return
    attempt.bar.begin(attempt.bar.total - attempt.bar.done)
    attempt.tables.judgements.ensure()
    keep_prompts(attempt)
    recover(attempt)
    recover_of_others(attempt)
    with open_pairs(attempt) as pairs:
        _ask_all(attempt, pairs)


def _ask_all(attempt: Attempt, pairs: DataFrame) -> None:
    progress, spending = attempt.progress, attempt.progress.spending
    calls, draw_from, number = SLICE_CALLS, lowest_draw(attempt, pairs), len(attempt.lease.claimed.asked)
    limits = {} if spending.cost_usd is None else output_limits(pairs)
    shares_answers = attempt.tables.settings.judge.cache != "off"
    while True:
        attempt.check()
        piece = next_slice(attempt, pairs, limits, draw_from, calls)
        draw_to, sent = draw_from if piece is None else piece.draw_to, spending.requests
        if piece is not None and piece.questions:
            part = {"judges": True, "draw": [draw_from, piece.draw_to]}
            if shares_answers and take_turn(attempt, part):
                recover_of_others(attempt)
                continue
            began = time.monotonic()
            number += 1
            draw_to = ask_slice(attempt, pairs, piece, draw_from, number)
            took = time.monotonic() - began
            asked = f"{piece.questions:,} questions in {duration(took)}, draws below {min(draw_to, 1.0):.4f}"
            spent_so_far = f"{spending.requests:,} requests, ${spending.paid_usd:,.2f} so far"
            attempt.bar.tell(f"slice {number}: {asked}; {spent_so_far}")
            pace = piece.questions / max(took, 0.1)
            calls = max(SLICE_CALLS, int(SLICE_SECONDS * pace))
        if draw_to == draw_from and spending.requests == sent:
            # The next slice, or the next question of it, costs more than there is.
            progress.reached = draw_from
            progress.stopped = progress.stopped or "The budget is used up: resume with a larger one to go on."
            return
        if draw_to > draw_from:
            stage_answers(attempt, pairs, draw_from, draw_to)
            merge_when_due(attempt)
        draw_from = draw_to
        if progress.stopped is not None:
            progress.reached = draw_from
            return
        if draw_to > 1.0:
            return


def recover(attempt: Attempt) -> None:
    """Take the answers that a killed runner left in its journal, and count what it may have spent."""
    folder = journal_folder(attempt.tables.settings)
    left = read_journal(folder, attempt.job_id)
    if not left.requests and not left.answers:
        return
    keep(attempt.tables.judgements, attempt.job_id, left.answers)
    record_spent(attempt, left, sum(a.attempts for a in left.answers), None)
    delete_journal(folder, attempt.job_id)


def recover_of_others(attempt: Attempt) -> None:
    """Take the answers that dead runners of other jobs left in their journals; what they spent is those jobs' own."""
    tables = attempt.tables
    if tables.settings.judge.cache == "off":
        return
    folder, now = journal_folder(tables.settings), tables.jobs.clock()
    for job in tables.jobs.others(attempt.request.experiment_id, attempt.job_id):
        if job.created["request"]["models"] and not job.is_alive(now):
            keep(tables.judgements, job.job_id, read_journal(folder, job.job_id).answers)


def record_spent(attempt: Attempt, found: Journaled, attempts: int, draw_to: float | None) -> None:
    """Record what was spent; a budget counts from these events."""
    answers = len(found.answers)
    attempt.progress.spending.spend(found.requests, found.cost_usd, answers, attempts)
    spent = {"requests": found.requests, "cost_usd": found.cost_usd, "answers": answers, "attempts": attempts}
    attempt.lease.record(Event.ASKED, spent | {"draw_to": draw_to})
    attempt.lease.flush()


# --- ask


def ask_slice(attempt: Attempt, pairs: DataFrame, piece: Slice, draw_from: float, number: int) -> float:
    """Ask a slice's questions; return how far the answers reach without a gap."""
    inside = pairs.where((F.col("draw") >= draw_from) & (F.col("draw") < piece.draw_to))
    questions = unanswered(attempt.inputs, inside)
    texts = inside.where("prompt_hash is not null").groupBy("prompt_hash").agg(F.first("prompt").alias("prompt"))
    # Heartbeats that are events need a task slot of their own; those that are files need none.
    slots = capabilities(attempt.tables.spark).slots - (0 if attempt.tables.jobs.heartbeat.has_folder else 1)
    tasks = max(1, min(slots, -(-piece.questions // 50)))
    if piece.cost_usd is not None and piece.highest_usd:
        tasks = max(1, min(tasks, int(piece.cost_usd / (IN_FLIGHT * piece.highest_usd))))
    settings, progress = attempt.tables.settings, attempt.progress
    folder = journal_folder(settings)
    found: list[Asked] = []
    uris = sorted(set(attempt.request.models.values()))
    for i, uri in enumerate(uris):
        names = [n for n, u in attempt.request.models.items() if u == uri]
        mine = questions.where(F.col("scorer_name").isin(names)).join(texts, "prompt_hash")
        mine = mine.repartition(tasks, "prompt_hash").sortWithinPartitions("first")
        asking = Asking(
            service=replace(_service(attempt, uri), tasks=tasks),
            journal_folder=folder,
            job_id=attempt.job_id,
            slice=number * len(uris) + i,
            requests_each=None if piece.requests is None else piece.requests / piece.questions,
            cost_each=None if piece.cost_usd is None else piece.cost_usd / piece.questions,
            still_s=settings.limits.lease_s * 2 / 3,
        )
        found.append(_write_answers(attempt, ask(mine.select("prompt_hash", "prompt", "tokens"), asking)))
        progress.stopped = progress.stopped or found[-1].why or _in_vain(attempt, found[-1], uri)
    written = read_journal(folder, attempt.job_id)
    # Nothing is asked when another job has just answered all of it.
    if any(a.questions for a in found) and not written.writers:
        raise BackfillError(
            f"What the executors asked, and wrote to {folder!r}, cannot be seen by the driver: no budget can be kept. "
            "Set judge.spool to a folder that all machines share, as an absolute path or a URI."
        )
    # The lowest draw of a question that got no answer.
    left = unanswered(attempt.inputs, inside).agg(F.min("first")).collect()[0][0]
    draw_to = piece.draw_to if left is None else float(left)
    record_spent(attempt, written, sum(a.attempts for a in found), draw_to)
    delete_journal(folder, attempt.job_id)
    return draw_to


def _in_vain(attempt: Attempt, asked: Asked, uri: str) -> str | None:
    """Explain why nothing more is asked, after many questions of many small slices without a verdict."""
    spending = attempt.progress.spending
    spending.failed = 0 if asked.verdicts else spending.failed + asked.failures
    if spending.failed < FAILURES_IN_A_ROW or asked.code is None:
        return None
    return no_verdicts(spending.failed, attempt.inputs.services[uri].endpoint.name, asked.code, asked.message or "")


def _write_answers(attempt: Attempt, answers: DataFrame) -> Asked:
    """Append the answers; return what they are."""
    from pyspark.sql import Observation

    seen, judgements = Observation(), attempt.tables.judgements
    is_failure = F.coalesce(F.col("error_code").isin([str(code) for code in OF_THE_ENDPOINT]), F.lit(False))
    rows = answers.observe(
        seen,
        F.count(F.lit(1)).alias("questions"),
        F.sum("attempts").alias("attempts"),
        F.count(F.when(is_failure, 1)).alias("failures"),
        F.count(F.when(F.col("left").isNull() & ~is_failure, 1)).alias("verdicts"),
        F.max(F.when(F.col("left") != BUDGET_LEFT, F.col("left"))).alias("why"),
        F.max(F.when(is_failure, F.col("error_code"))).alias("code"),
        F.max(F.when(is_failure, F.col("error_message"))).alias("message"),
    ).where(F.col("left").isNull())
    judgements.append(
        rows.withColumns({"job_id": F.lit(attempt.job_id), "answered_at": F.current_timestamp()}).select(
            *judgements.table.schema.fieldNames()
        )
    )
    got: dict[str, Any] = {name: value for name, value in seen.get.items() if value is not None}
    return Asked(**got)


# --- fan out


def stage_answers(attempt: Attempt, pairs: DataFrame, draw_from: float, draw_to: float) -> None:
    """Join each pair of the slice with its answer, and stage them as one chunk."""
    inside = pairs.where((F.col("draw") >= draw_from) & (F.col("draw") < draw_to))
    paid = attempt.tables.work.prompts(attempt.job_id).where(
        (F.col("draw") < draw_to) & F.col("prompt_hash").isNotNull()
    )
    key = F.struct("draw", "trace_id", "scorer_name")
    payers = paid.groupBy("prompt_hash").agg(F.min(key).alias("payer"))
    answers = answers_of(attempt.inputs)
    answer = F.struct(*[F.col(n) for n in attempt.tables.judgements.table.schema.fieldNames()]).alias("judgement")
    rows = (
        inside.join(answers.select("prompt_hash", answer), "prompt_hash", "left")
        .join(payers, "prompt_hash", "left")
        .withColumn(
            "cached", ~F.coalesce((F.col("payer") == key) & (F.col("judgement.job_id") == attempt.job_id), F.lit(False))
        )
    )
    specs = [attempt.request.scorers[i] for i in attempt.request.judges]
    # Without its moment, which Arrow would hand over as a datetime.
    plain = F.when(F.col("judgement").isNotNull(), F.col("judgement").dropFields("answered_at"))
    staged = fan(rows.withColumn("judgement", plain), specs, attempt.request.models)
    cutter = Cutter(attempt.inputs.pairs.asks_by_hour, attempt.request.window)
    whole = cutter.next(cutter.pairs) or Chunk(0, attempt.request.window, 0.0, 1.0, 0)
    chunk = attempt.progress.numbered(replace(whole, draw_from=draw_from, draw_to=min(draw_to, 1.0)))
    stage(attempt, chunk, staged)


# --- where


def _service(attempt: Attempt, uri: str) -> Service:
    """Return a service whose shape is known; the first question about it is a probe."""
    inputs = attempt.inputs
    if not inputs.services[uri].is_probed:
        attempt.inputs = replace(inputs, services={**inputs.services, uri: probed(inputs.services[uri])})
    return attempt.inputs.services[uri]
