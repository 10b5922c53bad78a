"""Filters: an MLflow `filter_string` → our own syntax tree → a Spark column.

No part of a filter is ever read as SQL. Grammar and answers are those of MLflow 3.17 `search_traces` on its
default store (`SearchTraceUtils.parse_search_filter_for_search_traces`); docs/filters.md says where they differ.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backfill_spark.errors import FilterError
from backfill_spark.traces.filters.parser import parse
from backfill_spark.traces.filters.printing import text_of
from backfill_spark.traces.filters.tree import Node, canonical, comparisons

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import StructType

DIALECTS = ("mlflow", "extended")

__all__ = ["Filter", "compile_filter"]


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter that was checked; an empty one matches every trace. `str()` of it parses to the same tree."""

    text: str
    """As it was written; "" for none."""
    tree: Node | None = None
    """The syntax tree; None matches every trace."""
    notes: tuple[str, ...] = ()
    """What a reader of the plan should know, such as a comparison that can match nothing."""

    def __str__(self) -> str:
        return "" if self.tree is None else text_of(self.tree)

    @property
    def digest(self) -> str:
        """First 16 hex digits of SHA-256 over the tree, whatever the spelling and the order of its terms."""
        return hashlib.sha256(canonical(self.tree).encode()).hexdigest()[:16]

    @property
    def columns(self) -> frozenset[str]:
        """Canonical columns of TRACES that the filter reads."""
        return frozenset(column for term in comparisons(self.tree) for column in term.subject.columns)

    @property
    def assessments(self) -> frozenset[tuple[str, str]]:
        """Kind (feedback or expectation) and name of each assessment that the filter asks for."""
        return frozenset(
            (t.subject.kind.value, t.subject.key) for t in comparisons(self.tree) if t.subject.is_assessment
        )

    def column(self, schema: StructType | None = None) -> Column:
        """Return a BOOLEAN column over a TRACES frame, never NULL: may be used in `where`.

        A comparison that cannot be decided, as its text is unreadable, holds; `undecided` tells where.

        Args:
            schema: Of the frame. On a column that it lacks no comparison holds but `IS NULL`. Default: the frame has
                what `columns` names, and each of spans and assessments may be an array or JSON text; an array
                is then written as JSON text and read again, so that a given schema is faster.
        """
        from backfill_spark.traces.filters.columns import matched

        return matched(self.tree, schema)

    def undecided(self, schema: StructType | None = None) -> Column:
        """Return a BOOLEAN column over a TRACES frame: what the filter compares is unreadable. Never NULL."""
        from backfill_spark.traces.filters.columns import undecided

        return undecided(self.tree, schema)

    def matching(self, traces: DataFrame) -> DataFrame:
        """Return the rows of a TRACES frame that match.

        Unlike `column`, which sees one row, this sees what MLflow does: an assessment of a session, whose metadata
        names it, counts for each trace of the session in the frame.
        """
        from backfill_spark.traces.filters.related import MORE, of_sessions, with_more

        named = self.assessments
        if named and "assessments" in traces.columns:
            traces = with_more(traces, of_sessions(traces, named))
        return traces.where(self.column(traces.schema)).drop(MORE)


def compile_filter(text: str | None, dialect: str = "mlflow") -> Filter:
    """Check a filter and return it ready for use. None and "" match every trace.

    Args:
        text: Such as `status = 'OK' AND tags.env = 'prod'`; docs/filters.md has the grammar.
        dialect: `mlflow`, or `extended`: that and OR, NOT, parentheses and BETWEEN.

    Raises:
        FilterError: the text does not parse, asks for what there is not, or the dialect is unknown.
    """
    if dialect not in DIALECTS:
        raise FilterError(f"filters.dialect: {dialect!r} is not supported; supported: {', '.join(DIALECTS)}.")
    if text is None or text == "":
        return Filter("")
    if not isinstance(text, str):
        raise FilterError(f"filter_string: expected text such as \"status = 'OK'\", got {type(text).__name__}.")
    tree, notes = parse(text, extended=dialect == "extended")
    return Filter(text, tree, notes)
