"""Columns of texts that mean the same in every session, and hide no bytes that are no UTF-8."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

# All that a session could decide otherwise.
_JSON = {
    "timeZone": "UTC",
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
    "dateFormat": "yyyy-MM-dd",
    "ignoreNullFields": "true",
}


def json_text(value: Column) -> Column:
    """Return a nested value as JSON text: times in UTC with microseconds, without fields that are NULL.

    Where a text inside is no UTF-8, so is the result: Spark's own text of the value is put behind the JSON, in which
    `to_json` has U+FFFD in silence. Only values that show a U+FFFD are looked at twice.
    """
    text = F.to_json(value, _JSON)
    plain = value.cast("string")
    torn = F.when(text.contains("\ufffd") & ~F.is_valid_utf8(plain), plain).otherwise("")
    # Not when(…).otherwise(text): Spark would make the JSON twice.
    return F.concat(text, torn)


def unquoted(text: Column) -> Column:
    """The value of a JSON text: without quotes where it is a string, else the JSON as it is."""
    bare = F.get_json_object(F.concat(F.lit('{"v":'), text, F.lit("}")), "$.v")
    return F.when(F.ltrim(text).startswith('"'), bare).otherwise(text)


def key_text(name: str) -> Column:
    """Return a text that stands beside results: bytes that are no UTF-8 are U+FFFD, or they would spoil the others."""
    return F.make_valid_utf8(name).alias(name)
