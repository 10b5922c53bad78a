"""Tables in a folder of this machine, read and written by deltalake: a commit takes 10 ms, and needs no Spark.

Every write is a compare-and-set: it lands as the version after the one that was looked at, or not at all
(`max_commit_retries=0`; with deltalake's default it would land over newer versions without a word, measured).
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from backfill_spark.storage.migrations import VERSION_PROPERTY, check_fields, later_columns, properties_of
from backfill_spark.storage.small_table import Row, Txn, Where

if TYPE_CHECKING:
    from backfill_spark.schema import Table
    from backfill_spark.settings.locations import Location

logger = logging.getLogger(__name__)

_OTHER_FILE_SYSTEMS = {"HADOOP_CONF_DIR", "DATABRICKS_RUNTIME_VERSION"}
ATTEMPTS = 200
LONGEST_PAUSE_S = 0.5
_random = secrets.SystemRandom()
# Spark writes moments as INT96, which would overflow as nanoseconds.
_FORMAT = ds.ParquetFileFormat(read_options=ds.ParquetReadOptions(coerce_int96_timestamp_unit="us"))
_ensured: dict[tuple[str, int], int] = {}
"""Folder and version of tables that need not be looked at again → the inode of their log."""


def local_folder(location: Location) -> Path | None:
    """The folder of a table that lies on this machine, for Spark as for Python; None of any other.

    A plain path means the default file system to Spark, which is another one where Hadoop is configured, and on
    Databricks.
    """
    path = location.path
    if path is None:
        return None
    if path.startswith("file:"):
        return Path("/" + path.removeprefix("file:").lstrip("/"))
    is_elsewhere = ":" in path.split("/", 1)[0] or _OTHER_FILE_SYSTEMS & os.environ.keys()
    return None if is_elsewhere else Path(path)


def is_reached(folder: Path) -> bool:
    """True where deltalake can write a table that is there, or make one."""
    try:
        if (folder / "_delta_log").is_dir():
            protocol = DeltaTable(str(folder)).protocol()
            if (protocol.min_reader_version, protocol.min_writer_version) > (1, 2):
                raise ValueError(f"the table needs {protocol}")
        return _has_links(str(folder.parent))
    except Exception as error:
        logger.debug("%s is left to Spark: %s", folder, error)
        return False


def _has_links(folder: str) -> bool:
    """True where a file can get a second name: deltalake commits by it, and some file systems have none."""
    if folder not in _linking:
        one = Path(folder, f".link-{secrets.token_hex(8)}")
        two = one.with_suffix(".2")
        try:
            one.parent.mkdir(parents=True, exist_ok=True)
            one.touch()
            os.link(one, two)
            _linking[folder] = True
        except OSError as error:
            logger.debug("%s is left to Spark: it has no links: %s", folder, error)
            _linking[folder] = False
        finally:
            one.unlink(missing_ok=True)
            two.unlink(missing_ok=True)
    return _linking[folder]


_linking: dict[str, bool] = {}


class DeltalakeTable:
    """One Delta table of ours in a folder of this machine; see `SmallTable` for what its methods promise."""

    def __init__(self, table: Table, location: Location, folder: Path) -> None:
        self.table = table
        self.location = location
        self._folder = folder
        self._lock = threading.RLock()
        self._open: tuple[int, DeltaTable] | None = None

    # --- the table itself

    def exists(self) -> bool:
        return self._inode() is not None and DeltaTable.is_deltatable(str(self._folder))

    def ensure(self) -> Self:
        key, inode = (str(self._folder), self.table.version), self._inode()
        if inode is None or _ensured.get(key) != inode:
            self._until_committed(self._make_or_migrate)
            _ensured[key] = self._inode() or 0
        return self

    def version(self) -> int:
        """The newest version."""
        with self._lock:
            return int(self._newest().version())

    def stamp(self) -> str | None:
        if not self.exists():
            return None
        with self._lock:
            newest = self._newest()
            return f"{newest.version():020}:{newest.metadata().id}"

    def check_columns(self) -> None:
        """Refuse a table whose columns somebody changed.

        Raises:
            SchemaVersionError: it lacks columns, or has them with other types.
        """
        with self._lock:
            check_fields(self.table, self.location, _fields(self._newest()))

    def _inode(self) -> int | None:
        """What tells a table's log from one that was made in its place later."""
        try:
            return (self._folder / "_delta_log").stat().st_ino
        except FileNotFoundError:
            return None

    def _newest(self) -> DeltaTable:
        """The table at its newest version, looked at with the lock held."""
        inode = self._inode()
        if self._open is None or self._open[0] != inode:
            self._open = (inode or 0, DeltaTable(str(self._folder)))
        else:
            self._open[1].update_incremental()
        return self._open[1]

    def _make_or_migrate(self) -> None:
        if not self.exists():
            DeltaTable.create(
                str(self._folder),
                Schema.from_json(self.table.schema.json()),
                mode="error",
                partition_by=list(self.table.partitioned_by) or None,
                description=self.table.comment,
                configuration=properties_of(self.table),
                raise_if_key_not_exists=False,  # the version is a property of ours
            )
            return
        with self._lock:
            found = self._newest()
            version = int(found.metadata().configuration.get(VERSION_PROPERTY, 1))
            missing = later_columns(self.table, self.location, version, _fields(found))
            if missing:
                wanted = [f for f in Schema.from_json(self.table.schema.json()).fields if f.name in missing]
                found.alter.add_columns(wanted, commit_properties=_committing())
                found.update_incremental()
            if version < self.table.version:
                # After the columns: whoever is killed in between has left a table that is still the older one.
                found.alter.set_table_properties(
                    {VERSION_PROPERTY: str(self.table.version)},
                    raise_if_not_exists=False,
                    commit_properties=_committing(),
                )

    # --- rows

    def read(
        self, where: Where | None = None, *, newest: tuple[str, int] | None = None, seen: bool = False
    ) -> list[Row]:
        if not self.exists():
            return []
        with self._lock:
            now = self._newest()
            schema, files = self._schema(now), pa.table(now.get_add_actions(flatten=True))
        files = files.filter(_may_hold(files, where or {}))
        if newest is not None:
            rows = self._highest(schema, files, where, *newest)
        elif seen:
            rows = [
                row | {"seen": self._seen(name)} for name in _names(files) for row in self._rows([name], schema, where)
            ]
        else:
            rows = self._rows(_names(files), schema, where)
        return rows

    def _rows(self, names: Sequence[str], schema: pa.Schema, where: Where | None) -> list[Row]:
        if not names:
            return []
        wanted = None
        for column, values in (where or {}).items():
            condition = ds.field(column).isin(pa.array(list(values), schema.field(column).type))
            wanted = condition if wanted is None else wanted & condition
        paths = [str(self._folder / name) for name in names]
        found = ds.dataset(paths, schema=schema, format=_FORMAT).to_table(filter=wanted)
        return found.to_pylist()

    def _highest(self, schema: pa.Schema, files: pa.Table, where: Where | None, column: str, count: int) -> list[Row]:
        """Read files from the highest values down, until no file that is left can hold a higher one."""
        highest = f"max.{column}"
        if highest not in files.column_names:
            return sorted(self._rows(_names(files), schema, where), key=lambda r: r[column], reverse=True)[:count]
        files = files.sort_by([(highest, "descending")])  # those without statistics come last, and are always read
        tops, names = files[highest].to_pylist(), _names(files)
        rows: list[Row] = []
        for at in range(0, len(names), count):
            if len(rows) >= count and tops[at] is not None and tops[at] < rows[count - 1][column]:
                break
            rows += self._rows(names[at : at + count], schema, where)
            rows.sort(key=lambda r: r[column], reverse=True)
        return rows[:count]

    def _schema(self, now: DeltaTable) -> pa.Schema:
        """The columns of the table, and those of ours that an older one lacks."""
        there = pa.schema(now.schema().to_arrow())
        ours = pa.schema(Schema.from_json(self.table.schema.json()).to_arrow())
        return pa.schema([*there, *(field for field in ours if field.name not in there.names)])

    def _seen(self, name: str) -> float:
        return (self._folder / name).stat().st_mtime_ns / 1e9

    def append(self, rows: Sequence[Mapping[str, Any]], *, txn: Txn | None = None) -> bool:
        self.ensure()
        nonce = secrets.token_hex(8)

        def once() -> bool:
            with self._lock:
                now = self._newest()
                if txn is not None and (now.transaction_version(txn.app_id) or -1) >= txn.version:
                    return self._landed(now, nonce)
                if txn is None and self._landed(now, nonce):
                    return True
                schema = pa.schema(now.schema().to_arrow())
                self._save(now, _batch(rows, schema), _committing(nonce, txn), mode="append")
            return True

        return bool(self._until_committed(once, lambda: self._landed(self._newest(), nonce)))

    def put(self, row: Mapping[str, Any], *, key: str, guard: Sequence[str], is_newer: Callable[[Row], bool]) -> None:
        del guard  # the version that was looked at guards the whole row
        self.ensure()
        nonce = secrets.token_hex(8)
        quoted = str(row[key]).replace("'", "''")

        def once() -> bool:
            with self._lock:
                found = self.read({key: [row[key]]})  # opens the newest version, and the lock keeps it
                now = self._open[1] if self._open is not None else self._newest()
                if found and not is_newer(found[0]):
                    return True
                batch = _batch([{**(found[0] if found else {}), **row}], pa.schema(now.schema().to_arrow()))
                how = {"mode": "overwrite", "predicate": f"{key} = '{quoted}'"} if found else {"mode": "append"}
                self._save(now, batch, _committing(nonce), **how)
            return True

        self._until_committed(once, lambda: self._landed(self._newest(), nonce))

    def _save(self, now: DeltaTable, batch: pa.Table, how: CommitProperties, **mode: Any) -> None:
        write_deltalake(now, batch, commit_properties=how, **mode)

    def _landed(self, now: DeltaTable, nonce: str) -> bool:
        """True when one of the newest commits carries `nonce`."""
        return any(nonce in (commit.get("userMetadata") or "") for commit in now.history(50))

    def _until_committed(self, step: Callable[[], Any], landed: Callable[[], bool] | None = None) -> Any:
        """Do `step` again when another commit was first; an error whose write landed is none."""
        for tried in range(ATTEMPTS):
            try:
                return step()
            except Exception as error:
                is_last = tried == ATTEMPTS - 1
                self._open = None
                if landed is not None and self.exists() and landed():
                    return True
                if is_last or not (isinstance(error, CommitFailedError) or _is_made(error)):
                    raise
            time.sleep(min(0.005 * 2 ** min(tried, 10), LONGEST_PAUSE_S) * _random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")


def _committing(nonce: str = "", txn: Txn | None = None) -> CommitProperties:
    # `userMetadata` only: any other key could have the name of a field that Spark knows, and make the table unreadable.
    note: dict[str, Any] = {"nonce": nonce} | ({} if txn is None else {"app": txn.app_id, "version": txn.version})
    return CommitProperties(
        max_commit_retries=0,
        custom_metadata={"userMetadata": json.dumps(note)} if nonce else None,
        app_transactions=None if txn is None else [Transaction(txn.app_id, txn.version)],
    )


def _is_made(error: Exception) -> bool:
    """True for the error of a table that somebody made at the same moment."""
    return "already exists" in str(error)


def _fields(found: DeltaTable) -> dict[str, Any]:
    return {field["name"]: field["type"] for field in json.loads(found.schema().to_json())["fields"]}


def _batch(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def _names(files: pa.Table) -> list[str]:
    return [unquote(name) for name in files["path"].to_pylist()]


def _may_hold(files: pa.Table, where: Where) -> pa.ChunkedArray:
    """Which files may hold rows that are wanted, by the least and greatest value of each."""
    keep = pa.chunked_array([pa.array([True] * len(files), pa.bool_())])
    for column, values in where.items():
        low, high = f"min.{column}", f"max.{column}"
        if low not in files.column_names or high not in files.column_names or not values:
            continue
        unknown = pc.or_(pc.is_null(files[low]), pc.is_null(files[high]))
        bounds = [(v, v) for v in values] if len(values) <= 50 else [(max(values), min(values))]  # type: ignore[type-var]
        inside = None
        for top, bottom in bounds:
            one = pc.and_(pc.less_equal(files[low], top), pc.greater_equal(files[high], bottom))
            inside = one if inside is None else pc.or_(inside, one)
        keep = pc.and_(keep, pc.or_(unknown, pc.fill_null(inside, fill_value=True)))
    return keep
