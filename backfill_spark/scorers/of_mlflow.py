"""Scorers of MLflow made scorers of ours: its objects, and what its registry stores. MLflow is never imported."""

from __future__ import annotations
import __future__

import builtins
import dis
import linecache
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, cast

from backfill_spark.display.absent import why_absent
from backfill_spark.errors import BackfillError, ScorerDefinitionError
from backfill_spark.models import BackfillScorerConfig, ScorerKind, ScorerSpec
from backfill_spark.scorers.scorer import Scorer, ScorerOptions
from backfill_spark.scorers.stored_code.loading import CLASSES, recreate
from backfill_spark.scorers.validation import is_of_mlflow
from backfill_spark.traces import assessment, trace

if TYPE_CHECKING:
    from backfill_spark.scorers.registry import Registry

_NOT_PARAMETERS = {"name", "aggregations", "description", "timeout", "required_columns", "instructions"}
"""Fields of a built-in of MLflow that are no arguments of ours: the words of its prompt are our own."""
_KINDS = {
    "memory_augmented_judge_data": "it is an aligned judge, whose memory is MLflow's",
    "third_party_scorer_data": "it wraps another library",
    "ensemble_scorer_data": "it is an ensemble of scorers; call them inside one @scorer",
}
_NAMES = ("Feedback", "Assessment", "AssessmentSource", "AssessmentError", "AssessmentSourceType", "CategoricalRating")
"""What a stored function of MLflow finds without an import, besides `Trace`, and `mlflow` itself."""


def of_mlflow(given: Any) -> Scorer:
    """Return our scorer of an object of `mlflow.genai.scorers`.

    A function with MLflow's `@scorer` becomes one of ours; a built-in scorer or judge the one of the same name, with
    the same arguments; a judge of `make_judge` one with the same instructions. Judges ask with our own prompts.

    Raises:
        ScorerDefinitionError: there is none of this kind here.
    """
    if isinstance(given, type):
        raise ScorerDefinitionError(f"{given.__name__} is a class of MLflow; give an object: {given.__name__}(…).")
    function = getattr(given, "_original_func", None)
    if function is not None:
        return Scorer(
            function,
            name=given.name,
            description=given.description,
            aggregations=given.aggregations or None,
            timeout=given.timeout,
        )
    kind = type(given).__name__
    try:
        document = given.model_dump()
    except Exception as error:  # MLflow's own refusal, of a class of the user's
        raise _refused(kind, "it is a class of its own; write its __call__ as a function with @scorer") from error
    return of_document(document, kind=kind)


def of_document(document: Mapping[str, Any], *, with_code: bool = False, kind: str = "") -> Scorer:
    """Return our scorer of one that MLflow has serialised.

    Args:
        document: as MLflow's registry stores it.
        with_code: Make functions of stored source. It is executed when the scorer is called, so only where you trust
            whoever could register scorers on that server.
        kind: What to call it in a refusal.

    Raises:
        ScorerDefinitionError: there is none of this kind here, or its code could not run.
    """
    name = str(document.get("name"))
    if (said := next((said for key, said in _KINDS.items() if document.get(key)), None)) is not None:
        raise _refused(name, said)
    if document.get("call_signature") is not None:
        if not with_code:
            raise _refused(name, "it is code that the server stores, which is taken with --stored-code only")
        made = _function_of(document, name)
        return Scorer(made, **_options(document, document) | {"name": name})
    judge, builtin = document.get("instructions_judge_pydantic_data"), document.get("builtin_scorer_class")
    if judge is not None:
        values = {key: judge.get(key) for key in ("instructions", "feedback_value_type", "model", "inference_params")}
        return _made(name, {"class": "InstructionsJudge", **_given(values)}, _options(document, document))
    if builtin is None:
        raise _refused(kind or name, "its kind is not known")
    if builtin not in CLASSES:
        raise _refused(
            f"{name} ({builtin})" if name != builtin else name, why_absent(builtin) or "there is none of this name yet"
        )
    told = document.get("builtin_scorer_pydantic_data") or {}
    if told.get("extra_headers"):
        raise _refused(name, "it has extra_headers, which are a setting of the endpoint")
    values = {key: value for key, value in told.items() if key not in _NOT_PARAMETERS | {"extra_headers"}}
    return _made(name, {"class": builtin, **_given(values)}, _options(document, told))


