"""Write down what MLflow itself does.

That is: ten traces, what `mlflow.genai.evaluate` hands to a scorer of each, and the values of the snippets in
tests/resources/mlflow/snippets. Runs where MLflow is installed, which no test needs:

    python -m venv env && env/bin/pip install mlflow==3.17.2 && env/bin/python -m scripts.mlflow_values [--keep-traces]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from tests import mlflow_snippets as snippets
from tests.judge_server import serving

PROJECT = str(Path.cwd())
FOLDER = tempfile.mkdtemp(prefix="mlflow_values_")
os.environ |= {
    "MLFLOW_TRACKING_URI": f"sqlite:///{FOLDER}/mlflow.db",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",
    "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "true",
    "MLFLOW_GENAI_EVAL_SCORER_RATE_LIMIT": "0",
    "MLFLOW_GENAI_EVAL_SKIP_TRACE_VALIDATION": "true",
    "OPENAI_API_KEY": "sk-none",
}
warnings.simplefilter("ignore")
os.chdir(FOLDER)

import mlflow  # noqa: E402
from mlflow.entities import (  # noqa: E402
    AssessmentError,
    AssessmentSource,
    Document,
    Feedback,
    SpanEvent,
    SpanType,
    Trace,
)
from mlflow.genai.evaluation.utils import standardize_scorer_value  # noqa: E402
from mlflow.genai.scorers import Scorer, scorer  # noqa: E402

HUMAN = AssessmentSource("HUMAN", "anna@example.com")


def written() -> list[str]:
    """Make ten traces of different shapes, and return their ids."""
    makers = (_text, _rag, _agent, _failed, _chat, _judged, _number, _silent, _attributes, _nested)
    return [maker() for maker in makers]


def _span(name: str, kind: str = SpanType.CHAIN, inputs: Any = None, outputs: Any = None, **attributes: Any) -> Any:
    class Opened:
        def __enter__(self) -> Any:
            self.manager = mlflow.start_span(name, span_type=kind, attributes=attributes or None)
            self.span = self.manager.__enter__()
            if inputs is not None:
                self.span.set_inputs(inputs)
            return self.span

        def __exit__(self, *error: object) -> Any:
            if outputs is not None and error[0] is None:
                self.span.set_outputs(outputs)
            return self.manager.__exit__(*error)

    return Opened()


def _text() -> str:
    with _span(
        "answer", inputs={"question": "What is the capital of France?"}, outputs="Paris is the capital."
    ) as root:
        pass
    mlflow.log_expectation(trace_id=root.trace_id, name="expected_response", value="Paris is the capital.")
    mlflow.log_expectation(trace_id=root.trace_id, name="max_length", value=100)
    return str(root.trace_id)


def _rag() -> str:
    found = [
        Document("Delta tables are versioned.", {"doc_uri": "docs/delta.md", "score": 0.9}, "d1"),
        Document("Spark runs tasks.", {"doc_uri": "docs/spark.md", "score": 0.4}),
    ]
    usage = {"input_tokens": 40, "output_tokens": 10, "total_tokens": 50}
    with _span("rag", inputs={"query": "Are Delta tables versioned?"}, outputs={"response": "Yes, they are."}) as root:
        with _span("retrieve", SpanType.RETRIEVER, {"query": "Delta versions"}) as step:
            step.set_outputs(found)
        with _span(
            "chat",
            SpanType.CHAT_MODEL,
            {"messages": [{"role": "user", "content": "Are Delta tables versioned?"}], "temperature": 0.1},
            {"choices": [{"message": {"role": "assistant", "content": "Yes, they are."}}]},
            **{"mlflow.chat.tokenUsage": usage, "mlflow.llm.model": "gpt-4o-mini", "mlflow.llm.provider": "openai"},
            **{"mlflow.llm.cost": {"input_cost": 0.001, "output_cost": 0.002, "total_cost": 0.003}},
        ):
            pass
        mlflow.update_current_trace(tags={"team": "search", "env": "prod"}, client_request_id="req-2")
    mlflow.log_expectation(trace_id=root.trace_id, name="expected_facts", value=["versioned", "Delta"])
    mlflow.log_feedback(trace_id=root.trace_id, name="relevance", value=0.75, span_id=step.span_id, source=HUMAN)
    return str(root.trace_id)


def _agent() -> str:
    with _span("agent", SpanType.AGENT, {"task": "Add 2 and 3"}, {"answer": 5, "steps": ["add"]}) as root:
        with _span("add", SpanType.TOOL, {"a": 2, "b": 3}, 5):
            pass
        try:
            with _span("divide", SpanType.TOOL, {"a": 1, "b": 0}):
                _ = 1 / 0
        except ZeroDivisionError:
            pass
        with _span("plan", SpanType.LLM, "Which tool?", "add"):
            pass
    mlflow.log_expectation(trace_id=root.trace_id, name="expected_tools", value={"names": ["add"], "count": 1})
    return str(root.trace_id)


def _failed() -> str:
    ids = []
    try:
        with _span("broken", inputs={"question": "Will it fail?"}) as root:
            ids.append(root.trace_id)
            raise RuntimeError("the service is down")
    except RuntimeError:
        pass
    return str(ids[0])


def _chat() -> str:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hallo, wie geht's? ✓"}]
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Gut, danke!"}}], "model": "m"}
    with _span("serve", inputs={"messages": messages}, outputs=answer) as root:
        mlflow.update_current_trace(metadata={"mlflow.trace.session": "session-1", "mlflow.trace.user": "anna"})
    return str(root.trace_id)


def _judged() -> str:
    with _span(
        "judged", inputs={"question": "Say verdict:no to it"}, outputs={"response": "It says verdict:no here."}
    ) as root:
        pass
    first = mlflow.log_feedback(trace_id=root.trace_id, name="correct", value=False, rationale="hasty", source=HUMAN)
    mlflow.override_feedback(
        trace_id=root.trace_id, assessment_id=first.assessment_id, value=True, rationale="second look", source=HUMAN
    )
    mlflow.log_feedback(
        trace_id=root.trace_id,
        name="toxicity",
        error=AssessmentError("RATE_LIMIT", "too many requests"),
        source=AssessmentSource("LLM_JUDGE", "openai:/gpt-4o-mini"),
        metadata={"attempts": "3"},
    )
    mlflow.log_feedback(trace_id=root.trace_id, name="labels", value=["short", "odd"], source=HUMAN)
    return str(root.trace_id)


def _number() -> str:
    with _span("count", SpanType.TOOL, {"n": 3, "of": [1, 2, 3]}, 42) as root:
        pass
    mlflow.log_expectation(trace_id=root.trace_id, name="answer", value=42)
    return str(root.trace_id)


def _silent() -> str:
    with _span("silent", inputs={"question": "日本語 „quoted“ \n second line"}) as root:
        root.add_event(SpanEvent("looked", attributes={"found": 0, "where": "cache"}))
    return str(root.trace_id)


def _attributes() -> str:
    own: dict[str, Any] = {
        "tier": "gold",
        "tokens": 150,
        "ratio": 0.5,
        "fresh": True,
        "text": "[1]",
        "names": ["a", "b"],
        "none": None,
    }
    with (
        _span("shop", inputs="two apples", outputs=["apple", "apple"], **own) as root,
        _span("price", "PRICING", {"fruit": "apple"}, {"eur": 0.4}, level="42"),
    ):
        pass
    mlflow.log_expectation(trace_id=root.trace_id, name="code", value="18")
    return str(root.trace_id)


def _nested() -> str:
    with _span("outer", SpanType.WORKFLOW, {"q": {"deep": [1, {"x": None}]}}, {"done": True}) as root:
        for number in range(2):
            step = _span("step", SpanType.TASK, {"number": number}, number)
            with step, _span("leaf", SpanType.PARSER, None, f"leaf {number}"):
                pass
        with _span("guard", SpanType.GUARDRAIL, "text", {"blocked": False}):
            pass
    return str(root.trace_id)


def handed(ids: list[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the traces, and all that `mlflow.genai.evaluate` hands to a scorer for each of them, in order of `ids`."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}

    @scorer  # type: ignore[untyped-decorator] # mlflow has no types here
    def recorder(inputs: Any, outputs: Any, expectations: Any, trace: Any) -> bool:
        given = {"inputs": inputs, "outputs": outputs, "expectations": expectations, "trace": trace}
        found[trace.info.trace_id] = (trace.to_json(), json.loads(json.dumps(snippets.plain(given))))
        return True

    mlflow.genai.evaluate(data=[mlflow.get_trace(i) for i in ids], scorers=[recorder])
    return [found[i][0] for i in ids], [found[i][1] for i in ids]


def score(one: Scorer, trace: Trace) -> list[list[Any]]:
    """Return name, value, rationale and whether it is an error of what a scorer gives, as `evaluate` makes of it."""
    root = next(span for span in trace.data.spans if span.parent_id is None)
    expectations = {a.name: a.expectation.value for a in trace.info.assessments if a.expectation is not None}
    try:
        value = one.run(inputs=root.inputs, outputs=root.outputs, expectations=expectations, trace=trace)
        found = standardize_scorer_value(one.name, value)
    except Exception as error:
        found = [Feedback(name=one.name, error=error)]
    return [[f.name, snippets.plain(f.value), f.rationale, f.error is not None] for f in found]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--keep-traces", action="store_true", help="only run the snippets again")
    arguments.add_argument("--only", default="", help="names of snippets that hold this")
    options = arguments.parse_args()
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.set_experiment("ten traces")
    if not options.keep_traces:
        texts, values = handed(written())
        (snippets.HERE / "traces.jsonl").write_text(_anywhere("\n".join(texts)) + "\n", encoding="utf-8")
        _write("handed", values)
    values = snippets.recorded("values") if options.only else {}
    with serving() as server:
        os.environ["OPENAI_API_BASE"] = server.url
        for name, source in snippets.snippets().items():
            if options.only not in name:
                continue
            given = [Trace.from_json(text) for text in snippets.traces()]
            values[name] = snippets.run(name, source, given, scorer_class=Scorer, score=score)
            print(name, json.dumps(values[name], ensure_ascii=False)[:300])
    _write("values", values)


def _write(name: str, value: Any) -> None:
    items = sorted(value.items()) if isinstance(value, dict) else enumerate(value)
    lines = [json.dumps([key, item], ensure_ascii=False, sort_keys=True)[1:-1] for key, item in items]
    if isinstance(value, dict):
        text = "{\n" + ",\n".join(line.replace('", ', '": ', 1) for line in lines) + "\n}\n"
    else:
        text = "[\n" + ",\n".join(line.partition(", ")[2] for line in lines) + "\n]\n"
    (snippets.HERE / f"{name}.json").write_text(_anywhere(text), encoding="utf-8")


def _anywhere(text: str) -> str:
    """Leave out where this ran."""
    for folder, name in ((FOLDER, "/mlruns"), (sys.prefix, "/env"), (PROJECT, "/project")):
        text = text.replace(folder, name)
    return text


if __name__ == "__main__":
    main()
