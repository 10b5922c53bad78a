"""Trace: light and lazy, with MLflow's attribute names.

Nothing is decoded before it is asked for: a scorer that reads `trace.info.state` never parses the spans.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import SimpleNamespace
from typing import Any, Self, cast

from backfill_spark.traces.assessment import (
    Assessment,
    Expectation,
    Feedback,
    RefusesByName,
    expected,
    is_expectation,
    is_valid,
    name_of,
    read_assessment,
)
from backfill_spark.traces.decode import (
    MLFLOW_JSON,
    RecordedTrace,
    decode_payload,
    instant,
    integer,
    own,
    own_payload,
)
from backfill_spark.traces.mlflow_json import columns_of_json, info_columns, row_columns, trace_columns
from backfill_spark.traces.span import Span, SpanStatus, SpanStatusCode, as_json_text

__all__ = [
    "Span",
    "SpanStatus",
    "SpanStatusCode",
    "Trace",
    "TraceData",
    "TraceInfo",
    "TraceLocation",
    "TraceState",
    "decode_payload",
]

_UNSET: Any = object()


class TraceState(StrEnum):
    """State of a trace."""

    OK = "OK"
    ERROR = "ERROR"
    IN_PROGRESS = "IN_PROGRESS"
    STATE_UNSPECIFIED = "STATE_UNSPECIFIED"


class TraceLocationType(StrEnum):
    """Kinds of places."""

    TRACE_LOCATION_TYPE_UNSPECIFIED = "TRACE_LOCATION_TYPE_UNSPECIFIED"
    MLFLOW_EXPERIMENT = "MLFLOW_EXPERIMENT"
    INFERENCE_TABLE = "INFERENCE_TABLE"
    UC_SCHEMA = "UC_SCHEMA"
    UC_TABLE_PREFIX = "UC_TABLE_PREFIX"


class LocationPart(RefusesByName, SimpleNamespace):
    """What a trace's JSON says of one kind of place, for example `experiment_id`."""

    def to_dict(self) -> dict[str, Any]:
        """Return MLflow's JSON of it, as plain values."""
        return dict(vars(self))


@dataclass(frozen=True, slots=True)
class TraceLocation(RefusesByName):
    """Where a trace is kept: an experiment, or what else MLflow's JSON names; what does not hold is None."""

    type: str
    mlflow_experiment: LocationPart | None = None
    inference_table: LocationPart | None = None
    uc_schema: LocationPart | None = None
    uc_table_prefix: LocationPart | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return MLflow's JSON of it, as plain values."""
        named = {kind: getattr(self, kind) for kind in _PLACES}
        return {"type": str(self.type)} | {kind: value.to_dict() for kind, value in named.items() if value is not None}


_PLACES = ("mlflow_experiment", "inference_table", "uc_schema", "uc_table_prefix")


