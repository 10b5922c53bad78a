"""A probe job: what executors have, asked once a session and before any spend."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from backfill_spark.storage.capabilities import capabilities

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.storage.stores import Stores

logger = logging.getLogger(__name__)

_FOR_CODE = ("pandas", "pyarrow", "backfill_spark.scoring.worker")
_FOR_JUDGES = ("backfill_spark.judges.llm.pool", "backfill_spark.judges.spark")
_SHOWN = 5
"""Executors that a problem names."""
_passed: set[tuple[str, bool]] = set()
"""Applications whose executors have what they need; what they lack may be there at the next look."""


def executor_problems(tables: Stores, *, judges: bool = False) -> list[str]:
    """List the reasons why scorers cannot run here: wrong Python, missing modules, speculation.

    Args:
        tables: the session, and the setting that allows speculation.
        judges: look for what asking models needs, too.
    """
    problems, spark = [], tables.spark
    speculation = str(spark.conf.get("spark.speculation", "false")).lower() == "true"
    if speculation and not tables.settings.limits.allow_speculation:
        problems.append(
            "spark.speculation is on: it calls scorers twice for slow tasks. Turn it off, or accept the double "
            "calls with the setting limits.allow_speculation."
        )
    key = capabilities(spark).application, judges
    if key not in _passed:
        found = _probe(spark, _FOR_CODE + (_FOR_JUDGES if judges else ()))
        if found:
            return problems + found
        _passed.add(key)
    return problems


def _probe(spark: SparkSession, modules: Sequence[str]) -> list[str]:
    from backfill_spark.storage.wheels import ship_wheels

    slots = min(capabilities(spark).slots, 64)
    try:
        ship_wheels(spark)
        looked = spark.range(0, slots, 1, slots).mapInArrow(_look_for(modules), "executor string, missing string")
        found = {(row["executor"], row["missing"]) for row in looked.collect()}
    except Exception as error:
        text = str(error)
        if "PYTHON_VERSION_MISMATCH" in text:
            versions = re.findall(r"\d+\.\d+", text.split("PYTHON_VERSION_MISMATCH", 1)[1])[:2]
            theirs = versions[0] if versions else "of another version"
            problem = (
                f"The executors run Python {theirs}, the driver runs {sys.version_info[0]}.{sys.version_info[1]}. "
                "Set PYSPARK_PYTHON (or spark.pyspark.python) to the same minor version on both."
            )
            return [problem]
        reason = _executors_words(text)
        if "ModuleNotFoundError" in text or "ImportError" in text or "No module named" in text:
            missing = re.findall(r"No module named '?(\w+)", text) or ["pyspark"]
            return [f"The executors cannot import what scoring needs: {reason}. {_ways_to_have(missing[-1:])}"]
        hint = ""
        if "Cannot run program" in text:
            hint = ". Set PYSPARK_PYTHON (or spark.pyspark.python) to a Python that they have"
        return [f"A probe job failed on the executors: {reason}{hint}."]
    for executor, missing in sorted(found):
        logger.info("executor on %s%s", executor, f"; cannot import {missing}" if missing else "")
    return _lacking(found)


def _lacking(found: Iterable[tuple[str, str]]) -> list[str]:
    """Return a problem for each set of modules that executors cannot import, with those executors."""
    executors: dict[str, list[str]] = {}
    for executor, missing in sorted(found):
        if missing:
            executors.setdefault(missing, []).append(executor)
    problems = []
    for missing, those in executors.items():
        more = f", and {len(those) - _SHOWN} more" if len(those) > _SHOWN else ""
        who = f"on {'; '.join(those[:_SHOWN])}{more}"
        problems.append(f"Executors cannot import {missing}: {who}. {_ways_to_have(missing.split(', '))}")
    return problems


def _ways_to_have(modules: Sequence[str]) -> str:
    """Return how executors come to modules that they lack."""
    ways = []
    if "backfill_spark" in modules:
        ways.append("Ship it with `spark-submit --py-files backfill_spark-….whl` (`make wheel` builds it)")
    if others := [name for name in modules if name != "backfill_spark"]:
        install = f"Run `pip install {' '.join(others)}` on the executors"
        ways.append(f"{install}, or ship an environment that has it (docs/running.md)")
    return f"{'; '.join(ways)}."


def _look_for(modules: Sequence[str]) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return what a task does: it says where it runs, on what, and which of the modules it cannot import."""

    # Nested, so that it travels by value: this package may be what is missing.
    def look(batches: Iterator[Any]) -> Iterator[Any]:
        import importlib
        import socket
        import sys
        from pathlib import Path

        import pyarrow as pa

        missing = []
        for module in modules:
            try:
                importlib.import_module(module)  # noqa: TID251 - the modules that stand above
            except ModuleNotFoundError as error:
                missing.append((error.name or module).split(".", maxsplit=1)[0])
        have = [
            (name, getattr(sys.modules.get(name), "__version__", None)) for name in ("pyspark", "pandas", "pyarrow")
        ]
        versions = ", ".join(f"{name} {version}" for name, version in have if version)
        # The last folder is the executor's number on a standalone cluster, the container on others.
        place = f"{socket.gethostname()} ({Path.cwd().name})"
        executor = f"{place}: Python {sys.version.split()[0]} at {sys.executable}, {versions}"
        lacks = ", ".join(dict.fromkeys(missing))
        for batch in batches:
            count = batch.num_rows
            yield pa.RecordBatch.from_pydict({"executor": [executor] * count, "missing": [lacks] * count})

    return look


def _executors_words(text: str) -> str:
    """Return the last line that an executor wrote in Spark's error: of its Python's stderr, of a traceback, of Java."""
    if "Error from python worker:" in text:
        text = text.split("Error from python worker:", 1)[1].split("PYTHONPATH was:", 1)[0]
    elif "Traceback (most recent call last)" in text:
        text = re.split(r"\n\s*\n|\n\tat ", text.split("Traceback (most recent call last)")[-1])[0]
    elif causes := re.findall(
        r"^(?:.*\): |Caused by: )(?:[\w$]+\.)+[\w$]+(?:Exception|Error): (.+)$", text, re.MULTILINE
    ):
        text = causes[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removesuffix(".")[:300] if lines else "no reason was told"
