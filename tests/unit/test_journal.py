"""Journals: slow results are on disk as they come, quick ones are not, and a torn end is left out."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from backfill_spark.results import journal
from backfill_spark.results.journal import EVERY_S, Journal, TaskStopped, ask_to_stop, journals, rows_of, uninterrupted
from backfill_spark.scoring import task
from backfill_spark.scoring.task import PIECE_S, TaskScorer


class Clock:
    """Time as a test has it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(journal, "time", made)
    monkeypatch.setattr(task, "time", made)
    return made


def rows(*numbers: int) -> pa.Table:
    return pa.table({"n": list(numbers)})


def kept(folder: Path) -> list[int]:
    return [row["n"] for batch in rows_of(journals(folder)) for row in batch.to_pylist()]


def test_slow_results_are_there_before_their_task_ends(tmp_path: Path, clock: Clock) -> None:
    """All but those of the last moments."""
    one = Journal(tmp_path / "job")
    for number in range(10):
        clock.now += 0.6 * EVERY_S
        one.add(rows(number))
    assert kept(tmp_path / "job") == list(range(10))
    one.add(rows(10))
    assert kept(tmp_path / "job") == list(range(10))
    one.close()


def test_quick_results_are_not_written(tmp_path: Path, clock: Clock) -> None:
    """Scoring them again costs less."""
    one = Journal(tmp_path)
    for _ in range(10):
        clock.now += EVERY_S
        one.add(rows(*range(10_000)))
    one.close()
    assert journals(tmp_path) == []


def test_a_task_that_is_asked_to_stop_keeps_what_it_has(tmp_path: Path, clock: Clock) -> None:
    """Those that are started again call nothing; tasks of another epoch go on."""
    one, other = Journal(tmp_path / "job", 1), Journal(tmp_path / "job", 2)
    ask_to_stop(tmp_path / "job", 1)
    clock.now += EVERY_S
    with pytest.raises(TaskStopped):
        one.add(rows(1, 2))
    assert kept(tmp_path / "job") == [1, 2]
    with pytest.raises(TaskStopped):
        Journal(tmp_path / "job", 1)
    other.add(rows(3))
    assert sorted(kept(tmp_path / "job")) == [1, 2, 3]


def test_an_interrupt_of_all_processes_ends_no_call() -> None:
    """It is for the runner; outside of a task's calls all is as before."""
    before = signal.getsignal(signal.SIGINT)
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_torn_end_is_left_out(tmp_path: Path, clock: Clock) -> None:
    """At whatever byte the writer was killed."""
    one = Journal(tmp_path)
    for number in range(3):
        clock.now += EVERY_S
        one.add(rows(number))
    one.close()
    (path,) = journals(tmp_path)
    whole = path.read_bytes()
    found = []
    for length in [*range(0, len(whole), 7), len(whole)]:
        path.write_bytes(whole[:length])
        found.append(kept(tmp_path))
    assert all(each == list(range(len(each))) for each in found)
    assert sorted({len(each) for each in found}) == [0, 1, 2, 3]


def test_a_batch_is_scored_in_pieces_of_some_time(clock: Clock) -> None:
    """Slow ones one by one, quick ones as they come; each trace once and in order."""

    def pieces(seconds: float) -> list[int]:
        sizes, seen = [], []
        made: Any = TaskScorer._pieces(TaskScorer(batch=None), rows(*range(1000)).to_batches())  # type: ignore[arg-type]
        for piece in made:
            clock.now += seconds * len(piece)
            sizes.append(len(piece))
            seen += piece["n"].to_pylist()
        assert seen == list(range(1000))
        return sizes

    assert pieces(10 * PIECE_S) == [1] * 1000
    assert max(pieces(PIECE_S / 10)) == 10
    assert pieces(1e-5)[:5] == [1, 4, 16, 64, 256]


def test_pieces_of_quick_scorers_stay_of_a_size_that_arrow_takes(clock: Clock) -> None:
    """A task may have thousands of batches, each scored in no time."""
    batches = rows(*range(50)).to_batches(max_chunksize=1) * 20
    made: Any = TaskScorer._pieces(TaskScorer(batch=None), batches)  # type: ignore[arg-type]
    assert sum(len(piece) for piece in made) == 1000
    assert clock.now == 0.0
