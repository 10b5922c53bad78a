"""A scorer function as text that another process makes callable again, exactly as it was; what cannot is refused."""

from __future__ import annotations

import base64
import functools
import inspect
import io
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from backfill_spark.errors import ScorerDefinitionError
from backfill_spark.scorers.stored_code import dependencies, digest, moved, source
from backfill_spark.scorers.stored_code.loading import HEADER, PYTHON_VERSION, add_globals

MAX_BYTES = 10_000_000
"""Largest pickled function; every executor reads it."""


@dataclass(frozen=True, slots=True)
class Definition:
    """What is stored of a scorer that decides its answers."""

    definition: str | None
    """Base64 of a line `python 3.11` and the pickled function; None for a built-in."""
    source_text: str | None
    """For people to read; never executed."""
    digest: str
    python_version: str | None


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
        definition=base64.b64encode(HEADER + PYTHON_VERSION.encode() + b"\n" + payload).decode("ascii"),
        source_text=None if found is None else found.text.encode("utf-8", "replace").decode("utf-8"),
        digest=digest.of_function(function),
        python_version=PYTHON_VERSION,
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
    add_globals(copy, missed)
    if digest.shape_of(function) == digest.shape_of(copy):
        return
    theirs = {label: digest.shape_of(part) for label, part in dependencies.parts(copy)}
    changed = [k for k, part in dependencies.parts(function) if theirs.get(k) != digest.shape_of(part)]
    raise ScorerDefinitionError(
        f"The scorer {shown!r} cannot be stored: it is another function after a round trip; "
        f"{', '.join(changed) or 'its code'} did not survive. Keep plain values and functions there."
    )


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
