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


def canonical(terms: Iterable[Comparison]) -> str:
    """Return one text for all filters with the same terms, in any order."""
    rows = {json.dumps([t.subject.kind, t.subject.key, t.operator, t.value]) for t in terms}
    return "\n".join(sorted(rows))
