"""OTLP in JSON without Spark: whatever printer wrote it, the rows are the same; nothing is dropped in silence."""

from __future__ import annotations

import base64
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.traces.sources.otlp_json import ROWS, batches_of, hex_id, plain, rows_of

TRACE, SPAN, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"


def document(**changes: Any) -> dict[str, Any]:
    span = {
        "traceId": TRACE,
        "spanId": SPAN,
        "parentSpanId": PARENT,
        "name": "chat",
        "startTimeUnixNano": "1718452800123456789",
        "endTimeUnixNano": "1718452801123456789",
        "status": {"code": 2},
        "attributes": [{"key": "input.value", "value": {"stringValue": "hello"}}],
        "events": [{"name": "e", "attributes": [{"key": "k", "value": {"intValue": "7"}}]}],
    }
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "support"}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span | changes]}]}]}


ROW = {
    "key": TRACE,
    "trace_id": TRACE,
    "span_id": SPAN,
    "parent_span_id": PARENT,
    "name": "chat",
    "start_time_unix_nano": 1718452800123456789,
    "end_time_unix_nano": 1718452801123456789,
    "status": "2",
    "attributes": {"input.value": "hello"},
    "resource": {"service.name": "support"},
    "events": [{"name": "e", "attributes": {"k": "7"}}],
}


def base_64(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"traceId": base_64(TRACE), "spanId": base_64(SPAN), "parentSpanId": base_64(PARENT)},
        {"traceId": TRACE.upper(), "spanId": SPAN.upper()},
        {"startTimeUnixNano": 1718452800123456789, "endTimeUnixNano": 1718452801123456789},
        {"kind": "SPAN_KIND_CLIENT", "flags": 257, "droppedAttributesCount": 0},
    ],
    ids=["as the collector has it", "base64 ids", "capital digits", "numbers", "other fields"],
)
def test_what_a_printer_may_choose_changes_nothing(changes: dict[str, Any]) -> None:
    """Hex or base64 ids, numbers or texts of numbers."""
    assert rows_of(json.dumps(document(**changes))) == [ROW]


def test_names_in_snake_case_are_read() -> None:
    """Protobuf's printer keeps them when it is told to; some servers print every arm of a value, too."""
    span = {
        "trace_id": TRACE,
        "span_id": SPAN,
        "parent_span_id": PARENT,
        "name": "chat",
        "start_time_unix_nano": "1718452800123456789",
        "end_time_unix_nano": "1718452801123456789",
        "status": {"code": "STATUS_CODE_ERROR"},
        "attributes": [{"key": "input.value", "value": {"int_value": None, "string_value": "hello"}}],
        "events": [{"name": "e", "attributes": [{"key": "k", "value": {"int_value": 7}}]}],
    }
    resource = {"attributes": [{"key": "service.name", "value": {"string_value": "support"}}]}
    found = rows_of(json.dumps({"resource_spans": [{"resource": resource, "scope_spans": [{"spans": [span]}]}]}))
    assert found == [ROW | {"status": "STATUS_CODE_ERROR"}]


@pytest.mark.parametrize("told", ["abc", "", TRACE[:16], TRACE + "00", "0" * 32, base_64(SPAN), 7])
def test_an_id_of_another_length_is_no_trace_id(told: Any) -> None:
    """Its rows still share a key, so that they are counted as one trace without an id."""
    (row,) = rows_of(json.dumps(document(traceId=told)))
    assert (row["trace_id"], row["key"]) == (None, str(told))


@pytest.mark.parametrize(
    "text", ["{", "[]x", '"text"', "7", '{"resourceSpans": 7}', '{"resourceSpans": [{"scopeSpans": ["x"]}]}']
)
def test_what_is_no_document_is_one_row_without_a_time(text: str) -> None:
    """So it is counted, and two of them apart."""
    (row,) = rows_of(text)
    assert list(row) == ["key"]
    assert rows_of(text + " ")[0]["key"] != row["key"]


def test_batches_hold_the_rows() -> None:
    """Also those of documents that cannot be read, and of none."""
    documents = [json.dumps(document()), "{", "{}", json.dumps(document(attributes=[], events=[]))]
    (batch,) = batches_of([pa.RecordBatch.from_pydict({"value": documents})])
    found = batch.to_pylist(maps_as_pydicts="strict")
    bare = {**ROW, "attributes": {}, "events": []}
    assert [found[0], found[2]] == [ROW, bare]
    assert {name for name, value in found[1].items() if value} == {"key"}
    assert batch.schema == ROWS
    assert [b.num_rows for b in batches_of([pa.RecordBatch.from_pydict({"value": ["{}"]})])] == [0]


def test_other_signals_and_empty_requests_have_no_spans() -> None:
    """A file may hold logs and metrics, too."""
    assert rows_of("{}") == rows_of('{"resourceLogs": []}') == rows_of('{"resourceSpans": []}') == []


def any_value(value: Any) -> dict[str, Any]:
    """Return a value as OTLP has it."""
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}
        case list():
            return {"arrayValue": {"values": [any_value(v) for v in value]} if value else {}}
        case _:
            return {"kvlistValue": {"values": [{"key": k, "value": any_value(v)} for k, v in value.items()]}}


SCALARS = (
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@given(VALUES)
def test_values_of_any_depth_are_read(value: Any) -> None:
    """Lists and lists of keys and values come back as they went in."""
    assert plain(any_value(value)) == value


@given(st.binary(min_size=8, max_size=8))
def test_ids_are_the_same_from_hex_and_base64(raw: bytes) -> None:
    """Zeros are none in both."""
    expected = raw.hex() if any(raw) else None
    assert hex_id(raw.hex(), 8) == hex_id(base64.b64encode(raw).decode(), 8) == expected
