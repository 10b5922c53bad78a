"""F01, F02, F06, F08, F09, F12, F14, F19: a runner dies at a named place, in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backfill_spark import BackfillRefusedError, delete_scorer, resume_backfill
from backfill_spark.backfill import preflight, queue
from backfill_spark.jobs import failpoints
from backfill_spark.jobs.events import Event
from tests.faults.world import World, refusal
from tests.faulty_store import Fault, FaultPlan, Kind, Operation, faulty
from tests.nemesis import wait_until

pytestmark = pytest.mark.faults
QUICK_S = 6.0
"""Lease of jobs whose end is waited for by the true clock."""


@pytest.mark.parametrize(
    ("fault", "place", "seen_before"),
    [
        ("F01", "before_claim", "PENDING"),
        ("F02", "after_claim", "RUNNING"),
        ("F06", "after_stage", "RUNNING"),
        ("F06", "before_merge", "RUNNING"),
        ("F08", "after_merge", "RUNNING"),
        ("F09", "before_end", "RUNNING"),
    ],
)
def test_f01_f09_a_job_whose_runner_died_is_resumed_without_a_further_call(
    world: World, fault: str, place: str, seen_before: str
) -> None:
    """Whatever was staged is not called again; the job keeps its id and ends SUCCEEDED."""
    job_id = world.crash(place)
    called = len(world.lines())
    assert world.job(job_id).state == seen_before
    assert world.resume(job_id).state == "SUCCEEDED"
    assert world.broken() == []
    assert called == {"F01": 0, "F02": 0}.get(fault, called)


def test_f09_a_job_that_died_after_its_end_is_what_it_ended_as(world: World) -> None:
    """Its row is repaired from the events whenever it is read."""
    job_id = world.crash("after_end")
    assert world.job(job_id).state == "SUCCEEDED"
    assert world.newest().state == "SUCCEEDED"
    assert world.broken() == []


def test_f12_a_runner_that_never_sent_a_heartbeat_is_seen_as_dead(make_world: Callable[..., World]) -> None:
    """The claim itself starts the lease: RUNNING, then not alive within lease and heartbeat."""
    world = make_world(lease_s=QUICK_S)
    job_id = world.crash("after_claim")
    limits = world.settings.limits
    wait_until(lambda: not world.job(job_id).alive, limits.lease_s + limits.heartbeat_s + 5, "the job to look dead")
    assert world.job(job_id).state == "RUNNING"


def test_f12_the_same_command_again_adopts_what_a_dead_job_staged(world: World) -> None:
    """A new job: no call for what is staged, calls for the rest."""
    world.crash("after_stage")
    staged = len(world.lines())
    job = world.job(world.run_later())
    counts = job.counts["length"]
    assert (job.state, counts.due, counts.calls) == ("SUCCEEDED", len(world.ids), len(world.ids) - staged)
    assert world.broken() == []


def test_f27_a_dead_runners_job_is_repinned_at_once(make_world: Callable[..., World]) -> None:
    """The change of the request is no sign of life of the runner that is dead."""
    world = make_world(lease_s=QUICK_S)
    job_id = world.crash("after_stage")
    assert world.resume_when_dead(job_id, repin=True).state == "SUCCEEDED"
    assert world.broken() == []


def test_f27_of_two_resumes_with_repin_at_once_the_second_is_refused(world: World) -> None:
    """Only who has claimed the job changes what it reads: a second one finds a live runner, and changes nothing."""
    world.write_traces(40)
    job_id = world.run(launch="queue")
    world.write_traces(20, first=40, mode="append")

    def repin() -> Any:
        return resume_backfill(job_id, repin=True, spark=world.spark, settings=world.settings)

    plan = FaultPlan(Fault("work", Operation.MERGE, Kind.HOLD))
    with faulty(plan), world.meanwhile(repin) as first:
        assert plan.held.wait(120)
        said = refusal(repin)
        plan.go.set()
    assert first.error is None
    assert f"{job_id} is RUNNING" in (said or "")
    assert (first.result.state, first.result.counts["length"].due) == ("SUCCEEDED", 60)
    assert world.broken() == []


def test_f33_a_version_that_was_deleted_meanwhile_is_still_the_jobs(world: World) -> None:
    """Pinned when the job was created; its code is kept."""
    job_id = world.crash("after_claim")
    delete_scorer(name="length")
    job = world.resume(job_id)
    assert (job.state, job.counts["length"].scored) == ("SUCCEEDED", len(world.ids))
    assert world.broken() == []


def test_f40_a_resume_is_refused_where_a_plan_would_be(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speculation, another Python: the job stays as it is, and goes on elsewhere."""
    job_id = world.crash("after_stage")
    with monkeypatch.context() as patch:
        patch.setattr(preflight, "_passed", set())
        patch.setattr(preflight, "_probe", lambda *_: ["The executors run another Python."])
        with pytest.raises(BackfillRefusedError, match="another Python"):
            world.resume(job_id)
    assert world.job(job_id).state == "RUNNING"
    assert world.resume(job_id).state == "SUCCEEDED"
    assert world.broken() == []


