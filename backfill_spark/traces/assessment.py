"""Feedback and its kin: what a scorer may return, and what a trace already has.

The classes have MLflow's constructor and attribute names and none of its checks: a scorer that builds a
`Feedback` must not fail on it, and `scoring.feedback` judges every value afterwards.
"""

from __future__ import annotations

import copy
import json
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Self, cast

from backfill_spark.traces.decode import MLFLOW_JSON, instant, own_payload

DEFAULT_FEEDBACK_NAME = "feedback"
"""Name of a feedback that was given none; such a feedback takes the name of its scorer."""
DEFAULT_SOURCE_ID = "default"
TEXT_ERROR = "ASSESSMENT_ERROR"
"""MLflow's code of an error that was given as a bare text."""
_RUN_KEY = "mlflow.assessment.sourceRunId"
_PROTOBUF = "protobuf messages are made by MLflow alone; use to_dict(), or to_dictionary() of an assessment"
_PROTOBUF_KINDS = ("proto", "otel_proto", "otel_status", "otel_proto_status")
_READING = "Trace.from_dict(), Trace.from_json() and Assessment.from_dictionary() read MLflow's JSON, V2 and V3"
_WRITING = "traces are only read here; MLflow's tracing writes them"
_PROTOBUF_METHODS = [f"{way}_{kind}" for way in ("to", "from") for kind in _PROTOBUF_KINDS]
_ABSENT = {
    **dict.fromkeys(_PROTOBUF_METHODS, _PROTOBUF),
    **dict.fromkeys(("from_dict", "from_dict_v2", "from_dictionary"), _READING),
    **dict.fromkeys(("from_exception", "from_experiment_id"), _WRITING),
    **dict.fromkeys(("from_databricks_uc_schema", "from_databricks_uc_table_prefix"), _WRITING),
    "to_json_bytes": "use json.dumps(data.to_dict()).encode()",
    "get": "it is no dict; read its attributes by name",
}


class RefusesByName:
    """An object that says why it lacks an attribute of MLflow's object of the same name."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        said = f"{type(self).__name__!r} object has no attribute {name!r}"
        raise AttributeError(f"{said}: {_ABSENT[name]}." if name in _ABSENT else said)


class _AsDictionary(RefusesByName):
    __slots__ = ()

    def to_dictionary(self) -> dict[str, Any]:
        return asdict(cast("Any", self))


class CategoricalRating(StrEnum):
    """A verdict in words; a text that is neither yes nor no is UNKNOWN."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> CategoricalRating:
        return cls.__members__.get(str(value).upper(), cls.UNKNOWN)


class AssessmentSourceType(StrEnum):
    """Kinds of sources; AI_JUDGE is an older name of LLM_JUDGE."""

    SOURCE_TYPE_UNSPECIFIED = "SOURCE_TYPE_UNSPECIFIED"
    LLM_JUDGE = "LLM_JUDGE"
    AI_JUDGE = "AI_JUDGE"
    HUMAN = "HUMAN"
    CODE = "CODE"

    @classmethod
    def _missing_(cls, value: object) -> AssessmentSourceType | None:
        return cls.__members__.get(str(value).upper())


@dataclass(slots=True)
class AssessmentSource(_AsDictionary):
    """Who made an assessment: `source_type` is CODE, LLM_JUDGE or HUMAN, in any case."""

    source_type: str
    source_id: str | None = DEFAULT_SOURCE_ID

    def __post_init__(self) -> None:
        if issubclass(type(self.source_type), str):
            kind = str(self.source_type).upper()
            self.source_type = "LLM_JUDGE" if kind == "AI_JUDGE" else kind

    @classmethod
    def from_dictionary(cls, source: Mapping[str, Any]) -> Self:
        """Read what `to_dictionary` gives."""
        return cls(source.get("source_type") or "", source.get("source_id") or DEFAULT_SOURCE_ID)


@dataclass(slots=True)
class AssessmentError(_AsDictionary):
    """Why an assessment has no value."""

    error_code: str
    error_message: str | None = None
    stack_trace: str | None = None

    @classmethod
    def from_dictionary(cls, error: Mapping[str, Any]) -> Self:
        """Read what `to_dictionary` gives."""
        return cls(error.get("error_code") or "", error.get("error_message"), error.get("stack_trace"))


@dataclass(frozen=True, slots=True)
class FeedbackValue(RefusesByName):
    """What `assessment.feedback` holds."""

    value: Any = None
    error: AssessmentError | None = None

    def to_dictionary(self) -> dict[str, Any]:
        """Return MLflow's JSON of it, as plain values."""
        error = self.error
        shown = {"error": _given(**error.to_dictionary())} if isinstance(error, AssessmentError) else {}
        return {"value": copy.deepcopy(self.value)} | shown


