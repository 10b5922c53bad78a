"""The table that an import fills: a Delta table in a folder, written without Spark."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from backfill_spark.errors import SchemaVersionError, TraceSourceError
from backfill_spark.schema import IMPORTED_TRACES
from backfill_spark.settings.locations import Location, absolute
from backfill_spark.storage.deltalake_table import DeltalakeTable
from backfill_spark.storage.reach import is_reached, local_folder

if TYPE_CHECKING:
    from backfill_spark.settings.schema import Settings

_ANOTHER = "Name a folder for the imported traces with --to."


def target(settings: Settings, to: str | None) -> DeltalakeTable:
    """Return the table, made when it is not there.

    Args:
        settings: the traces that they name are the target when `to` is None.
        to: a folder.

    Raises:
        TraceSourceError: it is no folder of this machine, or holds something else.
        NameRefusedError: no table may lie there.
    """
    if to is None and settings.traces.table is not None:
        raise TraceSourceError(
            f"traces.table is {settings.traces.table!r}, and an import writes to a folder. {_ANOTHER}"
        )
    path = settings.absolute(settings.traces_path) if to is None else absolute(os.fspath(to), str(Path.cwd()))
    location = Location.of_path(path, settings.path_roots)
    folder = local_folder(location, settings)
    if folder is None or not is_reached(folder):
        raise TraceSourceError(
            f"{location.shown!r} is no folder of this machine that a Delta table can lie in. {_ANOTHER}"
        )
    table = DeltalakeTable(IMPORTED_TRACES, location, folder)
    if not table.exists() and folder.is_dir() and any(folder.iterdir()):
        raise TraceSourceError(f"The folder {location.shown!r} holds files that are no Delta table. {_ANOTHER}")
    try:
        table.ensure().check_columns()
    except SchemaVersionError as error:
        raise TraceSourceError(f"{location.shown!r} has traces that no import has written. {_ANOTHER}") from error
    return table
