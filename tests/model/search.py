"""Breadth-first search through the job model, and the check that every history without further faults ends."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from tests.model.job_model import Bounds, Broken, End, Guard, JobModel, State


@dataclass
class Verdict:
    """What a search found."""

    states: int = 0
    worst_calls: int = 0
    ends: Counter[End] = field(default_factory=Counter)
    broken: Broken | None = None
    trace: list[str] = field(default_factory=list)


def explore(
    bounds: Bounds, without: frozenset[Guard] = frozenset(), *, seek: frozenset[Broken] = frozenset(Broken)
) -> Verdict:
    """Search breadth-first from a new job; stop at the first violation of `seek`, whose trace is a shortest one.

    A step that breaks another invariant is taken for impossible.
    """
    model = JobModel(bounds, without)
    start = State()
    number = {start: 0}
    states = [start]
    parents = [-1]
    onward: list[list[int]] = []  # steps that are no fault
    verdict = Verdict()
    for here, state in enumerate(states):
        free = []
        for name, after, fault in model.steps(state):
            if after.broken is not None:
                if after.broken in seek:
                    verdict.broken, verdict.trace = after.broken, [*_trace(model, states, parents, here), name]
                    break
                continue
            there = number.get(after)
            if there is None:
                there = number[after] = len(states)
                states.append(after)
                parents.append(here)
            if not fault:
                free.append(there)
        if verdict.broken:
            break
        onward.append(free)
    verdict.states = len(states)
    verdict.worst_calls = max(sum(s.calls) for s in states)
    verdict.ends = Counter(End(s.end) for s in states)
    if verdict.broken is None and seek & {Broken.STUCK, Broken.LOOP}:
        _judge_progress(verdict, model, states, parents, onward)
    return verdict


def _judge_progress(
    verdict: Verdict, model: JobModel, states: list[State], parents: list[int], onward: list[list[int]]
) -> None:
    """Check that every run without a further fault, under any schedule, comes to a terminal state and stops."""
    incoming = [0] * len(states)
    for here, free in enumerate(onward):
        if not free and states[here].end < End.SUCCEEDED:
            verdict.broken, verdict.trace = Broken.STUCK, _trace(model, states, parents, here)
            return
        for there in free:
            incoming[there] += 1
    ready = deque(i for i, count in enumerate(incoming) if not count)
    sorted_states = 0
    while ready:
        sorted_states += 1
        for there in onward[ready.popleft()]:
            incoming[there] -= 1
            if not incoming[there]:
                ready.append(there)
    if sorted_states < len(states):
        here = next(i for i, count in enumerate(incoming) if count)
        verdict.broken, verdict.trace = Broken.LOOP, _trace(model, states, parents, here)


def _trace(model: JobModel, states: list[State], parents: list[int], last: int) -> list[str]:
    path = []
    while last > 0:
        before = parents[last]
        path.append(next(name for name, after, _ in model.steps(states[before]) if after == states[last]))
        last = before
    return path[::-1]
