"""What a function takes along: globals, closure, defaults, helpers, and modules that executors may lack."""

from __future__ import annotations

import builtins
import dis
import functools
import io
import sys
import sysconfig
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_KNOWN_EVERYWHERE = frozenset({"backfill_spark", "pyspark", "py4j", "delta", "cloudpickle", "__mp_main__"})
_GLOBAL_OPS = frozenset({"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL"})
_CLASS_BODY_OPS = _GLOBAL_OPS | {"LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
# Looked up in the module, too, where they differ between a script, a module and a notebook.
_OF_EACH_CLASS_BODY = frozenset({"__name__", "__annotations__"})
_SPARK_HANDLES = frozenset({"SparkSession", "SparkContext", "SQLContext", "DataFrame", "RDD", "Column", "JavaObject"})
_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray, range, types.CodeType, type(Ellipsis))
_registration = threading.RLock()

Way = tuple[str, ...]
CACHED_FUNCTION = type(functools.lru_cache(lambda: None))
_CALLABLES = (types.FunctionType, types.MethodType, functools.partial, staticmethod, classmethod, CACHED_FUNCTION)


def global_names(code: types.CodeType, ops: frozenset[str] = _CLASS_BODY_OPS) -> list[str]:
    """Return the global names that `code` and the code nested in it use, sorted; not those of each class body."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ops} - _OF_EACH_CLASS_BODY
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names.update(global_names(const, ops))
    return sorted(names)


def attribute_names(code: types.CodeType) -> frozenset[str]:
    """Return every name that `code` and the code nested in it may look up."""
    nested = (attribute_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return frozenset(code.co_names).union(*nested)


def used_globals(function: types.FunctionType) -> dict[str, Any]:
    """Return the globals that `function` uses and that exist now."""
    namespace = function.__globals__
    return {name: namespace[name] for name in global_names(function.__code__) if name in namespace}


def unknown_names(function: object) -> list[tuple[str, str]]:
    """List the names in `function` and its helpers that exist nowhere, each with the function that has it.

    A code object that catches NameError is left alone, and so is a name that the code itself makes global.
    """
    found: list[tuple[str, str]] = []
    waiting, seen = [function], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen or is_installed(value):
            continue
        seen.add(id(value))
        if isinstance(value, types.FunctionType):
            own_builtins = getattr(value, "__builtins__", ())
            known = {*value.__globals__, *vars(builtins), *own_builtins, *_made_global(value.__code__)}
            found += [(name, value.__name__) for name in _needed_globals(value.__code__) if name not in known]
        if not isinstance(value, (type, types.ModuleType)) and isinstance(value, _CALLABLES):
            waiting += [part for _, part in parts(value) if isinstance(part, _CALLABLES)]
    return found


def _needed_globals(code: types.CodeType) -> list[str]:
    """Return the names that a function looks up in its module, in the order of the code."""
    if code.co_name == "__annotate__" or "NameError" in code.co_names:
        return []
    made_here = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_NAME"} | _OF_EACH_CLASS_BODY
    here = [i.argval for i in dis.get_instructions(code) if i.opname in _CLASS_BODY_OPS and i.argval not in made_here]
    inner = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _needed_globals(const)]
    return list(dict.fromkeys(here + inner))


def _made_global(code: types.CodeType) -> set[str]:
    made = {i.argval for i in dis.get_instructions(code) if i.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")}
    return made.union(*(_made_global(c) for c in code.co_consts if isinstance(c, types.CodeType)))


def class_body_globals(function: types.FunctionType) -> dict[str, Any]:
    """Return the globals that only class bodies inside `function` use, which cloudpickle leaves behind."""
    taken = set(global_names(function.__code__, _GLOBAL_OPS))
    return {name: item for name, item in used_globals(function).items() if name not in taken}


def closure_of(function: types.FunctionType) -> dict[str, Any]:
    """Return the enclosing variables of `function`; those not yet bound are left out."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


def is_user_module(module: object) -> bool:
    """True for a module that executors may lack: its file is neither Python's own nor in an installed package."""
    name = getattr(module, "__name__", None)
    if not isinstance(module, types.ModuleType) or not isinstance(name, str):
        return False
    if name == "__main__":
        return True
    file = vars(module).get("__file__") or next(iter(vars(module).get("__path__") or ()), None)
    return isinstance(file, str) and is_user_file_of(name, file)


