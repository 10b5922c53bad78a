"""F17, F18, F21, F45: cancel from elsewhere, a cancel that races the end, states that never change, an interrupt."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from py4j.protocol import Py4JNetworkError

from backfill_spark import resume_backfill
from backfill_spark.backfill.spark_group import without_sparks_handler
from backfill_spark.jobs import failpoints
from backfill_spark.jobs.lease import Lease
from backfill_spark.jobs.store import JobStore
from backfill_spark.results.store import ResultStore
from tests.checker import calls_of
from tests.faults.world import World, clock_shifted, refusal
from tests.faulty_store import Fault, FaultPlan, Kind, Operation, faulty
from tests.nemesis import wait_until

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.faults
ENDS = ("SUCCEEDED", "FAILED", "CANCELED", "PARTIAL", "RELEASED", "LOST")


def test_f17_a_pending_job_is_canceled_at_once(world: World) -> None:
    """No call, no row, and no runner can take it."""
    job_id = world.run(launch="queue")
    assert world.job(job_id).state == "PENDING"
    world.cancel(job_id)
    assert world.job(job_id).state == "CANCELED"
    assert world.broken(expected=set()) == []
    assert world.lines() == []


def test_f19_a_job_that_was_repinned_to_more_traces_and_canceled_adds_up(world: World) -> None:
    """Its canceller counts nothing anew: what was staged beyond the first plan is due."""
    job_id = world.run(launch="queue")
    world.write_traces(300, first=600, mode="append")
    failpoints.arm("before_end:raise")
    try:
        with pytest.raises(failpoints.FailpointError):
            resume_backfill(job_id, repin=True, spark=world.spark, settings=world.settings)
    finally:
        failpoints.arm("")
    with clock_shifted(world.settings.limits.lease_s + 1):
        world.cancel(job_id)
    counts = world.job(job_id).counts["length"]
    assert (world.job(job_id).state, counts.due, counts.scored, counts.left) == ("CANCELED", 900, 900, 0)
    assert counts.in_window == 900


def test_f17_a_job_is_canceled_in_the_middle_of_a_chunk(make_world: Callable[..., World]) -> None:
    """The runner sees it at its heartbeat; no call begins later than 30 s after the request."""
    world = make_world(gate_at=300, heartbeat_s=1)
    with world.meanwhile(world.run) as job:
        world.wait_for_calls(300)
        job_id = world.newest().job_id
        asked = time.time()
        world.cancel(job_id)
        # The gate stays shut: the tasks have to be stopped.
        job.thread.join(60)
        assert not job.thread.is_alive()
    assert job.error is None
    assert job.result == job_id
    assert world.job(job_id).state == "CANCELED"
    assert max(c.at for c in calls_of(world.lines())) < asked + 30
    assert world.broken(expected=set()) == []
    staged = world.job(job_id).counts["length"].calls
    again = world.job(world.run())
    # What its tasks had scored of the chunk is taken over.
    assert (again.state, again.counts["length"].scored) == ("SUCCEEDED", len(world.ids))
    assert again.counts["length"].calls <= len(world.ids) - staged
    assert world.broken(extra=again.counts["length"].calls) == []


def test_f17_a_cancel_that_comes_between_two_of_sparks_jobs_stops_the_next_one(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no task to stop when the runner sees it; those that come later are stopped at the next heartbeat."""
    start, stage, leases = Lease.start, ResultStore.stage, []
    held, go = threading.Event(), threading.Event()

    def noted(self: Lease, interrupt: Any) -> Any:
        leases.append(self)
        return start(self, interrupt)

    def late(*given: Any) -> Any:
        held.set()
        assert go.wait(120)
        return stage(*given)

    monkeypatch.setattr(Lease, "start", noted)
    monkeypatch.setattr(ResultStore, "stage", late)
    world = make_world(gate_at=1, heartbeat_s=1)
    with world.meanwhile(world.run) as job:
        assert held.wait(120)
        world.cancel(world.newest().job_id)
        wait_until(lambda: leases[0].is_canceled, 60, "the runner to see it")
        go.set()
        # The gate stays shut.
        job.thread.join(60)
        assert not job.thread.is_alive()
    assert job.error is None
    assert world.job(job.result).state == "CANCELED"
    assert world.broken(expected=set()) == []


