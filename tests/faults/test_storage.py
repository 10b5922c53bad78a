"""F05, F07, F11, F22–F24, F41: the tables' storage loses replies, conflicts, is away or full; one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backfill_spark.backfill import staging
from backfill_spark.results import store
from tests.checker import commits, staged_files, transactions
from tests.factories import NOON
from tests.faults.world import World, refusal
from tests.faulty_store import Fault, FaultPlan, Kind, Operation, faulty

pytestmark = pytest.mark.faults
STAGE = ("staged", Operation.APPEND)
MERGE = ("assessments", Operation.MERGE)
EVENTS = ("job_events", Operation.APPEND)


def a_run_under(world: World, *faults: Any) -> Any:
    """Run a job under a plan, and resume it when it rests; return how it ended."""
    with faulty(FaultPlan(*faults)) as plan:
        job_id = world.run()
        assert plan.happened
    job = world.job(job_id)
    if job.state == "PARTIAL":
        job = world.resume(job_id)
    return job


def test_f05_a_staging_commit_whose_reply_is_lost_is_found(world: World) -> None:
    """Storage: the append landed; it is read back, neither repeated nor paid again."""
    job = a_run_under(world, Fault(*STAGE, Kind.LOSE_REPLY, nth=2))
    assert job.state == "SUCCEEDED"
    assert world.broken() == []


@pytest.mark.parametrize("launch", ["here", "queue"])
def test_f05_a_claim_whose_reply_is_lost_is_found(world: World, launch: str) -> None:
    """The commit that creates and claims a job, and the claim of one that waits."""
    waiting = world.run(launch="queue") if launch == "queue" else None
    with faulty(FaultPlan(Fault(*EVENTS, Kind.LOSE_REPLY))) as plan:
        job = world.resume(waiting) if waiting else world.job(world.run())
        assert plan.happened
    assert job.state == "SUCCEEDED"
    assert world.broken() == []


def test_f05_a_second_claims_walls_whose_replies_are_lost_are_found(world: World) -> None:
    """The claim of an epoch that follows another one, and its empty append to the results."""
    job_id = world.crash("after_stage")
    lost = [Fault(table, Operation.APPEND, Kind.LOSE_REPLY) for table in ("job_events", "assessments")]
    with faulty(FaultPlan(*lost)) as plan:
        assert world.resume(job_id).state == "SUCCEEDED"
        assert plan.happened
    assert world.broken() == []


def test_f07_a_merge_that_may_still_land_is_shut_out_before_the_end(world: World) -> None:
    """A MERGE of which nobody knows the outcome, then the job's end: the same MERGE cannot land any more."""

    late = []
    merge = store.ResultStore.merge

    def lost(self: Any, *given: Any, **options: Any) -> None:
        late.append(lambda: merge(self, *given, **options))
        raise OSError("the storage does not answer")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.ResultStore, "merge", lost)
        job_id = world.run()
    assert world.job(job_id).state == "PARTIAL"
    refusal(late[0])
    table = world.spark.read.format("delta").load(f"{world.settings.tables.root}/assessments")
    assert table.count() == 0
    assert world.resume(job_id).state == "SUCCEEDED"
    assert world.broken() == []


def test_f07_a_merge_whose_reply_is_lost_makes_no_duplicates(world: World) -> None:
    """The rows are there once, and no pair is called again."""
    job = a_run_under(world, Fault(*MERGE, Kind.LOSE_REPLY))
    assert job.state == "SUCCEEDED"
    assert world.broken() == []


@pytest.mark.parametrize("conflicts", [1, 5])
def test_f23_conflicts_of_the_merge_are_tried_again(world: World, conflicts: int) -> None:
    """Only the MERGE is repeated; each conflict is an event."""
    job = a_run_under(world, Fault(*MERGE, Kind.CONFLICT, times=conflicts))
    assert job.state == "SUCCEEDED"
    assert world.broken() == []
    events = world.spark.read.format("delta").load(f"{world.settings.tables.root}/job_events")
    assert events.where("event = 'conflict'").count() == conflicts


