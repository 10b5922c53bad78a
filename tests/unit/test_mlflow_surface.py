"""Code written for MLflow finds here what it finds there: the values of snippets, and what a scorer is handed.

MLflow's side was written down by `scripts/mlflow_values.py`; docs/mlflow.md has every decided difference.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from backfill_spark import Feedback, Scorer, Trace
from backfill_spark.judges import Judge
from backfill_spark.models import ScorerKind, ScorerSpec
from backfill_spark.scorers.stored_code import loading, pickling
from backfill_spark.scoring.calls import LoadedScorer
from backfill_spark.scoring.feedback import FIELD_NAMES, failure_of, normalise
from backfill_spark.scoring.worker import score_batch
from tests import judge_server, mlflow_snippets

TEN = mlflow_snippets.traces()
SNIPPETS = {name: source for name, source in mlflow_snippets.snippets().items() if not name.startswith("lifecycle")}
VALUES = mlflow_snippets.recorded("values")
HANDED = mlflow_snippets.recorded("handed")
NO_OUTPUT, NUMBER, SAYS_NO = {3, 7}, {6}, {5}
"""Which of the ten traces are so."""
DECIDED = {
    "judge_safety": NO_OUTPUT | NUMBER,
    "judge_guidelines": NO_OUTPUT | NUMBER,
    "judge_one_guideline": NO_OUTPUT | NUMBER,
    "judge_relevance": NO_OUTPUT,
    "judge_correctness": NO_OUTPUT,
    "judge_made_number": NO_OUTPUT | SAYS_NO,
    "judge_made_literal": SAYS_NO,
    "judge_made_bool": SAYS_NO,
    "judge_made_with_expectations": {3, 4, 5, 7, 9},  # those without expectations
    "scorer_builtin_regex": NUMBER,
    "scorer_builtin_length": NUMBER,
    "scorer_builtin_pii": NUMBER,
}
"""Snippets that give something else by decision, and for which of the ten traces."""
REFUSED = {
    "judge_called_by_hand": "is not called by hand: it asks a model, within a job and its budget",
    "scorer_class": "function|@scorer",
}
"""Snippets that are refused, and words of the sentence."""


@pytest.mark.parametrize("name", [name for name in SNIPPETS if name not in REFUSED])
def test_a_snippet_gives_mlflows_values(name: Any) -> None:
    """With its import lines changed and nothing else, on the same ten traces."""
    ours, theirs = comparable(pasted(name)), comparable(VALUES[name])

    assert ours["shown"] == theirs["shown"]
    assert ours["look"] == theirs["look"]
    assert ours["scorers"].keys() == theirs["scorers"].keys()
    for key, rows in theirs["scorers"].items():
        differing = {i for i, (a, b) in enumerate(zip(ours["scorers"][key], rows, strict=True)) if a != b}
        assert differing <= DECIDED.get(name, set())


@pytest.mark.parametrize("name", REFUSED)
def test_a_snippet_that_does_not_run_is_refused_with_a_sentence(name: Any) -> None:
    """What it is, and why; never a bare error of Python."""
    with pytest.raises(Exception, match=REFUSED[name]):
        pasted(name)


def test_at_least_sixty_snippets_of_which_fifty_five_give_mlflows_values() -> None:
    """The three files of snippets stay as large as they were promised to be."""
    assert len(SNIPPETS) >= 60
    assert len(SNIPPETS) - len(REFUSED) - len(DECIDED) >= 55


@pytest.mark.parametrize("n", range(10))
def test_a_scorer_is_handed_what_evaluate_hands_it(n: int) -> None:
    """Inputs, outputs, expectations, and every attribute of trace, info, data, spans and assessments by `dir()`."""
    trace = Trace.from_json(TEN[n])
    given = {"inputs": trace.inputs, "outputs": trace.outputs, "expectations": trace.expectations}

    assert {k: v for k, v in HANDED[n].items() if k != "trace"} == given
    compare(HANDED[n]["trace"], trace)


@pytest.mark.parametrize("payload", ["auto", "json"])
def test_a_worker_hands_over_the_same(payload: str) -> None:
    """A table whose spans and assessments are MLflow's JSON texts gives a scorer what `evaluate` gives it."""
    found = []

    def recorder(inputs: Any, outputs: Any, expectations: Any, trace: Any) -> None:
        found.append({"inputs": inputs, "outputs": outputs, "expectations": expectations, "trace": trace})

    signature = ("inputs", "outputs", "expectations", "trace")
    spec = ScorerSpec("recorder", 1, "0" * 64, ScorerKind.FUNCTION, {}, None, signature, 1.0)
    rows = [as_columns(json.loads(text)) for text in TEN]
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    score_batch(columns, [1] * 10, [LoadedScorer(spec, recorder, frozenset(columns))], payload=payload)

    for want, got in zip(HANDED, found, strict=True):
        assert want["inputs"] == got["inputs"]
        assert want["outputs"] == got["outputs"]
        assert want["expectations"] == got["expectations"] or payload == "json"  # which decodes the text "18"
        compare({k: v for k, v in want["trace"].items() if k != "info"}, got["trace"])


