"""TraceSource: traces of one pinned version, read as TRACES."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from backfill_spark.models import TimeWindow
from backfill_spark.schema import TRACES
from backfill_spark.traces.sources import canonical
from backfill_spark.traces.sources.read_errors import refuse_skipping

if TYPE_CHECKING:
    from pyspark.sql.types import StructField

POSITIONS = ("_file", "_block", "_row")
"""Order of rows in the source: path of the file, offset of the block in it, number that rises within the block."""


@dataclass(frozen=True, slots=True)
class TraceSource:
    """Traces of one pinned version of a source."""

    name: str
    """Absolute path or URI, or the name of a table."""
    format: str
    """delta, parquet, or dataframe."""
    version: str
    """Delta's version number, `files:` and a hash of the frozen list, or "" for a DataFrame."""
    table_id: str | None
    columns: frozenset[str]
    """The canonical columns that the source has; `trace_date` always is one."""
    files: tuple[str, ...] = ()
    """Parquet: the frozen list."""
    is_table: bool = False
    """True when it was named as a table of the catalog."""
    frame: DataFrame = field(kw_only=True, repr=False, compare=False)
    """The pinned source in its own columns."""
    fields: Mapping[str, StructField] = field(kw_only=True, repr=False, compare=False)
    """Canonical column: field of the source."""

    @property
    def kind(self) -> str:
        """`delta path`, `parquet path`, `table` or `dataframe`."""
        if self.format == "dataframe":
            return self.format
        return "table" if self.is_table else f"{self.format} path"

    def read(
        self,
        columns: Collection[str],
        window: TimeWindow,
        *,
        untimed: bool = False,
        positions: bool = False,
        experiment_id: str | None = None,
    ) -> DataFrame:
        """Return `columns` of the traces in `window`, in the order of TRACES and with its types.

        Only these columns are read, besides the ones that the predicates need; the window reaches the file scan.
        `spans` and `assessments` stay as the source has them: an array of structs, or JSON text.

        Args:
            columns: Canonical columns that the source has.
            window: Half-open window of request_time; rows without a time are in none.
            untimed: Also give the rows whose request_time is NULL.
            positions: Also give POSITIONS, by which duplicates are told apart.
            experiment_id: Only rows of this experiment or of none, when the source has the column.

        Raises:
            ValueError: a column is not in `.columns`.
            TraceSourceError: the session skips files that it cannot read.
        """
        absent = sorted(set(columns) - self.columns)
        if absent:
            raise ValueError(f"the traces at {self.name!r} do not have the columns {absent}; see TraceSource.columns")
        if self.format != "dataframe":
            refuse_skipping(self.frame.sparkSession, self.name)
        rows = self.frame
        predicate = canonical.in_window(self.fields["request_time"], window, untimed=untimed)
        if predicate is not None:
            rows = rows.where(predicate)
        if experiment_id is not None and "experiment_id" in self.fields:
            rows = rows.where(canonical.of_experiment(self.fields["experiment_id"], experiment_id))
        wanted = [canonical.column(name, self.fields) for name in TRACES.fieldNames() if name in columns]
        return rows.select(*wanted, *(self._positions(rows) if positions else ()))

    def traces(self) -> DataFrame:
        """Return every row with every column of TRACES; columns that the source lacks are NULL."""
        have = self.read(self.columns, TimeWindow(), untimed=True)
        absent = {f.name: F.lit(None).cast(f.dataType) for f in TRACES.fields if f.name not in self.columns}
        return have.withColumns(absent).select(*TRACES.fieldNames())

    def _positions(self, rows: DataFrame) -> tuple[Column, ...]:
        if self.format == "dataframe":
            file, block = F.lit(""), F.lit(0).cast("bigint")
        else:
            # Not F.col: the source may have a column `_metadata` of its own.
            hidden = rows.metadataColumn("_metadata")
            file, block = hidden["file_path"], hidden["file_block_start"]
        values = (file, block, F.monotonically_increasing_id())
        return tuple(value.alias(name) for value, name in zip(values, POSITIONS, strict=True))
