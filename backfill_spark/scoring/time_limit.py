"""A limit on one call in the worker's own process: ends Python code, sleeps and waits, but no call into C."""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf, isfinite
from time import perf_counter
from types import FrameType
from typing import Any

_SHORTEST_TICK_S, _LONGEST_TICK_S = 0.02, 5.0
# Not SIGALRM, whose timer and handler scorers use for limits of their own.
_OWN_SIGNAL = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
# Without the wrapper that makes enums of handlers: 0.05 µs instead of 6.
_handler_of: Callable[[int], Any] = importlib.import_module("_signal").getsignal


class CallTimeoutError(BaseException):
    """A call passed its limit. No Exception, so that a scorer's own `except Exception` does not catch it."""


class Watch:
    """Raises in the running call once `deadline`, in seconds of `perf_counter`, has passed; `inf` is none."""

    __slots__ = ("deadline", "is_set")

    def __init__(self) -> None:
        self.deadline = inf
        self.is_set = False
        """True while signals are watched for."""

    def look(self, _signal: int, _frame: FrameType | None) -> None:
        """Raise in the running call when it is late. A call that swallows this is told again a second later."""
        now = perf_counter()
        if now > self.deadline:
            # Never twice in a row: the second one could hit whoever is handling the first.
            self.deadline = now + 1.0
            raise CallTimeoutError

    def tidy(self) -> None:
        """Take back the alarm that a call has left behind: its handler would run in another scorer's call."""
        if self.is_set and _handler_of(signal.SIGALRM) is not _forget:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, _forget)


def _forget(_signal: int, _frame: FrameType | None) -> None:
    """Handle an alarm that a call has set and not waited for: by default it would end the process."""


@contextmanager
def watching(watch: Watch, shortest_limit_s: float) -> Iterator[None]:
    """Let `watch` look at a tenth of the shortest limit, in the main thread, which alone gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    tick = min(max(shortest_limit_s / 10, _SHORTEST_TICK_S), _LONGEST_TICK_S)
    over, main = threading.Event(), threading.get_ident()

    def tell() -> None:
        while not over.wait(tick):
            if perf_counter() > watch.deadline:
                signal.pthread_kill(main, _OWN_SIGNAL)

    teller = threading.Thread(target=tell, name="time-limit", daemon=True)
    before = signal.signal(signal.SIGALRM, _forget)
    signal.signal(_OWN_SIGNAL, watch.look)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (_OWN_SIGNAL,))
    watch.is_set = True
    if isfinite(shortest_limit_s):
        teller.start()
    try:
        yield
    finally:
        watch.is_set = False
        over.set()
        if teller.ident is not None:
            teller.join()
        # One that is still on its way must not end the process, as it would by default.
        signal.signal(_OWN_SIGNAL, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
