"""Traces of a real MLflow server on PostgreSQL, imported by SQL and over REST: as its own client reads them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from deltalake import DeltaTable

from backfill_spark.errors import TraceImportError, TraceSourceError
from backfill_spark.traces.mlflow_server.address import find_experiment, open_server
from tests.mlflow_import import facts_of, import_traces, rows_of
from tests.mlflow_store import add_spans, multiply
from tests.servers import mlflow_server, postgres, run_in

ROOT = Path(__file__).parents[2]
COPIES = 7
TRACES = 25 * (COPIES + 1)
ARCHIVED = 12


@dataclass(frozen=True)
class Store:
    """An MLflow store of 200 traces: 12 archived, the file of one of them gone, one of 2,030 spans."""

    database: str
    url: str
    experiment: str
    theirs: dict[str, Any]
    """Trace id → facts, as `mlflow.search_traces` gives them."""

    @property
    def sql(self) -> str:
        return f"mlflow+{self.database}"

    def execute(self, statement: str, *values: Any) -> list[Any]:
        with psycopg.connect(self.database, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("mlflow")
    with postgres() as database:
        experiment = run_in("mlflow", ROOT / "tests/mlflow_fill.py", "fill", database, str(folder)).strip()
        multiply(database, experiment, COPIES)
        with psycopg.connect(database) as connection:
            found = connection.execute("select max(request_id) from trace_info where experiment_id = 1").fetchone()
        assert found is not None
        add_spans(database, found[0], 2_000)
        run_in("mlflow", ROOT / "tests/mlflow_fill.py", "archive", database, str(folder), str(ARCHIVED))
        with mlflow_server(folder, database=database) as url:
            file = folder / "theirs.json"
            run_in("mlflow", ROOT / "tests/mlflow_facts.py", url, experiment, str(file))
            yield Store(database, url, experiment, json.loads(file.read_text(encoding="utf-8")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "traces"


@pytest.fixture
def undone(store: Store) -> Iterator[None]:
    """What the test adds to the store is deleted after it."""
    yield
    tables = {"trace_tags": "request_id", "trace_request_metadata": "request_id", "spans": "trace_id"}
    for table, column in (tables | {"trace_info": "request_id"}).items():
        store.execute(f"delete from {table} where {column} like 'new-%%'")


def add(store: Store, name: str, at: datetime, *, state: str = "OK", like: str | None = None) -> None:
    """Add a trace of one span that began at `at`."""
    of = like or min(t for t, facts in store.theirs.items() if len(facts["spans"]) == 4)
    at_ms = int(at.timestamp() * 1000)
    names = "experiment_id, execution_time_ms, client_request_id, request_preview, response_preview, trace_name"
    store.execute(
        f"insert into trace_info (request_id, timestamp_ms, status, db_payload_generation, {names}) "
        f"select %s, %s, %s, 0, {names} from trace_info where request_id = %s",
        name, at_ms, state, of,
    )  # fmt: skip
    names = "experiment_id, span_id, name, type, status, start_time_unix_nano, end_time_unix_nano, content"
    store.execute(
        f"insert into spans (trace_id, {names}) select %s, {names} from spans where trace_id = %s "
        "and parent_span_id is null",
        name, of,
    )  # fmt: skip
    where = ("mlflow.trace.spansLocation", "TRACKING_STORE", name)
    store.execute("insert into trace_tags (key, value, request_id) values (%s, %s, %s)", *where)


def ids(folder: Path) -> list[str]:
    return sorted(DeltaTable(str(folder)).to_pyarrow_table(columns=["trace_id"])["trace_id"].to_pylist())


@pytest.mark.parametrize("way", ["sql", "url"])
def test_an_import_says_what_mlflows_client_says(store: Store, folder: Path, way: str) -> None:
    """Every trace with every span, assessment, tag and time; of archived ones the file is read."""
    done = import_traces(getattr(store, way), folder, chunk=40)
    assert (done.traces, dict(done.left)) == (TRACES - 1, {"archive_gone": 1})
    assert store.theirs == facts_of(folder)


def test_previews_are_no_payload(store: Store, folder: Path) -> None:
    """Request and response are whole, as the root span has them; MLflow cuts previews and metadata."""
    import_traces(store.sql, folder)
    rows = rows_of(folder)
    whole = [json.loads(row["response"]) for row in rows if (row["response"] or "").startswith('"ü')]
    assert {"ü" * 1500} == set(whole)
    assert all(len(row["response_preview"] or "") <= 1000 for row in rows)


def test_three_kills_lose_and_double_nothing(store: Store, folder: Path) -> None:
    """Killed while files are written and committed, the last import brings what lacks."""
    for files in (1, 3, 5):
        command = [sys.executable, "-m", "tests.mlflow_import", store.sql, str(folder), "10"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
        while process.poll() is None and len(list(folder.glob("*.parquet"))) < files:
            time.sleep(0.002)
        process.kill()
        process.wait()
    before = len(ids(folder))
    done = import_traces(store.sql, folder)
    assert (0 < before < TRACES - 1, before + done.traces, sorted(store.theirs)) == (True, TRACES - 1, ids(folder))


@pytest.mark.usefixtures("undone")
def test_a_second_import_reads_only_what_is_new(store: Store, folder: Path) -> None:
    """A trace that began since, and one that began before and arrived since."""
    now = datetime.now(UTC)
    add(store, "new-0", now - timedelta(minutes=40))
    import_traces(store.sql, folder)
    add(store, "new-late", now - timedelta(minutes=90))
    add(store, "new-1", now - timedelta(minutes=1))
    later = now + timedelta(minutes=30)
    done = import_traces(store.sql, folder, now=later.timestamp)
    again = import_traces(store.sql, folder, now=later.timestamp)
    assert (done.traces, done.late, again.traces) == (2, 1, 0)
    assert [name for name in ids(folder) if name.startswith("new-")] == ["new-0", "new-1", "new-late"]


@pytest.mark.usefixtures("undone")
@pytest.mark.parametrize("way", ["sql", "url"])
def test_an_unfinished_trace_comes_with_the_next_import(store: Store, folder: Path, way: str) -> None:
    """It ends the import, which the next one goes on with; after an hour it is taken as it is."""
    now = datetime.now(UTC)
    add(store, "new-0", now - timedelta(minutes=30))
    add(store, "new-1", now - timedelta(minutes=20), state="IN_PROGRESS")
    add(store, "new-2", now - timedelta(minutes=10))
    start = now - timedelta(hours=1)
    first = import_traces(getattr(store, way), folder, start=start)
    assert (ids(folder), first.unfinished) == (["new-0"], True)
    import_traces(getattr(store, way), folder, now=(now + timedelta(hours=1)).timestamp)
    assert ids(folder) == ["new-0", "new-1", "new-2"]


@pytest.mark.usefixtures("undone")
def test_more_traces_in_one_millisecond_than_a_page(store: Store, folder: Path) -> None:
    """Each comes once, by SQL and over REST."""
    at = datetime.now(UTC) - timedelta(hours=3)
    add(store, "new-000", at)
    columns = "timestamp_ms, status, db_payload_generation, experiment_id"
    for table, column, other in (("trace_info", "request_id", columns), ("spans", "trace_id", "")):
        rest = other or "experiment_id, span_id, status, start_time_unix_nano, end_time_unix_nano, content"
        store.execute(
            f"insert into {table} ({column}, {rest}) select 'new-' || lpad(k::text, 3, '0'), {rest} from {table}, "
            f"generate_series(1, 600) k where {column} = 'new-000'"
        )
    store.execute(
        "insert into trace_tags (key, value, request_id) select 'mlflow.trace.spansLocation', 'TRACKING_STORE', "
        "request_id from trace_info where request_id like 'new-%%' and request_id <> 'new-000'"
    )
    start = at - timedelta(seconds=1)
    import_traces(store.sql, folder, chunk=100, start=start)
    import_traces(store.url, folder.with_name("rest"), start=start)
    expected = [f"new-{k:03}" for k in range(601)]
    assert ids(folder) == ids(folder.with_name("rest")) == expected


def test_two_imports_at_once_write_each_trace_once(store: Store, folder: Path) -> None:
    """The one that comes second to a window is refused, and named."""

    def other(_: int) -> None:
        import_traces(store.sql, folder)

    with pytest.raises(TraceImportError, match="Another import"):
        import_traces(store.sql, folder, chunk=50, tell=other)
    assert sorted(store.theirs) == ids(folder)


def test_an_unknown_schema_is_refused_by_its_head(store: Store, folder: Path) -> None:
    """The head is named, and what to do."""
    store.execute("update alembic_version set version_num = 'ffff00001111'")
    try:
        with pytest.raises(TraceSourceError, match=r"ffff00001111.*dc11669786a5.*http://"):
            import_traces(store.sql, folder)
    finally:
        store.execute("update alembic_version set version_num = 'dc11669786a5'")


def test_a_database_of_another_program_is_no_mlflow(store: Store, folder: Path) -> None:
    """Refused before anything is written."""
    with pytest.raises(TraceSourceError, match=r"no MLflow database.*alembic_version"):
        import_traces(f"{store.sql.rpartition('/')[0]}/template1", folder)
    assert not folder.exists()


def test_experiments_are_named(store: Store) -> None:
    """Two have traces, so one must be named; a wrong name shows the nearest."""
    server = open_server(store.url)
    with pytest.raises(TraceSourceError, match=r"'parcels' \(1\).*--experiment"):
        find_experiment(server, None)
    with pytest.raises(TraceSourceError, match=r"no experiment 'parcel'.*'parcels'"):
        find_experiment(server, "parcel")
    assert (find_experiment(server, "1").name, find_experiment(server, "parcels").id) == ("parcels", "1")
