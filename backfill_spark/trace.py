"""Trace: light and lazy, with MLflow's attribute names.

Nothing is decoded before it is asked for: a scorer that reads `trace.info.state` never parses the spans.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, cast

from backfill_spark.assessment import Assessment, AssessmentError, AssessmentSource, Expectation, Feedback
from backfill_spark.recorded import RecordedTrace, decode_payload, instant, integer, own, own_payload
from backfill_spark.span import Span, SpanStatus, SpanStatusCode

__all__ = ["Span", "SpanStatus", "SpanStatusCode", "Trace", "TraceData", "TraceInfo", "TraceState", "decode_payload"]

_UNSET: Any = object()


class TraceState(StrEnum):
    """State of a trace."""

    OK = "OK"
    ERROR = "ERROR"
    IN_PROGRESS = "IN_PROGRESS"
    STATE_UNSPECIFIED = "STATE_UNSPECIFIED"


class TraceInfo:
    """What is known of a trace without its spans."""

    __slots__ = ("_assessments", "_row", "_tags", "_trace_metadata")

    def __init__(self, row: RecordedTrace) -> None:
        self._row = row
        self._tags = self._trace_metadata = self._assessments = _UNSET

    @property
    def trace_id(self) -> str:
        return cast("str", self._row.values.get("trace_id"))

    @property
    def request_id(self) -> str:
        """MLflow's older name of `trace_id`."""
        return self.trace_id

    @property
    def client_request_id(self) -> str | None:
        return cast("str | None", self._row.values.get("client_request_id"))

    @property
    def experiment_id(self) -> str | None:
        return cast("str | None", self._row.values.get("experiment_id"))

    @property
    def session_id(self) -> str | None:
        return cast("str | None", self._row.values.get("session_id"))

    @property
    def request_preview(self) -> str | None:
        return cast("str | None", self._row.values.get("request_preview"))

    @property
    def response_preview(self) -> str | None:
        return cast("str | None", self._row.values.get("response_preview"))

    @property
    def request_time(self) -> int | None:
        """Start in milliseconds since the epoch, as in MLflow."""
        micros = instant(self._row.values.get("request_time"), 1_000_000)
        return None if micros is None else micros // 1000

    @property
    def timestamp_ms(self) -> int | None:
        """MLflow's older name of `request_time`."""
        return self.request_time

    @property
    def execution_duration(self) -> int | None:
        """Duration in milliseconds."""
        return integer(self._row.values.get("execution_duration_ms"))

    @property
    def execution_time_ms(self) -> int | None:
        """MLflow's older name of `execution_duration`."""
        return self.execution_duration

    @property
    def state(self) -> str:
        """OK, ERROR, IN_PROGRESS or STATE_UNSPECIFIED."""
        text = self._row.values.get("state")
        if not text:
            return TraceState.STATE_UNSPECIFIED
        return TraceState.__members__.get(text) or str(text)

    @property
    def status(self) -> str:
        """MLflow's older name of `state`."""
        return self.state

    @property
    def tags(self) -> dict[str, Any]:
        if self._tags is _UNSET:
            self._tags = copy.copy(self._row.texts("tags"))
        return cast("dict[str, Any]", self._tags)

    @property
    def trace_metadata(self) -> dict[str, Any]:
        if self._trace_metadata is _UNSET:
            self._trace_metadata = copy.copy(self._row.texts("trace_metadata"))
        return cast("dict[str, Any]", self._trace_metadata)

    @property
    def request_metadata(self) -> dict[str, Any]:
        """MLflow's older name of `trace_metadata`."""
        return self.trace_metadata

    @property
    def token_usage(self) -> dict[str, Any] | None:
        """`input_tokens`, `output_tokens`, `total_tokens` where the trace has them."""
        found = decode_payload(self.trace_metadata.get("mlflow.trace.tokenUsage"))
        return found if isinstance(found, dict) else None

    @property
    def assessments(self) -> list[Assessment]:
        """Feedback and expectations that the trace had in the source."""
        if self._assessments is _UNSET:
            self._assessments = [_assessment(raw, self._row) for raw in self._row.items("assessments")]
        return cast("list[Assessment]", self._assessments)

    def __repr__(self) -> str:
        return f"TraceInfo(trace_id={self.trace_id!r}, state={str(self.state)!r})"


