"""Traces in files (Parquet, JSON, CSV), pinned by freezing their list."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.settings.locations import Location
from backfill_spark.traces.sources.pinned import Pinned

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, DataFrameReader, SparkSession

_WILDCARD = re.compile(r"([\\*?\[\]{}])")
_FORMATS = {
    "json": re.compile(r"\.(json|jsonl|ndjson)(\.\w+)?$", re.IGNORECASE),
    "csv": re.compile(r"\.csv(\.\w+)?$", re.IGNORECASE),
}
_PLAIN_BETWEEN = re.compile(r"(?:^|/)[^/=]+=[^/]*/[^/=]+/")
_FIRST_DOCUMENTS = 20
_NOTICE = "DEPRECATION_NOTICE.txt"
# As pandas writes it; a file whose header differs from the first one's is an error, not read by position.
_CSV: dict[str, str | bool] = {"header": True, "multiLine": True, "escape": '"', "enforceSchema": False}


def version_of(files: Sequence[str]) -> str:
    """Return `files:` and 16 hex digits of the SHA-256 over the sorted paths."""
    return "files:" + hashlib.sha256("\n".join(sorted(files)).encode("utf-8", "replace")).hexdigest()[:16]


def format_of(files: Sequence[str]) -> str:
    """Return json or csv where the names of all files say so, else parquet."""
    return next((name for name, ends in _FORMATS.items() if all(ends.search(f) for f in files)), "parquet")


def list_files(spark: SparkSession, path: str, roots: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the paths of all files at or below `path`, sorted; names that begin with `_` or `.` are no data.

    Nor is the notice that Langfuse puts among the files of its older exports.

    Raises:
        AnalysisException: there is nothing at `path` (Spark's own error).
        NameRefusedError: a file has a name that no path may have.
    """
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    # Spark gives the paths percent-encoded, and does not decode them when it is given them.
    found = sorted(unquote(file) for file in reader.load(_literal(path)).inputFiles() if _name(file) != _NOTICE)
    return tuple(str(Location.of_path(file, roots).path) for file in found)


class PinnedFiles(Pinned):
    """Exactly these files; folders `name=value` between the place and a file are columns, as they are spelled.

    The columns are those of all files together: one that only later files have is not left out.
    """

    def __init__(
        self, spark: SparkSession, path: str, files: Sequence[str], format: str, *, table: str | None = None
    ) -> None:
        super().__init__(spark, path if table is None else table)
        self.is_table = table is not None
        self.format = format
        self.files = tuple(sorted(files))
        self._path = path
        self._is_one_file = len(self.files) == 1 and _name(self.files[0]) == _name(path.rstrip("/"))
        self._named = {self._name_of(file): file for file in self.files}
        self.names = frozenset(self._named)

    def _name_of(self, file: str) -> str:
        if self._is_one_file:
            return _name(file)
        # Spark lists a folder /x as file:/x.
        return file.split(self._path.rstrip("/").removeprefix("file:") + "/", 1)[-1]

    @property
    def version(self) -> str:
        return version_of(self.files)

    @cached_property
    def columns(self) -> frozenset[str]:
        if self.format != "json":
            return frozenset(self.schema.fieldNames())
        rows = self.frame.select("value").limit(_FIRST_DOCUMENTS).collect()
        keys = [key for row in rows if isinstance(found := _json(row["value"]), dict) for key in found]
        return frozenset({*keys, *self.schema.fieldNames()} - {"value"})

    def of_files(self, keep: Callable[[str], bool]) -> DataFrame:
        return self._frame_of([file for name, file in self._named.items() if keep(name)])

    def texts_of(self, keep: Callable[[str], bool]) -> dict[str, str]:
        files = [_literal(file) for name, file in self._named.items() if keep(name)]
        if not files:
            return {}
        whole = self.spark.read.format("text").option("wholetext", "true").load(files)
        rows = whole.select("value", "_metadata.file_path").collect()
        return {self._name_of(unquote(row["file_path"])): row["value"] for row in rows}

    def _load(self) -> DataFrame:
        return self.of_files(lambda _: True)

    def _frame_of(self, files: Sequence[str]) -> DataFrame:
        paths = [_literal(file) for file in sorted(files)]
        if self.format == "json":
            return self._documents(paths)
        if self.format == "csv":
            return self._spelled(self._reader(self.spark).options(**_CSV).format("csv"), paths)
        try:
            return self._spelled(self._reader(self.spark).option("mergeSchema", "true").format("parquet"), paths)
        except Exception as error:
            if "TIMESTAMP(NANOS" not in str(error):
                raise
            # Typed as BIGINT by a session of its own, for it is decided there: no setting of the user's is changed.
            other = self.spark.newSession()
            other.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
            typed = self._reader(other).option("mergeSchema", "true").format("parquet").load(paths).schema
            # A session reads them so when it is given the types, and keeps its own settings.
            return self._spelled(self._reader(self.spark).schema(typed).format("parquet"), paths)

    def _reader(self, spark: SparkSession) -> DataFrameReader:
        # Spark takes no folders `name=value` with plain ones in between, as LangSmith's `…=…/runs/year=…`.
        is_plain = self._is_one_file or any(_PLAIN_BETWEEN.search(name) for name in self.names)
        return spark.read if is_plain else spark.read.option("basePath", self._path)

    def _spelled(self, reader: DataFrameReader, paths: Sequence[str]) -> DataFrame:
        frame = reader.load(list(paths))
        spelled = _as_spelled(frame.schema, self._path, self.files)
        return frame if spelled == frame.schema else reader.schema(spelled).load(list(paths))

    def _documents(self, paths: Sequence[str]) -> DataFrame:
        """Return a document a row: of lines, or of files that are one document each; lists are taken apart."""
        lines = self._spelled(self._reader(self.spark).format("text"), paths).where(F.trim("value") != "")
        first = next((row["value"] for row in islice(lines.select("value").limit(1).collect(), 1)), "")
        found = _json(first)
        if found is None and first:
            whole = self._spelled(self._reader(self.spark).format("text").option("wholetext", "true"), paths)
            beginning = whole.select(F.substring(F.ltrim("value"), 1, 1)).limit(1).collect()
            lines, found = whole, [] if beginning and beginning[0][0] == "[" else None
        if isinstance(found, list):
            lines = lines.withColumn("value", F.explode(F.from_json("value", "array<string>")))
        return lines


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _name(path: str) -> str:
    return posixpath.basename(path)


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
