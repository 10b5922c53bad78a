"""How a time, a duration and a number are compared: exactly, with the answers of MLflow's default store (SQLite)."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from backfill_spark.traces.filters.comparison import as_number
from backfill_spark.traces.filters.tree import Operator, Value

FUNCTIONS: dict[Operator, Callable[[Any, Any], Any]] = {
    Operator.EQ: operator.eq,
    Operator.NE: operator.ne,
    Operator.LT: operator.lt,
    Operator.LE: operator.le,
    Operator.GT: operator.gt,
    Operator.GE: operator.ge,
}
_MOST_MS = (2**63 - 1) // 1000
"""Milliseconds of the last moment that Spark knows, and before the epoch of the first."""


def compared(number: Column, how: Operator, value: Value) -> Column:
    """Return whether a BIGINT compares so; NULL where there is none."""
    return _simple(number, how, value, lambda n, op, bound: FUNCTIONS[op](n, F.lit(bound).cast("bigint")))


def moment_compared(time: Column, how: Operator, value: Value) -> Column:
    """Return whether a TIMESTAMP, in whole milliseconds since the epoch, compares so; NULL where there is none.

    The bare column is compared with a literal, which is what reaches a file scan.
    """
    return _simple(time, how, value, _moment)


def _moment(time: Column, how: Operator, bound: int) -> Column:
    if not -_MOST_MS < bound < _MOST_MS:
        return time.isNotNull() & F.lit(bool(FUNCTIONS[how](0, bound)))
    at, behind = (F.timestamp_micros(F.lit(ms * 1000).cast("bigint")) for ms in (bound, bound + 1))
    match how:
        case Operator.EQ:
            return (time >= at) & (time < behind)
        case Operator.NE:
            return (time < at) | (time >= behind)
        case Operator.LT | Operator.GE:
            return FUNCTIONS[how](time, at)  # type: ignore[no-any-return]
        case _:
            return time >= behind if how is Operator.GT else time < behind


def _simple(subject: Column, how: Operator, value: Value, whole: Callable[[Column, Operator, int], Column]) -> Column:
    """Compare with a whole number; a text that is none is greater than every number, as in SQLite."""
    if how is Operator.BETWEEN and isinstance(value, tuple):
        low, high = value
        return _simple(subject, Operator.GE, low, whole) & _simple(subject, Operator.LE, high, whole)
    bound = as_number(value) if isinstance(value, str) else value
    if bound is None:
        bound = math.inf
    if isinstance(bound, float) and bound.is_integer() and -(2.0**63) <= bound < 2.0**63:
        bound = int(bound)
    if isinstance(bound, int):
        return whole(subject, how, bound)
    if not isinstance(bound, float) or how in (Operator.EQ, Operator.NE):
        return subject.isNotNull() & F.lit(how is Operator.NE)
    if abs(bound) >= 2.0**63:
        return subject.isNotNull() & F.lit(bool(FUNCTIONS[how](0, bound)))
    # No whole number equals the bound: x > 5.5 and x >= 5.5 are x > 5; x < 5.5 and x <= 5.5 are x <= 5.
    above = how in (Operator.GT, Operator.GE)
    return whole(subject, Operator.GT if above else Operator.LE, math.floor(bound))
