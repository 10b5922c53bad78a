"""What comparisons of spans ask of one span, whatever a source calls its parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.traces.filters.texts import compared
from backfill_spark.traces.filters.tree import And, Comparison, Kind, Node, Or, comparisons
from backfill_spark.traces.texts import json_text, unquoted

_TYPE_KEYS = ("mlflow.spanType", "openinference.span.kind")
_TEXTS = "map<string,string>"


def any_span(node: Node, schema: T.StructType | None) -> Column:
    """Return whether one span meets all that `node` asks of spans: never NULL.

    A trace without spans counts as one span that has nothing but a text: its request and response.
    """
    items, span_of = _spans(schema)
    found = F.coalesce(F.exists(items, lambda item: _asked(node, span_of(item))), F.lit(False))
    if not any(term.subject.is_content for term in comparisons(node)):
        return found
    has_none = F.coalesce(F.size(items) <= 0, F.lit(True))
    own = [F.col(name) for name in ("request", "response") if schema is None or name in schema.fieldNames()]
    missing = F.lit(None).cast("string")
    text = F.when(F.coalesce(*own, missing).isNotNull(), F.concat_ws("\n", *own))
    return found | (has_none & _holds(node, lambda term: text if term.subject.is_content else missing))


def unreadable_spans(schema: T.StructType | None) -> Column:
    """Return whether the spans are bytes that are no UTF-8, or a text that is no list: may be NULL."""
    if _kind(schema, "spans") is not T.StringType:
        return F.lit(False)
    text = F.col("spans")
    return ~F.is_valid_utf8(text) | (_items(text).isNull() & (F.trim(text) != "null"))


def listed(schema: T.StructType | None, name: str) -> Column:
    """Return a list as ARRAY<STRING> of JSON texts: of JSON text, or of whatever an unknown frame has."""
    if schema is None:
        return _items(F.get_json_object(json_text(F.named_struct(F.lit("v"), F.col(name))), "$.v"))
    return _items(F.col(name))


def element_of(schema: T.StructType | None, name: str) -> T.StructType | None:
    """Return the struct that a list holds; None where it is JSON text, or may be."""
    kind = None if schema is None or name not in schema.fieldNames() else schema[name].dataType
    return kind.elementType if isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.StructType) else None


def _kind(schema: T.StructType | None, name: str) -> type[T.DataType] | None:
    return None if schema is None or name not in schema.fieldNames() else type(schema[name].dataType)


def _items(text: Column) -> Column:
    return F.from_json(unquoted(text), "array<string>")


class _OfText:
    """A span as JSON text."""

    def __init__(self, item: Column) -> None:
        self.content = item
        self.name = self.at("$.name")
        self.kind = self.at("$.span_type")
        self.status = F.coalesce(
            self.at("$.status.code"), self.at("$.status.status_code"), self.at("$.status_code"), self.at("$.status")
        )

    def at(self, path: str) -> Column:
        return F.get_json_object(self.content, path)

    def attribute(self, key: str) -> Column:
        return F.try_element_at(F.from_json(self.at("$.attributes"), _TEXTS), F.lit(key))


class _OfStruct:
    """A span as a struct of its source."""

    def __init__(self, item: Column, kind: T.StructType) -> None:
        self._item, self._fields = item, {field.name: field.dataType for field in kind.fields}
        self.name, self.kind = self.field("name"), self.field("span_type")
        self.status = self.field("status_code")
        status = self._fields.get("status")
        if isinstance(status, T.StructType):
            code = next((name for name in ("code", "status_code") if name in status.fieldNames()), None)
            self.status = self.status if code is None else F.coalesce(item["status"][code].cast("string"), self.status)
        elif status is not None:
            self.status = F.coalesce(self.status, item["status"].cast("string"))

    @property
    def content(self) -> Column:
        return json_text(self._item)

    def field(self, name: str) -> Column:
        return self._item[name].cast("string") if name in self._fields else F.lit(None).cast("string")

    def attribute(self, key: str) -> Column:
        kind = self._fields.get("attributes")
        if kind is None:
            return F.lit(None).cast("string")
        value = self._item["attributes"]
        if isinstance(kind, T.MapType):
            inner = F.try_element_at(value, F.lit(key).cast(kind.keyType))
            return json_text(inner) if isinstance(kind.valueType, _NESTED) else inner.cast("string")
        text = value if isinstance(kind, T.StringType) else json_text(value)
        return F.try_element_at(F.from_json(unquoted(text), _TEXTS), F.lit(key))


_NESTED = (T.StructType, T.MapType, T.ArrayType, T.VariantType)


def _spans(schema: T.StructType | None) -> tuple[Column, Callable[[Column], _OfText | _OfStruct]]:
    if schema is not None and "spans" not in schema.fieldNames():
        return F.lit(None).cast("array<string>"), _OfText
    struct = element_of(schema, "spans")
    if struct is None:
        return listed(schema, "spans"), _OfText
    return F.col("spans"), lambda item: _OfStruct(item, struct)


def _asked(node: Node, span: _OfText | _OfStruct) -> Column:
    def subject(term: Comparison) -> Column:
        if term.subject.kind is Kind.ATTRIBUTE:
            return _bare(span.attribute(term.subject.key))
        match term.subject.key:
            case "name":
                return span.name
            case "type":
                kind = F.coalesce(span.kind, *(span.attribute(key) for key in _TYPE_KEYS))
                return F.coalesce(F.nullif(F.trim(kind, F.lit('"')), F.lit("")), F.lit("UNKNOWN"))
            case "status":
                code = F.regexp_replace(F.upper(span.status), "^STATUS_CODE_", "")
                numbers = F.create_map(*(F.lit(t) for t in ("0", "UNSET", "1", "OK", "2", "ERROR")))
                return F.coalesce(F.try_element_at(numbers, code), code, F.lit("UNSET"))
            case _:
                return span.content

    return _holds(node, subject)


def _holds(node: Node, subject: Callable[[Comparison], Column]) -> Column:
    """Return whether what `subject` gives compares as the tree says; it holds no NOT."""
    if isinstance(node, Comparison):
        return F.coalesce(compared(subject(node), node.operator, node.value), F.lit(False))
    assert isinstance(node, (And, Or))
    parts = [_holds(inner, subject) for inner in node.nodes]
    return reduce((lambda a, b: a & b) if isinstance(node, And) else (lambda a, b: a | b), parts)


def _bare(text: Column) -> Column:
    """An attribute without the quotes of a JSON text, as MLflow writes each of them."""
    return F.coalesce(unquoted(text), text)
