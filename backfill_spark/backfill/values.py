"""Single arguments checked: what is wrong is noted, and something harmless takes its place."""

from __future__ import annotations

import math
import numbers
import os
from calendar import monthrange
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

from backfill_spark.backfill.relative_times import EXAMPLES, WindowName, is_relative, last_complete, moment_of
from backfill_spark.errors import BackfillRefusedError, FilterError
from backfill_spark.models import TimeWindow
from backfill_spark.settings.sections import parse_duration
from backfill_spark.traces.filters import compile_filter

if TYPE_CHECKING:
    from backfill_spark.backfill.problems import Problems
    from backfill_spark.models import Arguments
    from backfill_spark.settings.schema import Settings


def traces_place(value: Any) -> str | os.PathLike[str]:
    """Return the argument `traces`, where it is a path or a name.

    Raises:
        BackfillRefusedError: it is something else, such as a DataFrame.
    """
    if isinstance(value, str | os.PathLike):
        return value
    raise BackfillRefusedError(
        f"traces must be a path or the name of a table, got a {type(value).__name__}. A DataFrame cannot be pinned, so "
        "that a job could not be resumed: write it first (frame.write.format('delta').save(path)), and name the path."
    )


def limit(what: str, value: Any, problems: Problems, *, whole: bool) -> Any:
    """Return a limit of judges' requests or cost; numpy's numbers become Python's."""
    if value is None:
        return None
    found = number(value, whole=whole)
    if found is None or not 0 <= found < math.inf:
        kind = "a whole number" if whole else "a number"
        problems.note(f"{what} must be {kind}, 0 or more, got {value!r}.")
        return None
    return found


def rate(what: str, value: Any, problems: Problems) -> float:
    found = number(value)
    if found is None or not 0 <= found <= 1:
        problems.note(f"{what} must be a number in [0, 1], got {value!r}. 0.25 means a quarter.")
        return 1.0
    return float(found)


def seed(value: Any, problems: Problems) -> int:
    found = number(value, whole=True)
    if found is None or not -(2**63) <= found < 2**63:
        problems.note(f"seed must be a whole number of 64 bits, got {value!r}.")
        return 0
    return int(found)


def number(value: Any, *, whole: bool = False) -> int | float | None:
    """Python's own number for a number of any kind; None for anything else."""
    kind: Any = numbers.Integral if whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        return None
    try:
        return int(value) if whole else float(value)
    except OverflowError:
        return None


def one_of(kind: Any, what: str, value: Any, problems: Problems) -> Any:
    """Return the member of the closed set `kind` that `value` names."""
    values = [str(k) for k in kind]
    if isinstance(value, str) and value in values:
        return kind(value)
    problems.note(f"{what} must be one of {values}, got {value!r}.")
    return next(iter(kind))


def filter_text(value: Any, dialect: str, problems: Problems) -> str | None:
    """Return the filter, None where there is none; one that does not parse is noted."""
    if value is not None and not isinstance(value, str):
        problems.note(f"filter_string must be text, got {type(value).__name__}.")
        return None
    try:
        compile_filter(value, dialect)
    except FilterError as error:
        problems.note(str(error))
    return value or None


def notes_of(text: str | None, dialect: str) -> tuple[str, ...]:
    """Return the notes about a filter that parses."""
    try:
        return compile_filter(text, dialect).notes
    except FilterError:  # a problem, and told as one
        return ()


def listed_ids(value: Any, problems: Problems) -> list[str] | None:
    """Return the listed trace ids, None where none are."""
    if value is None:
        return None
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        problems.note(f"trace_ids must be a list of trace ids, got {type(value).__name__}.")
        return None
    ids = list(value)
    if not ids:
        problems.note("trace_ids is empty. Leave it out to choose traces by window and rate.")
    if wrong := [i for i in ids if not isinstance(i, str)]:
        problems.note(f"trace_ids must be texts, got {wrong[:3]!r}.")
    return [i for i in ids if isinstance(i, str)]


def window(arguments: Arguments, settings: Settings, problems: Problems, now: datetime) -> tuple[TimeWindow, list[str]]:
    """Return the window and what to say of it."""
    start_time, end_time = arguments.start_time, arguments.end_time
    if arguments.window is not None:
        if start_time is not None or end_time is not None:
            problems.note("window stands for start_time and end_time. Give it alone, or leave it out.")
        name = one_of(WindowName, "window", arguments.window, problems)
        return TimeWindow(*last_complete(name, settings.zone, now)), []
    bounds: list[datetime | None] = []
    notes = []
    for what, value in (("start_time", start_time), ("end_time", end_time)):
        try:
            bounds.append(moment_of(value, settings.zone, now))
        except (ValueError, TypeError, OverflowError, OSError):
            problems.note(
                f"{what} {value!r} is no date or time. Give a datetime, a date, ISO text such as 2024-06-01 or "
                f"2024-06-01T12:00:00+00:00, or a time relative to now: {EXAMPLES}."
            )
            bounds.append(None)
    start, end = bounds
    if start is not None and end is not None and start >= end:
        problems.note(
            f"start_time {start:%Y-%m-%d %H:%M:%S%z} is not before end_time {end:%Y-%m-%d %H:%M:%S%z} "
            "(the end is not included). Exchange them, or move the end."
        )
    if end is not None and not is_relative(end_time) and _is_date(end_time):
        day = _day(end_time)
        if day.day == monthrange(day.year, day.month)[1]:  # of a month that was meant to its end, most likely
            notes.append(f"{day:%B} {day.day} not included: the window ends at its midnight.")
    if start is None and end is None and settings.default_lookback is not None:
        try:
            start = now.astimezone(UTC) - parse_duration(settings.default_lookback)
        except OverflowError:  # longer ago than there are dates
            start = datetime.min.replace(tzinfo=UTC)
        notes.append(
            f"No bound was given: the setting default_lookback narrows the window to {settings.default_lookback}."
        )
    return TimeWindow(start, end), notes


def _is_date(value: Any) -> bool:
    try:
        moment = _day(value)
    except ValueError:
        return False
    return not isinstance(moment, datetime) or moment.time() == time()


def _day(value: Any) -> date:
    return datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
