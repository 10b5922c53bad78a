"""How a text column is compared: with the answers of MLflow's default store (SQLite)."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F

from backfill_spark.traces.filters.regex import to_java
from backfill_spark.traces.filters.tree import Operator, Value


def compared(subject: Column, how: Operator, value: Value) -> Column:
    """Return whether a text compares so; NULL where there is no text."""
    match how:
        case Operator.IS_NULL:
            return subject.isNull()
        case Operator.IS_NOT_NULL:
            return subject.isNotNull()
        case Operator.IN | Operator.NOT_IN:
            listed = subject.isin(list(value) if isinstance(value, tuple) else [])
            return listed if how is Operator.IN else ~listed
    text = str(value)
    match how:
        case Operator.LIKE:
            return _like(subject, text)
        case Operator.ILIKE:
            return _like(F.lower(subject), text.lower())
        case Operator.RLIKE:
            java = to_java(text)
            return F.lit(False) if java is None else subject.rlike(java)
        case Operator.NE:
            return subject != F.lit(text)
        case _:
            return subject == F.lit(text)


def _like(subject: Column, pattern: str) -> Column:
    """`%` and `_` are wildcards, nothing escapes them; a backslash is itself (Spark's LIKE escapes with it)."""
    if pattern.count("%") <= 2:
        return subject.like(pattern.replace("\\", "\\\\"))
    return subject.rlike(_like_in_java(pattern.split("%")))


def _like_in_java(parts: Sequence[str]) -> str:
    """Write a LIKE with many `%`: the first place of each part is enough, so no group is tried again.

    Spark's own translation, `.*a.*b.*c`, tries all places: with 8 parts and 8,000 characters, hours.
    """
    first, *middle, last = ("".join("." if c == "_" else f"\\x{{{ord(c):x}}}" for c in part) for part in parts)
    return f"(?s)\\A{first}" + "".join(f"(?>.*?{part})" for part in middle if part) + f".*{last}\\z"
