"""Sources: where traces come from. Each ends in TRACES, from one pinned version."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame, SparkSession

from backfill_spark.errors import BackfillError, SourceGoneError, TraceSourceError
from backfill_spark.settings.locations import Location, absolute
from backfill_spark.traces.sources import canonical
from backfill_spark.traces.sources.delta import Snapshot, is_delta, open_snapshot
from backfill_spark.traces.sources.parquet import FileList, list_files, open_files, version_of
from backfill_spark.traces.sources.read_errors import corrupt_file, first_line, refuse_skipping, source_gone, unmerged
from backfill_spark.traces.sources.trace_source import POSITIONS, TraceSource

if TYPE_CHECKING:
    from pyspark.sql.types import StructField

    from backfill_spark.settings.schema import Settings

__all__ = ["POSITIONS", "TraceSource", "corrupt_file", "open_source", "source_gone"]

_SET_SOURCE = "Name the traces with the setting traces.path or traces.table."


def open_source(
    spark: SparkSession,
    settings: Settings,
    source: DataFrame | str | os.PathLike[str] | Location | None = None,
    *,
    version: str | None = None,
    files: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> TraceSource:
    """Open traces and pin them.

    Args:
        spark: The session; no setting of it is changed.
        settings: `traces` says where the traces are and how their columns are called.
        source: A path, a table name, what a job recorded as a Location (then `traces.format` does not matter), or a
            DataFrame (which cannot be pinned); default: the settings' own.
        version: The version to open, as `TraceSource.version` gave it; default: the newest.
        files: Parquet: read exactly these, as `TraceSource.files` gave them.
        columns: Instead of the setting `traces.columns`.

    Raises:
        TraceSourceError: nothing is there, it is neither Delta nor Parquet, or its columns do not fit.
        SourceGoneError: `version` or one of `files` can no longer be read.
        NameRefusedError: the path or name is one that no table may have, or lies outside `limits.path_roots`.
    """
    columns = settings.traces.columns if columns is None else columns
    if not isinstance(source, str | os.PathLike | Location | None):
        return _described("DataFrame", source, columns, kind="dataframe")
    location = source if isinstance(source, Location) else _location(settings, source)
    wanted = "auto" if isinstance(source, Location) else settings.traces.format
    refuse_skipping(spark, location.shown)
    try:
        pinned = _pin(spark, settings.path_roots, location, wanted, version, files)
        pinned.frame.schema  # noqa: B018 - some sessions look at the files only now
    except TraceSourceError as error:
        if version is None and files is None:
            raise
        raise SourceGoneError(f"The pinned version of the traces can no longer be read. {error}") from error
    except BackfillError:
        raise
    except Exception as error:
        raise _explained(error, location, version=version, files=files) from error
    found: dict[str, Any] = {"version": pinned.version, "is_table": location.name is not None}
    if isinstance(pinned, FileList):
        found |= {"kind": "parquet", "files": pinned.files}
    else:
        found |= {"kind": "delta", "table_id": pinned.table_id}
    return _described(location.shown, pinned.frame, columns, **found)


def _location(settings: Settings, source: str | os.PathLike[str] | None) -> Location:
    if source is None and settings.traces.table is not None:
        return Location.of_name(settings.traces.table)
    if isinstance(source, str) and (named := Location.parse(source)).name is not None:
        return named
    path = settings.absolute(settings.traces_path) if source is None else absolute(os.fspath(source), str(Path.cwd()))
    return Location.of_path(path, settings.path_roots)


def _described(
    name: str,
    frame: DataFrame,
    own_names: Mapping[str, str],
    *,
    kind: str,
    version: str = "",
    table_id: str | None = None,
    files: tuple[str, ...] = (),
    is_table: bool = False,
) -> TraceSource:
    def is_all_null(field: StructField) -> bool:
        return not frame.where(canonical.raw(field).isNotNull()).head(1)

    sensitive = frame.sparkSession.conf.get("spark.sql.caseSensitive") == "true"
    fields = canonical.resolve(frame.schema, own_names, name, is_all_null, case_sensitive=sensitive)
    columns = frozenset({*fields, canonical.COMPUTED})
    return TraceSource(name, kind, version, table_id, columns, files, is_table, frame=frame, fields=fields)


def _pin(
    spark: SparkSession,
    roots: Sequence[str],
    location: Location,
    wanted: str,
    version: str | None,
    files: Sequence[str] | None,
) -> Snapshot | FileList:
    kind, path = _kind(spark, roots, location, wanted)
    if kind == "delta":
        if files or (version is not None and not version.isdigit()):
            raise SourceGoneError(f"The traces at {location.shown!r} were Parquet files and are now a Delta table.")
        return open_snapshot(spark, location, version=None if version is None else int(version))
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
    return open_files(spark, path, checked)


def _kind(spark: SparkSession, roots: Sequence[str], location: Location, wanted: str) -> tuple[str, str]:
    """Return the format and, for Parquet, the path."""
    if location.path is not None:
        path, found = location.path, "delta" if is_delta(spark, location.path) else "parquet"
    else:
        path, found = _of_catalog(spark, location)
        path = str(Location.of_path(path, roots).path) if found == "parquet" else path
    if wanted not in ("auto", found):
        is_what = "a Delta table" if found == "delta" else "no Delta table"
        raise TraceSourceError(
            f"traces.format is {wanted}, but {location.shown!r} is {is_what}. Set traces.format to auto or {found}."
        )
    return found, path


def _of_catalog(spark: SparkSession, location: Location) -> tuple[str, str]:
    """Return the path and format of a table by name."""
    if not spark.catalog.tableExists(str(location.name)):
        raise _nothing_at(location)
    rows = spark.sql(f"DESCRIBE TABLE EXTENDED {location.quoted}").collect()
    said = {row["col_name"]: row["data_type"] for row in rows}
    provider = str(said.get("Provider", "")).lower()
    if provider not in ("delta", "parquet"):
        what = f"a table of format {provider}" if provider else "a view"
        raise TraceSourceError(
            f"{location.shown!r} is {what}, which cannot be pinned to a version. Name a Delta or Parquet table."
        )
    return str(said.get("Location", "")), provider


def _nothing_at(location: Location) -> TraceSourceError:
    kind = "table" if location.path is None else "file, folder or table"
    hint = "Wildcards are not expanded; name the folder. " if location.path and "*" in location.path else ""
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
    said = first_line(error)
    if "TIMESTAMP(NANOS" in said:
        return TraceSourceError(
            f"The Parquet files at {shown!r} have times in nanoseconds, which Spark does not read ({said}). Write them "
            "in microseconds (pandas: to_parquet(…, coerce_timestamps='us', allow_truncated_timestamps=True))."
        )
    return TraceSourceError(f"The traces at {shown!r} cannot be read as Delta or Parquet: {said} {_SET_SOURCE}")
