"""Span: one step of a trace, with MLflow's attribute names."""

from __future__ import annotations

import base64
import binascii
import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, cast

from backfill_spark.traces.assessment import RefusesByName
from backfill_spark.traces.decode import (
    MLFLOW_JSON,
    RecordedTrace,
    as_dict,
    decode_payload,
    instant,
    own,
    own_payload,
)

_NO_PARENT = (None, "", "0" * 16)
_KEYS = {
    "inputs": ("input.value", "gen_ai.input.messages", "traceloop.entity.input", "gcp.vertex.agent.llm_request"),
    "outputs": ("output.value", "gen_ai.output.messages", "traceloop.entity.output", "gcp.vertex.agent.llm_response"),
}
"""Attributes of other tracing libraries that hold a span's inputs and outputs."""
_UNSET: Any = object()


class SpanStatusCode(StrEnum):
    """Status of a span."""

    UNSET = "UNSET"
    OK = "OK"
    ERROR = "ERROR"


_STATUS_CODES = {"0": SpanStatusCode.UNSET, "1": SpanStatusCode.OK, "2": SpanStatusCode.ERROR}


class SpanType:
    """Kinds of spans that MLflow names; a span's type is a text, and may be any other."""

    LLM = "LLM"
    CHAIN = "CHAIN"
    AGENT = "AGENT"
    TOOL = "TOOL"
    CHAT_MODEL = "CHAT_MODEL"
    RETRIEVER = "RETRIEVER"
    PARSER = "PARSER"
    EMBEDDING = "EMBEDDING"
    RERANKER = "RERANKER"
    MEMORY = "MEMORY"
    UNKNOWN = "UNKNOWN"
    WORKFLOW = "WORKFLOW"
    TASK = "TASK"
    GUARDRAIL = "GUARDRAIL"
    EVALUATOR = "EVALUATOR"


class SpanAttributeKey:
    """Keys of what MLflow itself writes into a span's attributes."""

    REQUEST_ID = "mlflow.traceRequestId"
    SPAN_TYPE = "mlflow.spanType"
    INPUTS = "mlflow.spanInputs"
    OUTPUTS = "mlflow.spanOutputs"
    LOG_LEVEL = "mlflow.spanLogLevel"
    DESCRIPTION = "mlflow.spanDescription"
    FUNCTION_NAME = "mlflow.spanFunctionName"
    CHAT_TOOLS = "mlflow.chat.tools"
    CHAT_USAGE = "mlflow.chat.tokenUsage"
    MESSAGE_FORMAT = "mlflow.message.format"
    MODEL = "mlflow.llm.model"
    MODEL_PROVIDER = "mlflow.llm.provider"
    LLM_COST = "mlflow.llm.cost"


class SpanLogLevel(IntEnum):
    """How severe a span is, where its author said it."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40
    CRITICAL = 50


@dataclass(slots=True)
class SpanStatus(RefusesByName):
    """Status of a span: `status_code` (OK, ERROR, UNSET, or as the source spells it) and `description`."""

    status_code: str
    description: str = ""


@dataclass(slots=True)
class SpanEvent(RefusesByName):
    """Something that happened during a span, such as an exception; `timestamp` in nanoseconds since the epoch."""

    name: str
    timestamp: int | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """Return the event as plain values, its attributes as JSON text."""
        attributes = json.dumps(self.attributes, default=str) if self.attributes else None
        return {"name": self.name, "timestamp": self.timestamp, "attributes": attributes}


@dataclass(slots=True)
class Link(RefusesByName):
    """A span of another trace that belongs with this one."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class Document:
    """What a RETRIEVER span found."""

    page_content: str
    metadata: dict[str, Any] = field(default_factory=dict)
    id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def hex_id(value: Any) -> Any:
    """Return an id of 8 bytes as hex digits: MLflow writes base64 (V3) or 0x… (V2); others stay as they are."""
    if not isinstance(value, str):
        return value
    # First: one base64 text in 4,096 begins with 0x.
    if value.endswith("="):
        try:
            found = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return value
        return found.hex() if len(found) == 8 else value
    return value[2:].rjust(16, "0") if value.startswith("0x") else value


