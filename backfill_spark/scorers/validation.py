"""What may be said about a scorer in its life: names, rates, filters, aggregations, timeouts."""

from __future__ import annotations

import inspect
import math
import numbers
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from backfill_spark.errors import ScorerDefinitionError, ScorerLifecycleError, nearest_first
from backfill_spark.models import ScorerSamplingConfig

PARAMETERS = ("inputs", "outputs", "expectations", "trace", "session")
AGGREGATIONS = ("min", "max", "mean", "median", "variance", "p90")
MAX_NAME = 250


_MLFLOW_ONLY = {
    "pass_if": "return a truth value instead, for example `return score >= 0.8`",
    "base_url": "name an endpoint in the settings, judge.endpoints.NAME.base_url, and use model='NAME:/MODEL'",
    "extra_headers": "headers belong to an endpoint of the settings, judge.endpoints.NAME",
    "generate_rationale_first": "our judges always give their rationale before the verdict",
}


def refuse_unknown(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse arguments that a decorator or judge does not have, with what to write instead.

    Raises:
        ScorerDefinitionError: there are any.
    """
    known = list(known)
    said = [f"{name} ({_MLFLOW_ONLY.get(name) or f'did you mean {nearest_first(name, known)[0]}?'})" for name in given]
    if said:
        raise ScorerDefinitionError(f"{what} does not take {'; '.join(said)}. It takes {', '.join(known)}.")


def is_of_mlflow(value: object) -> bool:
    """True for an object or class of MLflow's, or one that is derived from it."""
    kind = value if isinstance(value, type) else type(value)
    return any(base.__module__.partition(".")[0] == "mlflow" for base in kind.__mro__)


def instead_of(value: object) -> str:
    """Explain how to replace something that is no scorer of ours."""
    if is_of_mlflow(value):
        from backfill_spark.scorers.stored_code.loading import CLASSES

        name = (value if isinstance(value, type) else type(value)).__name__
        ours = {"InstructionsJudge": "make_judge"}.get(name, name if name in CLASSES else "scorer")
        return (
            f"This is a scorer object of MLflow ({name}), which the registry here cannot store. Write `from "
            f"backfill_spark import {ours}` in place of MLflow's import, make the scorer with it, and register it."
        )
    return "Decorate the function with @scorer and register it."


def checked_name(name: object) -> str:
    """Return `name` when a scorer may have it.

    Raises:
        ScorerLifecycleError: empty, only white space, over 250 characters, or control characters in it.
    """
    if not isinstance(name, str):
        raise ScorerLifecycleError(f"A scorer's name is a text, got {type(name).__name__}: {name!r:.80}.")
    if not name.strip():
        raise ScorerLifecycleError(f"A scorer's name cannot be empty or only white space, got {name!r}.")
    if len(name) > MAX_NAME:
        raise ScorerLifecycleError(
            f"A scorer's name has at most {MAX_NAME} characters, {name[:40]!r}… has {len(name)}."
        )
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        raise ScorerLifecycleError(f"A scorer's name holds no control characters, got {name!r}.")
    return name


def checked_rate(rate: object) -> float:
    """Return `rate` as a float.

    Raises:
        ScorerLifecycleError: it is no number, NaN, or outside [0, 1].
    """
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real):
        raise ScorerLifecycleError(f"sample_rate must be a number in [0, 1], got {type(rate).__name__}: {rate!r:.80}.")
    value = float(rate)
    if not 0.0 <= value <= 1.0:  # also False for NaN
        raise ScorerLifecycleError(f"sample_rate must be between 0 and 1, got {rate!r}. Write 0.8 for 80 %.")
    return value + 0.0  # -0.0 becomes 0.0


