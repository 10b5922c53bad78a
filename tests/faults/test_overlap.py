"""F20, F24: two live jobs over the same pairs, in one process."""

from __future__ import annotations

import json
import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from pyspark.sql import functions as F

from backfill_spark import BackfillFailedError, ScorerSamplingConfig, plan_backfill, read_assessments, scorer
from backfill_spark.api import work
from backfill_spark.backfill import chunks, turns
from backfill_spark.backfill import runner as api_runner
from backfill_spark.backfill.staging import reuse_staged
from backfill_spark.jobs.events import Event
from backfill_spark.results.staged import StagedChunk
from backfill_spark.selection.sampling import draw
from tests.factories import NOON, some_traces
from tests.faults.world import World
from tests.nemesis import wait_until

pytestmark = pytest.mark.faults
CHUNK = 100
PHASES = int(os.environ.get("OVERLAP_PHASES", "3"))
"""Distances between the starts of two jobs; `make soak` takes 10."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that wait for others look often."""
    monkeypatch.setattr(turns, "POLL_S", 0.1)


@pytest.mark.parametrize("dropped", [True, False])
def test_f20_a_job_waits_for_the_chunk_of_another_and_adopts_it(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, dropped: bool
) -> None:
    """No pair is called twice, also where the other one's staged files are gone; both do a part where both go on."""
    from backfill_spark.backfill import ending

    monkeypatch.setattr(chunks, "next_target", lambda *_: CHUNK)
    monkeypatch.setattr("backfill_spark.results.store.DRIVER_PAIRS", 1000)
    if dropped:
        clean_up = ending._clean_up

        def all_gone(tables: Any, record: Any, **options: Any) -> None:
            clean_up(tables, record, **options)
            tables.results.waiting.drop(record.job_id)

        monkeypatch.setattr(ending, "_clean_up", all_gone)
    world = make_world(traces=400, gate_at=250, lease_s=120)
    with world.meanwhile(world.run) as first:
        world.wait_for_calls(250)
        with world.meanwhile(world.run) as second:
            wait_until(lambda: is_waiting(world), 60, "the second job to wait")
            said = plan_backfill(scorers=["length"], spark=world.spark, settings=world.settings).notes
    assert (first.error, second.error) == (None, None)
    assert [world.job(j).error for j in (first.result, second.result)] == [None, None]
    assert [world.job(j).state for j in (first.result, second.result)] == ["SUCCEEDED", "SUCCEEDED"]
    assert world.broken() == []
    done = [world.job(j).counts["length"] for j in (first.result, second.result)]
    assert all(counts.scored + counts.already_scored == 400 for counts in done)
    assert sum("waited for" in note for note in said) == 2


def is_waiting(world: World) -> bool:
    """True when the newest job has nothing under way."""
    newest = world.newest()
    return newest.state == "RUNNING" and world.tables.jobs.record(newest.job_id).under_way is None


