"""Snippets as MLflow's and Databricks' documentation has them, run under MLflow and, imports changed, here.

A snippet may make scorers, which are applied to each trace; define `look(trace)`, which gives a value of each trace;
and leave a value in `shown`. Only the standard library is imported here: `scripts/mlflow_values.py` runs this file
where MLflow is and this package is not.
"""

from __future__ import annotations

import enum
import json
import linecache
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "resources" / "mlflow"
_IMPORT_FROM = re.compile(r"^(\s*)from mlflow[\w.]* import", re.MULTILINE)
_IMPORT = re.compile(r"^(\s*)import mlflow(?:\.[\w.]+)?$", re.MULTILINE)


def snippets() -> dict[str, str]:
    """Name → source of every snippet; `# --- name` begins one."""
    found = {}
    for path in sorted((HERE / "snippets").glob("*.py")):
        _, *parts = re.split(r"^# --- (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for name, source in zip(parts[::2], parts[1::2], strict=True):
            assert name not in found, name
            found[name] = source.strip() + "\n"
    return found


def with_our_imports(source: str) -> str:
    """The snippet as a user changes it: its import lines, and nothing else."""
    source = _IMPORT_FROM.sub(r"\1from backfill_spark import", source)
    return _IMPORT.sub(r"\1import backfill_spark as mlflow", source)


def traces() -> list[str]:
    """JSON texts of the ten traces, as MLflow wrote them."""
    return (HERE / "traces.jsonl").read_text(encoding="utf-8").splitlines()


def recorded(name: str) -> Any:
    """What `scripts/mlflow_values.py` wrote down."""
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def run(
    name: str,
    source: str,
    given: list[Any],
    *,
    scorer_class: type,
    score: Callable[[Any, Any], list[list[Any]]],
) -> dict[str, Any]:
    """Run one snippet and return what it gave: of each trace the rows of each scorer, and what `look` said."""
    space: dict[str, Any] = {"__name__": f"snippet_{name}"}
    place = f"<snippet {name}>"
    linecache.cache[place] = (len(source), None, source.splitlines(keepends=True), place)  # as a notebook's cell
    exec(compile(source, place, "exec"), space)
    found: dict[str, Any] = {}
    scorers = {key: value for key, value in space.items() if isinstance(value, scorer_class)}
    if scorers:
        found["scorers"] = {key: [score(value, trace) for trace in given] for key, value in scorers.items()}
    if "look" in space:
        found["look"] = [_looked(space["look"], trace) for trace in given]
    if "shown" in space:
        found["shown"] = plain(space["shown"])
    assert found, f"the snippet {name} gives nothing"
    return found


def _looked(look: Callable[[Any], Any], trace: Any) -> Any:
    try:
        return plain(look(trace))
    except Exception as error:  # what a trace lacks is part of the answer
        return {"raised": type(error).__name__}


def plain(value: Any) -> Any:
    """A value as JSON has it; enums by value, objects by their public attributes."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    return attributes(value)


def attributes(thing: Any) -> dict[str, Any]:
    """Public attributes of an object by `dir()`: values as JSON has them, methods as "method"."""
    found = {}
    for name in dir(thing):
        if name.startswith("_"):
            continue
        value = getattr(thing, name)
        found[name] = "method" if callable(value) and not isinstance(value, enum.Enum) else plain(value)
    return found
