"""Named places where a test can kill, stop or fail this process; inert unless asked for.

`BACKFILL_SPARK_FAILPOINT=name:action[:nth]`, several parted by commas, is read once. The action happens when this
process comes to the place for the nth time (default 1). Actions, on this process and not on its group: `kill9`
(SIGKILL), `stop` (SIGSTOP), `raise` (FailpointError, which `except Exception` lets through: a crash that leaves the
process), `sleep` (an hour, or until `wake` is set in this process).
"""

import os
import signal
import sys
import threading
from collections import Counter
from enum import StrEnum

ACTIONS = ("kill9", "stop", "raise", "sleep")
reached: Counter[str] = Counter()  # how often this process came to each place while anything was armed
wake = threading.Event()
_armed: dict[tuple[str, int], str] | None = None

# The places, in the order in which a job comes to them. Scoring ends at after_files.
# after_decide: a dead runner's epoch is ended and the next one is not claimed.
Failpoint = StrEnum(
    "Failpoint",
    "AFTER_CREATE BEFORE_CLAIM AFTER_DECIDE AFTER_CLAIM AFTER_WALL BEFORE_PROMPTS BEFORE_STAGE AFTER_FILES AFTER_STAGE "
    "BEFORE_MERGE AFTER_MERGE BEFORE_HEARTBEAT BEFORE_END AFTER_END AFTER_CLEANUP",
)


class FailpointError(BaseException):
    """Raised by the action `raise`."""


def arm(text: str) -> None:
    """Replace what is armed; "" disarms. Raises ValueError for a place, action or number that does not exist."""
    global _armed
    wanted = {}
    for item in filter(None, map(str.strip, text.split(","))):
        name, action, nth = (*item.split(":"), "1", "", "")[:3]
        is_number = nth.isdecimal() and int(nth) > 0 and item.count(":") < 3
        if name not in list(Failpoint) or action not in ACTIONS or not is_number:
            known = f"name:action[:nth], a name of {list(map(str, Failpoint))}, an action of {ACTIONS}"
            raise ValueError(f"BACKFILL_SPARK_FAILPOINT: {item!r} is no failpoint. Write {known}.")
        wanted[name, int(nth)] = action
    reached.clear()
    wake.clear()
    _armed = wanted


def failpoint(name: str) -> None:
    """Do what is armed for `name`, if anything."""
    if _armed is None:
        arm(os.environ.get("BACKFILL_SPARK_FAILPOINT", ""))
    if not _armed:
        return
    reached[name] += 1
    action = _armed.get((name, reached[name]))
    if action is not None:
        sys.stderr.write(f"failpoint {name}: {action} ({os.getpid()})\n")
        sys.stderr.flush()
    if action == "raise":
        raise FailpointError(f"failpoint {name}")
    if action == "sleep":
        wake.wait(3600)
    elif action is not None:
        os.kill(os.getpid(), signal.SIGKILL if action == "kill9" else signal.SIGSTOP)
