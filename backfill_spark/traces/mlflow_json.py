"""MLflow's own JSON of a trace (V2, V3) and its frames, as canonical columns; see `decode.MLFLOW_JSON`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isnan
from typing import Any

from backfill_spark.errors import TraceUnreadableError
from backfill_spark.traces.decode import as_dict, instant, integer

_COPIES = {"request": "inputs", "response": "outputs"}
_V2_INFO = {"request_id": "trace_id", "status": "state", "request_metadata": "trace_metadata"}


def info_columns(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return canonical columns of the `info` of MLflow's JSON (V2, V3), or of `TraceInfo.to_dict()`."""
    values = {_V2_INFO.get(name, name): value for name, value in info.items()}
    if isinstance(values.get("tags"), list):  # V1 of the same
        values["tags"] = {tag["key"]: tag["value"] for tag in values["tags"]}
    location = values.get("trace_location")
    if "experiment_id" not in values and isinstance(location, Mapping):
        values["experiment_id"] = (location.get("mlflow_experiment") or {}).get("experiment_id")
    started = values.get("request_time", values.get("timestamp_ms"))
    # Milliseconds where it is a number, RFC 3339 where it is a text.
    values["request_time"] = started * 1000 if isinstance(started, int) else instant(started, 1_000_000)
    for name in ("execution_time_ms", "execution_duration"):
        if name in values:
            values["execution_duration_ms"] = values.pop(name)
    return values


def trace_columns(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Return canonical columns of a trace as MLflow's `Trace.to_dict()` gives it, or ours."""
    info, data = trace.get("info"), trace.get("data")
    if not isinstance(info, Mapping) or not isinstance(data, Mapping):
        raise TraceUnreadableError(
            f"A trace is an object with info and data, as trace.to_json() of MLflow gives it; this has {sorted(trace)}."
        )
    copies = {column: trace[name] for column, name in _COPIES.items() if name in trace}
    return info_columns(info) | {"spans": data.get("spans")} | copies


def columns_of_json(text: str) -> dict[str, Any]:
    """Return canonical columns of a trace as MLflow's `Trace.to_json()` gives it, or ours."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceUnreadableError(f"The trace is no JSON text: {error}.") from None
    return trace_columns(as_dict(found, "trace"))


def row_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return canonical columns of a row of `mlflow.search_traces()`: of its column `trace` where it has one."""
    whole = row.get("trace")
    if isinstance(whole, str):
        return columns_of_json(whole)
    if whole is not None:
        raise TraceUnreadableError(
            f"The column 'trace' holds a {type(whole).__name__} where MLflow has JSON text; give trace.to_json()."
        )
    # pandas tells what is missing as a NaN.
    values = {name: None if isinstance(value, float) and isnan(value) else value for name, value in row.items()}
    for name in ("request_time", "execution_duration"):
        values[name] = integer(values.get(name))
    return info_columns(values)
