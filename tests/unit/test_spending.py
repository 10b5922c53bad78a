"""How many questions a job's budget pays for next."""

from __future__ import annotations

import pytest

from backfill_spark.backfill.spending import FIRST_ANSWERS, GROWTH, Spending


def test_without_a_budget_there_is_no_limit() -> None:
    """Slices have then the size that the pace gives."""
    assert Spending(None, None).affords(1) is None


@pytest.mark.parametrize(("calls", "questions"), [(100, 95), (268, 255), (19, 19), (0, 0), (-3, 0)])
def test_a_share_of_the_calls_is_kept_for_repeats(calls: int, questions: int) -> None:
    """Of a few calls none is."""
    assert questions == Spending(calls, None).affords(1)


def test_what_answers_have_cost_sizes_the_slices_of_a_budget_in_dollars() -> None:
    """Not what they might cost at most; the first ones tell it."""
    spending = Spending(None, 1.0)
    assert FIRST_ANSWERS == spending.affords(1)
    spending.spend(50, 0.2, 50)
    # 0.8 dollars pay for 200 more; a twentieth is kept.
    assert 190 == spending.affords(1)
    spending.spend(190, 0.76, 190)
    assert 10 == spending.affords(1)


def test_few_answers_say_little_of_many() -> None:
    """One cheap answer is no reason to ask a million questions."""
    spending = Spending(None, 1.0)
    spending.spend(1, 1e-9, 1)
    assert GROWTH - 1 == spending.affords(1)


def test_both_judges_of_a_trace_are_tried_whatever_is_left() -> None:
    """They have one draw, which no slice can divide."""
    spending = Spending(None, 1.0)
    spending.spend(100, 0.999, 100)
    assert 2 == spending.affords(2)


def test_calls_bind_where_they_are_fewer_than_dollars_pay_for() -> None:
    """Both budgets hold."""
    spending = Spending(60, 1.0)
    spending.spend(50, 0.01, 50)
    assert 10 == spending.affords(1)
