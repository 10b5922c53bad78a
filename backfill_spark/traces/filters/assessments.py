"""What comparisons of feedback and expectations ask of the assessments of a trace, whatever shape they have."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.models import compact_json
from backfill_spark.traces.filters.numbers import FUNCTIONS
from backfill_spark.traces.filters.spans import element_of, listed
from backfill_spark.traces.filters.texts import compared
from backfill_spark.traces.filters.tree import ORDER, Comparison, Kind, Operator

SEEN = "array<struct<kind:string,name:string,value:string,session:string>>"
"""An assessment that counts. `value` is JSON text, `null` where it has an error instead; `session` is the session that
it is about, NULL where it is about its trace alone."""
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_SESSION = "mlflow.trace.session"


def any_assessment(term: Comparison, schema: T.StructType | None, more: Column | None) -> Column:
    """Return whether an assessment meets the comparison: never NULL. `more` are further ones, as SEEN."""
    found = _exists(term, seen(schema))
    if more is not None:
        found = found | _exists(term, more)
    return ~found if term.operator is Operator.IS_NULL else found


def unreadable_assessments(schema: T.StructType | None) -> Column:
    """Return whether the assessments are bytes that are no UTF-8, or a text that is no list: may be NULL."""
    if schema is None or "assessments" not in schema.fieldNames() or element_of(schema, "assessments") is not None:
        return F.lit(False)
    text = F.col("assessments")
    return ~F.is_valid_utf8(text) | (listed(schema, "assessments").isNull() & (F.trim(text) != "null"))


def seen(schema: T.StructType | None) -> Column:
    """Return the valid assessments of each trace, as SEEN."""
    if schema is not None and "assessments" not in schema.fieldNames():
        return F.lit(None).cast(SEEN)
    struct = element_of(schema, "assessments")
    if struct is None:
        # A frame of unknown shape may have an array, whose values are texts of JSON.
        is_text = F.lit(True) if schema is not None else F.typeof("assessments") == "string"
        items = F.transform(listed(schema, "assessments"), lambda item: _of_text(item, is_text))
    else:
        items = F.transform("assessments", lambda item: _of_struct(item, struct))
    return F.filter(items.cast(SEEN), lambda item: item["kind"].isNotNull())


def _exists(term: Comparison, items: Column) -> Column:
    kind, name = str(term.subject.kind), term.subject.key

    def meets(item: Column) -> Column:
        is_asked = (item["kind"] == kind) & (item["name"] == name)
        if term.operator in (Operator.IS_NULL, Operator.IS_NOT_NULL):
            return is_asked
        return is_asked & F.coalesce(_compared(item["value"], term), F.lit(False))

    return F.coalesce(F.exists(items, meets), F.lit(False))


def _compared(value: Column, term: Comparison) -> Column:
    number = F.when(value.rlike(_NUMBER), value.try_cast("double"))
    how = term.operator
    if how in ORDER:
        if isinstance(term.value, tuple):
            low, high = (F.lit(float(bound)) for bound in term.value)
            return (number >= low) & (number <= high)
        return FUNCTIONS[how](number, F.lit(float(term.value or 0)))  # type: ignore[no-any-return]
    if how not in (Operator.EQ, Operator.NE):
        return compared(value, how, term.value)
    # A text is written with or without its quotes; a number equals a number, however either is written.
    text = str(term.value)
    is_same = value.isin([text, compact_json(text)])
    try:
        same_number = number == F.lit(float(text))
    except ValueError:
        same_number = F.lit(False)
    is_same = is_same | F.coalesce(same_number, F.lit(False))
    return is_same if how is Operator.EQ else ~is_same


def _of_text(item: Column, is_text: Column) -> Column:
    def at(path: str) -> Column:
        return F.get_json_object(item, path)

    def json_at(path: str) -> Column:
        kept = F.to_json(F.try_variant_get(F.try_parse_json(item), path, "variant"))
        return F.when(is_text, kept).otherwise(_json(at(path)))

    valid = F.coalesce(at("$.valid"), F.lit("true")) != "false"
    feedback, expectation, issue = at("$.feedback"), at("$.expectation"), at("$.issue")
    plain = F.coalesce(at("$.expectation.serialized_value.value"), json_at("$.expectation.value"))
    return _seen(
        valid,
        F.coalesce(at("$.assessment_name"), at("$.name")),
        (feedback, json_at("$.feedback.value")),
        (expectation, plain),
        issue,
        at(f"$.metadata['{_SESSION}']"),
    )


def _of_struct(item: Column, struct: T.StructType) -> Column:
    missing = F.lit(None).cast("string")

    def field(value: Column, kind: T.DataType | None, *path: str) -> Column:
        for name in path:
            if not isinstance(kind, T.StructType) or name not in kind.fieldNames():
                return missing
            value, kind = value[name], kind[name].dataType
        return value

    def text(*path: str) -> Column:
        return field(item, struct, *path).cast("string")

    metadata = text("metadata")
    if "metadata" in struct.fieldNames():
        kind = struct["metadata"].dataType
        whole = item["metadata"]
        whole = F.from_json(whole, "map<string,string>") if isinstance(kind, T.StringType) else whole
        metadata = missing if isinstance(kind, T.StructType) else F.try_element_at(whole, F.lit(_SESSION))
    serialized = text("expectation", "serialized_value", "value")
    return _seen(
        F.lower(F.coalesce(text("valid"), F.lit("true"))) != "false",
        F.coalesce(text("assessment_name"), text("name")),
        (field(item, struct, "feedback"), _json(text("feedback", "value"))),
        (field(item, struct, "expectation"), F.coalesce(serialized, _json(text("expectation", "value")))),
        field(item, struct, "issue"),
        metadata,
    )


def _json(text: Column) -> Column:
    """The JSON text of a value that is kept as text: itself where it is JSON, else a JSON string of it."""
    whole = F.to_json(F.struct(text.alias("v")))
    quoted = F.regexp_extract(whole, r'(?s)^\{"v":(.*)\}$', 1)
    return F.when(F.try_parse_json(text).isNotNull(), F.trim(text)).when(text.isNotNull(), quoted)


def _seen(
    valid: Column,
    name: Column,
    feedback: tuple[Column, Column],
    expectation: tuple[Column, Column],
    issue: Column,
    session: Column,
) -> Column:
    """Return one assessment; its kind is NULL where it does not count."""
    kinds = ((Kind.FEEDBACK, feedback), (Kind.EXPECTATION, expectation), (Kind.ISSUE, (issue, F.lit("null"))))
    kind = F.coalesce(*(F.when(valid & there.isNotNull(), F.lit(str(k))) for k, (there, _) in kinds))
    value = F.coalesce(*(F.when(there.isNotNull(), text) for _, (there, text) in kinds), F.lit("null"))
    return F.struct(kind.alias("kind"), name.alias("name"), value.alias("value"), session.alias("session"))
