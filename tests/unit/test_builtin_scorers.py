"""RegexMatch, ResponseLength, PIIDetection: MLflow's names, values and meaning."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backfill_spark import PIIDetection, RegexMatch, ResponseLength
from backfill_spark.errors import ScorerDefinitionError
from backfill_spark.scorers.builtin import output_text

NO_OUTPUT = "No outputs provided to evaluate."


@pytest.mark.parametrize(
    ("made", "outputs", "value", "rationale"),
    [
        (RegexMatch(pattern="^Answer:"), "Answer: 42", "yes", "Output matches pattern '^Answer:'"),
        (RegexMatch(pattern="^Answer:"), "An Answer: 42", "no", "Output does not match pattern '^Answer:'"),
        (RegexMatch(pattern="b", match_type="fullmatch"), "ab", "no", "Output does not match pattern 'b'"),
        (RegexMatch(pattern="B", case_insensitive=True), "ab", "yes", "Output matches pattern 'B'"),
        (RegexMatch(pattern="."), None, "no", NO_OUTPUT),
        (RegexMatch(pattern="^first$"), ["first", "second"], "yes", "Output matches pattern '^first$'"),
        (ResponseLength(min_length=3), "ab", "no", "Output length (2 chars) is below the minimum (3 chars)"),
        (ResponseLength(max_length=3), "abc", "yes", "Output length (3 chars) is within bounds"),
        (
            ResponseLength(max_length=1, unit="words"),
            "a b",
            "no",
            "Output length (2 words) exceeds the maximum (1 words)",
        ),
        (ResponseLength(min_length=0), [], "no", NO_OUTPUT),
        (PIIDetection(), "Your order is ABC-123", "yes", "No PII detected"),
        (PIIDetection(), "a@b.org or 555-123-4567", "no", "Detected PII: email, phone"),
        (
            PIIDetection(pii_types=["ip_address", "email"]),
            "a@b.org 10.0.0.255",
            "no",
            "Detected PII: ip_address, email",
        ),
        (PIIDetection(pii_types=["ssn"]), "a@b.org", "yes", "No PII detected"),
    ],
)
def test_a_builtin_says_yes_or_no_and_why(made: Any, outputs: Any, value: str, rationale: Any) -> None:
    feedback = made(outputs=outputs)

    assert (made.name, value, rationale) == (feedback.name, feedback.value, feedback.rationale)


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        ("email", "x.y+z@mail.example.co", True),
        ("email", "a@b", False),
        ("phone", "+1 (555) 123-4567", True),
        ("phone", "5551234567", True),
        ("phone", "+4915112345678", True),
        ("phone", "12-34-56", False),
        ("ssn", "123-45-6789", True),
        ("ssn", "1123-45-6789", False),
        ("credit_card", "4111 1111 1111 1111", True),
        ("credit_card", "3782-822463-10005", True),
        ("credit_card", "6011000990139424", True),
        ("credit_card", "9111111111111111", False),
        ("ip_address", "256.1.1.1", False),
        ("ip_address", "at 192.168.1.1.", True),
    ],
)
def test_each_kind_of_personal_data_is_told_by_its_form(kind: str, text: str, found: bool) -> None:
    assert ("no" if found else "yes") == PIIDetection(pii_types=[kind])(outputs=text).value


def test_a_long_text_costs_linear_time() -> None:
    started = time.perf_counter()

    PIIDetection()(outputs="a" * 2_000_000)

    assert time.perf_counter() - started < 5


def test_outputs_come_from_the_trace_where_they_are_not_given() -> None:
    ours = SimpleNamespace(outputs="Answer")
    theirs = SimpleNamespace(data=SimpleNamespace(response='"Answer"'))

    made = RegexMatch(pattern="Answer")

    assert ["yes", "yes", "no"] == [made(trace=t).value for t in (ours, theirs, SimpleNamespace(outputs=None))]
    assert made.run(inputs="x", trace=ours).value == "yes"
    assert made.signature == ("outputs",)


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ("plain", "plain"),
        ([], None),
        ([["deep"]], "deep"),
        (float("nan"), None),
        (5, "5"),
        ({"choices": [{"message": {"content": "hi"}}]}, "hi"),
        ({"messages": [{"content": "no"}, {"content": "last"}]}, "last"),
        (
            {"output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "t"}]}]},
            "t",
        ),
        ({"output": "x"}, '{"output": "x"}'),
        ({"choices": []}, '{"choices": []}'),
    ],
)
def test_the_text_of_outputs_is_what_mlflow_picks(outputs: Any, text: Any) -> None:
    assert output_text(outputs) == text


@pytest.mark.parametrize(
    "make",
    [
        lambda: RegexMatch(pattern="("),
        lambda: RegexMatch(pattern=cast("Any", 3)),
        lambda: RegexMatch(pattern="a", match_type=cast("Any", "match")),
        ResponseLength,
        lambda: ResponseLength(min_length=-1),
        lambda: ResponseLength(min_length=cast("Any", 2.5)),
        lambda: ResponseLength(min_length=3, max_length=2),
        lambda: ResponseLength(max_length=2, unit=cast("Any", "tokens")),
        lambda: PIIDetection(pii_types=["iban"]),
        lambda: PIIDetection(pii_types=[]),
        lambda: PIIDetection(pii_types="email"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(make: Any) -> None:
    with pytest.raises(ScorerDefinitionError):
        make()


def test_a_builtin_is_its_class_and_all_its_arguments() -> None:
    made = RegexMatch(pattern="a", name="mine", timeout=3)

    assert made.parameters == {
        "class": "RegexMatch",
        "pattern": "a",
        "match_type": "search",
        "case_insensitive": False,
    }
    assert json.loads(json.dumps(dict(made.parameters))) == made.parameters
    assert made.digest == RegexMatch(pattern="a", match_type="search").digest
    assert made.digest != RegexMatch(pattern="a", case_insensitive=True).digest
