"""How numbers, means, instants, windows and states are written."""

from __future__ import annotations

import math
import numbers
from datetime import UTC, datetime
from typing import Any

from backfill_spark.models import JobState, TimeWindow


def state_text(job: Any) -> str:
    """Return the state, and that its runner is dead where that is so."""
    is_running = job.state in (JobState.RUNNING, JobState.CANCELING)
    return f"{job.state} (runner dead)" if is_running and not job.alive else str(job.state)


def window_text(window: TimeWindow) -> str:
    """Return the half-open window, named as UTC."""
    return str(window) if window.start is None and window.end is None else f"{window} UTC"


def mean_text(mean: Any, low: Any, high: Any, *, is_full: bool = False) -> str:
    """Return `0.389 [0.370, 0.408]`, or `0.389 (all)` when everything was measured; "-" for nothing.

    The interval decides how many decimals make sense: two digits of its half-width.
    """
    if not is_shown(mean):
        return "-"
    if is_full or not (is_shown(low) and is_shown(high)):
        return number_text(mean) + (" (all)" if is_full else " [not known]")
    half = (float(high) - float(low)) / 2
    if not (math.isfinite(half) and half > 0):
        return f"{number_text(mean)} [{number_text(low)}, {number_text(high)}]"
    decimals = min(max(1 - math.floor(math.log10(half)), 0), 9)
    return f"{float(mean):,.{decimals}f} [{float(low):,.{decimals}f}, {float(high):,.{decimals}f}]"


def number_text(value: Any) -> str:
    """Return a number with four digits, whole numbers in full; "-" for none."""
    if not is_shown(value):
        return "-"
    number = float(value)
    if number.is_integer() and abs(number) < 1e15:
        return f"{int(number):,}"
    return f"{number:,.0f}" if 1e4 <= abs(number) < 1e15 else f"{number:.4g}"


def is_shown(value: Any) -> bool:
    """False for None and NaN."""
    return value is not None and not (isinstance(value, numbers.Real) and math.isnan(value))


def cell(value: Any) -> str:
    """Return a value of a frame; "-" for none."""
    if isinstance(value, numbers.Real) or not is_shown(value):
        return number_text(value)
    return str(value)


def many(count: int, noun: str) -> str:
    """Return `1 job`, `2 jobs`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def percent(share: float) -> str:
    """Return whole percents, never rounded up."""
    # Rounded up, 99.6 % would read as finished.
    return f"{math.floor(share * 100)}%"


def moment_text(moment: datetime | None) -> str:
    """Return an instant in UTC, naive ones taken as UTC; "" for none."""
    if moment is None:
        return ""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return f"{aware.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
