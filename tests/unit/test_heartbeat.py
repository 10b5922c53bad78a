"""Beats of runners as files: who is seen, and who is told that it was replaced."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from backfill_spark.jobs.heartbeat import Heartbeat
from backfill_spark.settings.schema import Settings


@pytest.fixture
def heartbeat(tmp_path: Path) -> Any:
    (tmp_path / "job_events" / "_delta_log").mkdir(parents=True)
    return Heartbeat(Settings(tables={"root": str(tmp_path)}))


def test_a_beat_is_seen_for_its_epoch_only(heartbeat: Any) -> None:
    """By the clock of the storage."""
    began = time.time()
    assert heartbeat.beat("bf-1", 2) == 2
    assert began - 1 < heartbeat.seen("bf-1", 2) < time.time() + 1
    assert heartbeat.seen("bf-1", 1) is None
    assert heartbeat.seen("bf-2", 2) is None


def test_a_runner_that_was_replaced_is_told_so(heartbeat: Any) -> None:
    """And does not write over the beat of its follower."""
    heartbeat.beat("bf-1", 2)
    assert heartbeat.beat("bf-1", 1) == 2
    assert heartbeat.seen("bf-1", 2) is not None


def test_a_beat_that_is_being_written_is_a_beat(heartbeat: Any, tmp_path: Path) -> None:
    """A reader between a runner's opening of the file and its writing must not take that runner for dead."""
    heartbeat.beat("bf-1", 1)
    (tmp_path / "pulse" / "bf-1.beat").write_text("")
    assert heartbeat.seen("bf-1", 1) is not None
    assert heartbeat.beat("bf-1", 1) == 1


def test_a_cancel_is_seen_until_the_job_is_cleared(heartbeat: Any) -> None:
    """So is its beat."""
    assert heartbeat.is_cancel_asked("bf-1") is False
    heartbeat.ask_cancel("bf-1")
    heartbeat.beat("bf-1", 1)
    assert heartbeat.is_cancel_asked("bf-1") is True
    heartbeat.clear("bf-1")
    assert (heartbeat.is_cancel_asked("bf-1"), heartbeat.seen("bf-1", 1)) == (False, None)


def test_a_folder_without_the_tables_is_another_place(tmp_path: Path) -> None:
    """Python and Spark may read one address differently; then beats are events."""
    heartbeat = Heartbeat(Settings(tables={"root": str(tmp_path)}))
    assert heartbeat.beat("bf-1", 1) is None
    assert not heartbeat.has_folder


def test_tables_by_name_have_no_beats_as_files() -> None:
    """Then beats are events."""
    heartbeat = Heartbeat(Settings(tables={"schema": "catalog.schema"}))
    assert heartbeat.beat("bf-1", 1) is None
    assert heartbeat.is_cancel_asked("bf-1") is None
