"""TraceSource: traces of one pinned version, read as TRACES, whatever their shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from backfill_spark.models import TimeWindow
from backfill_spark.schema import PAYLOAD, TRACES
from backfill_spark.traces.sources.lists import as_assessments, as_spans
from backfill_spark.traces.sources.pinned import Pinned
from backfill_spark.traces.sources.read_errors import refuse_skipping

POSITIONS = ("_file", "_block", "_row")
"""Order of rows in the source: path of the file, offset of the block in it, number that rises within the block."""


@dataclass(frozen=True, slots=True)
class Query:
    """What `TraceSource.read` was asked for, in its words."""

    columns: frozenset[str]
    window: TimeWindow
    untimed: bool
    positions: bool
    experiment_id: str | None
    states: Collection[str] | None
    keys: Mapping[str, Collection[str]]


class TraceSource(ABC):
    """Traces of one pinned version of a source. All that is asked of it is here."""

    pinned: Pinned
    shape: str
    """The name of the shape by which it is read."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a plan says about it."""
        return self.pinned.notes

    @property
    @abstractmethod
    def columns(self) -> frozenset[str]:
        """The columns of TRACES that it has; `trace_date` always is one."""

    @property
    @abstractmethod
    def mapping(self) -> Mapping[str, str]:
        """Column of TRACES: what it is made of, in words."""

    @abstractmethod
    def _read(self, query: Query) -> DataFrame:
        """As `read`, which has checked what is asked."""

    @property
    def name(self) -> str:
        """Absolute path or URI, or the name of a table."""
        return self.pinned.name

    @property
    def format(self) -> str:
        """delta, parquet, json, csv, view or dataframe."""
        return self.pinned.format

    @property
    def kind(self) -> str:
        """`delta path` and the like, `table` or `dataframe`."""
        if self.format == "dataframe":
            return self.format
        return "table" if self.pinned.is_table else f"{self.format} path"

    @property
    def version(self) -> str:
        """What is pinned, in a text that opens it again; "" for a DataFrame."""
        return self.pinned.version

    @property
    def table_id(self) -> str | None:
        """The ids of the Delta tables that are read."""
        return self.pinned.table_id

    @property
    def files(self) -> tuple[str, ...]:
        """The frozen list of files, where it is one."""
        return self.pinned.files

    @property
    def payload(self) -> str | None:
        """The payload rule that the table itself names, as imported ones do; None: it says nothing."""
        if self.format != "delta":
            return None  # the columns of a folder may be those of several tables
        named = [field.metadata.get(PAYLOAD) for field in self.pinned.schema.fields if field.name == "request"]
        return named[0] if named else None

    def read(
        self,
        columns: Collection[str],
        window: TimeWindow,
        *,
        untimed: bool = False,
        positions: bool = False,
        experiment_id: str | None = None,
        states: Collection[str] | None = None,
        keys: Mapping[str, Collection[str]] | None = None,
    ) -> DataFrame:
        """Return `columns` of the traces in `window`, in the order of TRACES and with its types.

        Only these columns are read, besides the ones that the predicates need; the window reaches the file scan.
        `spans` and `assessments` may stay as the source has them: an array of structs, or JSON text.

        Args:
            columns: Canonical columns that the source has.
            window: Half-open window of request_time; rows without a time are in none.
            untimed: Also give the rows whose request_time is NULL.
            positions: Also give POSITIONS, by which duplicates are told apart.
            experiment_id: Only rows of this experiment or of none, when the source has the column.
            states: Rows of other states need not be given; reaches the file scan where a column holds the state. OK
                and ERROR, or None for any.
            keys: Column (trace_metadata, tags): the keys of it that are asked for; others need not be there.

        Raises:
            ValueError: a column is not in `.columns`.
            TraceSourceError: the session skips files that it cannot read.
            SourceGoneError: what a view reads has changed.
        """
        absent = sorted(set(columns) - self.columns)
        if absent:
            raise ValueError(f"the traces at {self.name!r} do not have the columns {absent}; see TraceSource.columns")
        if self.format != "dataframe":
            refuse_skipping(self.pinned.spark, self.name)
            self.pinned.check()
        return self._read(
            Query(frozenset(columns), window, untimed, positions, experiment_id, states, {} if keys is None else keys)
        )

    def look(self) -> None:
        """Raise what Spark says where the columns cannot be read; some sessions look at the files only now."""
        self.read(self.columns, TimeWindow()).schema  # noqa: B018

    def traces(self) -> DataFrame:
        """Return every row with every column of TRACES and its types; columns that the source lacks are NULL."""
        have = self.read(self.columns, TimeWindow(), untimed=True)
        made = {f.name: F.lit(None).cast(f.dataType) for f in TRACES.fields if f.name not in self.columns}
        for name, as_array in (("spans", as_spans), ("assessments", as_assessments)):
            if name in self.columns and have.schema[name].dataType != TRACES[name].dataType:
                made[name] = as_array(F.col(name), have.schema[name].dataType)
        return have.withColumns(made).select(*TRACES.fieldNames())
