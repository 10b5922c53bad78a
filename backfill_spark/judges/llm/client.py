"""Asking a model many questions: from a Python worker, from a coroutine, and once to see that it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from backfill_spark.judges.llm.budget import Budget
from backfill_spark.judges.llm.endpoints import Service, Shape
from backfill_spark.judges.llm.journal import Journal
from backfill_spark.judges.llm.messages import Answer, Question
from backfill_spark.judges.llm.pool import Pool
from backfill_spark.judges.llm.providers import first_shape
from backfill_spark.judges.llm.rate_limit import Limiter
from backfill_spark.judges.llm.reply import NO_ANSWER
from backfill_spark.judges.verdict import closed_object
from backfill_spark.models import ErrorCode, compact_json

T = TypeVar("T")


def ask(
    batches: Iterable[Sequence[Question]],
    service: Service,
    *,
    budget: Budget | None = None,
    limiter: Limiter | None = None,
    journal: Journal | None = None,
    still_s: float | None = None,
) -> Iterator[list[Answer]]:
    """Ask all questions of `batches`, and yield answers as they come, in any order.

    One loop and one session for the whole iterator, so that no batch's end drains the
    window. Each question comes back exactly once; those that were not asked, or stay due, say so in `left`.
    What an earlier attempt at the same task left in the journal is not asked again, and its spending counts.

    Raises:
        BackfillRefusedError: the key is not on this machine.
        StoodStillError: this process was stopped for longer than `still_s`.
    """
    budget, found = budget or Budget(), {}
    if journal is not None:
        earlier = journal.earlier()
        budget.spent_before(earlier.requests, earlier.cost_usd)
        found = {answer.prompt_hash: answer for answer in earlier.answers}
    with asyncio.Runner() as runner:
        pool = Pool(service, budget=budget, limiter=limiter, journal=journal, still_s=still_s)
        runner.run(pool.open())
        try:
            for batch in batches:
                answers = [found[q.prompt_hash] for q in batch if q.prompt_hash in found]
                answers += runner.run(pool.feed([q for q in batch if q.prompt_hash not in found]))
                if answers:
                    yield answers
            while pool.is_busy:
                yield runner.run(pool.next_answers())
        finally:
            runner.run(pool.close())


@dataclass(frozen=True, slots=True)
class Probe:
    """What one small question told about a service."""

    service: Service
    """The service with the shape that works."""
    problem: str | None
    """Why it cannot be used, or None."""
    requests: int
    cost_usd: float


_PROBE_S = 30.0
_ANSWERED = (ErrorCode.JUDGE_BAD_OUTPUT, ErrorCode.JUDGE_REFUSED)
_PROBE = Question(
    "probe",
    compact_json(
        {
            "messages": [{"role": "user", "content": 'Answer with exactly this JSON object: {"result": "yes"}'}],
            "schema": closed_object({"result": {"type": "string", "enum": ["yes", "no"]}}),
            "parameters": {},
        }
    ),
    40,
)


def probe(service: Service) -> Probe:
    """Ask one small question: is the key here, does the model answer, and in which form. At most six requests.

    An answer that is no JSON object is no problem: some models need the longer prompt of a judge.

    Raises:
        BackfillRefusedError: the key is not on this machine.
    """
    timeout_s = min(service.endpoint.timeout_s, _PROBE_S)
    endpoint = service.endpoint.model_copy(update={"timeout_s": timeout_s})
    asked_of = replace(service, endpoint=endpoint, shape=first_shape(service))
    budget = Budget(6)
    found, shape = run_aside(_asked(asked_of, budget))
    what = (found.error_message or found.left or "").rstrip(".")
    # A page that is no model's answers with status 200 too; so does a model whose answer stands elsewhere.
    is_answered = found.verdict is not None or (found.error_code in _ANSWERED and found.error_message != NO_ANSWER)
    problem = None if is_answered else f"The endpoint {endpoint.name!r} does not answer for {service.uri!r}: {what}."
    return Probe(replace(service, shape=shape, is_probed=is_answered), problem, budget.requests, budget.committed_usd)


async def _asked(service: Service, budget: Budget) -> tuple[Answer, Shape]:
    pool = Pool(service, budget=budget)
    await pool.open()
    try:
        answers = await pool.feed([_PROBE]) or await pool.next_answers()
    finally:
        await pool.close()
    return answers[0], pool.shape


def run_aside(asking: Coroutine[Any, Any, T]) -> T:
    """Run `asking` in a loop of its own: in a thread of its own where a loop runs here, as in a notebook's cell."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        # Not asyncio.run(): nest_asyncio replaces it by one that needs a loop in this thread.
        with asyncio.Runner() as runner:
            return runner.run(asking)
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(lambda: run_aside(asking)).result()
    finally:
        pool.shutdown(wait=False)  # an interrupt does not wait for the answer
