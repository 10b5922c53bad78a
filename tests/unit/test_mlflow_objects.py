"""Scorers of MLflow here, and ours there; its objects and its `evaluate` in a process that has MLflow."""

from __future__ import annotations

import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from backfill_spark import configure, get_scorer, scorer
from backfill_spark.cli import main
from backfill_spark.errors import ScorerDefinitionError
from backfill_spark.scorers.of_mlflow import of_document
from tests.mlflow_import import facts_of
from tests.servers import run_in

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _settings_of_the_test() -> Iterator[None]:
    """Commands configure the process."""
    yield
    configure()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of MLflow's store, in a sqlite file."""
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def told(store: Path) -> dict[str, Any]:
    """What tests/mlflow_objects.py prints."""
    said = run_in("mlflow", ROOT / "tests/mlflow_objects.py", str(store), sysconfig.get_paths()["purelib"])
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def imported(store: Path, folder: Path, *options: str) -> dict[str, Any]:
    """What `sources import` of the store answers; traces and tables go to `folder`."""
    where = ["--to", str(folder / "traces"), "--set", f"tables.root={folder / 'tables'}", "--json", "--lag", "0s"]
    address = f"mlflow+sqlite:///{store / 'mlflow.db'}"
    done = CliRunner().invoke(main, ["sources", "import", address, *where, *options], catch_exceptions=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_sqlite_store_is_imported_as_mlflow_reads_it(told: dict[str, Any], store: Path, tmp_path: Path) -> None:
    """The trace of an evaluation, with what its scorers said; again: nothing."""
    first, second = imported(store, tmp_path), imported(store, tmp_path)
    assert (first["traces"], second["traces"], first["left"], first["scorers"]) == (1, 0, {}, [])
    assert {told["facts"]["id"]: told["facts"]} == facts_of(tmp_path / "traces")


def test_registered_scorers_come_with_the_traces(told: dict[str, Any], store: Path, tmp_path: Path) -> None:
    """Judges and built-ins under the experiment's id; functions when their code is asked for."""
    assert told["registered"]
    without = {one["name"]: one for one in imported(store, tmp_path, "--scorers")["scorers"]}
    with_code = {one["name"]: one for one in imported(store, tmp_path, "--scorers", "--stored-code")["scorers"]}
    assert {"kind": 1, "polite": None, "regex_match": 1, "safety": 1, "short": 1} == {
        name: one["version"] for name, one in without.items()
    }
    assert "--stored-code" in without["polite"]["problem"]
    assert dict.fromkeys(without, 1) == {name: one["version"] for name, one in with_code.items()}
    assert get_scorer(name="polite", experiment_id="1")(outputs="yes, please") is True


def test_objects_of_mlflow_become_scorers_of_ours(told: dict[str, Any]) -> None:
    """Functions, built-ins and judges, with their names and arguments; what has no counterpart is refused by name."""
    model = {"model": "openai:/small"}
    verdict = {"type": "string", "enum": ["a", "b"]}
    regex = {"class": "RegexMatch", "pattern": "a+", "match_type": "search", "case_insensitive": False}
    instructions = {"class": "InstructionsJudge", "instructions": "Is {{ outputs }} good?"}
    tools = {"class": "ToolCallCorrectness", "should_exact_match": True, "should_consider_ordering": False}
    expected = {
        "polite": ["polite", "function", {}],
        "regex_match": ["regex_match", "builtin", regex],
        "short": [
            "short",
            "builtin",
            {"class": "ResponseLength", "min_length": None, "max_length": 5, "unit": "chars"},
        ],
        "safety": ["safety", "judge", {"class": "Safety"}],
        "kind": ["kind", "judge", {"class": "Guidelines", "guidelines": ["Be kind."]} | model],
        "tool_call_correctness": ["tool_call_correctness", "judge", tools],
        "good": ["good", "judge", instructions | {"feedback_value_type": verdict} | model],
    }
    refused = {name: told["became"].pop(name) for name in ("user_frustration", "listed")}
    assert expected == told["became"]
    assert ["(UserFrustration) of MLflow", "whole sessions"] == [
        part for part in ("(UserFrustration) of MLflow", "whole sessions") if part in refused["user_frustration"]
    ]
    assert "feedback_value_type is str, bool" in refused["listed"]


def test_a_backfill_takes_objects_of_mlflow(told: dict[str, Any]) -> None:
    """Alone or in a config; one that is refused is a problem beside the others."""
    assert [["polite", 1.0], ["regex_match", 0.5], ["user_frustration", None]] == told["taken"]
    assert len(told["problems"]) == 1
    assert "user_frustration (UserFrustration) of MLflow" in told["problems"][0]


def test_an_object_of_mlflow_is_registered_once(told: dict[str, Any]) -> None:
    """The same function again is the same version."""
    assert [["polite", 1, 1.0]] * 2 == told["registered"]


def test_our_scorers_work_in_mlflows_evaluate(told: dict[str, Any]) -> None:
    """Functions, coroutines, several feedbacks, errors and built-ins; `trace` is a trace of ours."""
    said = told["evaluated"]
    assert {"length": 3.0, "empty": False, "waits": True, "pii_detection": "yes"} == {
        name: said[name]["value"] for name in ("length", "empty", "waits", "pii_detection")
    }
    assert ("ValueError", "no") == (said["fails"]["error"]["error_code"], said["fails"]["error"]["error_message"])
    assert told["rationale"] == "1 spans, 'one'"


def test_our_judges_become_judges_of_mlflow(told: dict[str, Any]) -> None:
    """Of the same class, name, model and instructions."""
    (safety, judge) = told["judges"]
    assert ["Safety", "safety"] == safety[:2]
    assert safety[2]["builtin_scorer_pydantic_data"]["model"] == "openai:/small"
    expected = {"instructions": "Rate {{ outputs }}", "model": "openai:/small"}
    expected["feedback_value_type"] = {"title": "Result", "type": "integer"}  # type: ignore[assignment]
    assert expected == judge[2]["instructions_judge_pydantic_data"]


def a_function(**changes: Any) -> dict[str, Any]:
    document = {"name": "polite", "call_source": 'return "please" in outputs', "call_signature": "(outputs)"}
    return document | {"original_func_name": "polite"} | changes


def test_stored_code_is_taken_only_when_asked_for() -> None:
    """It is code of whoever could register on that server."""
    with pytest.raises(ScorerDefinitionError, match="with --stored-code only"):
        of_document(a_function())
    made = of_document(a_function(call_source="x = len(outputs)\nreturn Feedback(value=x)"), with_code=True)
    assert made(outputs="abc").value == 3
    assert made.to_register().source_text == "def polite(outputs):\n    x = len(outputs)\n    return Feedback(value=x)"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (a_function(call_source=""), "a lambda or an async function"),
        (a_function(call_source="return re.search('a', outputs)"), r"uses \['re'\], which MLflow has not stored"),
        (a_function(call_source="return [helper(x) for x in outputs]"), r"uses \['helper'\]"),
        (a_function(call_source="return ("), "does not compile"),
        ({"name": "e", "ensemble_scorer_data": {"scorers": []}}, "an ensemble"),
        ({"name": "t", "third_party_scorer_data": {"module": "ragas"}}, "wraps another library"),
        ({"name": "m", "memory_augmented_judge_data": {"a": 1}}, "aligned judge"),
        ({"name": "n"}, "kind is not known"),
        ({"name": "g", "builtin_scorer_class": "Guidelines"}, "guidelines"),
        (
            {
                "name": "s",
                "builtin_scorer_class": "Safety",
                "builtin_scorer_pydantic_data": {"extra_headers": {"a": "b"}},
            },
            "extra_headers",
        ),
        ({"name": "k", "builtin_scorer_class": "KnowledgeRetention"}, r"\(KnowledgeRetention\).*sessions"),
    ],
)
def test_what_cannot_be_a_scorer_here_is_refused_by_name(document: dict[str, Any], said: str) -> None:
    """With the reason, and before it is registered."""
    with pytest.raises(ScorerDefinitionError, match=f"The scorer {document['name']}.*{said}"):
        of_document(document, with_code=True)


def test_without_mlflow_a_scorer_says_so() -> None:
    """MLflow is no dependency."""

    @scorer
    def polite(outputs: str) -> bool:
        return "please" in outputs

    assert "mlflow" not in sys.modules
    with pytest.raises(ScorerDefinitionError, match="needs MLflow 3"):
        polite.to_mlflow()
