"""An MLflow server with 50,000 traces on PostgreSQL, imported, beside `mlflow.search_traces`.

    python -m benchmarks.mlflow_import [--traces N] [--peer N]

Kinds of spans, assessments, sessions, errors, archived traces and one of 30,000 spans are as in
`tests/mlflow_fill.py`. Imported three times: by SQL, by SQL with three kills, and a part of it over REST.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from deltalake import DeltaTable

from tests.mlflow_import import facts_of, import_traces
from tests.mlflow_store import add_spans, multiply
from tests.servers import mlflow_server, postgres, run_in

FILL, FACTS = "tests/mlflow_fill.py", "tests/mlflow_facts.py"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--traces", type=int, default=50_000)
    parser.add_argument("--peer", type=int, default=1_000)
    parser.add_argument("--archived", type=int, default=500)
    parser.add_argument("--spans", type=int, default=30_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, postgres() as database:
        measure(Path(folder), database, given)


def measure(folder: Path, database: str, given: argparse.Namespace) -> None:
    experiment = run_in("mlflow", FILL, "fill", database, str(folder)).strip()
    multiply(database, experiment, given.traces // 25 - 1)
    with psycopg.connect(database) as connection:
        ids = [row[0] for row in connection.execute("select request_id from trace_info where experiment_id = 1")]
    add_spans(database, ids[0], given.spans)
    run_in("mlflow", FILL, "archive", database, str(folder), str(given.archived))
    address = f"mlflow+{database}"
    tell("store", traces=len(ids), spans=count(database, "spans"), size=size(database))
    done = import_traces(address, folder / "whole")
    tell("sql", traces=done.traces, left=dict(done.left), seconds=done.seconds, pace=done.traces / done.seconds)
    again = import_traces(address, folder / "whole")
    tell("sql again", traces=again.traces, seconds=again.seconds)
    killed(address, folder)
    with mlflow_server(folder, database=database) as url:
        sample = folder / "sample.json"
        peer = json.loads(run_in("mlflow", FACTS, url, experiment, str(sample), str(given.peer)))
        pace = peer["traces"] / peer["seconds"]
        tell("mlflow.search_traces", **peer, pace=pace, times=done.traces / done.seconds / pace)
        theirs = json.loads(sample.read_text(encoding="utf-8"))
        names = set(random.Random(1).sample(sorted(theirs), min(500, len(theirs))))
        ours = facts_of(folder / "whole", names.__contains__)
        tell("equal", sample=len(names), differ=sum(not same(ours.get(name), theirs[name]) for name in names))
        start = datetime.fromtimestamp(max(one["at"] for one in ours.values()) / 1000 - 86_400 * 2, UTC)
        rest = import_traces(url, folder / "rest", start=start)
        tell("rest", traces=rest.traces, seconds=rest.seconds, pace=rest.traces / rest.seconds)


def killed(address: str, folder: Path) -> None:
    """Kill an import three times; nothing is lost or doubled."""
    table = folder / "killed"
    for files in (3, 8, 15):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.mlflow_import", address, str(table), "500"], stdout=subprocess.DEVNULL
        )
        while process.poll() is None and len(list(table.glob("*.parquet"))) < files:
            time.sleep(0.01)
        process.kill()
        process.wait()
    done = import_traces(address, table)
    ids = {
        name: DeltaTable(str(folder / name)).to_pyarrow_table(columns=["trace_id"])["trace_id"].to_pylist()
        for name in ("whole", "killed")
    }
    tell("killed three times", last=done.traces, same=sorted(ids["whole"]) == sorted(ids["killed"]))


def same(ours: Any, theirs: Any) -> bool:
    return bool(ours == theirs)


def count(database: str, table: str) -> int:
    with psycopg.connect(database) as connection:
        found = connection.execute(f"select count(*) from {table}").fetchone()
    assert found is not None
    return int(found[0])


def size(database: str) -> str:
    with psycopg.connect(database) as connection:
        found = connection.execute("select pg_size_pretty(pg_database_size(current_database()))").fetchone()
    assert found is not None
    return str(found[0])


def tell(what: str, **facts: Any) -> None:
    shown = {name: round(value, 2) if isinstance(value, float) else value for name, value in facts.items()}
    print(json.dumps({"what": what, **shown}), flush=True)


if __name__ == "__main__":
    main()
