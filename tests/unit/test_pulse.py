"""Beats of runners as files: who is seen, and who is told that it was replaced."""

import time

import pytest

from backfill_spark.pulse import Pulse
from backfill_spark.settings import Settings


@pytest.fixture
def pulse(tmp_path):
    (tmp_path / "job_events" / "_delta_log").mkdir(parents=True)
    return Pulse(Settings(tables={"root": str(tmp_path)}))


def test_a_beat_is_seen_for_its_epoch_only(pulse):
    """By the clock of the storage."""
    began = time.time()
    assert pulse.beat("bf-1", 2) == 2
    assert began - 1 < pulse.seen("bf-1", 2) < time.time() + 1
    assert pulse.seen("bf-1", 1) is None
    assert pulse.seen("bf-2", 2) is None


def test_a_runner_that_was_replaced_is_told_so(pulse):
    """And does not write over the beat of its follower."""
    pulse.beat("bf-1", 2)
    assert pulse.beat("bf-1", 1) == 2
    assert pulse.seen("bf-1", 2) is not None


def test_a_beat_that_is_being_written_is_a_beat(pulse, tmp_path):
    """A reader between a runner's opening of the file and its writing must not take that runner for dead."""
    pulse.beat("bf-1", 1)
    (tmp_path / "pulse" / "bf-1.beat").write_text("")
    assert pulse.seen("bf-1", 1) is not None
    assert pulse.beat("bf-1", 1) == 1


def test_a_cancel_is_seen_until_the_job_is_cleared(pulse):
    """So is its beat."""
    assert pulse.is_cancel_asked("bf-1") is False
    pulse.ask_cancel("bf-1")
    pulse.beat("bf-1", 1)
    assert pulse.is_cancel_asked("bf-1") is True
    pulse.clear("bf-1")
    assert (pulse.is_cancel_asked("bf-1"), pulse.seen("bf-1", 1)) == (False, None)


def test_a_folder_without_the_tables_is_another_place(tmp_path):
    """Python and Spark may read one address differently; then beats are events."""
    pulse = Pulse(Settings(tables={"root": str(tmp_path)}))
    assert pulse.beat("bf-1", 1) is None
    assert not pulse.has_folder


def test_tables_by_name_have_no_beats_as_files():
    """Then beats are events."""
    pulse = Pulse(Settings(tables={"schema": "catalog.schema"}))
    assert pulse.beat("bf-1", 1) is None
    assert pulse.is_cancel_asked("bf-1") is None
