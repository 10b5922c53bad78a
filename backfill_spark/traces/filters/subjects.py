"""Which subject a written field means, by MLflow's prefixes, names and remappings."""

from __future__ import annotations

import difflib

from backfill_spark.traces.filters.tree import LINKED_PROMPTS, SOURCE_RUN, TRACE_NAME, Kind, Subject

SUPPORTED = (
    "status, timestamp, execution_time, end_time, name, run_id, request_id, client_request_id, "
    "tags.<key> and metadata.<key>"
)
_PREFIXES = {
    "": "attribute",
    "trace": "attribute",
    "attribute": "attribute",
    "attributes": "attribute",
    "tag": "tag",
    "tags": "tag",
    "metadata": "metadata",
    "request_metadata": "metadata",
    "span": "spans",
    "feedback": "feedback",
    "expectation": "expectations",
    "issue": "issues",
}
_ATTRIBUTES = {
    "status": Kind.STATUS,
    "request_id": Kind.REQUEST_ID,
    "client_request_id": Kind.CLIENT_REQUEST_ID,
    "timestamp": Kind.TIMESTAMP,
    "timestamp_ms": Kind.TIMESTAMP,
    "execution_time": Kind.EXECUTION_TIME,
    "execution_time_ms": Kind.EXECUTION_TIME,
    "end_time": Kind.END_TIME,
    "end_time_ms": Kind.END_TIME,
}
_NAMES = (*_ATTRIBUTES, "name", "run_id")
_TIMES = {"timestamp": "timestamp_ms", "execution_time": "execution_time_ms", "end_time": "end_time_ms"}
_OTHER_NAMES = {
    "state": "status",
    "trace_id": "request_id",
    "id": "request_id",
    "request_time": "timestamp",
    "execution_duration": "execution_time",
    "execution_duration_ms": "execution_time",
    "latency": "execution_time",
    "duration": "execution_time",
}


def subject_of(prefix: str, key: str) -> Subject | str:
    """Return the subject, or the sentence that says why there is none.

    MLflow maps `name`, `run_id`, `prompt`, `text` and the short names of times whatever the prefix and case
    (but for spans): `metadata.Name` is the trace name.
    """
    family = _PREFIXES.get(prefix)
    if family is None:
        return f"unknown prefix {prefix!r}; supported: {SUPPORTED}"
    if family == "attribute" and key not in (*_NAMES, "prompt", "text"):
        return _unknown(key)
    if family == "spans":
        return _later("spans")
    match key.lower():
        case "name":
            return Subject(Kind.TAG, TRACE_NAME)
        case "run_id":
            return Subject(Kind.METADATA, SOURCE_RUN)
        case "prompt":
            return _later("prompts")
        case "text":
            return _later("the text of spans")
        case lower:
            key = _TIMES.get(lower, key)
    match family:
        case "attribute":
            return Subject(_ATTRIBUTES[key])
        case "tag":
            return _later("prompts") if key == LINKED_PROMPTS else Subject(Kind.TAG, key)
        case "metadata":
            return Subject(Kind.METADATA, key)
        case _:
            return _later(family)


def _later(what: str) -> str:
    return f"filters on {what} are not supported; supported: {SUPPORTED}"


def _unknown(key: str) -> str:
    lower = key.lower()
    near = difflib.get_close_matches(lower, _NAMES, n=1, cutoff=0.7)
    meant = _OTHER_NAMES.get(lower) or (near[0] if near else None)
    hint = f"did you mean {meant!r}? " if meant else ""
    return f"unknown field {key!r}; {hint}supported: {SUPPORTED}"
