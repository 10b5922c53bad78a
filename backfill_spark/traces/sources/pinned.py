"""Pinned: what a source is stored in, at one version, in its own columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from backfill_spark.errors import TraceSourceError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType


class Pinned(ABC):
    """A table, a list of files or a frame, pinned. Nothing is read before it is asked for."""

    format: str
    """delta, parquet, json, csv, view or dataframe."""
    is_table = False
    """True when it was named as a table of the catalog."""
    has_positions = True
    """True where rows know their file and place."""
    files: tuple[str, ...] = ()
    """The frozen list, sorted, where it is one."""
    notes: tuple[str, ...] = ()
    """What a plan says of how it is pinned."""
    names: frozenset[str] = frozenset()
    """The files' names below the place that was given."""

    def __init__(self, spark: SparkSession, name: str) -> None:
        self.spark = spark
        self.name = name
        """Absolute path or URI, or the name of a table."""

    @property
    @abstractmethod
    def version(self) -> str:
        """A text that names each table and list of files that was opened through it; "" for a DataFrame."""

    @property
    def table_id(self) -> str | None:
        """Delta's own ids of the tables: one that was dropped and made again has another one."""
        return None

    def check(self) -> None:  # noqa: B027 - a version stays
        """Look whether it is still as it was pinned, where that is not given.

        Raises:
            SourceGoneError: it is not.
        """

    @abstractmethod
    def _load(self) -> DataFrame: ...

    @cached_property
    def frame(self) -> DataFrame:
        """All of it: its own columns; JSON as a column `value` with a document a row, times in nanoseconds as BIGINT.

        Raises:
            AnalysisException, Py4JJavaError: a file is gone or cannot be read (Spark's own errors).
        """
        return self._load()

    @property
    def schema(self) -> StructType:
        """The columns of `frame`."""
        return self.frame.schema

    @property
    def columns(self) -> frozenset[str]:
        """Names of the columns; of JSON the top keys of the first documents."""
        return frozenset(self.schema.fieldNames())

    def of_files(self, keep: Callable[[str], bool]) -> DataFrame:  # noqa: ARG002 - only lists of files have any
        """Return the rows of those files whose name (as in `names`) `keep` takes.

        Raises:
            TraceSourceError: it is a table, or a DataFrame.
        """
        raise TraceSourceError(f"The traces at {self.name!r} are no list of files.")

    def texts_of(self, keep: Callable[[str], bool]) -> dict[str, str]:  # noqa: ARG002 - only lists of files have any
        """Return the whole text of each file whose name (as in `names`) `keep` takes; small files only."""
        return {}

    def beside(self, old: str, new: str) -> DataFrame | None:  # noqa: ARG002 - only tables have others beside them
        """Return the Delta table whose name ends with `new` where this one's ends with `old`, pinned with it.

        Ask for it while the shape is opened: only then `version` names it. None where there is none, and for a job
        that goes on also where there was none when it was planned.
        """
        return None


class PinnedFrame(Pinned):
    """A DataFrame, which cannot be pinned."""

    format = "dataframe"
    version = ""
    has_positions = False

    def __init__(self, frame: DataFrame) -> None:
        super().__init__(frame.sparkSession, "DataFrame")
        self._frame = frame

    def _load(self) -> DataFrame:
        return self._frame
