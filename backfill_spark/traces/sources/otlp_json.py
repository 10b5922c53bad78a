"""OTLP in JSON, as the OpenTelemetry collector writes it to files: documents in, rows of spans out. No Spark.

A document is one export request: `resourceSpans[].scopeSpans[].spans[]` (protocol of OpenTelemetry, "JSON Protobuf
Encoding"). Read too: names in snake_case, 64-bit numbers as numbers or texts, enums as numbers or names.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson
import pyarrow as pa

_TEXTS = pa.map_(pa.string(), pa.string())
ROWS = pa.schema(
    [
        ("key", pa.string()),
        ("trace_id", pa.string()),
        ("span_id", pa.string()),
        ("parent_span_id", pa.string()),
        ("name", pa.string()),
        ("start_time_unix_nano", pa.int64()),
        ("end_time_unix_nano", pa.int64()),
        ("status", pa.string()),
        ("attributes", _TEXTS),
        ("resource", _TEXTS),
        ("events", pa.list_(pa.struct([("name", pa.string()), ("attributes", _TEXTS)]))),
    ]
)
"""What `rows_of` gives, as Arrow has it. `key` is shared by the rows of one trace, also where its id is none."""
_LONG = 2**63


def batches_of(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Turn batches of one column of documents into batches of ROWS."""
    for batch in batches:
        rows = [row for text in batch.column(0).to_pylist() for row in rows_of(text)]
        yield pa.RecordBatch.from_pylist(rows, schema=ROWS)


def rows_of(document: str) -> list[dict[str, Any]]:
    """Return the spans of a document; one row without a trace id and a time where it is no such document."""
    try:
        found = orjson.loads(document)
        return [
            _row(span, resource)
            for group in _list(found, "resourceSpans")
            for resource in [_attributes(_get(group, "resource") or {})]
            for scope in _list(group, "scopeSpans") or _list(group, "instrumentationLibrarySpans")
            for span in _list(scope, "spans")
        ]
    except (ValueError, TypeError, AttributeError, KeyError):
        digest = hashlib.sha1(document.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
        return [{"key": f"unreadable {digest}"}]


def hex_id(value: Any, size: int) -> str | None:
    """Return an id of `size` bytes as lower-case hex digits, of such or of base64; None where it is neither, or 0."""
    if not isinstance(value, str):
        return None
    if re.fullmatch(f"[0-9A-Fa-f]{{{2 * size}}}", value) is not None:
        found = value.lower()
    else:
        try:
            raw = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return None
        found = raw.hex() if len(raw) == size else ""
    return found if found.strip("0") else None


def plain(value: Mapping[str, Any]) -> Any:
    """Return what an AnyValue holds: a text, a number, a list, a dict; bytes stay base64."""
    for name, held in value.items():
        if held is None:
            continue
        match name:
            case "intValue" | "int_value":
                return int(held)
            case "arrayValue" | "array_value":
                return [plain(item) for item in held.get("values") or ()]
            case "kvlistValue" | "kvlist_value":
                return {item["key"]: plain(item.get("value") or {}) for item in held.get("values") or ()}
            case _:
                return held
    return None


def _row(span: Mapping[str, Any], resource: Mapping[str, str]) -> dict[str, Any]:
    told = _get(span, "traceId")
    trace_id = hex_id(told, 16)
    parent = _get(span, "parentSpanId")
    status = _get(span, "status") or {}
    return {
        "key": trace_id or (None if told is None else str(told)),
        "trace_id": trace_id,
        "span_id": hex_id(_get(span, "spanId"), 8) or _get(span, "spanId"),
        "parent_span_id": hex_id(parent, 8) or parent,
        "name": _get(span, "name"),
        "start_time_unix_nano": _nanoseconds(_get(span, "startTimeUnixNano")),
        "end_time_unix_nano": _nanoseconds(_get(span, "endTimeUnixNano")),
        "status": str(_get(status, "code") or ""),
        "attributes": _attributes(span),
        "resource": resource,
        "events": [{"name": _get(e, "name"), "attributes": _attributes(e)} for e in _list(span, "events")],
    }


def _attributes(holder: Mapping[str, Any]) -> dict[str, str]:
    values = {item["key"]: plain(item.get("value") or {}) for item in holder.get("attributes") or ()}
    return {key: _text(value) for key, value in values.items() if value is not None}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _get(holder: Mapping[str, Any], name: str) -> Any:
    """Return a field by its name in camelCase or snake_case."""
    found = holder.get(name)
    return holder.get(re.sub("([A-Z])", r"_\1", name).lower()) if found is None else found


def _list(holder: Mapping[str, Any], name: str) -> list[Any]:
    return _get(holder, name) or []


def _nanoseconds(value: Any) -> int | None:
    number = int(value or 0)
    return number if 0 < number < _LONG else None
