"""What a probe job on the executors comes back with, as sentences; no JVM is needed to read them."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from backfill_spark import probe
from backfill_spark.settings import Settings

MISMATCH = (
    "[PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.10 than that in driver: 3.11, "
    "PySpark cannot run with different minor versions."
)


NUMBERS = count()
"""Answers are kept by application; each fake session is another one."""


class FakeSpark:
    """A session whose probe job fails with `error`."""

    def __init__(self, error: str | None = None, **conf: str) -> None:
        self.error = error
        self.conf = SimpleNamespace(get=lambda key, default=None: conf.get(key.replace(".", "_"), default))
        self.sparkContext = SimpleNamespace(applicationId=f"app-{next(NUMBERS)}", defaultParallelism=2)

    def range(self, *bounds: int) -> FakeSpark:
        return self

    def mapInArrow(self, function: Any, schema: str) -> FakeSpark:  # noqa: N802 - Spark's name
        return self

    def collect(self) -> list[Any]:
        if self.error is not None:
            raise RuntimeError(self.error)
        return []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MISMATCH, "The executors run Python 3.10, the driver runs 3."),
        ("ModuleNotFoundError: No module named 'backfill_spark'", "cannot import what scoring needs"),
        ('Cannot run program "python9"', "A probe job failed on the executors: Cannot run program"),
    ],
)
def test_what_executors_lack_is_a_problem(error: str, said: str) -> None:
    """Another Python, a missing package, and anything else."""
    (problem,) = probe.executor_problems(FakeSpark(error), Settings())  # type: ignore[arg-type]
    assert said in problem


def test_speculation_is_a_problem_unless_it_is_allowed() -> None:
    """It repeats calls of slow tasks."""
    spark: Any = FakeSpark(spark_speculation="true")
    (problem,) = probe.executor_problems(spark, Settings())
    assert "spark.speculation is on" in problem
    assert probe.executor_problems(spark, Settings(limits={"allow_speculation": True})) == []
