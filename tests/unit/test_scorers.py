"""`@scorer` and Scorer without a registry: parameters, calls, refusals, looks."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any, cast

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark import ScorerSamplingConfig, ScorerStatus, delete_scorer, scorer
from backfill_spark.errors import ScorerDefinitionError, ScorerLifecycleError
from backfill_spark.scorers import validation


@scorer
def bare(outputs, expectations=None, limit=3):  # type: ignore[no-untyped-def] # as people write it
    """Says how long."""
    return len(outputs) > limit


@scorer(name="named", description="d", aggregations=["mean", "p90"], timeout=2, version_note="n")
def dressed(inputs: Any, trace: Any) -> Any:
    return (inputs, trace)


def test_a_scorer_is_still_the_plain_function() -> None:
    assert bare(outputs="abcd") is True
    assert bare("abcd", None, 9) is False
    assert ("bare", "Says how long.", "(outputs, expectations=None, limit=3)") == (
        getattr(bare, "__name__"),  # noqa: B009 - no attribute that types know
        bare.__doc__,
        str(inspect.signature(bare)),
    )


def test_a_scorer_keeps_what_the_decorator_was_given() -> None:
    assert ("named", "d", ["mean", "p90"], 2.0, "n") == (
        dressed.name,
        dressed.description,
        dressed.aggregations,
        dressed.timeout,
        dressed.version_note,
    )


def test_an_unregistered_scorer_has_neither_rate_nor_version() -> None:
    assert (ScorerStatus.UNREGISTERED, None, None, None, None, None) == (
        bare.status,
        bare.sample_rate,
        bare.filter_string,
        bare.scorer_version,
        bare.experiment_id,
        bare._server_name,
    )


def test_run_passes_only_what_the_scorer_takes() -> None:
    assert bare.signature == ("outputs", "expectations")
    assert bare.run(inputs="i", outputs="abcd", trace="t") is True
    assert dressed.run(inputs="i", outputs="o", trace="t") == ("i", "t")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda outputs, other: 1, "'other'"),
        (lambda outputs, /: 1, "'outputs' by position only"),
        (lambda outputs, *, needed: 1, "'needed'"),
        (lambda response: 1, "inputs, outputs, expectations, trace, session"),
    ],
)
def test_a_parameter_that_nobody_passes_is_refused_by_name(function: Callable[..., Any], words: str) -> None:
    with pytest.raises(ScorerDefinitionError, match=words):
        scorer(function)


def test_other_parameters_may_stand_with_a_default() -> None:
    assert scorer(lambda outputs, n=3, *args, **kwargs: n).signature == ("outputs",)


@pytest.mark.parametrize(
    "values",
    [
        {"aggregations": ["p95"]},
        {"aggregations": "mean"},
        {"aggregations": [len]},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": "3"},
        {"timeout": True},
        {"description": 3},
    ],
)
def test_a_bad_argument_of_the_decorator_is_refused(values: Any) -> None:
    with pytest.raises(ScorerDefinitionError):
        scorer(**values)(lambda outputs: 1)


@pytest.mark.parametrize("thing", [3, int, bare])
def test_only_a_function_is_decorated(thing: Any) -> None:
    with pytest.raises(ScorerDefinitionError, match="decorates a function"):
        scorer(thing)


def test_an_async_function_is_marked() -> None:
    @scorer
    async def asks(outputs: Any) -> int:
        return 1

    assert (True, False) == (asks.is_async, bare.is_async)
    assert ("async_function", "function") == (asks.kind, bare.kind)


def test_a_session_scorer_is_marked() -> None:
    assert scorer(lambda session: 1).is_session_level_scorer is True


@pytest.mark.parametrize("verb", ["update", "stop"])
def test_update_and_stop_of_an_unregistered_scorer_say_how_to_go_on(verb: str) -> None:
    with pytest.raises(ScorerLifecycleError, match=r"bare = bare.register\(\)"):
        getattr(bare, verb)()


@pytest.mark.parametrize("rate", [-0.1, 1.0001, float("nan"), float("inf"), True, "0.5", [0.5], 1j, np.bool_(True)])
@pytest.mark.parametrize("verb", ["start", "update"])
def test_a_rate_that_is_no_share_is_refused(verb: str, rate: Any) -> None:
    with pytest.raises(ScorerLifecycleError, match="sample_rate"):
        getattr(bare, verb)(sampling_config=ScorerSamplingConfig(sample_rate=rate))


@pytest.mark.parametrize("rate", [0, 0.0, -0.0])
def test_a_start_at_rate_zero_is_refused(rate: float) -> None:
    with pytest.raises(ScorerLifecycleError, match="stop"):
        bare.start(sampling_config=ScorerSamplingConfig(sample_rate=rate))


def test_a_bare_number_is_no_config() -> None:
    with pytest.raises(ScorerLifecycleError, match="ScorerSamplingConfig"):
        bare.start(sampling_config=cast("Any", 0.5))


@given(st.floats(0, 1) | st.fractions(0, 1) | st.sampled_from([0, 1, np.float32(0.5), Fraction(1, 3)]))
def test_every_number_between_0_and_1_is_a_rate(rate: Any) -> None:
    assert validation.checked_rate(rate) == float(rate)


def test_a_start_without_a_rate_means_all_traces() -> None:
    assert validation.checked_start(None).sample_rate == 1.0
    assert validation.checked_start(ScorerSamplingConfig(filter_string="x")).sample_rate == 1.0


@given(st.text(max_size=300))
def test_a_name_is_taken_or_refused_and_never_changed(name: Any) -> None:
    try:
        assert validation.checked_name(name) == name
    except ScorerLifecycleError:
        assert not name.strip() or len(name) > 250 or not name.isprintable()


def test_a_digest_counts_the_definition_and_not_its_description() -> None:
    def function(outputs: Any) -> int:
        return 1

    digests = {scorer(function).digest, scorer(name="n", description="d", timeout=3)(function).digest}

    assert len(digests) == 1
    assert len(digests.pop()) == 64


def test_a_scorer_travels() -> None:
    copied = pickle.loads(cloudpickle.dumps(scorer(lambda outputs: len(outputs) + 1)))

    assert copied(outputs="abc") == 4


def test_a_scorer_shows_its_state() -> None:
    assert repr(bare) == "Scorer(name='bare', status=UNREGISTERED)"
    assert "<b>bare</b>" in bare._repr_html_()
    assert "&lt;lambda&gt;" in scorer(lambda outputs: 1)._repr_html_()


def test_importing_scorers_imports_neither_spark_nor_pandas() -> None:
    code = (
        "import sys; from backfill_spark import scorer, RegexMatch, get_scorer; scorer(lambda outputs: 1).digest; "
        "print([m for m in ('pyspark', 'pandas', 'pydantic', 'mlflow') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"


def test_a_scorer_is_no_pair() -> None:
    """MLflow's `list_scorer_versions` gives pairs; unpacking a scorer says what to write."""
    with pytest.raises(TypeError, match=r"take s\.scorer_version"):
        _, _ = bare


@pytest.mark.parametrize("version", ["2", "ALL", True, ""])
def test_a_version_to_delete_is_a_number_or_all(version: Any) -> None:
    """Anything else is refused before Spark starts: no typing error deletes every version."""
    with pytest.raises(ScorerLifecycleError, match=r'version is a number, or "all"'):
        delete_scorer(name="x", version=version)
