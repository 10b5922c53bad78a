"""Sampling: one number per trace, from which every choice of traces follows."""

from __future__ import annotations

import math
from fractions import Fraction

from pyspark.sql import Column
from pyspark.sql import functions as F

_LOWEST = -(2**63)
_BELOW_ONE = math.nextafter(1.0, 0.0)


def bound(rate: float) -> int | None:
    """Return the integer that the hash of a selected trace lies below; None when every trace is selected.

    A hash `h` is selected iff `h < -2^63 + rate * 2^64`. The product is taken exactly from the double; for an
    integer `h`, being below a real number is being below its ceiling. Rate 0 gives -2^63, below which no hash lies.

    Raises:
        ValueError: the rate is no number in [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"sample rate {rate!r} is not in [0, 1]; 0.25 selects a quarter of the traces")
    if rate == 1:
        return None
    return _LOWEST + math.ceil(Fraction(rate) * 2**64)


def draw_hash(seed: int) -> Column:
    """Return `xxhash64(trace_id, seed)` as BIGINT; NULL where the trace id is NULL.

    Raises:
        ValueError: the seed is no signed 64-bit integer.
    """
    if not _LOWEST <= seed < 2**63:
        raise ValueError(f"seed {seed!r} does not fit a signed 64-bit integer; 0 is the default")
    trace_id = F.col("trace_id")
    # Spark's hash leaves NULLs out, so that all traces without an id would share one number.
    return F.when(trace_id.isNotNull(), F.xxhash64(trace_id, F.lit(seed).cast("bigint")))


def draw(seed: int) -> Column:
    """Return the trace's number in [0, 1) as DOUBLE: `(h + 2^63) / 2^64`, rounded once; NULL without a trace id."""
    h = draw_hash(seed)
    high = (F.shiftright(h, 32) + F.lit(2**31)).cast("double")
    low = h.bitwiseAND(F.lit(2**32 - 1)).cast("double")
    # Both halves are exact doubles, so the sum is the only step that rounds.
    number = (high * F.lit(float(2**32)) + low) / F.lit(float(2**64))
    return F.when(number >= 1, F.lit(_BELOW_ONE)).otherwise(number)


def in_slice(draw_from: float, draw_to: float, seed: int) -> Column:
    """Return BOOLEAN, never NULL: the trace lies in the slice `[draw_from, draw_to)` of the draw.

    Slices that meet share no trace and leave none out: both ends follow the integer rule of `bound`.

    Raises:
        ValueError: an end is no number in [0, 1], or the seed does not fit.
    """
    first, end = bound(draw_from), bound(draw_to)
    if first is None or end == _LOWEST:
        return F.lit(False)
    h = draw_hash(seed)
    inside = F.col("trace_id").isNotNull()
    if first > _LOWEST:
        inside = inside & (h >= F.lit(first).cast("bigint"))
    if end is not None:
        inside = inside & (h < F.lit(end).cast("bigint"))
    return inside


def selected(rate: float, seed: int) -> Column:
    """Return BOOLEAN, never NULL: the trace is in the sample of this rate. Traces without an id never are.

    Raises:
        ValueError: the rate is no number in [0, 1], or the seed does not fit.
    """
    return in_slice(0.0, rate, seed)