class Span(RefusesByName):
    """One step of a trace, with MLflow's attribute names."""

    __slots__ = ("_attributes", "_inputs", "_outputs", "_plain", "_raw", "_row", "_rule")

    def __init__(self, raw: Mapping[str, Any], row: RecordedTrace | None = None) -> None:
        self._raw = raw
        self._row = RecordedTrace({}, "auto") if row is None else row
        self._inputs = self._outputs = self._attributes = self._plain = self._rule = _UNSET

    @property
    def name(self) -> str | None:
        return cast("str | None", self._raw.get("name"))

    @property
    def span_id(self) -> str | None:
        """Id within the trace; of traces in MLflow's JSON 16 hex digits, as its assessments have it."""
        return cast("str | None", hex_id(self._raw.get("span_id", self._context().get("span_id"))))

    @property
    def parent_id(self) -> str | None:
        """Id of the span above; None for a root."""
        raw = self._raw
        parent = raw.get("parent_id")
        if parent is None:
            parent = raw.get("parent_span_id")
        parent = hex_id(parent)
        return None if parent in _NO_PARENT else cast("str", parent)

    @property
    def trace_id(self) -> str | None:
        """Id of the trace, as `trace.info.trace_id`."""
        known = self._row.values.get("trace_id") or self.get_attribute(SpanAttributeKey.REQUEST_ID)
        return cast("str | None", known or self._raw.get("trace_id"))

    # MLflow's older name.
    request_id = trace_id

    @property
    def span_type(self) -> str:
        """LLM, TOOL, AGENT, … as the source has it; UNKNOWN when it says nothing."""
        kind = self._raw.get("span_type")
        if kind is None:
            attributes = self._raw_attributes()
            kind = attributes.get(SpanAttributeKey.SPAN_TYPE, attributes.get("openinference.span.kind"))
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
            self._inputs = own_payload(*self._raw_payload("inputs"))
        return self._inputs

    @property
    def outputs(self) -> Any:
        """What came out, decoded by the payload rule of the trace."""
        if self._outputs is _UNSET:
            self._outputs = own_payload(*self._raw_payload("outputs"))
        return self._outputs

    @property
    def model_name(self) -> str | None:
        """The model that was asked."""
        return cast("str | None", self.get_attribute(SpanAttributeKey.MODEL))

    @property
    def llm_cost(self) -> dict[str, Any] | None:
        """`input_cost`, `output_cost`, `total_cost` in US dollars, where the span has them."""
        return cast("dict[str, Any] | None", self.get_attribute(SpanAttributeKey.LLM_COST))

    @property
    def description(self) -> str | None:
        """What its author wrote about it."""
        return cast("str | None", self.get_attribute(SpanAttributeKey.DESCRIPTION))

    @property
    def log_level(self) -> SpanLogLevel | None:
        """How severe it is; None where it says nothing, or a number of its own."""
        level = self.get_attribute(SpanAttributeKey.LOG_LEVEL)
        return next((known for known in SpanLogLevel if known == level), None)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes, decoded by the payload rule; of a span that MLflow wrote all of them, as it encodes them."""
        if self._attributes is _UNSET:
            raw, payload = self._raw_attributes(), self._attribute_payload()
            self._attributes = {key: own_payload(value, payload) for key, value in raw.items()}
        return cast("dict[str, Any]", self._attributes)

    def get_attribute(self, key: str) -> Any:
        return self.attributes.get(key)

    @property
    def events(self) -> list[SpanEvent]:
        """What happened during the span; an exception has its words in the attributes `exception.…`."""
        return [
            SpanEvent(
                str(raw.get("name") or ""),
                instant(raw.get("time_unix_nano", raw.get("timestamp", raw.get("time"))), 1_000_000_000),
                own(as_dict(decode_payload(raw.get("attributes"), "auto"), "spans")),
            )
            for raw in self._dicts("events")
        ]

    @property
    def links(self) -> list[Link]:
        """Spans of other traces that belong with this one."""
        return [
            Link(
                raw.get("trace_id") or "",
                hex_id(raw.get("span_id")) or "",
                own(decode_payload(raw.get("attributes"), "auto")) or None,
            )
            for raw in self._dicts("links")
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the span as plain values under both its attribute names and those of MLflow's JSON.

        `attributes` are as they were recorded: MLflow writes each of them as JSON text.
        """
        status = self.status
        return {
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "parent_id": self.parent_id,
            "parent_span_id": self.parent_id,
            "name": self.name,
            "span_type": self.span_type,
            "start_time_ns": self.start_time_ns,
            "start_time_unix_nano": self.start_time_ns,
            "end_time_ns": self.end_time_ns,
            "end_time_unix_nano": self.end_time_ns,
            "status_code": str(status.status_code),
            "status": {"code": f"STATUS_CODE_{status.status_code}", "message": status.description},
            "inputs": own(self.inputs),
            "outputs": own(self.outputs),
            "attributes": copy.deepcopy(self._raw_attributes()),
            "events": [
                {"name": event.name, "time_unix_nano": event.timestamp, "attributes": event.attributes}
                for event in self.events
            ],
            "links": [link.to_dict() for link in self.links],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Span:
        """Read a span of MLflow's JSON (V2, V3), or what `to_dict` gives."""
        return cls(data, RecordedTrace({}, MLFLOW_JSON))

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
        if self._plain is _UNSET:
            self._plain = as_dict(decode_payload(self._raw.get("attributes"), "auto"), "spans")
        return cast("dict[str, Any]", self._plain)

    def _context(self) -> Mapping[str, Any]:
        context = self._raw.get("context")
        return context if isinstance(context, Mapping) else {}

    def _dicts(self, name: str) -> list[dict[str, Any]]:
        found = decode_payload(self._raw.get(name), "auto")
        found = found.tolist() if hasattr(found, "tolist") else found
        return [as_dict(item, "spans") for item in found] if isinstance(found, list | tuple) else []

    def _attribute_payload(self) -> str:
        if self._rule is _UNSET:
            payload = self._row.payload
            is_mlflows = payload != "text" and any(key.startswith("mlflow.") for key in self._raw_attributes())
            self._rule = "json" if is_mlflows else payload
        return cast("str", self._rule)

    def _raw_payload(self, name: str) -> tuple[Any, str]:
        """The recorded inputs or outputs, and how they are decoded."""
        attributes = self._raw_attributes()
        key = SpanAttributeKey.INPUTS if name == "inputs" else SpanAttributeKey.OUTPUTS
        # What MLflow recorded comes first in MLflow's JSON, where `inputs` and `outputs` are decoded copies.
        if attributes.get(key) is not None and (self._row.payload == MLFLOW_JSON or self._raw.get(name) is None):
            return attributes[key], self._attribute_payload()
        if self._raw.get(name) is not None:
            return self._raw[name], self._row.payload
        found = next((attributes[other] for other in _KEYS[name] if attributes.get(other) is not None), None)
        return found, self._attribute_payload()

    def json_text(self, name: str) -> str | None:
        """Return the inputs or outputs as JSON text: as it was recorded where it was such a text."""
        return as_json_text(*self._raw_payload(name))


def as_json_text(recorded: Any, payload: str) -> str | None:
    """Return a recorded value as JSON text; None for None."""
    if recorded is None:
        return None
    value = decode_payload(recorded, payload)
    is_json = recorded.__class__ is str and value is not recorded
    return cast("str", recorded) if is_json else json.dumps(value, ensure_ascii=False, default=str)
