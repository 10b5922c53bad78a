"""Times that are told from the moment of the call: `yesterday`, `-1d`, the last complete day."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Any

from backfill_spark.models import parse_moment
from backfill_spark.settings.sections import parse_duration

EXAMPLES = "yesterday, today (both their midnight), now, -1d, -12h, -30m"


class WindowName(StrEnum):
    """A window without dates: the last complete one before the call."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


def moment_of(value: Any, zone: tzinfo | None, now: datetime) -> datetime | None:
    """Turn a bound of a window into an instant in UTC; see `parse_moment` for what is no relative time.

    Args:
        value: `yesterday`, `today`, `now`, or a minus and a duration (`-1d`): so long before `now`.
        zone: where days begin; None is the machine's local time.
        now: the moment of the call, with a zone.

    Raises:
        ValueError: the text is no time.
        OverflowError: it is before the first year.
    """
    text = value.strip().lower() if isinstance(value, str) else ""
    if text == "now":
        return parse_moment(now, zone)
    if text in ("today", "yesterday"):
        return parse_moment(_today(zone, now) - timedelta(days=text == "yesterday"), zone)
    if text.startswith("-"):
        return parse_moment(now - parse_duration(text[1:]), zone)
    return parse_moment(value, zone)


def last_complete(name: WindowName, zone: tzinfo | None, now: datetime) -> tuple[datetime | None, datetime | None]:
    """Return start and end, in UTC, of the last hour, day, week (from Monday) or month that is over."""
    today = _today(zone, now)
    if name is WindowName.HOUR:
        end = now.astimezone(zone).replace(minute=0, second=0, microsecond=0)
        return parse_moment(end - timedelta(hours=1), zone), parse_moment(end, zone)
    starts: dict[WindowName, Callable[[date], date]] = {
        WindowName.DAY: lambda day: day,
        WindowName.WEEK: lambda day: day - timedelta(days=day.weekday()),
        WindowName.MONTH: lambda day: day.replace(day=1),
    }
    last = starts[name](today)
    first = starts[name](last - timedelta(days=1))
    return parse_moment(first, zone), parse_moment(last, zone)


def is_relative(value: Any) -> bool:
    """True for a text that `moment_of` reads from the moment of the call."""
    return isinstance(value, str) and value.strip().lower().startswith(("now", "today", "yesterday", "-"))


def _today(zone: tzinfo | None, now: datetime) -> date:
    return now.astimezone(zone).date()
