"""Small files beside the tables, on any file system that the tables may lie on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyarrow import fs
    from pyspark.sql import SparkSession

OBJECT_STORES = ("s3://", "s3a://", "gs://", "gcs://", "abfs://", "abfss://")
"""Those that Spark and pyarrow know."""


def filesystem_of(folder: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URI, and the path in it."""
    from pyarrow import fs

    if folder.startswith("file:"):  # not as a URI, in which blanks and percent signs mean something else
        folder = "/" + folder.removeprefix("file:").lstrip("/")
    elif "://" in folder:
        return fs.FileSystem.from_uri(folder.rstrip("/"))  # type: ignore[no-any-return]
    return fs.LocalFileSystem(), folder.rstrip("/") or "/"


def arrow_uri(folder: str) -> str:
    """Return a folder as pyarrow is to take it: what is s3a to Hadoop is s3."""
    if folder.startswith(("gs://", "gcs://")):  # it would try for 15 minutes where it finds no keys
        return f"{folder}?retry_limit_seconds=30"
    return "s3" + folder.removeprefix("s3a") if folder.startswith("s3a://") else folder


def folders_in(spark: SparkSession, folder: str) -> set[str]:
    """Return the names of what lies in a folder; none where there is no such folder."""
    from pyarrow.fs import FileSelector

    if (hadoop := _hadoop(spark, folder)) is not None:
        system, path = hadoop
        return {status.getPath().getName() for status in system.listStatus(path)} if system.exists(path) else set()
    files, place = filesystem_of(arrow_uri(folder))
    return {found.base_name for found in files.get_file_info(FileSelector(place, allow_not_found=True))}


def delete_folder(spark: SparkSession, folder: str) -> None:
    """Delete a folder with what is in it, or a file, where there is one."""
    if (hadoop := _hadoop(spark, folder)) is not None:
        hadoop[0].delete(hadoop[1], True)
        return
    files, place = filesystem_of(arrow_uri(folder))
    found = files.get_file_info(place)
    if found.type.name == "Directory":
        files.delete_dir(place)
    elif found.is_file:
        files.delete_file(place)


def _hadoop(spark: SparkSession, folder: str) -> tuple[Any, Any] | None:
    """Return Spark's own file system, and the path in it; None for a client of Spark Connect, which has no JVM."""
    from backfill_spark.storage.capabilities import is_connect

    if is_connect(spark):
        return None
    jvm: Any = spark._jvm  # noqa: SLF001
    path = jvm.org.apache.hadoop.fs.Path(folder)
    return path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf()), path  # noqa: SLF001