def is_user_file_of(name: str, file: str) -> bool:
    """True when `file` of the module `name` is a user's own, by the rule of `is_user_module`."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top in _KNOWN_EVERYWHERE:
        return False
    return not file.endswith((".so", ".pyd")) and _is_user_file(file)


def is_installed(thing: object) -> bool:
    """True for a function or class that a module of Python or of an installed package gives under its own name."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    if module is None or is_user_module(module):
        return False
    found: object = module
    for part in getattr(thing, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is thing


@contextmanager
def by_value() -> Iterator[None]:
    """Make cloudpickle take functions and classes of user modules along instead of naming them."""
    import cloudpickle
    from cloudpickle.cloudpickle import list_registry_pickle_by_value

    with _registration:
        known = list_registry_pickle_by_value()
        added = [
            module
            for name, module in list(sys.modules.items())
            if name not in known
            and name != "__main__"
            and getattr(module, "__name__", None) == name
            and is_user_module(module)
        ]
        for module in added:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in added:
                cloudpickle.unregister_pickle_by_value(module)


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what travels inside `value`, each with words that say where it is."""
    if isinstance(value, types.FunctionType):
        if not is_installed(value):
            yield from _parts_of_function(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"the key {_short(key)}", key
            yield f"the item {_short(key)}", item
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(value):
            yield f"the item {index}", item
    elif isinstance(value, types.MethodType):
        yield "the object it belongs to", value.__self__
        yield f"the method {value.__name__!r}", value.__func__
    elif isinstance(value, functools.partial):
        yield "its function", value.func
        yield "its arguments", (*value.args, value.keywords)
    elif isinstance(value, (staticmethod, classmethod, CACHED_FUNCTION)):
        yield "its function", value.__wrapped__
    elif hasattr(type(value), "captured"):  # a Scorer
        yield "its definition", value.captured()
    elif isinstance(value, property):
        yield "its function", (value.fget, value.fset)
    elif isinstance(value, types.ModuleType):
        if is_user_module(value) and value.__name__ != "__main__":
            yield from ((f"the name {k!r}", v) for k, v in vars(value).items() if not k.startswith("__"))
    elif isinstance(value, type):
        if not is_installed(value):
            own = ((k, v) for k, v in vars(value).items() if k not in ("__dict__", "__weakref__"))
            yield from ((f"the attribute {k!r}", v) for k, v in own)
    elif not _pickles_itself(type(value)):
        yield from ((f"the attribute {k!r}", v) for k, v in getattr(value, "__dict__", {}).items())


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    yield from ((f"the global {name!r}", item) for name, item in used_globals(function).items())
    yield from ((f"the enclosing variable {name!r}", item) for name, item in closure_of(function).items())
    yield from (("a default", item) for item in function.__defaults__ or ())
    yield from ((f"the default of {name!r}", item) for name, item in (function.__kwdefaults__ or {}).items())
    yield from ((f"the attribute {name!r}", item) for name, item in vars(function).items())


def stranger(function: object) -> tuple[Way, str] | None:
    """Return the way to the first captured thing that must not travel although it could be pickled, and what it is."""
    seen: set[int] = set()
    waiting: list[tuple[Way, Any]] = [((), function)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, _ATOMS) or id(value) in seen:
            continue
        seen.add(id(value))
        what = _what_must_stay(value)
        if what is not None:
            return path, what
        waiting.extend(((*path, label), item) for label, item in parts(value) if not isinstance(item, _ATOMS))
    return None


def _what_must_stay(value: object) -> str | None:
    cls = type(value)
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in ("pyspark", "py4j") and base.__name__ in _SPARK_HANDLES:
            return f"a Spark {base.__name__}"
    if isinstance(value, io.IOBase) and not isinstance(value, (io.StringIO, io.BytesIO)):
        if any(value is own for own in (sys.stdin, sys.stdout, sys.stderr)):
            return None
        return "an open file" if not value.closed else "a closed file"
    return None


def _pickles_itself(cls: type) -> bool:
    """True when instances say themselves what travels, so that looking into them would tell nothing."""
    if is_installed(cls):
        return True
    names = ("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__")
    return any(getattr(cls, n, None) is not getattr(object, n, None) for n in names)


@functools.lru_cache(maxsize=4096)
def _is_user_file(file: str) -> bool:
    path = Path(file)
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    own = {sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return not any(path.is_relative_to(folder) for folder in own if folder)


def _short(value: object) -> str:
    return f"{value!r:.40}" if isinstance(value, (str, int)) else type(value).__name__
