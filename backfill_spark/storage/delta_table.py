"""Store: the owner of one Delta table of ours. Every write in the package goes through here."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from backfill_spark.errors import SchemaVersionError
from backfill_spark.schema import SCHEMA_VERSION, Table
from backfill_spark.settings.locations import Location

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from delta.tables import DeltaMergeBuilder
    from pyspark.sql import Column, Row

    from backfill_spark.settings.schema import Settings

VERSION_PROPERTY = "backfill_spark.schema_version"
_PROPERTIES = {
    # Measured: every tenth commit otherwise takes 1.2 s longer.
    "delta.checkpointInterval": "50",
    "delta.checkpointPolicy": "classic",
    "delta.columnMapping.mode": "none",
    "delta.enableChangeDataFeed": "false",
    "delta.enableDeletionVectors": "false",
    "delta.autoOptimize.autoCompact": "false",
    "delta.autoOptimize.optimizeWrite": "false",
    # Jobs read pinned versions, and a claim by transaction id is for ever.
    "delta.logRetentionDuration": "interval 30 days",
    "delta.deletedFileRetentionDuration": "interval 7 days",
    "delta.setTransactionRetentionDuration": "interval 36500 days",
}
"""Named, so that spark.databricks.delta.properties.defaults.* of a session or cluster does not reach our tables."""
_APP_ID = "spark.databricks.delta.write.txnAppId"
_APP_VERSION = "spark.databricks.delta.write.txnVersion"
_ROWS = re.compile(r'"numOutputRows":"(\d+)"')
_checked: set[tuple[str, str]] = set()


@dataclass(frozen=True, slots=True)
class Txn:
    """Identity of one write: Delta skips a version of `app_id` that is not higher than the last one."""

    app_id: str
    version: int


FULL_DISK = "No space left on device"


def error_text(error: BaseException) -> str:
    """Return an error's first line with its Delta condition; never row values. A full disk is told as one."""
    if FULL_DISK in str(error):  # mostly as a cause far down in Java's trace
        return f"The disk is full ({FULL_DISK}): the tables, or Spark's own files, could not be written. Make room"
    java = getattr(error, "java_exception", None)
    text = str(java.getMessage()) if java is not None else str(error)
    return text.strip().split("\n", 1)[0][:400]


def is_conflict(error: BaseException) -> bool:
    """True when a concurrent commit made a write fail; the same write may be tried again."""
    condition = getattr(error, "getCondition", lambda: None)() or ""
    text = f"{type(error).__name__} {condition} {str(error)[:2000]}"
    return "DELTA_CONCURRENT" in text or ("Concurrent" in text and "Exception" in text)


def until_alone(step: Callable[[], Any], *, attempts: int = 20) -> Any:
    """Do a step again when a concurrent writer was first, as often as `attempts` says."""
    for attempt in range(attempts - 1):
        try:
            return step()
        except Exception as error:
            if not is_conflict(error):
                raise
            time.sleep(secrets.randbelow(200) / 1000 * (attempt + 1))
    return step()


