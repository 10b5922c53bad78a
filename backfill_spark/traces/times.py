"""Times of every type that sources have, read as instants in UTC, whatever zone the session has."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.models import TimeWindow
from backfill_spark.schema import DATE

UNITS = {"s": 1_000_000, "ms": 1000, "us": 1, "ns": 1}
"""Microseconds of each unit in which a time may be a number; a microsecond is 1000 of `ns`."""
_DAY = 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONG = 2**63
_ZONE = r"(?:[Zz]|[+-]\d\d(?::?\d\d)?)\s*$"
# Of a time alone Spark would make one of today.
_DATED = r"^\s*\d{4,6}-\d"


def unit_of(value: object) -> str:
    """Return the unit of a time that is a number, by its size: s before 1e11, ms before 1e14, us before 1e17, else ns.

    Each means the years 1973 to 5138; what is no number has the unit "".
    """
    try:
        size = abs(float(str(value)))
    except ValueError:
        return ""
    if not math.isfinite(size):
        return ""
    return "s" if size < 1e11 else "ms" if size < 1e14 else "us" if size < 1e17 else "ns"


def utc_date(instant: Column) -> Column:
    """Return the UTC date of a TIMESTAMP, whatever the session's zone."""
    micros = F.unix_micros(instant)
    # A whole number of days divides exactly, also before 1970; a last microsecond need not.
    days = ((micros - F.pmod(micros, F.lit(_DAY))) / F.lit(_DAY)).cast("int")
    return F.date_add(F.lit("1970-01-01").cast(DATE), days)


def as_instant(value: Column, kind: T.DataType, unit: str = "") -> Column:
    """Return a TIMESTAMP: of one, of a wall time in UTC, a date, ISO 8601 text, or a number of `unit`.

    NULL where a text is no such time, or a number is beyond what fits.
    """
    if isinstance(kind, T.TimestampType):
        return value
    if isinstance(kind, T.DateType):
        return _of_wall_time(value.cast(T.TimestampNTZType()))
    if isinstance(kind, T.TimestampNTZType):
        return _of_wall_time(value)
    if isinstance(kind, T.StringType) and not unit:
        dated = F.when(value.rlike(_DATED), value)
        wall = _of_wall_time(dated.try_cast("timestamp_ntz"))
        return F.when(value.rlike(_ZONE) & value.contains(":"), dated.try_cast("timestamp")).otherwise(wall)
    number = value if isinstance(kind, T.IntegralType) else value.try_cast("decimal(38,6)")
    if unit == "ns":
        # Not a division of doubles, which have no room for today's nanoseconds.
        whole = number.try_cast("bigint")
        return F.timestamp_micros(F.call_function("div", whole - F.pmod(whole, F.lit(1000)), F.lit(1000)))
    return F.timestamp_micros(F.try_multiply(number, F.lit(UNITS[unit])).try_cast("bigint"))


def in_window(value: Column, kind: T.DataType, window: TimeWindow, *, unit: str = "", untimed: bool) -> Column | None:
    """Return the predicate `start <= time < end`; None when all rows are in.

    Times and whole numbers are compared as they stand with literals of their type, which reaches the file scan.
    """
    bounds = []
    is_plain = isinstance(kind, T.TimestampType | T.TimestampNTZType | T.IntegralType)
    time = value if is_plain else as_instant(value, kind, unit)
    if window.start is not None:
        bounds.append(time >= _literal(window.start, kind, unit))
    if window.end is not None:
        bounds.append(time < _literal(window.end, kind, unit))
    if not bounds:
        return None if untimed else time.isNotNull()
    inside = bounds[0] if len(bounds) == 1 else bounds[0] & bounds[1]
    return (inside | time.isNull()) if untimed else inside


def _of_wall_time(value: Column) -> Column:
    # A cast would read the wall time in the session's zone. The difference of two of them is free of it.
    epoch = F.lit("1970-01-01 00:00:00").cast(T.TimestampNTZType())
    seconds = (value - epoch).cast(T.DayTimeIntervalType(T.DayTimeIntervalType.SECOND)).cast("decimal(20,6)")
    return F.timestamp_micros((seconds * 1_000_000).cast("bigint"))


def _literal(moment: datetime, kind: T.DataType, unit: str) -> Column:
    if isinstance(kind, T.TimestampNTZType):
        text = moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")
        return F.lit(text).cast(kind)
    micros = (moment - _EPOCH) // timedelta(microseconds=1)
    if isinstance(kind, T.IntegralType):
        # Rounded up: of whole milliseconds the first at or after the bound.
        bound = micros * 1000 if unit == "ns" else -(-micros // UNITS[unit])
        return F.lit(max(-_LONG, min(_LONG - 1, bound))).cast("bigint")
    return F.timestamp_micros(F.lit(micros).cast("bigint"))
