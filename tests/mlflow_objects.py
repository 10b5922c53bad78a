"""MLflow's scorers in MLflow's own process, with this package beside it; run by the Python of the `mlflow` environment.

    python tests/mlflow_objects.py FOLDER PACKAGES

prints a JSON object: what its objects become here, and what `mlflow.genai.evaluate` says with our scorers. PACKAGES is
the folder of packages that this one needs and MLflow does not have.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

sys.path += [str(Path(__file__).parents[1]), sys.argv[2]]

import mlflow
from mlflow.genai import make_judge, scorers

from backfill_spark import BackfillScorerConfig, Feedback, PIIDetection, Safety, Scorer, scorer
from backfill_spark import make_judge as our_judge
from backfill_spark.backfill.named_scorers import named
from backfill_spark.backfill.problems import Problems
from backfill_spark.errors import BackfillError
from backfill_spark.scorers.of_mlflow import of_mlflow, registered
from backfill_spark.scorers.registry import Registry
from backfill_spark.settings.schema import Settings
from backfill_spark.storage.stores import Stores
from tests.mlflow_facts import facts

MODEL = "openai:/small"
os.environ["MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS"] = "true"


@scorers.scorer
def polite(outputs):  # type: ignore[no-untyped-def]
    """A function with MLflow's decorator."""
    return "please" in str(outputs)


OBJECTS = (
    polite,
    scorers.RegexMatch(pattern="a+"),
    scorers.ResponseLength(max_length=5, name="short"),
    scorers.Safety(),
    scorers.Guidelines(name="kind", guidelines=["Be kind."], model=MODEL),
    scorers.ToolCallCorrectness(should_exact_match=True),
    make_judge(name="good", instructions="Is {{ outputs }} good?", model=MODEL, feedback_value_type=Literal["a", "b"]),
    scorers.UserFrustration(),
    make_judge(name="listed", instructions="Name {{ outputs }}", model=MODEL, feedback_value_type=list[str]),
)


@scorer
def length(outputs: Any, trace: Any) -> list[Feedback]:
    return [
        Feedback(value=len(outputs), rationale=f"{len(trace.data.spans)} spans, {trace.outputs!r}"),
        Feedback(name="empty", value=not outputs, metadata={"m": "1"}),
    ]


@scorer
async def waits(inputs: Any, expectations: Any) -> bool:
    return bool(inputs["q"] == expectations["said"])


@scorer
def fails(outputs: Any) -> Feedback:
    return Feedback(error=ValueError("no"))


def became(given: Any) -> Any:
    try:
        ours = of_mlflow(given)
    except BackfillError as error:
        return str(error)
    return [ours.name, str(ours.kind), dict(ours.parameters)]


def main(folder: str, _packages: str) -> None:
    problems = Problems()
    taken = named(
        [polite, BackfillScorerConfig(scorer=OBJECTS[1], sample_rate=0.5), scorers.UserFrustration()], problems
    )
    registry = Registry(Stores(None, Settings(tables={"root": str(Path(folder) / "tables")})))
    found = [registered([polite], registry, "7") for _ in range(2)]
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("parcels")
    for one in OBJECTS[:5]:
        one.register()
    data = [{"inputs": {"q": "a"}, "outputs": "one", "expectations": {"said": "a"}}]
    ours: list[Scorer] = [length, waits, fails, PIIDetection()]
    result = mlflow.genai.evaluate(data=data, scorers=[one.to_mlflow() for one in ours])
    (trace,) = mlflow.search_traces(return_type="list", run_id=result.run_id)
    said = {a.name: a.to_dictionary() for a in trace.info.assessments}
    judges = [
        Safety(model=MODEL),
        our_judge(name="j", instructions="Rate {{ outputs }}", feedback_value_type=int, model=MODEL),
    ]
    told = {
        "facts": facts(trace),
        "became": {one.name: became(one) for one in OBJECTS},
        "taken": [
            [config.scorer if isinstance(config.scorer, str) else config.scorer.name, config.sample_rate]
            for config in taken
        ],
        "problems": problems.all,
        "registered": [[c.scorer.name, c.scorer.scorer_version, c.sample_rate] for one in found for c in one],
        "evaluated": {name: a.get("feedback") for name, a in said.items()},
        "rationale": said["length"].get("rationale"),
        "judges": [[type(j).__name__, j.name, j.model_dump()] for j in (one.to_mlflow() for one in judges)],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
