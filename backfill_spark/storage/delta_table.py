"""Store: one Delta table of ours behind Spark. Every write by Spark in the package goes through here."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from backfill_spark.schema import Table
from backfill_spark.storage.capabilities import capabilities, is_connect
from backfill_spark.storage.commit_log import CommitLog, is_delta
from backfill_spark.storage.deltalake_table import DeltalakeTable
from backfill_spark.storage.migrations import check_fields, create, fields_of, migrate
from backfill_spark.storage.reach import reached
from backfill_spark.storage.retry import is_altered, is_conflict, until_alone
from backfill_spark.storage.session import few_tasks
from backfill_spark.storage.small_table import Txn, Where, location_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    from pyspark.sql import Row

    from backfill_spark.settings.locations import Location
    from backfill_spark.settings.schema import Settings
    from backfill_spark.storage.delta_files import Files

_APP_ID = "spark.databricks.delta.write.txnAppId"
_APP_VERSION = "spark.databricks.delta.write.txnVersion"
_opened: set[tuple[str, str, int]] = set()
"""Tables that need not be looked at again: application, location and version."""


class Store(CommitLog):
    """One Delta table of ours, by path or by name."""

    def __init__(self, spark: SparkSession, table: Table, settings: Settings) -> None:
        super().__init__(spark, location_of(table, settings))
        self.table = table
        folder = reached(self.location, settings, lambda: spark)
        self.light = None if folder is None else DeltalakeTable(table, self.location, folder)
        """The same table without Spark, where deltalake reaches it: for all that needs no query."""

    def exists(self) -> bool:
        """True when the table is there."""
        if self.location.name is not None:
            return bool(self.spark.catalog.tableExists(self.location.name))
        if self.light is not None:
            return self.light.exists()
        return is_delta(self.spark, str(self.location.path))

    def ensure(self) -> Store:
        """Create the table when it is not there; bring an older one to today's version.

        Raises:
            SchemaVersionError: a newer backfill_spark wrote it, or it lacks columns.
        """
        if self.light is not None:
            self.light.ensure()
        elif self._key not in _opened or not self.exists():
            # Two first users at once: one of them wins, both go on.
            is_new = until_alone(self._create, attempts=5, again=lambda _: True)
            if not is_new:
                migrate(self.spark, self.table, self.location)
            _opened.add(self._key)
        return self

    def _ensure_once(self) -> None:
        """`ensure` for a write, which does not look again whether the table is there."""
        if self.light is not None or self._key not in _opened:
            self.ensure()

    @property
    def _key(self) -> tuple[str, str, int]:
        return capabilities(self.spark).application, self.location.shown, self.table.version

    def _create(self) -> bool:
        if self.exists():
            return False
        create(self.spark, self.table, self.location)
        return True

    def check_columns(self) -> None:
        """Refuse a table whose columns somebody changed.

        Raises:
            SchemaVersionError: it lacks columns, or has them with other types.
        """
        if self.light is not None:
            self.light.check_columns()
        else:
            check_fields(self.table, self.location, fields_of(self.spark, self.location))

    def read(self, version: int | None = None, *, spark: SparkSession | None = None) -> DataFrame:
        """Return the table, newest or at `version`; columns that it did not have yet are NULL."""
        reader = (spark or self.spark).read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        rows = reader.table(self.location.name) if self.location.name else reader.load(str(self.location.path))
        # Spark Connect refuses an empty dict of columns.
        if later := {name for columns in self.table.added for name in columns}.difference(rows.columns):
            rows = rows.withColumns({n: F.lit(None).cast(self.table.schema[n].dataType) for n in later})
        return rows

    def files_with(self, where: Where, version: int, parts: tuple[date, date] | None = None) -> Files | None:
        """Return the files of a version that can have rows with these values; None where only Spark reads its log."""
        return None if self.light is None else self.light.files_with(where, version, parts)

    def frame(self, rows: Sequence[dict[str, Any]]) -> DataFrame:
        """Return rows of plain values as a frame of the table's shape; absent columns are NULL."""
        names = self.table.schema.fieldNames()
        return self.spark.createDataFrame([tuple(r.get(n) for n in names) for r in rows], self.table.schema)

    def append(self, rows: DataFrame, *, txn: Txn | None = None) -> bool:
        """Append `rows` in one commit; again when others changed the table meanwhile.

        Returns:
            True when this write landed; False when another write has taken `txn`'s version or a higher one.
        """
        return until_alone(lambda: self.append_once(rows, txn))

    def append_once(self, rows: DataFrame, txn: Txn | None) -> bool:
        """Append `rows` in one commit; look in the log whether it is there, where that is not sure.

        Delta skips a used version in silence, and a lost reply looks like a failure.

        Returns:
            True when this write landed; False when another one has taken `txn`'s version or a higher one.
        """
        nonce = secrets.token_hex(8)
        note = {"nonce": nonce} if txn is None else {"app": txn.app_id, "version": txn.version, "nonce": nonce}
        writer = rows.write.format("delta").mode("append").option("userMetadata", json.dumps(note))
        if txn is not None:
            writer = writer.option("txnAppId", txn.app_id).option("txnVersion", str(txn.version))
        self._ensure_once()
        try:
            self._save(writer)
        except Exception as error:
            landed = self._landed(nonce)
            if landed or (txn is not None and is_conflict(error) and not is_altered(error)):
                return landed
            raise
        return txn is None or self._landed(nonce)

    def fence(self, txn: Txn) -> bool:
        """Make an empty commit that shuts out older writes of the same application; False when a newer one has won."""
        return self.append(self.frame([]), txn=txn) if self.light is None else self.light.append([], txn=txn)

    def delete(self, where: Where) -> None:
        """Delete rows; conflicts with other writers are tried again."""
        until_alone(lambda: self.spark.sql(f"DELETE FROM {self.location.quoted} WHERE {_condition(where)}"))  # noqa: S608 - see _text

    def update(self, where: Where, column: str, text: str) -> None:
        """Write a text into a column of some rows; conflicts with other writers are tried again."""
        statement = f"UPDATE {self.location.quoted} SET {column} = {_text(text)} WHERE {_condition(where)}"  # noqa: S608 - see _text
        until_alone(lambda: self.spark.sql(statement))

    def compact(self) -> None:
        """Make few files of many; conflicts with other writers are tried again."""
        until_alone(lambda: self.spark.sql(f"OPTIMIZE {self.location.quoted}"))

    def vacuum(self) -> None:
        """Remove the files that no version within the table's retention needs."""
        self.spark.sql(f"VACUUM {self.location.quoted}")

    def _save(self, writer: Any) -> None:
        if self.location.name is not None:
            writer.saveAsTable(self.location.name)
        else:
            writer.save(str(self.location.path))

    def merge(
        self,
        source: Callable[[SparkSession], DataFrame],
        condition: str,
        clauses: str,
        *,
        txn: Txn | None = None,
    ) -> Row | None:
        """MERGE `source` (alias s) into the table (alias t) once.

        `condition` and `clauses` (`WHEN …`) are made from column names and literals of ours only.

        Returns:
            Delta's row of counts, or None when `txn`'s version was used already and nothing was done.
        """
        self._ensure_once()
        with _session_of_txn(self.spark, txn) as spark:
            rows = merge_into(self.location, source(spark), condition, clauses)
        return rows[0] if rows else None


