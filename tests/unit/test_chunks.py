"""Chunks: every due pair lies in exactly one of them, whatever the sizes are on the way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.backfill.chunks import (
    PILOT_PAIRS,
    TARGET_PAIRS,
    Cutter,
    first_target,
    full_task,
    next_target,
    tasks_for,
)
from backfill_spark.models import Chunk, TimeWindow

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WHOLE = (0.0, 1.0)
HOURS = st.dictionaries(st.integers(-10_000, 500_000), st.integers(0, 5_000), max_size=30)


def cut(pairs: dict[int, int], targets: list[int], *, draw_to: float = 1.0) -> list[Chunk]:
    """Return all chunks, each asked for with the next of `targets` (the last one for the rest)."""
    cutter = Cutter(pairs, TimeWindow(), draw_to=draw_to)
    found: list[Chunk] = []
    while (chunk := cutter.next(targets[min(len(found), len(targets) - 1)])) is not None:
        found.append(chunk)
        assert len(found) < 100_000
    return found


@given(HOURS, st.lists(st.integers(1, 3_000), min_size=1, max_size=5), st.floats(0.01, 1.0))
def test_each_pair_lies_in_exactly_one_chunk(pairs: dict[int, int], targets: list[int], draw_to: float) -> None:
    """An hour is in one chunk with the whole draw, or in slices that cover [0, 1) without gap or overlap.

    What is left of a sliced hour may stand in one chunk with hours that follow.
    """
    chunks = cut(pairs, targets, draw_to=draw_to)
    for hour in (h for h, n in pairs.items() if n):
        moment = EPOCH + timedelta(hours=hour, minutes=30)
        inside = [c for c in chunks if c.window.start and c.window.end and c.window.start <= moment < c.window.end]
        edges = [(c.draw_from, c.draw_to) if c.whole_from is None or moment < c.whole_from else WHOLE for c in inside]
        assert edges[0][0] == 0.0
        assert edges[-1][1] == 1.0
        assert [end for _, end in edges[:-1]] == [start for start, _ in edges[1:]]
        assert all(moment.date() in c.dates for c in inside)
    assert list(range(len(chunks))) == [c.index for c in chunks]


@given(HOURS, st.integers(1, 3_000))
def test_chunks_are_about_as_large_as_asked(pairs: dict[int, int], target: int) -> None:
    """No chunk holds more than twice the target."""
    assert all(c.pairs <= 2 * target for c in cut(pairs, [target]))


def test_the_windows_bounds_cut_the_first_and_the_last_hour() -> None:
    """A chunk never reaches out of the window."""
    start, end = datetime(2024, 6, 1, 10, 20, tzinfo=UTC), datetime(2024, 6, 1, 12, 40, tzinfo=UTC)
    hours = [int((start + timedelta(hours=i) - EPOCH).total_seconds()) // 3600 for i in range(3)]
    chunk = Cutter(dict.fromkeys(hours, 5), TimeWindow(start, end)).next(100)
    assert chunk is not None
    assert TimeWindow(start, end) == chunk.window


def test_hours_past_the_calendar_are_open_ends() -> None:
    """Times at the end of the year 9999 have no next hour; the chunk has no end then."""
    last = 253_402_300_799 // 3600
    chunk = Cutter({last: 3}, TimeWindow()).next(10)
    assert chunk is not None
    assert chunk.window.end is None


def test_slices_of_a_busy_hour_end_at_the_highest_rate() -> None:
    """At rate 0.1 the draws above 0.1 hold no pairs: slices divide what is below."""
    edges = [(round(c.draw_from, 3), round(c.draw_to, 3)) for c in cut({0: 4_000}, [1_000], draw_to=0.1)]
    assert [(0.0, 0.025), (0.025, 0.05), (0.05, 1.0)] == edges


def test_the_pace_decides_the_size() -> None:
    """A slow scorer gets small chunks, a fast one large ones, within the bounds."""
    assert next_target(1.0, 2, 10_000) == PILOT_PAIRS
    assert next_target(0.01, 2, 1_000_000) == 6_000
    assert next_target(1e-6, 2, 10_000_000) == TARGET_PAIRS
    assert first_target(PILOT_PAIRS) == PILOT_PAIRS
    assert first_target(1_000_000) == PILOT_PAIRS


def test_a_chunk_of_slow_calls_is_a_small_part_of_its_job() -> None:
    """What a kill repeats: 4 % where a chunk is then five seconds long; quick calls are cut by time alone."""
    assert next_target(0.02, 2, 20_000) == 800
    assert next_target(0.005, 2, 20_000) == 5 * 2 / 0.005
    assert next_target(0.0001, 2, 20_000) == 30 * 2 / 0.0001


def test_slow_pairs_are_spread_over_tasks() -> None:
    """Fast pairs stay where the files put them; slow ones are spread so that a task takes some ten seconds."""
    assert tasks_for(100_000, 0.0001, 2) is None
    assert tasks_for(1_000, 0.1, 2) == 10
    assert tasks_for(10, 0.1, 2) == 2
    assert tasks_for(40, None, 2) == 2
    assert tasks_for(400, None, 2) == 20


def test_a_pilot_out_of_a_busy_hour_does_not_cut_the_rest_small() -> None:
    """What is left of the hour goes with the hours that follow, of which all draws are taken."""
    pilot, rest = cut({0: 2_000, 1: 2_000}, [200, 250_000])
    assert (pilot.pairs, pilot.whole_from, pilot.to_json()["draw"]) == (200, None, [0.0, 0.1])
    assert (rest.pairs, rest.draw_from, rest.whole_from) == (3_800, 0.1, EPOCH + timedelta(hours=1))
    assert rest.to_json()["draw"] == [0.0, 1.0], "other jobs are to know that it may hold any draw"


def test_tasks_of_async_scorers_keep_their_calls_under_way() -> None:
    """A task gets enough pairs to fill its places for async calls twice, before it is made shorter."""
    full = full_task(2, 1, 64)
    assert 256 == full
    assert tasks_for(200, None, 2, full=full) == 2
    assert tasks_for(1, None, 8, full=full) == 1
    assert tasks_for(600, 0.5, 2, full=full) == 2
    assert tasks_for(6_000, 0.01, 2, full=full) == 6
    assert tasks_for(6_000, 0.0001, 2, full=full) == 2


def test_without_async_scorers_no_task_has_to_be_full() -> None:
    """Only calls that wait gain from more of them in a task."""
    assert full_task(3, 0, 64) == 0
