"""An import that runs in a process of its own, to be killed.

python -m tests.mlflow_import ADDRESS FOLDER [CHUNK]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from backfill_spark import Trace
from backfill_spark.schema import IMPORTED_TRACES
from backfill_spark.settings.locations import Location
from backfill_spark.storage.deltalake_table import DeltalakeTable
from backfill_spark.traces.mlflow_server.address import find_experiment, open_server
from backfill_spark.traces.mlflow_server.copying import Import, Imported
from tests.mlflow_facts import facts


def import_traces(address: str, folder: Path, *, chunk: int = 500, **how: Any) -> Imported:
    """Import the experiment `parcels`; `how` are further arguments of `Import`, `start` of its run."""
    server = open_server(address, artifacts=how.pop("artifacts", None))
    start = how.pop("start", None)
    try:
        table = DeltalakeTable(IMPORTED_TRACES, Location.of_path(str(folder)), folder)
        return Import(server, find_experiment(server, "parcels"), table, chunk=chunk, **how).run(start)
    finally:
        server.close()


def rows_of(folder: Path, wanted: Callable[[str], bool] = lambda _: True) -> list[dict[str, Any]]:
    """The rows of a table whose trace id is wanted, as a scorer gets them."""
    rows: list[dict[str, Any]] = DeltaTable(str(folder)).to_pyarrow_table().to_pylist()
    for row in rows:
        row["request_time"] = round(row["request_time"].timestamp() * 1e6)
        for name in ("tags", "trace_metadata"):
            row[name] = dict(row[name])
        for assessment in row["assessments"]:
            assessment["metadata"] = dict(assessment["metadata"] or ())
    return [row for row in rows if wanted(row["trace_id"])]


def facts_of(folder: Path, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, Any]:
    """Trace id → facts of what was imported."""
    return {row["trace_id"]: facts(Trace(row, payload="json")) for row in rows_of(folder, wanted)}


if __name__ == "__main__":
    print(import_traces(sys.argv[1], Path(sys.argv[2]), chunk=int(sys.argv[3])))
