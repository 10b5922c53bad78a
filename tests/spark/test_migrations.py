"""A table of an older version is brought to today's when it is opened; a newer one is refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from delta.exceptions.base import MetadataChangedException
from pyspark.sql import types as T

from backfill_spark import schema
from backfill_spark.errors import SchemaVersionError
from backfill_spark.storage import delta_table, migrations
from backfill_spark.storage.delta_table import Store, Txn

OLD = schema.STAGING


def grown(table, *names):
    """Return the next version of a table, with further columns."""
    fields = [T.StructField(name, T.StringType(), True, {"comment": f"the {name}"}) for name in names]
    return replace(table, schema=T.StructType([*table.schema.fields, *fields]), added=(*table.added, names))


NEW = grown(grown(OLD, "first", "second"), "third")


def opened(spark, table, settings):
    """Open a table as a process that has not seen it does."""
    delta_table._opened.clear()
    return Store(spark, table, settings).ensure()


@pytest.fixture
def old(spark, settings):
    """A table of the oldest version, with a row."""
    store = opened(spark, OLD, settings)
    store.append(store.frame([{"job_id": "bf-old", "trace_id": "tr-1"}]))
    return store


def version_of(store):
    return migrations._version(store.spark, store.location)


def test_an_older_table_gets_what_it_lacks(spark, settings, old):
    """The columns of all versions in between; its rows stay, and new ones fill them."""
    store = opened(spark, NEW, settings)
    assert (OLD.version, NEW.version, version_of(store)) == (1, 3, 3)
    assert store.read().schema["third"].metadata["comment"] == "the third"
    store.append(store.frame([{"job_id": "bf-new", "trace_id": "tr-1", "third": "x"}]))
    rows = {r["job_id"]: (r["first"], r["second"], r["third"]) for r in store.read().collect()}
    assert rows == {"bf-old": (None, None, None), "bf-new": (None, None, "x")}


def test_a_table_is_brought_up_once(spark, settings, old):
    """A further opening writes nothing."""
    version = opened(spark, NEW, settings).version()
    assert opened(spark, NEW, settings).version() == version


def test_a_version_from_before_is_read_with_the_columns_of_today(spark, settings, old):
    """Jobs read pinned versions."""
    pinned = old.version()
    store = opened(spark, NEW, settings)
    assert [r["third"] for r in store.read(pinned).collect()] == [None]


def test_an_old_table_is_read_before_it_is_opened(spark, settings, old):
    """Reading changes nothing."""
    store = Store(spark, NEW, settings)
    assert [r["third"] for r in store.read().collect()] == [None]
    assert version_of(store) == 1


def test_a_write_opens_the_table(spark, settings, old):
    """Also where nobody has called `ensure`."""
    delta_table._opened.clear()
    store = Store(spark, NEW, settings)
    assert store.append(store.frame([{"job_id": "bf-new", "third": "x"}]))
    assert version_of(store) == 3


def test_a_migration_that_was_killed_in_between_is_finished(spark, settings, old):
    """The columns were there, the version was not."""
    opened(spark, NEW, settings)
    spark.sql(f"ALTER TABLE {old.location.quoted} SET TBLPROPERTIES ('{migrations.VERSION_PROPERTY}' = '1')")
    assert version_of(opened(spark, NEW, settings)) == 3


def test_two_open_an_older_table_at_once(spark, settings, old):
    """Both end well, with each column there once."""
    delta_table._opened.clear()
    start = threading.Barrier(2)

    def first_use(number):
        start.wait(60)
        store = Store(spark, NEW, settings).ensure()
        return store.append(store.frame([{"job_id": f"bf-{number}", "third": "x"}]))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(first_use, range(2))) == [True, True]
    assert version_of(old) == 3
    assert spark.table(old.location.quoted).columns == [*OLD.schema.fieldNames(), "first", "second", "third"]
    assert old.read().count() == 3


def test_another_one_opens_it_while_this_one_is_about_to(spark, settings, old, monkeypatch):
    """What this one saw of the table is not true any more."""
    check = migrations.check_columns

    def overtaken(*args, **options):
        seen = check(*args, **options)
        monkeypatch.setattr(migrations, "check_columns", check)
        opened(spark, NEW, settings)
        return seen

    monkeypatch.setattr(migrations, "check_columns", overtaken)
    migrations.migrate(spark, NEW, old.location)
    assert version_of(old) == 3
    assert spark.table(old.location.quoted).columns == [*OLD.schema.fieldNames(), "first", "second", "third"]


def test_a_write_that_a_migration_came_before_lands(spark, settings, old):
    """It is not taken for one that a newer runner has shut out."""

    class Overtaken(Store):
        overtakes = 1

        def _save(self, writer):
            if self.overtakes:
                self.overtakes -= 1
                raise MetadataChangedException("[DELTA_METADATA_CHANGED] said")
            super()._save(writer)

    store = Overtaken(spark, OLD, settings)
    assert store.append(store.frame([{"job_id": "bf-1"}]), txn=Txn("bf-1", 1))
    assert store.read().where("job_id = 'bf-1'").count() == 1


def test_a_newer_table_is_refused(spark, settings, old):
    """With both versions, and what to install."""
    opened(spark, NEW, settings)
    with pytest.raises(SchemaVersionError, match=r"has schema version 3; this backfill_spark knows 1\. Install"):
        opened(spark, OLD, settings)


def test_an_older_table_that_somebody_changed_is_refused(spark, settings, old):
    """Nothing is added to a table that lacks other columns, too."""
    lacking = grown(replace(OLD, schema=T.StructType([*OLD.schema.fields, T.StructField("own", T.StringType())])), "x")
    with pytest.raises(SchemaVersionError, match=r"lacks the columns \['own'\]"):
        opened(spark, lacking, settings)
    assert "x" not in spark.table(old.location.quoted).columns