def test_a_limit_that_no_job_may_have_is_refused_at_a_resume(world: World) -> None:
    """Before it is written anywhere: the job goes on without it."""
    job_id = world.crash("after_stage")
    with pytest.raises(BackfillRefusedError, match="no scorer of this job is a judge"):
        world.resume(job_id, max_calls=10)
    assert world.resume(job_id).state == "SUCCEEDED"


def test_a_job_that_cannot_run_here_does_not_keep_a_worker_from_the_others(world: World) -> None:
    """It is tried three times, told at the end, and left as it is."""
    odd, good = world.run(launch="queue"), world.run(launch="queue")
    world.tables.jobs.write(odd, [(Event.CHANGED, {"from_a_newer_version": True})])
    done: list[Any] = []
    with pytest.raises(TypeError, match="from_a_newer_version"):
        done.extend(queue.work(world.tables, poll_s=0.1))
    assert (world.job(odd).state, world.job(good).state) == ("PENDING", "SUCCEEDED")


def test_f14_of_two_that_resume_at_once_one_runs(make_world: Callable[..., World]) -> None:
    """Both return; each pair is called once."""
    world = make_world(lease_s=QUICK_S)
    job_id = world.crash("after_stage")
    with world.meanwhile(lambda: world.resume_when_dead(job_id)) as other:
        # Refused by name when the other one has it.
        assert job_id in (refusal(lambda: world.resume_when_dead(job_id)) or job_id)
    wait_until(lambda: world.job(job_id).state == "SUCCEEDED", 120, "the job to end")
    assert other.error is None or job_id in str(other.error)
    assert world.broken() == []


def test_f14_a_live_runners_job_is_not_taken(make_world: Callable[..., World]) -> None:
    """Whoever read the job when it waited, and claims it now, gets nothing; the runner goes on."""

    world = make_world(gate_at=250)
    jobs, results = world.tables.jobs, world.tables.results
    with world.meanwhile(world.run) as job:
        world.wait_for_calls(250)
        record = jobs.record(world.newest().job_id)
        assert jobs.claim(record, results.assessments) is None
    assert job.error is None
    assert world.broken() == []


@pytest.mark.parametrize("place", ["before_claim", "after_claim", "after_stage", "after_merge"])
def test_f19_a_cancel_works_when_the_runner_is_dead(make_world: Callable[..., World], place: str) -> None:
    """CANCELING while the lease runs; then the canceller claims the next epoch itself and ends it CANCELED."""
    world = make_world(lease_s=QUICK_S)
    job_id = world.crash(place)
    world.cancel(job_id)
    wait_until(lambda: not world.job(job_id).alive, 60, "the lease to run out")
    world.cancel(job_id)
    job, staged = world.job(job_id), len(world.lines())
    counts = job.counts["length"]
    assert (job.state, counts.scored, counts.calls) == ("CANCELED", staged, staged)
    assert world.broken(expected=set()) == []
    # What was staged is another job's to take.
    assert world.job(world.run()).counts["length"].calls == len(world.ids) - staged
    assert world.broken() == []


def test_f19_a_worker_finishes_the_cancel_of_a_dead_job(make_world: Callable[..., World]) -> None:
    """Nobody else need come back: whoever claims it next sees the request."""
    from backfill_spark.api import work

    world = make_world(lease_s=QUICK_S)
    job_id = world.crash("after_stage")
    called = len(world.lines())
    world.cancel(job_id)
    wait_until(lambda: not world.job(job_id).alive, 60, "the lease to run out")
    assert [j.state for j in work(spark=world.spark, settings=world.settings)] == ["CANCELED"]
    assert len(world.lines()) == called
    assert world.broken(expected=set()) == []


def test_f19_a_job_at_rest_is_canceled(world: World) -> None:
    """PARTIAL: nobody runs it, so the canceller ends it."""
    with faulty(FaultPlan(Fault("staged", Operation.APPEND, Kind.FULL, nth=2))):
        job_id = world.run()
    assert world.job(job_id).state == "PARTIAL"
    world.cancel(job_id)
    assert world.job(job_id).state == "CANCELED"
    assert world.broken(expected=set()) == []


def test_a_runner_that_dies_between_ending_the_old_epoch_and_claiming_leaves_a_job_that_can_be_claimed(
    world: World,
) -> None:
    """LOST is decided and nobody owns the job: the next one claims it at once."""
    job_id = world.crash("after_stage")
    failpoints.arm("after_decide:raise")
    with pytest.raises(failpoints.FailpointError):
        world.resume(job_id)
    failpoints.arm("")
    assert world.resume(job_id).state == "SUCCEEDED"
    assert world.broken() == []


def test_a_runner_that_dies_before_its_walls_stand_is_followed_by_one_whose_walls_do(world: World) -> None:
    """`after_claim` comes before the walls: epoch 2 is skipped, epoch 3 does the work."""
    job_id = world.crash("after_stage")
    failpoints.arm("after_claim:raise")
    with pytest.raises(failpoints.FailpointError):
        world.resume(job_id)
    failpoints.arm("")
    assert world.resume(job_id).state == "SUCCEEDED"
    assert world.broken() == []
