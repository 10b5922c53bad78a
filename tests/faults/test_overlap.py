"""F20, F24: two live jobs over the same pairs, in one process."""

import pytest

from backfill_spark import chunks

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
