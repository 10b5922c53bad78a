"""What is known of a trace, as plain values: of MLflow's objects and of ours alike, which have the same names.

    python tests/mlflow_facts.py SERVER_OR_DATABASE EXPERIMENT_ID FILE [COUNT]

in the `mlflow` environment writes a JSON object, trace id → facts, of what `mlflow.search_traces` gives.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def facts(trace: Any) -> dict[str, Any]:
    """All that a trace says, but the order of its assessments."""
    info = trace.info
    root = trace.data._get_root_span()
    found = {
        "id": info.trace_id,
        "experiment": info.experiment_id,
        "state": str(getattr(info.state, "value", info.state)),
        "at": info.request_time,
        "duration": info.execution_duration,
        "previews": [info.request_preview, info.response_preview],
        "client": info.client_request_id,
        "tags": dict(info.tags),
        "metadata": dict(info.trace_metadata),
        "inputs": root.inputs,
        "outputs": root.outputs,
        "spans": [_span(span) for span in trace.data.spans],
        "assessments": sorted((_assessment(a) for a in info.assessments), key=lambda a: str(a["id"])),
    }
    return dict(json.loads(json.dumps(found)))


def _span(span: Any) -> dict[str, Any]:
    status = span.status
    return {
        "ids": [span.span_id, span.parent_id, span.trace_id],
        "name": span.name,
        "type": span.span_type,
        "times": [span.start_time_ns, span.end_time_ns],
        "status": [str(getattr(status.status_code, "value", status.status_code)), status.description or ""],
        "inputs": span.inputs,
        "outputs": span.outputs,
        "attributes": span.attributes,
        "events": [[e.name, e.timestamp, dict(e.attributes or {})] for e in span.events],
    }


def _assessment(one: Any) -> dict[str, Any]:
    feedback, expectation = one.feedback, one.expectation
    error = None if feedback is None else feedback.error
    return {
        "id": one.assessment_id,
        "name": one.name,
        "value": feedback.value if feedback is not None else None if expectation is None else expectation.value,
        "kind": type(one).__name__,
        "error": None if error is None else [error.error_code, error.error_message],
        "source": [str(getattr(one.source.source_type, "value", one.source.source_type)), one.source.source_id],
        "rationale": one.rationale,
        "metadata": dict(one.metadata or {}),
        "span": one.span_id,
        "times": [one.create_time_ms, one.last_update_time_ms],
        "overrides": one.overrides,
        "valid": one.valid is not False,
    }


def main(where: str, experiment: str, file: str, count: str = "100000") -> None:
    import mlflow

    mlflow.set_tracking_uri(where)
    began = time.monotonic()
    found = mlflow.search_traces(locations=[experiment], max_results=int(count), return_type="list")
    taken = time.monotonic() - began
    Path(file).write_text(json.dumps({t.info.trace_id: facts(t) for t in found if t.data.spans}), encoding="utf-8")
    print(json.dumps({"traces": len(found), "seconds": taken}))


if __name__ == "__main__":
    main(*sys.argv[1:])