def test_f17_a_job_is_canceled_during_its_merge(world: World) -> None:
    """The MERGE may land before CANCELED or not at all, never after."""
    plan = FaultPlan(Fault("assessments", Operation.MERGE, Kind.HOLD))
    with faulty(plan), world.meanwhile(world.run) as job:
        assert plan.held.wait(120)
        world.cancel(world.newest().job_id)
        plan.go.set()
    assert job.error is None
    assert world.job(job.result).state in {"CANCELED", "SUCCEEDED"}
    assert world.broken(expected=set()) == []


def test_f18_a_cancel_that_the_runner_never_saw_ends_the_job_when_its_epoch_rests(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PARTIAL and a request: nobody else need come back to make it CANCELED."""
    monkeypatch.setattr(JobStore, "is_cancel_asked", lambda *_: False)
    world = make_world(gate_at=100)
    with faulty(FaultPlan(Fault("staged", Operation.APPEND, Kind.FULL, nth=2))), world.meanwhile(world.run) as job:
        world.wait_for_calls(100)
        world.cancel(world.newest().job_id)
    assert job.error is None
    assert world.newest().state == "CANCELED"


@pytest.mark.parametrize("held", [Kind.HOLD, Kind.HOLD_REPLY])
def test_f18_a_cancel_that_races_the_end_leaves_one_terminal_state(make_world: Callable[..., World], held: Any) -> None:
    """The request comes just before or just after the runner's `ended` landed."""
    world = make_world(lease_s=900, heartbeat_s=300)
    # No event is due in between: the first append creates and claims the job, the second one ends it.
    plan = FaultPlan(Fault("job_events", Operation.APPEND, held, nth=2))
    with faulty(plan), world.meanwhile(world.run) as job:
        assert plan.held.wait(120)
        job_id = world.newest().job_id
        plan.go.set()
        world.cancel(job_id)
    assert job.error is None
    assert world.job(job.result).state in {"CANCELED", "SUCCEEDED"}
    assert world.broken(expected=set()) == []


def test_f21_a_terminal_state_takes_no_other(world: World) -> None:
    """Of every end, the first one stays; a cancel or a resume of an ended job changes nothing."""
    from backfill_spark.jobs.events import End

    job_id = world.run()
    jobs = world.tables.jobs
    for how in ENDS:
        assert jobs.end(job_id, 1, End(how), {}).state == "SUCCEEDED"
    world.cancel(job_id)
    assert world.job(job_id).state == "SUCCEEDED"
    before = world.lines()
    assert job_id in (refusal(lambda: world.resume(job_id)) or job_id)
    assert world.job(job_id).state == "SUCCEEDED"
    assert world.lines() == before
    assert world.broken() == []


@pytest.mark.parametrize("first", ["CANCELED", "FAILED", "PARTIAL", "RELEASED", "LOST"])
def test_f21_the_first_end_of_an_epoch_is_its_end(world: World, first: str) -> None:
    """Whoever comes later adopts it."""
    from backfill_spark.jobs.events import End

    job_id = world.crash("after_claim")
    jobs = world.tables.jobs
    payload = {"counts": {n: c.to_json() for n, c in world.job(job_id).counts.items()}, "calls": 0}
    ended = jobs.end(job_id, 1, End(first), payload)
    # RELEASED and LOST are no states: the job waits for a runner.
    assert (ended.state, ended.is_released) == (
        {"RELEASED": "RUNNING", "LOST": "RUNNING"}.get(first, first),
        first in "RELEASED LOST",
    )
    for how in ENDS:
        later = jobs.end(job_id, 1, End(how), payload)
        assert (later.state, later.is_released) == (ended.state, ended.is_released)


def test_f45_an_interrupt_releases_the_lease_and_the_job_can_be_resumed_at_once(
    make_world: Callable[..., World],
) -> None:
    """Ctrl-C or a notebook's stop: KeyboardInterrupt within 10 s, no wait for the lease before the resume."""
    world = make_world(lease_s=120, gate_at=300)
    asked = []

    def interrupt() -> None:
        world.wait_for_calls(300)
        asked.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    with world.meanwhile(interrupt):
        with pytest.raises(KeyboardInterrupt):
            world.run()
        assert time.monotonic() - asked[0] < 10
    job_id = world.newest().job_id
    job = world.job(job_id)
    assert (job.state, job.alive) == ("RUNNING", False)
    assert world.resume(job_id).state == "SUCCEEDED"
    assert world.broken(extra=len(world.ids)) == []


def test_f45_an_interrupt_that_comes_out_as_another_error_is_an_interrupt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PySpark's own clean-up may fail while an interrupt passes through it; the job is released all the same."""
    monkeypatch.setattr(ResultStore, "stage", broken_connection(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        world.run()
    monkeypatch.undo()
    job = world.newest()
    assert (job.state, job.alive) == ("RUNNING", False)
    assert resume_backfill(job.job_id, spark=world.spark, settings=world.settings).state == "SUCCEEDED"
    assert world.broken() == []


def test_f45_an_interrupt_from_before_the_job_is_none_of_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's `except KeyboardInterrupt:` that starts a job: what fails in that job is told as usual."""
    monkeypatch.setattr(ResultStore, "stage", broken_connection(None))
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        job_id = world.run()
    assert world.job(job_id).state == "PARTIAL"


def test_an_interrupt_while_a_job_runs_is_not_pysparks(spark: SparkSession) -> None:
    """PySpark's handler would stop the session's Spark jobs within their calls; it is back afterwards."""
    theirs = signal.getsignal(signal.SIGINT)
    assert theirs is not signal.default_int_handler
    with without_sparks_handler():
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is theirs


def broken_connection(interrupt: Any) -> Any:
    """Return a function that ends as py4j does when its connection breaks, by an interrupt or by itself."""

    def stage(*_: Any) -> None:
        try:
            if interrupt is not None:
                raise interrupt
        finally:
            raise Py4JNetworkError("Answer from Java side is empty")

    return stage


def test_f45_the_same_cell_run_twice_ends_well_or_is_refused(make_world: Callable[..., World]) -> None:
    """While a job is under way, the same call with exclusive=True is refused by its name; without it, both end well."""
    from backfill_spark import BackfillRefusedError

    world = make_world(gate_at=300)
    with world.meanwhile(world.run) as job:
        world.wait_for_calls(300)
        other = world.newest().job_id
        with pytest.raises(BackfillRefusedError, match=other):
            world.run(exclusive=True)
        world.gate.touch()
        second = world.run()
    assert job.error is None
    assert [world.job(j).state for j in (other, second)] == ["SUCCEEDED", "SUCCEEDED"]
    assert world.broken(extra=len(world.ids)) == []


def test_of_two_exclusive_jobs_created_at_the_same_moment_none_calls_what_the_other_covers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each was planned before the other one was there: whoever comes second is canceled before any call."""
    from backfill_spark import BackfillRefusedError

    create, others = JobStore.create_claimed, []

    def late(self: JobStore, job_id: Any, created: Any) -> Any:
        monkeypatch.undo()
        others.extend([world.run(launch="queue", exclusive=True), job_id])
        return create(self, job_id, created)

    monkeypatch.setattr(JobStore, "create_claimed", late)
    with pytest.raises(BackfillRefusedError, match="the same moment") as refused:
        world.run(exclusive=True)
    assert others[0] in str(refused.value)
    assert world.job(others[1]).state == "CANCELED"
    assert world.lines() == []
    assert world.resume(others[0]).state == "SUCCEEDED"
    assert world.broken() == []


def test_an_exclusive_job_that_runs_here_is_no_workers_before_it_is_known_to_be_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is created and claimed in one commit."""
    create, claimable = JobStore.create_claimed, []

    def look(self: JobStore, job_id: Any, created: Any) -> Any:
        claim = create(self, job_id, created)
        claimable.append({r.job_id for r in self.claimable()})
        return claim

    monkeypatch.setattr(JobStore, "create_claimed", look)
    job_id = world.run(exclusive=True)
    assert claimable == [set()]
    assert world.job(job_id).state == "SUCCEEDED"


def test_a_canceled_job_is_never_claimed(world: World) -> None:
    """Neither `resume` nor a worker takes it."""
    job_id = world.run(launch="queue")
    world.cancel(job_id)
    assert job_id not in {r.job_id for r in world.tables.jobs.claimable()}
    wait_until(lambda: world.job(job_id).state == "CANCELED", 30, "the job to be CANCELED")
