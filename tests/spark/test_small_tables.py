"""Both engines of small tables keep the same promises, and each reads what the other wrote."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from backfill_spark import schema
from backfill_spark.storage.delta_table import Store
from backfill_spark.storage.small_table import SmallTable, Txn
from backfill_spark.storage.spark_table import SparkTable
from backfill_spark.storage.stores import Stores

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark import Settings

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def event(job_id: str, n: int = 0) -> dict[str, Any]:
    return {"job_id": job_id, "event": "created", "epoch": 0, "n": n, "at": NOON, "payload": "{}"}


def job(state: str, epoch: int, **more: Any) -> dict[str, Any]:
    return {"job_id": "it's", "state": state, "epoch": epoch, "created_at": NOON} | more


def by_deltalake(spark: SparkSession, settings: Settings, table: schema.Table) -> SmallTable:
    return Stores(spark, settings).small(table)


def by_spark(spark: SparkSession, settings: Settings, table: schema.Table) -> SmallTable:
    return SparkTable(Store(spark, table, settings))


@pytest.mark.parametrize(("write", "read"), [(by_spark, by_spark), (by_spark, by_deltalake), (by_deltalake, by_spark)])
def test_what_one_writes_the_other_reads(spark: SparkSession, settings: Settings, write: Any, read: Any) -> None:
    """Rows, moments, which are wanted, which are newest, and transactions."""
    writer, reader = (engine(spark, settings, schema.JOB_EVENTS) for engine in (write, read))
    assert reader.read() == []
    assert writer.append([event("a"), event("b", 1)], txn=Txn("job", 5))
    assert writer.append([event("c")])
    assert reader.read({"job_id": ["b"], "event": ["created"]}) == [event("b", 1)]
    assert reader.read({"job_id": ["b"], "event": ["ended"]}) == []
    assert [row["job_id"] for row in reader.read(newest=("job_id", 2))] == ["c", "b"]
    (row,) = reader.read({"job_id": ["c"]}, seen=True)
    assert abs(row["seen"] - datetime.now(UTC).timestamp()) < 60
    assert reader.stamp() is not None
    for one in (writer, reader):
        assert not one.append([event("d")], txn=Txn("job", 5))
        assert not one.append([event("d")], txn=Txn("job", 4))
    assert reader.append([event("d")], txn=Txn("job", 6))
    assert len(writer.read()) == 4


@pytest.mark.parametrize(("first", "second"), [(by_spark, by_deltalake), (by_deltalake, by_spark)])
def test_the_row_of_a_key_is_replaced_where_it_is_older(
    spark: SparkSession, settings: Settings, first: Any, second: Any
) -> None:
    """Columns that the new row does not have stay; other rows, too."""
    one, other = (engine(spark, settings, schema.JOBS) for engine in (first, second))
    guard = ("state", "epoch")
    one.append([job("RUNNING", 1) | {"job_id": "other"}])
    one.put(job("PENDING", 0, request="{}"), key="job_id", guard=guard, is_newer=lambda _: False)
    other.put(job("RUNNING", 1), key="job_id", guard=guard, is_newer=lambda row: row["epoch"] < 1)
    one.put(job("FAILED", 1), key="job_id", guard=guard, is_newer=lambda row: row["epoch"] < 1)
    for table in (one, other):
        found = {row["job_id"]: row for row in table.read()}
        assert {name: row["state"] for name, row in found.items()} == {"other": "RUNNING", "it's": "RUNNING"}
        assert (found["it's"]["request"], found["it's"]["created_at"]) == ("{}", NOON)


@pytest.mark.parametrize(("write", "read"), [(by_spark, by_deltalake), (by_deltalake, by_spark)])
def test_many_rows_are_read_in_pieces(spark: SparkSession, settings: Settings, write: Any, read: Any) -> None:
    """Of one version, in the sizes that are asked for; maps, moments and empty arrays as they are."""
    writer, reader = (engine(spark, settings, schema.DELIVERIES) for engine in (write, read))
    row = {
        "destination": "x",
        "results_version": 1,
        "delivered": ["a b 1"],
        "missing": [],
        "rejected": None,
        "at": NOON,
    }
    writer.append([row | {"job_id": f"job-{n % 2}"} for n in range(7)])
    version = reader.version()
    writer.append([row | {"job_id": "job-0"}])

    columns = ("job_id", "delivered", "missing", "at")
    pieces = list(reader.pieces({"job_id": ["job-0"]}, columns, 3, version))

    assert [len(piece) for piece in pieces] == [3, 1]
    assert pieces[0][0] == {"job_id": "job-0", "delivered": ["a b 1"], "missing": [], "at": NOON}
    assert list(reader.pieces({"job_id": ["job-9"]}, columns, 3, version)) == []
