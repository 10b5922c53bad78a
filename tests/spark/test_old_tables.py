"""Tables that an older version wrote (see scripts/old_tables.py) are opened, read, and gone on with."""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backfill_spark import (
    JobState,
    Settings,
    backfill_scorers,
    configure,
    get_backfill,
    get_scorer,
    list_backfills,
    list_scorers,
    read_assessments,
    resume_backfill,
    schema,
)
from backfill_spark.storage import deltalake_table
from backfill_spark.storage.delta_table import Store
from scripts.old_tables import TRACES
from tests.factories import a_trace, traces_frame

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ARCHIVE = Path(__file__).parents[1] / "resources" / "tables_61af8eb.tar.xz"
SCORERS = ["length", "polite", "short"]


@pytest.fixture
def old(spark: SparkSession, tmp_path: Path) -> Iterator[Settings]:
    """The settings of unpacked tables, which no process has opened."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "tables", filter="data")
    spark.sql(f"CREATE TABLE {TRACES} USING delta LOCATION '{tmp_path / 'tables' / 'traces'}'")
    settings = Settings(tables={"root": str(tmp_path / "tables")}, traces={"table": TRACES}, timezone="UTC")
    configure(settings)
    deltalake_table._ensured.clear()
    yield settings
    spark.sql(f"DROP TABLE {TRACES}")


def results(name: str) -> dict[str, tuple[str | None, str | None]]:
    """What is known of a scorer: trace id → value and rationale."""
    rows = read_assessments().where(f"scorer_name = '{name}'").collect()
    return {r["trace_id"]: (r["value"], r["rationale"]) for r in rows}


def test_what_an_older_version_wrote_is_read_and_gone_on_with(spark: SparkSession, old: Settings) -> None:
    """Its rows, its scorers, its jobs: one that ended, one whose runner died, one that waits."""
    lengths = {f"tr-{i}": (str(len("please wait" if i % 3 else f"answer {i}")), None) for i in range(8)}
    assert results("length") == lengths
    jobs = {next(iter(job.counts)): job for job in list_backfills()}
    assert {name: job.state for name, job in jobs.items()} == {
        "length": JobState.SUCCEEDED,
        "polite": JobState.RUNNING,
        "short": JobState.PENDING,
    }
    ended = jobs["length"]
    assert (ended.counts["length"].scored, ended.counts["length"].calls, ended.counts["length"].left) == (8, 8, 0)
    [row] = ended.summary().to_dict("records")
    assert (row["scorer"], row["mean"]) == ("length", sum(int(v) for v, _ in lengths.values()) / 8)
    assert [(s.name, s.scorer_version, s.sample_rate) for s in list_scorers()] == [(n, 1, 1.0) for n in SCORERS]
    assert get_scorer(name="length")(outputs="four") == 4

    # What the dead runner had staged is merged, and nobody calls the scorer again.
    assert resume_backfill(jobs["polite"].job_id).state is JobState.SUCCEEDED
    assert results("polite") == {f"tr-{i}": ("true" if i % 3 else "false", "61af8eb") for i in range(8)}
    assert resume_backfill(jobs["short"].job_id).state is JobState.SUCCEEDED
    assert {i: value for i, (value, _) in results("short").items()} == {
        "tr-0": '"yes"',
        "tr-1": '"no"',
        "tr-3": '"yes"',
    }

    # Today's backfill pays for what is new only: with the functions that the older version stored.
    columns = spark.table(TRACES).columns
    new = traces_frame(spark, [a_trace(trace_id="tr-new", response="please")]).select(*columns)
    new.write.format("delta").mode("append").saveAsTable(TRACES)
    job = get_backfill(backfill_scorers(scorers=["length", "polite"]))
    assert {n: (c.already_scored, c.scored, c.calls) for n, c in job.counts.items()} == {
        "length": (8, 1, 1),
        "polite": (8, 1, 1),
    }
    assert results("length") == lengths | {"tr-new": ("6", None)}
    assert results("polite")["tr-new"] == ("true", "a later version")


def test_two_open_the_tables_of_an_older_version_at_once(spark: SparkSession, old: Settings) -> None:
    """Each table, by two threads: both can write."""
    start = threading.Barrier(2)

    def first_use(_: int) -> list[bool]:
        start.wait(60)
        stores = [Store(spark, table, old).ensure() for table in schema.ALL_TABLES]
        return [store.append(store.frame([])) for store in stores]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(first_use, range(2))) == [[True] * len(schema.ALL_TABLES)] * 2
