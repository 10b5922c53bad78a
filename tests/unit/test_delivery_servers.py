"""Delivery to real servers: MLflow on sqlite and on PostgreSQL, read back by its own client, and Phoenix."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backfill_spark import Settings, deliver_backfill
from tests.delivered import JOB, a_result, an_error, job_with
from tests.servers import mlflow_server, phoenix_server, postgres, run_in

ROOT = Path(__file__).parents[2]
PROJECT = "/v1/projects/default"
READ_MLFLOW = """
import json, sys
from mlflow import MlflowClient
found = []
for trace in MlflowClient(sys.argv[1]).search_traces(locations=["0"], max_results=500, include_spans=False):
    for a in trace.info.assessments:
        why = a.error and a.error.error_code
        found.append([a.assessment_id, a.trace_id, a.name, a.value, why, a.rationale, a.source.source_type])
print(json.dumps(found))
"""
KILLED = """
import sys
from backfill_spark.cli import main
from backfill_spark.delivery.sinks.mlflow import Mlflow
Mlflow.size = 12
main(sys.argv[1:])
"""


@dataclass(frozen=True)
class MlflowPlace:
    """A server with traces, and its database."""

    url: str
    database: str
    folder: Path

    def read(self) -> list[list[Any]]:
        """What MLflow's own client finds."""
        script = self.folder / "read.py"
        script.write_text(READ_MLFLOW, encoding="utf-8")
        found: list[list[Any]] = json.loads(run_in("mlflow", script, self.url))
        return found


def post(url: str, body: Any) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status < 300


def make_traces(url: str, trace_ids: list[str]) -> None:
    for trace_id in trace_ids:
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
        info = {"trace_id": trace_id, "trace_location": place, "request_time": "2024-06-15T12:00:00Z", "state": "OK"}
        info |= {"execution_duration": "1.5s", "client_request_id": "mine", "tags": {"kept": "yes"}}
        post(f"{url}/api/3.0/mlflow/traces", {"trace": {"trace_info": info}})


def ids(first: int, count: int) -> list[str]:
    return [f"tr-{number:032x}" for number in range(first, first + count)]


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowPlace]:
    folder = tmp_path_factory.mktemp("sqlite")
    with mlflow_server(folder) as url:
        yield MlflowPlace(url, f"sqlite:///{folder}/mlflow.db", folder)


@pytest.fixture(scope="module")
def on_postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowPlace]:
    folder = tmp_path_factory.mktemp("postgresql")
    with postgres() as database, mlflow_server(folder, database=database) as url:
        yield MlflowPlace(url, database, folder)


def three_scorers(trace_id: str) -> list[dict[str, Any]]:
    return [
        a_result(trace_id, value=0.25, rationale="short"),
        a_result(trace_id, scorer_name="polite", value=True, source_type="LLM_JUDGE", source_id="openai:/gpt"),
        an_error(trace_id, scorer_name="slow"),
    ]


def expected(rows: list[dict[str, Any]]) -> list[list[Any]]:
    found = []
    for row in rows:
        value = None if row["value"] is None else json.loads(row["value"])
        what = [value, row.get("error_code"), row.get("rationale"), row["source_type"]]
        found.append([row["assessment_id"], row["trace_id"], row["assessment_name"], *what])
    return sorted(found)


@pytest.mark.parametrize("place", ["on_sqlite", "on_postgresql"])
def test_mlflow_by_rest_and_by_sql(place: str, request: pytest.FixtureRequest, settings: Settings) -> None:
    """Both ways write what MLflow's own client reads; the second finds the first one's work and changes nothing."""
    mlflow: MlflowPlace = request.getfixturevalue(place)
    by_rest, by_sql, gone = ids(0, 3), ids(10, 3), "tr-gone"
    make_traces(mlflow.url, [*by_rest, *by_sql])
    many = [a_result(by_rest[0], scorer_name=f"scorer{n}", value="yes") for n in range(6)]
    first = [row for trace in by_rest for row in three_scorers(trace)] + many
    second = [row | {"job_id": f"{JOB}2"} for trace in by_sql for row in three_scorers(trace)]
    job_with(settings, [*first, a_result(gone)])
    job_with(settings, [*second, a_result(gone, scorer_name="other", job_id=f"{JOB}2")], f"{JOB}2")

    rest = deliver_backfill(JOB, to=f"mlflow+{mlflow.url}", settings=settings)
    sql = deliver_backfill(f"{JOB}2", to=f"mlflow+{mlflow.database}", settings=settings)
    again = deliver_backfill(JOB, to=f"mlflow+{mlflow.database}", settings=settings)

    assert (rest.accepted, rest.rejected, rest.read_back) == (len(first), 1, len(first))
    assert (sql.accepted, sql.rejected, sql.read_back) == (len(second), 1, len(second))
    assert (again.accepted, again.read_back) == (len(first), len(first))
    assert sorted(mlflow.read()) == expected([*first, *second])


