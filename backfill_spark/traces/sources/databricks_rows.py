"""Databricks' tables and views with a row a trace: the archive table, and the unified view.

The archive's columns are documented nowhere; these are the ones seen in public code that reads such tables. The view's
columns stand in Databricks' page on querying traces of Unity Catalog.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import types as T

from backfill_spark.traces.sources.canonical import row_source
from backfill_spark.traces.sources.mapping import MappingError, follow
from backfill_spark.traces.sources.origin import of_field
from backfill_spark.traces.sources.shape import Match, Shape, by_columns

if TYPE_CHECKING:
    from backfill_spark.traces.sources.mapping import Columns
    from backfill_spark.traces.sources.origin import Origin
    from backfill_spark.traces.sources.pinned import Pinned
    from backfill_spark.traces.sources.row_source import RowSource

_LOCATION = "trace_location"


def _tells_archive(pinned: Pinned) -> Match:
    return _by_columns(pinned, "trace_id", "request_time", _LOCATION)


def _open_archive(pinned: Pinned, columns: Columns) -> RowSource:
    return row_source(pinned, columns, ARCHIVE.name, pinned.frame, _experiment(pinned))


def _experiment(pinned: Pinned) -> dict[str, Origin]:
    """The experiment stands in the location, and nowhere else."""
    if "experiment_id" in pinned.columns:
        return {}
    steps = ["mlflow_experiment", "experiment_id"]
    try:
        return {"experiment_id": follow(of_field(pinned.schema[_LOCATION]), steps, told=".".join([_LOCATION, *steps]))}
    except MappingError:  # a location of another kind only
        return {}


def _tells_view(pinned: Pinned) -> Match:
    match = _by_columns(pinned, "trace_id", "request_time", "client_request_id", "spans")
    if match.lacks:
        return match
    spans = pinned.schema["spans"].dataType
    element = spans.elementType if isinstance(spans, T.ArrayType) else None
    names = element.fieldNames() if isinstance(element, T.StructType) else []
    lacks = tuple(f"spans.{n}" for n in ("parent_span_id", "start_time_unix_nano", "resource") if n not in names)
    return Match(match.has, lacks)


def _by_columns(pinned: Pinned, *needed: str) -> Match:
    # Of texts there are keys and no types.
    return Match((), needed) if pinned.format in ("json", "csv") else by_columns(pinned, *needed)


def _open_view(pinned: Pinned, columns: Columns) -> RowSource:
    return row_source(pinned, columns, VIEW.name, pinned.frame)


ARCHIVE = Shape("databricks_archive", "Databricks' archive table of an experiment", _tells_archive, _open_archive)
VIEW = Shape("databricks_unified", "Databricks' view {prefix}_trace_unified, or a copy of it", _tells_view, _open_view)
