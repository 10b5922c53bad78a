"""What a scorer says as the columns that hold it: JSON text, a double, a text, extras; or why it cannot be stored."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from json.encoder import encode_basestring as quoted
from typing import Any, cast

from backfill_spark.models import ErrorCode
from backfill_spark.traces.assessment import DEFAULT_SOURCE_ID
from backfill_spark.traces.decode import clean

Columns = dict[str, Any]
"""A value as arguments of `result_row`; without `value`, why there is none."""

MAX_TEXT = 64_000
"""Characters of a value or rationale."""
MAX_NAME = 250
"""Characters of an assessment's name or of a metadata key: MLflow's own limit."""
_SOURCE_TYPES = {"CODE": "CODE", "LLM_JUDGE": "LLM_JUDGE", "AI_JUDGE": "LLM_JUDGE", "HUMAN": "HUMAN"}
_YES_NO = {"yes": 1.0, "no": 0.0}


def scalar_columns(value: Any, kind: type) -> Columns | None:
    """Return the columns of a bool, number or text, or None for anything else."""
    # type(), not isinstance(): an object may lie about its __class__.
    if kind is bool:
        return {"value": "true" if value else "false", "double": float(value)}
    if issubclass(kind, str):
        return _text_scalar(str.__str__(value))
    if issubclass(kind, int):
        return _int_scalar(int.__int__(value))
    if issubclass(kind, float):
        return _float_scalar(float.__float__(value))
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, numpy.generic):
        inner = value.item()
        if type(inner) is kind:  # longdouble has no Python counterpart
            inner = float(value) if issubclass(kind, numpy.floating) else None
        return None if inner is None else scalar_columns(inner, type(inner))
    return None


class _BadPartError(Exception):
    """A part of a list or dict that cannot be stored: its code, and why."""


def container_columns(value: Any) -> Columns | None:
    """Return the columns of a list or dict as JSON text, or None for anything else."""
    if not issubclass(type(value), list | dict):
        return None
    try:
        text = clean(json.dumps(_json_of(value), ensure_ascii=False, separators=(",", ":")))
    except _BadPartError as error:
        code, why = error.args
        return failed(code, f"In a {type_name(value)}: {why}")
    except RecursionError:
        return failed(ErrorCode.BAD_RETURN_TYPE, f"A {type_name(value)} that nests too deeply.")
    if len(text) > MAX_TEXT:
        why = f"A {type_name(value)} of {len(text):,} characters of JSON; the longest value is {MAX_TEXT:,}."
        return failed(ErrorCode.VALUE_TOO_LONG, why)
    return {"value": text}


def _json_of(value: Any) -> Any:
    kind = type(value)
    if value is None:
        return None
    if issubclass(kind, list):
        return [_json_of(item) for item in list.__iter__(value)]
    if issubclass(kind, dict):
        odd = next((key for key in dict.keys(value) if not issubclass(type(key), str)), None)
        if odd is not None:
            raise _BadPartError(ErrorCode.BAD_RETURN_TYPE, f"A key is {type_name(odd)}; keys are texts.")
        return {str.__str__(key): _json_of(item) for key, item in dict.items(value)}
    scalar = scalar_columns(value, kind)
    if scalar is None:
        raise _BadPartError(ErrorCode.BAD_RETURN_TYPE, f"{type_name(value)} is nothing that JSON has.")
    if "error" in scalar:
        raise _BadPartError(*scalar["error"])
    return json.loads(scalar["value"])


def _text_scalar(value: str) -> Columns:
    if len(value) > MAX_TEXT:
        why = f"A text of {len(value):,} characters; the longest value is {MAX_TEXT:,}. Return less of it."
        return failed(ErrorCode.VALUE_TOO_LONG, why)
    text = clean(value)
    double = _YES_NO.get(text.lower()) if len(text) < 4 else None
    return {"value": quoted(text), "double": double, "text": text}


def _int_scalar(value: int) -> Columns:
    try:
        double = float(value)
    except OverflowError:
        why = f"An integer of {value.bit_length():,} bits; a value must fit a double (below 1.8e308)."
        return failed(ErrorCode.VALUE_OUT_OF_RANGE, why)
    return {"value": int.__repr__(value), "double": double}


def _float_scalar(value: float) -> Columns:
    if not math.isfinite(value):
        why = f"{value!r} is not a finite number; return None where there is no value."
        return failed(ErrorCode.VALUE_NOT_FINITE, why)
    return {"value": float.__repr__(value), "double": value}


def failed(code: ErrorCode, why: str) -> Columns:
    """Return the error of a value that cannot be stored: its code, and why."""
    return {"error": (code, why)}


def type_name(value: object) -> str:
    """Return the name of its type; never raises."""
    try:
        return str.__str__(type(value).__name__)[:100]
    except BaseException:
        return "an unnamed type"


def optional_text(value: Any, limit: int) -> str | None:
    """Return a text of at most `limit` characters, whatever the value is; None for None."""
    if value is None:
        return None
    text = str.__str__(value) if issubclass(type(value), str) else safe_text(value)
    return clean(text[:limit])


def safe_text(value: object) -> str:
    """Return `str` of a value; never raises."""
    try:
        return str.__str__(str(value))
    except BaseException:
        return "<str failed>"


def extra_column(item: Any) -> str | None:
    """Return the fields that few feedbacks have as a JSON object, see `schema.EXTRA`."""
    found: dict[str, Any] = {}
    span_id = optional_text(item.span_id, MAX_NAME)
    if span_id:
        found["span_id"] = span_id
    source = item.source
    if source is not None:
        kind = _SOURCE_TYPES.get(safe_text(getattr(source, "source_type", "")).upper())
        who = optional_text(getattr(source, "source_id", None), MAX_NAME)
        is_default = kind == "CODE" and who == DEFAULT_SOURCE_ID
        if kind is not None and not is_default:
            found["source_type"] = kind
        if who and who != DEFAULT_SOURCE_ID:
            found["source_id"] = who
    metadata = _metadata(item.metadata)
    if metadata:
        found["metadata"] = metadata
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")) if found else None


def _metadata(value: Any) -> dict[str, str | None]:
    if not isinstance(value, Mapping):
        return {}
    return {
        cast("str", optional_text(_plain(k), MAX_NAME)): optional_text(_plain(v), MAX_TEXT) for k, v in value.items()
    }


def _plain(value: Any) -> Any:
    """Return JSON text of a number, truth value or container, and anything else as it is."""
    if value is None or issubclass(type(value), str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=safe_text)
    except BaseException:
        return safe_text(value)
