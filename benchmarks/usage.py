"""Wall and CPU seconds of this process and everything below it: Python driver, JVM, Python workers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil


@dataclass
class Usage:
    """What a block took."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


def cpu_seconds() -> float:
    """Return the CPU seconds of the process tree so far, of ended children too."""
    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


@contextlib.contextmanager
def measured() -> Iterator[Usage]:
    """Measure a block; the result is filled in at its end."""
    usage = Usage()
    wall, cpu = time.perf_counter(), cpu_seconds()
    try:
        yield usage
    finally:
        usage.wall_s = time.perf_counter() - wall
        usage.cpu_s = cpu_seconds() - cpu


def resident_mb() -> dict[str, float]:
    """Return the resident memory, now, of the driver's JVM and of this Python process, in MiB."""
    me = psutil.Process()
    jvm = [p for p in me.children() if "java" in p.name()]
    found = {"python": me.memory_info().rss / 2**20}
    if jvm:
        found["jvm"] = jvm[0].memory_info().rss / 2**20
    return found
