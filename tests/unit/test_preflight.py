"""What a probe job on the executors comes back with, as sentences; no JVM is needed to read them."""

from __future__ import annotations

import subprocess
import sys
from ast import literal_eval
from collections.abc import Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.cloudpickle import dumps

from backfill_spark.backfill import preflight
from backfill_spark.settings.schema import Settings
from backfill_spark.storage.stores import Stores

MISMATCH = (
    "[PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.10 than that in driver: 3.11, "
    "PySpark cannot run with different minor versions."
)


_CALL = "An error occurred while calling o143.collectToPython.\n: org.apache.spark.SparkException: Job aborted due to "
_TASK = "stage failure: Task 0 in stage 0.0 failed 4 times, most recent failure: Lost task 0.3 (TID 3) (h executor 0): "
NO_SUCH_PYTHON = (
    f'{_CALL}{_TASK}java.io.IOException: Cannot run program "/driver/python": error=2, No such file or directory\n'
    "\tat java.base/java.lang.ProcessBuilder.start(ProcessBuilder.java:1143)\n"
    "Caused by: java.io.IOException: error=2, No such file or directory\n\t... 24 more\n"
)
NO_PYSPARK = (
    f"{_CALL}{_TASK}org.apache.spark.SparkException: \nError from python worker:\n"
    "  /usr/bin/python3: No module named pyspark\nPYTHONPATH was:\n  /opt/spark/python\n"
    "org.apache.spark.SparkException: EOFException occurred while reading the port number\n\tat org.apache.spark.X\n"
)
CRASHED = (
    f"{_CALL}{_TASK}org.apache.spark.api.python.PythonException: Traceback (most recent call last):\n"
    '  File "worker.py", line 1, in main\nOSError: [Errno 28] No space left on device\n\n'
    "\tat org.apache.spark.api.python.BasePythonRunner.x(PythonRunner.scala:1)\n"
)
NUMBERS = count()
"""Answers are kept by application; each fake session is another one."""


class FakeSpark:
    """A session whose probe job fails with `error`, or gives `looked`: executor and missing modules of each task."""

    def __init__(
        self, error: str | None = None, looked: Sequence[tuple[str, str]] = (("h (0)", ""),), **conf: str
    ) -> None:
        self.error = error
        self.looked = [{"executor": executor, "missing": missing} for executor, missing in looked]
        self.conf = SimpleNamespace(get=lambda key, default=None: conf.get(key.replace(".", "_"), default))
        self.sparkContext = SimpleNamespace(applicationId=f"app-{next(NUMBERS)}", defaultParallelism=2)

    def range(self, *bounds: int) -> FakeSpark:
        return self

    def mapInArrow(self, function: Any, schema: str) -> FakeSpark:  # noqa: N802 - Spark's name
        return self

    def collect(self) -> list[Any]:
        if self.error is not None:
            raise RuntimeError(self.error)
        return self.looked


@pytest.mark.parametrize(
    ("missing", "way"),
    [
        ("backfill_spark", "Ship it with `spark-submit --py-files backfill_spark-….whl`"),
        ("orjson, aiohttp", "Run `pip install orjson aiohttp` on the executors, or ship an environment"),
    ],
)
def test_executors_that_lack_modules_are_named_with_what_they_have(missing: str, way: str) -> None:
    """One line for those that lack the same, and the command that mends it; those that have all are not in it."""
    looked = [("a (0): Python 3.11.9", ""), *((f"b ({i}): Python 3.11.2", missing) for i in range(7))]
    (problem,) = preflight.executor_problems(Stores(FakeSpark(looked=looked), Settings()))  # type: ignore[arg-type]
    assert f"Executors cannot import {missing}: on b (0): Python 3.11.2; b (1)" in problem
    assert "and 2 more" in problem
    assert "a (0)" not in problem
    assert way in problem


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MISMATCH, "The executors run Python 3.10, the driver runs 3."),
        ("ModuleNotFoundError: No module named 'backfill_spark'", "cannot import what scoring needs"),
        ('Cannot run program "python9"', "A probe job failed on the executors: Cannot run program"),
        (NO_SUCH_PYTHON, 'Cannot run program "/driver/python": error=2, No such file or directory. Set PYSPARK_PYTHON'),
        (NO_PYSPARK, "what scoring needs: /usr/bin/python3: No module named pyspark. Run `pip install"),
        (CRASHED, "failed on the executors: OSError: [Errno 28] No space left on device."),
    ],
)
def test_what_executors_lack_is_a_problem(error: str, said: str) -> None:
    """Another Python, a missing package, and anything else."""
    (problem,) = preflight.executor_problems(Stores(FakeSpark(error), Settings()))  # type: ignore[arg-type]
    assert said in problem


def test_speculation_is_a_problem_unless_it_is_allowed() -> None:
    """It repeats calls of slow tasks."""
    spark: Any = FakeSpark(spark_speculation="true")
    (problem,) = preflight.executor_problems(Stores(spark, Settings()))
    assert "spark.speculation is on" in problem
    assert preflight.executor_problems(Stores(spark, Settings(limits={"allow_speculation": True}))) == []


def test_what_was_lacking_is_looked_for_again() -> None:
    """It may have been installed meanwhile; a session that passed is not asked twice."""
    spark: Any = FakeSpark("ModuleNotFoundError: No module named 'backfill_spark'")
    assert preflight.executor_problems(Stores(spark, Settings())) != []
    spark.error = None
    assert preflight.executor_problems(Stores(spark, Settings())) == []


WITHOUT_US = """
import sys

class Nobody:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"backfill_spark", "cloudpickle"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nobody())
import pickle
import pyarrow as pa

look = pickle.load(sys.stdin.buffer)
(found,) = look(iter([pa.RecordBatch.from_pydict({"id": [1, 2]})]))
print(found.to_pylist())
"""


def test_the_probe_runs_where_this_package_is_missing() -> None:
    """It travels by value, and says what it found in each row that it was given."""
    look = dumps(preflight._look_for(("pandas", "backfill_spark.scoring.worker", "no_such_module")))  # type: ignore[no-untyped-call]
    done = subprocess.run([sys.executable, "-c", WITHOUT_US], input=look, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    rows = literal_eval(done.stdout.decode())
    assert len(rows) == 2
    assert rows[0]["missing"] == "backfill_spark, no_such_module"
    assert f"Python {sys.version.split()[0]} at {sys.executable}, pyspark " in rows[0]["executor"]
    assert "pandas " in rows[0]["executor"]
