"""The grammar: comparisons joined by AND, and in the extended dialect OR, NOT and parentheses, by recursive descent.

MLflow lets a filter begin with AND and lets AND be left out between comparisons; so do both dialects. A filter that
ends with AND was cut off and is refused, which MLflow does not do.
"""

from __future__ import annotations

from backfill_spark.errors import FilterError
from backfill_spark.traces.filters.comparison import ComparisonReader
from backfill_spark.traces.filters.lexer import TokenKind
from backfill_spark.traces.filters.tree import (
    SOURCE_RUN,
    And,
    Comparison,
    Kind,
    Node,
    Not,
    Operator,
    Or,
    Subject,
    joined,
    terms_of,
)

MAX_LENGTH = 4000
MAX_TERMS = 200
MAX_DEPTH = 30
"""Parentheses and NOT within each other."""
_AND_NEEDED = frozenset({Operator.IN, Operator.NOT_IN, Operator.IS_NULL, Operator.IS_NOT_NULL})


def parse(text: str, *, extended: bool = False) -> tuple[Node, tuple[str, ...]]:
    """Return the tree of a filter, and notes for the reader of a plan.

    Raises:
        FilterError: the first thing that does not fit, under a caret.
    """
    if len(text) > MAX_LENGTH:
        raise FilterError.at(text, MAX_LENGTH, f"has {len(text)} characters; at most {MAX_LENGTH} are read")
    parser = _Parser(text, extended=extended)
    return parser.whole(), tuple(parser.notes)


def _is_run(node: Node) -> bool:
    return (
        isinstance(node, Comparison)
        and node.subject == Subject(Kind.METADATA, SOURCE_RUN)
        and node.operator is Operator.EQ
    )


class _Parser(ComparisonReader):
    """Reads a whole filter."""

    count = 0
    depth = 0

    def whole(self) -> Node:
        if self.token.upper == "AND":
            self.take()
        found = self.alternatives()
        if self.token.kind is TokenKind.CLOSE:
            raise self.refused(self.token.start, "')' closes nothing")
        return found

    def alternatives(self) -> Node:
        found = [self.all_of()]
        while self.token.upper == "OR":
            self.needs_extended(self.token, "OR")
            self.take()
            found.append(self.all_of())
        return joined(Or, found)

    def all_of(self) -> Node:
        found: list[Node] = []
        is_joined = True
        while True:
            start = self.token.start
            found.append(self.one())
            if not is_joined and isinstance(found[-1], Comparison) and found[-1].operator in _AND_NEEDED:
                # MLflow reads `name = 'x' tags.k IS NULL` as one field with a long name.
                raise self.refused(start, "AND is missing before this comparison")
            if self.token.kind in (TokenKind.END, TokenKind.CLOSE) or self.token.upper == "OR":
                return self.without_older_runs(found)
            is_joined = self.token.upper == "AND"
            if is_joined:
                self.take()

    def one(self) -> Node:
        """Read a comparison, one behind NOT, or a filter in parentheses."""
        if self.count == MAX_TERMS:
            raise self.refused(self.token.start, f"more than {MAX_TERMS} comparisons")
        is_negation = self.token.upper == "NOT"
        if not is_negation and self.token.kind is not TokenKind.OPEN:
            self.count += 1
            found, is_negated = self.comparison()
            return Not(found) if is_negated else found
        opening = self.token
        self.needs_extended(opening, "NOT" if is_negation else "a parenthesis")
        self.take()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.refused(opening.start, f"more than {MAX_DEPTH} parentheses and NOTs within each other")
        inner = self.one() if is_negation else self.alternatives()
        self.depth -= 1
        if is_negation:
            return Not(inner)
        if self.take().kind is not TokenKind.CLOSE:
            raise self.refused(opening.start, "the parenthesis is not closed")
        return inner

    def without_older_runs(self, nodes: list[Node]) -> Node:
        """Join nodes by AND; of several `run_id =` MLflow keeps the last."""
        flat = terms_of(joined(And, nodes))
        last = max((i for i, node in enumerate(flat) if _is_run(node)), default=-1)
        kept = [node for i, node in enumerate(flat) if i >= last or not _is_run(node)]
        if len(kept) < len(flat):
            self.notes.append("of several `run_id =` only the last one counts, as in MLflow")
        return joined(And, kept)
