"""Traces in a view: pinned by what it reads, and read only while that stays as it is."""

from __future__ import annotations

import hashlib
import posixpath
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pyspark.sql import functions as F

from backfill_spark.errors import SourceGoneError
from backfill_spark.settings.locations import Location
from backfill_spark.storage.commit_log import is_delta, newest_version
from backfill_spark.traces.sources.pinned import Pinned

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_TEXTS = frozenset({"request", "response", "request_preview", "response_preview", "spans", "assessments"})


class PinnedView(Pinned):
    """A view of the catalog. It has no versions of its own: those of the tables that it reads are its own."""

    format = "view"
    is_table = True
    has_positions = False

    def __init__(self, spark: SparkSession, location: Location, version: str | None = None) -> None:
        super().__init__(spark, location.shown)
        self._pinned = version or self._now
        self.check()

    @property
    def version(self) -> str:
        return self._pinned

    @cached_property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        read = ", ".join(f"{table} at version {version}" for table, version in self._tables.items())
        how = f"{self.name} is a view, pinned by what it reads{f' ({read})' if read else ''}."
        if not self._files:
            how = (
                f"{self.name} is a view of no files, pinned by a digest of its rows (all but the texts), which is "
                "computed again before each read."
            )
        then = "When that changes before the job has ended, the job rests as PARTIAL, and `resume --repin` goes on."
        return (f"{how} {then}",)

    def check(self) -> None:
        """Look whether the view still reads what was pinned.

        Raises:
            SourceGoneError: a table that it reads has another version, or its files or rows are others.
        """
        if self._now != self.version:
            raise SourceGoneError(
                f"What the view {self.name!r} reads has changed since it was pinned ({self.version}, now {self._now}), "
                "and a view has no older versions. `backfill-spark resume JOB --repin` goes on with what is there now."
            )

    def _load(self) -> DataFrame:
        return self.spark.table(self.name)

    @property
    def _now(self) -> str:
        files, tables = self._files, self._tables
        others = [file for file in files if not any(file.startswith(f"{table}/") for table in tables)]
        told = [f"{table}@{version}" for table, version in tables.items()] + others or [self._rows]
        return "view:" + hashlib.sha256("\n".join(told).encode("utf-8", "replace")).hexdigest()[:16]

    @property
    def _files(self) -> list[str]:
        return sorted(unquote(file) for file in self.spark.table(self.name).inputFiles())

    @property
    def _rows(self) -> str:
        """How many rows there are, and a sum of their hashes, in which their order does not count."""
        rows = self.spark.table(self.name)
        light = [f"`{name.replace('`', '``')}`" for name in rows.columns if name.lower() not in _TEXTS]
        one = F.xxhash64(F.to_json(F.struct(*light))).cast("decimal(38,0)")
        count, total = rows.agg(F.count(F.lit(1)), F.sum(one)).collect()[0]
        return f"{count} rows {total}"

    @property
    def _tables(self) -> dict[str, str]:
        """The Delta tables that are read, with their newest versions."""
        found: dict[str, str] = {}
        for folder in sorted({_without_partitions(posixpath.dirname(file)) for file in self._files}):
            if is_delta(self.spark, folder):
                found[folder] = str(newest_version(self.spark, Location(path=folder)))
        return found


def _without_partitions(folder: str) -> str:
    """Return the folder of a table from that of a file: partitions `name=value` lie below it."""
    while "=" in posixpath.basename(folder):
        folder = posixpath.dirname(folder)
    return folder