def pasted(name: Any) -> Any:
    given = [Trace.from_json(text) for text in TEN]
    source = mlflow_snippets.with_our_imports(SNIPPETS[name])
    return json.loads(json.dumps(mlflow_snippets.run(name, source, given, scorer_class=Scorer, score=score)))


def score(one: Any, trace: Any) -> Any:
    """Name, value, rationale and whether it is an error, of each row that a job would store."""
    given = {"inputs": trace.inputs, "outputs": trace.outputs, "expectations": trace.expectations, "trace": trace}
    try:
        if isinstance(one, Judge):
            value = judged(one, given)
        else:
            value = travelled(one)(**{name: given[name] for name in one.signature})
    except Exception as error:
        return [[one.name, None, failure_of(error)[1], True]]
    rows: list[dict[str, Any]] = [
        dict(zip(FIELD_NAMES, row, strict=True)) for row in normalise(value, scorer=one.name, version=1)
    ]
    return [
        [r["assessment_name"], json.loads(r["value"] or "null"), r["rationale"], r["error_code"] is not None]
        for r in rows
    ]


@functools.cache
def travelled(one: Any) -> Any:
    """The scorer as an executor has it: stored, and loaded again."""
    stored = None if one.function is None else pickling.dump(one.function).definition
    spec = ScorerSpec(one.name, 1, one.digest, one.kind, one.parameters, stored, one.signature, 1.0)
    return loading.load(spec)


def judged(judge: Any, given: Any) -> Any:
    """The verdict of the local server that MLflow's judges asked as well."""
    prompt = judge.render(**given)
    if prompt is None:
        return None
    body = json.loads(prompt.to_json())
    asked = {"response_format": {"json_schema": {"schema": body["schema"]}}}
    answer = judge_server._verdict(asked, json.dumps(body["messages"]).encode())
    found = judge.interpret(json.dumps(answer))
    return Feedback(name=judge.name, value=found.value, rationale=found.rationale)


def comparable(values: Any) -> Any:
    """Of an error only that it is one; of a feedback without value nothing, as it is stored."""
    scorers = {key: [_rows(rows) for rows in each] for key, each in values.get("scorers", {}).items()}
    looks = ["raised" if isinstance(v, dict) and set(v) == {"raised"} else v for v in values.get("look", [])]
    return {"scorers": scorers, "look": looks, "shown": values.get("shown")}


def _rows(rows: Any) -> Any:
    kept = [row for row in rows if row[1] is not None or row[3]]
    return [[name, None, None, True] if bad else [name, value, why, False] for name, value, why, bad in kept]


def compare(want: Any, thing: Any, path: str = "trace") -> None:
    """Every public attribute of MLflow's object is there with its value, or is refused with a sentence."""
    for name, value in want.items():
        if value == "method" and not hasattr(thing, name):
            with pytest.raises(AttributeError, match=rf"no attribute '{name}': .+\."):
                getattr(thing, name)
        elif value == "method":
            assert callable(getattr(thing, name)), f"{path}.{name}"
        elif isinstance(value, list) and value and isinstance(value[0], dict) and "from_dict" in str(value[0]):
            found = getattr(thing, name)
            assert len(value) == len(found), f"{path}.{name}"
            for inner, ours in zip(value, found, strict=True):
                compare(inner, ours, f"{path}.{name}[]")
        elif isinstance(value, dict) and "method" in value.values():
            compare(value, getattr(thing, name), f"{path}.{name}")
        else:
            assert value == mlflow_snippets.plain(getattr(thing, name)), f"{path}.{name}"


def as_columns(trace: Any) -> Any:
    """The trace as a row of a table with JSON texts; its request and response stand in its spans."""
    info, data = trace["info"], trace["data"]
    return {
        "trace_id": info["trace_id"],
        "experiment_id": info["trace_location"]["mlflow_experiment"]["experiment_id"],
        "state": info["state"],
        "trace_metadata": info["trace_metadata"],
        "tags": info["tags"],
        "spans": json.dumps(data["spans"]),
        "assessments": json.dumps(info.get("assessments", [])),
    }