def test_killed_twice_each_result_is_there_once(on_sqlite: MlflowPlace, settings: Settings) -> None:
    """72 results of 3 scorers in batches of 12; kill -9 while the first, and while a later batch is under way."""
    traces = ids(100, 24)
    rows = [row for trace in traces for row in three_scorers(trace)]
    job_with(settings, rows)
    make_traces(on_sqlite.url, traces)
    there = sqlite3.connect(f"file:{on_sqlite.database.removeprefix('sqlite:///')}?mode=ro", uri=True)
    mine = f"SELECT count(*) FROM assessments WHERE trace_id >= '{traces[0]}'"
    for count in (8, 32):
        running = start(settings, on_sqlite.url)
        while there.execute(mine).fetchone()[0] < count:
            assert running.poll() is None, "it ended before it was killed"
        running.kill()
        running.communicate()
    last = start(settings, on_sqlite.url)
    told = json.loads(last.communicate()[0])
    state = dump(there)
    second = json.loads(start(settings, on_sqlite.url).communicate()[0])

    assert last.returncode == 0
    assert told["results"] == told["delivered_before"] + told["accepted"] == 72
    assert 12 <= told["delivered_before"] <= 36
    assert told["read_back"] == told["accepted"]
    assert sorted(one for one in on_sqlite.read() if one[1] in traces) == expected(rows)
    assert (second["delivered_before"], second["accepted"]) == (72, 0)
    assert dump(there) == state
    there.close()


def start(settings: Settings, url: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own, with small batches."""
    words = ["deliver", JOB, "--to", f"mlflow+{url}", "--set", f"tables.root={settings.root}", "--json", "--quiet"]
    path = {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, *words], stdout=subprocess.PIPE, text=True, env={**os.environ, **path}
    )


def dump(database: sqlite3.Connection) -> list[Any]:
    """All that a delivery could have written."""
    queries = (
        "SELECT * FROM assessments ORDER BY 1",
        "SELECT * FROM trace_info ORDER BY 1",
        "SELECT * FROM trace_tags",
    )
    return [database.execute(query).fetchall() for query in queries]


def test_phoenix(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> None:
    """Annotations of traces and spans; an unknown trace costs its own results only; a second delivery sends nothing."""
    folder = tmp_path_factory.mktemp("phoenix")
    traces, spans = [f"{n:032x}" for n in range(1, 4)], [f"{n:016x}" for n in range(1, 4)]
    rows = [row for trace in traces for row in three_scorers(trace)]
    rows += [a_result(traces[0], scorer_name="of_span", value="kind", span_id=spans[0]), a_result("f" * 32)]
    job_with(settings, rows)
    with phoenix_server(folder) as url:
        data = [
            {
                "name": "root",
                "span_kind": "CHAIN",
                "context": {"trace_id": trace, "span_id": span},
                "start_time": "2024-06-15T12:00:00Z",
                "end_time": "2024-06-15T12:00:01Z",
                "status_code": "OK",
            }
            for trace, span in zip(traces, spans, strict=True)
        ]
        spans_of(url, data)
        done = deliver_backfill(JOB, to=f"phoenix+{url}", settings=settings)
        again = deliver_backfill(JOB, to=f"phoenix+{url}", settings=settings)
        found = [one for trace in traces for one in get(f"{url}{PROJECT}/trace_annotations?trace_ids={trace}")]
        (of_span,) = get(f"{url}{PROJECT}/span_annotations?span_ids={spans[0]}")

    assert (done.accepted, done.rejected, done.not_sent, done.read_back) == (7, 1, 3, 7)
    assert (again.delivered_before, again.accepted) == (7, 0)
    assert len(found) == 6
    length, polite = sorted((one for one in found if one["trace_id"] == traces[0]), key=lambda one: str(one["name"]))
    assert (length["identifier"], length["annotator_kind"]) == ("length@1", "CODE")
    assert length["result"] == {"score": 0.25, "label": None, "explanation": "short"}
    assert (polite["identifier"], polite["annotator_kind"]) == ("polite@1", "LLM")
    assert (polite["result"]["score"], polite["result"]["label"]) == (1.0, "true")
    assert (of_span["name"], of_span["result"]["label"]) == ("of_span", "kind")


def spans_of(url: str, data: list[dict[str, Any]]) -> None:
    """Send spans, and wait until Phoenix has written them."""
    post(f"{url}{PROJECT}/spans", {"data": data})
    while len(get(f"{url}{PROJECT}/spans?limit=100")) < len(data):
        pass


def get(url: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(url, timeout=60) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]
        return found
