"""Slices: how judges get their answers, in ascending order of the draw.

Render (once a job) → `work` → distinct prompts without an answer → ask → `judgements` → fan out → staging. What is
staged at any moment is a finished uniform sample: all pairs whose draw lies below one number.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from backfill_spark.backfill import steps
from backfill_spark.backfill.chunks import Cutter
from backfill_spark.backfill.staging import all_candidates
from backfill_spark.errors import BackfillError
from backfill_spark.jobs.events import Event
from backfill_spark.jobs.failpoints import Failpoint, failpoint
from backfill_spark.judges.answers import judgements_of, keep, known
from backfill_spark.judges.llm.endpoints import Service, output_limit
from backfill_spark.judges.llm.journal import Journaled, delete_journal, journal_folder, read_journal
from backfill_spark.judges.llm.patience import FAILURES_IN_A_ROW, OF_THE_ENDPOINT, no_verdicts
from backfill_spark.judges.services import probed, services_of
from backfill_spark.judges.spark import Asking, Rendering, ask, fan, render
from backfill_spark.models import Chunk
from backfill_spark.selection import pairs as P
from backfill_spark.selection.frozen import WorkStore
from backfill_spark.storage.delta_table import Store
from backfill_spark.storage.session import scheduling_slots

if TYPE_CHECKING:
    from backfill_spark.backfill.attempt import Attempt
    from backfill_spark.models import Request, ScorerSpec
    from backfill_spark.results.counts import PairCounts

SLICE_CALLS = 2_000
SLICE_SECONDS = 120.0
BUDGET_LEFT = "budget"
"""What the client says of a question that its budget left."""
RETRY_SHARE = 0.05
"""Share of a budget that is held back for requests that must be repeated."""
FIRST_ANSWERS = 50
"""Questions that tell what an answer costs, under a budget in dollars."""
GROWTH = 20
"""Times the answers whose cost is known: the longest next slice under such a budget."""
IN_FLIGHT = 4
"""Requests that the budget of each task pays for at the same time, should each cost the most."""


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


@dataclass(slots=True)
class Spending:
    """What a job may still spend, and what it got so far."""

    calls: int | None
    cost_usd: float | None
    requests: int = 0
    """Sent so far."""
    answers: int = 0
    paid_usd: float = 0.0
    failed: int = 0
    """Questions without a verdict since the last one."""

    def spend(self, requests: int, cost_usd: float, answers: int) -> None:
        """Count what was spent."""
        self.requests += requests
        self.answers += answers
        self.paid_usd += cost_usd
        self.calls = None if self.calls is None else self.calls - requests
        self.cost_usd = None if self.cost_usd is None else self.cost_usd - cost_usd

    def affords(self, least: int) -> int | None:
        """Return how many questions to ask at most, at what answers have cost so far; None: any number.

        Args:
            least: Questions that one draw may have. They are tried whatever is left: their highest cost decides.
        """
        counts = []
        if self.calls is not None:
            counts.append(_without_retries(self.calls))
        if self.cost_usd is not None and not self.answers:
            counts.append(FIRST_ANSWERS)
        elif self.cost_usd is not None and self.paid_usd > 0:
            count = min(self.cost_usd * self.answers / self.paid_usd, GROWTH * self.answers)
            counts.append(max(_without_retries(int(count)), least))
        return min(counts, default=None)


@dataclass(frozen=True, slots=True)
class Asked:
    """What came back of a slice's questions to one model."""

    questions: int
    attempts: int
    failures: int
    verdicts: int
    """Good answers, and refusals of the model."""
    why: str | None
    """Why some were left, other than for the budget."""
    code: str | None
    message: str | None
    """Of a question without a verdict."""


def _without_retries(count: int) -> int:
    return max(0, count - int(count * RETRY_SHARE)) if count >= 1 / RETRY_SHARE else max(0, count)


def run_slices(attempt: Attempt, selection: PairCounts) -> None:
    """Ask, fan out and stage until every judge's pair has its answer, or the budget or the endpoint ends it."""
    if not sum(selection.asks_by_hour.values()):
        return
    work, judgements = WorkStore(attempt.spark, attempt.settings), judgements_of(attempt.spark, attempt.settings)
    if attempt.lease.epoch > 1 and not work.store.ensure().append(work.store.frame([]), txn=attempt.lease.next_txn()):
        attempt.fenced()  # an earlier runner that is still rendering must not land its prompts beside these
    if not work.has_prompts(attempt.job_id):
        write_prompts(attempt, rendered(attempt, selection), work)
    spending = _spending(attempt)
    recover(attempt, judgements, spending)
    with open_pairs(attempt, selection, work) as pairs:
        _ask_all(attempt, selection, work, judgements, spending, pairs)


