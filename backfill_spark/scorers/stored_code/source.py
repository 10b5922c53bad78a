"""The source of a function: its syntax tree for the digest, its text for people."""

from __future__ import annotations
import __future__

import ast
import functools
import importlib.util
import linecache
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path

from backfill_spark.scorers.stored_code import dependencies

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_CODE_FIELDS = ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_flags")
_FUTURES = reduce(or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names))
_WITHOUT_MEANING = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


@dataclass(frozen=True, slots=True)
class Source:
    """Where a function was written."""

    text: str
    """The lines of the function, dedented where that changes no string in them."""
    tree: ast.AST
    """FunctionDef, AsyncFunctionDef or Lambda."""


def find(function: types.FunctionType) -> Source | None:
    """Return the source of `function`, or None when there is none that compiles to its very bytecode.

    A file that was edited after the import is no source of the function that lives.
    """
    code = function.__code__
    text = _text_of(code.co_filename, function.__globals__)
    if not text:
        return None
    parsed = _parsed(text, code.co_flags & _FUTURES)
    if parsed is None or not any(_is_same(code, other) for other in parsed[1]):
        return None
    node = _node_of(code, parsed[0])
    return None if node is None else Source(_readable(text, node), node)


def find_class(cls: type) -> ast.ClassDef | None:
    """Return the tree of a class whose methods have a file, or None when it is not exactly one."""
    functions = [f for f in vars(cls).values() if isinstance(f, types.FunctionType)]
    for function in functions:
        code = function.__code__
        parsed = _parsed(_text_of(code.co_filename, function.__globals__), code.co_flags & _FUTURES)
        if parsed is None:
            continue
        line = code.co_firstlineno
        nodes = [
            node
            for node in ast.walk(parsed[0])
            if isinstance(node, ast.ClassDef)
            and node.name == cls.__name__
            and node.lineno <= line <= (node.end_lineno or 0)
        ]
        if len(nodes) == 1 and any(_is_same(code, other) for other in parsed[1]):
            return nodes[0]
    return None


def canonical(node: ast.AST, *, bare: bool = False) -> str:
    """Return a text of the tree that is equal on every Python: no positions, docstrings or empty fields.

    With `bare` the outermost decorators are left out.
    """
    skipped = _WITHOUT_MEANING | ({"decorator_list"} if bare else frozenset())
    parts = [type(node).__name__]
    for name in node._fields:
        value = getattr(node, name, None)
        is_constant = isinstance(node, ast.Constant) and name == "value"
        if not is_constant and (name in skipped or value is None or value == []):
            continue
        if name == "body" and isinstance(node, (*_DEFINITIONS, ast.Module)):
            value = value[1:] if ast.get_docstring(node, clean=False) is not None else value  # type: ignore[index]
        parts.append(f"{name}={_canonical_field(value)}")
    return f"({' '.join(parts)})"


def _canonical_field(value: object) -> str:
    if isinstance(value, ast.AST):
        return canonical(value)
    if isinstance(value, list):
        return "[" + ",".join(_canonical_field(item) for item in value) + "]"
    return f"{type(value).__name__}:{value!r}"


def _text_of(filename: str, namespace: dict[str, object]) -> str:
    linecache.checkcache(filename)
    return "".join(linecache.getlines(filename, namespace))


@functools.lru_cache(maxsize=8)
def _parsed(text: str, futures: int) -> tuple[ast.Module, tuple[types.CodeType, ...]] | None:
    if not text:
        return None
    try:
        tree = ast.parse(text)
        # As the function itself was: a notebook keeps `from __future__ import` for later cells, not for the same one.
        body = [node for node in tree.body if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")]
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | futures
        # A notebook compiles its statements one by one, which gives other bytecode for `module.function()`.
        units = [ast.Module(nodes, []) for nodes in (body, *([node] for node in body))]
        codes = [compile(unit, "<scorer>", "exec", flags=flags, dont_inherit=True) for unit in units]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree, tuple(inner for code in codes for inner in _codes(code))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield const
            yield from _codes(const)


def _is_same(a: types.CodeType, b: types.CodeType) -> bool:
    return (
        a.co_firstlineno == b.co_firstlineno
        and all(getattr(a, field) == getattr(b, field) for field in _CODE_FIELDS)
        and len(a.co_consts) == len(b.co_consts)
        and all(_is_same_const(x, y) for x, y in zip(a.co_consts, b.co_consts, strict=True))
    )


def _is_same_const(x: object, y: object) -> bool:
    if isinstance(x, types.CodeType) and isinstance(y, types.CodeType):
        return _is_same(x, y)
    return type(x) is type(y) and (x == y or repr(x) == repr(y)) and (isinstance(x, frozenset) or repr(x) == repr(y))


def _node_of(code: types.CodeType, tree: ast.Module) -> ast.AST | None:
    if code.co_name == "<lambda>":
        return _lambda_of(code, tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == code.co_name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if first == code.co_firstlineno:
                return node
    return None


def _lambda_of(code: types.CodeType, tree: ast.Module) -> ast.Lambda | None:
    """Find a lambda by the columns that the bytecode remembers; several may stand on one line."""
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Lambda) and n.lineno == code.co_firstlineno]
    spans = [
        ((line, column), (end_line, end_column))
        for line, end_line, column, end_column in code.co_positions()
        if line is not None and end_line is not None and column is not None and end_column
    ]
    if spans:
        nodes = [
            node
            for node in nodes
            if all(
                (node.lineno, node.col_offset) <= start and end <= (node.end_lineno or 0, node.end_col_offset or 0)
                for start, end in spans
            )
        ]
        nodes.sort(key=lambda n: ((n.end_lineno or 0) - n.lineno, (n.end_col_offset or 0) - n.col_offset))
        return nodes[0] if nodes else None
    return nodes[0] if len(nodes) == 1 else None


def _readable(text: str, node: ast.AST) -> str:
    if isinstance(node, ast.Lambda):
        return ast.get_source_segment(text, node) or ""
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    lines = "\n".join(text.split("\n")[first - 1 : node.end_lineno])
    shorter = textwrap.dedent(lines)
    try:
        same = canonical(ast.parse(shorter).body[0]) == canonical(node)
    except (SyntaxError, IndexError):
        same = False
    return shorter if same else lines


def of_user_module(name: str) -> str:
    """Return the canonical source of a user's module; "" for other modules, and where it cannot be read."""
    module = sys.modules.get(name)
    try:
        spec = getattr(module, "__spec__", None) or importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return ""
    origin = getattr(spec, "origin", None)
    if not origin or not origin.endswith(".py") or not dependencies.is_user_file_of(name, origin):
        return ""
    try:
        return canonical(ast.parse(Path(origin).read_text(encoding="utf-8")))
    except (OSError, SyntaxError, ValueError):
        return ""
