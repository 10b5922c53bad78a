"""The job protocol under every interleaving: it holds, and each of its guards is needed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model.job_model import Bounds, Broken, End, Guard
from tests.model.search import explore

SMALL = Bounds(crashes=1, expiries=1, lost=1)
LATE = Bounds(crashes=1, expiries=1, lost=0, late=1)
OTHER = Bounds(crashes=1, expiries=1, lost=1, other_job=True)
EACH_GUARD = [
    (Guard.FENCE, SMALL, Broken.COMMIT_AFTER_END),
    (Guard.WALL_ASSESSMENTS, SMALL, Broken.COMMIT_AFTER_END),
    (Guard.CANCEL_CLAIMS, SMALL, Broken.COMMIT_AFTER_END),
    (Guard.SETTLE, LATE, Broken.COMMIT_AFTER_END),
    (Guard.SETTLE, LATE, Broken.STAGED_CALLED),
    (Guard.FENCE_STAGING, SMALL, Broken.STAGED_CALLED),
    (Guard.STAGING_ANTI_JOIN, SMALL, Broken.STAGED_CALLED),
    (Guard.DUE_PER_CHUNK, OTHER, Broken.STAGED_CALLED),
    (Guard.STAGING_READ_BACK, SMALL, Broken.STAGED_CALLED),
    (Guard.READ_BACK, SMALL, Broken.TOO_MANY_CALLS),
    (Guard.LEASE, SMALL, Broken.TOO_MANY_CALLS),
    (Guard.REFUSAL_SEEN, SMALL, Broken.TOO_MANY_CALLS),
    (Guard.END_ONCE, SMALL, Broken.TERMINAL_CHANGED),
    (Guard.MERGE_KEY, SMALL, Broken.TWO_ROW_SETS),
    (Guard.DEDUPLICATION, OTHER, Broken.TWO_ROW_SETS),
    (Guard.KEEP_STAGING, SMALL, Broken.PAID_WORK_LOST),
    (Guard.SILENT_IS_DEAD, SMALL, Broken.STUCK),
    (Guard.WALL_GIVES_WAY, SMALL, Broken.LOOP),
]


@pytest.mark.parametrize(
    ("bounds", "worst_calls"),
    [
        pytest.param(Bounds(crashes=2, expiries=2, lost=1), 6, id="two-crashes-two-expiries-one-lost-reply"),
        pytest.param(LATE, 5, id="a-write-that-lands-late"),
        pytest.param(Bounds(crashes=1, expiries=1, lost=0, rests=1), 4, id="an-interrupt"),
        pytest.param(OTHER, 4, id="another-job-over-the-same-pairs"),
    ],
)
def test_the_protocol_holds_under_every_interleaving(bounds: Any, worst_calls: int) -> None:
    """No invariant breaks, no call is made beyond the faults, and every run without further faults ends."""
    verdict = explore(bounds)
    assert verdict.broken is None, "\n".join(verdict.trace)
    assert worst_calls == verdict.worst_calls
    assert {End.SUCCEEDED, End.FAILED, End.CANCELED} <= verdict.ends.keys()


@pytest.mark.parametrize(
    ("guard", "bounds", "broken"), EACH_GUARD, ids=[f"{guard.name}-{broken.name}" for guard, _, broken in EACH_GUARD]
)
def test_without_a_guard_an_invariant_breaks(guard: Any, bounds: Any, broken: Any) -> None:
    """A protocol that lacks one guard has a history that breaks what the guard is for."""
    assert broken is explore(bounds, frozenset({guard}), seek=frozenset({broken})).broken


def test_each_guard_has_its_mutant() -> None:
    """What no mutant needs would be no guard."""
    assert set(Guard) == {guard for guard, _, _ in EACH_GUARD}


def test_a_fenced_runner_that_does_not_notice_is_stopped_at_its_end() -> None:
    """The end's compare-and-set alone keeps it from SUCCEEDED; without both, a job succeeds with a gap."""
    gap = frozenset({Broken.GAP})
    assert explore(SMALL, frozenset({Guard.REFUSAL_SEEN}), seek=gap).broken is None
    assert explore(SMALL, frozenset({Guard.REFUSAL_SEEN, Guard.END_ONCE}), seek=gap).broken is Broken.GAP


def test_a_violation_comes_with_its_history() -> None:
    """The trace of a commit after CANCELED names claim, expiry, cancel and the late MERGE, in order."""
    trace = explore(SMALL, frozenset({Guard.WALL_ASSESSMENTS})).trace
    wanted = ["claims epoch 1", "the lease expires under a live runner", "canceller: epoch 2 ends CANCELED"]
    assert [*wanted, "epoch 1 merges 01"] == [step for step in trace if step in {*wanted, trace[-1]}]


def test_without_faults_every_pair_is_called_once() -> None:
    """Two runners that want the same job pay for it once."""
    verdict = explore(Bounds(crashes=0, expiries=0, lost=0))
    assert (verdict.broken, verdict.worst_calls) == (None, 2)
