"""Traces in a Delta table, pinned to one version."""

from __future__ import annotations

from dataclasses import dataclass

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession

from backfill_spark.settings.locations import Location


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of a Delta table."""

    frame: DataFrame
    version: str
    table_id: str
    """Delta's own id: a table that was dropped and made again has another one."""


def is_delta(spark: SparkSession, path: str) -> bool:
    """True when a Delta log lies at `path`."""
    return bool(DeltaTable.isDeltaTable(spark, path))


def open_snapshot(spark: SparkSession, location: Location, *, version: int | None = None) -> Snapshot:
    """Open `version` of the table, by default the newest one.

    Raises:
        AnalysisException: there is no such table or version (Spark's own error).
    """
    by_name = location.name is not None
    table = DeltaTable.forName(spark, str(location.name)) if by_name else DeltaTable.forPath(spark, str(location.path))
    table_id = str(table.detail().select("id").collect()[0][0])
    if version is None:
        version = int(table.history(1).select("version").collect()[0][0])
    reader = spark.read.format("delta").option("versionAsOf", str(version))
    frame = reader.table(str(location.name)) if by_name else reader.load(str(location.path))
    return Snapshot(frame, str(version), table_id)
