from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from click.testing import CliRunner

from backfill_spark import schema
from backfill_spark.cli import main
from backfill_spark.cli.doctor import examine
from backfill_spark.cli.program import Program
from backfill_spark.settings.schema import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class Here(Program):
    """The session and settings of the test."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings


def test_a_machine_that_works_is_found_to_work(spark: SparkSession, settings: Settings) -> None:
    """Every part is ok, without tables and without traces."""
    findings = {finding.what: finding for finding in examine(Here(settings))}
    assert [] == [what for what, finding in findings.items() if not finding.ok]
    assert {"Java", "Spark", "Delta", "Python on executors", "tables"} <= findings.keys()
    assert findings["tables"].said.startswith(f"0 of {len(schema.ALL_TABLES)}")
    assert "not readable yet" in findings["traces"].said


def test_init_makes_the_tables_once(spark: SparkSession, settings: Settings) -> None:
    first = CliRunner().invoke(main, ["init", "--json"], obj=Here(settings))
    second = CliRunner().invoke(main, ["init", "--json"], obj=Here(settings))
    made = [[table["made"] for table in json.loads(result.stdout)["tables"]] for result in (first, second)]
    assert [[True] * len(schema.ALL_TABLES), [False] * len(schema.ALL_TABLES)] == made


def test_a_folder_that_cannot_be_written_is_bad(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """A file stands where the tables should go."""
    blocked = tmp_path / "blocked"
    blocked.write_text("", encoding="utf-8")
    tables = settings.tables.model_copy(update={"root": str(blocked / "data")})
    findings = {f.what: f for f in examine(Here(settings.model_copy(update={"tables": tables})))}
    assert (False, "Set tables.root to a folder of yours.") == (findings["tables"].ok, findings["tables"].advice)


def test_executors_without_a_key_are_told_by_the_name_of_its_variable(spark: SparkSession, settings: Settings) -> None:
    """Where judges ask is where a key must be."""
    judge = {"endpoints": {"house": {"base_url": "http://house:8000/v1", "api_key_env": "NO_SUCH_KEY_HERE"}}}
    found = {f.what: f for f in examine(Here(type(settings)(tables={"root": settings.tables.root}, judge=judge)))}
    assert not found["keys on executors"].ok
    assert "NO_SUCH_KEY_HERE" in found["keys on executors"].said
