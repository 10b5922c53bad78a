"""A stored scorer made callable again: a pickled function, or an object of a class in the closed table."""

from __future__ import annotations

import base64
import importlib
import sys
import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, cast

from backfill_spark.errors import ScorerLoadError, nearest_first
from backfill_spark.models import ScorerSpec
from backfill_spark.scorers.stored_code import moved

PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
HEADER = b"python "
"""Begins the first line of a stored function."""
CLASSES: dict[str, str] = {
    "RegexMatch": "backfill_spark.scorers.builtin",
    "ResponseLength": "backfill_spark.scorers.builtin",
    "PIIDetection": "backfill_spark.scorers.builtin",
    "InstructionsJudge": "backfill_spark.judges.make_judge",
    "Completeness": "backfill_spark.judges.builtin",
    "Correctness": "backfill_spark.judges.builtin",
    "Equivalence": "backfill_spark.judges.builtin",
    "ExpectationsGuidelines": "backfill_spark.judges.builtin",
    "Fluency": "backfill_spark.judges.builtin",
    "Guidelines": "backfill_spark.judges.builtin",
    "RelevanceToQuery": "backfill_spark.judges.builtin",
    "RetrievalGroundedness": "backfill_spark.judges.builtin",
    "RetrievalRelevance": "backfill_spark.judges.builtin",
    "RetrievalSufficiency": "backfill_spark.judges.builtin",
    "Safety": "backfill_spark.judges.builtin",
    "Summarization": "backfill_spark.judges.builtin",
    "ToolCallCorrectness": "backfill_spark.judges.builtin",
    "ToolCallEfficiency": "backfill_spark.judges.builtin",
}
"""Classes that a stored row may name, and their modules: a closed table."""
_LOADED_MAX = 128

_loaded: OrderedDict[tuple[str, str], Callable[..., Any]] = OrderedDict()
_lock = threading.RLock()


def load(spec: ScorerSpec) -> Callable[..., Any]:
    """Return the callable of a stored scorer; loaded once a process.

    Raises:
        ScorerLoadError: another Python minor version, a module that is missing here, or a definition that is broken.
    """
    key = (spec.digest, spec.name)
    with _lock:
        if key in _loaded:
            _loaded.move_to_end(key)
            return _loaded[key]
    made = _function_of(spec) if spec.kind.is_function else recreate(spec)
    with _lock:
        _loaded[key] = made
        while len(_loaded) > _LOADED_MAX:
            _loaded.popitem(last=False)
    return made


def recreate(spec: ScorerSpec, **described: Any) -> Any:
    """Return a built-in or judge made from its class name and parameters, with `described` (name, timeout, …).

    Raises:
        ScorerLoadError: the class is not in the closed table, or refuses the parameters.
    """
    values = dict(spec.parameters)
    class_name = values.pop("class", None)
    module = CLASSES.get(class_name) if isinstance(class_name, str) else None
    if module is None:
        raise ScorerLoadError(
            f"The scorer {spec.name!r} is of the class {class_name!r}, which this backfill_spark does not have. "
            f"It has: {nearest_first(str(class_name), CLASSES)}."
        )
    try:
        return getattr(importlib.import_module(module), class_name)(**({"name": spec.name} | values | described))
    except Exception as error:
        raise ScorerLoadError(f"The scorer {spec.name!r} cannot be made from its parameters: {error}") from error


def _function_of(spec: ScorerSpec) -> Callable[..., Any]:
    if not spec.definition:
        raise ScorerLoadError(f"The scorer {spec.name!r} version {spec.version} has no stored definition.")
    try:
        head, _, payload = base64.b64decode(spec.definition, validate=True).partition(b"\n")
    except ValueError as error:
        raise ScorerLoadError(_broken(spec, "it is no base64")) from error
    if not head.startswith(HEADER):
        raise ScorerLoadError(_broken(spec, "its first line does not name a Python version"))
    wrote = head.removeprefix(HEADER).decode("ascii", "replace")
    if wrote != PYTHON_VERSION:
        raise ScorerLoadError(
            f"The scorer {spec.name!r} version {spec.version} was registered with Python {wrote}; this is Python "
            f"{PYTHON_VERSION} ({sys.executable}), which cannot read its bytecode. Run with Python {wrote} on the "
            "driver and the executors, or register the scorer again from this Python."
        )
    try:
        function, missed = moved.unpickled(payload)
    except ModuleNotFoundError as error:
        raise ScorerLoadError(
            f"The scorer {spec.name!r} version {spec.version} needs the module {error.name!r}, which is not installed "
            f"in {sys.executable}. Install it on the driver and the executors."
        ) from error
    except Exception as error:
        raise ScorerLoadError(_broken(spec, f"{type(error).__name__}: {str(error)[:200]}")) from error
    if not callable(function):
        raise ScorerLoadError(_broken(spec, f"it holds a {type(function).__name__}, not a function"))
    add_globals(function, missed)
    return cast("Callable[..., Any]", function)


def _broken(spec: ScorerSpec, why: str) -> str:
    return (
        f"The stored definition of the scorer {spec.name!r} version {spec.version} cannot be loaded: {why}. "
        "Register the scorer again."
    )


def add_globals(function: object, missed: Mapping[str, Any]) -> None:
    """Add the globals that pickling leaves behind to a loaded function."""
    if isinstance(function, types.FunctionType):
        for name, item in missed.items():
            function.__globals__.setdefault(name, item)
