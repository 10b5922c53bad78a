from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from backfill_spark.display.progress import Progress, following, hidden
from backfill_spark.display.render import one_line
from backfill_spark.models import Counts


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class ClosedStream(io.StringIO):
    """A terminal that went away."""

    def isatty(self) -> bool:
        return True

    def write(self, _text: str) -> int:
        raise OSError("gone")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_line_says_pairs_pace_and_time_left(clock: Clock) -> None:
    bar = Progress("bf-1", total=10_000, clock=clock)
    clock.now = 10
    bar.advance(2_500, errors=3)
    assert "bf-1: 2,500 of 10,000 pairs (25%), 250 pairs/s, 30 s left, 3 errors" == bar.line


def test_what_an_earlier_runner_did_is_not_in_the_pace(clock: Clock) -> None:
    bar = Progress("bf-1", total=1_000, done=500, clock=clock)
    clock.now = 10
    bar.advance(100)
    assert "bf-1: 600 of 1,000 pairs (60%), 10 pairs/s, 40 s left" == bar.line


@pytest.mark.parametrize(("seconds", "left"), [(600, "10 min 00 s"), (7_500, "2 h 05 min")])
def test_long_times_are_minutes_and_hours(clock: Clock, seconds: int, left: str) -> None:
    bar = Progress("bf-1", total=2, clock=clock)
    clock.now = seconds
    bar.advance(1)
    assert f"{left} left" in bar.line


def test_a_notebook_gets_a_line_at_once_every_five_seconds_and_at_the_end(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("bf-1", total=100, console=Console(file=stream), notebook=True, clock=clock) as bar:
        for second in range(1, 11):
            clock.now = second
            bar.advance(10)
    lines = stream.getvalue().splitlines()
    assert ["0 of 100", "50 of 100", "100 of 100", "100 of 100"] == [
        line.split(": ")[1].split(" pairs")[0] for line in lines
    ]
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_a_bar() -> None:
    stream = io.StringIO()
    with Progress("bf-[red]1", total=100, console=Console(file=stream, force_terminal=True, width=120)) as bar:
        bar.advance(60, errors=2)
    assert "bf-[red]1" in stream.getvalue()
    assert "60/100 pairs" in stream.getvalue()
    assert "2 errors" in stream.getvalue()


def test_a_pipe_gets_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("bf-1", total=100) as bar:
        bar.advance(100)
    assert ("", "") == capsys.readouterr()


def test_no_pairs_show_nothing() -> None:
    stream = io.StringIO()
    with Progress("bf-1", total=0, console=Console(file=stream, force_terminal=True)):
        pass
    assert "" == stream.getvalue()


def test_a_broken_terminal_does_not_break_the_job() -> None:
    with Progress("bf-1", total=10, console=Console(file=ClosedStream(), force_terminal=True), notebook=False) as bar:
        bar.advance(5)
    assert 5 == bar.done


def test_a_broken_notebook_does_not_break_the_job(clock: Clock) -> None:
    with Progress("bf-1", total=10, console=Console(file=ClosedStream()), notebook=True, clock=clock) as bar:
        clock.now = 60
        bar.advance(5)
    assert 5 == bar.done


def test_an_error_of_the_job_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt), Progress("bf-1", total=10):
        raise KeyboardInterrupt


def test_a_foreign_ipython_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", object())
    from backfill_spark.display.progress import in_notebook

    assert not in_notebook()


