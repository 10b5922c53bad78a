"""Wall and CPU seconds of this process and everything below it: Python driver, JVM, Python workers, other commands."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

SAMPLE_S = 0.1


@dataclass
class Usage:
    """What a block took."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


class Meter:
    """Adds up the CPU of a process tree; a process that ends keeps what it had when it was last looked at."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}

    def look(self) -> float:
        """Return the CPU seconds of all processes seen so far, ended ones too."""
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                # Not children_user: a process that ends moves there what was counted as its own.
                self._seen[process.pid, process.create_time()] = times.user + times.system
        return sum(self._seen.values())


@contextlib.contextmanager
def measured() -> Iterator[Usage]:
    """Measure a block; the result is filled in at its end."""
    usage, meter, ended = Usage(), Meter(), threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_S):
            meter.look()

    wall, cpu = time.perf_counter(), meter.look()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield usage
    finally:
        usage.wall_s = time.perf_counter() - wall
        ended.set()
        watcher.join()
        usage.cpu_s = meter.look() - cpu
