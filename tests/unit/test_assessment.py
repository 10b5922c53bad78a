"""Feedback has MLflow's constructor and takes whatever user code gives it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from backfill_spark.traces.assessment import (
    Assessment,
    AssessmentError,
    AssessmentSource,
    AssessmentSourceType,
    CategoricalRating,
    Expectation,
    Feedback,
    IssueReference,
)


def test_feedback_has_mlflows_defaults() -> None:
    """A feedback that is given only a value is named `feedback`, by code."""
    made = Feedback(value=0.5)

    assert made.name == "feedback"
    assert made.source == AssessmentSource("CODE", "default")
    assert (made.rationale, made.metadata, made.error, made.span_id) == (None, None, None, None)


def test_feedback_takes_its_arguments_in_mlflows_order() -> None:
    """Positional arguments are name, value, error, source."""
    error, source = AssessmentError("E", "m"), AssessmentSource("LLM_JUDGE", "gpt")
    made = Feedback("tone", None, error, source)

    assert made.name == "tone"
    assert made.source is source
    assert (made.error_code, made.error_message) == ("E", "m")
    assert made.feedback.error is error


def test_feedback_never_refuses_a_value() -> None:
    """What cannot be stored is judged after the scorer returned, not inside it."""
    made = Feedback(value={1, 2}, metadata="none")  # type: ignore[arg-type]

    assert made.value == {1, 2}
    assert Feedback().value is None


def test_assessments_compare_by_kind_and_value() -> None:
    """A feedback and an expectation of one value differ."""
    assert Feedback("a", 1) == Feedback("a", 1)
    other: object = Expectation("a", 1)
    assert Feedback("a", 1) != other
    assert isinstance(Expectation("a", 1), Assessment)
    assert Expectation("a", 1).feedback is None
    assert Expectation("a", 1).expectation.value == 1
    assert Expectation("a", 1).source.source_type == "HUMAN"


def test_feedback_survives_pickling_and_prints_short() -> None:
    """Feedback travels between processes and shows what was said."""
    made = Feedback("tone", "yes", rationale="polite")

    assert pickle.loads(pickle.dumps(made)) == made
    assert repr(made) == "Feedback(name='tone', value='yes', rationale='polite')"


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("bad"), "ValueError", "bad"),
        (KeyError("k"), "KeyError", "'k'"),
        (SystemExit(3), "SystemExit", "3"),
        (MuteError(), "MuteError", "<str failed>"),
        ("away", "ASSESSMENT_ERROR", "away"),
        (AssessmentError("RATE", "slow"), "RATE", "slow"),
    ],
)
def test_an_error_of_a_feedback_is_an_object(error: Any, code: str, message: str) -> None:
    """Exceptions and texts are converted as MLflow does."""
    made = Feedback(error=error)

    assert (made.error.error_code, made.error.error_message) == (code, message)
    assert (made.error_code, made.error_message) == (code, message)
    assert made.feedback.error is made.error
    assert made.error is not None
    assert (made.error.stack_trace is not None) == isinstance(error, BaseException)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("HUMAN", "HUMAN"),
        ("human", "HUMAN"),
        ("llm_judge", "LLM_JUDGE"),
        ("AI_JUDGE", "LLM_JUDGE"),
        (AssessmentSourceType.AI_JUDGE, "LLM_JUDGE"),
        (AssessmentSourceType.HUMAN, "HUMAN"),
        ("CODE", "CODE"),
    ],
)
def test_a_source_is_spelled_as_mlflow_does(given: Any, kept: str) -> None:
    """In capitals, and the older name of judges as the newer one."""
    assert AssessmentSource(given).source_type == kept
    assert Feedback(value=1, source=given).source == AssessmentSource(kept)
    assert AssessmentSource(source_type=given, source_id="x").to_dictionary() == {"source_type": kept, "source_id": "x"}


def test_words_of_a_rating() -> None:
    """Any case is read; a word that is neither yes nor no is unknown."""
    assert (CategoricalRating("YES"), CategoricalRating("No")) == (CategoricalRating.YES, CategoricalRating.NO)
    assert CategoricalRating("perhaps") is CategoricalRating.UNKNOWN
    rating: str = CategoricalRating.YES
    assert rating == "yes"


@pytest.mark.parametrize(
    "made",
    [
        Feedback("f", 0.5, rationale="r", metadata={"a": "b"}, span_id="s", create_time_ms=1_718_452_800_123),
        Feedback("f", {"a": [1]}, source=AssessmentSource("HUMAN", "anna"), valid=False),
        Feedback("f", error=AssessmentError("E", "m")),
        Expectation("e", "18", trace_id="tr-1", last_update_time_ms=1_718_452_800_000),
        Expectation("e", {"a": [1]}),
        IssueReference("is-1", "slow", rationale="r"),
    ],
    ids=str,
)
def test_an_assessment_comes_back_from_its_dictionary(made: Any) -> None:
    """The dictionary is MLflow's JSON: plain values, nothing that is None."""
    shown = made.to_dictionary()

    assert None not in shown.values()
    again = Assessment.from_dictionary(shown)
    assert (again.trace_id, made.trace_id) in {("", None), ("tr-1", "tr-1")}
    again.trace_id = made.trace_id
    assert again == made


def test_an_expectation_takes_its_arguments_in_mlflows_order() -> None:
    """Name, value, source, trace."""
    made = Expectation("e", 1, AssessmentSource("CODE", "x"), "tr-1")

    assert (made.source.source_id, made.trace_id, made.error) == ("x", "tr-1", None)


def test_the_run_of_an_assessment_is_in_its_metadata() -> None:
    """MLflow keeps it there."""
    assert Feedback(value=1, metadata={"mlflow.assessment.sourceRunId": "r"}).run_id == "r"
    assert Feedback(value=1).run_id is None
