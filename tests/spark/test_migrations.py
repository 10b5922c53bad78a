"""A table of an older version is brought to today's when it is opened; a newer one is refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from delta.exceptions.base import MetadataChangedException
from pyspark.sql import types as T

from backfill_spark import (
    ScorerSamplingConfig,
    backfill_scorers,
    configure,
    get_backfill,
    list_backfills,
    read_assessments,
    schema,
    scorer,
)
from backfill_spark.errors import SchemaVersionError
from backfill_spark.storage import deltalake_table, migrations
from backfill_spark.storage.delta_table import Store
from backfill_spark.storage.small_table import Txn
from tests.factories import some_traces, write_traces

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings

OLD = schema.WORK


@scorer
def length(outputs: Any) -> int:
    return len(outputs)


def grown(table: schema.Table, *names: str) -> schema.Table:
    """Return the next version of a table, with further columns."""
    fields = [T.StructField(name, T.StringType(), True, {"comment": f"the {name}"}) for name in names]
    return replace(table, schema=T.StructType([*table.schema.fields, *fields]), added=(*table.added, names))


NEW = grown(grown(OLD, "first", "second"), "third")


def opened(spark: SparkSession, table: schema.Table, settings: Settings) -> Store:
    """Open a table as a process that has not seen it does."""
    deltalake_table._ensured.clear()
    return Store(spark, table, settings).ensure()


@pytest.fixture
def old(spark: SparkSession, settings: Settings) -> Store:
    """A table of the oldest version, with a row."""
    store = opened(spark, OLD, settings)
    store.append(store.frame([{"job_id": "bf-old", "trace_id": "tr-1"}]))
    return store


def version_of(store: Store) -> int:
    return migrations._version(store.spark, store.location)


def test_an_older_table_gets_what_it_lacks(spark: SparkSession, settings: Settings, old: Store) -> None:
    """The columns of all versions in between; its rows stay, and new ones fill them."""
    store = opened(spark, NEW, settings)
    assert (OLD.version, NEW.version, version_of(store)) == (1, 3, 3)
    assert store.read().schema["third"].metadata["comment"] == "the third"
    store.append(store.frame([{"job_id": "bf-new", "trace_id": "tr-1", "third": "x"}]))
    rows = {r["job_id"]: (r["first"], r["second"], r["third"]) for r in store.read().collect()}
    assert rows == {"bf-old": (None, None, None), "bf-new": (None, None, "x")}


def test_a_table_is_brought_up_once(spark: SparkSession, settings: Settings, old: Store) -> None:
    """A further opening writes nothing."""
    version = opened(spark, NEW, settings).version()
    assert opened(spark, NEW, settings).version() == version


def test_a_version_from_before_is_read_with_the_columns_of_today(
    spark: SparkSession, settings: Settings, old: Store
) -> None:
    """Jobs read pinned versions."""
    pinned = old.version()
    store = opened(spark, NEW, settings)
    assert [r["third"] for r in store.read(pinned).collect()] == [None]


def test_an_old_table_is_read_before_it_is_opened(spark: SparkSession, settings: Settings, old: Store) -> None:
    """Reading changes nothing."""
    store = Store(spark, NEW, settings)
    assert [r["third"] for r in store.read().collect()] == [None]
    assert version_of(store) == 1


def test_a_write_opens_the_table(spark: SparkSession, settings: Settings, old: Store) -> None:
    """Also where nobody has called `ensure`."""
    deltalake_table._ensured.clear()
    store = Store(spark, NEW, settings)
    assert store.append(store.frame([{"job_id": "bf-new", "third": "x"}]))
    assert version_of(store) == 3


def test_a_migration_that_was_killed_in_between_is_finished(
    spark: SparkSession, settings: Settings, old: Store
) -> None:
    """The columns were there, the version was not."""
    opened(spark, NEW, settings)
    spark.sql(f"ALTER TABLE {old.location.quoted} SET TBLPROPERTIES ('{migrations.VERSION_PROPERTY}' = '1')")
    assert version_of(opened(spark, NEW, settings)) == 3


def test_two_open_an_older_table_at_once(spark: SparkSession, settings: Settings, old: Store) -> None:
    """Both end well, with each column there once."""
    deltalake_table._ensured.clear()
    start = threading.Barrier(2)

    def first_use(number: int) -> bool:
        start.wait(60)
        store = Store(spark, NEW, settings).ensure()
        return store.append(store.frame([{"job_id": f"bf-{number}", "third": "x"}]))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(first_use, range(2))) == [True, True]
    assert version_of(old) == 3
    assert spark.table(old.location.quoted).columns == [*OLD.schema.fieldNames(), "first", "second", "third"]
    assert old.read().count() == 3


def test_another_one_opens_it_while_this_one_is_about_to(
    spark: SparkSession, settings: Settings, old: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this one saw of the table is not true any more."""
    check = migrations.check_fields

    def overtaken(*args: Any, **options: Any) -> None:
        check(*args, **options)
        monkeypatch.setattr(migrations, "check_fields", check)
        opened(spark, NEW, settings)

    monkeypatch.setattr(migrations, "check_fields", overtaken)
    migrations.migrate(spark, NEW, old.location)
    assert version_of(old) == 3
    assert spark.table(old.location.quoted).columns == [*OLD.schema.fieldNames(), "first", "second", "third"]


