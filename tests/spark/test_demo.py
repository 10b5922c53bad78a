"""The demo, from its traces to its last line."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from rich.console import Console

from backfill_spark import schema
from backfill_spark.cli.demo.show import run_demo
from backfill_spark.cli.demo.traces import demo_table, write_table
from backfill_spark.errors import SettingsError


def test_history_has_the_canonical_shape(spark: SparkSession, tmp_path: Path) -> None:
    """The table that the demo writes is TRACES, row for row."""
    write_table(tmp_path / "traces", demo_table(traces=200, days=60, seed=1))

    written = spark.read.format("delta").load(str(tmp_path / "traces"))

    assert schema.TRACES.simpleString() == written.schema.simpleString()
    assert 200 == written.where("trace_date = to_date(request_time)").count()


def test_demo_pays_once_and_tops_up(spark: SparkSession, tmp_path: Path) -> None:
    """The story ends with a repetition that costs nothing and a raised rate that costs the difference."""
    told = io.StringIO()

    run_demo(Console(file=told, width=140), folder=tmp_path / "demo", traces=400, days=30)

    calls = [int(found.replace(",", "")) for found in re.findall(r"SUCCEEDED, ([\d,]+) scorer calls", told.getvalue())]
    first, again, more = calls
    assert first > more > 0
    assert again == 0
    assert "(all)" in told.getvalue()
    assert "BACKFILL_SPARK_TABLES__ROOT" in told.getvalue()


def test_demo_leaves_other_folders_alone(tmp_path: Path) -> None:
    """A folder that the demo did not make is never removed."""
    (tmp_path / "mine.txt").write_text("keep")

    with pytest.raises(SettingsError, match="left alone"):
        run_demo(Console(file=io.StringIO()), folder=tmp_path)

    assert "keep" == (tmp_path / "mine.txt").read_text()
