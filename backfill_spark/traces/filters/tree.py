"""The syntax tree of a filter: comparisons under AND, and in the extended dialect OR and NOT."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

TRACE_NAME = "mlflow.traceName"
SOURCE_RUN = "mlflow.sourceRun"
SESSION = "mlflow.trace.session"
LINKED_PROMPTS = "mlflow.linkedPrompts"
JSON_KEYS = frozenset({"mlflow.trace.tokenUsage", "mlflow.trace.cost"})
"""Metadata that MLflow keeps in columns of numbers: no LIKE on them."""
CONTENT = "content"
"""Key of a span's whole text, which `trace.text` searches."""

Number: TypeAlias = int | float
Value: TypeAlias = str | Number | tuple[str, ...] | tuple[Number, Number] | None


class Kind(StrEnum):
    """What a comparison looks at; the value is how it is written, before the key where there is one."""

    STATUS = "status"
    REQUEST_ID = "request_id"
    CLIENT_REQUEST_ID = "client_request_id"
    TIMESTAMP = "timestamp_ms"
    EXECUTION_TIME = "execution_time_ms"
    END_TIME = "end_time_ms"
    PROMPT = "prompt"
    TAG = "tags"
    METADATA = "metadata"
    SPAN = "span"
    ATTRIBUTE = "span.attributes"
    FEEDBACK = "feedback"
    EXPECTATION = "expectation"
    ISSUE = "issue"


class Operator(StrEnum):
    """How a comparison compares; the value is its spelling."""

    EQ = "="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    BETWEEN = "BETWEEN"
    IN = "IN"
    NOT_IN = "NOT IN"
    LIKE = "LIKE"
    ILIKE = "ILIKE"
    RLIKE = "RLIKE"
    IS_NULL = "IS NULL"
    IS_NOT_NULL = "IS NOT NULL"


_COLUMNS: dict[Kind, tuple[str, ...]] = {
    Kind.STATUS: ("state",),
    Kind.REQUEST_ID: ("trace_id",),
    Kind.CLIENT_REQUEST_ID: ("client_request_id",),
    Kind.TIMESTAMP: ("request_time",),
    Kind.EXECUTION_TIME: ("execution_duration_ms",),
    Kind.END_TIME: ("request_time", "execution_duration_ms"),
    Kind.PROMPT: ("tags",),
    Kind.TAG: ("tags",),
    Kind.METADATA: ("trace_metadata",),
    Kind.SPAN: ("spans",),
    Kind.ATTRIBUTE: ("spans",),
    Kind.FEEDBACK: ("assessments",),
    Kind.EXPECTATION: ("assessments",),
    Kind.ISSUE: ("assessments",),
}
_TIMES = frozenset({Kind.TIMESTAMP, Kind.EXECUTION_TIME, Kind.END_TIME})
_KEYED = frozenset({Kind.TAG, Kind.METADATA, Kind.SPAN, Kind.ATTRIBUTE, Kind.FEEDBACK, Kind.EXPECTATION, Kind.ISSUE})
_SPANS = frozenset({Kind.SPAN, Kind.ATTRIBUTE})
_ASSESSMENTS = frozenset({Kind.FEEDBACK, Kind.EXPECTATION})
_TEXT = frozenset({Operator.EQ, Operator.NE, Operator.LIKE, Operator.ILIKE, Operator.RLIKE})
_NULLS = frozenset({Operator.IS_NULL, Operator.IS_NOT_NULL})
_LISTS = frozenset({Operator.IN, Operator.NOT_IN})
ORDER = frozenset({Operator.LT, Operator.LE, Operator.GT, Operator.GE, Operator.BETWEEN})


@dataclass(frozen=True, slots=True)
class Subject:
    """The left side of a comparison; `key` where the kind has one: of a tag, of a span, of a feedback."""

    kind: Kind
    key: str = ""

    def __str__(self) -> str:
        return f"{self.kind}.{self.key}" if self.has_key else self.kind.value

    @property
    def has_key(self) -> bool:
        return self.kind in _KEYED

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of TRACES that hold it."""
        if self == Subject(Kind.METADATA, SESSION):
            return ("trace_metadata", "session_id")
        return ("spans", "request", "response") if self.is_content else _COLUMNS[self.kind]

    @property
    def is_number(self) -> bool:
        """True for times and durations, in milliseconds."""
        return self.kind in _TIMES

    @property
    def is_of_span(self) -> bool:
        """True for what one span has."""
        return self.kind in _SPANS

    @property
    def is_content(self) -> bool:
        """True for the whole text of a span."""
        return self.kind is Kind.SPAN and self.key == CONTENT

    @property
    def is_assessment(self) -> bool:
        """True for feedback and expectations."""
        return self.kind in _ASSESSMENTS

    @property
    def operators(self) -> frozenset[Operator]:
        """Operators that MLflow executes on it; BETWEEN is of the extended dialect."""
        if self.is_number:
            return ORDER | {Operator.EQ, Operator.NE}
        if self.is_assessment:
            return ORDER | _TEXT | _NULLS
        if self.is_content:
            return frozenset({Operator.LIKE, Operator.ILIKE})
        if self.kind in (Kind.PROMPT, Kind.ISSUE):
            return frozenset({Operator.EQ})
        if self.kind is Kind.ATTRIBUTE:
            return _TEXT
        if self.kind is Kind.METADATA and self.key in JSON_KEYS:
            return frozenset({Operator.EQ, Operator.NE}) | _NULLS
        return _TEXT | (_NULLS if self.kind in (Kind.TAG, Kind.METADATA) else _LISTS)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One term of a filter. `value` is None for IS [NOT] NULL, a tuple for [NOT] IN and BETWEEN."""

    subject: Subject
    operator: Operator
    value: Value = None


@dataclass(frozen=True, slots=True)
class And:
    """All of two or more nodes hold, none of which is an And."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of two or more nodes holds, none of which is an Or."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The node does not hold."""

    node: Node


Node: TypeAlias = "Comparison | And | Or | Not"


def joined(kind: type[And | Or], nodes: list[Node]) -> Node:
    """Return the nodes under one AND or OR; what is joined alike already is taken apart."""
    flat = tuple(inner for node in nodes for inner in (node.nodes if isinstance(node, kind) else (node,)))
    return flat[0] if len(flat) == 1 else kind(flat)


def terms_of(node: Node | None) -> tuple[Node, ...]:
    """Return the nodes that must all hold."""
    return () if node is None else node.nodes if isinstance(node, And) else (node,)


def comparisons(node: Node | None) -> Iterator[Comparison]:
    """Give each comparison of a tree, from left to right."""
    if isinstance(node, Comparison):
        yield node
    elif isinstance(node, Not):
        yield from comparisons(node.node)
    elif node is not None:
        for inner in node.nodes:
            yield from comparisons(inner)


def is_of_one_span(node: Node) -> bool:
    """True for comparisons of spans, and what AND and OR make of them: they are asked of one span at a time."""
    if isinstance(node, Comparison):
        return node.subject.is_of_span
    return isinstance(node, (And, Or)) and all(map(is_of_one_span, node.nodes))


def canonical(node: Node | None) -> str:
    """Return one text for all filters with the same terms, in any order."""
    return "\n".join(sorted({_row(term) for term in terms_of(node)}))


def _row(node: Node) -> str:
    if isinstance(node, Comparison):
        return json.dumps([node.subject.kind, node.subject.key, node.operator, node.value])
    if isinstance(node, Not):
        return json.dumps(["NOT", _row(node.node)])
    return json.dumps([type(node).__name__.upper(), *sorted(map(_row, node.nodes))])