def test_f23_more_conflicts_than_the_limit_leave_a_job_that_can_be_resumed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PARTIAL, every result staged; the resume calls nothing."""
    monkeypatch.setattr(staging, "MERGE_ATTEMPTS", 2)
    with faulty(FaultPlan(Fault(*MERGE, Kind.CONFLICT, times=100))):
        job_id = world.run()
    assert world.job(job_id).state == "PARTIAL"
    assert world.resume(job_id).state == "SUCCEEDED"
    assert world.broken() == []


def test_f22_a_reader_sees_whole_chunks_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each version of `assessments` there are the pairs of none or more whole MERGEs."""
    monkeypatch.setattr(staging, "MERGE_ROWS", 1)
    world.run()
    table = f"{world.settings.tables.root}/assessments"
    events = world.spark.read.format("delta").load(f"{world.settings.tables.root}/job_events")
    chunks = events.where("event = 'chunk_staged'").selectExpr("get_json_object(payload, '$.counts.length[0]')")
    sizes, whole = [int(r[0]) for r in chunks.collect()], {0}
    for size in sizes:
        whole |= {n + size for n in whole}
    assert len(sizes) > 1
    for commit in commits(world.folder / "tables" / "assessments"):
        at = world.spark.read.format("delta").option("versionAsOf", commit.version).load(table)
        assert at.select("trace_id").distinct().count() in whole


def test_f24_another_writer_of_the_same_rows_makes_no_duplicates(make_world: Callable[..., World]) -> None:
    """A second job merges the pairs while the first one's MERGE is held back; both end well."""
    world = make_world()
    plan = FaultPlan(Fault(*MERGE, Kind.HOLD))
    with faulty(plan), world.meanwhile(world.run) as first:
        assert plan.held.wait(120)
        second = world.run()
        plan.go.set()
    assert first.error is None
    assert [world.job(j).state for j in (first.result, second)] == ["SUCCEEDED", "SUCCEEDED"]
    assert world.broken() == []


def test_f11_heartbeats_that_fail_for_a_while_do_not_stop_the_job(make_world: Callable[..., World]) -> None:
    """Shorter than two thirds of the lease: the job goes on, and its end is written when the storage is back."""
    world = make_world(lease_s=60, heartbeat_s=1, gate_at=100)
    plan = FaultPlan(Fault(*EVENTS, Kind.AWAY, nth=2, times=2))
    with faulty(plan), world.meanwhile(world.run) as job:
        world.wait_for_calls(100)
    assert job.error is None
    assert world.newest().state == "SUCCEEDED"
    assert world.broken() == []


