"""F20, F24: two live jobs over the same pairs, in one process."""

import random
from collections import Counter
from datetime import timedelta

import pytest

from backfill_spark import chunks, read_assessments
from backfill_spark.api import work
from tests.factories import NOON, some_traces

pytestmark = pytest.mark.faults
CHUNK = 100


@pytest.mark.parametrize("cleared", [True, False])
def test_f20_a_job_adopts_what_another_has_staged_meanwhile(make_world, monkeypatch, cleared):
    """Called twice are only the pairs of the chunk that was under way, whether or not the other one has ended."""
    from backfill_spark import results

    monkeypatch.setattr(chunks, "next_target", lambda pace, slots: CHUNK)
    if not cleared:
        monkeypatch.setattr(results.ResultStore, "clear", lambda self, job_id: None)
    world = make_world(gate_at=250, lease_s=120)
    with world.meanwhile(world.run) as first:
        world.wait_for_calls(250)
        second = world.run()
    assert first.error is None
    assert [world.job(j).state for j in (first.result, second)] == ["SUCCEEDED", "SUCCEEDED"]
    assert world.broken(extra=CHUNK, woken=CHUNK) == []
    counts = world.job(first.result).counts["length"]
    assert (counts.scored, counts.due) == (600, 600)
    assert counts.calls <= 400


def test_f20_a_job_that_waited_while_another_one_did_its_work_calls_nothing(world):
    """Two queued jobs over the same pairs, one worker: the results that the first one has merged are the second's."""
    first, second = world.run(launch="queue"), world.run(launch="queue")
    done = list(work(spark=world.spark, settings=world.settings))
    assert [(j.job_id, j.state) for j in done] == [(first, "SUCCEEDED"), (second, "SUCCEEDED")]
    assert [j.calls for j in done] == [len(world.ids), 0]
    assert done[1].counts["length"].already_scored == len(world.ids)
    assert world.broken() == []


def test_f20_a_dead_job_that_goes_on_after_another_one_did_its_work_calls_nothing(world):
    """The same command again adopts what the dead job staged, scores the rest, and empties its own staging."""
    dead = world.crash("after_stage")
    assert world.job(world.run()).state == "SUCCEEDED"
    job = world.resume(dead)
    counts = job.counts["length"]
    assert (job.state, counts.scored + counts.already_scored) == ("SUCCEEDED", len(world.ids))
    assert len(world.lines()) == len(world.ids)
    assert world.broken() == []


@pytest.mark.parametrize("phase", range(10))
@pytest.mark.parametrize("overlap", ["full", "partial"])
def test_f20_two_jobs_that_start_at_any_distance_give_what_one_would(make_world, monkeypatch, overlap, phase):
    """Rows and values are those of one job; a pair is called twice at most."""
    monkeypatch.setattr(chunks, "next_target", lambda pace, slots: 4 * CHUNK)
    chance = random.Random(f"{overlap} {phase}")
    world = make_world(lease_s=120, pause=0.002)
    # Traces are a quarter of an hour apart: the second job's window begins with the 301st.
    window = {"start_time": NOON + timedelta(minutes=15 * 300)} if overlap == "partial" else {}
    with world.meanwhile(world.run) as first:
        world.wait_for_calls(chance.randrange(1, 600))
        second = world.run(**window)
    assert first.error is None
    assert [world.job(j).state for j in (first.result, second)] == ["SUCCEEDED", "SUCCEEDED"]
    assert world.broken(extra=len(world.ids), woken=len(world.ids)) == []
    assert max(Counter(line.split("\t")[1] for line in world.lines()).values()) <= 2
    rows = read_assessments(spark=world.spark, settings=world.settings).select("trace_id", "value_double").collect()
    assert {r["trace_id"]: len(r["response"]) for r in some_traces(600)} == {r[0]: r[1] for r in rows}
    assert len(rows) == 600