def test_a_write_that_a_migration_came_before_lands(spark: SparkSession, settings: Settings, old: Store) -> None:
    """It is not taken for one that a newer runner has shut out."""

    class Overtaken(Store):
        overtakes = 1

        def _save(self, writer: Any) -> None:
            if self.overtakes:
                self.overtakes -= 1
                raise MetadataChangedException("[DELTA_METADATA_CHANGED] said")
            super()._save(writer)

    store = Overtaken(spark, OLD, settings)
    assert store.append(store.frame([{"job_id": "bf-1"}]), txn=Txn("bf-1", 1))
    assert store.read().where("job_id = 'bf-1'").count() == 1


def test_a_newer_table_is_refused(spark: SparkSession, settings: Settings, old: Store) -> None:
    """With both versions, and what to install."""
    opened(spark, NEW, settings)
    with pytest.raises(SchemaVersionError, match=r"has schema version 3; this backfill_spark knows 1\. Install"):
        opened(spark, OLD, settings)


def test_an_older_table_that_somebody_changed_is_refused(spark: SparkSession, settings: Settings, old: Store) -> None:
    """Nothing is added to a table that lacks other columns, too."""
    lacking = grown(replace(OLD, schema=T.StructType([*OLD.schema.fields, T.StructField("own", T.StringType())])), "x")
    with pytest.raises(SchemaVersionError, match=r"lacks the columns \['own'\]"):
        opened(spark, lacking, settings)
    assert "x" not in spark.table(old.location.quoted).columns


def test_a_process_of_the_older_version_goes_on(spark: SparkSession, settings: Settings) -> None:
    """While another one brings the tables to a newer version: it scores, replaces and shows as before."""
    write_traces(spark, some_traces(3), settings.traces_path)
    configure(settings)
    length.register().start(sampling_config=ScorerSamplingConfig(sample_rate=1.0))
    names = ["length"]
    backfill_scorers(scorers=names)
    seen = dict(deltalake_table._ensured)
    for table in schema.ALL_TABLES:
        opened(spark, grown(table, "note"), settings)
    deltalake_table._ensured.clear()
    deltalake_table._ensured.update(seen)
    job = get_backfill(backfill_scorers(scorers=names, reprocess="all"))
    assert (job.state, job.counts[names[0]].scored) == ("SUCCEEDED", 3)
    assert {r["job_id"] for r in read_assessments().collect()} == {job.job_id}
    assert [j.state for j in list_backfills()] == ["SUCCEEDED", "SUCCEEDED"]