def as_config(given: Any) -> Any:
    """Return an object of MLflow's, alone or in a config, as a config of ours; anything else as it is.

    An object that runs in MLflow keeps its rate there; any other scores every trace.

    Raises:
        ScorerDefinitionError: it cannot be a scorer here.
    """
    inner = given.scorer if isinstance(given, BackfillScorerConfig) else given
    if not is_of_mlflow(inner):
        return given
    rate = given.sample_rate if isinstance(given, BackfillScorerConfig) else None
    return BackfillScorerConfig(scorer=of_mlflow(inner), sample_rate=rate or getattr(inner, "sample_rate", None) or 1.0)


def has_mlflows(given: Any) -> bool:
    """True where an object of MLflow's is among the scorers of a backfill."""
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    return listed and any(is_of_mlflow(getattr(one, "scorer", one)) for one in given)


def registered(given: Any, registry: Registry, experiment_id: str) -> Any:
    """Return the scorers of a backfill with MLflow's objects registered as ours, with the filters that they have.

    Raises:
        ScorerDefinitionError: one of them cannot be a scorer here.
    """
    return [_registered(one, registry, experiment_id) for one in given]


def _registered(given: Any, registry: Registry, experiment_id: str) -> Any:
    config = as_config(given)
    if config is given:
        return given
    found = registry.register(replace(config.scorer.to_register(), experiment_id=experiment_id))
    theirs = given.scorer if isinstance(given, BackfillScorerConfig) else given
    if text := getattr(theirs, "filter_string", None):
        found = found.at(registry.configure(found.spec.name, experiment_id, None, text))
    return replace(config, scorer=config.scorer.registered_as(found))


def _made(name: str, parameters: Mapping[str, Any], options: ScorerOptions) -> Scorer:
    kind = ScorerKind.BUILTIN if CLASSES[parameters["class"]].endswith("scorers.builtin") else ScorerKind.JUDGE
    spec = ScorerSpec(
        name=name,
        version=0,
        digest="",
        kind=kind,
        parameters=parameters,
        definition=None,
        signature=(),
        sample_rate=0.0,
    )
    try:
        return cast("Scorer", recreate(spec, **options))
    except BackfillError as error:
        raise _refused(name, str(error.__cause__ or error)) from error


def _options(document: Mapping[str, Any], told: Mapping[str, Any]) -> ScorerOptions:
    found: dict[str, Any] = {
        "description": document.get("description"),
        "aggregations": document.get("aggregations") or None,
        # Of built-ins MLflow writes 0 where nothing was said.
        "timeout": told.get("timeout") or None,
    }
    return cast("ScorerOptions", _given(found))


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _refused(name: str, why: str) -> ScorerDefinitionError:
    return ScorerDefinitionError(f"The scorer {name} of MLflow cannot be one here: {why.rstrip('.')}.")


def _function_of(document: Mapping[str, Any], name: str) -> Callable[..., Any]:
    """Return a function of stored source: MLflow keeps the body and the signature apart."""
    body, own = document.get("call_source"), document.get("original_func_name")
    if not body or not str(own).isidentifier():
        raise _refused(name, "its source is not stored, as that of a lambda or an async function never is")
    source = f"def {own}{document['call_signature']}:\n{textwrap.indent(str(body), '    ')}\n"
    file = f"<scorer {name} of MLflow>"
    namespace: dict[str, Any] = {name: getattr(assessment, name) for name in _NAMES} | {"Trace": trace.Trace}
    namespace["__name__"] = "scorers_of_mlflow"
    try:
        code = compile(source, file, "exec", flags=__future__.annotations.compiler_flag)
    except (SyntaxError, ValueError) as error:
        raise _refused(name, f"its code does not compile: {error}") from error
    # So that its source is found, and stored for people to read.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(code, namespace)  # noqa: S102 - asked for by --stored-code; the body itself runs when the scorer is called
    made = cast("FunctionType", namespace[str(own)])
    lacking = sorted(_globals_of(made.__code__) - namespace.keys() - vars(builtins).keys())
    if lacking:
        raise _refused(name, f"its code uses {lacking}, which MLflow has not stored with it")
    return made


def _globals_of(code: CodeType) -> set[str]:
    found = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found |= _globals_of(inner)
    return found