@contextmanager
def _session_of_txn(spark: SparkSession, txn: Txn | None) -> Iterator[SparkSession]:
    """Give a session of its own, since these settings leak to other writes and drop data in silence.

    A client of Spark Connect has none to give: there a MERGE carries no transaction, and is not fenced.
    """
    if txn is None or is_connect(spark):
        yield spark
        return
    own = spark.newSession()
    own.conf.set(_APP_ID, txn.app_id)
    own.conf.set(_APP_VERSION, str(txn.version))
    try:
        with few_tasks(own):
            yield own
    finally:
        own.conf.unset(_APP_ID)
        own.conf.unset(_APP_VERSION)
        # newSession() makes itself the active one for this thread, and only the JVM can undo that.
        spark._jvm.org.apache.spark.sql.classic.SparkSession.setActiveSession(spark._jsparkSession)  # type: ignore[union-attr] # noqa: SLF001


def merge_into(location: Location, source: DataFrame, condition: str, clauses: str) -> list[Row]:
    """MERGE `source` (alias s) into a table (alias t); return Delta's row of counts, no row where it was skipped."""
    spark, view = source.sparkSession, f"merged_{secrets.token_hex(8)}"
    source.createOrReplaceTempView(view)
    try:
        return spark.sql(f"MERGE INTO {location.quoted} AS t USING {view} AS s ON {condition} {clauses}").collect()
    finally:
        spark.catalog.dropTempView(view)


def _condition(where: Where) -> str:
    """Return SQL for rows whose columns hold one of these texts."""
    return " AND ".join(f"{name} IN ({', '.join(map(_text, values))})" for name, values in where.items())


def _text(value: str) -> str:
    """Return a text as SQL in which nothing of it can be read as SQL: Delta's DELETE and UPDATE take no parameters."""
    return f"CAST(X'{value.encode('utf-8', 'replace').hex()}' AS STRING)"


def inserted(names: Sequence[str]) -> str:
    """Return the SQL of an INSERT clause that takes these columns from the source."""
    return f"INSERT ({', '.join(names)}) VALUES ({', '.join(f's.{n}' for n in names)})"  # noqa: S608 - names of ours


def updated(names: Sequence[str]) -> str:
    """Return the SQL of an UPDATE clause that takes these columns from the source."""
    return f"UPDATE SET {', '.join(f'{n} = s.{n}' for n in names)}"
