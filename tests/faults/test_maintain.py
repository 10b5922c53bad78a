"""Upkeep of the tables, and what it must leave alone; one process."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from chispa import assert_df_equality

from backfill_spark import schema
from backfill_spark.backfill import maintenance
from backfill_spark.jobs.events import Event
from backfill_spark.jobs.heartbeat import Heartbeat
from backfill_spark.jobs.lease import Lease
from backfill_spark.jobs.store import JobStore
from backfill_spark.judges.llm.journal import journal_folder
from backfill_spark.models import new_job_id
from backfill_spark.selection.frozen import listed
from backfill_spark.storage.delta_table import Store
from tests.factories import kept
from tests.faults.world import World
from tests.faulty_store import Fault, FaultPlan, Kind, Operation, faulty

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is staged lies in the folder of its job, as it does of chunks that are not large."""
    monkeypatch.setattr("backfill_spark.results.store.DRIVER_PAIRS", 20_000)


def upkeep(world: World, *, days: float = 0.0) -> Any:
    """Do the upkeep as it would be done in `days`."""
    return maintenance.maintain(world.tables, clock=lambda: time.time() + days * maintenance.DAY_S)


def rows(world: World, table: Any) -> Any:
    """Return the rows of one of our tables."""
    return Store(world.spark, next(t for t in schema.ALL_TABLES if t.name == table), world.settings).read()


def staged_rows(world: World) -> list[Any]:
    """Return the rows that wait for a commit in a folder of their own."""
    folder = Path(world.tables.results.waiting.folder)
    return [row for file in folder.rglob("*.parquet") for row in pq.ParquetFile(file).read().to_pylist()]


def files(world: World, table: Any) -> Any:
    """Return the number of files of a table's newest version."""
    return len(rows(world, table).inputFiles())


def test_what_a_job_at_rest_has_staged_is_kept_until_it_expires(world: World) -> None:
    """Until then a resume calls none of it; afterwards it is paid again."""
    with faulty(FaultPlan(Fault("staged", Operation.APPEND, Kind.FULL, nth=2))):
        job_id = world.run()
    staged = staged_rows(world)
    assert staged
    assert upkeep(world)["staged_jobs"] == []
    assert staged_rows(world) == staged
    assert upkeep(world, days=400)["staged_jobs"] == [job_id]
    assert staged_rows(world) == []
    assert world.resume(job_id).state == "SUCCEEDED"
    assert world.broken(extra=len(staged), woken=len(staged)) == []


def test_what_a_runner_left_that_died_behind_its_jobs_end_is_dropped(world: World, capfd: Any) -> None:
    """Staged rows, listed traces, heartbeats, spooled answers; the job and its results stay, in fewer files."""
    job_id = world.crash("after_end", trace_ids=world.ids)
    jobs = world.tables.jobs
    # Where the tables have no folder, heartbeats are events.
    jobs.write(job_id, [(Event.HEARTBEAT, {})], epoch=1)
    Heartbeat(world.settings).beat(job_id, 1)
    spools = Path(journal_folder(world.settings))
    for owner in (job_id, "bf-another"):
        (spools / owner).mkdir(parents=True)
        (spools / owner / "answers.jsonl").touch()
    before = world.job(job_id)
    results = kept(rows(world, "assessments").orderBy("assessment_id"))
    assert before.state == "SUCCEEDED"
    assert staged_rows(world)
    assert rows(world, "work").count() == len(world.ids)
    events = files(world, "job_events")
    capfd.readouterr()
    done = upkeep(world)
    # VACUUM would tell of each table.
    assert capfd.readouterr().out == ""
    assert set(done["optimized"]) == set(done["vacuumed"]) == {t.name for t in schema.ALL_TABLES}
    assert files(world, "job_events") < events
    assert [done[f"{place}_jobs"] for place in ("staged", "work", "file")] == [[job_id]] * 3
    assert done["heartbeats"] == 1
    assert (staged_rows(world), rows(world, "work").count()) == ([], 0)
    assert rows(world, "job_events").where("event = 'heartbeat'").count() == 0
    assert not list((world.folder / "tables" / "pulse").glob("*.beat"))
    assert [p.name for p in spools.iterdir()] == ["bf-another"]
    assert (world.job(job_id).state, world.job(job_id).counts) == (before.state, before.counts)
    after = rows(world, "assessments").orderBy("assessment_id")
    assert_df_equality(after, results, ignore_nullable=True, ignore_metadata=True)
    assert world.broken() == []


