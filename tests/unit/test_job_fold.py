"""A job is what its events fold to, in whatever order they are read."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.jobs.events import End, Event, JobRecord, fold
from backfill_spark.models import JobState

JOB = "bf-20240701-080000-000000-abcdef01"
CREATED = {"request": {"experiment_id": "0"}, "counts": {}, "created_at": 1.0}


def event(kind: Event, epoch: int, n: int, seen: float, **payload: Any) -> dict[str, Any]:
    return {"event": kind.value, "epoch": epoch, "n": n, "at": seen, "seen": seen, "payload": json.dumps(payload)}


def created() -> dict[str, Any]:
    return event(Event.CREATED, 0, 0, 1.0, **CREATED)


def claimed(epoch: int, seen: float, owner: str = "host:1:aa", lease_s: float = 60.0) -> dict[str, Any]:
    return event(Event.CLAIMED, epoch, 0, seen, owner=owner, lease_s=lease_s)


def ended(epoch: int, how: End, seen: float, **payload: Any) -> dict[str, Any]:
    return event(Event.ENDED, epoch, (1 << 32) - 1, seen, end=how.value, **payload)


def state_of(*events: dict[str, Any]) -> JobState:
    return fold(JOB, events).state


def test_a_job_waits_runs_and_ends() -> None:
    """PENDING after created, RUNNING after claimed, the end's state after ended."""
    assert state_of(created()) is JobState.PENDING
    assert state_of(created(), claimed(1, 2)) is JobState.RUNNING
    for how in (End.SUCCEEDED, End.PARTIAL, End.FAILED, End.CANCELED):
        assert state_of(created(), claimed(1, 2), ended(1, how, 3)) is JobState(how.value)


@pytest.mark.parametrize("how", [End.RELEASED, End.LOST])
def test_a_runner_that_is_gone_leaves_the_job_running_and_claimable(how: End) -> None:
    """Released or lost: RUNNING, not alive; the next epoch runs on."""
    gone = fold(JOB, [created(), claimed(1, 2), ended(1, how, 3)])
    assert (gone.state, gone.is_released, gone.is_alive(3.0)) == (JobState.RUNNING, True, False)
    again = fold(JOB, [created(), claimed(1, 2), ended(1, how, 3), claimed(2, 4, "host:2:bb")])
    assert (again.epoch, again.owner, again.is_alive(5.0)) == (2, "host:2:bb", True)
    assert again.started_at == 2


def test_partial_is_a_rest_and_a_new_epoch_runs() -> None:
    """The end of an older epoch says nothing about a newer one."""
    events = [created(), claimed(1, 2), ended(1, End.PARTIAL, 3, error="the disk is full")]
    rest = fold(JOB, events)
    assert (rest.state, rest.end["error"]) == (JobState.PARTIAL, "the disk is full")
    more = fold(JOB, [*events, claimed(2, 4)])
    assert (more.state, dict(more.end)) == (JobState.RUNNING, {})


def test_a_cancel_shows_until_the_end_and_never_changes_one() -> None:
    """CANCELING while a runner may be at it; an end that came first stays."""
    asked = event(Event.CANCEL_REQUESTED, 0, 0, 2.5)
    assert state_of(created(), asked) is JobState.CANCELING
    assert state_of(created(), claimed(1, 2), asked) is JobState.CANCELING
    assert state_of(created(), claimed(1, 2), asked, ended(1, End.SUCCEEDED, 3)) is JobState.SUCCEEDED
    assert state_of(created(), claimed(1, 2), asked, ended(1, End.CANCELED, 3)) is JobState.CANCELED


def test_a_lease_lives_as_long_as_its_newest_event() -> None:
    """Heartbeats and staged chunks renew it; a cancel request of others does not."""
    beats = [created(), claimed(1, 100, lease_s=60), event(Event.HEARTBEAT, 1, 1, 130)]
    assert fold(JOB, beats).is_alive(190)
    assert not fold(JOB, beats).is_alive(190.5)
    assert not fold(JOB, [*beats, event(Event.CANCEL_REQUESTED, 0, 0, 180)]).is_alive(190.5)


def test_what_resume_changed_is_kept() -> None:
    """Later changes win."""
    events = [
        created(),
        claimed(1, 2),
        ended(1, End.PARTIAL, 3),
        event(Event.CHANGED, 1, 1 << 31, 4, source_version="5"),
        claimed(2, 5),
    ]
    assert dict(fold(JOB, events).changes) == {"source_version": "5"}


def test_staged_chunks_are_kept_by_number() -> None:
    """Progress of a running job is read from them."""
    record = fold(
        JOB, [created(), claimed(1, 2), event(Event.CHUNK_STAGED, 1, 2, 3, chunk=0, counts={"a": [1, 0, 0, 1]})]
    )
    assert dict(record.staged[0]["counts"]) == {"a": [1, 0, 0, 1]}


HISTORY = [
    created(),
    claimed(1, 2),
    event(Event.HEARTBEAT, 1, 1, 3),
    event(Event.CHUNK_STAGED, 1, 2, 4, chunk=0, counts={}),
    ended(1, End.LOST, 5),
    claimed(2, 6, "host:2:bb"),
    event(Event.CANCEL_REQUESTED, 0, 0, 6.5),
    event(Event.CHUNK_STAGED, 2, 1, 7, chunk=1, counts={}),
    ended(2, End.CANCELED, 8, counts={}),
]


@given(st.integers(0, 2**32))
def test_the_order_of_reading_is_free(seed: int) -> None:
    """Delta gives rows in any order; the record is the same."""
    shuffled = HISTORY[:]
    random.Random(seed).shuffle(shuffled)
    expected: JobRecord = fold(JOB, HISTORY)
    assert expected == fold(JOB, shuffled)
    assert expected.state is JobState.CANCELED


@given(st.integers(0, len(HISTORY)))
def test_a_terminal_state_never_changes(cut: int) -> None:
    """Each prefix of a history is a job; after its end nothing moves it."""
    record = fold(JOB, HISTORY[:cut])
    if record.state.is_terminal:
        assert cut == len(HISTORY)


def test_what_is_under_way_is_what_was_said_last() -> None:
    """All pairs from the claim on, then a chunk until it is staged; nothing while the job waits for another one."""
    claim, chunk = [created(), claimed(1, 2)], event(Event.CHUNK_PLANNED, 1, 1, 3, chunk=4, window=[None, None])
    assert fold(JOB, claim).under_way == {}
    assert (fold(JOB, [*claim, chunk]).under_way or {})["chunk"] == 4
    for over in (
        event(Event.CHUNK_STAGED, 1, 2, 4, chunk=4),
        event(Event.WAITING, 1, 2, 4),
        event(Event.ASKED, 1, 2, 4),
    ):
        assert fold(JOB, [*claim, chunk, over]).under_way is None
    assert fold(JOB, [*claim, event(Event.CHUNK_STAGED, 1, 2, 4, chunk=3)]).under_way == {}
