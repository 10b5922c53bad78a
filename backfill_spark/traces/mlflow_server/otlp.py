"""Spans in JSON of OTLP, as MLflow's REST and its archives have them, turned into MLflow's own JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from backfill_spark.traces.mlflow_server.server import Left

if TYPE_CHECKING:
    from backfill_spark.traces.mlflow_server.server import Recorded

_CODES = {0: "STATUS_CODE_UNSET", 1: "STATUS_CODE_OK", 2: "STATUS_CODE_ERROR"}
_REQUEST_ID = "mlflow.traceRequestId"


def take_otlp(trace: Recorded, spans: Iterable[Mapping[str, Any]]) -> None:
    """Give a trace its spans."""
    take_documents(trace, [_document(span, trace.trace_id) for span in spans])


def take_documents(trace: Recorded, documents: Sequence[Mapping[str, Any]]) -> None:
    """Give a trace its spans of MLflow's JSON: roots first, then by their start, as MLflow does."""
    if not documents:
        trace.left = Left.NO_SPANS
    ids = {span.get("span_id") for span in documents}

    def place(span: Mapping[str, Any]) -> Any:
        parent = span.get("parent_span_id") or None
        rank = 0 if parent is None else 1 if parent not in ids else 2
        return rank, int(span.get("start_time_unix_nano") or 0), str(span.get("span_id"))

    ordered = sorted(documents, key=place)
    trace.has_root = bool(ordered) and not ordered[0].get("parent_span_id")
    # One orphan stands for a root that is not here; other spans follow by their start.
    rest = sorted(ordered[1:], key=lambda span: (place(span)[0] > 0, *place(span)[1:]))
    trace.spans = [json.dumps(span, ensure_ascii=False) for span in [*ordered[:1], *rest]]


def _document(span: Mapping[str, Any], trace_id: str) -> dict[str, Any]:
    attributes = {
        one["key"]: json.dumps(_value(one.get("value")), ensure_ascii=False) for one in _items(span, "attributes")
    }
    attributes.setdefault(_REQUEST_ID, json.dumps(trace_id))
    status = span.get("status") or {}
    code = status.get("code", 0)
    return {
        "trace_id": span.get("trace_id"),
        "span_id": span.get("span_id"),
        "parent_span_id": span.get("parent_span_id") or None,
        "name": span.get("name"),
        "start_time_unix_nano": int(span.get("start_time_unix_nano") or 0),
        "end_time_unix_nano": int(span.get("end_time_unix_nano") or 0) or None,
        "events": [
            {
                "name": event.get("name"),
                "time_unix_nano": int(event.get("time_unix_nano") or 0),
                "attributes": _values(_items(event, "attributes")),
            }
            for event in _items(span, "events")
        ],
        "status": {"code": _CODES.get(code, code), "message": status.get("message") or ""},
        "attributes": attributes,
        "links": [
            {
                "trace_id": link.get("trace_id"),
                "span_id": link.get("span_id"),
                "attributes": _values(_items(link, "attributes")) or None,
            }
            for link in _items(span, "links")
        ],
    }


def _items(of: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return of.get(name) or []


def _values(items: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {one["key"]: _value(one.get("value")) for one in items}


def _value(value: Mapping[str, Any] | None) -> Any:
    """Return what an AnyValue of OTLP holds; its JSON writes whole numbers as texts."""
    if not value:
        return None
    ((kind, held),) = value.items()
    if kind == "int_value":
        return int(held)
    if kind == "array_value":
        return [_value(one) for one in _items(held, "values")]
    if kind == "kvlist_value":
        return _values(_items(held, "values"))
    return held
