"""When a write is tried again, how often, and after which pause."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
_random = secrets.SystemRandom()  # two processes with one seed would go on meeting


FULL_DISK = "No space left on device"
_IN_A_TASK = re.compile(r"^(?:PySpark\w+: )?(\w+(?:Error|Exception))(: \[Errno \d+\] [^\n]*)?", re.MULTILINE)
"""Lines of a Python worker's traceback that name what was raised. Other texts than the system's may hold values."""


def error_text(error: BaseException) -> str:
    """Return an error's first line with its Delta condition; never row values. A full disk is told as one."""
    if FULL_DISK in str(error):  # mostly as a cause far down in Java's trace
        return f"The disk is full ({FULL_DISK}): the tables, or Spark's own files, could not be written. Make room"
    java = getattr(error, "java_exception", None)
    text = (str(java.getMessage()) if java is not None else str(error)).strip()
    if "Python worker" in text and (raised := _IN_A_TASK.findall(text)):
        kind, system = raised[-1]
        return f"A task failed with {kind}{system}"[:400]
    return text.split("\n", 1)[0][:400]


def is_conflict(error: BaseException) -> bool:
    """True when a concurrent commit made a write fail; the same write may be tried again."""
    text = _told(error)
    return (
        "DELTA_CONCURRENT" in text
        or "CommitFailedError" in text
        or ("Concurrent" in text and "Exception" in text)
        or is_altered(error)
    )


def is_altered(error: BaseException) -> bool:
    """True when a write failed because the table's columns or properties were changed meanwhile."""
    text = _told(error)
    names = ("DELTA_METADATA_CHANGED", "MetadataChangedException", "DELTA_PROTOCOL_CHANGED", "ProtocolChangedException")
    return any(name in text for name in names)


def until_alone(
    step: Callable[[], T],
    *,
    attempts: int = 20,
    again: Callable[[BaseException], bool] = is_conflict,
    between: Callable[[int], None] | None = None,
) -> T:
    """Do `step` again when a concurrent writer was first; each pause is about twice the one before.

    Args:
        step: what to do; what it gives is returned.
        attempts: how often at most; the last error is raised.
        again: whether an error is a reason to try again.
        between: called after such an error, with how often `step` was tried.
    """
    for tried in range(1, attempts):
        try:
            return step()
        except Exception as error:
            if not again(error):
                raise
        if between is not None:
            between(tried)
        time.sleep(min(FIRST_PAUSE_S * 2**tried, LONGEST_PAUSE_S) * _random.uniform(0.5, 1.5))
    return step()


def _told(error: BaseException) -> str:
    condition = getattr(error, "getCondition", lambda: None)() or ""
    return f"{type(error).__name__} {condition} {str(error)[:2000]}"