def _ask_all(
    attempt: Attempt, selection: PairCounts, work: WorkStore, judgements: Store, spending: Spending, pairs: DataFrame
) -> None:
    calls, draw_from, number = SLICE_CALLS, lowest_draw(attempt, pairs), len(attempt.lease.claimed.asked)
    limits = {} if spending.cost_usd is None else output_limits(pairs)
    while True:
        attempt.check()
        piece = next_slice(attempt, pairs, judgements, spending, limits, draw_from, calls)
        draw_to, sent = draw_from if piece is None else piece.draw_to, spending.requests
        if piece is not None and piece.questions:
            began = time.monotonic()
            number += 1
            draw_to = ask_slice(attempt, pairs, judgements, spending, piece, draw_from, number)
            pace = piece.questions / max(time.monotonic() - began, 0.1)
            calls = max(SLICE_CALLS, int(SLICE_SECONDS * pace))
        if draw_to == draw_from and spending.requests == sent:
            # The next slice, or the next question of it, costs more than there is.
            attempt.reached = draw_from
            attempt.stopped = attempt.stopped or "The budget is used up: resume with a larger one to go on."
            return
        if draw_to > draw_from:
            stage_answers(attempt, work, pairs, judgements, selection, draw_from, draw_to)
            steps.merge_when_due(attempt)
        draw_from = draw_to
        if attempt.stopped is not None:
            attempt.reached = draw_from
            return
        if draw_to > 1.0:
            return


# --- render


def write_prompts(attempt: Attempt, prompts: DataFrame, work: WorkStore) -> None:
    """Keep rendered prompts in `work`."""
    failpoint(Failpoint.BEFORE_PROMPTS)
    if not work.keep_prompts(attempt.job_id, prompts, attempt.lease.next_txn()):
        attempt.fenced()


def rendered(attempt: Attempt, selection: PairCounts) -> DataFrame:
    """Return the prompts of the judges' due pairs."""
    request = attempt.request
    specs = tuple(request.scorers[i] for i in request.judges)
    settings = attempt.settings.judge
    rendering = Rendering(specs, dict(request.models), request.payload, settings.token_cap, settings.marker_key_env)
    due = steps.due_traces(attempt, selection, request.judges)
    return render(due, rendering, attempt.source.columns, trace_mb=attempt.settings.limits.trace_mb)


@contextmanager
def open_pairs(attempt: Attempt, selection: PairCounts, work: WorkStore) -> Iterator[DataFrame]:
    """Give the job's prompts whose pairs are still to be staged: neither by this job nor by another one."""
    if attempt.lease.epoch == 1:
        yield work.prompts(attempt.job_id)
        return
    judges = attempt.request.judges
    # As staging is now: this epoch may have adopted pairs since it began. Cached, since each slice asks again.
    now = all_candidates(attempt, attempt.results.staging.version())
    still = now.select("trace_id", "trace_date", P.to_call_mask().alias("still")).where("still != 0").cache()
    try:
        mine = [F.when(F.col("scorer_name") == attempt.request.scorers[i].name, P.bit(i)) for i in judges]
        is_open = F.col("still").bitwiseAND(F.coalesce(*mine).cast("bigint")) != 0

        def opened() -> DataFrame:
            pairs = work.prompts(attempt.job_id).join(still, ["trace_id", "trace_date"])
            return pairs.where(is_open).drop("still")

        wanted = still.agg(F.sum(F.bit_count(P.submask(F.col("still"), judges)))).collect()[0][0] or 0
        if opened().count() < wanted:
            # Somebody had a trace forgotten: its prompt is gone, and the source may still have it.
            have = work.prompts(attempt.job_id).select("trace_id", "scorer_name")
            write_prompts(attempt, rendered(attempt, selection).join(have, have.columns, "left_anti"), work)
        yield opened()
    finally:
        still.unpersist()


def lowest_draw(attempt: Attempt, pairs: DataFrame) -> float:
    """Return the draw below which earlier epochs have staged every pair."""
    if attempt.lease.epoch == 1:
        return 0.0
    return float(pairs.agg(F.min("draw").alias("draw")).collect()[0]["draw"] or 0.0)


