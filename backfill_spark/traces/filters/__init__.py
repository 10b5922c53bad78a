"""Filters: an MLflow `filter_string` → our own syntax tree → a Spark column.

No part of a filter is ever read as SQL. Grammar and answers are those of MLflow 3.17 `search_traces` on its
default store (`SearchTraceUtils.parse_search_filter_for_search_traces`), for status, times, name, ids, run_id,
tags and metadata.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfill_spark.errors import FilterError
from backfill_spark.traces.filters.parser import parse
from backfill_spark.traces.filters.tree import Comparison, canonical

if TYPE_CHECKING:
    from pyspark.sql import Column

DIALECTS = ("mlflow",)

__all__ = ["DIALECTS", "Filter", "compile_filter"]


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter that was checked; an empty one matches every trace."""

    text: str
    """As it was written; "" for none."""
    terms: tuple[Comparison, ...] = ()
    """The syntax tree: comparisons that must all hold."""
    notes: tuple[str, ...] = ()
    """What a reader of the plan should know, such as a comparison that can match nothing."""

    @property
    def digest(self) -> str:
        """First 16 hex digits of SHA-256 over the tree, whatever the spelling and the order of its terms."""
        return hashlib.sha256(canonical(self.terms).encode()).hexdigest()[:16]

    @property
    def columns(self) -> frozenset[str]:
        """Canonical columns of TRACES that the filter reads."""
        return frozenset(column for term in self.terms for column in term.subject.columns)

    def column(self, columns: frozenset[str]) -> Column:
        """Return a BOOLEAN column over a TRACES frame, never NULL.

        `columns` are those that the frame has. On an absent one no comparison holds but `IS NULL`. A comparison
        that cannot be decided holds; `undecided` tells where.
        """
        from backfill_spark.traces.filters.columns import all_of

        return all_of(self.terms, columns)

    def undecided(self, columns: frozenset[str]) -> Column:
        """Return a BOOLEAN column over a TRACES frame: what the filter compares is unreadable. Never NULL."""
        from backfill_spark.traces.filters.columns import any_undecided

        return any_undecided(self.terms, columns)


def compile_filter(text: str | None, *, dialect: str = "mlflow") -> Filter:
    """Check a filter and return it ready for use. None and "" match every trace.

    Raises:
        FilterError: the text does not parse, asks for what is not supported, or the dialect is unknown.
    """
    if dialect not in DIALECTS:
        raise FilterError(f"filters.dialect: {dialect!r} is not supported; supported: {', '.join(DIALECTS)}.")
    if text is None or text == "":
        return Filter("")
    if not isinstance(text, str):
        raise FilterError(f"filter_string: expected text such as \"status = 'OK'\", got {type(text).__name__}.")
    terms, notes = parse(text)
    return Filter(text, terms, notes)
