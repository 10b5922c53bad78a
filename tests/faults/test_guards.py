"""Guards: each one taken out, what it is for goes wrong.

The scenario ends badly, or the checker finds a broken promise.
The guards of the protocol itself (fence, claims, ends, walls) are taken out one by one in tests/unit/test_job_model.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from backfill_spark.jobs.events import Event, JobRecord
from backfill_spark.jobs.lease import Lease
from backfill_spark.jobs.store import JobStore
from backfill_spark.results import done
from backfill_spark.selection import pairs
from backfill_spark.storage.deltalake_table import DeltalakeTable
from backfill_spark.storage.small_table import Txn
from tests.faults.world import World, refusal
from tests.faulty_store import Fault, FaultPlan, Kind, Operation, faulty

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("guard", ["in", "out"])
def test_the_staging_anti_join(world: World, monkeypatch: pytest.MonkeyPatch, guard: str) -> None:
    """Without it a resume calls staged pairs again."""
    job_id = world.crash("after_stage")
    if guard == "out":
        staged = done._staged
        monkeypatch.setattr(done, "_staged", lambda *a: staged(*a).where("false"))
    world.resume(job_id)
    assert (world.broken() == []) is (guard == "in")


@pytest.mark.parametrize("guard", ["in", "out"])
def test_the_de_duplication(world: World, monkeypatch: pytest.MonkeyPatch, guard: str) -> None:
    """Without it a trace id that stands twice is called twice."""
    ids = list(world.ids)
    world.write_traces(50, mode="append")
    world.ids = ids
    if guard == "out":
        monkeypatch.setattr(pairs, "drop_duplicates", lambda found, winners, ties: found)
    world.run()
    assert (world.broken() == []) is (guard == "in")


@pytest.mark.parametrize("guard", ["in", "out"])
def test_the_read_back(world: World, monkeypatch: pytest.MonkeyPatch, guard: str) -> None:
    """Without it a commit whose reply was lost counts as not made, and the job does not end as it would have."""
    if guard == "out":
        monkeypatch.setattr(DeltalakeTable, "_landed", lambda *_: False)
    with faulty(FaultPlan(Fault("staged", Operation.APPEND, Kind.LOSE_REPLY))):
        error = refusal(world.run)
    assert (error is None and world.newest().state == "SUCCEEDED") is (guard == "in")


def claims(world: World) -> Any:
    """Queue a job and claim it twice from one look at it, as two runners would; return both claims."""
    jobs, results = world.tables.jobs, world.tables.results
    waiting = jobs.record(world.run(launch="queue"))
    return [jobs.claim(waiting, results.assessments) for _ in range(2)]


@pytest.mark.parametrize("guard", ["in", "out"])
def test_the_compare_and_set(world: World, monkeypatch: pytest.MonkeyPatch, guard: str) -> None:
    """Without it two runners that claim a job at once both get it."""
    if guard == "out":
        append = DeltalakeTable.append
        monkeypatch.setattr(DeltalakeTable, "append", lambda table, rows, txn=None: append(table, rows) or True)
    first, second = claims(world)
    assert first is not None
    assert (second is None) is (guard == "in")


@pytest.mark.parametrize("guard", ["in", "out"])
def test_the_fence(world: World, monkeypatch: pytest.MonkeyPatch, guard: str) -> None:
    """Without it a runner that another one has replaced, and that does not know, still writes."""
    first, _ = claims(world)
    later = JobStore(world.tables, clock=lambda: time.time() + 100)
    results = world.tables.results
    second = later.claim(later.record(first.job_id), results.assessments)
    assert first is not None
    assert second is not None
    assert (first.epoch, second.epoch) == (1, 2)
    txn = Lease(later, first).next_txn() if guard == "in" else None
    store = results.assessments
    assert store.append(store.frame([{"trace_id": "tr-0"}]), txn=txn) is (guard == "out")
    assert (store.read().count() == 0) is (guard == "in")
    told = (Event.CHUNK_STAGED, {"chunk": 0})
    assert later.write(first.job_id, [told], epoch=1, n=1, txn=txn) is (guard == "out")
    assert (0 in later.record(first.job_id).staged) is (guard == "out")
    if txn is not None:  # by files of tasks as by Spark
        assert store.light is not None
        assert store.light.add_files([], txn=Txn(txn.app_id, txn.version + 1)) is False


@pytest.mark.parametrize("guard", ["in", "out"])
def test_the_lease(make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, guard: str) -> None:
    """Without it a live runner's job is taken, and the runner stops."""
    world = make_world(gate_at=250)
    jobs, results = world.tables.jobs, world.tables.results
    with world.meanwhile(world.run) as job:
        world.wait_for_calls(250)
        record = jobs.record(world.newest().job_id)
        if guard == "out":
            monkeypatch.setattr(JobRecord, "is_alive", lambda *_: False)
        taken = jobs.claim(record, results.assessments)
    assert (taken is None) is (guard == "in")
    assert (job.error is None) is (guard == "in")
