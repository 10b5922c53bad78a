"""Relative times: what each means in a zone, and that nothing else passes for one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from backfill_spark.backfill.problems import Problems
from backfill_spark.backfill.relative_times import WindowName, last_complete, moment_of
from backfill_spark.backfill.validate import refuse_values
from backfill_spark.backfill.values import window
from backfill_spark.errors import BackfillRefusedError
from backfill_spark.models import Arguments
from backfill_spark.settings.schema import Settings

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2024, 3, 31, 22, 30, tzinfo=UTC)
"""00:30 of April 1 in Berlin, on the day after the clocks went forward."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("-1d", NOW - timedelta(days=1)),
        (" -90m ", NOW - timedelta(minutes=90)),
        ("today", datetime(2024, 4, 1, tzinfo=BERLIN)),
        ("Yesterday", datetime(2024, 3, 31, tzinfo=BERLIN)),
        ("2024-03-01", datetime(2024, 3, 1, tzinfo=BERLIN)),
        (None, None),
    ],
)
def test_a_relative_time_is_told_from_now(text: str | None, expected: datetime | None) -> None:
    """Days begin at midnight of the zone; a minus and a duration count from the moment itself."""
    found = moment_of(text, BERLIN, NOW)
    assert found == expected
    assert found is None or found.tzinfo is UTC


@pytest.mark.parametrize("text", ["yesterdy", "1d", "+1d", "-1", "-d", "--1d", "-1d2h", "last week", "-inf d", ""])
def test_what_means_nothing_is_refused_with_examples(text: str) -> None:
    """Before Spark starts."""
    with pytest.raises(BackfillRefusedError, match="relative to now: yesterday, today") as refused:
        refuse_values(Arguments(scorers=["a"], start_time=text), Settings())
    assert repr(text) in str(refused.value)


def test_a_time_before_all_years_is_refused() -> None:
    """It is a time that does not exist."""
    with pytest.raises(BackfillRefusedError, match="no date or time"):
        refuse_values(Arguments(scorers=["a"], start_time="-99999999d"), Settings())


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("hour", datetime(2024, 3, 31, 23, tzinfo=BERLIN), datetime(2024, 4, 1, tzinfo=BERLIN)),
        ("day", datetime(2024, 3, 31, tzinfo=BERLIN), datetime(2024, 4, 1, tzinfo=BERLIN)),
        ("week", datetime(2024, 3, 25, tzinfo=BERLIN), datetime(2024, 4, 1, tzinfo=BERLIN)),
        ("month", datetime(2024, 3, 1, tzinfo=BERLIN), datetime(2024, 4, 1, tzinfo=BERLIN)),
    ],
)
def test_a_window_name_is_the_last_complete_one(name: str, start: datetime, end: datetime) -> None:
    """By the calendar of the zone: this day had 23 hours."""
    assert last_complete(WindowName(name), BERLIN, NOW) == (start, end)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"window": "fortnight"}, r"window must be one of \['hour', 'day', 'week', 'month'\], got 'fortnight'"),
        ({"window": "day", "start_time": "-1d"}, "Give it alone"),
        ({"start_time": "today", "end_time": "yesterday"}, "is not before end_time"),
    ],
)
def test_windows_that_contradict_themselves_are_refused(given: dict[str, Any], said: str) -> None:
    """Each with what to write instead."""
    with pytest.raises(BackfillRefusedError, match=said):
        refuse_values(Arguments(scorers=["a"], **given), Settings())


def test_a_window_as_it_was_meant_has_no_note() -> None:
    """`today` is an end that leaves today out on purpose; of a date that is said."""
    problems, settings = Problems(), Settings(timezone="UTC")
    said = [
        window(Arguments(scorers=["a"], end_time=end), settings, problems, NOW)[1] for end in ("today", "2024-03-31")
    ]
    assert said == [[], ["March 31 not included: the window ends at its midnight."]]
