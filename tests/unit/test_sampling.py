"""The integer rule of sampling, without a JVM."""

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backfill_spark.selection.sampling import bound

HASHES = st.integers(-(2**63), 2**63 - 1)
RATES = st.floats(0, 1)


def is_selected(h: int, rate: float) -> bool:
    end = bound(rate)
    return end is None or h < end


@given(h=HASHES, rate=RATES)
@example(h=-(2**63), rate=5e-324)
@example(h=2**63 - 1, rate=1 - 2**-53)
def test_bound_is_the_exact_rule_of_the_design(h: int, rate: float) -> None:
    """A hash is below the bound iff it is below the exact real number."""
    expected = h < -(2**63) + Fraction(rate) * 2**64
    assert expected == is_selected(h, rate)


@given(h=HASHES, rates=st.tuples(RATES, RATES))
def test_a_higher_rate_only_adds(h: int, rates: tuple[float, float]) -> None:
    """What a rate selects, every higher rate selects."""
    low, high = sorted(rates)
    assert is_selected(h, high) or not is_selected(h, low)


@pytest.mark.parametrize("h", [-(2**63), -1, 0, 2**63 - 1])
def test_rate_one_selects_everything_and_rate_zero_nothing(h: int) -> None:
    """The ends of the range are exact."""
    assert (is_selected(h, 1), is_selected(h, 0)) == (True, False)


@given(rate=st.floats(0, 1, exclude_max=True))
def test_bound_fits_a_signed_64_bit_integer(rate: float) -> None:
    """Below rate 1 the bound can be a BIGINT literal."""
    end = bound(rate)
    assert end is not None
    assert -(2**63) <= end < 2**63


@pytest.mark.parametrize("rate", [-0.1, 1.0000001, float("nan"), float("inf")])
def test_rates_outside_the_range_are_refused(rate: float) -> None:
    """No rate is rounded into the range."""
    with pytest.raises(ValueError, match="not in \\[0, 1\\]"):
        bound(rate)