# --- budget


def _spending(attempt: Attempt) -> Spending:
    request, asked = attempt.request, attempt.lease.claimed.asked
    spending = Spending(request.max_calls, request.max_cost_usd)
    for a in asked:
        spending.spend(a["requests"], a["cost_usd"] or 0.0, a.get("answers", 0))
    return spending


def recover(attempt: Attempt, judgements: Store, spending: Spending) -> None:
    """Take the answers that a killed runner left in its spool, and count what it may have spent."""
    folder = journal_folder(attempt.settings)
    spooled = read_journal(folder, attempt.job_id)
    if not spooled.requests and not spooled.answers:
        return
    keep(judgements, attempt.job_id, spooled.answers)
    spent(attempt, spending, spooled, sum(a.attempts for a in spooled.answers), None)
    delete_journal(folder, attempt.job_id)


def spent(attempt: Attempt, spending: Spending, spooled: Journaled, attempts: int, draw_to: float | None) -> None:
    """Tell what was spent; a budget counts from these events."""
    answers = len(spooled.answers)
    spending.spend(spooled.requests, spooled.cost_usd, answers)
    attempt.spent_usd += spooled.cost_usd
    attempt.asked += attempts
    told = {"requests": spooled.requests, "cost_usd": spooled.cost_usd, "answers": answers, "attempts": attempts}
    attempt.lease.record(Event.ASKED, told | {"draw_to": draw_to})
    attempt.lease.flush()


def next_slice(
    attempt: Attempt,
    pairs: DataFrame,
    judgements: Store,
    spending: Spending,
    limits: Mapping[str, int | None],
    draw_from: float,
    calls: int,
) -> Slice | None:
    """Choose the next questions, in exact order of the draw; None when the budget fits no more."""
    affords = spending.affords(max(1, len(limits)))
    limit = calls if affords is None else min(calls, affords)
    questions = unanswered(attempt, pairs.where(F.col("draw") >= draw_from), judgements)
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
    """Return what one question of a judge may cost at most."""
    return attempt.services[attempt.request.models[name]].highest_cost(tokens or 0, limits.get(name))


# --- ask


def unanswered(attempt: Attempt, pairs: DataFrame, judgements: Store) -> DataFrame:
    """Return the distinct prompts without an answer: prompt_hash, first (lowest draw), tokens, scorer_name."""
    hashes = (
        pairs.where("prompt_hash is not null")
        .groupBy("prompt_hash")
        .agg(F.min("draw").alias("first"), F.max("tokens").alias("tokens"), F.first("scorer_name").alias("scorer_name"))
    )
    return hashes.join(
        known(judgements, attempt.job_id, attempt.settings.judge.cache).select("prompt_hash"),
        "prompt_hash",
        "left_anti",
    )


