"""Failpoints: inert unless armed, and exactly once where they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from backfill_spark.jobs import failpoints
from backfill_spark.jobs.failpoints import Failpoint, FailpointError, arm, failpoint


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[Any]:
    arm("")
    yield
    arm("")


def run_with(armed: str, code: str) -> subprocess.Popen[str]:
    """Start Python with a failpoint in its environment."""
    return subprocess.Popen(
        [sys.executable, "-c", f"from backfill_spark.jobs.failpoints import *\n{code}"],
        env={**os.environ, "BACKFILL_SPARK_FAILPOINT": armed},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_place_that_is_not_armed_does_nothing() -> None:
    """Without the variable no place has an effect, and none is counted."""
    for place in Failpoint:
        failpoint(place)
    assert not failpoints.reached


def test_the_value_of_a_place_is_its_name_in_lower_case() -> None:
    """`Failpoint.AFTER_STAGE` is `after_stage` in the variable."""
    assert [p.name.lower() for p in Failpoint] == [str(p) for p in Failpoint]


def test_raise_happens_at_the_nth_time_only() -> None:
    """The first, third and later visits pass."""
    arm("before_merge:raise:2")
    failpoint(Failpoint.BEFORE_MERGE)
    failpoint(Failpoint.AFTER_MERGE)
    with pytest.raises(FailpointError, match="before_merge"):
        failpoint(Failpoint.BEFORE_MERGE)
    failpoint(Failpoint.BEFORE_MERGE)
    assert dict(failpoints.reached) == {"before_merge": 3, "after_merge": 1}


def test_several_places_and_several_times_can_be_armed() -> None:
    """Commas part them; spaces do not matter."""
    arm("after_claim:raise:1, after_claim:raise:3,after_end:raise")
    outcomes = []
    for place in (Failpoint.AFTER_CLAIM, Failpoint.AFTER_CLAIM, Failpoint.AFTER_CLAIM, Failpoint.AFTER_END):
        try:
            failpoint(place)
            outcomes.append("passed")
        except FailpointError:
            outcomes.append("raised")
    assert outcomes == ["raised", "passed", "raised", "raised"]


@pytest.mark.parametrize(
    "text",
    [
        "after_stage",
        "after_stage:",
        "nowhere:kill9",
        "after_stage:explode",
        "after_stage:stop:0",
        "after_stage:stop:x",
        "after_stage:stop:1:2",
        ":::",
        "after_stage:kill9 after_end:stop",
    ],
)
def test_a_text_that_names_no_failpoint_is_refused_with_the_known_ones(text: str) -> None:
    """The message says what stood there and what may stand there; what was armed stays."""
    arm("after_claim:raise")
    with pytest.raises(ValueError, match=r"no failpoint\. Write name:action\[:nth\].*after_stage.*kill9"):
        arm(text)
    with pytest.raises(FailpointError):
        failpoint(Failpoint.AFTER_CLAIM)


def test_kill9_ends_this_process_at_once() -> None:
    """No handler, no exit code of Python's own."""
    code = "failpoint('after_claim'); print('on', flush=True); failpoint('after_stage')"
    process = run_with("after_stage:kill9", code)
    said, errors = process.communicate(timeout=30)
    assert (process.returncode, said) == (-signal.SIGKILL, "on\n")
    assert f"failpoint after_stage: kill9 ({process.pid})\n" == errors


def test_stop_stops_this_process_until_it_is_continued() -> None:
    """SIGCONT lets it go on behind the place."""
    process = run_with("before_end:stop", "failpoint('before_end'); print('woken')")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=30)[0] == "woken\n"


def test_sleep_ends_when_it_is_woken() -> None:
    """A test in the same process need not wait for an hour."""
    arm("after_merge:sleep")
    failpoints.wake.set()
    failpoint(Failpoint.AFTER_MERGE)
    assert failpoints.reached["after_merge"] == 1


def test_a_wrong_variable_is_told_at_the_first_place() -> None:
    """Importing reads nothing; the first place does."""
    process = run_with("here:kill9", "print('imported', flush=True); failpoint('after_stage')")
    said, errors = process.communicate(timeout=30)
    assert (process.returncode, said) == (1, "imported\n")
    assert "BACKFILL_SPARK_FAILPOINT: 'here:kill9' is no failpoint" in errors
