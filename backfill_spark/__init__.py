"""backfill_spark: applies GenAI scorers to traces recorded in the past, on Spark and Delta.

Importing it configures nothing and starts nothing; names are loaded when they are first used. `__init__.pyi` lists
them: type checkers read it, and so does this module.
"""

from __future__ import annotations

import ast
import importlib
import sys
from typing import Any

from backfill_spark.display.absent import why_absent

# By the loader, from the path as it stands: shipped to a cluster, the package is a zip file such as `./a.zip`.
_LIST = ast.parse(__loader__.get_data(f"{__file__}i"))
_HOME_OF = {
    public.name: line.module
    for line in _LIST.body
    if isinstance(line, ast.ImportFrom) and line.module
    for public in line.names
}
__all__ = sorted(_HOME_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        told = why_absent(name)
        if told is None:
            raise AttributeError(message)
        # Python drops the words of an AttributeError where a name is imported; `_handle_fromlist` is where it asks.
        is_import = sys._getframe(1).f_code.co_name == "_handle_fromlist"  # noqa: SLF001
        raise (ImportError if is_import else AttributeError)(f"{message}. {told}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