class TraceInfo(RefusesByName):
    """What is known of a trace without its spans."""

    __slots__ = ("_assessments", "_row", "_tags", "_trace_metadata")

    def __init__(self, row: RecordedTrace) -> None:
        self._row = row
        self._tags = self._trace_metadata = self._assessments = _UNSET

    @property
    def trace_id(self) -> str:
        return cast("str", self._row.values.get("trace_id"))

    @property
    def client_request_id(self) -> str | None:
        return cast("str | None", self._row.values.get("client_request_id"))

    @property
    def experiment_id(self) -> str | None:
        return cast("str | None", self._row.values.get("experiment_id"))

    @property
    def trace_location(self) -> TraceLocation:
        """The experiment that it was recorded in, or what else its JSON names."""
        told = self._row.values.get("trace_location")
        if not isinstance(told, Mapping):
            told = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": self.experiment_id}}
        parts = {kind: LocationPart(**told[kind]) for kind in _PLACES if isinstance(told.get(kind), Mapping)}
        kind = str(told.get("type") or "")
        return TraceLocation(TraceLocationType.__members__.get(kind) or kind, **parts)

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
    def execution_duration(self) -> int | None:
        """Duration in milliseconds."""
        return integer(self._row.values.get("execution_duration_ms"))

    @property
    def state(self) -> str:
        """OK, ERROR, IN_PROGRESS or STATE_UNSPECIFIED."""
        text = self._row.values.get("state")
        if not text:
            return TraceState.STATE_UNSPECIFIED
        return TraceState.__members__.get(text) or str(text)

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
    def token_usage(self) -> dict[str, Any] | None:
        """`input_tokens`, `output_tokens`, `total_tokens` where the trace has them."""
        return self._sums("mlflow.trace.tokenUsage")

    @property
    def cost(self) -> dict[str, Any] | None:
        """`input_cost`, `output_cost`, `total_cost` in US dollars where the trace has them."""
        return self._sums("mlflow.trace.cost")

    def _sums(self, key: str) -> dict[str, Any] | None:
        found = decode_payload(self.trace_metadata.get(key))
        return found if isinstance(found, dict) else None

    @property
    def assessments(self) -> list[Assessment]:
        """Feedback and expectations that the trace had in the source."""
        if self._assessments is _UNSET:
            self._assessments = [read_assessment(raw, self._row.payload) for raw in self._row.items("assessments")]
        return cast("list[Assessment]", self._assessments)

    # MLflow's older names.
    request_id = trace_id
    timestamp_ms = request_time
    execution_time_ms = execution_duration
    status = state
    request_metadata = trace_metadata

    def to_dict(self) -> dict[str, Any]:
        """Return plain values under the names of the attributes; times are milliseconds."""
        names = ("trace_id", "experiment_id", "client_request_id", "request_time", "execution_duration")
        return {name: getattr(self, name) for name in names} | {
            "execution_duration_ms": self.execution_duration,
            "trace_location": self.trace_location.to_dict(),
            "state": str(self.state),
            "request_preview": self.request_preview,
            "response_preview": self.response_preview,
            "trace_metadata": dict(self.trace_metadata),
            "tags": dict(self.tags),
            "assessments": copy.deepcopy(self._row.items("assessments")),
        }

    @classmethod
    def from_dict(cls, info: Mapping[str, Any]) -> TraceInfo:
        """Read the `info` of MLflow's JSON (V2, V3), or what `to_dict` gives."""
        return cls(RecordedTrace(info_columns(info), MLFLOW_JSON))

    def __repr__(self) -> str:
        return f"TraceInfo(trace_id={self.trace_id!r}, state={str(self.state)!r})"


