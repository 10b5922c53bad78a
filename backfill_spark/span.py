"""Span: one step of a trace, with MLflow's attribute names."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, cast

from backfill_spark.recorded import RecordedTrace, as_dict, decode_payload, instant, own, own_payload

_NO_PARENT = (None, "", "0" * 16)
_INPUT_KEYS = ("input.value", "gen_ai.input.messages", "traceloop.entity.input", "gcp.vertex.agent.llm_request")
_OUTPUT_KEYS = ("output.value", "gen_ai.output.messages", "traceloop.entity.output", "gcp.vertex.agent.llm_response")
_UNSET: Any = object()


class SpanStatusCode(StrEnum):
    """Status of a span."""

    UNSET = "UNSET"
    OK = "OK"
    ERROR = "ERROR"


_STATUS_CODES = {"0": SpanStatusCode.UNSET, "1": SpanStatusCode.OK, "2": SpanStatusCode.ERROR}


class SpanStatus:
    """Status of a span: `status_code` (OK, ERROR, UNSET, or as the source spells it) and `description`."""

    __slots__ = ("description", "status_code")

    def __init__(self, status_code: str, description: str = "") -> None:
        self.status_code = status_code
        self.description = description

    def __repr__(self) -> str:
        return f"SpanStatus({str(self.status_code)!r}, {self.description!r})"


class Span:
    """One step of a trace, with MLflow's attribute names."""

    __slots__ = ("_attributes", "_inputs", "_outputs", "_raw", "_row")

    def __init__(self, raw: Mapping[str, Any], row: RecordedTrace | None = None) -> None:
        self._raw = raw
        self._row = RecordedTrace({}, "auto") if row is None else row
        self._inputs = self._outputs = self._attributes = _UNSET

    @property
    def name(self) -> str | None:
        return cast("str | None", self._raw.get("name"))

    @property
    def span_id(self) -> str | None:
        return cast("str | None", self._raw.get("span_id"))

    @property
    def parent_id(self) -> str | None:
        """Id of the span above; None for a root."""
        raw = self._raw
        parent = raw.get("parent_id")
        if parent is None:
            parent = raw.get("parent_span_id")
        return None if parent in _NO_PARENT else cast("str", parent)

    @property
    def trace_id(self) -> str | None:
        return cast("str | None", self._row.values.get("trace_id", self._raw.get("trace_id")))

    @property
    def span_type(self) -> str:
        """LLM, TOOL, AGENT, … as the source has it; UNKNOWN when it says nothing."""
        kind = self._raw.get("span_type")
        if kind is None:
            attributes = self._raw_attributes()
            kind = attributes.get("mlflow.spanType", attributes.get("openinference.span.kind"))
        return kind.strip('"') if isinstance(kind, str) and kind else "UNKNOWN"

    @property
    def start_time_ns(self) -> int | None:
        """Nanoseconds since the epoch."""
        return self._time("start")

    @property
    def end_time_ns(self) -> int | None:
        """Nanoseconds since the epoch."""
        return self._time("end")

    @property
    def status(self) -> SpanStatus:
        raw = self._raw
        code, description = raw.get("status_code"), raw.get("status_message")
        status = raw.get("status")
        if isinstance(status, Mapping):
            code = status.get("code", status.get("status_code", code))
            description = status.get("message", status.get("description", description))
        elif status is not None and code is None:
            code = status
        text = "UNSET" if code is None else str(code).removeprefix("STATUS_CODE_")
        known = _STATUS_CODES.get(text) or SpanStatusCode.__members__.get(text)
        return SpanStatus(text if known is None else known, str(description or ""))

    @property
    def inputs(self) -> Any:
        """What went in, decoded by the payload rule of the trace."""
        if self._inputs is _UNSET:
            self._inputs = self._recorded("inputs", "mlflow.spanInputs", _INPUT_KEYS)
        return self._inputs

    @property
    def outputs(self) -> Any:
        """What came out, decoded by the payload rule of the trace."""
        if self._outputs is _UNSET:
            self._outputs = self._recorded("outputs", "mlflow.spanOutputs", _OUTPUT_KEYS)
        return self._outputs

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes; texts decoded by the payload rule, those of MLflow (`mlflow.…`) always, as it encodes them."""
        if self._attributes is _UNSET:
            self._attributes = {key: self._attribute(key, value) for key, value in self._raw_attributes().items()}
        return cast("dict[str, Any]", self._attributes)

    def get_attribute(self, key: str) -> Any:
        """Return one attribute, or None."""
        return self.attributes.get(key)

    @property
    def events(self) -> list[Any]:
        """Events as the source has them."""
        found = decode_payload(self._raw.get("events"), "auto")
        return copy.deepcopy(list(found)) if isinstance(found, (list, tuple)) else []

    def to_dict(self) -> dict[str, Any]:
        """Return the span as plain values under the names of its attributes."""
        return {
            "span_id": self.span_id,
            "parent_id": self.parent_id,
            "name": self.name,
            "span_type": self.span_type,
            "start_time_ns": self.start_time_ns,
            "end_time_ns": self.end_time_ns,
            "status_code": str(self.status.status_code),
            "inputs": own(self.inputs),
            "outputs": own(self.outputs),
            "attributes": copy.deepcopy(self.attributes),
        }

    def __repr__(self) -> str:
        return f"Span(name={self.name!r}, span_id={self.span_id!r}, span_type={self.span_type!r})"

    def _time(self, which: str) -> int | None:
        raw = self._raw
        value = raw.get(f"{which}_time_ns")
        if value is None:
            value = raw.get(f"{which}_time_unix_nano")
        if value is None:
            value = raw.get(f"{which}_time")
        return instant(value, 1_000_000_000)

    def _raw_attributes(self) -> dict[str, Any]:
        found = decode_payload(self._raw.get("attributes"), "auto")
        return as_dict(found, "spans")

    def _attribute(self, key: str, value: Any) -> Any:
        payload = self._row.payload
        if payload == "auto" and key.startswith("mlflow."):
            payload = "json"
        return own_payload(value, payload)

    def _recorded(self, field: str, key: str, others: Sequence[str]) -> Any:
        found = self._raw.get(field)
        if found is not None:
            return own_payload(found, self._row.payload)
        attributes = self._raw_attributes()
        for name in (key, *others):
            if attributes.get(name) is not None:
                return self._attribute(name, attributes[name])
        return None

    def recorded_text(self, field: str) -> str | None:
        found = self._raw.get(field)
        if found is None:
            found = self.inputs if field == "inputs" else self.outputs
        return found if found is None or isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=str)
