"""F03, F04, F10, F13, F15, F16, F17, F20, F39, F44: processes are killed, stopped and woken.

The victim runs as processes of its own; where nothing depends on it, the tests' session takes the job up again.
`NEMESIS_BLOWS` and `NEMESIS_SEED` change F10 (`make soak`: 100 blows).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from chispa import assert_df_equality

from backfill_spark import resume_backfill
from tests.checker import calls_of, staged_since
from tests.factories import kept
from tests.faults.world import NO_GATE, World
from tests.nemesis import Blow, torment, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.kills, pytest.mark.timeout(1500)]
START_S = 150.0
LEASE_S = 6.0
BLOWS = int(os.environ.get("NEMESIS_BLOWS", "20"))


@pytest.fixture
def gated(make_world: Callable[..., World]) -> Callable[..., Any]:
    """A world whose scorer stops at a call of which the test names the number."""
    return lambda at: make_world(gate_at=at, lease_s=LEASE_S, heartbeat_s=1)


def dead(world: World, job_id: Any) -> Any:
    """Wait until a job's runner is seen as dead; return the seconds that it took."""
    began = time.monotonic()
    wait_until(lambda: not world.job(job_id).alive, 60, "the runner to look dead")
    return time.monotonic() - began


def allowed(history: Any, lines: Any, since: Any) -> Any:
    """Return the calls that the blows excuse: of pairs in flight at a blow, and by a runner that was woken."""
    calls = calls_of(lines)
    in_flight = woken = begun = 0
    for entry in history.entries:
        if entry.what.startswith("start"):
            begun = entry.at
        elif entry.what.split()[0] in set(Blow):
            in_flight += sum(since.get(p, float("inf")) > entry.time for p in {c.pair for c in calls[: entry.at]})
            if entry.what.startswith(Blow.STOP):
                workers = {c.process for c in calls[begun : entry.at]}
                woken += sum(c.process in workers for c in calls[entry.at :])
    return in_flight, woken


# The longest one comes first: the lane that has it is given the next file while it runs its last two tests.
@pytest.mark.timeout(120 * BLOWS)
def test_f10_random_kills_and_stops_of_whole_process_groups(make_world: Callable[..., World]) -> None:
    """Ends SUCCEEDED, no duplicate, no gap; called again are pairs in flight, no staged one but by a woken runner."""
    seed = int(os.environ.get("NEMESIS_SEED", "1"))
    world = make_world(traces=400 * BLOWS, lease_s=LEASE_S, heartbeat_s=1, pause=0.004)
    driver = [sys.executable, "-m", "tests.faults.driver"]
    history = torment(
        [*driver, "run", "length"],
        lambda go: [*driver, "resume", f"after={go}"],
        ledger=world.ledger,
        logs=world.desk,
        blows=BLOWS,
        seed=seed,
        stops=0.25,
        reach=(30, 500),
        environment=world.environment(),
    )
    assert (history.exit_code, history.blows) == (0, BLOWS), str(history)
    assert world.newest().state == "SUCCEEDED"
    in_flight, woken = allowed(history, world.lines(), staged_since(world.settings))
    assert world.broken(extra=in_flight + woken, woken=woken) == [], str(history)


@pytest.mark.parametrize(("fault", "calls", "extra"), [("F03", 250, 400), ("F04", 600, 400)])
def test_f03_f04_a_runner_is_killed_in_a_task_or_behind_the_last_call(
    gated: Any, fault: str, calls: int, extra: int
) -> None:
    """The chunk that was not staged is called again, and no other; the dead runner is seen within its lease."""
    world = gated(calls)
    with world.runner("run", "length") as runner:
        world.wait_for_calls(calls)
        runner.kill()
    job_id = world.newest().job_id
    assert dead(world, job_id) < LEASE_S + 5
    world.gate.touch()
    assert world.resume(job_id).state == "SUCCEEDED"
    assert world.broken(extra=extra) == []


