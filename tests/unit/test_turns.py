"""Turns of live jobs over the same pairs: who waits, for how long, and what it says meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from backfill_spark.backfill import turns
from backfill_spark.backfill.turns import take_turn
from backfill_spark.jobs.events import Event, JobRecord
from backfill_spark.models import JobState, Reprocess

JUNE = ["2024-06-01T00:00:00+00:00", "2024-06-02T00:00:00+00:00"]
JULY = ["2024-07-01T00:00:00+00:00", "2024-07-02T00:00:00+00:00"]
CHUNK = {"chunk": 1, "window": JUNE, "draw": [0.0, 0.5], "pairs": 10}
NOW = 1_000.0


def job(job_id: str, under_way: Mapping[str, Any] | None = CHUNK, **changes: Any) -> JobRecord:
    """Return a job with a live runner that scores June with `a` and asks the judge `j`."""
    scorers = [{"name": "a", "version": 1, "kind": "function"}, {"name": "j", "version": 1, "kind": "judge"}]
    request = {"scorers": scorers, "window": [None, None], "seed": 0} | changes
    return JobRecord(
        job_id, JobState.RUNNING, {"request": request}, epoch=1, lease_s=60, last_seen=NOW, under_way=under_way
    )


class Jobs:
    """What a job's runner reads and writes, with other jobs that change from look to look."""

    def __init__(self, *looks: list[JobRecord], reprocess: Reprocess = Reprocess.MISSING) -> None:
        self.looks = list(looks)
        self.written: list[Event] = []
        self.waiting: list[Event] = []
        self.clock = lambda: NOW
        self.claimed = job("bf-5", None)
        self.progress = SimpleNamespace(says_part=False)
        self.request = SimpleNamespace(reprocess=reprocess, experiment_id="0")
        self.tables = SimpleNamespace(jobs=self)
        self.lease, self.bar, self.job_id = self, SimpleNamespace(tell=lambda _: None), "bf-5"

    is_fresh = True

    def others(self, *_: str) -> list[JobRecord]:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def record(self, event: Event, _: Mapping[str, Any]) -> None:
        self.waiting.append(event)

    def flush(self) -> None:
        self.written += self.waiting
        self.waiting = []

    def check(self) -> None:
        """The lease holds."""

    def turn(self, part: Mapping[str, Any] = CHUNK) -> bool:
        return take_turn(self, part)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sleeps."""
    monkeypatch.setattr(turns, "POLL_S", 0.0)


def test_a_runner_that_stood_still_since_its_claim_says_its_first_chunk() -> None:
    """Another one may have replaced it: then this event is refused, before any call."""
    jobs = Jobs([])
    jobs.is_fresh = False
    assert not jobs.turn()
    assert jobs.written == [Event.CHUNK_PLANNED]


def test_a_job_alone_writes_nothing_for_its_first_chunk_and_says_the_next_ones() -> None:
    """The claim says all its pairs; each later chunk is said before it is scored."""
    jobs = Jobs([])
    assert not jobs.turn()
    assert jobs.written == []
    assert not jobs.turn()
    assert jobs.written == [Event.CHUNK_PLANNED, Event.CHUNK_PLANNED]


def test_the_higher_id_takes_back_what_it_said_and_waits() -> None:
    """Until the other one has nothing of its pairs under way."""
    jobs = Jobs([job("bf-1")], [job("bf-1")], [job("bf-1", None)])
    assert jobs.turn()
    assert jobs.written == [Event.CHUNK_PLANNED, Event.WAITING]


def test_the_lower_id_stays_and_waits_until_the_other_is_gone() -> None:
    """It was late to say so: the other one may be calling already."""
    jobs = Jobs([job("bf-9")], [job("bf-9", {**CHUNK, "window": JULY})])
    assert jobs.turn()
    assert jobs.written == []


@pytest.mark.parametrize(
    ("other", "waits"),
    [
        (job("bf-1", {}), True),
        (job("bf-1", {**CHUNK, "draw": [0.5, 1.0]}), False),
        (job("bf-1", {**CHUNK, "draw": [0.5, 1.0]}, seed=7), True),
        (job("bf-1", {**CHUNK, "window": JULY}), False),
        (job("bf-1", {}, window=JULY), False),
        (job("bf-1", scorers=[{"name": "a", "version": 2, "kind": "function"}]), False),
        (job("bf-1", {"judges": True, "draw": [0.0, 0.1]}), False),
        (replace(job("bf-1"), last_seen=NOW - 61), False),
        (replace(job("bf-1"), is_epoch_ended=True), False),
    ],
    ids=["claim", "draws", "seeds", "windows", "window", "version", "judges", "dead", "ended"],
)
def test_a_job_waits_for_pairs_of_its_own_only(other: JobRecord, waits: bool) -> None:
    """Of the same scorer version, in the same window and slice of the draw, with a runner that is alive."""
    assert Jobs([other], []).turn() is waits


def test_slices_of_judges_are_waited_for_by_judges() -> None:
    """In draws that meet."""
    jobs = Jobs([job("bf-1", {"judges": True, "draw": [0.0, 0.1]})], [])
    assert jobs.turn({"judges": True, "draw": [0.05, 2.0]})


def test_a_job_that_scores_all_again_waits_for_nobody() -> None:
    """It would call what the other one staged all the same."""
    assert not Jobs([job("bf-1")], reprocess=Reprocess.ALL).turn()


def test_a_look_that_fails_stops_no_job(caplog: pytest.LogCaptureFixture) -> None:
    """At worst a pair is called twice."""
    jobs = Jobs([])

    def fail(*_: str) -> list[JobRecord]:
        raise OSError("the store is away")

    jobs.others = fail  # type: ignore[method-assign]
    assert not jobs.turn()
    assert "could not look what other jobs have under way" in caplog.text
