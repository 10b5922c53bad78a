"""The syntax tree → one BOOLEAN Spark column, with the answers of MLflow's default store (SQLite)."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from backfill_spark.models import UNREADABLE
from backfill_spark.traces.filters.parser import as_number
from backfill_spark.traces.filters.regex import to_java
from backfill_spark.traces.filters.tree import SESSION, Comparison, Kind, Operator, Subject

_FUNCTIONS: dict[Operator, Callable[[Any, Any], Any]] = {
    Operator.EQ: operator.eq,
    Operator.NE: operator.ne,
    Operator.LT: operator.lt,
    Operator.LE: operator.le,
    Operator.GT: operator.gt,
    Operator.GE: operator.ge,
}


def all_of(terms: Iterable[Comparison], available: frozenset[str]) -> Column:
    """The condition that each term holds or cannot be decided: never NULL, True for no terms."""
    matched = F.lit(True)
    for term in terms:
        matched = matched & (F.coalesce(_holds(term, available), F.lit(False)) | _undecided(term, available))
    return matched


def any_undecided(terms: Iterable[Comparison], available: frozenset[str]) -> Column:
    """The condition that a term cannot be decided, as its text is unreadable: never NULL, False for no terms."""
    undecided = F.lit(False)
    for term in terms:
        undecided = undecided | _undecided(term, available)
    return undecided


def _undecided(term: Comparison, available: frozenset[str]) -> Column:
    if term.subject.is_number:
        return F.lit(False)
    undecided = ~F.is_valid_utf8(_subject(term.subject, available))
    for column in {"tags", "trace_metadata"}.intersection(term.subject.columns):
        undecided = undecided | _value_of(column, UNREADABLE, available).isNotNull()
    return F.coalesce(undecided, F.lit(False))


def _holds(term: Comparison, available: frozenset[str]) -> Column:
    subject = _subject(term.subject, available)
    if term.subject.is_number:
        return _compare(subject, term.operator, term.value)
    match term.operator:
        case Operator.IS_NULL:
            return subject.isNull()
        case Operator.IS_NOT_NULL:
            return subject.isNotNull()
        case Operator.IN | Operator.NOT_IN:
            listed = subject.isin(list(term.value) if isinstance(term.value, tuple) else [])
            return listed if term.operator is Operator.IN else ~listed
    text = str(term.value)
    match term.operator:
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


def _subject(subject: Subject, available: frozenset[str]) -> Column:
    """The column that a comparison reads; NULL where the frame lacks it."""
    match subject.kind:
        case Kind.TAG:
            return _value_of("tags", subject.key, available)
        case Kind.METADATA:
            value = _value_of("trace_metadata", subject.key, available)
            # MLflow, too, keeps the session in a column of its own, filled from the metadata.
            return F.coalesce(value, _text("session_id", available)) if subject.key == SESSION else value
        case Kind.STATUS:
            return F.upper(_text("state", available))
        case Kind.TIMESTAMP:
            return F.unix_millis("request_time")
        case Kind.EXECUTION_TIME:
            return _duration(available)
        case Kind.END_TIME:
            return F.unix_millis("request_time") + F.coalesce(_duration(available), F.lit(0))
        case _:
            return _text(subject.columns[0], available)


def _text(column: str, available: frozenset[str]) -> Column:
    return F.col(column) if column in available else F.lit(None).cast("string")


def _duration(available: frozenset[str]) -> Column:
    if "execution_duration_ms" in available:
        return F.col("execution_duration_ms").cast("bigint")
    return F.lit(None).cast("bigint")


def _value_of(column: str, key: str, available: frozenset[str]) -> Column:
    if column not in available:
        return F.lit(None).cast("string")
    return F.try_element_at(F.col(column), F.lit(key))


def _compare(number: Column, how: Operator, value: object) -> Column:
    """Compare a BIGINT column exactly; a text that is no number is greater than every number, as in SQLite."""
    bound = as_number(value) if isinstance(value, str) else value
    if bound is None:
        bound = math.inf
    if isinstance(bound, float) and bound.is_integer() and -(2.0**63) <= bound < 2.0**63:
        bound = int(bound)
    if isinstance(bound, int):
        return _FUNCTIONS[how](number, F.lit(bound).cast("bigint"))  # type: ignore[no-any-return]
    if not isinstance(bound, float) or how in (Operator.EQ, Operator.NE):
        return number.isNotNull() & F.lit(how is Operator.NE)
    if abs(bound) >= 2.0**63:
        return number.isNotNull() & F.lit(bool(_FUNCTIONS[how](0, bound)))
    # No whole number equals the bound: x > 5.5 and x >= 5.5 are x > 5; x < 5.5 and x <= 5.5 are x <= 5.
    above = how in (Operator.GT, Operator.GE)
    return _FUNCTIONS[Operator.GT if above else Operator.LE](number, F.lit(math.floor(bound)).cast("bigint"))  # type: ignore[no-any-return]


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
