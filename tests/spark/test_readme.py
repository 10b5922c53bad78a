"""The README's example, as a reader would run it."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backfill_spark import configure, get_backfill, list_backfills, read_assessments
from tests.factories import some_traces, write_traces

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

README = Path(__file__).parents[2] / "README.md"
FOLDER = "./backfill_demo"


@pytest.fixture
def _forget_settings() -> Iterator[None]:
    """The example configures the package for all later calls."""
    yield
    configure()


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_example_is_short() -> None:
    """There is one example, of at most 30 lines."""
    assert [True] == [len(example.splitlines()) <= 30 for example in examples()]


@pytest.mark.usefixtures("_forget_settings")
def test_example_runs(spark: SparkSession, tmp_path: Path) -> None:
    """It runs on June's traces, and its second backfill calls only for what the first one did not hold."""
    sometimes_sorry = some_traces(
        100,
        request_time=lambda n: datetime(2024, 6, 1 + n % 30, 12, tzinfo=UTC),
        response=lambda n: "Sorry about that." if n % 4 == 0 else "It arrives on Friday.",
    )
    write_traces(spark, sometimes_sorry, tmp_path / "traces")
    (example,) = examples()
    assert example.count(FOLDER) == 1
    # From a file, as people run it: the scorer's source is read from there.
    script = tmp_path / "example.py"
    script.write_text(example.replace(FOLDER, str(tmp_path)), encoding="utf-8")

    left = runpy.run_path(str(script), run_name="__main__")

    second, first = list_backfills()
    assert left["job_id"] == second.job_id
    assert first.calls > 0
    assert second.calls > 0
    chosen = get_backfill(second.job_id).summary()["n"].sum()
    assert chosen == first.calls + second.calls
    assert chosen == read_assessments(scorers=["says_sorry"]).count()
