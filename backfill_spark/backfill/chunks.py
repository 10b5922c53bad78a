"""Chunks: how the due pairs of a job are cut into units that are scored and staged. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

from backfill_spark.models import Chunk, TimeWindow

TARGET_PAIRS = 1_500_000
"""Pairs of a chunk of cheap scorers, some 10 seconds of them on two cores. Of fewer pairs a chunk has few files, which
are spread unevenly over tasks, and its fixed cost shows: one CPU second."""
PILOT_PAIRS = 200
"""Pairs of the first chunk, which measures the pace: what a crash can lose before anything is known."""
PILOT_TASK_PAIRS = 20
"""Pairs of a task while the pace is not known."""
TARGET_SECONDS = 30.0
"""Length of a chunk: what a crash, a cancel or a lost lease can lose."""
LEAST_SECONDS = 5.0
"""Length of a chunk of slow calls in a small job; a chunk costs half a second besides."""
CHUNKS = 25
"""So many chunks has a job of slow calls at least, where they are not too short: a kill loses 4 % of its calls."""
TASK_SECONDS = 10.0
"""Length of a task: what a lost executor repeats."""
SLOW_PAIR_SECONDS = 0.002
"""From this pace on the traces of a chunk are spread evenly over tasks; the shuffle is then nothing."""
ROUNDS = 2
"""How often a task can fill all its places for async calls; with one it would mostly wait for its slowest call."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Cutter:
    """Cuts the pairs of a window, counted by hour, into chunks of a size that may change on the way."""

    def __init__(self, pairs_by_hour: Mapping[int, int], window: TimeWindow, *, draw_to: float = 1.0) -> None:
        self._hours = sorted((h, n) for h, n in pairs_by_hour.items() if n > 0)
        self._window = window
        self._draw_to = draw_to
        """No due pair has a draw at or above this: the highest rate of the job."""
        self._at = 0
        self._draw_at = 0.0
        """Where the draws of the first hour begin that are left."""
        self._index = 0

    @property
    def pairs(self) -> int:
        """Pairs that are left to cut."""
        return sum(n for _, n in self._hours[self._at :])

    def next(self, target: int) -> Chunk | None:
        """Return the next chunk of about `target` pairs; None when nothing is left."""
        if self._at >= len(self._hours):
            return None
        hour, pairs = self._hours[self._at]
        if pairs > 2 * target:
            return self._slice(hour, pairs, target)
        first, total = self._at, 0
        while self._at < len(self._hours) and (total == 0 or total + self._hours[self._at][1] <= target):
            total += self._hours[self._at][1]
            self._at += 1
        draw, self._draw_at = (self._draw_at, 1.0), 0.0
        return self._chunk(first, self._at, total, draw)

    def _slice(self, hour: int, pairs: int, target: int) -> Chunk:
        """Take `target` of the first hour's pairs: a part of the draws that are left."""
        start = self._draw_at
        self._draw_at = start + (self._draw_to - start) * target / pairs
        self._hours[self._at] = (hour, pairs - target)
        return self._chunk(self._at, self._at + 1, target, (start, self._draw_at))

    def _chunk(self, first: int, last: int, pairs: int, draw: tuple[float, float]) -> Chunk:
        hours = [h for h, _ in self._hours[first:last]]
        start, end = _hour_start(hours[0]), _hour_start(hours[-1] + 1)
        bounds = self._window
        if bounds.start is not None and (start is None or start < bounds.start):
            start = bounds.start
        if bounds.end is not None and (end is None or end > bounds.end):
            end = bounds.end
        dates = sorted({date(1970, 1, 1) + timedelta(days=h // 24) for h in hours})
        self._index += 1
        window = TimeWindow(start, end)
        whole_from = _hour_start(hours[0] + 1) if draw[0] and len(hours) > 1 else None
        return Chunk(self._index - 1, window, draw[0], draw[1], pairs, tuple(dates), whole_from)


def _hour_start(hour: int) -> datetime | None:
    """Start of an hour since the epoch; None past the ends of Python's calendar."""
    try:
        return _EPOCH + timedelta(hours=hour)
    except OverflowError:
        return None


def full_task(scorers: int, waiting: int, in_flight: int) -> int:
    """Return the pairs of a task that keeps `in_flight` calls under way, where `waiting` of the scorers are async."""
    return -(-ROUNDS * in_flight * scorers // waiting) if waiting else 0


def next_target(seconds_per_pair: float, slots: int, pairs: int) -> int:
    """Return the size of a chunk of about TARGET_SECONDS, from the time that a task spends on a pair.

    Args:
        seconds_per_pair: that a task spends on one.
        slots: Tasks that run at once.
        pairs: of all chunks; calls of a quick scorer are not worth more chunks than time asks for.
    """
    seconds = TARGET_SECONDS
    if seconds_per_pair >= SLOW_PAIR_SECONDS:
        seconds = min(seconds, max(LEAST_SECONDS, pairs * seconds_per_pair / slots / CHUNKS))
    by_pace = seconds * slots / max(seconds_per_pair, 1e-9)
    return int(max(PILOT_PAIRS, min(by_pace, TARGET_PAIRS)))


def first_target(pairs: int) -> int:
    """Return the size of the first chunk: everything when it is little, else a pilot."""
    return pairs if pairs <= 2 * PILOT_PAIRS else PILOT_PAIRS


def tasks_for(pairs: int, seconds_per_pair: float | None, slots: int, *, full: int = 0) -> int | None:
    """Return the number of tasks to spread a chunk over; None leaves it as the files lie.

    Args:
        seconds_per_pair: that a task spends on one; None while it is not known.
        slots: Tasks that run at once.
        full: What `full_task` gives; 0 where no scorer is async.
    """
    if full:
        by_pace = int(pairs * (seconds_per_pair or 0.0) / TASK_SECONDS)
        return max(1, min(slots, pairs), min(by_pace, pairs // full))
    if seconds_per_pair is None:
        return max(1, min(slots, pairs), -(-pairs // PILOT_TASK_PAIRS))
    if seconds_per_pair < SLOW_PAIR_SECONDS:
        return None
    return max(slots, -(-int(pairs * seconds_per_pair) // int(TASK_SECONDS)))
