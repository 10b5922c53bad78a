"""Built-in judges that MLflow has too: what each asks, what it makes of an answer, and what it cannot do without."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

import backfill_spark
from backfill_spark.errors import JudgeInputError, JudgeOutputError, ScorerDefinitionError
from backfill_spark.judges import (
    Correctness,
    Equivalence,
    ExpectationsGuidelines,
    Fluency,
    RetrievalGroundedness,
    RetrievalRelevance,
    RetrievalSufficiency,
    Summarization,
    ToolCallCorrectness,
    ToolCallEfficiency,
    get_all_scorers,
)
from backfill_spark.judges.judge import Interpretation
from backfill_spark.judges.prompt import Prompt
from backfill_spark.judges.worker import fan_out, load_judges, render_batch
from backfill_spark.models import ErrorCode, ScorerKind, ScorerSpec
from backfill_spark.scorers.stored_code.loading import recreate
from backfill_spark.scoring.feedback import FIELD_NAMES
from backfill_spark.traces.trace import Trace


def span(span_id: str, kind: str, start: int, parent: str | None = None, **more: Any) -> dict[str, Any]:
    coded: dict[str, Any] = {key: json.dumps(more.pop(key)) for key in ("inputs", "outputs") if key in more}
    return {"span_id": span_id, "parent_id": parent, "name": f"{kind.lower()}_{span_id}", "span_type": kind,
            "start_time_ns": start, **coded, **more}  # fmt: skip


TOOLS = [{"type": "function", "function": {"name": "search", "description": "finds pages"}}]
DOCS = [{"page_content": "Paris is in France."}, {"content": "Rome is not."}]
SPANS = [
    span("a", "AGENT", 1),
    span("r", "RETRIEVER", 2, "a", outputs=DOCS),
    span("n", "RETRIEVER", 3, "r", outputs=[{"page_content": "Only a step of the other."}]),
    span("t2", "TOOL", 6, "a", inputs={"page": 7}, status={"code": "ERROR", "message": "timed out"}),
    span("t1", "TOOL", 5, "a", inputs={"query": "Paris"}, outputs="a page"),
    span("m", "CHAT_MODEL", 4, "a", inputs={"tools": TOOLS}, attributes={"mlflow.chat.tools": json.dumps(TOOLS)}),
]
CALLS = [{"name": "tool_t1", "arguments": {"query": "Paris"}}, {"name": "tool_t2", "arguments": {"page": 7}}]


def trace_of(spans: list[dict[str, Any]], **expectations: Any) -> Trace:
    said = [{"assessment_name": k, "expectation": {"value": json.dumps(v)}} for k, v in expectations.items()]
    return Trace({"trace_id": "tr-1", "spans": json.dumps(spans), "assessments": json.dumps(said)}, payload="json")


DATA: dict[str, Any] = {
    "inputs": {"question": "Where is Paris?"},
    "outputs": "In France.",
    "expectations": {"expected_response": "France", "guidelines": ["Be polite.", "Name a country."]},
    "trace": trace_of(SPANS),
}


def asked(judge: Any, **changed: Any) -> Any:
    data = DATA | changed
    return judge.render(**{name: data[name] for name in judge.signature})


def shown(judge: Any, **changed: Any) -> dict[str, str]:
    """Return the marked texts of a prompt, name → text."""
    prompt = asked(judge, **changed)
    assert isinstance(prompt, Prompt)
    lines = prompt.messages[1]["content"].split("\n\nThe recorded text ends here.")[0]
    parts = lines.split(f" {prompt.code}]]\n")
    return {
        before.rsplit("[[", 1)[1]: text.rsplit("\n[[/", 1)[0]
        for before, text in pairwise(parts)
        if before.rsplit("[[", 1)[-1][0] != "/"
    }


NEW = [
    (Fluency(), "fluency", {"outputs"}),
    (Summarization(), "summarization", {"inputs", "outputs"}),
    (Equivalence(), "equivalence", {"outputs", "expected_response"}),
    (ExpectationsGuidelines(), "expectations_guidelines", {"inputs", "outputs", "guidelines"}),
    (RetrievalSufficiency(), "retrieval_sufficiency", {"inputs", "expected_response", "documents"}),
    (RetrievalRelevance(), "retrieval_relevance", {"inputs", "document_1", "document_2"}),
    (ToolCallEfficiency(), "tool_call_efficiency", {"inputs", "available_tools", "tool_calls"}),
    (ToolCallCorrectness(), "tool_call_correctness", {"inputs", "available_tools", "tool_calls"}),
]


@pytest.mark.parametrize(("judge", "name", "sees"), NEW, ids=[name for _, name, _ in NEW])
def test_a_judge_has_mlflows_name_and_shows_what_it_judges(judge: Any, name: str, sees: set[str]) -> None:
    """Nothing else of the trace is in its prompt."""
    assert (judge.name, set(shown(judge))) == (name, sees)
    assert getattr(backfill_spark, type(judge).__name__) is type(judge)


@pytest.mark.parametrize("judge", [*(j for j, _, _ in NEW), ToolCallCorrectness(should_exact_match=True)])
def test_a_stored_judge_is_recreated(judge: Any) -> None:
    """From its class and arguments, with the same digest."""
    spec = ScorerSpec(
        name="mine", version=1, digest="d", kind=ScorerKind.JUDGE, parameters=judge.parameters, definition=None,
        signature=judge.signature, sample_rate=1.0,
    )  # fmt: skip
    again = recreate(spec)
    assert (type(again), again.digest, again.name) == (type(judge), judge.digest, "mine")


@pytest.mark.parametrize("judge", [j for j, name, _ in NEW if name != "retrieval_relevance"], ids=lambda j: j.name)
def test_its_answer_is_yes_or_no(judge: Any) -> None:
    """And nothing else."""
    assert judge.interpret('{"rationale": "r", "result": "No"}') == ("no", "r", {})
    with pytest.raises(JudgeOutputError):
        judge.interpret('{"rationale": "r", "result": "partly"}')


@pytest.mark.parametrize(
    ("judge", "changed"),
    [
        (Fluency(), {"outputs": None}),
        (Summarization(), {"outputs": None}),
        (Equivalence(), {"outputs": None}),
        (ExpectationsGuidelines(), {"outputs": None}),
        (RetrievalSufficiency(), {"trace": trace_of(SPANS[:1])}),
        (RetrievalRelevance(), {"trace": trace_of(SPANS[:1])}),
        (RetrievalRelevance(), {"trace": trace_of([span("r", "RETRIEVER", 1, outputs=[])])}),
        (ToolCallEfficiency(), {"trace": trace_of(SPANS[:3])}),
    ],
)
def test_nothing_to_judge_is_no_question(judge: Any, changed: dict[str, Any]) -> None:
    """No output, no retrieved document, no tool call."""
    assert asked(judge, **changed) is None


@pytest.mark.parametrize(
    ("judge", "changed", "what"),
    [
        (Equivalence(), {"expectations": {"expected_facts": ["x"]}}, "expected_response"),
        (ExpectationsGuidelines(), {"expectations": {"expected_response": "x"}}, "guidelines"),
        (RetrievalSufficiency(), {"expectations": {"guidelines": "x"}}, "expected_facts"),
        (RetrievalSufficiency(), {"trace": None}, "spans"),
        (RetrievalRelevance(), {"trace": None}, "spans"),
        (ToolCallEfficiency(), {"trace": None}, "spans"),
        (ToolCallCorrectness(), {"trace": None}, "spans"),
        (ToolCallCorrectness(should_exact_match=True), {}, "expected_tool_calls"),
        (ToolCallCorrectness(), {"trace": trace_of(SPANS, expected_tool_calls="search")}, "expected_tool_calls"),
        (ToolCallCorrectness(), {"trace": trace_of(SPANS, expected_tool_calls=[{"tool": "a"}])}, "expected_tool_calls"),
    ],
)
def test_what_a_judge_cannot_do_without_is_named(judge: Any, changed: dict[str, Any], what: str) -> None:
    """The row says which part of the trace is missing."""
    with pytest.raises(JudgeInputError, match=what):
        asked(judge, **changed)


def test_expected_guidelines_are_material_and_no_instructions() -> None:
    """They came with the trace, so they stand between markers."""
    prompt = asked(ExpectationsGuidelines())
    assert "Be polite." not in prompt.messages[0]["content"]
    assert shown(ExpectationsGuidelines())["guidelines"] == '["Be polite.","Name a country."]'


@pytest.mark.parametrize("judge", [RetrievalGroundedness(), RetrievalSufficiency()])
def test_documents_are_those_of_the_outermost_retrievers(judge: Any) -> None:
    """What a retriever inside another one gave is a step of it."""
    assert shown(judge)["documents"] == "Paris is in France.\n\nRome is not."


def test_retrievers_under_a_parent_that_is_its_own_parent_are_read() -> None:
    """A circle of parents does not hold a job up."""
    spans = [span("x", "CHAIN", 1, "y"), span("y", "CHAIN", 1, "x"), span("r", "RETRIEVER", 2, "y", outputs=DOCS)]
    assert set(shown(RetrievalRelevance(), trace=trace_of(spans))) == {"inputs", "document_1", "document_2"}


def test_retrieval_relevance_asks_for_each_document() -> None:
    """The schema holds the model to an answer for every one of them."""
    result = asked(RetrievalRelevance()).schema["properties"]["result"]
    assert result["required"] == ["document_1", "document_2"]
    assert result["properties"]["document_2"] == {"type": "string", "enum": ["yes", "no"]}


def test_retrieval_relevance_is_the_share_of_relevant_documents() -> None:
    """The metadata keep the answer for each."""
    answer = {"rationale": "r", "result": {"document_2": "no", "document_1": "Yes"}}
    share, rationale, metadata = RetrievalRelevance().interpret(json.dumps(answer))
    assert (share, rationale) == (0.5, "r")
    assert json.loads(metadata["backfill_spark.documents"]) == {"document_1": "yes", "document_2": "no"}


@pytest.mark.parametrize(
    "result", ["yes", {}, [], None, {"document_2": "yes"}, {"document_1": "maybe"}, {"1": "yes"}, {"document_1": True}]
)
def test_an_answer_that_leaves_documents_out_is_no_share(result: object) -> None:
    """It is an error row."""
    with pytest.raises(JudgeOutputError):
        RetrievalRelevance().interpret(json.dumps({"rationale": "r", "result": result}))


def test_tool_calls_are_shown_in_order_of_time_with_what_came_of_them() -> None:
    """And the tools on offer once each."""
    found = shown(ToolCallEfficiency())
    assert json.loads(found["tool_calls"]) == [
        CALLS[0] | {"outputs": "a page"},
        CALLS[1] | {"error": "timed out"},
    ]
    assert json.loads(found["available_tools"]) == TOOLS


def test_the_name_of_a_tool_may_stand_in_its_call() -> None:
    """Some frameworks name the span after something else."""
    spans = [span("t", "TOOL", 1, inputs={"call": {"tool_name": "search"}})]
    assert json.loads(shown(ToolCallEfficiency(), trace=trace_of(spans))["tool_calls"])[0]["name"] == "search"


def test_no_tool_call_can_be_wrong_too() -> None:
    """A needed call may be missing, so the model is asked."""
    assert shown(ToolCallCorrectness(), trace=trace_of(SPANS[:1]))["tool_calls"] == "[]"


def test_expected_tool_calls_are_shown_without_arguments_when_one_has_none() -> None:
    """Then names alone are compared, as in MLflow."""
    expected = [CALLS[0], {"name": "tool_t2"}]
    found = shown(ToolCallCorrectness(), trace=trace_of(SPANS, expected_tool_calls=expected))
    assert json.loads(found["expected_tool_calls"]) == [{"name": "tool_t1"}, {"name": "tool_t2"}]


def test_the_order_of_tool_calls_counts_where_it_should() -> None:
    """The task says so, and the digest differs."""
    judges = [ToolCallCorrectness(), ToolCallCorrectness(should_consider_ordering=True)]
    assert ["does not count" in j.task for j in judges] == [True, False]
    assert judges[0].definition_digest() != judges[1].definition_digest()


@pytest.mark.parametrize(
    ("expected", "ordered", "value"),
    [
        (CALLS, True, "yes"),
        (CALLS[::-1], True, "no"),
        (CALLS[::-1], False, "yes"),
        (CALLS[:1], False, "no"),
        ([CALLS[0], CALLS[1] | {"arguments": {"page": 8}}], False, "no"),
        ([{"name": "tool_t1"}, {"name": "tool_t2"}], True, "yes"),
        ([{"name": "tool_t1"}, {"name": "other"}], False, "no"),
    ],
)
def test_exact_tool_calls_are_compared_without_a_call(expected: list[Any], ordered: bool, value: str) -> None:
    """Names, and arguments where all expected calls have them."""
    judge = ToolCallCorrectness(should_exact_match=True, should_consider_ordering=ordered)
    found = asked(judge, trace=trace_of(SPANS, expected_tool_calls=expected))
    assert isinstance(found, Interpretation)
    assert found.value == value
    assert found.rationale


@pytest.mark.parametrize(
    ("outputs", "expected", "value"),
    [("France", "France", "yes"), (42, 42.0, "yes"), (42, 41, "no"), ({"a": 1}, {"a": 1}, "yes"), (True, 1, "yes")],
)
def test_equal_texts_and_numbers_are_settled_without_a_call(outputs: Any, expected: Any, value: str) -> None:
    """So are numbers that differ."""
    found = asked(Equivalence(), outputs=outputs, expectations={"expected_response": expected})
    assert isinstance(found, Interpretation)
    assert found.value == value


@pytest.mark.parametrize(("outputs", "expected"), [("Paris, in France", "France"), ("42", 42.5), (42, "forty-two")])
def test_other_outputs_are_compared_by_the_model(outputs: Any, expected: Any) -> None:
    """Different words can mean the same."""
    assert isinstance(asked(Equivalence(), outputs=outputs, expectations={"expected_response": expected}), Prompt)


def loaded(judge: Any) -> Any:
    spec = ScorerSpec(
        name="mine", version=1, digest="d", kind=ScorerKind.JUDGE, parameters=judge.parameters, definition=None,
        signature=judge.signature, sample_rate=1.0,
    )  # fmt: skip
    return load_judges([spec], {"mine": "openai:/m"}, load=lambda _: judge)[0]


def row(judge: Any, **given: Any) -> dict[str, Any]:
    empty = {"prompt": None, "prompt_hash": None, "input_digest": None, "judgement": None, "cached": False}
    return dict(zip(FIELD_NAMES, fan_out(judge, **(empty | given)), strict=True))


def test_a_verdict_without_a_call_is_a_row_of_code() -> None:
    """It is scored, cost nothing, and no model is named as its source."""
    judge = loaded(ToolCallCorrectness(should_exact_match=True))
    trace = trace_of(SPANS, expected_tool_calls=CALLS)
    columns = {name: [trace._row.values[name]] for name in ("trace_id", "spans", "assessments")}
    (rendered,) = render_batch(columns, [1], [judge], payload="json", token_cap=999)
    found = row(judge, prompt=rendered.prompt)
    assert (rendered.prompt_hash, found["value"], found["error_code"]) == (None, '"yes"', None)
    assert json.loads(found["extra"]) == {"source_type": "CODE", "source_id": "mine", "attempts": 0, "cost_usd": 0.0}


def test_retrieval_relevance_has_mlflows_name_of_the_share() -> None:
    """The scorer's own name and /precision."""
    answer = json.dumps({"rationale": "r", "result": {"document_1": "yes"}})
    found = row(loaded(RetrievalRelevance()), prompt_hash="h", judgement={"answer": answer})
    assert (found["assessment_name"], found["value_double"]) == ("mine/precision", 1.0)


def test_a_broken_answer_of_retrieval_relevance_is_an_error_row() -> None:
    """Not a share of nothing."""
    found = row(loaded(RetrievalRelevance()), prompt_hash="h", judgement={"answer": '{"result": {}}'})
    assert found["error_code"] == ErrorCode.JUDGE_BAD_OUTPUT


def test_options_of_tool_call_correctness_are_truth_values() -> None:
    """A text is refused."""
    with pytest.raises(ScorerDefinitionError, match="should_exact_match"):
        ToolCallCorrectness(should_exact_match="no")  # type: ignore[arg-type]


def test_all_scorers_are_those_that_need_no_argument() -> None:
    """One of each, under MLflow's names."""
    names = [s.name for s in get_all_scorers()]
    assert len(set(names)) == len(names) == 14
    assert {"pii_detection", "safety", "summarization", "tool_call_correctness"} <= set(names)
    assert {"guidelines", "regex_match", "response_length"}.isdisjoint(names)


def test_correctness_still_names_what_it_needs() -> None:
    """One of the two expectations it knows."""
    with pytest.raises(JudgeInputError, match="expected_facts"):
        asked(Correctness(), expectations={"guidelines": "x"})
