"""Which subject a written field means, by MLflow's prefixes, names and remappings."""

from __future__ import annotations

import difflib

from backfill_spark.traces.filters.tree import CONTENT, LINKED_PROMPTS, SOURCE_RUN, TRACE_NAME, Kind, Subject

_PREFIXES = {
    "": "attribute",
    "trace": "attribute",
    "attribute": "attribute",
    "attributes": "attribute",
    "tag": "tag",
    "tags": "tag",
    "metadata": "metadata",
    "request_metadata": "metadata",
    "span": "span",
    "feedback": "feedback",
    "expectation": "expectation",
    "issue": "issue",
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
_NAMES = (*_ATTRIBUTES, "name", "run_id", "prompt", "text")
_SPAN_KEYS = ("name", "type", "status", CONTENT)
_FIELDS = (
    "status, timestamp, execution_time, end_time, name, run_id, request_id, client_request_id, prompt, trace.text, "
    "tags.<key>, metadata.<key>, span.name, span.type, span.status, span.content, span.attributes.<key>, "
    "feedback.<name>, expectation.<name> and issue.id"
)
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
    "session": "metadata.`mlflow.trace.session`",
    "session_id": "metadata.`mlflow.trace.session`",
    "user": "metadata.`mlflow.trace.user`",
    "request": "trace.text",
    "response": "trace.text",
    "request_preview": "trace.text",
    "response_preview": "trace.text",
    "inputs": "trace.text",
    "outputs": "trace.text",
}
_OTHER_PREFIXES = {
    "spans": "span",
    "assessment": "feedback",
    "assessments": "feedback",
    "feedbacks": "feedback",
    "expectations": "expectation",
    "trace_metadata": "metadata",
    "info": "trace",
    "attr": "trace",
    "issues": "issue",
}
_OTHER_SPAN_KEYS = {"span_type": "type", "kind": "type", "status_code": "status", "text": CONTENT}


def subject_of(prefix: str, key: str) -> Subject | str:
    """Return the subject, or the sentence that says why there is none.

    MLflow maps `name`, `run_id`, `prompt`, `text` and the short names of times whatever the prefix and case
    (but for spans): `metadata.Name` is the trace name.
    """
    family = _PREFIXES.get(prefix)
    if family is None:
        return _unknown("prefix", prefix, _OTHER_PREFIXES, tuple(p for p in _PREFIXES if p), _FIELDS)
    if family == "span":
        return _of_span(key)
    if family == "attribute" and key not in _NAMES:
        return _unknown("field", key, _OTHER_NAMES, _NAMES, _FIELDS)
    lower = key.lower()
    remapped = {
        "name": Subject(Kind.TAG, TRACE_NAME),
        "run_id": Subject(Kind.METADATA, SOURCE_RUN),
        "prompt": Subject(Kind.PROMPT),
        "text": Subject(Kind.SPAN, CONTENT),
    }.get(lower)
    if remapped is not None:
        return remapped
    key = _TIMES.get(lower, key)
    match family:
        case "attribute":
            return Subject(_ATTRIBUTES[key])
        case "tag":
            return Subject(Kind.PROMPT) if key == LINKED_PROMPTS else Subject(Kind.TAG, key)
        case "metadata":
            return Subject(Kind.METADATA, key)
        case "issue":
            return Subject(Kind.ISSUE, key) if key == "id" else _unknown("field", f"issue.{key}", {}, ("issue.id",))
        case _:
            kind = Kind.FEEDBACK if family == "feedback" else Kind.EXPECTATION
            return Subject(kind, key) if key else f"the name of the {family} is missing: {family}.<name>"


def _of_span(key: str) -> Subject | str:
    if key in _SPAN_KEYS:
        return Subject(Kind.SPAN, key)
    if key.startswith("attributes."):
        name = key.removeprefix("attributes.").strip("`")
        return Subject(Kind.ATTRIBUTE, name) if name else "the attribute is missing: span.attributes.<key>"
    known = ("name", "type", "status", "content", "attributes.<key>")
    return _unknown("key of spans", key, _OTHER_SPAN_KEYS, known)


def _unknown(what: str, given: str, others: dict[str, str], names: tuple[str, ...], known: str = "") -> str:
    lower = given.lower()
    near = difflib.get_close_matches(lower, names, n=1, cutoff=0.7)
    meant = others.get(lower) or (near[0] if near else None)
    hint = f"did you mean {meant!r}? " if meant else ""
    return f"unknown {what} {given!r}; {hint}supported: {known or ', '.join(names)}"
