"""Definitions: a scorer function as text that another process makes callable again, exactly as it was."""

from __future__ import annotations

import base64
import functools
import importlib
import inspect
import io
import sys
import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from backfill_spark.errors import ScorerDefinitionError, ScorerLoadError, nearest_first
from backfill_spark.models import ScorerSpec
from backfill_spark.scorers.stored_code import dependencies, digest, moved, source

if TYPE_CHECKING:
    from backfill_spark.scorers.scorer import Scorer

MAX_BYTES = 10_000_000
"""Largest pickled function; every executor reads it."""
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
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
_HEADER = b"python "

_loaded: OrderedDict[tuple[str, str], Callable[..., Any]] = OrderedDict()
_lock = threading.RLock()


@dataclass(frozen=True, slots=True)
class Definition:
    """A function as it is stored."""

    definition: str
    """Base64 of a line `python 3.11` and the pickled function."""
    source_text: str | None
    """For people to read; never executed."""
    digest: str
    python_version: str


def dump(function: Callable[..., Any], *, name: str | None = None) -> Definition:
    """Pickle `function` by value with its helpers, load it again, and compare.

    Raises:
        ScorerDefinitionError: names what cannot travel (an open file, a lock, a Spark session, over 10 MB captured),
            and what exists nowhere.
    """
    shown = str(name or getattr(function, "__name__", type(function).__name__))
    stranger = dependencies.stranger(function)
    if stranger is not None:
        raise _refused(shown, *stranger)
    unknown = dependencies.unknown_names(function)
    if unknown:
        said = ", ".join(f"{name!r} (in {where})" for name, where in unknown)
        raise ScorerDefinitionError(
            f"The scorer {shown!r} cannot be stored: it names {said}, which exists neither in its module nor in "
            "Python; each call would be a NameError. Correct the spelling, import it, or define it before "
            "register(): what is defined later does not travel to the executors."
        )
    with dependencies.by_value():
        try:
            missed = dependencies.class_body_globals(function) if isinstance(function, types.FunctionType) else {}
            payload = _pickled((function, missed))
        except Exception as error:
            way, what = _culprit(function, error)
            raise _refused(shown, way, what) from error
        if len(payload) > MAX_BYTES:
            raise _too_large(shown, function, len(payload))
        _check_round_trip(shown, function, payload)
    inner = inspect.unwrap(function)
    found = source.find(inner) if isinstance(inner, types.FunctionType) else None
    return Definition(
        definition=base64.b64encode(_HEADER + PYTHON_VERSION.encode() + b"\n" + payload).decode("ascii"),
        source_text=None if found is None else found.text.encode("utf-8", "replace").decode("utf-8"),
        digest=digest.of_function(function),
        python_version=PYTHON_VERSION,
    )


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
    made = _unpacked(spec) if spec.kind.is_function else recreate(spec)
    with _lock:
        _loaded[key] = made
        while len(_loaded) > _LOADED_MAX:
            _loaded.popitem(last=False)
    return made


def recreate(spec: ScorerSpec, **described: Any) -> Scorer:
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
        made: Scorer = getattr(importlib.import_module(module), class_name)(
            **({"name": spec.name} | values | described)
        )
    except Exception as error:
        raise ScorerLoadError(f"The scorer {spec.name!r} cannot be made from its parameters: {error}") from error
    return made


def _unpacked(spec: ScorerSpec) -> Callable[..., Any]:
    if not spec.definition:
        raise ScorerLoadError(f"The scorer {spec.name!r} version {spec.version} has no stored definition.")
    try:
        head, _, payload = base64.b64decode(spec.definition, validate=True).partition(b"\n")
    except ValueError as error:
        raise ScorerLoadError(_broken(spec, "it is no base64")) from error
    if not head.startswith(_HEADER):
        raise ScorerLoadError(_broken(spec, "its first line does not name a Python version"))
    wrote = head.removeprefix(_HEADER).decode("ascii", "replace")
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
    _add_globals(function, missed)
    return cast("Callable[..., Any]", function)


