"""The pool: coroutines that send requests off one queue, within window, budget, rate, journal and deadlines."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import orjson

from backfill_spark.judges.llm.budget import Budget, Permits
from backfill_spark.judges.llm.endpoints import Service, Shape, output_limit
from backfill_spark.judges.llm.journal import Journal
from backfill_spark.judges.llm.messages import Answer, Question
from backfill_spark.judges.llm.patience import Patience
from backfill_spark.judges.llm.rate_limit import Limiter
from backfill_spark.judges.llm.reply import verdict_of
from backfill_spark.judges.llm.retry import Action, Fault, RetryPolicy
from backfill_spark.judges.llm.sender import Outcome, Sender
from backfill_spark.models import ErrorCode

_BUDGET = "budget"


@dataclass(slots=True, eq=False)
class _Call:
    question: Question
    prompt: dict[str, Any]
    charged: float
    """Tokens that it may use at most."""
    cost: float
    """What one request for it may cost at most."""
    is_held: bool = False
    """True while the budget holds a request for it that is not sent yet."""
    attempts: int = 0
    """Requests sent."""
    tries: int = 0
    """Those, and the ones that found nobody."""
    reshapes: int = 0
    shape: Shape | None = None
    """Its own form, where the endpoint did not take the common one."""
    deadline: float = inf
    """Loop time; set when it is first sent."""
    fault: Fault | None = None
    """What the last request met."""

    @property
    def rank(self) -> tuple[bool, bool]:
        """Its place among those that are due: what holds a request first, what is new last."""
        return not self.is_held, self.tries == 0


class Pool:
    """Asks one service: keeps `max_in_flight` requests open, and decides what each answer means."""

    def __init__(
        self,
        service: Service,
        *,
        budget: Budget | None = None,
        limiter: Limiter | None = None,
        journal: Journal | None = None,
        still_s: float | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        endpoint = service.endpoint
        self._service = service
        self._sender = Sender(service)
        self.shape = service.shape
        """What the endpoint takes, as far as it is known."""
        self._budget = budget or Budget()
        self._limiter = limiter or Limiter(endpoint.rpm, endpoint.tpm, tasks=service.tasks)
        self._policy = policy or RetryPolicy()
        self._patience: Patience[_Call] = Patience(service)
        self._permits: Permits | None = None
        if journal is not None:
            has_price = service.price is not None
            window = endpoint.max_in_flight
            self._permits = Permits(journal, self._budget, window=window, has_price=has_price, still_s=still_s)
        self._waiting: deque[Question] = deque()
        self._due: list[_Call] = []
        """What may be sent as soon as it fits: calls to repeat, and the first new one."""
        self._sleeping: dict[_Call, asyncio.TimerHandle] = {}
        """Calls to repeat later. The budget holds their next request, so that no hole opens in the order."""
        self._open = 0
        """Requests on their way."""
        self._done: list[Answer] = []
        self._retries = 0
        self._questions = 0
        self._handed_out = 0
        self._stopped: str | None = None
        """Why nothing more is asked, or None."""
        self._broken: BaseException | None = None

    @property
    def is_busy(self) -> bool:
        """True while a question has no answer that was handed out."""
        return self._handed_out < self._questions

    async def open(self) -> None:
        """Open the session and start sending."""
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._answered = asyncio.Event()
        self._ready: asyncio.Queue[_Call] = asyncio.Queue()
        await self._sender.open()
        work = [self._admit(), *(self._work() for _ in range(self._service.endpoint.max_in_flight))]
        if self._permits is not None:
            work.append(self._permits.write_all())
        self._tasks = [asyncio.create_task(each) for each in work]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Stop, write what waits, and close all connections; what is on its way is given up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for call in (*self._due, *self._sleeping):
            self._give_back(call)
        await self._sender.close()
        if self._permits is not None:
            self._permits.close()

    async def feed(self, questions: Sequence[Question]) -> list[Answer]:
        """Take questions; return what was answered so far, once few enough are waiting."""
        self._questions += len(questions)
        self._waiting.extend(questions)
        if self._stopped is not None:
            self._stop(self._stopped)
        self._changed.set()
        while len(self._waiting) > self._service.endpoint.max_in_flight:
            await self._progress()
        return self._taken()

    async def next_answers(self) -> list[Answer]:
        """Wait for at least one answer, and return what there is."""
        while not self._done and self.is_busy:
            await self._progress()
        return self._taken()

    async def _progress(self) -> None:
        await self._answered.wait()
        self._answered.clear()
        if self._broken is not None:
            raise self._broken

    def _taken(self) -> list[Answer]:
        done, self._done = self._done, []
        self._handed_out += len(done)
        return done

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Let an error of ours, or of the journal's disk, reach whoever waits for answers."""
        if not task.cancelled() and task.exception() is not None:
            self._broken = self._broken or task.exception()
            self._answered.set()

    async def _work(self) -> None:
        """Send one request after the other."""
        while True:
            call = await self._ready.get()
            shape = call.shape or self.shape
            seconds = call.deadline - self._loop.time()
            got = await self._sender.send(call.prompt, shape, seconds=seconds, tries=call.tries)
            self._open -= 1
            call.attempts += got.is_sent
            self._settle(call, got)
            if got.fault is None:
                self._replied(call, got)
            else:
                self._faulted(call, got.fault, shape, got.latency_ms)
            self._changed.set()

    async def _admit(self) -> None:
        """Let calls be sent as window, rate, budget and journal allow; all that may be at once go in one round."""
        while True:
            self._changed.clear()
            if self._is_boundless(self.shape) and (self._due or self._waiting):
                self._stop(self._boundless)
            if not self._due and self._waiting:
                self._due.append(self._call(self._waiting.popleft()))
            if not self._due or self._open >= self._patience.window(self._service.endpoint.max_in_flight):
                if not self._open and not self._sleeping:
                    self._decide_forbidden()
                await self._wait()
                continue
            call = self._due[0]
            left = call.deadline - self._loop.time()
            if left <= 0 and call.fault is not None:
                # Others' Retry-After held it back for too long.
                self._due.remove(call)
                self._fail(call, call.fault, None)
            elif (pause := self._limiter.delay(call.charged)) > 0:
                await self._wait(min(pause, left))
            elif not self._hold(call):
                if self._open or self._sleeping:
                    await self._wait()
                else:
                    self._stop(_BUDGET)
            elif await self._is_covered(call):
                self._due.remove(call)
                if not call.tries:
                    call.deadline = self._loop.time() + self._service.endpoint.timeout_s
                call.is_held = False
                call.tries += 1
                self._open += 1
                self._limiter.sent(call.charged)
                self._ready.put_nowait(call)

    def _call(self, question: Question) -> _Call:
        prompt = orjson.loads(question.prompt)
        output = output_limit(prompt) or self._service.max_output_tokens
        return _Call(question, prompt, question.tokens + output, self._service.highest_cost(question.tokens, output))

    async def _wait(self, seconds: float | None = None) -> None:
        if seconds is not None:
            self._loop.call_later(max(0.0, seconds), self._changed.set)
        await self._changed.wait()

    def _hold(self, call: _Call) -> bool:
        """Take a request for a call off the budget, unless it has one; False when there is none for it."""
        # One that is to be repeated comes before new ones: no hole may open in the order.
        is_next = call.tries or all(other.is_held for other in self._sleeping)
        if not call.is_held and is_next and self._budget.fits(call.cost):
            self._budget.hold(call.cost)
            call.is_held = True
        return call.is_held

    def _give_back(self, call: _Call) -> None:
        if call.is_held:
            self._budget.take_back(call.cost)
            call.is_held = False

    async def _is_covered(self, call: _Call) -> bool:
        """Wait until the journal covers what is held; False when the call may not be sent after all."""
        if self._permits is not None:
            await self._permits.cover(call.cost)
            if self._budget.is_overdrawn:
                # While the journal was written, another answer cost more than was held for it.
                self._give_back(call)
        return call.is_held

    def _settle(self, call: _Call, got: Outcome) -> None:
        """Count what a request used, and learn from its answer how fast to go on."""
        if not got.is_sent:
            self._budget.take_back(call.cost)
        elif got.cost_usd is None:
            self._budget.settle(call.cost, call.cost if got.is_billed else 0.0)
        else:
            self._budget.settle(call.cost, got.cost_usd)
        if got.headers is None:
            self._limiter.dropped(call.charged)
        elif got.fault is None:
            self._limiter.answered(call.charged, got.reply.tokens, got.headers, succeeded=True)
        elif got.fault.action is Action.SLOW:
            self._limiter.refused(call.charged, got.fault.retry_after, got.headers)
        else:
            used = 0.0 if got.fault.code is ErrorCode.TRACE_TOO_LARGE else None
            self._limiter.answered(call.charged, used, got.headers, succeeded=False)

    def _replied(self, call: _Call, got: Outcome) -> None:
        """Finish a question with the verdict of its reply, or with an error row where the reply holds none."""
        code, message, verdict = verdict_of(got.reply, call.prompt.get("schema"))
        self._count(code, message or "")
        if verdict is not None:
            self._decide_forbidden()
        self._finish(
            call,
            verdict=verdict,
            error_code=code,
            error_message=message,
            latency_ms=got.latency_ms,
            input_tokens=got.reply.input_tokens,
            output_tokens=got.reply.output_tokens,
            cost_usd=got.cost_usd,
        )

    def _faulted(self, call: _Call, fault: Fault, shape: Shape, latency: float | None) -> None:
        """Ask again, stop, or finish the question with an error row."""
        call.fault = fault
        name = self._service.endpoint.name
        if fault.action is Action.STOP:
            self._stop(f"the endpoint {name!r} refused: {self._sender.scrubbed(fault.message)}")
        if self._stopped is not None and fault.action is not Action.ROW:
            self._leave(call)
            return
        if fault.action is Action.UNSURE:
            self._patience.forbidden.append(call)
            if self._patience.is_forbidden_enough:
                self._decide_forbidden()
            return
        if fault.shape is not None and call.reshapes < self._policy.reshapes:
            self._reshape(call, fault, fault.shape, shape, latency)
            return
        if fault.action in (Action.RETRY, Action.SLOW):
            pause = self._policy.pause(fault, call.tries)
            is_in_time = self._loop.time() + pause < call.deadline
            if is_in_time and self._policy.allows(fault, self._retries, self._questions):
                self._retries += fault.action is Action.RETRY
                self._again(call, pause)
                return
            if fault.retry_after is not None and fault.retry_after > self._service.endpoint.timeout_s:
                self._stop(f"the endpoint {name!r} asks to wait {fault.retry_after:.0f} s")
                self._leave(call)
                return
        self._fail(call, fault, latency)

    def _reshape(self, call: _Call, fault: Fault, other: Shape, shape: Shape, latency: float | None) -> None:
        """Ask again at once in the other form that the endpoint takes, unless a budget in dollars forbids it."""
        # Where the common form was answered, what is wrong with it is wrong for this prompt only.
        is_common = not self._patience.has_verdict and self.shape == shape
        if is_common:
            self.shape = other
        if not self._is_boundless(other):
            call.reshapes += 1
            call.shape = other
            self._again(call, 0.0)
        elif is_common:
            self._stop(self._boundless)
            self._leave(call)
        else:
            self._fail(call, fault, latency)

    def _is_boundless(self, shape: Shape) -> bool:
        """True for a form without a length limit under a budget in dollars, which one answer could pass."""
        return shape.limit_field is None and self._budget.max_cost_usd is not None

    @property
    def _boundless(self) -> str:
        name = self._service.endpoint.name
        return f"the endpoint {name!r} takes no limit for the length of an answer: use max_calls, not max_cost_usd"

    def _decide_forbidden(self) -> None:
        """Finish forbidden questions with error rows, or stop where the endpoint forbids everything."""
        forbids_all, calls = self._patience.forbids_all(), self._patience.forbidden
        self._patience.forbidden = []
        for call in calls:
            assert call.fault is not None
            if not forbids_all:
                self._fail(call, call.fault, None)
                continue
            status = self._sender.scrubbed(call.fault.message.partition(": ")[0])
            self._stop(f"the endpoint {self._service.endpoint.name!r} refused: {status}: it forbids the call")
            self._leave(call)

    def _count(self, code: ErrorCode | None, message: str) -> None:
        """Count failures in a row; after too many, ask nothing more."""
        reason = self._patience.count(code, message)
        if reason is not None:
            self._stop(reason)

    def _again(self, call: _Call, pause: float) -> None:
        """Let a call be repeated after `pause` seconds; the budget holds its request from now on."""
        self._hold(call)
        if pause > 0:
            self._sleeping[call] = self._loop.call_later(pause, self._wake, call)
        else:
            self._wake(call)

    def _wake(self, call: _Call) -> None:
        self._sleeping.pop(call, None)
        self._due.append(call)
        self._due.sort(key=lambda due: due.rank)
        self._changed.set()

    def _stop(self, reason: str) -> None:
        """Ask nothing more: all that waits stays due. What is on its way may still be answered."""
        self._stopped = self._stopped or reason
        for timer in self._sleeping.values():
            timer.cancel()
        calls = [*self._sleeping, *self._due, *(_Call(question, {}, 0.0, 0.0) for question in self._waiting)]
        for queue in (self._sleeping, self._due, self._waiting):
            queue.clear()
        for call in calls:
            self._leave(call)

    def _leave(self, call: _Call) -> None:
        """Hand back a question that stays due."""
        self._finish(call, left=self._stopped, error_message=None if call.fault is None else call.fault.message)

    def _fail(self, call: _Call, fault: Fault, latency: float | None) -> None:
        """Finish a question with an error row; after too many in a row, ask nothing more."""
        self._count(fault.code, fault.message)
        message = fault.message + (f" (after {call.attempts} attempts)" if call.attempts > 1 else "")
        self._finish(call, error_code=fault.code, error_message=message, latency_ms=latency)

    def _finish(self, call: _Call, *, error_message: str | None, **found: Any) -> None:
        """Hand out what became of a question; `found` has fields of `Answer`."""
        self._give_back(call)
        message = error_message and self._sender.scrubbed(error_message)
        answer = Answer(
            call.question.prompt_hash, self._service.uri, error_message=message, attempts=call.attempts, **found
        )
        self._done.append(answer)
        self._answered.set()
        if self._permits is not None and answer.left is None:
            self._permits.add(answer)
