"""Delivery to a Delta table in the shape of Databricks' annotations, and out of tables behind Spark."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backfill_spark import (
    BackfillRefusedError,
    DeliveryStoppedError,
    ResponseLength,
    Settings,
    backfill_scorers,
    configure,
    deliver_backfill,
    get_backfill,
    list_backfills,
    schema,
)
from backfill_spark.backfill.tables import Tables
from backfill_spark.delivery.deliver import Deliverer
from backfill_spark.delivery.result import Versions
from backfill_spark.judges.llm.client import run_aside
from backfill_spark.storage.delta_table import Store
from backfill_spark.storage.spark_table import SparkTable
from tests.delivered import JOB, FakeMlflow, a_result, add_results, an_error, job_with, serving
from tests.factories import some_traces, write_traces

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TRACE = f"tr-{7:032x}"
SPAN = "00f067aa0ba902b7"


def rows_at(spark: SparkSession, path: Path) -> dict[str, dict[str, Any]]:
    """The annotations by name; VARIANT as JSON text."""
    found = spark.read.format("delta").load(str(path)).selectExpr("*", "to_json(value) v", "to_json(metadata) m")
    return {row["name"]: row.asDict() for row in found.collect()}


def test_annotations(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """As MLflow reads them; a second delivery makes no commit, a changed result replaces its row."""
    place = tmp_path / "annotations"
    rows = [
        a_result(TRACE, value=True, rationale="why", span_id=SPAN, metadata={"mine": "x"}),
        a_result(TRACE, scorer_name="tone", value="kind"),
        an_error(TRACE, scorer_name="slow"),
        a_result("other", scorer_name="empty", value=None, outcome="empty"),
    ]
    job_with(settings, rows)

    done = deliver_backfill(JOB, to=f"table:{place}", settings=settings, spark=spark)
    commits = len(list((place / "_delta_log").glob("*.json")))
    again = deliver_backfill(JOB, to=f"table:{place}", settings=settings, spark=spark)

    assert (done.accepted, done.not_sent, done.read_back) == (3, 1, 3)
    assert (again.delivered_before, again.accepted) == (3, 0)
    assert len(list((place / "_delta_log").glob("*.json"))) == commits
    found = rows_at(spark, place)
    length = found["length"]
    assert length["annotation_id"] == rows[0]["assessment_id"]
    assert (length["target_type"], length["target_id"], length["annotation_type"]) == ("TRACE", TRACE[3:], "FEEDBACK")
    assert (length["v"], length["comment"], length["deleted_at"]) == ("true", "why", None)
    assert length["created_at"] == datetime(2024, 7, 1, 8, 30)
    held = json.loads(length["m"])
    assert {"mine": "x", "mlflow.source.source_type": "CODE", "mlflow.span_id": SPAN}.items() <= held.items()
    assert found["tone"]["v"] == '"kind"'
    assert found["slow"]["value"] is None
    assert json.loads(found["slow"]["m"])["mlflow.error.error_code"] == "timeout"

    job = "bf-20240616-120000-000000-abcdef02"
    job_with(settings, [], job)
    add_results(settings, [a_result(TRACE, value=False, job_id=job)])
    deliver_backfill(job, to=f"table:{place}", settings=settings, spark=spark)
    assert rows_at(spark, place)["length"]["v"] == "false"
    assert len(rows_at(spark, place)) == 3


def test_a_table_that_has_texts(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """VARIANT columns may be STRING: JSON text; a table of another shape is refused before anything is written."""
    place, other = tmp_path / "texts", tmp_path / "other"
    columns = "annotation_id STRING, target_type STRING, target_id STRING, annotation_type STRING, name STRING"
    columns += ", value STRING, comment STRING, metadata STRING, created_at TIMESTAMP, created_by STRING"
    columns += ", updated_at TIMESTAMP, updated_by STRING, deleted_at TIMESTAMP, deleted_by STRING, _change_type STRING"
    spark.createDataFrame([], columns).write.format("delta").save(str(place))
    spark.createDataFrame([], "annotation_id STRING").write.format("delta").save(str(other))
    job_with(settings, [a_result(TRACE, value=[1, 2])])

    done = deliver_backfill(JOB, to=f"table:{place}", settings=settings, spark=spark)

    assert (done.accepted, done.read_back) == (1, 1)
    (row,) = spark.read.format("delta").load(str(place)).collect()
    assert row["value"] == "[1,2]"
    with pytest.raises(BackfillRefusedError, match="has not the shape"):
        deliver_backfill(JOB, to=f"table:{other}", settings=settings, spark=spark)


def test_a_job_that_delivers(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """`deliver_to`: the place is asked before the job is made, and gets the results when it has ended."""
    write_traces(spark, some_traces(3), settings.traces_path)
    configure(settings)
    ResponseLength(max_length=100).register(name="length").start()
    with (
        serving(lambda _: (401, {})) as closed,
        pytest.raises(BackfillRefusedError, match="does not accept the key"),
    ):
        backfill_scorers(scorers=["length"], deliver_to=f"mlflow+{closed.url}")
    with pytest.raises(BackfillRefusedError, match="launch='here'"):
        backfill_scorers(scorers=["length"], deliver_to="table:x", launch="queue")
    assert list_backfills() == []

    place = tmp_path / "annotations"
    job_id = backfill_scorers(scorers=["length"], deliver_to=f"table:{place}")
    rows = spark.read.format("delta").load(str(place)).select("target_id", "name").collect()
    assert sorted(map(tuple, rows)) == [(f"tr-{n}", "length") for n in range(3)]
    # Of a server that rejects a trace the rest is there, and the job has ended as before.
    with (
        serving(FakeMlflow("tr-0", "tr-2")) as server,
        pytest.raises(DeliveryStoppedError, match="rejected 1") as stopped,
    ):
        backfill_scorers(scorers=["length"], reprocess="all", deliver_to=f"mlflow+{server.url}")
    assert job_id != stopped.value.job_id
    assert get_backfill(stopped.value.job_id).state == "SUCCEEDED"


def test_tables_behind_spark(spark: SparkSession, settings: Settings) -> None:
    """Results and receipts that deltalake does not reach: read in pieces, remembered, nothing sent twice."""
    rows = [a_result(f"tr-{n}", metadata={"n": str(n)}) for n in range(5)]
    job_with(settings, rows)
    mlflow = FakeMlflow(*(row["trace_id"] for row in rows))
    with serving(mlflow) as server:
        told = []
        for _ in range(2):
            tables = Tables(spark, settings)
            for table in (schema.ASSESSMENTS, schema.DELIVERIES):
                tables._small[table.name] = SparkTable(Store(spark, table, settings))
            told.append(run_aside(Deliverer(tables, JOB, f"mlflow+{server.url}", Versions.KEEP).run()))
    assert [(one.accepted, one.delivered_before, one.read_back) for one in told] == [(5, 0, 5), (0, 5, 0)]
    there = mlflow.there[rows[3]["assessment_id"]]
    assert (there["create_time"], there["metadata"]["n"]) == (
        datetime(2024, 7, 1, 8, 30, tzinfo=UTC).isoformat()[:19] + "Z",
        "3",
    )
