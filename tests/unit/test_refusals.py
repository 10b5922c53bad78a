"""What cannot work is refused when it is written down: what it is, why, and what to write instead."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

from backfill_spark import BackfillScorerConfig, Guidelines, Scorer, make_judge, scorer
from backfill_spark.backfill.validate import refuse_values
from backfill_spark.errors import BackfillRefusedError, ScorerDefinitionError
from backfill_spark.models import Arguments
from backfill_spark.scorers.stored_code import pickling
from backfill_spark.settings.schema import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 3
made_here: int
wrong: Any = scorer
"""The decorator, for options that its types refuse."""


def misspelt(outputs: Any) -> Any:
    return jsn.loads(outputs)  # type: ignore[name-defined] # noqa: F821


def in_a_nested_function(outputs: Any) -> Any:
    return sorted(outputs, key=lambda text: splitt(text))  # type: ignore[name-defined] # noqa: F821, PLW0108


def calls_a_broken_helper(outputs: Any) -> Any:
    return misspelt(outputs)


def in_one_branch(outputs: Any) -> Any:
    if outputs:
        return len(outputs)
    return flot(0)  # type: ignore[name-defined] # noqa: F821


def in_a_class_body(outputs: Any) -> Any:
    class Found:
        limit = LIMTI  # type: ignore[name-defined] # noqa: F821

    return Found.limit


async def awaits(outputs: Any) -> Any:
    return await aks(outputs)  # type: ignore[name-defined] # noqa: F821


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (misspelt, "jsn"),
        (in_a_nested_function, "splitt"),
        (calls_a_broken_helper, "jsn"),
        (in_one_branch, "flot"),
        (in_a_class_body, "LIMTI"),
        (awaits, "aks"),
        (functools.partial(misspelt), "jsn"),
        (functools.lru_cache(misspelt), "jsn"),
    ],
)
def test_a_name_that_exists_nowhere_is_refused_at_registration(function: Callable[..., Any], name: str) -> None:
    """Each row would be a NameError: also in a helper, a nested function, a branch that few traces take."""
    with pytest.raises(ScorerDefinitionError, match=rf"names '{name}' \(in .*define it before register\(\)"):
        pickling.dump(function, name="broken")


def makes_a_global(outputs: Any) -> Any:
    global made_here
    made_here = len(outputs)
    return made_here


def knows_what_is_missing(outputs: Any) -> Any:
    try:
        return unicode(outputs)  # type: ignore[name-defined]
    except NameError:
        return str(outputs)


def has_classes(outputs: Nowhere) -> Nowhere:  # type: ignore[name-defined] # noqa: F821
    class Sized:
        limit = LIMIT
        double = limit * 2
        kind = __name__

    return Sized.double + sum(limit for limit in range(LIMIT)) + len(__file__)


def local_names(outputs: Any) -> Any:
    import json
    from math import sqrt as root

    def again(n: Any) -> Any:
        return n and again(n - 1)

    try:
        found = json.loads(outputs)
    except ValueError as error:
        found = str(error)
    return root(len(str(found))) + again(2)


@pytest.mark.parametrize(
    "function", [makes_a_global, knows_what_is_missing, has_classes, local_names, functools.reduce]
)
def test_names_that_exist_when_they_are_needed_are_no_problem(function: Callable[..., Any]) -> None:
    """Globals that the scorer makes, caught NameErrors, annotations, names of a class body, local imports."""
    assert pickling.dump(function, name="fine").definition


def test_a_class_of_a_user_is_told_to_be_a_function() -> None:
    """MLflow has a chapter on it; a registry can neither store nor make it again."""
    with pytest.raises(ScorerDefinitionError, match=r"Longish derives from Scorer.*with @scorer"):

        class Longish(Scorer):
            name: str = "longish"

            def __call__(self, outputs: Any) -> int:
                return 1

    with pytest.raises(ScorerDefinitionError, match="derives from Guidelines"):

        class Mine(Guidelines):
            pass


class OfMlflow:
    """Stands for a scorer object of MLflow's: what counts is where its class comes from."""

    __module__ = "mlflow.genai.scorers.base"

    def __call__(self, **_: object) -> int:
        return 1


class Safety(OfMlflow):
    __module__ = "mlflow.genai.scorers.builtin_scorers"


class UsersOwn(OfMlflow):
    pass


@pytest.mark.parametrize(("made", "ours"), [(OfMlflow(), "scorer"), (Safety(), "Safety"), (UsersOwn(), "scorer")])
def test_a_scorer_object_of_mlflow_is_told_what_to_import(made: OfMlflow, ours: str) -> None:
    """The sentence names the import to write, or what its class must become."""
    said = f"scorer object of MLflow.*from backfill_spark import {ours}`"
    with pytest.raises(ScorerDefinitionError, match=said):
        scorer(made)
    said = f"scorer {type(made).__name__} of MLflow cannot be one here: .*with @scorer"
    for given in ([made], [BackfillScorerConfig(scorer=made)]):
        with pytest.raises(BackfillRefusedError, match=said):
            refuse_values(Arguments(scorers=given), Settings())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: wrong(pass_if=lambda v: v > 1), r"@scorer does not take pass_if \(return a truth value"),
        (lambda: wrong(agregations=["mean"]), r"agregations \(did you mean aggregations\?\)"),
        (lambda: judge(base_url="http://x"), r"make_judge does not take base_url \(name an endpoint in the settings"),
        (lambda: judge(extra_headers={}), "extra_headers"),
        (lambda: judge(generate_rationale_first=True), r"generate_rationale_first \(our judges always"),
        (lambda: judge(modle="x"), r"modle \(did you mean model\?\)"),
    ],
)
def test_arguments_of_mlflow_are_refused_with_what_to_write(make: Callable[[], object], said: str) -> None:
    """Never a bare TypeError."""
    with pytest.raises(ScorerDefinitionError, match=said):
        make()


def judge(**more: Any) -> object:
    return make_judge("a", "Is {{ outputs }} good?", **more)


@pytest.mark.parametrize("beside", ["inputs", "outputs", "trace"])
def test_session_stands_alone(beside: str) -> None:
    """A session has many traces; `expectations` may stand beside it, as in MLflow."""
    space: dict[str, Any] = {}
    exec(f"def wrong(session, {beside}): return 1\ndef right(session, expectations): return 1", space)
    with pytest.raises(ScorerDefinitionError, match=f"takes session and {beside}"):
        scorer(space["wrong"])
    assert ("expectations", "session") == scorer(space["right"]).signature
