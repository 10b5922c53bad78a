"""A probe job: what executors have, asked once a session and before any spend."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

    from backfill_spark.storage.stores import Stores

_passed: set[str] = set()
"""Applications whose executors have what they need; what they lack may be there at the next look."""


def executor_problems(tables: Stores) -> list[str]:
    """List the reasons why scorers cannot run here: wrong Python, missing package, speculation."""
    problems, spark = [], tables.spark
    speculation = str(spark.conf.get("spark.speculation", "false")).lower() == "true"
    if speculation and not tables.settings.limits.allow_speculation:
        problems.append(
            "spark.speculation is on: it calls scorers twice for slow tasks. Turn it off, or accept the double "
            "calls with the setting limits.allow_speculation."
        )
    key = _session_key(spark)
    if key not in _passed:
        found = _probe(spark)
        if found:
            return problems + found
        _passed.add(key)
    return problems


def _session_key(spark: SparkSession) -> str:
    try:
        return str(spark.sparkContext.applicationId)
    except Exception:
        return str(id(spark))


def _probe(spark: SparkSession) -> list[str]:
    from backfill_spark.storage.session import scheduling_slots

    slots = min(scheduling_slots(spark), 64)
    try:
        spark.range(0, slots, 1, slots).mapInArrow(_look, "python string").collect()
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
            problem = (
                f"The executors cannot import what scoring needs: {reason}. "
                "Install backfill-spark there, or ship it with --py-files."
            )
            return [problem]
        hint = ""
        if "Cannot run program" in text:
            hint = ". Set PYSPARK_PYTHON (or spark.pyspark.python) to a Python that they have"
        return [f"A probe job failed on the executors: {reason}{hint}."]
    return []


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


def _look(batches: Iterator[Any]) -> Iterator[Any]:
    import pyarrow as pa

    import backfill_spark.scoring.worker  # noqa: F401 - that it can be imported is the question

    for batch in batches:
        yield pa.RecordBatch.from_pydict({"python": [sys.version.split()[0]] * batch.num_rows})
