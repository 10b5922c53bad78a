"""Traces in Parquet files, pinned by freezing their list."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from backfill_spark.settings.locations import Location

_WILDCARD = re.compile(r"([\\*?\[\]{}])")


@dataclass(frozen=True, slots=True)
class FileList:
    """Exactly these files, sorted by path."""

    frame: DataFrame
    files: tuple[str, ...]

    @property
    def version(self) -> str:
        """Short name of the list."""
        return version_of(self.files)


def version_of(files: Sequence[str]) -> str:
    """Return `files:` and 16 hex digits of the SHA-256 over the sorted paths."""
    return "files:" + hashlib.sha256("\n".join(sorted(files)).encode("utf-8", "replace")).hexdigest()[:16]


def list_files(spark: SparkSession, path: str, roots: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the paths of all files at or below `path`, sorted; names that begin with `_` or `.` are no data.

    Raises:
        AnalysisException: there is nothing at `path` (Spark's own error).
        NameRefusedError: a file has a name that no path may have.
    """
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    # Spark gives the paths percent-encoded, and does not decode them when it is given them.
    found = sorted(unquote(file) for file in reader.load(_literal(path)).inputFiles())
    return tuple(str(Location.of_path(file, roots).path) for file in found)


def open_files(spark: SparkSession, path: str, files: Sequence[str]) -> FileList:
    """Open exactly `files`; folders `name=value` between `path` and a file are columns, as they are spelled.

    The columns are those of all files together: one that only later files have is not left out.

    Raises:
        AnalysisException, Py4JJavaError: a file is gone or is no Parquet (Spark's own errors).
    """
    ordered = tuple(sorted(files))
    reader = spark.read.format("parquet").option("mergeSchema", "true")
    is_one_file = len(ordered) == 1 and posixpath.basename(ordered[0]) == posixpath.basename(path.rstrip("/"))
    if not is_one_file:
        reader = reader.option("basePath", path)
    paths = [_literal(file) for file in ordered]
    frame = reader.load(paths)
    spelled = _as_spelled(frame.schema, path, ordered)
    return FileList(frame if spelled == frame.schema else reader.schema(spelled).load(paths), ordered)


def _as_spelled(schema: T.StructType, path: str, files: Sequence[str]) -> T.StructType:
    """Return `schema` with folders `name=value` as texts: Spark makes 7 of the experiment 007, and a date of a session.

    Times stay: they are no ids.
    """
    folders = {part for file in files for part in posixpath.dirname(file[len(path) :]).split("/")}
    names = {unquote(part.split("=", 1)[0]).lower() for part in folders if "=" in part}
    return T.StructType(
        [
            T.StructField(f.name, T.StringType())
            if f.name.lower() in names and not isinstance(f.dataType, T.TimestampType | T.TimestampNTZType)
            else f
            for f in schema.fields
        ]
    )


def _literal(path: str) -> str:
    return _WILDCARD.sub(r"\\\1", path)
