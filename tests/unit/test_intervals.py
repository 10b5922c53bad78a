from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.results.intervals import MeanInterval, mean_interval, t_975

# Two-sided 95 % points of Student's t as printed in tables (NIST/SEMATECH e-Handbook, 1.3.6.7.2).
T_TABLE = [
    (1, 12.706),
    (2, 4.303),
    (3, 3.182),
    (4, 2.776),
    (5, 2.571),
    (6, 2.447),
    (9, 2.262),
    (10, 2.228),
    (15, 2.131),
    (20, 2.086),
    (29, 2.045),
    (30, 2.042),
    (50, 2.009),
    (60, 2.000),
    (100, 1.984),
    (1_000, 1.962),
    (10**9, 1.960),
]


def mean_interval_of(values: Iterable[float], *, population: int | None = None) -> MeanInterval:
    """The 95 % interval of the mean of `values` (booleans count as 1 and 0)."""
    numbers = [float(value) for value in values]
    n = len(numbers)
    if n == 0:
        return mean_interval(0, mean=None, population=population)
    mean = math.fsum(numbers) / n
    sd = math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (n - 1)) if n > 1 else None
    binary = all(x in (0.0, 1.0) for x in numbers)
    return mean_interval(n, mean=mean, sd=sd, population=population, binary=binary)


@pytest.mark.parametrize(("df", "expected"), T_TABLE)
def test_t_is_what_the_table_says(df: Any, expected: Any) -> None:
    assert expected == pytest.approx(t_975(df), abs=5.1e-4)


def test_t_agrees_with_scipy_on_both_sides_of_the_expansion() -> None:
    """The finite sums (up to 200) and the expansion (above) give scipy's quantile to eleven digits."""
    from scipy import stats

    for df in (1, 2, 3, 7, 8, 99, 199, 200, 201, 202, 500, 10_000, 10**8):
        assert float(stats.t.ppf(0.975, df)) == pytest.approx(t_975(df), rel=1e-11)


def test_t_falls_as_the_degrees_of_freedom_rise() -> None:
    values = [t_975(df) for df in range(1, 400)]
    assert sorted(values, reverse=True) == values


def test_t_needs_a_degree_of_freedom() -> None:
    with pytest.raises(ValueError, match="at least one degree"):
        t_975(0)


# Mean widths measured on real samples of the population p = 0.389, N = 3,249.
@pytest.mark.parametrize(("n", "width"), [(300, 0.1044), (1_000, 0.0502), (2_500, 0.0184)])
def test_wilson_with_the_correction_is_as_wide_as_measured(n: int, width: float) -> None:
    found: Any = mean_interval(n, mean=0.389, population=3_249, binary=True)
    assert width == pytest.approx(found.high - found.low, abs=2e-4)


def test_wilson_without_a_population_is_the_textbook_interval() -> None:
    """Agresti and Coull's worked case: 0 of 10 gives an upper bound of 0.2775."""
    found: Any = mean_interval(10, mean=0.0, binary=True)
    assert (found.low, found.high) == (0.0, pytest.approx(0.2775, abs=5e-5))


def test_student_with_the_correction_is_the_formula() -> None:
    """Ten values of mean 5.5 and sd 3.0277 of a population of 40, worked by hand."""
    found: Any = mean_interval_of(range(1, 11), population=40)
    half = 2.262157162798205 * 3.0276503540974917 / math.sqrt(10) * math.sqrt(30 / 39)
    assert (5.5 - half, 5.5 + half) == pytest.approx((found.low, found.high), rel=1e-12)


def test_nothing_measured_has_no_mean() -> None:
    found: Any = mean_interval(0, mean=None, population=10)
    assert (None, None, None) == (found.mean, found.low, found.high)


def test_one_value_has_a_mean_but_no_bounds() -> None:
    found: Any = mean_interval_of([7.0], population=10)
    assert (7.0, None, None) == (found.mean, found.low, found.high)


def test_one_yes_has_bounds() -> None:
    """Wilson's interval exists for a single yes."""
    found: Any = mean_interval_of([True], population=10)
    assert (1.0, True) == (found.high, 0 < found.low < 1)


@pytest.mark.parametrize("values", [[3.0], [1, 0, 1], [2.5, 2.5], [1, 2, 30]])
def test_a_full_pass_has_no_width(values: Any) -> None:
    found: Any = mean_interval_of(values, population=len(values))
    assert (found.mean, found.mean) == (found.low, found.high)


def test_an_empty_population_has_no_mean() -> None:
    assert MeanInterval(None, None, None) == mean_interval(0, mean=None, population=0)


def test_equal_values_that_are_no_rate_have_no_spread() -> None:
    found: Any = mean_interval_of([5.0] * 30, population=3_000)
    assert (5.0, 5.0) == (found.low, found.high)


@pytest.mark.parametrize("value", [0, 1])
def test_equal_zeros_or_ones_still_have_a_width(value: int) -> None:
    found: Any = mean_interval_of([value] * 30, population=3_000)
    assert 0.1 < found.high - found.low < 0.13


def test_more_values_than_the_population_tell_no_bounds() -> None:
    """A count that does not fit must not be sold as certainty."""
    found: Any = mean_interval(12, mean=0.5, population=10, binary=True)
    assert (0.5, None, None) == (found.mean, found.low, found.high)


def test_a_mean_that_overflowed_has_no_bounds() -> None:
    found: Any = mean_interval(3, mean=math.inf, sd=math.nan, population=10)
    assert (None, None) == (found.low, found.high)


@pytest.mark.parametrize("wrong", [{"n": -1, "mean": 0.5}, {"n": 1, "mean": 0.5, "population": -1}])
def test_negative_counts_are_refused(wrong: Any) -> None:
    n = wrong.pop("n")
    with pytest.raises(ValueError, match="must not be negative"):
        mean_interval(n, **wrong)


def test_a_rate_outside_0_and_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
        mean_interval(3, mean=1.5, binary=True)


@given(population=st.integers(2, 10**6), share=st.floats(0, 1), taken=st.floats(0.001, 1))
def test_bounds_hold_the_mean_and_stay_in_0_and_1(population: Any, share: Any, taken: Any) -> None:
    n = max(1, int(population * taken))
    mean = round(share * n) / n
    found: Any = mean_interval(n, mean=mean, population=population, binary=True)
    assert 0 <= found.low <= mean <= found.high <= 1


@given(
    population=st.integers(100, 10**5),
    values=st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=2, max_size=50),
)
def test_the_correction_only_narrows(population: Any, values: Any) -> None:
    narrow: Any
    wide: Any
    narrow, wide = mean_interval_of(values, population=population), mean_interval_of(values)
    assert narrow.high - narrow.low <= (wide.high - wide.low) * (1 + 1e-9) + 1e-9


@given(values=st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=2, max_size=40))
def test_the_order_of_values_does_not_matter(values: Any) -> None:
    assert mean_interval_of(values) == mean_interval_of(sorted(values))


def test_intervals_cover_the_truth_as_promised() -> None:
    """2,000 samples of 100 from 2,000 zeros and ones, and of skewed lengths: 95 % cover, within 2 points."""
    dice = random.Random(7)
    rates = [1] * 600 + [0] * 1_400
    lengths = [dice.gammavariate(2, 100) + 2 for _ in range(2_000)]
    for population in (rates, lengths):
        truth = sum(population) / len(population)
        samples: Iterator[Any] = (
            mean_interval_of(dice.sample(population, 100), population=2_000) for _ in range(2_000)
        )
        assert 0.93 <= sum(s.low <= truth <= s.high for s in samples) / 2_000 <= 0.97
