"""The checker finds what is planted, and nothing in a healthy world."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import checker
from tests.faults.world import World

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="module")
def finished(_spark_session: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A world with one job that SUCCEEDED; tests only add to its tables what they look for."""
    import backfill_spark
    from backfill_spark.settings.schema import Settings

    folder = tmp_path_factory.mktemp("checker")
    settings = Settings(
        tables={"root": str(folder / "tables")}, traces={"path": str(folder / "traces")}, timezone="UTC"
    )
    world = World(_spark_session, settings, folder, folder)
    world.order()
    world.write_traces(40)
    world.register()
    world.run()
    yield world
    backfill_spark.configure(None)


@pytest.fixture
def world(finished: Any, spark: SparkSession) -> Iterator[Any]:
    """The finished world; what a test plants is restored afterwards."""
    tables = {n: f"{finished.settings.tables.root}/{n}" for n in ("assessments", "jobs", "job_events")}
    versions = {n: newest(path) for n, path in tables.items()}
    yield finished
    for name, path in tables.items():
        if newest(path) == versions[name]:
            continue
        spark.sql(f"RESTORE TABLE delta.`{path}` TO VERSION AS OF {versions[name]}").collect()


def newest(path: Any) -> Any:
    return max(int(file.stem) for file in Path(path, "_delta_log").glob("*.json"))


def plant(world: Any, table: Any, rows: Any) -> None:
    """Append rows (a frame) to a table."""
    rows.write.format("delta").mode("append").save(f"{world.settings.tables.root}/{table}")


def rows_of(world: Any, table: Any) -> Any:
    return world.spark.read.format("delta").load(f"{world.settings.tables.root}/{table}")


def only(world: Any, **options: Any) -> Any:
    """Return the promises that are broken, as P1, P2, …"""
    return sorted({problem[:2] for problem in world.broken(**options)})


def test_a_job_that_succeeded_breaks_nothing(world: World) -> None:
    """No promise is broken, with no call to spare."""
    assert world.broken() == []


def test_a_row_that_stands_twice_is_found(world: World) -> None:
    """P1."""
    plant(world, "assessments", rows_of(world, "assessments").limit(1))
    assert only(world) == ["P1"]


def test_a_pair_with_results_of_two_jobs_is_found(world: World) -> None:
    """P1: a second row set under other ordinals."""
    other = (
        rows_of(world, "assessments")
        .limit(1)
        .selectExpr("* EXCEPT (ordinal, scored_job_id)", "1 AS ordinal", "'x' AS scored_job_id")
    )
    plant(world, "assessments", other)
    assert only(world) == ["P1"]


def test_a_missing_pair_is_found(world: World) -> None:
    """P5."""
    assert only(world, expected=world.pairs() | {("length", "tr-none")}) == ["P5"]


def test_counts_that_do_not_add_up_are_found(world: World) -> None:
    """P4, and P5 where a SUCCEEDED job leaves something."""
    path = f"{world.settings.tables.root}/jobs"
    counts = json.loads(rows_of(world, "jobs").collect()[0]["counts"])
    counts["length"]["scored"] -= 1
    world.spark.sql(f"UPDATE delta.`{path}` SET counts = '{json.dumps(counts)}'")
    assert only(world) == ["P4"]
    counts["length"]["left"] += 1
    world.spark.sql(f"UPDATE delta.`{path}` SET counts = '{json.dumps(counts)}'")
    assert only(world) == ["P5"]


def test_a_call_too_many_is_found(world: World) -> None:
    """P2 beyond the allowed number; P3 when the pair had been staged."""
    first = world.lines()[0].split("\t")
    before = "\t".join([*first[:2], str(int(first[2]) - 1), first[3]])
    after = "\t".join([*first[:2], str(time.time_ns()), first[3]])

    def broken(lines: Any, **options: Any) -> Any:
        found = checker.check(world.settings, lines, expected=world.pairs(), **options)
        return sorted({problem[:2] for problem in found})

    assert broken([*world.lines(), before]) == ["P2"]
    assert broken([*world.lines(), before], extra=1) == []
    assert broken([*world.lines(), after], extra=1) == ["P3"]
    assert broken([*world.lines(), after], extra=1, woken=1) == []


@pytest.mark.parametrize(
    ("event", "epoch", "payload"),
    [
        ("ended", 1, {"end": "CANCELED"}),
        ("ended", 7, {"end": "LOST"}),
        ("claimed", 2, {"owner": "x", "lease_s": 1}),
        ("claimed", 1, {"owner": "x", "lease_s": 1}),
        ("created", 0, {}),
    ],
)
def test_events_that_no_protocol_writes_are_found(world: World, event: str, epoch: int, payload: Any) -> None:
    """P5: ended twice, ended unclaimed, claimed after the end, claimed twice, created twice."""
    row = rows_of(world, "job_events").limit(1)
    text = json.dumps(payload)
    plant(
        world,
        "job_events",
        row.selectExpr("job_id", f"'{event}' AS event", f"{epoch}L AS epoch", "n", "at", f"'{text}' AS payload"),
    )
    assert "P5" in only(world)


def test_a_row_that_shows_another_state_than_the_events_is_found(world: World) -> None:
    """P5."""
    world.spark.sql(f"UPDATE delta.`{world.settings.tables.root}/jobs` SET state = 'RUNNING'")
    assert only(world) == ["P5"]


def test_a_commit_after_the_end_is_found(finished: Any, spark: SparkSession) -> None:
    """P5; last, since a log file cannot be taken back."""
    job_id = finished.newest().job_id
    path = f"{finished.settings.tables.root}/assessments"
    writer = rows_of(finished, "assessments").limit(0).write.format("delta").mode("append")
    writer.option("txnAppId", job_id).option("txnVersion", str(5 << 32)).save(path)
    assert only(finished) == ["P5"]
    assert checker.transactions(finished.settings, "assessments", job_id)[-1] == (5, 0)