def test_f20_of_jobs_that_start_at_the_same_moment_one_calls_and_the_others_adopt(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One chunk is the whole job: each has counted all pairs as due before any other could be seen."""
    world = make_world(traces=371, lease_s=120)
    together, run_job = threading.Barrier(3, timeout=60), api_runner.run_job

    def once_all_are_planned(*args: Any, **options: Any) -> Any:
        together.wait()
        return run_job(*args, **options)

    monkeypatch.setattr(api_runner, "run_job", once_all_are_planned)
    with world.meanwhile(world.run) as first, world.meanwhile(world.run) as second:
        third = world.run()
    assert (first.error, second.error) == (None, None)
    counts = [world.job(j).counts["length"] for j in (first.result, second.result, third)]
    assert [(c.due, c.scored) for c in counts] == [(371, 371)] * 3
    assert sorted(c.calls for c in counts) == [0, 0, 371]
    assert world.broken() == []


def test_f20_a_dead_job_holds_nobody_up_for_longer_than_its_lease(make_world: Callable[..., World]) -> None:
    """The other one waits until the lease has run out, and scores what was under way."""
    world = make_world(traces=371, lease_s=4, heartbeat_s=1)
    world.crash("before_stage")
    job = world.job(world.run())
    assert (job.state, job.calls) == ("SUCCEEDED", 371)
    assert world.broken() == []


def test_f20_a_job_that_waited_while_another_one_did_its_work_calls_nothing(world: World) -> None:
    """Two queued jobs over the same pairs, one worker: the results that the first one has merged are the second's."""
    first, second = world.run(launch="queue"), world.run(launch="queue")
    done = list(work(spark=world.spark, settings=world.settings))
    assert [(j.job_id, j.state) for j in done] == [(first, "SUCCEEDED"), (second, "SUCCEEDED")]
    assert [j.calls for j in done] == [len(world.ids), 0]
    assert done[1].counts["length"].already_scored == len(world.ids)
    assert world.broken() == []


def test_f20_a_dead_job_that_goes_on_after_another_one_did_its_work_calls_nothing(world: World) -> None:
    """The same command again adopts what the dead job staged, scores the rest, and drops its own staged files."""
    dead = world.crash("after_stage")
    assert world.job(world.run_later()).state == "SUCCEEDED"
    job = world.resume(dead)
    counts = job.counts["length"]
    assert (job.state, counts.scored + counts.already_scored) == ("SUCCEEDED", len(world.ids))
    assert len(world.lines()) == len(world.ids)
    assert world.broken() == []


def test_f20_what_another_job_writes_about_other_traces_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job with nothing due looks once more before it ends, and finds only rows that are none of its own."""
    from backfill_spark.backfill import steps

    world.run()
    before = read_assessments(spark=world.spark, settings=world.settings).count()

    def adopt_late(attempt: Any) -> None:
        reuse_staged(attempt)
        # Another job that stages a chunk now.
        results, jobs = attempt.tables.results, attempt.tables.jobs
        other = jobs.create_claimed("bf-20240601-another", attempt.lease.claimed.created)
        row = {"experiment_id": attempt.request.experiment_id, "trace_id": "tr-elsewhere", "scorer_name": "length"}
        row |= {"job_id": other.job_id, "scorer_version": 1, "trace_date": date(2024, 6, 1), "ordinal": 0}
        path = results.waiting.write(results.assessments.frame([row]), other.job_id)
        staged = StagedChunk(other.job_id, 0, {}, (path,), ())
        jobs.write(other.job_id, [(Event.CHUNK_STAGED, staged.to_json())], epoch=1, n=1)

    monkeypatch.setattr(steps, "reuse_staged", adopt_late)
    job = world.job(world.run())
    assert (job.state, job.calls, job.error) == ("SUCCEEDED", 0, None)
    assert read_assessments(spark=world.spark, settings=world.settings).count() == before


@pytest.fixture
def moody(world: World) -> Any:
    """A world with a scorer that fails while the file `bad` is on its desk."""
    world.write_traces(60)
    bad = world.desk / "bad"

    def mood(trace: Any) -> int:
        from pathlib import Path

        if Path(where).exists():
            raise ValueError("bad")
        return 1

    where = str(bad)
    scorer(name="mood")(mood).register().start(sampling_config=ScorerSamplingConfig(sample_rate=1.0))
    bad.touch()
    return world


def results_of(world: World) -> Any:
    """Return the outcomes of all results with their number."""
    rows = read_assessments(spark=world.spark, settings=world.settings).select("outcome").collect()
    return Counter(r["outcome"] for r in rows)


def test_f20_an_error_that_was_staged_before_does_not_replace_a_later_result(moody: Any) -> None:
    """Two jobs tried the errors again; the one that failed again rested before the other one succeeded."""
    moody.run("mood", max_error_rate=1.0)
    assert results_of(moody) == {"error": 60}
    dead = moody.crash("after_stage", "mood", reprocess="failed", max_error_rate=1.0)
    (moody.desk / "bad").unlink()
    assert moody.job(moody.run_later("mood", reprocess="failed")).state == "SUCCEEDED"
    assert moody.resume(dead).state == "SUCCEEDED"
    assert results_of(moody) == {"scored": 60}


def test_f20_adopted_errors_beyond_the_limit_are_shown(moody: Any) -> None:
    """The job says that its error rows say why: they are there."""
    moody.crash("after_stage", "mood", max_error_rate=1.0)
    with pytest.raises(BackfillFailedError):
        moody.run_later("mood", max_error_rate=0.1)
    job = moody.newest()
    errors = job.counts["mood"].errored
    assert (job.state, job.calls) == ("FAILED", 0)
    assert results_of(moody) == {"error": errors}
    assert errors


def test_f20_what_is_adopted_has_the_draw_of_its_own_jobs_seed(world: World) -> None:
    """The job that staged it drew by another one."""
    world.crash("after_stage")
    job = world.job(world.run_later(seed=7))
    assert job.calls < job.counts["length"].scored == len(world.ids)
    rows = read_assessments(spark=world.spark, settings=world.settings)
    assert rows.where((F.col("seed") != 7) | (F.col("draw") != draw(7))).count() == 0


@pytest.mark.parametrize("phase", range(PHASES))
@pytest.mark.parametrize("overlap", ["full", "partial"])
def test_f20_two_jobs_that_start_at_any_distance_give_what_one_would(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, overlap: str, phase: int
) -> None:
    """Rows, values and calls are those of one job."""
    monkeypatch.setattr(chunks, "next_target", lambda *_: 4 * CHUNK)
    chance = random.Random(f"{overlap} {phase}")
    world = make_world(lease_s=120, pause=0.002)
    # Traces are a quarter of an hour apart: the second job's window begins with the 301st.
    window = {"start_time": NOON + timedelta(minutes=15 * 300)} if overlap == "partial" else {}
    with world.meanwhile(world.run) as first:
        world.wait_for_calls(chance.randrange(1, 600))
        second = world.run(**window)
    assert first.error is None
    assert [world.job(j).state for j in (first.result, second)] == ["SUCCEEDED", "SUCCEEDED"]
    assert world.broken() == []
    rows = read_assessments(spark=world.spark, settings=world.settings).select("trace_id", "value_double").collect()
    assert {r["trace_id"]: len(json.dumps(r["response"])) for r in some_traces(600)} == {r[0]: r[1] for r in rows}
    assert len(rows) == 600
