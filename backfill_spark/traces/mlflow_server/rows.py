"""One trace of a server as a row of `schema.IMPORTED_TRACES`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson

from backfill_spark.traces.decode import MLFLOW_JSON, RecordedTrace, clean, decode_payload
from backfill_spark.traces.mlflow_server.assessments import moment, text_of
from backfill_spark.traces.mlflow_server.server import Left
from backfill_spark.traces.span import Span

if TYPE_CHECKING:
    from backfill_spark.traces.mlflow_server.server import Experiment, Recorded

FINISHED_AFTER_MS = 3_600_000
"""A trace that is in progress for longer than an hour is taken as it is."""


def is_unfinished(trace: Recorded, now_ms: int) -> bool:
    """True where spans may still come."""
    return now_ms - trace.at_ms < FINISHED_AFTER_MS and (trace.state == "IN_PROGRESS" or _lacks_spans(trace))


def reason_left(trace: Recorded) -> Left | None:
    """Why a trace is not imported; None where it is."""
    if trace.left is None and not trace.spans:
        return Left.NO_SPANS
    return Left.INCOMPLETE if trace.left is None and _lacks_spans(trace) else trace.left


def _lacks_spans(trace: Recorded) -> bool:
    if trace.left is not None:
        return False
    told = decode_payload(trace.metadata.get("mlflow.trace.sizeStats"))
    counted = told.get("num_spans") if isinstance(told, dict) else None
    return isinstance(counted, int) and len(trace.spans) < counted


def row_of(trace: Recorded, experiment: Experiment) -> dict[str, Any] | None:
    """Return a row of a trace that has spans; None where its root is no JSON object.

    `request` and `response` are the JSON texts that the root span holds, or the earliest span whose parent is
    elsewhere; never the previews, which are other texts.
    """
    try:
        root = _decoded(trace.spans[0])
        attributes = root.get("attributes") or {}
    except (ValueError, AttributeError):
        return None
    at = moment(trace.at_ms)
    assert at is not None
    row = {
        "trace_id": trace.trace_id,
        "experiment_id": experiment.id,
        "request_time": at,
        "execution_duration_ms": trace.duration_ms,
        "state": _state(trace, root),
        "request": _payload(root, attributes, "inputs", "mlflow.spanInputs"),
        "response": _payload(root, attributes, "outputs", "mlflow.spanOutputs"),
        "request_preview": trace.request_preview,
        "response_preview": trace.response_preview,
        "client_request_id": trace.client_request_id,
        "session_id": trace.metadata.get("mlflow.trace.session"),
        "trace_metadata": [(key, text_of(value)) for key, value in trace.metadata.items()],
        "tags": [(key, text_of(value)) for key, value in trace.tags.items()],
        "spans": f"[{','.join(trace.spans)}]",
        "assessments": trace.assessments,
        "trace_date": at.date(),
    }
    return {name: _as_utf8(value) for name, value in row.items()}


def _decoded(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return json.loads(text)  # it takes half a surrogate pair, and a NaN


def _as_utf8(value: Any) -> Any:
    """Return a value whose texts a file can hold: half a surrogate pair becomes U+FFFD."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_as_utf8, value))
    if isinstance(value, dict):
        return {name: _as_utf8(one) for name, one in value.items()}
    return value


def _payload(root: dict[str, Any], attributes: dict[str, Any], name: str, key: str) -> str | None:
    recorded = attributes.get(key)
    return recorded if isinstance(recorded, str) else Span(root, RecordedTrace({}, MLFLOW_JSON)).json_text(name)


def _state(trace: Recorded, root: dict[str, Any]) -> str:
    """A trace whose root is in another service stays IN_PROGRESS for ever: its earliest span says how it ended."""
    if trace.state != "IN_PROGRESS" or trace.has_root:
        return trace.state
    return "ERROR" if str((root.get("status") or {}).get("code")).endswith("ERROR") else "OK"
