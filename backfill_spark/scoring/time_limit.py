"""A limit on one call in the worker's own process: ends Python code, sleeps and waits, but no call into C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, isfinite
from time import perf_counter
from types import FrameType

_SHORTEST_TICK_S, _LONGEST_TICK_S = 0.02, 5.0


class CallTimeoutError(BaseException):
    """A call passed its limit. No Exception, so that a scorer's own `except Exception` does not catch it."""


class Watch:
    """Looks now and then whether `deadline`, in seconds of `perf_counter`, has passed; `inf` is none."""

    __slots__ = ("deadline",)

    def __init__(self) -> None:
        self.deadline = inf

    def look(self, _signal: int, _frame: FrameType | None) -> None:
        """Raise in the running call when it is late. A call that swallows this is told again a second later."""
        now = perf_counter()
        if now > self.deadline:
            # Never twice in a row: the second one could hit whoever is handling the first.
            self.deadline = now + 1.0
            raise CallTimeoutError


@contextmanager
def watching(watch: Watch, shortest_limit_s: float) -> Iterator[None]:
    """Let `watch` look at a tenth of the shortest limit; does nothing outside the main thread, where signals are not.

    A batch that ends before the first look costs two system calls.
    """
    if not isfinite(shortest_limit_s) or threading.current_thread() is not threading.main_thread():
        yield
        return
    tick = min(max(shortest_limit_s / 10, _SHORTEST_TICK_S), _LONGEST_TICK_S)
    before = signal.signal(signal.SIGALRM, watch.look)
    signal.setitimer(signal.ITIMER_REAL, tick, tick)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
