"""The syntax tree → one BOOLEAN Spark column, with the answers of MLflow's default store (SQLite)."""

from __future__ import annotations

from functools import reduce

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.models import UNREADABLE
from backfill_spark.traces.filters import numbers, texts
from backfill_spark.traces.filters.assessments import any_assessment, seen, unreadable_assessments
from backfill_spark.traces.filters.related import MORE
from backfill_spark.traces.filters.spans import any_span, unreadable_spans
from backfill_spark.traces.filters.tree import (
    SESSION,
    And,
    Comparison,
    Kind,
    Node,
    Not,
    Operator,
    Subject,
    is_of_one_span,
    terms_of,
)

_PLAIN = frozenset({Kind.STATUS, Kind.REQUEST_ID, Kind.CLIENT_REQUEST_ID})
_PROMPTS = "array<struct<name:string,version:string>>"


def matched(node: Node | None, schema: T.StructType | None) -> Column:
    """The condition that a tree holds or cannot be decided: never NULL, True for none."""
    return reduce(lambda a, b: a & b, [_matched(term, schema) for term in _grouped(terms_of(node))], F.lit(True))


def undecided(node: Node | None, schema: T.StructType | None) -> Column:
    """The condition that a tree cannot be decided, as a text is unreadable: never NULL, False for none."""
    if node is None:
        return F.lit(False)
    terms = [_decided(term, schema) for term in _grouped(terms_of(node))]
    return reduce(lambda a, b: a & b, terms).isNull()


def _grouped(terms: tuple[Node, ...]) -> tuple[Node, ...]:
    """Put what is asked of spans into one node: it must hold on one span."""
    spans = tuple(term for term in terms if is_of_one_span(term))
    rest = tuple(term for term in terms if not is_of_one_span(term))
    return (*rest, And(spans)) if len(spans) > 1 else terms


def _matched(node: Node, schema: T.StructType | None) -> Column:
    if isinstance(node, Comparison) and _is_simple(node.subject):
        return _simple(node, schema)
    return F.coalesce(_decided(node, schema), F.lit(True))


def _decided(node: Node, schema: T.StructType | None) -> Column:
    """The tree by SQL's logic of three values: NULL where nobody can say."""
    if is_of_one_span(node):
        return F.when(~F.coalesce(unreadable_spans(schema), F.lit(False)), any_span(node, schema))
    if isinstance(node, Not):
        return ~_decided(node.node, schema)
    if not isinstance(node, Comparison):
        parts = [_decided(inner, schema) for inner in _of_alternatives(node)]
        return reduce((lambda a, b: a & b) if isinstance(node, And) else (lambda a, b: a | b), parts)
    if _is_simple(node.subject):
        return _simple(node, schema)
    return F.when(~F.coalesce(_unreadable(node, schema), F.lit(False)), F.coalesce(_holds(node, schema), F.lit(False)))


def _of_alternatives(node: Node) -> tuple[Node, ...]:
    assert not isinstance(node, (Comparison, Not))
    return _grouped(node.nodes) if isinstance(node, And) else node.nodes


def _is_simple(subject: Subject) -> bool:
    """True for what is compared in the bare column, so that the comparison may reach a file scan."""
    return subject.is_number or subject.kind in _PLAIN


def _simple(term: Comparison, schema: T.StructType | None) -> Column:
    """Never NULL. Bytes that are no UTF-8 are no text that a filter can name."""
    kind, value = term.subject.kind, term.value
    column = _column(term.subject.columns[0], schema)
    if kind is Kind.TIMESTAMP:
        return column.isNotNull() & numbers.moment_compared(column, term.operator, value)
    if kind is Kind.EXECUTION_TIME:
        return column.isNotNull() & numbers.compared(column, term.operator, value)
    if kind is Kind.END_TIME:
        duration = F.coalesce(_column("execution_duration_ms", schema), F.lit(0))
        return F.coalesce(numbers.compared(F.unix_millis(column) + duration, term.operator, value), F.lit(False))
    if kind is Kind.STATUS:
        found = texts.compared(F.upper(column), term.operator, value)
        if term.operator is Operator.EQ and str(value).isascii():
            # All spellings lie between these two, and a scan can skip what does not.
            between = (column >= F.lit(str(value).upper())) & (column <= F.lit(str(value).lower()))
            return column.isNotNull() & between & found
        return column.isNotNull() & found
    return column.isNotNull() & texts.compared(column, term.operator, value)


def _unreadable(term: Comparison, schema: T.StructType | None) -> Column:
    if term.subject.is_assessment or term.subject.kind is Kind.ISSUE:
        return unreadable_assessments(schema)
    found = ~F.is_valid_utf8(_text(term.subject, schema))
    column = term.subject.columns[0]
    return F.coalesce(found, F.lit(False)) | _value_of(column, UNREADABLE, schema).isNotNull()


def _holds(term: Comparison, schema: T.StructType | None) -> Column:
    kind = term.subject.kind
    if term.subject.is_assessment:
        has_more = schema is not None and MORE in schema.fieldNames()
        return any_assessment(term, schema, F.col(MORE) if has_more else None)
    if kind is Kind.ISSUE:
        return F.exists(seen(schema), lambda item: (item["kind"] == "issue") & (item["name"] == str(term.value)))
    if kind is Kind.PROMPT:
        name, _, version = str(term.value).partition("/")
        linked = F.from_json(_text(term.subject, schema), _PROMPTS)
        return F.exists(linked, lambda prompt: (prompt["name"] == name) & (prompt["version"] == version))
    return texts.compared(_text(term.subject, schema), term.operator, term.value)


def _text(subject: Subject, schema: T.StructType | None) -> Column:
    """The value of a tag or of metadata; NULL where there is none."""
    key = "mlflow.linkedPrompts" if subject.kind is Kind.PROMPT else subject.key
    value = _value_of(subject.columns[0], key, schema)
    # MLflow, too, keeps the session in a column of its own, filled from the metadata.
    return F.coalesce(value, _column("session_id", schema)) if subject == Subject(Kind.METADATA, SESSION) else value


def _value_of(column: str, key: str, schema: T.StructType | None) -> Column:
    if schema is not None and column not in schema.fieldNames():
        return F.lit(None).cast("string")
    return F.try_element_at(F.col(column), F.lit(key))


_CASTS = {"request_time": "timestamp", "execution_duration_ms": "bigint"}


def _column(name: str, schema: T.StructType | None) -> Column:
    if schema is None or name in schema.fieldNames():
        return F.col(name)
    return F.lit(None).cast(_CASTS.get(name, "string"))
