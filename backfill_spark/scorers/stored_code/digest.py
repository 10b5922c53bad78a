"""The digest of a scorer: SHA-256 over everything that decides its answers.

Source trees (bytecode only where there is no source), defaults, closures and referenced globals by value, of the
function and of every helper that travels with it. Not the Python version, positions, docstrings or decorators'
arguments such as timeout and description. The order of a dict counts, since it can decide an answer; that of a set
does not.
"""

from __future__ import annotations

import copyreg
import dis
import enum
import functools
import hashlib
import json
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any

from backfill_spark.scorers.stored_code import dependencies, moved, source

_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray, range, type(Ellipsis), type(NotImplemented))
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)


def of_function(function: object) -> str:
    """Return the digest of a scorer function as 64 hex digits."""
    walk = Walk(whole=True)
    walk.emit("kind", "function")
    walk.value(function)
    return walk.hexdigest()


def of_parameters(kind: str, parameters: Mapping[str, Any], revision: int) -> str:
    """Return the digest of a built-in or judge as 64 hex digits; `revision` rises when its answers change."""
    text = json.dumps([kind, revision, parameters], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def shape_of(value: object, *, whole: bool = False) -> str:
    """Return a digest that a value and its copy from the other side of a round trip share; with `whole`, of all of it.

    Code is compared as bytecode, since a copy may lack its source; objects of other classes by their type only.
    """
    walk = Walk(whole=whole)
    walk.value(value)
    return walk.hexdigest()


class Walk:
    """One pass over a value and all that it refers to."""

    def __init__(self, *, whole: bool) -> None:
        self._hash = hashlib.sha256()
        self._whole = whole
        self._seen: dict[int, int] = {}
        self._kept: list[object] = []
        """Keeps what was seen alive, so that an id is not given out twice."""
        self._open_modules: set[str] = set()

    def hexdigest(self) -> str:
        """Return the digest of all that was emitted."""
        return self._hash.hexdigest()

    def emit(self, *texts: str | bytes) -> None:
        """Add texts, each with its length, so that no two sequences look alike."""
        for text in texts:
            data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
            self._hash.update(b"%d:" % len(data))
            self._hash.update(data)

    def value(self, value: object) -> None:
        """Add one value and what it refers to."""
        if isinstance(value, _ATOMS) and type(value) in _ATOMS:
            self.emit(type(value).__name__, value if isinstance(value, (str, bytes)) else repr(value))
        elif isinstance(value, types.CodeType):
            self._code(value)
        elif isinstance(value, types.ModuleType):
            self.emit("module", moved.first_home(value.__name__))
        elif type(value) is tuple:
            self._items("tuple", value)
        elif id(value) in self._seen:
            self.emit("again", str(self._seen[id(value)]))
        else:
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)
            self._once(value)

    def _once(self, value: Any) -> None:
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, enum.Enum):
            self.emit("enum", value.name)
            self.value(type(value))
        elif type(value) is list:
            self._items("list", value)
        elif type(value) is dict:
            self._items("dict", [part for pair in value.items() for part in pair])
        elif type(value) in (set, frozenset):
            self._set(value)
        elif isinstance(value, types.BuiltinFunctionType) and isinstance(value.__self__, types.ModuleType | None):
            self.emit("builtin", str(value.__module__), value.__qualname__)
        elif isinstance(value, (types.MethodType, types.BuiltinMethodType)):
            self._items("method", (value.__name__, value.__self__, getattr(value, "__func__", None)))
        elif isinstance(value, functools.partial):
            self._items("partial", (value.func, value.args, value.keywords))
        elif isinstance(value, dependencies.CACHED_FUNCTION):
            self._items("cached", (value.__wrapped__, value.cache_parameters()))
        elif isinstance(value, (staticmethod, classmethod)):
            self._items(type(value).__name__, (value.__func__,))
        elif isinstance(value, property):
            self._items("property", (value.fget, value.fset, value.fdel))
        elif isinstance(value, re.Pattern):
            self._items("pattern", (value.pattern, value.flags))
        elif hasattr(type(value), "captured"):  # a Scorer: its name, rate and registration decide no answer
            self._items("scorer", value.captured())
        else:
            self._object(value)

    def _items(self, tag: str, items: Iterable[object]) -> None:
        listed = list(items)
        self.emit(tag, str(len(listed)))
        for item in listed:
            self.value(item)

    def _set(self, value: Iterable[object]) -> None:
        self.emit("set", *sorted(shape_of(item, whole=self._whole) for item in value), "end")

    def _function(self, function: types.FunctionType) -> None:
        if dependencies.is_installed(function):
            self.emit("installed", moved.first_home(function.__module__, function.__qualname__), function.__qualname__)
            return
        found = source.find(function) if self._whole else None
        if found is not None:
            self.emit("source", source.canonical(found.tree, bare=True))
        else:
            self._code(function.__code__, function.__doc__)
        self._surroundings(function)

    def _surroundings(self, function: types.FunctionType) -> None:
        self.value(function.__defaults__)
        self.value(function.__kwdefaults__)
        self._named("closure", dependencies.closure_of(function))
        self._named("attributes", vars(function))
        names = dependencies.attribute_names(function.__code__)
        for name, item in dependencies.used_globals(function).items():
            self.emit("global", name)
            if isinstance(item, types.ModuleType):
                self._module(item, names)
            else:
                self.value(item)
        if self._whole:
            self._imports(function.__code__)

    def _named(self, tag: str, values: Mapping[str, object]) -> None:
        self._items(tag, [part for name in sorted(values) for part in (name, values[name])])

    def _module(self, module: types.ModuleType, names: frozenset[str]) -> None:
        """Add a module: by name, and of a user's own module what the code may look up in it."""
        self.emit("module", module.__name__)
        if not dependencies.is_user_module(module) or module.__name__ in self._open_modules:
            return
        self._open_modules.add(module.__name__)
        for name in sorted(names & vars(module).keys()):
            item = vars(module)[name]
            self.emit("attribute", name)
            if isinstance(item, types.ModuleType):
                self._module(item, names)
            else:
                self.value(item)
        self._open_modules.discard(module.__name__)

    def _imports(self, code: types.CodeType) -> None:
        """Add the source of user modules that the code imports in its body."""
        for name in sorted({i.argval for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME"}):
            self.emit("import", name, source.of_user_module(name))
        for const in code.co_consts:
            if isinstance(const, types.CodeType):
                self._imports(const)

    def _code(self, code: types.CodeType, doc: str | None = None) -> None:
        consts = list(code.co_consts)
        if doc is not None and consts and consts[0] == doc:
            consts[0] = None
        self.emit("code", code.co_code, str((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)))
        self.emit(str(code.co_flags), *code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars, "end")
        self._items("consts", consts)

    def _class(self, cls: type) -> None:
        if dependencies.is_installed(cls):
            self.emit("installed", moved.first_home(cls.__module__, cls.__qualname__), cls.__qualname__)
            return
        self.emit("class", cls.__name__)
        if not self._whole:  # in the process that pickled it, cloudpickle gives back the very class
            return
        self._items("bases", cls.__bases__)
        tree = source.find_class(cls)
        if tree is not None:
            self.emit("source", source.canonical(tree))
        generated = "__dataclass_params__" in vars(cls)
        for name in sorted(vars(cls)):
            item = vars(cls)[name]
            function = getattr(item, "__func__", item)
            if isinstance(function, types.FunctionType):
                if not (generated and function.__code__.co_filename.startswith("<string>")):
                    self.emit("method", name)
                    self._surroundings(function) if tree is not None else self.value(item)
            elif not name.startswith("_") and not isinstance(item, _SLOTS):
                self.emit("attribute", name)
                self.value(item)
            elif name == "__annotations__" and tree is None:
                self.emit("annotations", *(f"{k}={_type_name(v)}" for k, v in item.items()), "end")

    def _object(self, value: object) -> None:
        cls = type(value)
        installed = dependencies.is_installed(cls)
        # The module of a user's class has another name when it is run as a script.
        home = moved.first_home(cls.__module__, cls.__qualname__) if installed else ""
        self.emit("object", home, cls.__qualname__)
        if not installed:
            self.value(cls)
        if not self._whole:
            return
        reduced = _reduced(value)
        if isinstance(reduced, tuple):
            for index, part in enumerate(reduced):
                self.value(list(part) if index >= 3 and part is not None and not callable(part) else part)
        else:
            self.emit(reduced)


def _reduced(value: object) -> tuple[Any, ...] | str:
    reducer = copyreg.dispatch_table.get(type(value))
    if isinstance(value, types.MappingProxyType):
        return (dict, (dict(value),))
    try:
        reduced = reducer(value) if reducer is not None else value.__reduce_ex__(4)
    except Exception:
        return "opaque"  # pickles by a rule of cloudpickle's own, or not at all, which dump() refuses by name
    return reduced if isinstance(reduced, str) else tuple(reduced)


def _type_name(value: object) -> str:
    return value if isinstance(value, str) else getattr(value, "__qualname__", None) or repr(value)
