"""Stores: our tables in one session, each made when it is first asked for. Spark starts when one needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.schema import Table
    from backfill_spark.settings.schema import Settings
    from backfill_spark.storage.delta_table import Store
    from backfill_spark.storage.small_table import SmallTable


class Stores:
    """Our tables, handed down from the call that made them."""

    def __init__(self, spark: SparkSession | None, settings: Settings) -> None:
        self._spark = spark
        self.settings = settings
        self._made: dict[str, Store] = {}
        self._small: dict[str, SmallTable] = {}

    @property
    def spark(self) -> SparkSession:
        """The session: the one that was given, the active one, or one that is started now.

        Raises:
            SessionError: Java 17 or newer is missing, or the session has no Delta or has ended.
        """
        if self._spark is None:
            from backfill_spark.storage.session import get_spark

            self._spark = get_spark(self.settings)
        return self._spark

    @property
    def running(self) -> SparkSession | None:
        """The session, where there is one."""
        return self._spark

    @property
    def is_here(self) -> bool:
        """False where the tables' folder is another machine's: one that a Connect server has."""
        from backfill_spark import schema
        from backfill_spark.storage.reach import is_shared, local_folder, uses_connect
        from backfill_spark.storage.small_table import location_of

        folder = local_folder(location_of(schema.JOBS, self.settings), self.settings)
        return folder is None or not uses_connect(self.settings) or is_shared(self.spark, folder.parent)

    def of(self, table: Table) -> Store:
        """The store of one table, behind Spark."""
        if table.name not in self._made:
            from backfill_spark.storage.delta_table import Store

            self._made[table.name] = Store(self.spark, table, self.settings)
        return self._made[table.name]

    def small(self, table: Table) -> SmallTable:
        """The rows of one table, by deltalake where it reaches them."""
        if table.name not in self._small:
            self._small[table.name] = self._reached(table) or self._by_spark(table)
        return self._small[table.name]

    def _reached(self, table: Table) -> SmallTable | None:
        from backfill_spark.storage.deltalake_table import DeltalakeTable
        from backfill_spark.storage.reach import reached
        from backfill_spark.storage.small_table import location_of

        location = location_of(table, self.settings)
        folder = reached(location, self.settings, lambda: self.spark)
        return None if folder is None else DeltalakeTable(table, location, folder)

    def _by_spark(self, table: Table) -> SmallTable:
        from backfill_spark.storage.spark_table import SparkTable

        return SparkTable(self.of(table))