@contextmanager
def aside(work: Callable[[], Any]) -> Iterator[None]:
    """Do `work` in another thread while the block runs, and wait for both; a commit leaves a core idle."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        yield
        done.result()


class Store:
    """One Delta table, by path or by name."""

    def __init__(self, spark: SparkSession, table: Table, settings: Settings) -> None:
        self.spark = spark
        self.table = table
        tables = settings.tables
        if tables.schema_ is None:
            self.location = Location.of_path(
                f"{settings.root.rstrip('/')}/{tables.prefix}{table.name}", settings.path_roots
            )
        else:
            self.location = Location.of_name(f"{tables.schema_}.{tables.prefix}{table.name}")

    def exists(self) -> bool:
        """True when the table is there."""
        if self.location.name is not None:
            return bool(self.spark.catalog.tableExists(self.location.name))
        return bool(DeltaTable.isDeltaTable(self.spark, self.location.path))  # type: ignore[arg-type]

    def ensure(self) -> Store:
        """Create the table when it is not there, and check that this version may use it.

        Raises:
            SchemaVersionError: a newer backfill_spark wrote it, or it lacks columns.
        """
        key = (self.spark.sparkContext.applicationId if hasattr(self.spark, "_sc") else "", self.location.shown)
        if key in _checked and self.exists():
            return self
        is_new = False
        for attempt in range(5):
            if self.exists():
                break
            try:
                self._create()
                is_new = True
            except Exception:  # two first users at once: one of them wins, both go on
                if attempt == 4:
                    raise
                time.sleep(0.2 * (attempt + 1))
        if not is_new:
            self._check()
        _checked.add(key)
        return self

    def _create(self) -> None:
        builder = DeltaTable.createIfNotExists(self.spark).addColumns(self.table.schema).comment(self.table.comment)
        if self.location.name is not None:
            builder = builder.tableName(self.location.name)
        else:
            builder = builder.location(str(self.location.path))
        if self.table.partitioned_by:
            builder = builder.partitionedBy(*self.table.partitioned_by)
        own = {"delta.appendOnly": str(self.table.append_only).lower(), VERSION_PROPERTY: str(SCHEMA_VERSION)}
        for name, value in (_PROPERTIES | own).items():
            builder = builder.property(name, value)
        builder.execute()

    def _check(self) -> None:
        version = int(self._properties().get(VERSION_PROPERTY, SCHEMA_VERSION))
        if version > SCHEMA_VERSION:
            raise SchemaVersionError(
                f"The table {self.location.shown!r} has schema version {version}; this backfill_spark knows "
                f"{SCHEMA_VERSION}. Install the version that wrote it, or a newer one."
            )
        self.check_columns()

    def _properties(self) -> dict[str, str]:
        # DESCRIBE DETAIL adds up a table's files: measured for all eight in a new process, 5.4 s instead of 1.1.
        return {r[0]: r[1] for r in self.spark.sql(f"SHOW TBLPROPERTIES {self.location.quoted}").collect()}

    def check_columns(self) -> None:
        """Refuse a table whose columns somebody changed.

        Raises:
            SchemaVersionError: it lacks columns, or has them with other types.
        """
        have = {f.name: f.dataType for f in self.read().schema.fields}
        wrong = [f.name for f in self.table.schema.fields if have.get(f.name) != f.dataType]
        if wrong:
            raise SchemaVersionError(
                f"The table {self.location.shown!r} lacks the columns {wrong}, or has them with other types. "
                f"Found: {sorted(have)}. Name another tables.root or tables.prefix, or restore the table."
            )

    def delta(self, spark: SparkSession | None = None) -> DeltaTable:
        """Return Delta's handle in `spark` (default: the store's session)."""
        spark = spark or self.spark
        if self.location.name is not None:
            return DeltaTable.forName(spark, self.location.name)
        return DeltaTable.forPath(spark, str(self.location.path))

    def read(self, version: int | None = None, *, spark: SparkSession | None = None) -> DataFrame:
        """Return the table, newest or at `version`."""
        reader = (spark or self.spark).read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.table(self.location.name) if self.location.name else reader.load(str(self.location.path))

    def version(self) -> int:
        """Return the newest version."""
        log = _local_folder(self.location.path)
        if log is not None:
            return max(int(f.name[:20]) for f in _commit_files(log))
        return int(self.delta().history(1).select("version").collect()[0][0])

    def stamp(self) -> str | None:
        """Return the newest version in 20 digits and its time; None where that would cost a Spark job."""
        log = _local_folder(self.location.path)
        if log is None:
            return None
        newest = max(_commit_files(log), default=None)
        return None if newest is None else f"{newest.name}:{newest.stat().st_mtime_ns}"

    def versions_of_others(self, after: int, newest: int, app_id: str) -> list[int]:
        """Return where to look for what others than `app_id` wrote in the versions (after, newest], ascending.

        The newest version when they wrote rows, and each one before they removed some.
        """
        commits = self._commits(after, newest)
        mine = f'\\"app\\":\\"{app_id}\\"'
        others = [(v, text) for v, text in commits if mine not in text.replace(" ", "")]
        others = [(v, text) for v, text in others if '"numOutputRows":"0"' not in text]
        removed = [v - 1 for v, text in others if '"DELETE"' in text and v - 1 > after]
        return sorted({*removed, newest}) if others else []

    def _commits(self, after: int, newest: int) -> list[tuple[int, str]]:
        log = _local_folder(self.location.path)
        if log is not None:
            return [(v, _commit_text(log / f"{v:020}.json")) for v in range(after + 1, newest + 1)]
        limit = max(newest - after, 1)
        while True:
            # It counts back from the newest commit as it is now, which may be later than `newest`.
            found = self.delta().history(limit).select("version", "operation", "userMetadata").collect()
            if len(found) < limit or found[-1]["version"] <= after + 1:
                return [(r[0], f'"{r[1]}" {json.dumps(r[2])}') for r in found if after < r[0] <= newest]
            limit *= 2

    def frame(self, rows: Sequence[dict[str, Any]]) -> DataFrame:
        """Return rows of plain values as a frame of the table's shape; absent columns are NULL."""
        names = self.table.schema.fieldNames()
        return self.spark.createDataFrame([tuple(r.get(n) for n in names) for r in rows], self.table.schema)

    def append(self, rows: DataFrame, *, txn: Txn | None = None) -> bool:
        """Append `rows` in one commit.

        Returns:
            True when this write landed; False when another write has taken `txn`'s version or a higher one.
        """
        return self.append_once(rows, txn) is not None

    def append_once(self, rows: DataFrame, txn: Txn | None) -> int | None:
        """Append `rows` in one commit; look in the log whether it is there, where that is not sure.

        Delta skips a used version in silence, and a lost reply looks like a failure.

        Returns:
            Rows in the commit, -1 where that is not known; None when another write has taken `txn`'s version or a
            higher one.
        """
        nonce = secrets.token_hex(8)
        note = {"nonce": nonce} if txn is None else {"app": txn.app_id, "version": txn.version, "nonce": nonce}
        writer = rows.write.format("delta").mode("append").option("userMetadata", json.dumps(note))
        if txn is not None:
            writer = writer.option("txnAppId", txn.app_id).option("txnVersion", str(txn.version))
        try:
            self._save(writer)
        except Exception as error:
            landed = self._landed(nonce)
            if landed is not None or (txn is not None and is_conflict(error)):
                return landed
            raise
        return -1 if txn is None else self._landed(nonce)

    def delete(self, condition: Column) -> None:
        """Delete rows; conflicts with other writers are tried again."""
        until_alone(lambda: self.delta().delete(condition))

    def _save(self, writer: Any) -> None:
        if self.location.name is not None:
            writer.saveAsTable(self.location.name)
        else:
            writer.save(str(self.location.path))

    def _landed(self, nonce: str) -> int | None:
        """Rows of the commit that carries `nonce`; None when no commit does."""
        for limit in (8, 200):
            commits = self._newest_commits(limit)
            for told, rows in commits:
                if nonce in told:
                    return rows
            if len(commits) < limit:
                return None
        return None

    def _newest_commits(self, limit: int) -> list[tuple[str, int]]:
        """What the newest commits say of themselves, as text that holds their userMetadata, and their rows."""
        log = _local_folder(self.location.path)
        if log is not None:
            # Measured: 1 CPU second less for each write than `history`, which is a Spark job.
            texts = [_commit_text(file) for file in sorted(_commit_files(log), reverse=True)[:limit]]
            return [(text, int(found[1]) if (found := _ROWS.search(text)) else -1) for text in texts]
        rows = F.coalesce(F.col("operationMetrics")["numOutputRows"].cast("long"), F.lit(-1))
        return [(r[0] or "", r[1]) for r in self.delta().history(limit).select("userMetadata", rows).collect()]

    def merge(
        self,
        source: Callable[[SparkSession], DataFrame],
        condition: str,
        clauses: Callable[[DeltaMergeBuilder], DeltaMergeBuilder],
        *,
        txn: Txn | None = None,
    ) -> Row | None:
        """MERGE `source` (alias s) into the table (alias t) once.

        `condition` is made from column names and literals of ours only.

        Returns:
            Delta's row of counts, or None when `txn`'s version was used already and nothing was done.
        """
        with _session_of_txn(self.spark, txn) as spark:
            builder = self.delta(spark).alias("t").merge(source(spark).alias("s"), condition)
            counts = clauses(builder).execute()
            rows = counts.collect() if counts is not None else []
        return rows[0] if rows else None


