"""Importing the package is quick and brings none of the heavy packages along."""

from __future__ import annotations

import subprocess
import sys

PROBE = """
import sys, time
began = time.perf_counter()
import backfill_spark
took = time.perf_counter() - began
heavy = {"pyspark", "pandas", "numpy", "pyarrow", "mlflow", "delta", "py4j", "aiohttp"} & set(sys.modules)
print(took, ",".join(sorted(heavy)))
"""
USE = """
import sys
from backfill_spark import BackfillScorerConfig, Feedback, RegexMatch, ScorerSamplingConfig, Trace, scorer

@scorer
def length(outputs):
    return len(outputs)

assert length("abc") == 3
print(",".join(sorted({"pyspark", "pandas", "pyarrow", "mlflow", "delta"} & set(sys.modules))))
"""


def said_by(code: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_import_takes_no_more_than_04_seconds_and_loads_nothing_heavy() -> None:
    """Best of three in fresh processes."""
    runs = [said_by(PROBE) for _ in range(3)]
    assert all(len(run) == 1 for run in runs), f"heavy modules were imported: {runs}"
    assert min(float(run[0]) for run in runs) <= 0.4


def test_writing_scorers_needs_no_spark() -> None:
    """Decorating and calling a scorer imports neither Spark nor pandas."""
    assert said_by(USE) == []


def test_every_public_name_can_be_imported() -> None:
    """`__all__` is what there is."""
    import backfill_spark

    assert sorted(backfill_spark.__all__) == backfill_spark.__all__
    assert all(getattr(backfill_spark, name) is not None for name in backfill_spark.__all__)