class TraceData:
    """Spans of a trace, and the texts of its request and response."""

    __slots__ = ("_row", "_spans")

    def __init__(self, row: RecordedTrace) -> None:
        self._row = row
        self._spans: list[Span] | None = None

    @property
    def spans(self) -> list[Span]:
        if self._spans is None:
            self._spans = [Span(raw, self._row) for raw in self._row.items("spans")]
        return self._spans

    @property
    def request(self) -> str | None:
        """Text of the request as it was recorded: the column, else the root span's inputs."""
        return self._text("request", "inputs")

    @property
    def response(self) -> str | None:
        """Text of the response as it was recorded: the column, else the root span's outputs."""
        return self._text("response", "outputs")

    def root_span(self) -> Span | None:
        """Return the first span without a parent, else the earliest whose parent is not in the trace."""
        spans = self.spans
        for span in spans:
            if span.parent_id is None:
                return span
        ids = {span.span_id for span in spans}
        orphans = [span for span in spans if span.parent_id not in ids]
        # min() keeps list order among equals; a span without a time counts as last.
        return min(orphans, key=_start_or_last, default=None)

    # MLflow's name of it, which code in the wild calls.
    _get_root_span = root_span

    def __repr__(self) -> str:
        return f"TraceData(spans={len(self.spans)})"

    def _text(self, column: str, field: str) -> str | None:
        values = self._row.values
        if column in values:
            found = values[column]
            if found is None or isinstance(found, str):
                return found
            return json.dumps(found, ensure_ascii=False, default=str)
        root = self.root_span()
        return None if root is None else root.recorded_text(field)


def _start_or_last(span: Span) -> tuple[bool, int]:
    start = span.start_time_ns
    return start is None, start or 0


