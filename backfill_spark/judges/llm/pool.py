"""The pool: a sliding window of requests over one session, within budget, rate, permits and deadlines."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from backfill_spark.judges.llm.budget import Budget, Permits
from backfill_spark.judges.llm.endpoints import Service, Shape, output_limit, read_key
from backfill_spark.judges.llm.journal import Journal
from backfill_spark.judges.llm.messages import Answer, Question
from backfill_spark.judges.llm.patience import Patience
from backfill_spark.judges.llm.providers import Wire
from backfill_spark.judges.llm.rate_limit import Limiter
from backfill_spark.judges.llm.reply import TOO_LONG, Reply, decoded, described, read_body, verdict_of
from backfill_spark.judges.llm.retry import Action, Fault, fault_of, scrubbed, status_told, without_key
from backfill_spark.models import ErrorCode

RETRY_SHARE = 0.2
RETRIES_AT_LEAST = 20
"""Retries that any task may make, however few its questions are."""
RESHAPES = 3
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
CONNECT_S = 10.0
FIRST_CONNECT_S = 4.0
"""While nothing is known to listen there."""
FIRST_CONNECTS = 3
_BUDGET = "budget"


@dataclass(slots=True, eq=False)
class _Call:
    question: Question
    prompt: dict[str, Any]
    charged: float
    """Tokens that it may use at most."""
    held: float
    """What it may cost at most."""
    attempts: int = 0
    """Requests sent."""
    tries: int = 0
    """Those, and the ones that found nobody."""
    reshapes: int = 0
    shape: Shape | None = None
    """Its own form, where the endpoint did not take the common one."""
    deadline: float | None = None
    """Loop time; set when it is first sent."""
    fault: Fault | None = None
    """What the last request met."""


@dataclass(frozen=True, slots=True)
class Asked:
    """How the asking went."""

    requests: int
    cost_usd: float
    shape: Shape
    stopped: str | None
    """Why nothing more is asked, or None."""


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
        first_backoff_s: float = FIRST_BACKOFF_S,
    ) -> None:
        endpoint = service.endpoint
        self._service = service
        self._key = read_key(endpoint)
        self._wire = Wire(service, self._key)
        self._shape = service.shape
        self._budget = budget or Budget()
        self._limiter = limiter or Limiter(endpoint.rpm, endpoint.tpm, tasks=service.tasks)
        self._permits: Permits | None = None
        if journal is not None:
            has_price = service.price is not None
            window = endpoint.max_in_flight
            self._permits = Permits(journal, self._budget, window=window, has_price=has_price, still_s=still_s)
        self._first_backoff_s = first_backoff_s
        self._waiting: deque[Question] = deque()
        self._head: _Call | None = None
        """The first of `_waiting`, once it was looked at."""
        self._later: list[tuple[float, int, _Call]] = []
        self._open: set[asyncio.Task[None]] = set()
        self._done: list[Answer] = []
        self._retries = 0
        self._questions = 0
        self._handed_out = 0
        self._patience: Patience[_Call] = Patience(service)
        self._is_reached = service.is_probed
        self._numbers = 0
        self._stopped: str | None = None

    @property
    def is_busy(self) -> bool:
        """True while a question has no answer that was handed out."""
        return self._handed_out < self._questions

    @property
    def asked(self) -> Asked:
        """How the asking went so far."""
        return Asked(self._budget.requests, self._budget.committed_usd, self._shape, self._stopped)

    async def open(self) -> None:
        """Open the session and start sending."""
        endpoint = self._service.endpoint
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._answered = asyncio.Event()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=endpoint.max_in_flight, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._wire.headers,
        )
        self._broken: BaseException | None = None
        self._always = [asyncio.create_task(self._send_all())]
        if self._permits is not None:
            self._always.append(asyncio.create_task(self._permits.write_all()))
        for task in self._always:
            task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Stop, write what waits, and close all connections; what is on its way is given up."""
        tasks = [*self._always, *self._open]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()
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

    def _call(self, question: Question) -> _Call:
        prompt = orjson.loads(question.prompt)
        output = output_limit(prompt) or self._service.max_output_tokens
        held = self._service.highest_cost(question.tokens, output)
        return _Call(question, prompt, question.tokens + output, held)

    async def _send_all(self) -> None:
        """Send what is due, oldest retries first, as window, rate, permit and budget allow."""
        while True:
            self._changed.clear()
            if self._is_boundless(self._shape) and self._waiting:
                self._stop(self._boundless)
            call, wait = self._next()
            limit = self._patience.window(self._service.endpoint.max_in_flight)
            if call is None or len(self._open) >= limit:
                if not self._open and wait is None:
                    self._decide_forbidden()
                await self._wait(wait if len(self._open) < limit else None)
                continue
            if call.deadline is not None and call.fault is not None and call.deadline <= self._loop.time():
                # Others' Retry-After held it back for too long.
                heapq.heappop(self._later)
                self._fail(call, call.fault, None)
                continue
            wait = self._limiter.delay(call.charged)
            if wait > 0:
                left = wait if call.deadline is None else call.deadline - self._loop.time()
                await self._wait(min(wait, left))
                continue
            # A request that waits to be repeated comes before new ones: no hole may open in the order.
            kept = 0 if call.tries else len(self._later)
            if not self._budget.fits(call.held, kept=kept):
                if self._open or (self._later and kept):
                    await self._wait(None if self._open else self._later[0][0] - self._loop.time())
                    continue
                self._stop(_BUDGET)
                continue
            if self._permits is not None:
                await self._permits.cover(call.held)
                if self._next()[0] is not call or not self._budget.fits(call.held, kept=kept):
                    continue
            self._start(call)

    def _next(self) -> tuple[_Call | None, float | None]:
        """Return the call to send next, or how long until a retry is due."""
        if self._later:
            wait = self._later[0][0] - self._loop.time()
            if wait <= 0:
                return self._later[0][2], None
            return (self._first(), None) if self._waiting else (None, wait)
        return (self._first() if self._waiting else None), None

    def _first(self) -> _Call:
        if self._head is None:
            self._head = self._call(self._waiting[0])
        return self._head

    async def _wait(self, seconds: float | None) -> None:
        timer = None if seconds is None else self._loop.call_later(max(0.0, seconds), self._changed.set)
        try:
            await self._changed.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _start(self, call: _Call) -> None:
        if self._later and self._later[0][2] is call:
            heapq.heappop(self._later)
        else:
            self._waiting.popleft()
            self._head = None
        if call.deadline is None:
            call.deadline = self._loop.time() + self._service.endpoint.timeout_s
        call.attempts += 1
        call.tries += 1
        self._budget.hold(call.held)
        self._limiter.sent(call.charged)
        task = self._loop.create_task(self._attempt(call))
        self._open.add(task)
        task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._changed.set()
        self._ended(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Let an error of ours, or of the journal's disk, reach whoever waits for answers."""
        if not task.cancelled() and task.exception() is not None:
            self._broken = self._broken or task.exception()
            self._answered.set()

    async def _attempt(self, call: _Call) -> None:
        """Send one request and settle what comes back."""
        shape = call.shape or self._shape
        assert call.deadline is not None
        started = self._loop.time()
        whole = self._service.endpoint.timeout_s
        timeout = aiohttp.ClientTimeout(
            total=max(0.001, call.deadline - started),
            sock_connect=min(CONNECT_S if self._is_reached else FIRST_CONNECT_S, whole),
            sock_read=whole / 2,
        )
        try:
            async with self._session.post(
                self._wire.url, data=self._wire.body(call.prompt, shape), allow_redirects=False, timeout=timeout
            ) as response:
                status, headers = response.status, response.headers
                body = await read_body(response)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._broke_off(call, error, shape)
            return
        self._is_reached = True
        latency = (self._loop.time() - started) * 1e3
        body = None if body is None else without_key(body, self._key)
        if status == 200 and body is not None:
            self._replied(call, body, headers, latency, shape)
            return
        fault = TOO_LONG if body is None else fault_of(status, headers, body, shape)
        # A server that failed in the middle may bill what it did; one that refused does not.
        self._refused(call, fault, headers, call.held if status >= 500 or body is None else 0.0)
        self._faulted(call, fault, shape, latency)

    def _broke_off(self, call: _Call, error: Exception, shape: Shape) -> None:
        """Settle a request without an answer; one that found nobody was never sent."""
        self._limiter.dropped(call.charged)
        code = ErrorCode.TIMEOUT if isinstance(error, TimeoutError) else ErrorCode.JUDGE_ERROR
        if not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            self._budget.settle(call.held, call.held)
            self._faulted(call, Fault(Action.RETRY, code, described(error)), shape)
            return
        self._budget.take_back(call.held)
        call.attempts -= 1
        why = "no connection in time" if isinstance(error, TimeoutError) else _refusal(error)
        address = self._service.endpoint.base_url
        is_hopeless = not self._is_reached and (call.tries >= FIRST_CONNECTS or code is ErrorCode.TIMEOUT)
        action = Action.ROW if is_hopeless else Action.RETRY
        self._faulted(call, Fault(action, code, f"the endpoint cannot be reached at {address}: {why}"), shape)

    def _refused(self, call: _Call, fault: Fault, headers: Any, cost: float) -> None:
        """Settle a request that was answered by an error."""
        if fault.action is Action.SLOW:
            self._limiter.refused(call.charged, fault.retry_after, headers)
        else:
            used = 0.0 if fault.code is ErrorCode.TRACE_TOO_LARGE else None
            self._limiter.answered(call.charged, used, headers, succeeded=False)
        self._budget.settle(call.held, cost)

    def _replied(self, call: _Call, body: bytes, headers: Any, latency: float, shape: Shape) -> None:
        """Settle an answer with status 200: a verdict, a row that says why there is none, or an error after all."""
        data = None
        try:
            data = decoded(body)
            reply = self._wire.reply(data)
        except Exception:  # whatever stands in it: one odd answer is data
            reply = Reply(is_empty=True)
        read, wrote = reply.input_tokens, reply.output_tokens
        price = self._service.price
        cost = None if price is None or read is None or wrote is None else price.of(read, wrote)
        told = status_told(data)
        if told is not None:
            fault = fault_of(told, headers, body, shape, sent=200)
            paid = cost if cost is not None else call.held if told >= 500 else 0.0
            self._refused(call, fault, headers, paid)
            self._faulted(call, fault, shape, latency)
            return
        self._budget.settle(call.held, call.held if cost is None else cost)
        used = None if read is None or wrote is None else read + wrote
        self._limiter.answered(call.charged, used, headers, succeeded=True)
        code, message, verdict = verdict_of(reply, call.prompt.get("schema"))
        self._count(code, message or "")
        if verdict is not None:
            self._decide_forbidden()
        self._finish(
            Answer(
                prompt_hash=call.question.prompt_hash,
                model=self._service.uri,
                verdict=verdict,
                error_code=code,
                error_message=message and scrubbed(message, self._key),
                attempts=call.attempts,
                latency_ms=latency,
                input_tokens=read,
                output_tokens=wrote,
                cost_usd=cost,
            )
        )

    def _faulted(self, call: _Call, fault: Fault, shape: Shape, latency: float | None = None) -> None:
        """Ask again, stop, or give the question its error row."""
        call.fault = fault
        name = self._service.endpoint.name
        if fault.action is Action.STOP:
            self._stop(f"the endpoint {name!r} refused: {scrubbed(fault.message, self._key)}")
        if self._stopped is not None and fault.action is not Action.ROW:
            self._leave(call.question, call)
            return
        if fault.action is Action.UNSURE:
            self._patience.forbidden.append(call)
            if self._patience.is_forbidden_enough:
                self._decide_forbidden()
            return
        if fault.action is Action.RESHAPE and call.reshapes < RESHAPES and fault.shape is not None:
            # Where the common form was answered, what is wrong with it is wrong for this prompt only.
            is_common = not self._patience.has_verdict and self._shape == shape
            if is_common:
                self._shape = fault.shape
            if self._is_boundless(fault.shape):
                if is_common:
                    self._stop(self._boundless)
                    self._leave(call.question, call)
                else:
                    self._fail(call, fault, latency)
                return
            call.reshapes += 1
            call.shape = fault.shape
            self._again(call, self._loop.time())
            return
        if fault.action in (Action.RETRY, Action.SLOW):
            moment = self._loop.time() + self._pause(call, fault)
            assert call.deadline is not None
            # A refused request cost nothing and is slowed down already: the retry budget is for the others.
            is_allowed = fault.action is Action.SLOW or self._retries < self._retries_allowed
            if moment < call.deadline and is_allowed:
                self._retries += fault.action is Action.RETRY
                self._again(call, moment)
                return
            if fault.retry_after is not None and fault.retry_after > self._service.endpoint.timeout_s:
                self._stop(f"the endpoint {name!r} asks to wait {fault.retry_after:.0f} s")
                self._leave(call.question, call)
                return
        self._fail(call, fault, latency)

    def _is_boundless(self, shape: Shape) -> bool:
        """Tell a form that would let one answer pass a budget in dollars."""
        return shape.limit_field is None and self._budget.max_cost_usd is not None

    @property
    def _boundless(self) -> str:
        name = self._service.endpoint.name
        return f"the endpoint {name!r} takes no limit for the length of an answer: use max_calls, not max_cost_usd"

    def _decide_forbidden(self) -> None:
        """Give forbidden questions their rows, or stop where the endpoint forbids everything."""
        forbids_all, calls = self._patience.forbids_all(), self._patience.forbidden
        self._patience.forbidden = []
        for call in calls:
            assert call.fault is not None
            if not forbids_all:
                self._fail(call, call.fault, None)
                continue
            status = scrubbed(call.fault.message.partition(": ")[0], self._key)
            self._stop(f"the endpoint {self._service.endpoint.name!r} refused: {status}: it forbids the call")
            self._leave(call.question, call)

    def _fail(self, call: _Call, fault: Fault, latency: float | None) -> None:
        """Give the question its error row; after too many in a row, ask nothing more."""
        self._count(fault.code, fault.message)
        message = fault.message + (f" (after {call.attempts} attempts)" if call.attempts > 1 else "")
        self._finish(
            Answer(
                prompt_hash=call.question.prompt_hash,
                model=self._service.uri,
                error_code=fault.code,
                error_message=scrubbed(message, self._key),
                attempts=call.attempts,
                latency_ms=latency,
            )
        )

    def _count(self, code: ErrorCode | None, message: str) -> None:
        """Count failures in a row; after too many, ask nothing more."""
        reason = self._patience.count(code, message)
        if reason is not None:
            self._stop(reason)

    @property
    def _retries_allowed(self) -> float:
        return max(RETRIES_AT_LEAST, RETRY_SHARE * self._questions)

    def _pause(self, call: _Call, fault: Fault) -> float:
        if fault.retry_after is not None:
            return fault.retry_after
        return random.uniform(0, min(LONGEST_BACKOFF_S, self._first_backoff_s * 2 ** (call.tries - 1)))

    def _again(self, call: _Call, moment: float) -> None:
        self._numbers += 1
        heapq.heappush(self._later, (moment, self._numbers, call))

    def _stop(self, reason: str) -> None:
        """Ask nothing more: all that waits stays due. What is on its way may still be answered."""
        self._stopped = self._stopped or reason
        for _, _, call in self._later:
            self._leave(call.question, call)
        for question in self._waiting:
            self._leave(question)
        self._later.clear()
        self._waiting.clear()
        self._head = None

    def _leave(self, question: Question, call: _Call | None = None) -> None:
        attempts, fault = (0, None) if call is None else (call.attempts, call.fault)
        met = None if fault is None else scrubbed(fault.message, self._key)
        uri = self._service.uri
        self._done.append(Answer(question.prompt_hash, uri, error_message=met, left=self._stopped, attempts=attempts))
        self._answered.set()

    def _finish(self, answer: Answer) -> None:
        self._done.append(answer)
        self._answered.set()
        if self._permits is not None:
            self._permits.add(answer)


def _refusal(error: Exception) -> str:
    """Return why there was no connection: refused, an unknown name, or a certificate."""
    cause = getattr(error, "os_error", error)
    return f"{getattr(cause, 'strerror', None) or type(cause).__name__} ({type(cause).__name__})"
