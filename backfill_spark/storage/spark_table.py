"""Small tables by Spark: those that have a name in a catalog, or that deltalake does not reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.storage.delta_table import inserted, updated
from backfill_spark.storage.retry import until_alone

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from backfill_spark.storage.delta_table import Store
    from backfill_spark.storage.small_table import Row, Txn, Where

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SparkTable:
    """One Delta table of ours behind Spark; see `SmallTable` for what its methods promise."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.table = store.table
        self.location = store.location

    def exists(self) -> bool:
        return self._store.exists()

    def ensure(self) -> Self:
        self._store.ensure()
        return self

    def stamp(self) -> str | None:
        return self._store.stamp()

    def read(
        self, where: Where | None = None, *, newest: tuple[str, int] | None = None, seen: bool = False
    ) -> list[Row]:
        if not self.exists():
            return []
        rows = _matching(self._store.read(), where or {})
        moments = _moments(rows)
        columns = _plain(rows.columns, moments)
        if seen:
            columns.append((F.unix_micros("_metadata.file_modification_time") / 1e6).alias("seen"))
        if newest is not None:
            rows = rows.orderBy(F.col(newest[0]).desc()).limit(newest[1])
        found = [row.asDict() for row in rows.select(*columns).collect()]
        if newest is not None:
            found.sort(key=lambda row: row[newest[0]], reverse=True)
        return [row | {n: _moment(row[n]) for n in moments} for row in found]

    def version(self) -> int:
        return self._store.version()

    def pieces(self, where: Where, columns: Sequence[str], size: int, version: int) -> Iterator[list[Row]]:
        rows = _matching(self._store.read(version), where)
        moments = [name for name in _moments(rows) if name in columns]
        found = rows.select(*_plain(columns, moments)).toLocalIterator(prefetchPartitions=True)
        while piece := [row.asDict() for row in islice(found, size)]:
            yield [row | {n: _moment(row[n]) for n in moments} for row in piece]

    def append(self, rows: Sequence[Mapping[str, Any]], *, txn: Txn | None = None) -> bool:
        return self._store.append(self._store.frame([dict(row) for row in rows]), txn=txn)

    def put(self, row: Mapping[str, Any], *, key: str, guard: Sequence[str], is_newer: Callable[[Row], bool]) -> None:
        def once() -> bool:
            found = self.read({key: [row[key]]})
            if found and not is_newer(found[0]):
                return True
            same = [f"t.{n} <=> s.was_{n}" for n in guard]
            types = {n: self.table.schema[n].dataType for n in guard}
            was = {f"was_{n}": F.lit(found[0][n] if found else None).cast(types[n]) for n in guard}
            done = self._store.merge(
                lambda _: self._store.frame([dict(row)]).withColumns(was),
                f"t.{key} = s.{key}",
                f"WHEN MATCHED AND {' AND '.join(same)} THEN {updated([n for n in row if n != key])} "
                f"WHEN NOT MATCHED THEN {inserted(list(row))}",
            )
            return done is None or done["num_affected_rows"] > 0

        for _ in range(20):
            if until_alone(once):
                return


def _matching(rows: DataFrame, where: Where) -> DataFrame:
    for column, values in where.items():
        rows = rows.where(F.col(column).isin(list(values)))
    return rows


def _moments(rows: DataFrame) -> list[str]:
    return [f.name for f in rows.schema.fields if isinstance(f.dataType, T.TimestampType)]


def _plain(columns: Sequence[str], moments: Sequence[str]) -> list[Column | str]:
    # As numbers: a Row's naive time is in the machine's zone, where an hour comes twice a year.
    return [F.unix_micros(n).alias(n) if n in moments else n for n in columns]


def _moment(micros: int | None) -> datetime | None:
    return None if micros is None else _EPOCH + timedelta(microseconds=micros)