class Trace:
    """One recorded trace.

    Args:
        values: Canonical column → raw value. Maps and arrays may be JSON text, dicts and lists, or absent;
            `request_time` is an integer of microseconds since the epoch.
        payload: How recorded texts are decoded, see `decode_payload`.

    Reading `tags`, `trace_metadata`, `spans` or `assessments` that cannot be decoded raises
    `TraceUnreadableError`; nothing else does.
    """

    __slots__ = ("_row", "data", "info")

    def __init__(self, values: Mapping[str, Any], *, payload: str = "auto") -> None:
        self._wrap(RecordedTrace(values, payload))

    def _wrap(self, row: RecordedTrace) -> None:
        self._row = row
        self.info = TraceInfo(row)
        self.data = TraceData(row)

    def copy(self) -> Trace:
        """Return a trace over the same raw values: what is changed in one does not show in the other."""
        other = object.__new__(type(self))
        other._wrap(self._row)
        return other

    @property
    def inputs(self) -> Any:
        """The request column where the trace has one, else the root span's inputs; decoded."""
        return self._payload_of("request", "inputs")

    @property
    def outputs(self) -> Any:
        """The response column where the trace has one, else the root span's outputs; decoded."""
        return self._payload_of("response", "outputs")

    @property
    def expectations(self) -> dict[str, Any] | None:
        """Name → value of the expectations that the trace has, or None; of equal names the last one counts."""
        found = {
            str(raw.get("assessment_name") or raw.get("name")): _expected(raw["expectation"], self._row)
            for raw in self._row.items("assessments")
            if _is_expectation(raw) and _is_valid(raw)
        }
        return found or None

    def search_spans(
        self,
        span_type: str | None = None,
        name: str | re.Pattern[str] | None = None,
        span_id: str | None = None,
    ) -> list[Span]:
        """Return the spans that fit all that is given, in recorded order; `name` is a text or a compiled pattern."""
        found = self.data.spans
        if span_type is not None:
            found = [span for span in found if span.span_type == span_type]
        if isinstance(name, re.Pattern):
            found = [span for span in found if name.search(span.name or "")]
        elif name is not None:
            found = [span for span in found if span.name == name]
        if span_id is not None:
            found = [span for span in found if span.span_id == span_id]
        return list(found)

    def search_assessments(
        self,
        name: str | None = None,
        *,
        span_id: str | None = None,
        all: bool = False,
        type: str | None = None,
    ) -> list[Assessment]:
        """Return the assessments that fit; `type` is "feedback" or "expectation", `all` includes replaced ones."""
        kinds = {"feedback": Feedback, "expectation": Expectation, None: Assessment}
        kind = kinds.get(type, Assessment)
        return [
            a
            for a in self.info.assessments
            if isinstance(a, kind)
            and (name is None or a.name == name)
            and (span_id is None or a.span_id == span_id)
            and (all or a.valid is not False)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: `info` (attribute names), `data.spans`, and the decoded inputs and outputs."""
        info = self.info
        names = ("trace_id", "experiment_id", "client_request_id", "request_time", "execution_duration")
        return {
            "info": {name: getattr(info, name) for name in names}
            | {
                "state": str(info.state),
                "request_preview": info.request_preview,
                "response_preview": info.response_preview,
                "trace_metadata": dict(info.trace_metadata),
                "tags": dict(info.tags),
                "assessments": copy.deepcopy(self._row.items("assessments")),
            },
            "data": {"spans": [span.to_dict() for span in self.data.spans]},
            "inputs": own(self.inputs),
            "outputs": own(self.outputs),
        }

    def to_json(self) -> str:
        """Return `to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, default=str)

    def __repr__(self) -> str:
        return f"Trace(trace_id={self.info.trace_id!r})"

    def __reduce__(self) -> Any:
        return _restored, (dict(self._row.values), self._row.payload)

    def _payload_of(self, column: str, field: str) -> Any:
        row = self._row
        if column in row.values:
            return own_payload(row.values[column], row.payload)
        root = self.data.root_span()
        return None if root is None else getattr(root, field)


def _restored(values: dict[str, Any], payload: str) -> Trace:
    return Trace(values, payload=payload)


def _is_valid(raw: Mapping[str, Any]) -> bool:
    return str(raw.get("valid")).lower() != "false"


def _is_expectation(raw: Mapping[str, Any]) -> bool:
    expectation = raw.get("expectation")
    if expectation is None:
        return False
    # A struct column may hold a struct of NULLs beside a feedback.
    is_hollow = isinstance(expectation, Mapping) and all(value is None for value in expectation.values())
    return not (is_hollow and raw.get("feedback") is not None)


def _expected(expectation: Any, row: RecordedTrace) -> Any:
    if isinstance(expectation, Mapping):
        value = expectation.get("value")
        serialized = expectation.get("serialized_value")
        if value is None and isinstance(serialized, Mapping):
            value = serialized.get("value")
        expectation = value
    return own_payload(expectation, row.payload)


def _assessment(raw: Mapping[str, Any], row: RecordedTrace) -> Assessment:
    source = raw.get("source")
    error, value = None, None
    kind: type[Assessment] = Feedback
    if _is_expectation(raw):
        kind, value = Expectation, _expected(raw["expectation"], row)
    elif isinstance(raw.get("feedback"), Mapping):
        feedback = raw["feedback"]
        value = own_payload(feedback.get("value"), row.payload)
        if isinstance(feedback.get("error"), Mapping) and any(v is not None for v in feedback["error"].values()):
            found = feedback["error"]
            error = AssessmentError(found.get("error_code") or "", found.get("error_message"), found.get("stack_trace"))
    return kind(
        raw.get("assessment_name") or raw.get("name") or "",
        value,
        error,
        AssessmentSource(source.get("source_type") or "", source.get("source_id") or "")
        if isinstance(source, Mapping)
        else None,
        raw.get("trace_id"),
        dict(raw["metadata"]) if isinstance(raw.get("metadata"), Mapping) else None,
        raw.get("span_id"),
        instant(raw.get("create_time"), 1000),
        instant(raw.get("last_update_time"), 1000),
        raw.get("rationale"),
        raw.get("overrides"),
        _is_valid(raw),
        raw.get("assessment_id"),
    )
