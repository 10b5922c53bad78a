"""What arguments of a backfill may be: numpy's numbers, pandas' times, things that can be read once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from backfill_spark.backfill.named_scorers import all_started
from backfill_spark.backfill.problems import Problems
from backfill_spark.backfill.validate import limits_of
from backfill_spark.models import Arguments, Counts, ScorerKind, ScorerSpec, parse_moment
from backfill_spark.scorers.registered import Catalog, Config, RegisteredScorer

JUDGE = ScorerSpec("judge", 1, "d", ScorerKind.JUDGE, {}, None, ("outputs",), 1.0)


def limited(**given: Any) -> Any:
    problems = Problems()
    return limits_of(given, [JUDGE], problems), problems.all


def test_numpys_numbers_are_numbers() -> None:
    """They become Python's, which JSON knows."""
    assert limited(max_calls=np.int64(5), max_cost_usd=np.float32(0.5)) == ({"max_calls": 5, "max_cost_usd": 0.5}, [])


@pytest.mark.parametrize("value", [-1, True, "10", 0.5, float("nan")])
def test_a_limit_of_calls_is_a_whole_number(value: Any) -> None:
    """Anything else is a problem, told with its value."""
    assert repr(value) in limited(max_calls=value)[1][0]


@pytest.mark.parametrize("value", [10**400, float("inf"), float("nan"), -0.1, "1"])
def test_a_limit_of_cost_is_a_finite_number(value: Any) -> None:
    """A number that no double holds is a problem, not a traceback."""
    assert limited(max_cost_usd=value)[1]


def test_trace_ids_may_be_read_once_only() -> None:
    """A generator is read before it is looked at twice."""
    arguments = Arguments(["a"], trace_ids=(f"tr-{i}" for i in range(3)))
    assert [list(arguments.trace_ids) for _ in range(2)] == [["tr-0", "tr-1", "tr-2"]] * 2


def test_a_pandas_time_is_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subclass of datetime, with or without a zone; NaT is none."""
    assert parse_moment(pd.Timestamp("2024-06-01T12:00:00"), UTC) == datetime(2024, 6, 1, 12, tzinfo=UTC)
    assert parse_moment(pd.Timestamp("2024-06-01", tz="UTC"), None) == datetime(2024, 6, 1, tzinfo=UTC)
    with pytest.raises((ValueError, TypeError)):
        parse_moment(cast("Any", pd.NaT), UTC)


@pytest.mark.parametrize("month", [1, 3, 7, 10])
def test_a_naive_time_is_what_its_timestamp_says(month: int) -> None:
    """To the microsecond, and for a date its midnight."""
    naive = datetime(2024, month, 31, 2, 30, 0, 123457)
    assert cast("datetime", parse_moment(naive, None)).timestamp() == naive.timestamp()
    assert (
        cast("datetime", parse_moment(date(2024, month, 1), None)).timestamp() == datetime(2024, month, 1).timestamp()
    )


def test_counts_answer_like_a_dict() -> None:
    """By name, with a default, and to `in`."""
    counts = Counts(due=3)
    assert (counts["due"], counts.get("due"), counts.get("none", 7), "due" in counts) == (3, 3, 7, True)
    assert counts == {**counts}
    assert dict(counts)["skipped_reasons"] == {}


def catalog(**scorers: tuple[float, str]) -> Catalog:
    """Return a catalog: name → registered rate and level."""
    rows = {
        (name, 1): RegisteredScorer(replace(JUDGE, name=name, level=level, sample_rate=rate))
        for name, (rate, level) in scorers.items()
    }
    return Catalog("7", rows, {name: Config(sample_rate=rate) for name, (rate, _) in scorers.items()})


def test_all_started_takes_every_scorer_with_a_rate() -> None:
    """Stopped ones are not in it; those of sessions are left out, and that is said."""
    problems = Problems()
    known = catalog(b=(0.5, "trace"), a=(1.0, "trace"), stopped=(0.0, "trace"), talks=(1.0, "session"))
    names, notes = all_started(known, "7", problems)
    assert (names, problems.all) == (["a", "b"], [])
    assert "['talks']" in notes[0]


@pytest.mark.parametrize(
    ("known", "said"), [(catalog(), "has no scorer"), (catalog(a=(0.0, "trace")), "has ['a']; start")]
)
def test_all_started_is_refused_where_nothing_is_started(known: Catalog, said: str) -> None:
    """With the scorers that could be."""
    problems = Problems()
    all_started(known, "7", problems)
    assert "No scorer of experiment '7' is started" in problems.all[0]
    assert said in problems.all[0]
