"""Traces in a Delta table, pinned to one version; with it the tables beside it that belong to the same traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from backfill_spark.errors import SourceGoneError
from backfill_spark.settings.locations import Location
from backfill_spark.storage.commit_log import CommitLog, is_delta
from backfill_spark.traces.sources.pinned import Pinned

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class PinnedTable(Pinned):
    """One version of a Delta table, and of each table beside it that is asked for.

    Its version is a number where it is alone, and `7+otel_annotations@3` with another one.
    """

    format = "delta"

    def __init__(
        self, spark: SparkSession, location: Location, roots: Sequence[str] = (), version: str | None = None
    ) -> None:
        super().__init__(spark, location.shown)
        self.is_table = location.name is not None
        self._location, self._roots = location, roots
        self._asked = None if version is None else versions_of(version)
        self._found: dict[str, tuple[str, str]] = {}

    @property
    def version(self) -> str:
        own, *others = self._versions("").items()
        return own[1][1] + "".join(f"+{name}@{version}" for name, (_, version) in others)

    @property
    def table_id(self) -> str | None:
        return "+".join(table_id for table_id, _ in self._versions("").values())

    def _load(self) -> DataFrame:
        return self._at("", self._location)

    def beside(self, old: str, new: str) -> DataFrame | None:
        shown = self._location.shown.removesuffix("/")
        if not shown.endswith(old) or (self._asked is not None and new.lstrip("_") not in self._asked):
            return None
        text = shown.removesuffix(old) + new
        location = Location.of_name(text) if self.is_table else Location.of_path(text, self._roots)
        is_there = self.spark.catalog.tableExists(text) if self.is_table else is_delta(self.spark, text)
        return self._at(new.lstrip("_"), location) if is_there or self._asked is not None else None

    def _at(self, key: str, location: Location) -> DataFrame:
        version = self._versions(key, location)[key][1]
        reader = self.spark.read.format("delta").option("versionAsOf", version)
        return reader.table(str(location.name)) if self.is_table else reader.load(str(location.path))

    def _versions(self, key: str, location: Location | None = None) -> Mapping[str, tuple[str, str]]:
        """Return (id, version) of what has been opened, by name, with `key` among it."""
        if key not in self._found:
            location = location or self._location
            log = CommitLog(self.spark, location)
            version = None if self._asked is None else self._asked.get(key)
            self._found[key] = (log.table_id(), str(log.version()) if version is None else version)
        return dict(sorted(self._found.items()))


def versions_of(text: str) -> dict[str, str]:
    """Return the versions that a text names: of the table itself under "", of others under their names.

    Raises:
        SourceGoneError: it names something else.
    """
    own, *others = text.split("+")
    found = {"": own} | {name: version for name, _, version in (one.partition("@") for one in others)}
    if not all(version.isdigit() for version in found.values()):
        raise SourceGoneError(f"{text!r} is no version of a Delta table.")
    return found