def _broken(spec: ScorerSpec, why: str) -> str:
    return (
        f"The stored definition of the scorer {spec.name!r} version {spec.version} cannot be loaded: {why}. "
        "Register the scorer again."
    )


def _pickled(value: object) -> bytes:
    """Pickle by cloudpickle; cached functions of the user travel too, which cloudpickle would only name."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, dependencies.CACHED_FUNCTION) and not dependencies.is_installed(obj):
                return _cached, (obj.__wrapped__, obj.cache_parameters())
            return super().reducer_override(obj)

    file = io.BytesIO()
    Pickler(file).dump(value)
    return file.getvalue()


def _cached(function: Callable[..., Any], parameters: Mapping[str, Any]) -> Callable[..., Any]:
    return cast("Callable[..., Any]", functools.lru_cache(**parameters)(function))


class _NamedHere(moved.Unpickler):
    """Loads, and notes the names that would be looked up in modules that executors lack."""

    def __init__(self, payload: bytes) -> None:
        super().__init__(io.BytesIO(payload))
        self.names: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        if dependencies.is_user_module(sys.modules.get(module)):
            self.names.append(f"{module}.{name}")
        return super().find_class(module, name)


def _check_round_trip(shown: str, function: Callable[..., Any], payload: bytes) -> None:
    loader = _NamedHere(payload)
    try:
        copy, missed = loader.load()
    except Exception as error:
        raise ScorerDefinitionError(
            f"The scorer {shown!r} cannot be stored: it does not load again ({type(error).__name__}: {error})."
        ) from error
    if loader.names:
        raise ScorerDefinitionError(
            f"The scorer {shown!r} cannot be stored: {loader.names[0]!r} would be looked up in a module that executors "
            "lack. Define it as a plain function or class, or put its module into an installed package."
        )
    _add_globals(copy, missed)
    if digest.shape_of(function) == digest.shape_of(copy):
        return
    theirs = {label: digest.shape_of(part) for label, part in dependencies.parts(copy)}
    changed = [k for k, part in dependencies.parts(function) if theirs.get(k) != digest.shape_of(part)]
    raise ScorerDefinitionError(
        f"The scorer {shown!r} cannot be stored: it is another function after a round trip; "
        f"{', '.join(changed) or 'its code'} did not survive. Keep plain values and functions there."
    )


def _add_globals(function: object, missed: Mapping[str, Any]) -> None:
    if isinstance(function, types.FunctionType):
        for name, item in missed.items():
            function.__globals__.setdefault(name, item)


def _culprit(function: object, error: BaseException) -> tuple[dependencies.Way, str]:
    """Follow what does not pickle down to its root."""
    way: dependencies.Way = ()
    value, seen = function, {id(function)}
    while True:
        for label, part in dependencies.parts(value):
            if id(part) not in seen and not _pickles(part):
                way, value = (*way, label), part
                seen.add(id(part))
                break
        else:
            kind = type(value)
            said = str(error) if value is function else f"a {kind.__module__}.{kind.__qualname__}"
            return way, said.replace("a builtins.", "a ").replace("a _thread.", "a ")


def _pickles(value: object) -> bool:
    try:
        _pickled(value)
    except Exception:
        return False
    return True


def _refused(shown: str, way: dependencies.Way, what: str) -> ScorerDefinitionError:
    where = f"{' → '.join(way)}, {what}," if way else what
    return ScorerDefinitionError(
        f"The scorer {shown!r} cannot be stored: it uses {where} which cannot travel to the executors. "
        "Make it inside the function, or pass a plain value instead."
    )


def _too_large(shown: str, function: object, size: int) -> ScorerDefinitionError:
    sizes = sorted(((len(_pickled(part)), label) for label, part in dependencies.parts(function)), reverse=True)
    most = f"; {sizes[0][1]} takes {sizes[0][0] / 1e6:.1f} MB of it" if sizes else ""
    return ScorerDefinitionError(
        f"The scorer {shown!r} cannot be stored: it captures {size / 1e6:.1f} MB, more than the "
        f"{MAX_BYTES / 1e6:.0f} MB that may travel to each executor{most}. Read large data from a file "
        "inside the function."
    )