def checked_config(config: object) -> ScorerSamplingConfig:
    """Return rate and filter, each checked when it is there; None stands for an empty config.

    Raises:
        ScorerLifecycleError: the rate or the kind of config does not fit.
    """
    if config is None:
        return ScorerSamplingConfig()
    if not (hasattr(config, "sample_rate") and hasattr(config, "filter_string")):
        raise ScorerLifecycleError(
            f"sampling_config must be a ScorerSamplingConfig, got {type(config).__name__}. "
            "Write sampling_config=ScorerSamplingConfig(sample_rate=0.5)."
        )
    rate, text = config.sample_rate, config.filter_string
    if text is not None and not isinstance(text, str):
        raise ScorerLifecycleError(f"filter_string must be a text, got {type(text).__name__}: {text!r:.80}.")
    return ScorerSamplingConfig(
        sample_rate=None if rate is None else checked_rate(rate),
        filter_string=None if text is None else text if text.strip() else "",
    )


def checked_start(config: object) -> ScorerSamplingConfig:
    """Return the config of a start: rate 1.0 when none is said.

    Raises:
        ScorerLifecycleError: as `checked_config`, and for rate 0.
    """
    checked = checked_config(config)
    rate = 1.0 if checked.sample_rate is None else checked.sample_rate
    if rate == 0:
        raise ScorerLifecycleError(
            "start() needs a sample_rate above 0, got 0. Use stop() to stop a scorer, which keeps it registered."
        )
    return ScorerSamplingConfig(sample_rate=rate, filter_string=checked.filter_string)


def checked_aggregations(aggregations: object) -> tuple[str, ...] | None:
    """Return the aggregations.

    Raises:
        ScorerDefinitionError: one of them is none of AGGREGATIONS.
    """
    if aggregations is None:
        return None
    if isinstance(aggregations, str) or not isinstance(aggregations, Sequence):
        raise ScorerDefinitionError(f"aggregations is a list such as ['mean', 'p90'], got {aggregations!r:.80}.")
    wrong = [a for a in aggregations if not isinstance(a, str) or a not in AGGREGATIONS]
    if wrong:
        raise ScorerDefinitionError(f"Unknown aggregations {wrong!r:.200}. Known: {list(AGGREGATIONS)}.")
    return tuple(dict.fromkeys(aggregations))


def checked_timeout(timeout: object) -> float | None:
    """Return the limit of one call in seconds; 0 means none, None the setting.

    Raises:
        ScorerDefinitionError: it is no finite number, or negative.
    """
    if timeout is None:
        return None
    is_number = isinstance(timeout, numbers.Real) and not isinstance(timeout, bool)
    if not is_number or not 0 <= float(timeout) < math.inf:  # type: ignore[arg-type]
        raise ScorerDefinitionError(
            f"timeout must be a non-negative, finite number of seconds or None (0 for no limit), got {timeout!r:.80}."
        )
    return float(timeout)  # type: ignore[arg-type]


def parameters_of(function: Callable[..., Any], shown: str) -> tuple[str, ...]:
    """List the PARAMETERS that `function` takes, in their order.

    Raises:
        ScorerDefinitionError: it needs another parameter, or takes one by position only.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise ScorerDefinitionError(f"The scorer {shown!r} has no signature that can be read: {error}.") from error
    wrong = []
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            if parameter.default is parameter.empty or parameter.name in PARAMETERS:
                wrong.append(f"{parameter.name!r} by position only (take away the '/')")
        elif parameter.name not in PARAMETERS and parameter.default is parameter.empty:
            wrong.append(f"{parameter.name!r}, which nobody passes")
    beside = [name for name in ("inputs", "outputs", "trace") if name in parameters]
    if "session" in parameters and beside:
        raise ScorerDefinitionError(
            f"The scorer {shown!r} takes session and {' and '.join(beside)}: a session has many traces, so that nobody "
            f"could say whose {beside[0]} is meant. Take away one of them; session holds its traces."
        )
    if wrong:
        raise ScorerDefinitionError(
            f"The scorer {shown!r} takes {' and '.join(wrong)}. A scorer takes any of {', '.join(PARAMETERS)}; "
            "give other parameters a default."
        )
    return tuple(name for name in PARAMETERS if name in parameters)
