"""Sources: where traces come from. Each ends in TRACES, from one pinned version."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame, SparkSession

from backfill_spark.errors import BackfillError, SourceGoneError, TraceSourceError
from backfill_spark.settings.locations import Location
from backfill_spark.settings.sections import parse_duration
from backfill_spark.storage.commit_log import is_delta
from backfill_spark.traces.sources.delta import PinnedTable
from backfill_spark.traces.sources.files import PinnedFiles, format_of, list_files, version_of
from backfill_spark.traces.sources.pinned import Pinned, PinnedFrame
from backfill_spark.traces.sources.read_errors import corrupt_file, first_line, refuse_skipping, source_gone, unmerged
from backfill_spark.traces.sources.shapes import named, shape_of
from backfill_spark.traces.sources.span_source import SpanSource
from backfill_spark.traces.sources.trace_source import POSITIONS, TraceSource
from backfill_spark.traces.sources.views import PinnedView

if TYPE_CHECKING:
    from backfill_spark.settings.schema import Settings
    from backfill_spark.traces.sources.mapping import Columns

__all__ = ["POSITIONS", "TraceSource", "corrupt_file", "open_source", "source_gone"]

_SET_SOURCE = "Name the traces with the setting traces.path or traces.table."


def open_source(
    spark: SparkSession,
    settings: Settings,
    source: DataFrame | str | os.PathLike[str] | Location | None = None,
    *,
    version: str | None = None,
    files: Sequence[str] | None = None,
    columns: Columns | None = None,
    shape: str | None = None,
    slack: str | None = None,
) -> TraceSource:
    """Open traces and pin them.

    Args:
        spark: The session; no setting of it is changed.
        settings: `traces` says where the traces are, which shape they have and how their columns are called.
        source: A path, a table name, what a job recorded as a Location (then `traces.format` does not matter), or a
            DataFrame (which cannot be pinned); default: the settings' own.
        version: The version to open, as `TraceSource.version` gave it; default: the newest.
        files: Read exactly these, as `TraceSource.files` gave them.
        columns: Instead of the setting `traces.columns`.
        shape: Instead of the setting `traces.shape`.
        slack: Instead of the setting `traces.slack`.

    Raises:
        TraceSourceError: nothing is there, it is of no known format or shape, or its columns do not fit.
        SourceGoneError: `version` or one of `files` can no longer be read.
        NameRefusedError: the path or name is one that no table may have, or lies outside `limits.path_roots`.
    """
    columns = settings.traces.mapping if columns is None else columns
    shape = settings.traces.shape if shape is None else shape
    lasts = parse_duration(settings.traces.slack if slack is None else slack)
    if shape != "auto":
        named(shape)
    if not isinstance(source, str | os.PathLike | Location | None):
        return _shaped(PinnedFrame(source), columns, shape, lasts)
    location = source if isinstance(source, Location) else _location(settings, source)
    wanted = "auto" if isinstance(source, Location) else settings.traces.format
    refuse_skipping(spark, location.shown)
    try:
        pinned = _pin(spark, settings.path_roots, location, wanted, version, files)
        return _shaped(pinned, columns, shape, lasts)
    except TraceSourceError as error:
        if version is None and files is None:
            raise
        raise SourceGoneError(f"The pinned version of the traces can no longer be read. {error}") from error
    except BackfillError:
        raise
    except Exception as error:
        raise _explained(error, location, version=version, files=files) from error


def _shaped(pinned: Pinned, columns: Columns, shape: str, slack: timedelta) -> TraceSource:
    opened = shape_of(pinned, shape, columns).open(pinned, columns)
    if isinstance(opened, SpanSource):
        opened = replace(opened, slack=slack)
    if pinned.format != "dataframe":
        opened.look()
    return opened


def _location(settings: Settings, source: str | os.PathLike[str] | None) -> Location:
    if source is not None:
        return Location.given(source, settings.path_roots)
    if settings.traces.table is not None:
        return Location.of_name(settings.traces.table)
    return Location.of_path(settings.absolute(settings.traces_path), settings.path_roots)


def _pin(
    spark: SparkSession,
    roots: Sequence[str],
    location: Location,
    wanted: str,
    version: str | None,
    files: Sequence[str] | None,
) -> Pinned:
    kind, path = _kind(spark, roots, location)
    if kind == "view":
        return PinnedView(spark, location, version)
    if kind == "delta":
        if wanted not in ("auto", kind):
            raise _of_other_format(location, wanted, kind)
        if files or (version is not None and version.startswith("files:")):
            raise SourceGoneError(f"The traces at {location.shown!r} were files and are now a Delta table.")
        return PinnedTable(spark, location, roots, version)
    if version is not None and not version.startswith("files:"):
        raise SourceGoneError(f"The traces at {location.shown!r} were a Delta table and are no more.")
    if files is not None:
        checked = tuple(str(Location.of_path(file, roots).path) for file in files)
    else:
        checked = list_files(spark, path, roots)
    if not checked:
        raise TraceSourceError(f"There are no files at {location.shown!r}. {_SET_SOURCE}")
    if version is not None and version != version_of(checked):
        raise SourceGoneError(
            f"The files at {location.shown!r} are not those of the pinned list ({version}, now {version_of(checked)})."
        )
    if wanted == "delta":
        raise _of_other_format(location, wanted, format_of(checked))
    if kind == "files":
        kind = format_of(checked) if wanted == "auto" else wanted
    return PinnedFiles(spark, path, checked, kind, table=location.name)


def _kind(spark: SparkSession, roots: Sequence[str], location: Location) -> tuple[str, str]:
    """Return delta, view, files or the format of a table of files, and the path."""
    if location.path is not None:
        return "delta" if is_delta(spark, location.path) else "files", location.path
    path, found = _of_catalog(spark, location)
    return found, path if found in ("delta", "view") else str(Location.of_path(path, roots).path)


def _of_other_format(location: Location, wanted: str, found: str) -> TraceSourceError:
    is_what = "a Delta table" if found == "delta" else "no Delta table"
    return TraceSourceError(
        f"traces.format is {wanted}, but {location.shown!r} is {is_what}. Set traces.format to auto or {found}."
    )


def _of_catalog(spark: SparkSession, location: Location) -> tuple[str, str]:
    """Return the path and format of a table by name."""
    if not spark.catalog.tableExists(str(location.name)):
        raise _nothing_at(location)
    rows = spark.sql(f"DESCRIBE TABLE EXTENDED {location.quoted}").collect()
    said = {row["col_name"]: row["data_type"] for row in rows}
    provider = str(said.get("Provider", "")).lower() or "view"
    if provider not in ("delta", "parquet", "view"):
        raise TraceSourceError(
            f"{location.shown!r} is a table of format {provider}, which cannot be pinned to a version. Name a Delta or "
            "Parquet table, or a view of such tables."
        )
    return str(said.get("Location", "")), provider


def _nothing_at(location: Location) -> TraceSourceError:
    kind = "table, and no file of this name lies here" if location.path is None else "file, folder or table"
    hint = "Wildcards are not expanded; name the folder. " if location.path and "*" in location.path else ""
    if location.name is not None and Path(location.name).is_dir():
        kind, hint = "table", f"The folder of this name is './{location.name}'. "
    return TraceSourceError(f"There are no traces at {location.shown!r}: there is no such {kind}. {hint}{_SET_SOURCE}")


def _explained(
    error: Exception, location: Location, *, version: str | None, files: Sequence[str] | None
) -> BackfillError:
    shown = location.shown
    if source_gone(error):
        if version is not None or files is not None:
            return SourceGoneError(
                f"The pinned version {version or 'of the files'} of the traces at {shown!r} can no longer be read: "
                f"{first_line(error)}"
            )
        return _nothing_at(location)
    damaged = corrupt_file(error)
    if damaged is not None:
        return TraceSourceError(
            f"The traces at {shown!r} are neither a Delta table nor readable Parquet: {damaged!r} is no Parquet file, "
            "or is damaged. Name a folder that holds Parquet files only, or a Delta table."
        )
    differing = unmerged(error)
    if differing:
        return TraceSourceError(
            f"The Parquet files at {shown!r} have columns of types that do not fit together: {'; '.join(differing)}. "
            "Write the column with one type in all files (pandas gives a column of None only no type: "
            "astype('string') does), or name a folder of files that fit."
        )
    return TraceSourceError(f"The traces at {shown!r} cannot be read: {first_line(error)} {_SET_SOURCE}")