def ask_slice(
    attempt: Attempt,
    pairs: DataFrame,
    judgements: Store,
    spending: Spending,
    piece: Slice,
    draw_from: float,
    number: int,
) -> float:
    """Ask a slice's questions; return how far the answers reach without a gap."""
    inside = pairs.where((F.col("draw") >= draw_from) & (F.col("draw") < piece.draw_to))
    questions = unanswered(attempt, inside, judgements)
    texts = inside.where("prompt_hash is not null").groupBy("prompt_hash").agg(F.first("prompt").alias("prompt"))
    # Heartbeats that are events need a task slot of their own; those that are files need none.
    slots = scheduling_slots(attempt.spark) - (0 if attempt.lease.store.heartbeat.has_folder else 1)
    tasks = max(1, min(slots, -(-piece.questions // 50)))
    if piece.cost_usd is not None and piece.highest_usd:
        tasks = max(1, min(tasks, int(piece.cost_usd / (IN_FLIGHT * piece.highest_usd))))
    folder = journal_folder(attempt.settings)
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
            still_s=attempt.settings.limits.lease_s * 2 / 3,
        )
        found.append(_write_answers(attempt, judgements, ask(mine.select("prompt_hash", "prompt", "tokens"), asking)))
        attempt.stopped = attempt.stopped or found[-1].why or _in_vain(attempt, spending, found[-1], uri)
    spooled = read_journal(folder, attempt.job_id)
    # Nothing is asked when another job has just answered all of it.
    if any(a.questions for a in found) and not spooled.writers:
        raise BackfillError(
            f"What the executors asked, and wrote to {folder!r}, cannot be seen by the driver: no budget can be kept. "
            "Set judge.spool to a folder that all machines share, as an absolute path or a URI."
        )
    left = questions_left(attempt, inside, judgements)
    draw_to = piece.draw_to if left is None else left
    spent(attempt, spending, spooled, sum(a.attempts for a in found), draw_to)
    delete_journal(folder, attempt.job_id)
    return draw_to


def _in_vain(attempt: Attempt, spending: Spending, asked: Asked, uri: str) -> str | None:
    """Return why nothing more is asked, after many questions of many small slices without a verdict."""
    spending.failed = 0 if asked.verdicts else spending.failed + asked.failures
    if spending.failed < FAILURES_IN_A_ROW or asked.code is None:
        return None
    return no_verdicts(spending.failed, attempt.services[uri].endpoint.name, asked.code, asked.message or "")


def _write_answers(attempt: Attempt, judgements: Store, answers: DataFrame) -> Asked:
    """Append the answers; return what they are."""
    from pyspark.sql import Observation

    seen = Observation()
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
        rows.withColumns(
            {
                "job_id": F.lit(attempt.job_id),
                "answered_at": F.current_timestamp(),
            }
        ).select(*judgements.table.schema.fieldNames())
    )
    nothing = {"questions": 0, "attempts": 0, "failures": 0, "verdicts": 0, "why": None, "code": None, "message": None}
    got: dict[str, Any] = nothing | {name: value for name, value in seen.get.items() if value is not None}
    return Asked(**got)


def questions_left(attempt: Attempt, inside: DataFrame, judgements: Store) -> float | None:
    """Return the lowest draw among the slice's questions that got no answer."""
    row = unanswered(attempt, inside, judgements).agg(F.min("first").alias("first")).collect()[0]
    return None if row["first"] is None else float(row["first"])


# --- fan out


def stage_answers(
    attempt: Attempt,
    work: WorkStore,
    pairs: DataFrame,
    judgements: Store,
    selection: PairCounts,
    draw_from: float,
    draw_to: float,
) -> None:
    """Give each pair of the slice its answer, and stage it as one chunk."""
    inside = pairs.where((F.col("draw") >= draw_from) & (F.col("draw") < draw_to))
    paid = work.prompts(attempt.job_id).where((F.col("draw") < draw_to) & F.col("prompt_hash").isNotNull())
    key = F.struct("draw", "trace_id", "scorer_name")
    payers = paid.groupBy("prompt_hash").agg(F.min(key).alias("payer"))
    answers = known(judgements, attempt.job_id, attempt.settings.judge.cache)
    answer = F.struct(*[F.col(n) for n in judgements.table.schema.fieldNames()]).alias("judgement")
    rows = (
        inside.join(answers.select("prompt_hash", answer), "prompt_hash", "left")
        .join(payers, "prompt_hash", "left")
        .withColumn(
            "cached", ~F.coalesce((F.col("payer") == key) & (F.col("judgement.job_id") == attempt.job_id), F.lit(False))
        )
    )
    specs = [attempt.request.scorers[i] for i in attempt.request.judges]
    staged = fan(rows.withColumn("judgement", _plain("judgement")), specs, attempt.request.models)
    cutter = Cutter(selection.asks_by_hour, attempt.request.window)
    whole = cutter.next(cutter.pairs) or Chunk(0, attempt.request.window, 0.0, 1.0, 0)
    chunk = steps.numbered(attempt, replace(whole, draw_from=draw_from, draw_to=min(draw_to, 1.0)))
    steps.stage(attempt, chunk, staged)


def _plain(name: str) -> Any:
    """A judgement without its moment, which Arrow would hand over as a datetime."""
    return F.when(F.col(name).isNotNull(), F.col(name).dropFields("answered_at"))


# --- where


def _service(attempt: Attempt, uri: str) -> Service:
    """Return a service whose shape is known; the first question about it is a probe."""
    found = attempt.services.get(uri)
    if found is None or uri not in attempt.probed:
        found = probed(found or services_of(attempt.settings, attempt.request)[uri])
        attempt.services = {**attempt.services, uri: found}
        attempt.probed = attempt.probed | {uri}
    return found


def judge_specs(request: Request) -> list[ScorerSpec]:
    """Return the request's judges."""
    return [request.scorers[i] for i in request.judges]