def test_f11_a_runner_whose_heartbeats_do_not_land_stops_by_itself(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer: it fences itself off, stages nothing more, and the job can be resumed."""
    from backfill_spark import LeaseLostError
    from backfill_spark.jobs.heartbeat import Heartbeat

    beat, away = Heartbeat.beat, threading.Event()

    def beats(self: Any, job_id: Any, epoch: Any) -> Any:
        if away.is_set():
            raise OSError("the storage does not answer")
        return beat(self, job_id, epoch)

    monkeypatch.setattr(Heartbeat, "beat", beats)
    world = make_world(lease_s=6, heartbeat_s=0.5, gate_at=250)
    with world.meanwhile(world.run) as job:
        world.wait_for_calls(250)
        away.set()
        # The gate stays shut: only losing the lease can end the job.
        job.thread.join(60)
        assert not job.thread.is_alive()
    away.clear()
    assert isinstance(job.error, LeaseLostError)
    assert world.resume(world.newest().job_id).state == "SUCCEEDED"
    assert world.broken(extra=400) == []


def test_f41_a_full_disk_leaves_a_job_that_can_be_resumed(world: World) -> None:
    """PARTIAL, and the message names the disk; the chunk whose event could not be written is staged with the end."""
    with faulty(FaultPlan(Fault(*STAGE, Kind.FULL, nth=2))):
        job_id = world.run()
    job = world.job(job_id)
    assert job.state == "PARTIAL"
    assert "No space left on device" in (job.error or "")
    assert job.calls == len(world.lines())
    assert world.resume(job_id).state == "SUCCEEDED"
    assert world.broken() == []


def test_f41_a_full_disk_in_a_worker_leaves_a_job_that_can_be_resumed(world: World) -> None:
    """A task cannot write the results of a date: PARTIAL with the reason; the chunk is paid for again."""
    day = Path(world.settings.tables.root, "assessments", f"trace_date={NOON.date()}")
    day.touch()  # where a folder has to be
    job_id = world.run()
    job = world.job(job_id)
    assert (job.state, job.counts["length"].scored) == ("PARTIAL", 0)
    assert "trace_date" in (job.error or "")
    day.unlink()
    assert world.resume(job_id).state == "SUCCEEDED"
    assert world.broken(extra=len(world.ids)) == []


@pytest.mark.parametrize("is_large", [False, True])
def test_f47_a_staged_file_that_is_gone_costs_its_chunk_only(
    world: World, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    """Somebody removed a file of a chunk that was paid for: the chunk is scored again, no other one."""
    if not is_large:
        monkeypatch.setattr(store, "DRIVER_PAIRS", len(world.ids))
    job_id = world.crash("after_stage")
    ((_, files),) = staged_files(world.settings)
    pairs = len(world.lines())
    aside = world.desk / files[0].name
    files[0].rename(aside)
    assert world.resume(job_id).state == "SUCCEEDED"
    # For the checker, which reads what was staged.
    aside.rename(files[0] if is_large else world.folder / "tables" / "dropped" / job_id / aside.name)
    assert 0 < pairs < len(world.ids)
    assert world.broken(extra=pairs, woken=pairs) == []


def test_f47_a_staged_file_that_is_gone_before_its_commit_leaves_a_job_that_can_be_resumed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No commit names what is not there; the resume scores that chunk again."""
    merge = store.ResultStore.merge

    def robbed(self: Any, job_id: str, request: Any, chunks: Any, *more: Any, **options: Any) -> Any:
        Path(world.settings.tables.root, "assessments", chunks[0].paths[0]).unlink()
        return merge(self, job_id, request, chunks, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(store.ResultStore, "merge", robbed)
        job_id = world.run()
    assert world.job(job_id).state == "PARTIAL"
    assert "are gone" in str(world.job(job_id).error)
    again = world.resume(job_id)
    assert again.state == "SUCCEEDED"
    assert world.broken(extra=len(world.ids), woken=len(world.ids)) == []


@pytest.mark.parametrize("is_large", [False, True])
def test_f48_a_driver_that_dies_between_files_and_event_has_staged_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    """Files in the job's own folder are found by who goes on; those of a large chunk are nobody's."""
    if not is_large:
        monkeypatch.setattr(store, "DRIVER_PAIRS", len(world.ids))
    job_id = world.crash("after_files")
    lost = len(world.lines())
    assert list(staged_files(world.settings)) == []
    assert world.resume(job_id).state == "SUCCEEDED"
    assert 0 < lost < len(world.ids)
    assert world.broken(extra=lost if is_large else 0) == []
    assert world.job(job_id).calls == len(world.ids)


def test_every_write_of_a_runner_carries_its_epoch_and_a_rising_number(world: World) -> None:
    """On both tables: n rises, each n once; the claim of a second epoch is n = 0 on each."""
    job_id = world.crash("after_stage")
    world.resume(job_id)
    for table in ("assessments", "job_events"):
        written = transactions(world.settings, table, job_id)
        assert (2, 0) in written
        assert {epoch for epoch, _ in written} <= {1, 2}
        assert written == sorted(set(written))