class Stores:
    """Our tables in one session: each store is made when it is first asked for, and handed down from then on."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self.spark = spark
        self.settings = settings
        self._made: dict[str, Store] = {}

    def of(self, table: Table) -> Store:
        """Return the store of one table."""
        if table.name not in self._made:
            self._made[table.name] = Store(self.spark, table, self.settings)
        return self._made[table.name]


def _local_folder(path: str | None) -> Path | None:
    """Folder of a table's log when it lies on this machine's own file system."""
    if path is None:
        return None
    folder = Path(path.removeprefix("file://").removeprefix("file:"), "_delta_log")
    return folder if folder.is_dir() else None


def _commit_files(log: Path) -> list[Path]:
    return [f for f in log.iterdir() if f.suffix == ".json" and f.stem[:20].isdigit()]


def _commit_text(file: Path) -> str:
    with file.open(encoding="utf-8") as lines:
        return next((line for line in lines if '"commitInfo"' in line[:20]), "")


@contextmanager
def _session_of_txn(spark: SparkSession, txn: Txn | None) -> Iterator[SparkSession]:
    """Give a session of its own, since these settings leak to other writes and drop data in silence."""
    if txn is None or not hasattr(spark, "_jsparkSession"):
        yield spark
        return
    own = spark.newSession()
    own.conf.set(_APP_ID, txn.app_id)
    own.conf.set(_APP_VERSION, str(txn.version))
    try:
        yield own
    finally:
        own.conf.unset(_APP_ID)
        own.conf.unset(_APP_VERSION)
        # newSession() makes itself the active one for this thread, and only the JVM can undo that.
        spark._jvm.org.apache.spark.sql.classic.SparkSession.setActiveSession(spark._jsparkSession)  # type: ignore[union-attr] # noqa: SLF001
