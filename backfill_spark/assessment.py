"""Feedback and its kin: what a scorer may return, and what a trace already has.

The classes have MLflow's constructor and attribute names and none of its checks: a scorer that builds a
`Feedback` must not fail on it, and `scoring.feedback` judges every value afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_FEEDBACK_NAME = "feedback"
"""Name of a feedback that was given none; such a feedback takes the name of its scorer."""
DEFAULT_SOURCE_ID = "default"


@dataclass(slots=True)
class AssessmentSource:
    """Who made an assessment: `source_type` is CODE, LLM_JUDGE or HUMAN."""

    source_type: str
    source_id: str = DEFAULT_SOURCE_ID


@dataclass(slots=True)
class AssessmentError:
    """Why an assessment has no value."""

    error_code: str
    error_message: str | None = None
    stack_trace: str | None = None


@dataclass(slots=True)
class FeedbackValue:
    """What `assessment.feedback` holds."""

    value: Any = None
    error: AssessmentError | None = None


@dataclass(slots=True)
class ExpectationValue:
    """What `assessment.expectation` holds."""

    value: Any = None


class Assessment:
    """A feedback or an expectation attached to a trace, with MLflow's attribute names."""

    _default_source = "CODE"

    def __init__(
        self,
        name: str,
        value: Any = None,
        error: Any = None,
        source: AssessmentSource | None = None,
        trace_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        span_id: str | None = None,
        create_time_ms: int | None = None,
        last_update_time_ms: int | None = None,
        rationale: str | None = None,
        overrides: str | None = None,
        valid: bool | None = True,  # noqa: FBT001, FBT002 - MLflow's order and default
        assessment_id: str | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.error = error
        self.source = AssessmentSource(self._default_source) if source is None else source
        self.trace_id = trace_id
        self.metadata = metadata
        self.span_id = span_id
        self.create_time_ms = create_time_ms
        self.last_update_time_ms = last_update_time_ms
        self.rationale = rationale
        self.overrides = overrides
        self.valid = valid
        self.assessment_id = assessment_id

    @property
    def feedback(self) -> FeedbackValue | None:
        """Value and error of a feedback; None for an expectation."""
        return None

    @property
    def expectation(self) -> ExpectationValue | None:
        """Value of an expectation; None for a feedback."""
        return None

    @property
    def error_code(self) -> str | None:
        """Code of the error, or None."""
        return getattr(self.error, "error_code", None)

    @property
    def error_message(self) -> str | None:
        """Message of the error, or None."""
        return getattr(self.error, "error_message", None)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    __hash__ = None  # type: ignore[assignment]  # mutable, and compared by value

    def __repr__(self) -> str:
        shown = f"name={self.name!r}, value={self.value!r}"
        if self.error is not None:
            shown += f", error={self.error!r}"
        if self.rationale is not None:
            shown += f", rationale={self.rationale!r}"
        return f"{type(self).__name__}({shown})"


class Feedback(Assessment):
    """What a scorer says about a trace.

    `Feedback(value=0.5, rationale="…")` takes the scorer's name; give `name` for feedback of its own name,
    `error` (an exception, a text or an `AssessmentError`) instead of `value` where there is none.
    """

    def __init__(
        self,
        name: str = DEFAULT_FEEDBACK_NAME,
        value: Any = None,
        error: Any = None,
        source: AssessmentSource | None = None,
        trace_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        span_id: str | None = None,
        create_time_ms: int | None = None,
        last_update_time_ms: int | None = None,
        rationale: str | None = None,
        overrides: str | None = None,
        valid: bool | None = True,  # noqa: FBT001, FBT002 - MLflow's order and default
        assessment_id: str | None = None,
    ) -> None:
        super().__init__(
            name,
            value,
            error,
            source,
            trace_id,
            metadata,
            span_id,
            create_time_ms,
            last_update_time_ms,
            rationale,
            overrides,
            valid,
            assessment_id,
        )

    @property
    def feedback(self) -> FeedbackValue:
        return FeedbackValue(self.value, self.error)


class Expectation(Assessment):
    """What somebody said the right answer is."""

    _default_source = "HUMAN"

    @property
    def expectation(self) -> ExpectationValue:
        return ExpectationValue(self.value)