@pytest.mark.parametrize("again", ["resume", "another job"])
def test_f03_a_kill_among_slow_calls_costs_those_of_a_moment(make_world: Callable[..., World], again: str) -> None:
    """One chunk is the whole job: what its tasks had scored of it is taken over, by whoever goes on."""
    world = make_world(traces=371, lease_s=LEASE_S, heartbeat_s=1)
    world.order(pause=0.03)
    with world.runner("run", "length") as runner:
        world.wait_for_calls(180)
        runner.kill()
    world.hurry()
    job_id = world.newest().job_id
    dead(world, job_id)
    job = world.resume(job_id) if again == "resume" else world.job(world.run())
    assert job.state == "SUCCEEDED"
    assert world.broken(extra=len(world.ids) // 20) == []


def test_f39_when_only_the_python_driver_dies_the_calls_end_and_the_job_is_resumed(gated: Any) -> None:
    """The JVM may live on for a moment: what it still writes is fenced or counted."""
    world = gated(NO_GATE)
    with world.runner("run", "length") as runner:
        world.wait_for_calls(230)
        runner.process.kill()
        wait_until(lambda: not runner.family(), 60, "JVM and workers to end")
    job_id = world.newest().job_id
    dead(world, job_id)
    assert world.resume(job_id).state == "SUCCEEDED"
    assert world.broken(extra=400) == []


@pytest.mark.parametrize("at", [250, 600])
def test_f15_a_runner_that_was_stopped_for_longer_than_its_lease_changes_nothing(gated: Any, at: int) -> None:
    """Another one finishes the job; the first, woken, ends without a commit, and no row changes."""
    world = gated(at)
    table = f"{world.settings.tables.root}/assessments"
    with world.runner("run", "length") as runner:
        world.wait_for_calls(at)
        runner.stop()
        job_id = world.newest().job_id
        dead(world, job_id)
        world.gate.touch()
        assert world.resume(job_id).state == "SUCCEEDED"
        before = kept(world.spark.read.format("delta").load(table).orderBy("assessment_id"))
        runner.wake()
        assert runner.wait(START_S) != 0
    after = world.spark.read.format("delta").load(table).orderBy("assessment_id")
    assert_df_equality(after, before, ignore_nullable=True, ignore_metadata=True)
    assert world.broken(extra=400, woken=400) == []


@pytest.mark.parametrize("place", ["before_merge", "before_end", "after_claim"])
def test_f16_a_runner_that_was_stopped_between_check_and_commit_is_fenced(gated: Any, place: str) -> None:
    """Stopped by a failpoint right before its write; the write is refused when it is woken."""
    world = gated(NO_GATE)
    with world.runner("run", "length", failpoint=f"{place}:stop") as runner:
        runner.wait_for_text(f"failpoint {place}: stop", START_S)
        runner.stop()
        job_id = world.newest().job_id
        dead(world, job_id)
        assert world.resume(job_id).state == "SUCCEEDED"
        runner.wake()
        runner.wait(START_S)
    assert world.job(job_id).state == "SUCCEEDED"
    assert world.broken() == []


@pytest.mark.parametrize("skew", [3600, -3600])
def test_f13_a_clock_that_is_an_hour_off_may_steal_and_does_not_corrupt(gated: Any, skew: int) -> None:
    """By a clock that is ahead a live runner looks dead: it is replaced, and stops. By one that is behind it lives."""
    world = gated(250)
    with world.runner("run", "length") as runner:
        world.wait_for_calls(250)
        with world.runner("resume", f"skew={skew}", log="skewed") as skewed:
            if skew > 0:
                # The gate is still shut: the first one ends since its lease is lost.
                assert runner.wait(START_S) != 0
                world.gate.touch()
                assert skewed.wait(START_S) == 0
            else:
                assert skewed.wait(START_S) != 0
                world.gate.touch()
                assert runner.wait(START_S) == 0
    assert world.newest().state == "SUCCEEDED"
    assert world.broken(extra=400, woken=400) == []


def test_f11_slow_calls_on_every_task_slot_do_not_starve_the_heartbeats(make_world: Callable[..., World]) -> None:
    """A heartbeat is a Spark job: while each slot is busy for longer than a lease, the runner still looks alive."""
    world = make_world(traces=4, lease_s=6, heartbeat_s=1, pause=13)
    with world.runner("run", "length") as runner:
        world.wait_for_calls(1)
        wait_until(lambda: world.newest().state == "SUCCEEDED" or not world.newest().alive, 400, "the job to end")
        assert world.newest().state == "SUCCEEDED"
        assert runner.wait(60) == 0
    assert world.broken() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_f44_a_terminated_runner_releases_its_lease_within_ten_seconds(
    make_world: Callable[..., World], number: Any
) -> None:
    """Exit code 143 or 130, though calls of 25 s hold every task slot; the job can be resumed at once."""
    world = make_world(lease_s=120, heartbeat_s=1, pause=25)
    with world.runner("run", "length") as runner:
        world.wait_for_calls(2)
        asked = time.monotonic()
        runner.process.send_signal(number)
        code = runner.wait(60)
        assert time.monotonic() - asked < 10
    assert code == 128 + number
    job = world.newest()
    assert (job.state, job.alive) == ("RUNNING", False)
    world.hurry()
    assert resume_backfill(job.job_id, spark=world.spark, settings=world.settings).state == "SUCCEEDED"
    assert world.broken(extra=4) == []


def test_f17_a_job_is_canceled_from_another_process(gated: Any) -> None:
    """The runner ends by itself, quiet within 30 s and one call."""
    world = gated(250)
    with world.runner("run", "length") as runner:
        world.wait_for_calls(250)
        world.cancel(world.newest().job_id)
        runner.wait(60)
    assert world.newest().state == "CANCELED"
    assert world.broken(expected=set()) == []


@pytest.mark.parametrize("overlap", ["full", "partial"])
def test_f20_two_jobs_in_two_processes_over_the_same_pairs_end_like_one(gated: Any, overlap: str) -> None:
    """Each ends SUCCEEDED, and no pair is called twice."""
    world = gated(NO_GATE)
    with world.runner("run", "length", log="first") as first:
        world.wait_for_calls(1)
        if overlap == "partial":
            world.write_traces(200, first=600, mode="append")
        second = world.job(world.run())
        assert first.wait(START_S) == 0
    assert (second.state, world.newest().state) == ("SUCCEEDED", "SUCCEEDED")
    assert world.broken() == []


def test_a_queued_job_is_run_by_one_of_two_workers(gated: Any) -> None:
    """Both exit 0; each pair is called once."""
    world = gated(NO_GATE)
    job_id = world.run(launch="queue")
    with world.runner("work", log="one") as one, world.runner("work", log="two") as two:
        assert [one.wait(START_S), two.wait(START_S)] == [0, 0]
    assert world.job(job_id).state == "SUCCEEDED"
    assert world.broken() == []