class TestTimeLeft:
    """One rule for the bar, a notebook's lines and the log."""

    def test_is_not_told_after_a_small_first_chunk(self, clock: Any) -> None:
        """A pilot of 200 pairs pays for the start of Python workers: 20 minutes were said, 90 seconds were true."""
        bar = Progress("bf-1", total=300_000, clock=clock)
        clock.now = 4
        bar.advance(200)
        assert bar.left_s is None
        assert "200 of 300,000 pairs (0%)" == bar.counts

    def test_follows_the_pace_after_the_first_chunk(self, clock: Any) -> None:
        bar = Progress("bf-1", total=300_000, clock=clock)
        clock.now = 4
        bar.advance(200)
        clock.now = 34
        bar.advance(60_000)
        assert 2_000 == bar.pairs_per_s
        assert pytest.approx(239_800 / 2_000) == bar.left_s
        assert bar.counts.endswith("2,000 pairs/s, 2 min 00 s left")

    def test_goes_down_while_a_chunk_is_scored_and_is_silent_when_it_was_wrong(self, clock: Any) -> None:
        bar = Progress("bf-1", total=1_000, clock=clock)
        clock.now = 10
        bar.advance(500)
        clock.now = 16
        assert 4 == bar.left_s
        clock.now = 21
        assert str(bar.left_s) == "None"
        assert "left" not in bar.counts

    def test_counts_the_merges_to_come_once_one_was_measured(self, clock: Any) -> None:
        bar = Progress("bf-1", total=400, clock=clock)
        clock.now = 10
        bar.advance(200)
        with bar.merging(200):
            clock.now = 15
        assert 20 == bar.pairs_per_s
        assert 10 + 5 == bar.left_s

    def test_leaves_out_what_an_earlier_runner_or_another_job_did(self, clock: Any) -> None:
        bar = Progress("bf-1", total=1_000, clock=clock)
        clock.now = 1
        bar.advance(600)
        bar.discount(600)
        assert "600 of 1,000 pairs (60%)" == bar.counts
        bar.begin(400)
        clock.now = 11
        bar.advance(100)
        bar.advance(200)
        bar.discount(200)
        assert 1_000 == bar.total
        assert 10 == bar.pairs_per_s
        assert 10 == bar.left_s

    def test_is_not_told_while_judges_are_still_to_come(self, clock: Any) -> None:
        """Code does thousands of pairs a second, a judge some twenty."""
        bar = Progress("bf-1", total=0, clock=clock)
        bar.begin(1_000, later=100)
        clock.now = 1
        bar.advance(1_000)
        assert bar.left_s is None
        bar.begin(100)
        clock.now = 11
        bar.advance(20)
        assert 1_100 == bar.total
        assert 40 == bar.left_s


def test_a_merge_moves_the_bar(clock: Any) -> None:
    """Nothing is counted meanwhile, and each refresh looks another way."""
    stream = io.StringIO()
    shown_on = Console(file=stream, force_terminal=True, width=120)
    with Progress("bf-1", total=100, console=shown_on, clock=clock) as bar:
        bar.advance(100)
        with bar.merging(100):
            frames = set()
            for clock.now in range(5):
                stream.truncate(0)
                bar._bar.refresh()
                frames.add(stream.getvalue())
    assert 5 == len(frames)
    assert all("merging 100 pairs" in frame for frame in frames)


def test_a_notebook_is_told_that_a_merge_begins(clock: Any) -> None:
    stream = io.StringIO()
    bar = Progress("bf-1", total=100, console=Console(file=stream), notebook=True, clock=clock)
    with bar, bar.merging(100):
        assert "merging 100 pairs" in stream.getvalue()


def test_hidden_shows_nothing() -> None:
    stream = io.StringIO()
    with hidden(when=True), Progress("bf-1", total=10, console=Console(file=stream, force_terminal=True)) as bar:
        bar.advance(5)
    assert "" == stream.getvalue()


@given(st.text())
def test_a_line_of_the_log_is_one_short_line(text: Any) -> None:
    line = one_line(f"job bf-1: {text}" + 400 * "x")
    assert 1 == len(line.splitlines())
    assert len(line) <= 260


def test_a_line_of_the_log_says_the_job_the_counts_the_pace_and_the_time_left(
    clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bar = Progress("bf-1", total=100, clock=clock)
    clock.now = 5
    bar.advance(50, errors=1)
    with caplog.at_level("INFO", logger="backfill_spark"):
        bar.tell("chunk 0: 50 pairs in 5 s")
    assert ["job bf-1: chunk 0: 50 pairs in 5 s; 50 of 100 pairs (50%), 10 pairs/s, 5 s left, 1 errors"] == [
        record.getMessage() for record in caplog.records
    ]


def test_a_job_of_another_process_is_followed_by_its_counts(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Its pairs as its events tell them, until whoever looks stops; what a runner has counted anew, too."""

    def a_job(due: int, left: int, errored: int = 0) -> Any:
        return SimpleNamespace(
            job_id="bf-1", state="RUNNING", counts={"length": Counts(due=due, left=left, errored=errored)}
        )

    told = iter([a_job(100, 100), a_job(100, 60), a_job(100, 60), a_job(90, 10, errored=3)])
    with caplog.at_level("INFO", logger="backfill_spark"):
        seen = [job.counts["length"].left for _, job in zip(range(4), following(lambda: next(told)), strict=False)]
    assert seen == [100, 60, 60, 10]
    assert [r.getMessage().split(", ")[0] for r in caplog.records] == [
        "job bf-1: RUNNING; 40 of 100 pairs (40%)",
    ]
