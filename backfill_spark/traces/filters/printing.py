r"""A tree → text that parses to the same tree.

Nothing escapes a quote, and what a quote ends depends on the text behind it (`'a\'` ends only where no other `'`
follows), so a tree is written from its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from backfill_spark.traces.filters.comparison import UNQUOTED_NEVER, key_of
from backfill_spark.traces.filters.lexer import first_token
from backfill_spark.traces.filters.tree import (
    CONTENT,
    SOURCE_RUN,
    TRACE_NAME,
    And,
    Comparison,
    Kind,
    Node,
    Not,
    Operator,
    Or,
    Subject,
)

_BARE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_SHORT = {
    Subject(Kind.TAG, TRACE_NAME): "name",
    Subject(Kind.METADATA, SOURCE_RUN): "run_id",
    Subject(Kind.SPAN, CONTENT): "trace.text",
}


def text_of(node: Node) -> str:
    """Return the text of a tree; it is in the mlflow dialect where the tree is.

    Raises:
        ValueError: a text that no filter can hold, such as one with both kinds of quotes.
    """
    rest = ""
    for piece in reversed(list(_pieces(node))):
        rest = (piece if isinstance(piece, str) else _chosen(piece, rest)) + rest
    return rest


def _pieces(node: Node) -> Iterator[str | tuple[str, ...]]:
    """Give the text piece by piece; a tuple has the ways to write a piece, one of which fits what follows."""
    if isinstance(node, Comparison):
        yield from _of_comparison(node)
    elif isinstance(node, Not):
        yield "NOT "
        yield from _within(node.node, isinstance(node.node, (And, Or)))
    else:
        for i, inner in enumerate(node.nodes):
            if i:
                yield f" {type(node).__name__.upper()} "
            yield from _within(inner, isinstance(inner, Or))


def _within(node: Node, needs_parentheses: bool) -> Iterator[str | tuple[str, ...]]:  # noqa: FBT001
    yield "(" if needs_parentheses else ""
    yield from _pieces(node)
    yield ")" if needs_parentheses else ""


def _of_comparison(term: Comparison) -> Iterator[str | tuple[str, ...]]:
    subject, value = term.subject, term.value
    if subject in _SHORT:
        yield _SHORT[subject]
    elif subject.kind is Kind.ATTRIBUTE:
        yield "span."
        yield _keys(f"attributes.{subject.key}")
    elif subject.has_key:
        yield f"{subject.kind}."
        yield _keys(subject.key)
    else:
        yield f"trace.{subject}" if subject.is_number else subject.kind.value
    yield f" {term.operator}"
    if value is None:
        return
    yield " "
    if term.operator is Operator.BETWEEN and isinstance(value, tuple):
        yield " AND ".join(map(_number, value))
    elif isinstance(value, tuple):
        yield _list(map(str, value))
    elif isinstance(value, str):
        yield (f"'{value}'", f'"{value}"')
    else:
        yield _number(value)


def _keys(key: str) -> tuple[str, ...]:
    is_bare = _BARE.fullmatch(key) and not UNQUOTED_NEVER.intersection(key.upper().split("."))
    written = (f"`{key}`", f'"{key}"', f"'{key}'", f'"`{key}`"', f"'`{key}`'")
    fitting = tuple(text for text in written if key_of(text) == key)
    return (key, *fitting) if is_bare else fitting


def _chosen(ways: Iterable[str], rest: str) -> str:
    for way in ways:
        if way[0] not in "`'\"" or first_token(way + rest) == way:
            return way
    raise ValueError("the tree holds a text that no filter can be written with")


def _number(value: object) -> str:
    # repr(1e22) is '1e+22', which is no number to sqlparse; 1e999 is read as infinity.
    return repr(value).replace("e+", "e").replace("inf", "1e999")


def _list(items: Iterable[str]) -> str:
    """Write a list, in which MLflow reads Python's escapes."""
    plain = ("".join(c if c.isprintable() and c not in "\\'\"" else f"\\U{ord(c):08x}" for c in i) for i in items)
    return "(" + ", ".join(f"'{item}'" for item in plain) + ",)"
