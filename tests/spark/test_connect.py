"""The main job behind Spark Connect: the rows are those of classic Spark, by files and by Spark's own writers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chispa import assert_df_equality
from pyspark.sql import functions as F

from backfill_spark import BackfillScorerConfig, Settings, backfill_scorers, configure, read_assessments
from backfill_spark.settings.locations import Location
from backfill_spark.storage.commit_log import is_delta, newest_version
from backfill_spark.storage.start_spark import CATALOG, EXTENSION
from tests.factories import Ledger, traces_frame
from tests.nemesis import Runner, wait_until
from tests.servers import free_port
from tests.spark.test_gsm8k import as_traces, gsm8k, oracle, selected_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import DataFrame, SparkSession

PREPARE = """
import json, sys, threading
from backfill_spark import *
from backfill_spark import BackfillScorerConfig, Settings
from backfill_spark.backfill.maintenance import forget_trace
from backfill_spark.backfill.tables import Tables
from tests.factories import Ledger
from tests.spark.test_gsm8k import oracle

told = json.loads(sys.argv[1])
ledger = Ledger(told["ledger"])

def use(**tables):
    made = Settings(tables=tables, traces={"path": told["traces"]}, timezone="UTC", spark=told["spark"])
    configure(made)
    oracle(told["ledger"]).register().start()
    return made

def run(rate, **more):
    ledger.clear()
    job_id = backfill_scorers(scorers=[BackfillScorerConfig(scorer="answer_is_right", sample_rate=rate)], **more)
    return job_id, len(ledger.lines())
"""
WHOLE = """
folder = use(root=told["root"])
spark = get_spark()
first, calls = run(1.0)
out = {"module": type(spark).__module__, "folder": [calls, run(1.0)[1]]}
out["mean"] = get_backfill(first).summary()["mean"][0]
spark.sql("CREATE SCHEMA lab")
named = use(schema="lab")
first, calls = run(0.05)
out["named"] = [calls, run(0.05)[1], run(0.05, reprocess="all")[1]]
out["warnings"] = get_backfill(first).warnings
seen = []
thread = threading.Thread(target=lambda: seen.append([job.state for job in list_backfills()]))
thread.start()
thread.join()
out["states"] = seen[0]
tables = Tables(get_spark(), named)
out["light"] = tables.results.assessments.light is not None
one = read_assessments().first()["trace_id"]
out["forgotten"] = [one, forget_trace(tables, one)["assessments"]]
tables.results.assessments.compact()
tables.results.assessments.vacuum()
print(json.dumps(out))
"""
SMALL = """
use(root=told["root"])
print(json.dumps({"module": type(get_spark()).__module__, "calls": [run(0.5)[1], run(0.5)[1]]}))
"""
SERVER = "org.apache.spark.sql.connect.service.SparkConnectServer"
VARIES = ("job_id", "scored_job_id", "latency_ms", "created_at", "updated_at", "scorer_digest")
"""Besides ids and times the digest: the scorer closes over the place of its ledger."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both sessions work."""
    return tmp_path_factory.mktemp("connect")


def client(script: str, told: dict[str, Any], folder: Path, **environment: str) -> str:
    """Return the last line that a process of its own prints; where it fails its errors, as JSON, too."""
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + script, json.dumps(told)],
        env=os.environ | {"PYTHONPATH": _seen()} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return json.dumps({"failed": done.stderr[-4000:]}) if done.returncode else done.stdout.splitlines()[-1]


def _seen() -> str:
    return os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])


@pytest.fixture
def told(spark: SparkSession, shared: Path, folder: Path) -> dict[str, Any]:
    """What a process that is a client of Spark Connect says of its jobs, which it makes once."""
    answer = folder / "answer.json"
    if not answer.exists():
        pytest.importorskip("grpc")
        places = {name: str(folder / name) for name in ("root", "traces", "warehouse", "ledger")}
        traces_frame(spark, as_traces(gsm8k(shared)), partitions=3).write.format("delta").save(places["traces"])
        local = {"spark.remote": "local[2]", "spark.driver.memory": "700m"}
        told = {**places, "spark": {**local, "spark.sql.warehouse.dir": places["warehouse"]}}
        answer.write_text(client(WHOLE, told, folder), encoding="utf-8")
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    assert "failed" not in found, found["failed"]
    return found


@contextmanager
def connect_server(spark: SparkSession, folder: Path) -> Iterator[str]:
    """Start a Connect server in a process of its own, with what docs/connect.md asks for; yield its address."""
    import pyspark

    port = free_port()
    conf = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": port,
        # A page of log for each query, and code compiled twice, are for servers that live long.
        "spark.driver.extraJavaOptions": "-Dlog4j2.level=WARN -XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        "spark.driver.memory": "700m",
        "spark.jars": spark.conf.get("spark.jars"),
        "spark.sql.catalog.spark_catalog": CATALOG,
        "spark.sql.extensions": EXTENSION,
        "spark.ui.enabled": "false",
    }
    submit = [str(Path(pyspark.__file__).parent / "bin" / "spark-submit"), "--master", "local[2]", "--class", SERVER]
    given = [word for name, value in conf.items() for word in ("--conf", f"{name}={value}")]
    where = {"PYSPARK_PYTHON": sys.executable, "PYTHONPATH": _seen(), "SPARK_LOCAL_IP": "127.0.0.1"}
    with Runner([*submit, *given, "spark-internal"], log=folder / "server.log", environment=where) as server:

        def answers() -> bool:
            assert server.process.poll() is None, server.said()[-4000:]
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(answers, 120, "the Connect server to start")
        yield f"sc://127.0.0.1:{port}"


