"""A scorer of ours as one of MLflow's, for `mlflow.genai.evaluate(scorers=[ours.to_mlflow()])`."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from backfill_spark.errors import ScorerDefinitionError
from backfill_spark.models import ScorerKind
from backfill_spark.traces.assessment import Assessment, AssessmentError, AssessmentSource
from backfill_spark.traces.trace import Trace

if TYPE_CHECKING:
    from types import ModuleType


_TYPES: dict[str, type] = {"string": str, "boolean": bool, "integer": int, "number": float}


def to_mlflow(scorer: Any) -> Any:
    """Return an object of MLflow's; see `Scorer.to_mlflow`.

    Raises:
        ScorerDefinitionError: MLflow is not installed, or lacks a judge of this kind.
    """
    try:
        import mlflow
        from mlflow.genai import judges, scorers
    except ImportError as error:
        raise ScorerDefinitionError(f"to_mlflow() needs MLflow 3, which is not there: {error}.") from None
    if scorer.kind is not ScorerKind.JUDGE:
        return scorers.scorer(
            _function_of(scorer, mlflow),
            name=scorer.name,
            description=scorer.description,
            aggregations=scorer.aggregations,
            timeout=scorer.timeout,
        )
    values = {name: value for name, value in scorer.parameters.items() if name != "class"}
    kind = str(scorer.parameters["class"])
    values |= {"name": scorer.name, "description": scorer.description}
    if kind == "InstructionsJudge":
        return judges.make_judge(**values | {"feedback_value_type": _type_of(values["feedback_value_type"])})
    if not hasattr(scorers, kind):
        raise ScorerDefinitionError(f"This MLflow, {mlflow.__version__}, has no judge {kind}.")
    return getattr(scorers, kind)(**{name: value for name, value in values.items() if value is not None})


def _function_of(scorer: Any, mlflow: ModuleType) -> Callable[..., Any]:
    """A function that MLflow calls: it takes what the scorer takes, and gives MLflow's feedback."""

    def call(**given: Any) -> Any:
        if (trace := given.get("trace")) is not None:
            given["trace"] = Trace(json.loads(trace.to_json()))
        result = scorer(**given)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        if isinstance(result, list | tuple):
            return [_feedback(one, mlflow) for one in result]
        return _feedback(result, mlflow)

    taken = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in scorer.signature]
    call.__name__ = call.__qualname__ = scorer.name
    call.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    return call


def _feedback(result: Any, mlflow: ModuleType) -> Any:
    if not isinstance(result, Assessment):
        return result
    theirs = mlflow.entities
    error = result.error
    if isinstance(error, AssessmentError):
        error = theirs.AssessmentError(error.error_code, error.error_message, error.stack_trace)
    source = result.source
    if isinstance(source, AssessmentSource):
        source = theirs.AssessmentSource(source_type=source.source_type, source_id=source.source_id)
    return theirs.Feedback(
        name=result.name,
        value=result.value,
        error=error,
        source=source,
        rationale=result.rationale,
        metadata=None if result.metadata is None else dict(result.metadata),
        span_id=result.span_id,
    )


def _type_of(told: Mapping[str, Any]) -> Any:
    """Return the type that the JSON form of a verdict stands for."""
    return Literal[tuple(told["enum"])] if "enum" in told else _TYPES[told["type"]]
