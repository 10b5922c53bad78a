"""The syntax tree of a filter: comparisons, joined by AND."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

TRACE_NAME = "mlflow.traceName"
SOURCE_RUN = "mlflow.sourceRun"
SESSION = "mlflow.trace.session"
LINKED_PROMPTS = "mlflow.linkedPrompts"
JSON_KEYS = frozenset({"mlflow.trace.tokenUsage", "mlflow.trace.cost"})
"""Metadata that MLflow keeps in columns of numbers: no LIKE on them."""

Value: TypeAlias = str | int | float | tuple[str, ...] | None


class Kind(StrEnum):
    """What a comparison looks at; the value is MLflow's name of it."""

    STATUS = "status"
    REQUEST_ID = "request_id"
    CLIENT_REQUEST_ID = "client_request_id"
    TIMESTAMP = "timestamp_ms"
    EXECUTION_TIME = "execution_time_ms"
    END_TIME = "end_time_ms"
    TAG = "tags"
    METADATA = "metadata"


class Operator(StrEnum):
    """How a comparison compares; the value is its spelling."""

    EQ = "="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
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
    Kind.TAG: ("tags",),
    Kind.METADATA: ("trace_metadata",),
}
_TEXT = frozenset({Operator.EQ, Operator.NE, Operator.LIKE, Operator.ILIKE, Operator.RLIKE})
_NULLS = frozenset({Operator.IS_NULL, Operator.IS_NOT_NULL})
_LISTS = frozenset({Operator.IN, Operator.NOT_IN})
_ORDER = frozenset({Operator.EQ, Operator.NE, Operator.LT, Operator.LE, Operator.GT, Operator.GE})


@dataclass(frozen=True, slots=True)
class Subject:
    """The left side of a comparison; `key` only for tags and metadata."""

    kind: Kind
    key: str = ""

    def __str__(self) -> str:
        return f"{self.kind}.{self.key}" if self.kind in (Kind.TAG, Kind.METADATA) else self.kind.value

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of TRACES that hold it."""
        if self == Subject(Kind.METADATA, SESSION):
            return ("trace_metadata", "session_id")
        return _COLUMNS[self.kind]

    @property
    def is_number(self) -> bool:
        """True for times and durations, in milliseconds."""
        return self.kind in (Kind.TIMESTAMP, Kind.EXECUTION_TIME, Kind.END_TIME)

    @property
    def operators(self) -> frozenset[Operator]:
        """Operators that MLflow executes on it."""
        if self.is_number:
            return _ORDER
        if self.kind is Kind.METADATA and self.key in JSON_KEYS:
            return frozenset({Operator.EQ, Operator.NE}) | _NULLS
        return _TEXT | (_NULLS if self.kind in (Kind.TAG, Kind.METADATA) else _LISTS)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One term of a filter. `value` is None for IS [NOT] NULL and a tuple for [NOT] IN."""

    subject: Subject
    operator: Operator
    value: Value = None

    def __str__(self) -> str:
        """Write the term as a filter; a value that holds both kinds of quotes cannot be written."""
        kind, key = self.subject.kind, self.subject.key
        left = f"{kind}.{_quoted(key, '`')}" if kind in (Kind.TAG, Kind.METADATA) else f"trace.{kind}"
        if self.value is None:
            return f"{left} {self.operator}"
        if isinstance(self.value, tuple):
            right = "(" + ", ".join(_python_text(item) for item in self.value) + ",)"
        elif isinstance(self.value, str):
            right = _quoted(self.value, "'")
        else:
            # repr(1e22) is '1e+22', which is no number to sqlparse; 1e999 is read as infinity.
            right = repr(self.value).replace("e+", "e").replace("inf", "1e999")
        return f"{left} {self.operator} {right}"


def render(terms: Iterable[Comparison]) -> str:
    """Return a filter text that parses to `terms`."""
    return " AND ".join(str(term) for term in terms)


def canonical(terms: Iterable[Comparison]) -> str:
    """Return one text for all filters with the same terms, in any order."""
    rows = {json.dumps([t.subject.kind, t.subject.key, t.operator, t.value]) for t in terms}
    return "\n".join(sorted(rows))


def _quoted(text: str, mark: str) -> str:
    mark = '"' if mark in text else mark
    return f"{mark}{text}{mark}"


def _python_text(text: str) -> str:
    """Write an item of a list, in which MLflow reads Python's escapes."""
    return "'" + "".join(c if c.isprintable() and c not in "\\'" else f"\\U{ord(c):08x}" for c in text) + "'"
