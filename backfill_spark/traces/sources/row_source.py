"""RowSource: traces of which each row of the source is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from backfill_spark.schema import TRACES
from backfill_spark.traces.sources.origin import COMPUTED, Origin
from backfill_spark.traces.sources.pinned import Pinned
from backfill_spark.traces.sources.trace_source import POSITIONS, Query, TraceSource
from backfill_spark.traces.times import in_window, utc_date


@dataclass(frozen=True)
class RowSource(TraceSource):
    """A row a trace: each column of TRACES is an expression over the row."""

    pinned: Pinned
    shape: str
    origins: Mapping[str, Origin] = field(repr=False)
    frame: DataFrame = field(repr=False)
    """The rows that `origins` is about."""

    @property
    def columns(self) -> frozenset[str]:
        return frozenset({*self.origins, COMPUTED})

    @property
    def mapping(self) -> Mapping[str, str]:
        return {
            name: origin.told + (f" (in {origin.unit} since 1970)" if origin.unit else "")
            for name, origin in self.origins.items()
        }

    def _read(self, query: Query) -> DataFrame:
        rows, time = self.frame, self.origins["request_time"]
        predicate = in_window(time.value, time.type, query.window, unit=time.unit, untimed=query.untimed)
        if predicate is not None:
            rows = rows.where(predicate)
        experiment = self.origins.get("experiment_id")
        if query.experiment_id is not None and experiment is not None and not experiment.is_void:
            theirs = experiment.read("experiment_id")
            rows = rows.where((theirs == F.lit(query.experiment_id)) | theirs.isNull())
        state = self.origins.get("state")
        # Where rows are made of texts, the texts would be parsed once more.
        if query.states is not None and state is not None and not state.is_void and self.frame is self.pinned.frame:
            # In the column as it stands, which a scan can look at; all spellings lie between these two.
            spelled = [state.value.between(F.lit(one), F.lit(one.lower())) for one in sorted(query.states)]
            rows = rows.where(reduce(Column.__or__, spelled, F.lit(False)))
        wanted = [self._column(name) for name in TRACES.fieldNames() if name in query.columns]
        return rows.select(*wanted, *(self._positions(rows) if query.positions else ()))

    def _column(self, name: str) -> Column:
        if name != COMPUTED:
            return self.origins[name].read(name)
        return utc_date(self.origins["request_time"].read("request_time")).alias(name)

    def _positions(self, rows: DataFrame) -> tuple[Column, ...]:
        if not self.pinned.has_positions:
            file, block = F.lit(""), F.lit(0).cast("bigint")
        else:
            # Not F.col: the source may have a column `_metadata` of its own.
            hidden = rows.metadataColumn("_metadata")
            file, block = hidden["file_path"], hidden["file_block_start"]
        values = (file, block, F.monotonically_increasing_id())
        return tuple(value.alias(name) for value, name in zip(values, POSITIONS, strict=True))