class TraceData(RefusesByName):
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
        """The request as JSON text: the column, else the root span's inputs."""
        return self._json("request", "inputs")

    @property
    def response(self) -> str | None:
        """The response as JSON text: the column, else the root span's outputs."""
        return self._json("response", "outputs")

    @property
    def intermediate_outputs(self) -> dict[str, Any] | None:
        """Name → outputs of the spans below the root, numbered where several have a name; None for a single span.

        MLflow's older way; `trace.search_spans(name=…)` is the newer one.
        """
        root = self.root_span()
        told = None if root is None else root.get_attribute("mlflow.trace.intermediate_outputs")
        if told or len(self.spans) < 2:
            return cast("dict[str, Any] | None", told or None)
        total, seen = Counter(span.name for span in self.spans), Counter[str | None]()
        found = {}
        for span in self.spans:
            seen[span.name] += 1
            name = str(span.name) if total[span.name] == 1 else f"{span.name}_{seen[span.name]}"
            if span.parent_id and span.outputs is not None:
                found[name] = span.outputs
        return found

    def root_span(self) -> Span | None:
        """Return the first span without a parent, else the earliest whose parent is not in the trace."""
        spans = self.spans
        for span in spans:
            if span.parent_id is None:
                return span
        ids = {span.span_id for span in spans}
        orphans = [span for span in spans if span.parent_id not in ids]
        # min() keeps list order among equals; a span without a time counts as last.
        return min(orphans, key=lambda span: (span.start_time_ns is None, span.start_time_ns or 0), default=None)

    # MLflow's name of it, which code in the wild calls.
    _get_root_span = root_span

    def __repr__(self) -> str:
        return f"TraceData(spans={len(self.spans)})"

    def to_dict(self) -> dict[str, Any]:
        """Return the spans as plain values."""
        return {"spans": [span.to_dict() for span in self.spans]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TraceData:
        """Read the `data` of MLflow's JSON (V2, V3), or what `to_dict` gives."""
        return cls(RecordedTrace({"spans": data.get("spans")}, MLFLOW_JSON))

    def _json(self, column: str, field: str) -> str | None:
        if column in self._row.values:
            return as_json_text(self._row.values[column], self._row.payload)
        root = self.root_span()
        return None if root is None else root.json_text(field)


class Trace(RefusesByName):
    """One recorded trace.

    Args:
        values: Canonical column → raw value. Maps and arrays may be JSON text, dicts and lists, or absent;
            `request_time` is an integer of microseconds since the epoch. Or a row of `mlflow.search_traces()`, or
            what `from_dict` takes.
        payload: How recorded texts are decoded, see `decode_payload`.

    Reading `tags`, `trace_metadata`, `spans` or `assessments` that cannot be decoded raises
    `TraceUnreadableError`; nothing else does.
    """

    __slots__ = ("_row", "data", "info")

    def __init__(self, values: Mapping[str, Any], *, payload: str = "auto") -> None:
        if "trace" in values or "execution_duration" in values:  # columns of MLflow's frame, none of the canonical
            values, payload = row_columns(values), MLFLOW_JSON
        elif "info" in values:
            values, payload = trace_columns(values), MLFLOW_JSON
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

    @classmethod
    def from_dict(cls, trace: Mapping[str, Any]) -> Self:
        """Read a trace of MLflow's JSON (V2, V3), or what `to_dict` gives.

        Raises:
            TraceUnreadableError: it has no `info` and `data`.
        """
        return cls(trace_columns(trace), payload=MLFLOW_JSON)

    @classmethod
    def from_json(cls, trace: str) -> Self:
        """Read a trace of MLflow's JSON text (V2, V3), or what `to_json` gives.

        Raises:
            TraceUnreadableError: it is no JSON object with `info` and `data`.
        """
        return cls(columns_of_json(trace), payload=MLFLOW_JSON)

    @property
    def trace_id(self) -> str:
        return self.info.trace_id

    @property
    def inputs(self) -> Any:
        """The request column where the trace has one, else the root span's inputs; decoded."""
        return self._payload_of("request", "inputs")

    @property
    def outputs(self) -> Any:
        """The response column where the trace has one, else the root span's outputs; decoded."""
        return self._payload_of("response", "outputs")

    @property
    def expectations(self) -> dict[str, Any]:
        """Name → value of the expectations that the trace has, {} for none; of equal names the last one counts."""
        return {
            name_of(raw): expected(raw["expectation"], self._row.payload)
            for raw in self._row.items("assessments")
            if is_expectation(raw) and is_valid(raw)
        }

    def search_spans(
        self,
        span_type: str | None = None,
        name: str | re.Pattern[str] | None = None,
        span_id: str | None = None,
    ) -> list[Span]:
        """Return the spans that fit all that is given, in recorded order; `name` is a text or a compiled pattern.

        Raises:
            ValueError: the type is no text, or the name neither a text nor a pattern.
        """
        if not isinstance(span_type, str | None) or not isinstance(name, str | re.Pattern | None):
            raise ValueError(f"search_spans takes texts, and a pattern as name; got {span_type!r:.80}, {name!r:.80}.")
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
        """Return plain values: `info` and `data` (see there), and the decoded inputs and outputs."""
        return {
            "info": self.info.to_dict(),
            "data": self.data.to_dict(),
            "inputs": own(self.inputs),
            "outputs": own(self.outputs),
        }

    def to_json(self, pretty: bool = False) -> str:  # noqa: FBT001, FBT002 - MLflow's signature
        """Return `to_dict()` as JSON text; `from_json` reads it."""
        return json.dumps(self.to_dict(), ensure_ascii=False, default=str, indent=2 if pretty else None)

    def to_pandas_dataframe_row(self) -> dict[str, Any]:
        """Return the trace as a row of the frame that `mlflow.search_traces()` gives."""
        info = self.info
        return {
            "trace_id": info.trace_id,
            "trace": self.to_json(),
            "client_request_id": info.client_request_id,
            "state": info.state,
            "request_time": info.request_time,
            "execution_duration": info.execution_duration,
            "request": self.inputs,
            "response": self.outputs,
            "trace_metadata": info.trace_metadata,
            "tags": info.tags,
            "spans": self.data.to_dict()["spans"],
            "assessments": [assessment.to_dictionary() for assessment in info.assessments],
        }

    @staticmethod
    def pandas_dataframe_columns() -> list[str]:
        return list(Trace({"trace_id": ""}).to_pandas_dataframe_row())

    def __repr__(self) -> str:
        return f"Trace(trace_id={self.info.trace_id!r})"

    def __reduce__(self) -> Any:
        values = self._row.values
        return _restored, (values if isinstance(values, dict) else dict(values), self._row.payload)

    def _payload_of(self, column: str, field: str) -> Any:
        row = self._row
        if column in row.values:
            return own_payload(row.values[column], row.payload)
        root = self.data.root_span()
        return None if root is None else getattr(root, field)


def _restored(values: dict[str, Any], payload: str) -> Trace:
    return Trace(values, payload=payload)
