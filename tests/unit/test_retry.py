"""Which errors of a write are tried again, and how often."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from delta.exceptions import base

from backfill_spark.storage import retry

CONFLICTS = [cls for name, cls in vars(base).items() if name.endswith("Exception") and cls.__module__ == base.__name__]


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, in no time."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


def failing(*errors: Exception, then: str = "done") -> Callable[[], str]:
    """Return a step that raises these errors, one a call, and then gives `then`."""
    left = list(errors)

    def step() -> str:
        if left:
            raise left.pop(0)
        return then

    return step


def test_delta_has_conflicts() -> None:
    """The list of the tests below is not empty by accident."""
    assert len(CONFLICTS) >= 8


@pytest.mark.parametrize("cls", CONFLICTS, ids=lambda cls: cls.__name__)
def test_each_conflict_of_delta_is_tried_again(cls: type[Exception]) -> None:
    """Whatever a concurrent commit did."""
    assert retry.until_alone(failing(cls("said"), cls("said"))) == "done"


@pytest.mark.parametrize("text", ["[DELTA_METADATA_CHANGED] said", "[DELTA_CONCURRENT_APPEND] said"])
def test_a_conflict_behind_another_error_is_one(text: str) -> None:
    """An error of Java that nobody has translated."""
    assert retry.until_alone(failing(RuntimeError(text))) == "done"


def test_only_a_changed_table_is_altered() -> None:
    """Another runner's transaction is not: a write that it shut out is not tried again."""
    altered = {cls.__name__ for cls in CONFLICTS if retry.is_altered(cls("said"))}
    assert altered == {"MetadataChangedException", "ProtocolChangedException"}


def test_other_errors_are_not_tried_again(pauses: list[float]) -> None:
    """They come out at once."""
    with pytest.raises(OSError, match="away"):
        retry.until_alone(failing(OSError("away"), then="never"))
    assert pauses == []


def test_the_last_conflict_comes_out(pauses: list[float]) -> None:
    """After as many tries as were allowed, with growing pauses and a word before each."""
    told: list[int] = []
    step = failing(*[base.ConcurrentAppendException("said")] * 10)
    with pytest.raises(base.ConcurrentAppendException):
        retry.until_alone(step, attempts=9, between=told.append)
    assert told == list(range(1, 9))
    assert len(pauses) == 8
    assert pauses[0] <= 0.3
    assert 5 <= pauses[-1] <= 15


def test_an_error_of_a_task_is_told_by_its_kind_and_what_the_system_said() -> None:
    trace = (
        "An exception was thrown from the Python worker:\n"
        "Traceback (most recent call last):\n"
        '  File "write.py", line 1, in write\n'
    )
    full = retry.error_text(RuntimeError(trace + "OSError: [Errno 30] Read-only file system: '/tables/x'\n"))
    assert full == "A task failed with OSError: [Errno 30] Read-only file system: '/tables/x'"
    assert (
        retry.error_text(RuntimeError(trace + "ArrowInvalid\nValueError: my secret text"))
        == "A task failed with ValueError"
    )
