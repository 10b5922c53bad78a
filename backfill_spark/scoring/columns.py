"""The columns of a trace on their way to a Python worker: bytes of texts there, Python's texts here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add, and_
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark import schema
from backfill_spark.models import ScorerSpec
from backfill_spark.scoring.arguments import HAS_BYTES, columns_for
from backfill_spark.traces.texts import json_text

if TYPE_CHECKING:
    from pyspark.sql import Column

# Wrapped, so that one expression serves a source with native columns and one with JSON texts in their place.
_WRAPPED = {name for name in schema.TRACES.names if isinstance(schema.TRACES[name].dataType, T.MapType | T.ArrayType)}
_WRAPPING = len('{"v":'), len("}")


def worker_inputs(
    specs: Sequence[ScorerSpec], available: frozenset[str], *, trace_mb: float
) -> tuple[list[str], Column, Column | None]:
    """Return a worker's part of a TRACES frame: names, a mask of too large traces, and a struct of texts.

    Texts travel as bytes: one that is no UTF-8 would end the task where Arrow makes strings of them. Measured on
    200,000 texts of 600 bytes: decoding here costs nothing that shows, looking at them in the JVM a sixth.
    """
    needs = [columns_for(spec.signature, available) for spec in specs]
    names = sorted(frozenset().union(*needs))
    nobody = F.lit(0).cast("long")
    if not names:
        return names, nobody, None
    texts = {name: _as_text(name) for name in names}
    is_large = {
        need: _size([texts[name] for name in need]) > int(trace_mb * 1024 * 1024) for need in dict.fromkeys(needs)
    }
    bits = dict.fromkeys(needs, 0)
    for bit, need in enumerate(needs):
        bits[need] |= 1 << bit if bit < 63 else -(1 << 63)
    masks = [F.when(large, F.lit(bits[need]).cast("long")).otherwise(nobody) for need, large in is_large.items()]
    # Inputs are blanked, not the call (F.when around a UDF calls it for every row), and only where every scorer
    # that wants them finds the trace too large: no scorer's result depends on the others in the job.
    given = []
    for name in names:
        large = reduce(and_, (is_large[need] for need in is_large if name in need))
        given += [F.lit(name), F.when(~large, texts[name])]
    return names, reduce(lambda a, b: a.bitwiseOR(b), masks), F.named_struct(*given)


def worker_columns(names: Sequence[str], columns: Sequence[list[bytes | None]]) -> dict[str, Sequence[Any]]:
    """Decode the columns that arrive in a worker, for `score_batch` and `render_batch`."""
    given: dict[str, Sequence[Any]] = {}
    for name, values in zip(names, columns, strict=True):
        try:
            texts: list[Any] = [None if value is None else value.decode() for value in values]
        except UnicodeDecodeError:
            texts = [None if value is None else _text_or_bytes(value) for value in values]
            given[HAS_BYTES] = ()
        given[name] = _unwrapped(texts) if name in _WRAPPED else texts
    return given


def _text_or_bytes(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return bytes(value)  # it may be a bytearray


def _size(texts: Sequence[Column]) -> Column:
    lengths = (F.coalesce(F.octet_length(text), F.lit(0)).cast("long") for text in texts)
    return reduce(add, lengths, F.lit(0).cast("long"))


def _as_text(name: str) -> Column:
    column = F.col(name)
    if name in _WRAPPED:
        # named_struct, not struct(… AS v): two aliases are never equal, and Spark would make the JSON twice.
        return json_text(F.named_struct(F.lit("v"), column)).cast("binary")
    if isinstance(schema.TRACES[name].dataType, T.TimestampType):
        column = F.unix_micros(column)
    # Numbers as texts, too: a NULL would make a pandas column of doubles.
    return column.cast("string").cast("binary")


def _unwrapped(texts: list[Any]) -> list[Any]:
    first, last = _WRAPPING
    # A NULL is `{}`: its key is left out. What is no text has no wrapping.
    return [
        None if text is None or len(text) <= first + last else text if text.__class__ is bytes else text[first:-last]
        for text in texts
    ]
