"""Turns: of live jobs with the same pairs one scores a part at a time; the others wait, and take over what it staged.

A job says what it has under way, then looks at what others say, and goes on when nobody else has pairs of it. So of
two jobs the later one to say it sees the other. Where both see each other, the one with the lower id stays, and the
other takes back what it said. A new claim says all pairs of its job. No clocks are compared, but for the lease: a
runner that is dead by its lease has nothing under way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backfill_spark.display.render import duration
from backfill_spark.errors import BackfillError, interrupt_behind
from backfill_spark.jobs.events import Event, JobRecord
from backfill_spark.models import Reprocess, ScorerKind, TimeWindow
from backfill_spark.storage.retry import error_text

if TYPE_CHECKING:
    from backfill_spark.backfill.attempt import Attempt

logger = logging.getLogger(__name__)

POLL_S = 1.0
"""A job that waits looks this often."""


def take_turn(attempt: Attempt, part: Mapping[str, Any]) -> bool:
    """Say that `part` is scored next, and wait while another live job has pairs of it under way.

    Args:
        part: what is under way, as `chunk_planned` holds it: window, draw, and `judges` where they are asked.

    Returns:
        True when it had to wait: others have scored pairs since, and what is left must be looked at again.

    Raises:
        Canceled, LeaseLostError: while it waited.
    """
    try:
        return _wait_for_turn(attempt, part)
    except BackfillError:
        raise
    except Exception as error:
        if interrupt_behind(error) is not None:
            raise
        # At worst pairs are called twice; their results are single all the same.
        logger.warning("job %s: could not look what other jobs have under way: %s", attempt.job_id, error_text(error))
        return False


def _wait_for_turn(attempt: Attempt, part: Mapping[str, Any]) -> bool:
    lease, progress = attempt.lease, attempt.progress
    lease.record(Event.CHUNK_PLANNED, part)
    if progress.says_part or not lease.is_fresh:  # else the claim says all pairs of the job
        lease.flush()
    if attempt.request.reprocess is Reprocess.ALL:
        return False  # what others stage is scored again
    is_said, began, told = True, time.monotonic(), set[str]()
    while others := in_the_way(attempt, part):
        if is_said and min(o.job_id for o in others) < attempt.job_id:
            lease.record(Event.WAITING, {"for": [o.job_id for o in others]})
            lease.flush()
            is_said, progress.says_part = False, True
        for other in others:
            if other.job_id not in told:
                told.add(other.job_id)
                attempt.bar.tell(
                    f"waits for job {other.job_id}, which has the same pairs under way; takes over what that stages, "
                    f"or goes on when its runner is dead, {other.lease_s:.0f} s after its last heartbeat"
                )
        attempt.check()
        time.sleep(POLL_S)
    if told:
        attempt.bar.tell(f"waited {duration(time.monotonic() - began)} for {', '.join(sorted(told))}")
    progress.says_part = True
    return bool(told)


def in_the_way(attempt: Attempt, part: Mapping[str, Any]) -> list[JobRecord]:
    """Return the other live jobs that have pairs of `part` under way."""
    jobs, mine = attempt.tables.jobs, attempt.lease.claimed
    now = jobs.clock()
    return [
        other
        for other in jobs.others(attempt.request.experiment_id, attempt.job_id)
        if other.under_way is not None and other.is_alive(now) and _meet((mine, part), (other, other.under_way))
    ]


def _meet(one: tuple[JobRecord, Mapping[str, Any]], other: tuple[JobRecord, Mapping[str, Any]]) -> bool:
    """True when parts of two jobs can have pairs in common."""
    if not _scorers(*one) & _scorers(*other) or not _window(*one).meets(_window(*other)):
        return False
    (mine, part), (theirs, their_part) = one, other
    if mine.created["request"]["seed"] != theirs.created["request"]["seed"]:
        return True  # their draws say nothing of ours
    (start, end), (their_start, their_end) = (p.get("draw", (0.0, 1.0)) for p in (part, their_part))
    return bool(start < their_end and their_start < end)


def _scorers(job: JobRecord, part: Mapping[str, Any]) -> set[tuple[str, int]]:
    scorers = job.created["request"]["scorers"]
    are_judges = part.get("judges", False)
    wanted = [s for s in scorers if not part or (s["kind"] == ScorerKind.JUDGE) == are_judges]
    return {(s["name"], s["version"]) for s in wanted}


def _window(job: JobRecord, part: Mapping[str, Any]) -> TimeWindow:
    return TimeWindow.from_json(part.get("window", job.created["request"]["window"]))