@dataclass(frozen=True, slots=True)
class ExpectationValue(RefusesByName):
    """What `assessment.expectation` holds."""

    value: Any = None

    def to_dictionary(self) -> dict[str, Any]:
        """Return MLflow's JSON of it, as plain values: a container is JSON text."""
        if self.value is None or isinstance(self.value, int | float | str):
            return {"value": self.value}
        text = json.dumps(self.value, ensure_ascii=False, default=str)
        return {"serialized_value": {"serialization_format": "JSON_FORMAT", "value": text}}


@dataclass(frozen=True, slots=True)
class IssueReferenceValue(_AsDictionary):
    """What `assessment.issue` holds."""

    issue_name: str


@dataclass(repr=False)
class Assessment(RefusesByName):
    """A feedback, an expectation or an issue attached to a trace, with MLflow's attribute names."""

    name: str
    value: Any = None
    error: Any = None
    source: Any = None
    """An `AssessmentSource`; the constructor also takes its type as a text."""
    trace_id: str | None = None
    metadata: Mapping[str, Any] | None = None
    span_id: str | None = None
    create_time_ms: int | None = None
    last_update_time_ms: int | None = None
    rationale: str | None = None
    overrides: str | None = None
    valid: bool | None = True
    assessment_id: str | None = None
    _default_source: ClassVar[str] = "CODE"

    def __post_init__(self) -> None:
        given = self._default_source if self.source is None else self.source
        self.source = AssessmentSource(given) if issubclass(type(given), str) else given

    @property
    def feedback(self) -> FeedbackValue | None:
        """Value and error of a feedback; None for an expectation."""
        return None

    @property
    def expectation(self) -> ExpectationValue | None:
        """Value of an expectation; None for a feedback."""
        return None

    @property
    def issue(self) -> IssueReferenceValue | None:
        """What an `IssueReference` points to; None for others."""
        return None

    @property
    def run_id(self) -> str | None:
        """The MLflow run that made it, as its metadata say."""
        found = self.metadata.get(_RUN_KEY) if isinstance(self.metadata, Mapping) else None
        return cast("str | None", found)

    @property
    def error_code(self) -> str | None:
        return getattr(self.error, "error_code", None)

    @property
    def error_message(self) -> str | None:
        return getattr(self.error, "error_message", None)

    def to_dictionary(self) -> dict[str, Any]:
        """Return MLflow's JSON of it, as plain values; what is None is left out."""
        return _given(
            assessment_id=self.assessment_id,
            assessment_name=self.name,
            trace_id=self.trace_id or "",
            span_id=self.span_id,
            source=self.source.to_dictionary() if isinstance(self.source, AssessmentSource) else None,
            create_time=_rfc3339(self.create_time_ms),
            last_update_time=_rfc3339(self.last_update_time_ms),
            rationale=self.rationale,
            metadata=copy.deepcopy(self.metadata),
            overrides=self.overrides,
            valid=self.valid,
            feedback=None if self.feedback is None else self.feedback.to_dictionary(),
            expectation=None if self.expectation is None else self.expectation.to_dictionary(),
            issue=None if self.issue is None else self.issue.to_dictionary(),
        )

    @classmethod
    def from_dictionary(cls, assessment: Mapping[str, Any]) -> Assessment:
        """Read an assessment of MLflow's JSON: a Feedback, an Expectation, or an IssueReference."""
        return read_assessment(assessment, MLFLOW_JSON)

    def __repr__(self) -> str:
        shown = f"name={self.name!r}, value={self.value!r}"
        if self.error is not None:
            shown += f", error={self.error!r}"
        if self.rationale is not None:
            shown += f", rationale={self.rationale!r}"
        return f"{type(self).__name__}({shown})"


@dataclass(repr=False)
class Feedback(Assessment):
    """What a scorer says about a trace.

    `Feedback(value=0.5, rationale="…")` takes the scorer's name; give `name` for feedback of its own name,
    `error` (an exception, a text or an `AssessmentError`) instead of `value` where there is none.
    """

    name: str = DEFAULT_FEEDBACK_NAME

    def __post_init__(self) -> None:
        super().__post_init__()
        self.error = _as_error(self.error)

    @property
    def feedback(self) -> FeedbackValue:
        return FeedbackValue(self.value, self.error)


@dataclass(repr=False)
class Expectation(Assessment):
    """What somebody said the right answer is."""

    error: Any = field(default=None, init=False)
    rationale: str | None = field(default=None, init=False)
    overrides: str | None = field(default=None, init=False)
    valid: bool | None = field(default=None, init=False)
    assessment_id: str | None = field(default=None, init=False)
    _default_source: ClassVar[str] = "HUMAN"

    @property
    def expectation(self) -> ExpectationValue:
        return ExpectationValue(self.value)