def without_times(rows: DataFrame) -> DataFrame:
    return rows.drop(*VARIES)


def test_the_rows_on_connect_are_those_of_classic_spark(
    spark: SparkSession, folder: Path, told: dict[str, Any], ledger: Ledger
) -> None:
    """3,249 traces, each called once; a second job calls none."""
    assert told["module"].startswith("pyspark.sql.connect")
    assert told["folder"] == [3249, 0]
    assert round(told["mean"], 4) == 0.3890
    configure(Settings(tables={"root": str(folder / "classic")}, traces={"path": str(folder / "traces")}))
    oracle(ledger.path).register().start()
    backfill_scorers(scorers=[BackfillScorerConfig(scorer="answer_is_right", sample_rate=1.0)])
    classic = without_times(read_assessments())
    configure(Settings(tables={"root": str(folder / "root")}))
    # Not ignore_row_order, which sorts by all columns: one is a map.
    in_order = [lambda rows: rows.sort("assessment_id")]
    assert_df_equality(classic, without_times(read_assessments()), transforms=in_order)


def test_tables_with_names_are_written_by_spark_alone(
    spark: SparkSession, folder: Path, told: dict[str, Any], shared: Path
) -> None:
    """By appends and MERGE in SQL, since a server elsewhere shares no folder: jobs, `reprocess`, another thread."""
    chosen = selected_ids([r["id"] for r in gsm8k(shared)], 0.05)
    assert not told["light"]
    assert told["named"] == [len(chosen), 0, len(chosen)]
    assert told["states"] == ["SUCCEEDED"] * 3
    assert "fence" in told["warnings"][0]
    forgotten, rows = told["forgotten"]
    assert rows == 1
    written = spark.read.format("delta").load(str(folder / "warehouse" / "lab.db" / "assessments"))
    assert chosen - {forgotten} == {r[0] for r in written.select("trace_id").collect()}
    same = read_assessments_of(spark, folder / "root").where(F.col("trace_id").isin(sorted(chosen - {forgotten})))
    kept = ("trace_id", "value", "outcome", "draw", "assessment_id", "input_digest")
    assert_df_equality(
        written.select(*kept), same.select(*kept), ignore_row_order=True, ignore_nullable=True, ignore_metadata=True
    )


def read_assessments_of(spark: SparkSession, root: Path) -> DataFrame:
    """Return the results below another root."""
    return spark.read.format("delta").load(str(root / "assessments"))


def test_a_client_without_java_and_a_server_of_its_own(spark: SparkSession, tmp_path: Path, shared: Path) -> None:
    """A job over half of 400 traces, and none of them again; each result is what the label says."""
    pytest.importorskip("grpc")
    records = gsm8k(shared)[:400]
    places = {name: str(tmp_path / name) for name in ("root", "traces", "ledger")}
    traces_frame(spark, as_traces(records), partitions=1).write.format("delta").save(places["traces"])
    no_java = {"JAVA_HOME": str(tmp_path), "PATH": str(Path(sys.executable).parent)}
    with connect_server(spark, tmp_path) as address:
        said = json.loads(client(SMALL, {**places, "spark": {"spark.remote": address}}, tmp_path, **no_java))
    chosen = selected_ids([r["id"] for r in records], 0.5)
    assert said == {"module": "pyspark.sql.connect.session", "calls": [len(chosen), 0]}, said.get("failed")
    rows = read_assessments_of(spark, tmp_path / "root").select("trace_id", "value").collect()
    assert {r["id"]: str(r["labels"]["is_correct"]).lower() for r in records if r["id"] in chosen} == dict(rows)


def test_what_is_no_delta_table_is_told_without_deltas_python_class(spark: SparkSession, tmp_path: Path) -> None:
    """A place that is not there, an empty folder, files, one file; a table, also with odd characters in its path."""
    (tmp_path / "empty").mkdir()
    spark.range(3).coalesce(1).write.parquet(str(tmp_path / "files"))
    one = next((tmp_path / "files").glob("*.parquet"))
    table = tmp_path / "a'b %41 {x}"
    spark.range(3).write.format("delta").save(str(table))
    others = [tmp_path / "absent", tmp_path / "empty", tmp_path / "files", one]
    assert [is_delta(spark, str(place)) for place in (*others, table)] == [False, False, False, False, True]
    assert newest_version(spark, Location.of_path(str(table))) == 0
