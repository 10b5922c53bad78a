"""Calls of `async def` scorers: many under way at once in one Python worker, each with its own limit and result."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from time import perf_counter
from typing import Any

from backfill_spark.models import ErrorCode
from backfill_spark.scoring.feedback import failure_of
from backfill_spark.scoring.time_limit import CallTimeoutError, Watch

_GRACE_S = 1.0
"""What a call that passed its limit has for its `finally` and `except` blocks."""
_kept_loop: asyncio.AbstractEventLoop | None = None


class Call:
    """One call: what it needs, and once it has landed what became of it."""

    __slots__ = (
        "_busy_before",
        "_limit",
        "_own_s",
        "_prepare",
        "_started",
        "_traffic",
        "failure",
        "function",
        "is_given_up",
        "is_late",
        "latency_ms",
        "result",
    )

    def __init__(
        self, function: Callable[..., object], prepare: Callable[[], Mapping[str, Any]], limit_s: float
    ) -> None:
        self.function, self._prepare, self._limit = function, prepare, limit_s
        self.is_late = False
        """True when it was ended for its limit: then nothing else counts."""
        self.failure: tuple[ErrorCode, str] | None = None
        """Code and message of what the scorer raised; the exception itself would keep the arguments alive."""
        self.result: Any = None
        self.latency_ms: float | None = None
        """From its start to its end, waits included; None where it never started."""
        self._started: float | None = None
        self._own_s = self._busy_before = 0.0
        self.is_given_up = False
        """True once it has outlived its limit and its grace."""

    async def run(self, traffic: _Traffic) -> None:
        """Make the call and wait for its end, or until it has passed its limit. Never raises."""
        self._traffic = traffic
        # A task of its own: what a scorer cancels, and what it sets in context variables, is its own.
        task = asyncio.create_task(self._settle())
        while not task.done() and (left := self._left(perf_counter())) > 0:
            await asyncio.wait((task,), timeout=None if left == inf else left)
        if task.done():
            return
        self.is_late = True
        task.cancel()
        await asyncio.wait((task,), timeout=_GRACE_S)
        if not task.done():
            self.is_given_up = True
            task.cancel()
            await asyncio.wait((task,), timeout=_GRACE_S)
        if not task.done():  # it waits for a task that refuses to be cancelled
            _leave(task)

    async def _settle(self) -> None:
        try:
            arguments = self._prepare()
            self._busy_before = self._traffic.busy_s
            self._started = perf_counter()
            self.result = await _Steps(self, _made(self.function, arguments))
        except CallTimeoutError:
            self._traffic.watch.deadline = inf
            self.is_late = True
        except BaseException as error:  # CancelledError and SystemExit are what a scorer raised, too
            self.failure = failure_of(error)
        if self._started is not None:
            self.latency_ms = (perf_counter() - self._started) * 1000.0

    def _left(self, now: float) -> float:
        """Return the seconds until its limit. Those in which others kept the loop busy do not count."""
        if self._started is None:
            return self._limit
        others_s = self._traffic.busy_s - self._busy_before - self._own_s
        return self._limit - (now - self._started - others_s)

    def step(self, advance: Callable[[], Any]) -> Any:
        """Run the scorer's code up to its next wait; ended where it blocks the loop past the limit."""
        started = perf_counter()
        left = self._left(started)
        watch = self._traffic.watch
        watch.deadline = started + (left if left > 0 else _GRACE_S)
        try:
            return advance()
        finally:
            watch.deadline = inf
            watch.tidy()
            spent = perf_counter() - started
            self._own_s += spent
            self._traffic.busy_s += spent


class _Traffic:
    """What the calls of a batch share: the watch, and the seconds in which the loop ran one of them."""

    __slots__ = ("busy_s", "watch")

    def __init__(self, watch: Watch) -> None:
        self.watch, self.busy_s = watch, 0.0


class _Steps:
    """Awaits a coroutine step by step, so that each step can be timed, and none is run once it is given up."""

    __slots__ = ("call", "coroutine")

    def __init__(self, call: Call, coroutine: Any) -> None:
        self.call, self.coroutine = call, coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self.coroutine
        advance = partial(coroutine.send, None)
        while True:
            try:
                waited_for = self.call.step(advance)
            except StopIteration as stop:
                return stop.value
            try:
                advance = partial(coroutine.send, (yield waited_for))
            except BaseException as error:
                if self.call.is_given_up:
                    _leave(coroutine)
                    raise
                advance = partial(coroutine.throw, error)


def _leave(thing: object) -> None:
    """Keep what ignores its end for as long as the process lives, and beyond."""
    import ctypes

    # Measured: where Python lets go of it, at its exit too, it is resumed once more, and may hang there.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


async def _made(function: Callable[..., object], arguments: Mapping[str, Any]) -> object:
    # A wrapper around an async function may answer without it.
    result = function(**arguments)
    return await result if inspect.isawaitable(result) else result


def run_all(calls: Iterable[Call], *, in_flight: int, watch: Watch) -> None:
    """Make all calls, in their order, at most `in_flight` under way at once; returns when the last one has landed.

    Nothing that a scorer does in Python costs another call. In the main thread the event loop is kept for the next
    batch, so that a client that a scorer keeps between its calls goes on working.
    """
    traffic, waiting = _Traffic(watch), iter(calls)

    async def worker() -> None:
        for call in waiting:
            await call.run(traffic)

    async def workers() -> None:
        await asyncio.gather(*(worker() for _ in range(in_flight)))

    with _loop() as loop:
        flown = loop.create_task(workers())
        flown.add_done_callback(lambda _: loop.stop())
        while not flown.done():
            # A task that a scorer started may raise these through the loop, or stop it: the calls go on.
            with suppress(SystemExit, KeyboardInterrupt):
                loop.run_forever()
        flown.result()


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    global _kept_loop
    if threading.current_thread() is not threading.main_thread():
        loop = asyncio.new_event_loop()
        try:
            yield loop
        finally:
            loop.close()
        return
    if _kept_loop is None or _kept_loop.is_closed():
        _kept_loop = asyncio.new_event_loop()
        atexit.register(_kept_loop.close)
    yield _kept_loop