@dataclass(init=False, repr=False)
class IssueReference(Assessment):
    """An issue that somebody found in a trace."""

    issue_name: str = ""
    _default_source: ClassVar[str] = "LLM_JUDGE"

    def __init__(
        self,
        issue_id: str,
        issue_name: str,
        source: AssessmentSource | str | None = None,
        trace_id: str | None = None,
        rationale: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        span_id: str | None = None,
    ) -> None:
        super().__init__(issue_id, None, None, source, trace_id, metadata, span_id, rationale=rationale, valid=None)
        self.issue_name = issue_name

    @property
    def issue_id(self) -> str:
        """The issue's id, which is the assessment's name."""
        return self.name

    @property
    def issue(self) -> IssueReferenceValue:
        return IssueReferenceValue(self.issue_name)


# --- reading those of a source


def is_valid(raw: Mapping[str, Any]) -> bool:
    """False where another assessment has replaced this one."""
    return str(raw.get("valid")).lower() != "false"


def is_expectation(raw: Mapping[str, Any]) -> bool:
    """True where a recorded assessment says what is right."""
    expectation = raw.get("expectation")
    if expectation is None:
        return False
    # A struct column may hold a struct of NULLs beside a feedback.
    is_hollow = isinstance(expectation, Mapping) and all(value is None for value in expectation.values())
    return not (is_hollow and (raw.get("feedback") is not None or raw.get("issue") is not None))


def name_of(raw: Mapping[str, Any]) -> str:
    """Return the name of a recorded assessment."""
    return str(raw.get("assessment_name") or raw.get("name") or "")


def expected(expectation: Any, payload: str) -> Any:
    """Return the value of a recorded expectation; what MLflow serialised is JSON text."""
    if isinstance(expectation, Mapping):
        value, serialized = expectation.get("value"), expectation.get("serialized_value")
        if value is None and isinstance(serialized, Mapping):
            return own_payload(serialized.get("value"), "text" if payload == "text" else "json")
        expectation = value
    return _recorded(expectation, payload)


def _recorded(value: Any, payload: str) -> Any:
    """A recorded value; a text in quotes is JSON, as some writers spell each value (`"18"` is the text 18)."""
    is_quoted = payload == "auto" and value.__class__ is str and value[:1] == '"' == value[-1:] and len(value) > 1
    return own_payload(value, "json" if is_quoted else payload)


def read_assessment(raw: Mapping[str, Any], payload: str) -> Assessment:
    """Make an object of a recorded assessment, its value decoded by the payload rule."""
    name, source = name_of(raw), raw.get("source")
    made: Assessment
    if is_expectation(raw):
        made = Expectation(name, expected(raw["expectation"], payload))
    elif isinstance(raw.get("issue"), Mapping) and raw["issue"].get("issue_name") is not None:
        made = IssueReference(name, raw["issue"]["issue_name"])
    else:
        feedback = raw["feedback"] if isinstance(raw.get("feedback"), Mapping) else {}
        error = feedback.get("error")
        if not isinstance(error, Mapping) or all(v is None for v in error.values()):
            error = None
        made = Feedback(
            name,
            _recorded(feedback.get("value"), payload),
            None if error is None else AssessmentError.from_dictionary(error),
        )
    if isinstance(source, Mapping):
        made.source = AssessmentSource.from_dictionary(source)
    made.trace_id, made.span_id = raw.get("trace_id"), raw.get("span_id")
    made.metadata = dict(raw["metadata"]) if isinstance(raw.get("metadata"), Mapping) else None
    made.create_time_ms = instant(raw.get("create_time"), 1000)
    made.last_update_time_ms = instant(raw.get("last_update_time"), 1000)
    made.rationale, made.overrides = raw.get("rationale"), raw.get("overrides")
    made.assessment_id = raw.get("assessment_id")
    if not is_valid(raw):
        made.valid = False
    return made


def _as_error(error: Any) -> Any:
    """An AssessmentError made of an error as MLflow makes it; a value that is no error stays as it is."""
    kind = type(error)  # not isinstance(): an object may lie about its __class__
    if issubclass(kind, str):
        return AssessmentError(TEXT_ERROR, error)
    if not issubclass(kind, BaseException):
        return error
    try:
        message = str(error)
    except BaseException:  # a user's exception
        message = "<str failed>"
    return AssessmentError(kind.__name__, message, "".join(traceback.format_exception(error)))


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _rfc3339(milliseconds: Any) -> str | None:
    if not isinstance(milliseconds, int):
        return None
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    return at.isoformat(timespec="milliseconds" if milliseconds % 1000 else "seconds").replace("+00:00", "Z")
