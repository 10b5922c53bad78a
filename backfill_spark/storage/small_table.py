"""Small tables: rows of plain values that the driver reads and writes, whichever engine holds the table.

Two engines keep the same promises: `deltalake_table` for a folder of this machine, `spark_table` for all else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from backfill_spark.settings.locations import Location

if TYPE_CHECKING:
    from backfill_spark.schema import Table
    from backfill_spark.settings.schema import Settings

Row = dict[str, Any]
"""A row: a value a column; moments are datetimes in UTC."""
Where = Mapping[str, Collection[Any]]
"""Column → the values that are wanted; all columns must hold one of theirs."""


@dataclass(frozen=True, slots=True)
class Txn:
    """Identity of one write: a version of `app_id` that is not higher than the last one is not written."""

    app_id: str
    version: int


class SmallTable(Protocol):
    """A Delta table of ours with few rows, or few that are asked for at once."""

    table: Table
    location: Location

    def exists(self) -> bool:
        """True when the table is there."""

    def ensure(self) -> Self:
        """Create the table when it is not there; bring an older one to today's version.

        Raises:
            SchemaVersionError: a newer backfill_spark wrote it, or it lacks columns.
        """

    def stamp(self) -> str | None:
        """The newest version in 20 digits, and what tells the table from another one in its place; None: not known."""

    def read(
        self, where: Where | None = None, *, newest: tuple[str, int] | None = None, seen: bool = False
    ) -> list[Row]:
        """Return the rows as they are now; none where there is no table.

        Args:
            where: which rows; default: all.
            newest: a column and a number: only so many rows, those with the highest values, in descending order.
            seen: add the column `seen`: when the row's file was written by the storage's clock, in seconds since 1970.
        """

    def version(self) -> int:
        """The newest version."""

    def pieces(self, where: Where, columns: Sequence[str], size: int, version: int) -> Iterator[list[Row]]:
        """Yield the rows of a version, `size` at a time: some columns of them, for more rows than memory should hold.

        Args:
            where: which rows.
            columns: names; none that the table is partitioned by.
            size: rows that are yielded at a time; the last ones may be fewer.
            version: of the table, which must be there.
        """

    def append(self, rows: Sequence[Mapping[str, Any]], *, txn: Txn | None = None) -> bool:
        """Append rows in one commit, again when others changed the table meanwhile; absent columns are NULL.

        Returns:
            True when this write landed, also where its reply was lost; False when another write has taken `txn`'s
            version or a higher one.
        """

    def put(self, row: Mapping[str, Any], *, key: str, guard: Sequence[str], is_newer: Callable[[Row], bool]) -> None:
        """Write the row of a key: a new one, or in place of one that `is_newer` finds older.

        Args:
            row: its values; absent columns keep theirs.
            key: the column that tells rows apart.
            guard: the columns that `is_newer` looks at: when they change meanwhile, it is asked again.
            is_newer: takes the row that is there.
        """


def location_of(table: Table, settings: Settings) -> Location:
    """Where a table of ours lies.

    Raises:
        NameRefusedError: no table may lie there.
    """
    tables = settings.tables
    name = f"{tables.prefix}{table.name}"
    if tables.schema_ is None:
        return Location.of_path(f"{settings.root.rstrip('/')}/{name}", settings.path_roots)
    return Location.of_name(f"{tables.schema_}.{name}")
