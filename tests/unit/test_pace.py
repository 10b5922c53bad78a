"""The pace that sizes chunks and tasks is that of the task: calls that wait side by side take little of it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from backfill_spark.backfill import steps
from backfill_spark.backfill.attempt import JobProgress
from backfill_spark.backfill.spending import Spending
from backfill_spark.models import Chunk, ScorerKind, ScorerSpec, TimeWindow
from backfill_spark.results.staged import StagedCounts

SLOTS = 2


class Machine:
    """Two slots with 64 places each: knows how long a chunk takes when each async call waits for `latency_s`."""

    def __init__(self, asyncs: int, *, latency_s: float, sync_s: float = 0.0) -> None:
        kinds = [ScorerKind.ASYNC_FUNCTION] * asyncs + [ScorerKind.FUNCTION]
        scorers = tuple(ScorerSpec(f"s{i}", 1, "d", kind, {}, None, ("outputs",), 1.0) for i, kind in enumerate(kinds))
        code = tuple(range(len(scorers)))
        self.request: Any = SimpleNamespace(scorers=scorers, code=code, window=TimeWindow(), lists_traces=True)
        self.progress = JobProgress({}, Spending(None, None))
        self.asyncs, self.latency_s, self.sync_s = asyncs, latency_s, sync_s

    def chunks(self, pairs: int) -> Iterator[tuple[Chunk, int | None]]:
        return steps.next_chunks(self.request, self.progress, {0: pairs}, SLOTS)

    def count(self, calls: int, seconds: float) -> None:
        """Count a chunk's calls."""
        staged = self.progress.staged
        staged["all"] = staged.get("all", StagedCounts()) + StagedCounts(calls=calls, seconds=seconds)

    def run(self, traces: int) -> float:
        """Score all traces; return the seconds that it took."""
        scorers = self.asyncs + 1
        for chunk, tasks in self.chunks(traces * scorers):
            of_chunk, of_task = chunk.pairs / scorers, chunk.pairs / scorers / (tasks or 1)
            waves, rounds = -(-(tasks or 1) // SLOTS), -(-int(of_task * self.asyncs) // 64)
            took = of_chunk * (self.asyncs * self.latency_s + self.sync_s)
            self.count(chunk.pairs, took)
            self.progress.stage_seconds += 1.0 + waves * (rounds * self.latency_s + of_task * self.sync_s)
        assert self.progress.calls == traces * scorers
        return self.progress.stage_seconds


@pytest.mark.parametrize(
    ("machine", "traces", "least"),
    [
        (Machine(1, latency_s=1.0), 3_000, 60.0),
        (Machine(3, latency_s=1.0), 1_000, 60.0),
        (Machine(1, latency_s=30.0), 1_000, 1.5),
        (Machine(1, latency_s=1.0), 150, 40.0),
        (Machine(1, latency_s=0.05), 20_000, 700.0),
        (Machine(1, latency_s=1.0, sync_s=0.1), 1_000, 10.0),
    ],
    ids=["beside-an-instant-one", "several", "very-slow", "a-small-job", "quick", "beside-a-slow-one"],
)
def test_async_calls_stay_under_way(machine: Machine, traces: int, least: float) -> None:
    """Async calls per second, start and end of each chunk included; 128 places give that many a latency."""
    took = machine.run(traces)
    assert traces * machine.asyncs / took >= least


@pytest.mark.parametrize(("traces", "size"), [(3_000, 200), (30_000, 600)])
def test_calls_that_others_wait_for_are_what_they_take(traces: int, size: int) -> None:
    """Without async scorers a chunk of slow calls is some 30 seconds of two slots, and a small part of its job."""
    machine = Machine(0, latency_s=0.0, sync_s=0.1)
    sizes = []
    for chunk, _ in machine.chunks(traces):
        sizes.append(chunk.pairs)
        machine.count(chunk.pairs, chunk.pairs * 0.1)
        machine.progress.stage_seconds += chunk.pairs * 0.1 / SLOTS + 5
    assert sizes[0] == 200
    assert set(sizes[1:-1]) == {size}