def test_a_job_at_rest_keeps_what_it_chose(world: World) -> None:
    """Its listed traces are read when it goes on."""
    with faulty(FaultPlan(Fault("staged", Operation.APPEND, Kind.FULL, nth=2))):
        job_id = world.run(trace_ids=world.ids[:500])
    assert upkeep(world)["work_jobs"] == []
    assert world.resume(job_id).state == "SUCCEEDED"
    assert world.broken(extra=500, expected={("length", i) for i in world.ids[:500]}) == []


def test_a_choice_of_a_job_that_was_never_created_is_dropped_after_a_day(world: World) -> None:
    """Its creator died while it planned: nobody can go on with it."""
    world.run(launch="queue")
    work, now = world.tables.work, datetime.now(UTC)
    ids = [new_job_id(now - timedelta(hours=hours)) for hours in (25, 23)]
    for job_id in ids:
        work.keep_choice(job_id, listed(world.spark, world.ids))
    assert upkeep(world)["work_jobs"] == ids[:1]
    assert {r["job_id"] for r in rows(world, "work").collect()} == {ids[1]}
    assert upkeep(world, days=1)["work_jobs"] == ids[1:]


def test_upkeep_while_a_job_runs(make_world: Callable[..., World]) -> None:
    """The job ends as it would have ended; its events, its lease and what it staged are not touched."""
    world = make_world(heartbeat_s=1, gate_at=250)
    with world.meanwhile(world.run) as job:
        world.wait_for_calls(250)
        done = upkeep(world, days=400)
        assert (done["staged_jobs"], done["work_jobs"], done["file_jobs"], done["heartbeats"]) == ([], [], [], 0)
    assert job.error is None
    assert world.job(job.result).state == "SUCCEEDED"
    assert world.broken() == []


def test_a_runner_that_was_replaced_stays_fenced_off_after_upkeep(world: World) -> None:
    """What its fence stands on is neither compacted away nor vacuumed."""
    jobs, results = world.tables.jobs, world.tables.results
    fence = results.assessments
    first = jobs.claim(jobs.record(world.run(launch="queue")), fence)
    assert first is not None
    later = JobStore(world.tables, clock=lambda: time.time() + 100)
    second = later.claim(later.record(first.job_id), fence)
    assert second is not None
    assert second.epoch == 2
    upkeep(world, days=400)
    txn = Lease(jobs, first).next_txn()
    assert not fence.append(fence.frame([{"trace_id": "tr-0"}]), txn=txn)
    assert not jobs.write(first.job_id, [(Event.CHUNK_STAGED, {"chunk": 0})], epoch=1, n=1, txn=txn)


def test_a_trace_that_is_forgotten_is_in_no_table(world: World) -> None:
    """Results, staged rows, choices, and what a job remembers of ids that it did not find; all else stays."""
    gone, missing = world.ids[7], "tr-not-there"
    done = world.run()
    # A second job rests with staged rows and its list of traces.
    world.write_traces(30, first=600, mode="append")
    with faulty(FaultPlan(Fault("staged", Operation.APPEND, Kind.FULL, nth=2))):
        job_id = world.run(trace_ids=[*world.ids, missing], reprocess="all")
    assert world.job(job_id).state == "PARTIAL"
    results = rows(world, "assessments").count()

    def holding(word: Any) -> Any:
        found = {}
        for table in schema.ALL_TABLES:
            store = Store(world.spark, table, world.settings)
            whole = re.compile(rf"\b{re.escape(word)}\b")
            held = sum(bool(whole.search(str(row))) for row in store.read().collect())
            if held:
                found[table.name] = held
        if held := sum(bool(whole.search(str(row))) for row in staged_rows(world)):
            found["staged"] = held
        return found

    assert set(holding(gone)) >= {"assessments", "work"}
    assert set(holding(missing)) == {"job_events", "work"}
    staged = staged_rows(world)[0]["trace_id"]
    for word in (gone, missing, staged):
        told = maintenance.forget_trace(world.tables, word)
        assert any(told.values())
        assert holding(word) == {}
    assert rows(world, "assessments").count() == results - len({gone, staged})
    assert world.job(done).state == "SUCCEEDED"
    assert json.loads(rows(world, "jobs").where(f"job_id = '{done}'").head()["counts"])["length"]["scored"] == 600


def test_forgetting_a_trace_of_which_nothing_is_known_changes_nothing(world: World) -> None:
    """Each count is 0."""
    world.run()
    before = rows(world, "assessments").count()
    assert not any(maintenance.forget_trace(world.tables, "tr-unknown").values())
    assert rows(world, "assessments").count() == before
