from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from backfill_spark.display.progress import Progress


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


def test_a_notebook_gets_a_line_every_five_seconds_and_one_at_the_end(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("bf-1", total=100, console=Console(file=stream), notebook=True, clock=clock) as bar:
        for second in range(1, 11):
            clock.now = second
            bar.advance(10)
    lines = stream.getvalue().splitlines()
    assert ["50 of 100", "100 of 100", "100 of 100"] == [line.split(": ")[1].split(" pairs")[0] for line in lines]
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
