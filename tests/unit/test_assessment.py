"""Feedback has MLflow's constructor and takes whatever user code gives it."""

from __future__ import annotations

import pickle

from backfill_spark.assessment import Assessment, AssessmentError, AssessmentSource, Expectation, Feedback


def test_feedback_has_mlflows_defaults():
    """A feedback that is given only a value is named `feedback`, by code."""
    made = Feedback(value=0.5)

    assert made.name == "feedback"
    assert made.source == AssessmentSource("CODE", "default")
    assert (made.rationale, made.metadata, made.error, made.span_id) == (None, None, None, None)


def test_feedback_takes_its_arguments_in_mlflows_order():
    """Positional arguments are name, value, error, source."""
    error, source = AssessmentError("E", "m"), AssessmentSource("LLM_JUDGE", "gpt")
    made = Feedback("tone", None, error, source)

    assert made.name == "tone"
    assert made.source is source
    assert (made.error_code, made.error_message) == ("E", "m")
    assert made.feedback.error is error


def test_feedback_never_refuses_a_value():
    """What cannot be stored is judged after the scorer returned, not inside it."""
    made = Feedback(value={1, 2}, metadata="none")  # type: ignore[arg-type]

    assert made.value == {1, 2}
    assert Feedback().value is None


def test_assessments_compare_by_kind_and_value():
    """A feedback and an expectation of one value differ."""
    assert Feedback("a", 1) == Feedback("a", 1)
    assert Feedback("a", 1) != Expectation("a", 1)
    assert isinstance(Expectation("a", 1), Assessment)
    assert Expectation("a", 1).feedback is None
    assert Expectation("a", 1).expectation.value == 1
    assert Expectation("a", 1).source.source_type == "HUMAN"


def test_feedback_survives_pickling_and_prints_short():
    """Feedback travels between processes and shows what was said."""
    made = Feedback("tone", "yes", rationale="polite")

    assert pickle.loads(pickle.dumps(made)) == made
    assert repr(made) == "Feedback(name='tone', value='yes', rationale='polite')"
