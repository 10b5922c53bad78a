"""Which tables lie in a folder of this machine, where deltalake reads and writes them without Spark."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltalake import DeltaTable

from backfill_spark.storage.files import OBJECT_STORES, arrow_uri, filesystem_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.locations import Location
    from backfill_spark.settings.schema import Settings

logger = logging.getLogger(__name__)

OTHER_FILE_SYSTEMS = {"HADOOP_CONF_DIR", "DATABRICKS_RUNTIME_VERSION", "spark.hadoop.fs.defaultFS"}
"""Variables and settings with which Spark takes a plain path for one of another file system."""
PLAIN_PATH = re.compile(r"[\w ./=@,+~()&'!:;$-]+")
"""Paths that deltalake 1.6 reads as they are; a `%41` is an A to one of its parts, and a `#` ends the process."""
_CONNECT = {"SPARK_REMOTE", "SPARK_CONNECT_MODE_ENABLED"}
"""Variables of a process that is, or is told to be, a client of Spark Connect."""
_WILDCARD = re.compile(r"([\\*?\[\]{}])")
_shared: dict[tuple[str, str], bool] = {}
"""Session of Spark Connect and folder → the answer."""
_reached_by_tasks: dict[tuple[str, str], bool] = {}
"""Application and folder → the answer."""
_reached: dict[tuple[str, int], bool] = {}
"""Folder and inode of its log → the answer."""


def reached(location: Location, settings: Settings, session: Callable[[], SparkSession]) -> Path | None:
    """Return the folder of a table that deltalake reads and writes, as Spark does; None of any other.

    `session` gives the session where it is needed to know: behind Spark Connect, whose server may be another machine.
    """
    folder = local_folder(location, settings)
    if folder is None or (uses_connect(settings) and not is_shared(session(), folder.parent)):
        return None
    return folder if is_reached(folder) else None


def uses_connect(settings: Settings) -> bool:
    """True where Spark is, or is going to be, behind Spark Connect."""
    return bool(_CONNECT & os.environ.keys()) or "spark.remote" in settings.spark


def is_shared(spark: SparkSession, folder: Path) -> bool:
    """False where a Connect server does not see what this process writes to a folder; asked once a session."""
    from backfill_spark.storage.capabilities import is_connect

    if not is_connect(spark):
        return True
    key = str(spark.session_id), str(folder)  # type: ignore[attr-defined]
    if key not in _shared:
        there = next(one for one in (folder, *folder.parents) if one.is_dir())
        mark = there / f"seen-{secrets.token_hex(8)}.txt"
        try:
            mark.write_text("here", encoding="utf-8")
            _shared[key] = spark.read.text(_WILDCARD.sub(r"\\\1", str(mark))).count() == 1
        except Exception as error:  # the folder cannot be written, or the server has no such file
            logger.debug("%s is left to Spark, whose server does not see it: %s", folder, str(error)[:200])
            _shared[key] = False
        finally:
            with suppress(OSError):
                mark.unlink(missing_ok=True)
    return _shared[key]


def tasks_reach(spark: SparkSession, folder: str) -> bool:
    """True where this process sees what every executor writes to a folder; asked once a session.

    Of an object store, Spark has to see it too: it may have another endpoint or other keys than pyarrow has.
    """
    from backfill_spark.storage.capabilities import capabilities

    key = capabilities(spark).application, folder
    if key not in _reached_by_tasks:
        try:
            _try_marks(spark, folder)
            _reached_by_tasks[key] = True
        except Exception as error:  # they cannot write there, or what they write is elsewhere
            logger.debug("results are left to Spark's writer: tasks cannot write to %s: %s", folder, str(error)[:200])
            _reached_by_tasks[key] = False
    return _reached_by_tasks[key]


def _try_marks(spark: SparkSession, folder: str) -> None:
    """Let tasks write to a folder what others must see, and delete it.

    Raises:
        Exception: they cannot write there, or what they write is not seen.
    """
    from backfill_spark.storage.capabilities import capabilities

    files, root = filesystem_of(arrow_uri(folder))
    files.get_file_info(root)  # without keys it fails here, and not in a task that Spark starts again
    slots = min(capabilities(spark).slots, 64)
    rows = spark.range(0, slots, 1, slots).mapInArrow(_marking(arrow_uri(folder)), "mark string").collect()
    marks = [row["mark"] for row in rows]
    try:
        if not all(found.is_file for found in files.get_file_info([f"{root}/{mark}" for mark in marks])):
            raise FileNotFoundError("this process does not see what they write")
        if folder.startswith(OBJECT_STORES) and not _spark_sees(spark, [f"{folder}/{mark}" for mark in marks]):
            raise FileNotFoundError("Spark does not see what they write")
    finally:
        for mark in marks:
            with suppress(OSError):
                files.delete_file(f"{root}/{mark}")


def _spark_sees(spark: SparkSession, files: list[str]) -> bool:
    """True where Spark reads these files of a line each."""
    return spark.read.option("__globPaths__", "false").text(files).count() == len(files)


def _marking(folder: str) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return what a task does: it makes a file in the folder, and names it."""

    def mark(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa

        files, root = filesystem_of(folder)
        for batch in batches:
            names = [f"seen-{secrets.token_hex(8)}.txt" for _ in range(batch.num_rows)]
            for name in names:
                with files.open_output_stream(f"{root}/{name}") as stream:
                    stream.write(b"here")
            yield pa.RecordBatch.from_pydict({"mark": names})

    return mark


def local_folder(location: Location, settings: Settings) -> Path | None:
    """The folder of a table that lies on this machine, for Spark as for Python; None of any other.

    A plain path means the default file system to Spark, which is another one where Hadoop is configured, and on
    Databricks.
    """
    path = location.path
    if path is None:
        return None
    if path.startswith("file:"):
        return Path("/" + path.removeprefix("file:").lstrip("/"))
    is_elsewhere = ":" in path.split("/", 1)[0] or OTHER_FILE_SYSTEMS & (os.environ.keys() | settings.spark.keys())
    return None if is_elsewhere else Path(path)


def is_reached(folder: Path) -> bool:
    """True where deltalake can read a table that is there, and write it or make one; looked at once a process."""
    try:
        log = folder / "_delta_log"
        key = str(folder), log.stat().st_ino if log.is_dir() else 0
        if key not in _reached:
            if not PLAIN_PATH.fullmatch(str(folder)):
                raise ValueError("deltalake reads its path otherwise")
            if key[1]:
                protocol = DeltaTable(str(folder)).protocol()
                if (protocol.min_reader_version, protocol.min_writer_version) > (1, 2):
                    raise ValueError(f"the table needs {protocol}")
            _reached[key] = _has_links(folder.parent)
        return _reached[key]
    except Exception as error:
        logger.debug("%s is left to Spark: %s", folder, error)
        return False


def _has_links(folder: Path) -> bool:
    """True where a file can get a second name, by which deltalake commits; some file systems have none."""
    if not folder.is_dir():
        return True  # it is made when something is written, and nothing is by a look
    one = folder / f".link-{secrets.token_hex(8)}"
    two = one.with_suffix(".2")
    try:
        one.touch()
    except OSError:
        return True  # it can only be read
    try:
        os.link(one, two)
    except OSError as error:
        logger.debug("%s is left to Spark: it has no links: %s", folder, error)
        return False
    finally:
        one.unlink(missing_ok=True)
        two.unlink(missing_ok=True)
    return True
