"""The desk: a sliding window of requests over one session, within budget, rate, permits and deadlines."""

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

from backfill_spark.asking.answers import Answer, Budget, Question
from backfill_spark.asking.endpoints import Service, Shape, output_limit, read_key
from backfill_spark.asking.faults import Action, Fault, fault_of, scrubbed, without_key
from backfill_spark.asking.limiter import Limiter
from backfill_spark.asking.permits import Permits
from backfill_spark.asking.readings import TOO_LONG, decoded, described, read_body, verdict_of
from backfill_spark.asking.spool import Spool
from backfill_spark.asking.wires import Reply, Wire
from backfill_spark.models import ErrorCode

RETRY_SHARE = 0.2
RETRIES_AT_LEAST = 20
"""Retries that any task may make, however few its questions are."""
FAILURES_IN_A_ROW = 50
"""Questions that fail one after the other, with no answer between them, before nothing more is asked."""
RESHAPES = 3
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
CONNECT_S = 10.0
_BUDGET = "budget"
_OF_THE_ENDPOINT = frozenset({ErrorCode.JUDGE_ERROR, ErrorCode.JUDGE_RATE_LIMITED, ErrorCode.TIMEOUT})


@dataclass(slots=True, eq=False)
class _Call:
    question: Question
    prompt: dict[str, Any]
    charged: float
    """Tokens that it may use at most."""
    held: float
    """What it may cost at most."""
    attempts: int = 0
    reshapes: int = 0
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


class Desk:
    """Asks one service: keeps `max_in_flight` requests open, and decides what each answer means."""

    def __init__(
        self,
        service: Service,
        *,
        budget: Budget | None = None,
        limiter: Limiter | None = None,
        spool: Spool | None = None,
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
        if spool is not None:
            has_price = service.price is not None
            window = endpoint.max_in_flight
            self._permits = Permits(spool, self._budget, window=window, has_price=has_price, still_s=still_s)
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
        self._failures = 0
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
        limit = self._service.endpoint.max_in_flight
        while True:
            self._changed.clear()
            call, wait = self._next()
            if call is None or len(self._open) >= limit:
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
            kept = 0 if call.attempts else len(self._later)
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
        """Let an error of ours, or of the spool's disk, reach whoever waits for answers."""
        if not task.cancelled() and task.exception() is not None:
            self._broken = self._broken or task.exception()
            self._answered.set()

    async def _attempt(self, call: _Call) -> None:
        """Send one request and settle what comes back."""
        shape = self._shape
        assert call.deadline is not None
        started = self._loop.time()
        whole = self._service.endpoint.timeout_s
        timeout = aiohttp.ClientTimeout(
            total=max(0.001, call.deadline - started), sock_connect=min(CONNECT_S, whole), sock_read=whole / 2
        )
        try:
            async with self._session.post(
                self._wire.url, data=self._wire.body(call.prompt, shape), allow_redirects=False, timeout=timeout
            ) as response:
                status, headers = response.status, response.headers
                body = await read_body(response)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._limiter.dropped(call.charged)
            is_sent = not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            self._budget.settle(call.held, call.held if is_sent else 0.0)
            code = ErrorCode.TIMEOUT if isinstance(error, TimeoutError) else ErrorCode.JUDGE_ERROR
            self._faulted(call, Fault(Action.RETRY, code, described(error)), shape)
            return
        latency = (self._loop.time() - started) * 1e3
        body = None if body is None else without_key(body, self._key)
        if status == 200 and body is not None:
            self._replied(call, body, headers, latency)
            return
        fault = TOO_LONG if body is None else fault_of(status, headers, body, shape)
        if status == 429:
            self._limiter.refused(call.charged, fault.retry_after, headers)
        else:
            self._limiter.answered(call.charged, None, headers, succeeded=False)
        # A server that failed in the middle may bill what it did; one that refused does not.
        self._budget.settle(call.held, call.held if status >= 500 or body is None else 0.0)
        self._faulted(call, fault, shape, latency)

    def _replied(self, call: _Call, body: bytes, headers: Any, latency: float) -> None:
        """Settle an answer with status 200: a verdict, or a row that says why there is none."""
        try:
            reply = self._wire.reply(decoded(body))
        except Exception:  # whatever stands in it: one odd answer is data
            reply = Reply(is_empty=True)
        read, wrote = reply.input_tokens, reply.output_tokens
        used = None if read is None or wrote is None else read + wrote
        price = self._service.price
        cost = None if price is None or read is None or wrote is None else price.of(read, wrote)
        self._budget.settle(call.held, call.held if cost is None else cost)
        self._limiter.answered(call.charged, used, headers, succeeded=True)
        self._failures = 0
        code, message, verdict = verdict_of(reply, call.prompt.get("schema"))
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
        if fault.action is Action.STOP:
            self._stop(f"the endpoint {self._service.endpoint.name!r} refused: {scrubbed(fault.message, self._key)}")
        if self._stopped is not None and fault.action is not Action.ROW:
            self._leave(call.question, call.attempts)
            return
        if fault.action is Action.RESHAPE and call.reshapes < RESHAPES:
            call.reshapes += 1
            if self._shape == shape and fault.shape is not None:
                self._shape = fault.shape
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
                self._stop(f"the endpoint {self._service.endpoint.name!r} asks to wait {fault.retry_after:.0f} s")
                self._leave(call.question, call.attempts)
                return
        self._fail(call, fault, latency)

    def _fail(self, call: _Call, fault: Fault, latency: float | None) -> None:
        """Give the question its error row; after too many in a row, ask nothing more."""
        self._failures += fault.code in _OF_THE_ENDPOINT
        if self._failures >= FAILURES_IN_A_ROW:
            self._stop(f"{self._failures} questions in a row had no answer from {self._service.endpoint.name!r}")
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

    @property
    def _retries_allowed(self) -> float:
        return max(RETRIES_AT_LEAST, RETRY_SHARE * self._questions)

    def _pause(self, call: _Call, fault: Fault) -> float:
        if fault.retry_after is not None:
            return fault.retry_after
        return random.uniform(0, min(LONGEST_BACKOFF_S, self._first_backoff_s * 2 ** (call.attempts - 1)))

    def _again(self, call: _Call, moment: float) -> None:
        self._numbers += 1
        heapq.heappush(self._later, (moment, self._numbers, call))

    def _stop(self, reason: str) -> None:
        """Ask nothing more: all that waits stays due. What is on its way may still be answered."""
        self._stopped = self._stopped or reason
        for _, _, call in self._later:
            self._leave(call.question, call.attempts)
        for question in self._waiting:
            self._leave(question, 0)
        self._later.clear()
        self._waiting.clear()
        self._head = None

    def _leave(self, question: Question, attempts: int) -> None:
        self._done.append(Answer(question.prompt_hash, self._service.uri, left=self._stopped, attempts=attempts))
        self._answered.set()

    def _finish(self, answer: Answer) -> None:
        self._done.append(answer)
        self._answered.set()
        if self._permits is not None:
            self._permits.add(answer)
