"""Tables in a folder of this machine, read and written by deltalake: a commit takes 10 ms, and needs no Spark.

Every write is a compare-and-set: it lands as the version after the one that was looked at, or not at all
(`max_commit_retries=0`; with deltalake's default it would land over newer versions without a word, measured).
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction

from backfill_spark.storage.delta_files import File, Files, batches_of, columns_of, files_of, highest_rows, rows_with
from backfill_spark.storage.migrations import VERSION_PROPERTY, check_fields, later_columns, properties_of
from backfill_spark.storage.small_table import Row, Txn, Where

if TYPE_CHECKING:
    from datetime import date

    from deltalake.transaction import RemoveAction

    from backfill_spark.schema import Table
    from backfill_spark.settings.locations import Location

logger = logging.getLogger(__name__)

ATTEMPTS = 200
LONGEST_PAUSE_S = 0.5
MOST_COMMITS = 500
"""Commits that are read one by one, 0.1 ms each; with more of them a plan counts again."""
_random = secrets.SystemRandom()
_ensured: dict[tuple[str, int], int] = {}
"""Folder and version of tables that need not be looked at again → the inode of their log."""


class DeltalakeTable:
    """One Delta table of ours in a folder of this machine; see `SmallTable` for what its methods promise."""

    def __init__(self, table: Table, location: Location, folder: Path) -> None:
        self.table = table
        self.location = location
        self.folder = folder
        self._lock = threading.RLock()
        self._open: tuple[int, DeltaTable] | None = None

    # --- the table itself

    def exists(self) -> bool:
        return self._inode() is not None and DeltaTable.is_deltatable(str(self.folder))

    def ensure(self) -> Self:
        key, inode = (str(self.folder), self.table.version), self._inode()
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

    def columns(self) -> pa.Schema:
        """Our columns, as Arrow has them."""
        return pa.schema(Schema.from_json(self.table.schema.json()).to_arrow())

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
            return (self.folder / "_delta_log").stat().st_ino
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _newest(self) -> DeltaTable:
        """The table at its newest version, looked at with the lock held."""
        inode = self._inode()
        if self._open is None or self._open[0] != inode:
            self._open = (inode or 0, DeltaTable(str(self.folder)))
        else:
            self._open[1].update_incremental()
        return self._open[1]

    def _make_or_migrate(self) -> None:
        if not self.exists():
            DeltaTable.create(
                str(self.folder),
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
            schema, files = self._schema(now), files_of(now, where or {}, newest[0] if newest else "")
        if newest is not None:
            return self._highest(schema, files, where or {}, *newest)
        rows: list[Row] = []
        for file in files:
            found = self._rows(file.name, schema, where or {})
            if seen:
                at = (self.folder / file.name).stat().st_mtime_ns / 1e9
                found = [row | {"seen": at} for row in found]
            rows += found
        return rows

    def pieces(self, where: Where, columns: Sequence[str], size: int, version: int) -> Iterator[list[Row]]:
        then = DeltaTable(str(self.folder), version=version)
        every = self._schema(then)
        schema = pa.schema([every.field(name) for name in dict.fromkeys([*columns, *where])])
        rows: list[Row] = []
        for file in files_of(then, where, ""):
            for batch in batches_of(self.folder / file.name, schema, size):
                found = batch
                for column, values in where.items():
                    found = rows_with(found, column, values)
                rows += found.select(list(columns)).to_pylist()
                while len(rows) >= size:
                    yield rows[:size]
                    rows = rows[size:]
        if rows:
            yield rows

    def files_with(self, where: Where, version: int, parts: tuple[date, date] | None = None) -> Files:
        """Return the files of a version that can have rows with these values, in partitions from date to date."""
        then = DeltaTable(str(self.folder), version=version)
        (by,) = self.table.partitioned_by
        found = files_of(then, where, "", None if parts is None else (by, *parts))
        # Else rows may be deleted and columns have other names; and files may lie in another table's folder.
        is_plain = then.protocol().min_reader_version == 1 and all(f.name.startswith(f"{by}=") for f in found)
        return Files(tuple(f.name for f in found), sum(f.rows for f in found), is_plain)

    def only_added(self, *, after: int | None, since: float) -> bool:
        """True when it is sure that no row has been taken away after a version of this very table.

        Args:
            after: None is the time before its first version.
            since: seconds since the epoch; a table that was made later is another one.
        """
        with self._lock:
            now = self._newest()
            made, first, last = now.metadata().created_time, 0 if after is None else after + 1, now.version()
        if made is None or made / 1000 > since or last - first > MOST_COMMITS:
            return False
        return not any(self._takes_away(version) for version in range(first, last + 1))

    def _takes_away(self, version: int) -> bool:
        """True when a commit removes rows, or nobody can say."""
        actions = self._actions(version)
        return actions is None or any(a["remove"].get("dataChange", True) for a in actions if "remove" in a)

    def transaction(self, app_id: str) -> int | None:
        """The last version that `append` wrote with this identity; None: no such write."""
        with self._lock:
            found = self._newest().transaction_version(app_id)
        return None if found is None else int(found)

    def texts_since(self, column: str, time: str, start: datetime) -> set[str]:
        """Return the values of a column in rows whose `time` is not before `start`; other files are not read."""
        with self._lock:
            dataset = self._newest().to_pyarrow_dataset()
        return set(dataset.to_table([column], filter=pa.compute.field(time) >= start)[column].to_pylist())

    def _rows(self, name: str, schema: pa.Schema, where: Where, newest: tuple[str, int] | None = None) -> list[Row]:
        found = columns_of(self.folder / name, schema)
        for column, values in where.items():
            found = rows_with(found, column, values)
        if newest is not None:
            found = highest_rows(found, *newest)
        rows: list[Row] = found.to_pylist()
        return rows

    def _highest(self, schema: pa.Schema, files: list[File], where: Where, column: str, count: int) -> list[Row]:
        """Read files from the highest values down, until no file that is left can hold a higher one."""
        known = sorted((f for f in files if f.highest is not None), key=lambda f: f.highest, reverse=True)
        rows: list[Row] = []
        for file in [*(f for f in files if f.highest is None), *known]:
            if len(rows) >= count and file.highest is not None and file.highest < rows[count - 1][column]:
                break
            rows += self._rows(file.name, schema, where, (column, count))
            rows.sort(key=lambda row: row[column], reverse=True)
        return rows[:count]

    def _schema(self, now: DeltaTable) -> pa.Schema:
        """The columns of the table, and those of ours that an older one lacks."""
        there = pa.schema(now.schema().to_arrow())
        return pa.schema([*there, *(field for field in self.columns() if field.name not in there.names)])

    def append(self, rows: Sequence[Mapping[str, Any]], *, txn: Txn | None = None) -> bool:
        self.ensure()
        nonce = secrets.token_hex(8)

        def once() -> bool:
            with self._lock:
                now = self._newest()
                if txn is not None and (now.transaction_version(txn.app_id) or -1) >= txn.version:
                    return self._landed(now, nonce)
                schema = pa.schema(now.schema().to_arrow())
                version = now.version() + 1
                self._save(now, _batch(rows, schema), _committing(nonce, txn), mode="append")
                self._read_back(version, nonce)
            return True

        return bool(self._until_committed(once, nonce))

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
                version = now.version() + 1
                self._save(now, batch, _committing(nonce), **how)
                self._read_back(version, nonce)
            return True

        self._until_committed(once, nonce)

    def add_files(
        self, files: Sequence[Mapping[str, Any]], *, txn: Txn, after: int | None = None, own_from: int = 0
    ) -> bool | None:
        """Commit files that lie in the table's folder, unless somebody has written to the same partitions.

        Args:
            files: path, part (value of the column that the table is partitioned by), size in bytes and Delta's
                statistics of each.
            txn: of the write.
            after: the version from which on others may have written; None: whatever they wrote is no concern.
            own_from: the lowest transaction version of this runner; its own commits are no others'.

        Returns:
            True when the commit landed; False when another write has taken `txn`'s version or a higher one, None
            when others wrote to the partitions. After an error nobody knows whether a commit names the files; VACUUM
            removes those that none names.
        """
        nonce = secrets.token_hex(8)
        at = int(time.time() * 1000)
        (by,) = self.table.partitioned_by
        parts = {str(file["part"]) for file in files}
        actions: list[AddAction | RemoveAction] = [
            AddAction(f["path"], f["size"], {by: f["part"]}, at, data_change=True, stats=f["stats"]) for f in files
        ]

        def once() -> bool | None:
            with self._lock:
                now = self._newest()
                if (now.transaction_version(txn.app_id) or -1) >= txn.version:
                    return self._landed(now, nonce)
                versions = range(now.version() + 1 if after is None else after + 1, now.version() + 1)
                if any(self._writes(version, by, parts, txn.app_id, own_from) for version in versions):
                    return None
                version = now.version() + 1
                self._commit(now, actions, _committing(nonce, txn))
                self._read_back(version, nonce)
            return True

        done = self._until_committed(once, nonce)
        return None if done is None else bool(done)

    def _commit(self, now: DeltaTable, actions: list[AddAction | RemoveAction], how: CommitProperties) -> None:
        schema = now.schema()
        now.create_write_transaction(actions, "append", schema, list(self.table.partitioned_by), commit_properties=how)

    def _writes(self, version: int, by: str, parts: Collection[str], app_id: str, own_from: int) -> bool:
        """True when a commit of another runner wrote to one of these partitions, or nobody can say."""
        actions = self._actions(version)
        if actions is None:
            return True
        if any(a["txn"]["appId"] == app_id and a["txn"]["version"] >= own_from for a in actions if "txn" in a):
            return False
        touched = {a["add"].get("partitionValues", {}).get(by) for a in actions if "add" in a}
        return bool(touched & set(parts)) or any("metaData" in a or "protocol" in a for a in actions if version)

    def _actions(self, version: int) -> list[dict[str, Any]] | None:
        """What a commit did; None when its file is gone."""
        file = self.folder / "_delta_log" / f"{version:020}.json"
        try:
            return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except OSError:
            return None

    def _save(self, now: DeltaTable, batch: pa.Table, how: CommitProperties, **mode: Any) -> None:
        write_deltalake(now, batch, commit_properties=how, **mode)

    def _read_back(self, version: int, nonce: str) -> None:
        """Refuse a commit that is gone: on a local disk Spark looks, then renames, and may put its own in place."""
        if nonce not in (self.folder / "_delta_log" / f"{version:020}.json").read_text(encoding="utf-8"):
            raise CommitFailedError(f"version {version} of {self.folder} is another writer's")

    def _landed(self, now: DeltaTable, nonce: str) -> bool:
        """True when one of the newest commits carries `nonce`."""
        return any(nonce in (commit.get("userMetadata") or "") for commit in now.history(50))

    def _until_committed(self, step: Callable[[], Any], nonce: str = "") -> Any:
        """Do `step` again when another commit was first; an error whose write landed is none."""
        for tried in range(1, ATTEMPTS + 1):
            try:
                return step()
            except Exception as error:
                with self._lock:
                    self._open = None
                    if nonce and self.exists() and self._landed(self._newest(), nonce):
                        return True
                is_overtaken = isinstance(error, CommitFailedError) or "already exists" in str(error)
                if tried == ATTEMPTS or not is_overtaken:
                    raise
            time.sleep(min(0.005 * 2 ** min(tried, 10), LONGEST_PAUSE_S) * _random.uniform(0.5, 1.5))
        return None


def _committing(nonce: str = "", txn: Txn | None = None) -> CommitProperties:
    # `userMetadata` only: any other key could have the name of a field that Spark knows, and make the table unreadable.
    note: dict[str, Any] = {"nonce": nonce} | ({} if txn is None else {"app": txn.app_id, "version": txn.version})
    return CommitProperties(
        max_commit_retries=0,
        custom_metadata={"userMetadata": json.dumps(note)} if nonce else None,
        # Without a time Spark would not see it: our tables say how long a transaction is kept.
        app_transactions=None if txn is None else [Transaction(txn.app_id, txn.version, int(time.time() * 1000))],
    )


def _fields(found: DeltaTable) -> dict[str, Any]:
    return {field["name"]: field["type"] for field in json.loads(found.schema().to_json())["fields"]}


def _batch(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
