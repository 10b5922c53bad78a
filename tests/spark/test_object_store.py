"""Results that wait in an object store: written by tasks through pyarrow, to a server that speaks S3.

Spark of the tests has no archives for S3: what it would look at or read, pyarrow does in its place (`spark_has_s3`).
"""

from __future__ import annotations

import logging
import secrets
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chispa import assert_df_equality
from pyarrow.fs import FileSelector, FileSystem

from backfill_spark import Settings, backfill_scorers, configure, get_backfill, resume_backfill, schema
from backfill_spark.backfill import maintenance
from backfill_spark.backfill.tables import Tables
from backfill_spark.results.staged_files import StagedFiles
from backfill_spark.results.store import ResultStore
from backfill_spark.storage import reach
from tests.factories import Ledger, ledger_scorer, some_traces, write_traces
from tests.servers import s3_server
from tests.spark.test_result_files import OWN, odd_scorers, operations, results

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the S3 server."""
    with s3_server(tmp_path_factory.mktemp("s3")) as address:
        yield address


@pytest.fixture
def bucket(server: str, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a new bucket, which this process and the tasks find by their environment."""
    where = {"AWS_ENDPOINT_URL": server, "AWS_REGION": "us-east-1"}
    for variable, value in where.items() | {("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")}:
        monkeypatch.setenv(variable, value)
        # What Spark starts workers with; the session is older than this environment.
        monkeypatch.setitem(spark.sparkContext.environment, variable, value)
    return new_bucket(server)


@pytest.fixture
def own(spark: SparkSession, settings: Settings, bucket: str) -> Settings:
    """Settings whose results wait in the bucket."""
    write_traces(spark, some_traces(20), settings.traces_path)
    tables = settings.tables.model_copy(update={"staged": f"s3a://{bucket}/waiting"})
    made = settings.model_copy(update={"tables": tables})
    configure(made)
    return made


@pytest.fixture
def spark_has_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spark sees what pyarrow sees."""

    def rows_of(self: StagedFiles, paths: list[str], *, spark: SparkSession | None = None) -> DataFrame:
        files, root = FileSystem.from_uri(self.folder.replace("s3a:", "s3:"))
        found = [pq.read_table(f"{root}/{path}", filesystem=files) for path in paths]
        return (spark or self._table.spark).createDataFrame(pa.concat_tables(found), schema.ASSESSMENTS.schema)

    monkeypatch.setattr("backfill_spark.storage.reach._spark_sees", lambda *_: True)
    monkeypatch.setattr("backfill_spark.storage.files._hadoop", lambda *_: None)
    monkeypatch.setattr(StagedFiles, "rows_of", rows_of)


def new_bucket(server: str) -> str:
    """Make a bucket, and return its name."""
    name = f"results-{secrets.token_hex(4)}"
    with urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT")) as answer:
        assert answer.status == 200
    return name


def objects(bucket: str) -> list[str]:
    """Keys of the objects of a bucket."""
    files, root = FileSystem.from_uri(f"s3://{bucket}")
    return sorted(found.path for found in files.get_file_info(FileSelector(root, recursive=True)) if found.is_file)


def without_merge(monkeypatch: pytest.MonkeyPatch, scorers: list[str]) -> str:
    """Run a job whose results stay where they wait, and return its id."""

    def fail(*_: Any, **__: Any) -> bool:
        raise OSError("no merge today")

    with monkeypatch.context() as patched:
        patched.setattr(ResultStore, "merge", fail)
        job_id = backfill_scorers(scorers=scorers)
    assert get_backfill(job_id).state == "PARTIAL"
    return job_id


def test_tasks_write_to_an_object_store_what_they_write_to_a_folder(
    spark: SparkSession, own: Settings, bucket: str, spark_has_s3: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows and counts, which no query of Spark counts; once a resume has merged them, none of them stays."""
    monkeypatch.setattr("backfill_spark.results.store.count_staged", None)
    monkeypatch.setattr("backfill_spark.results.store.DRIVER_PAIRS", 0)
    local = own.tables.model_copy(update={"root": f"{own.tables.root}_local", "staged": None})
    by_folder = own.model_copy(update={"tables": local})
    for used in (own, by_folder):
        configure(used)
        for one in odd_scorers():
            one.register().start()
    expected = get_backfill(backfill_scorers(scorers=["number", "mixed"]))
    configure(own)
    job_id = without_merge(monkeypatch, scorers=["number", "mixed"])
    waiting = objects(bucket)
    assert len(waiting) >= 2
    assert all(key.startswith(f"{bucket}/waiting/{job_id}/part-") for key in waiting)
    monkeypatch.setattr(ResultStore, "stage", None)
    resume_backfill(job_id)
    actual = get_backfill(job_id)
    assert (actual.state, actual.counts) == ("SUCCEEDED", expected.counts)
    assert operations(spark, own)[0] == "MERGE"
    rows, expected_rows = (results(spark, used).drop(*OWN) for used in (own, by_folder))
    assert_df_equality(rows, expected_rows, transforms=[lambda frame: frame.sort("assessment_id")])
    assert objects(bucket) == []


def test_a_chunk_whose_objects_are_gone_is_scored_again(
    spark: SparkSession,
    own: Settings,
    bucket: str,
    ledger: Ledger,
    spark_has_s3: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here, since a trace in one of them was forgotten."""
    ledger_scorer(ledger.path).register().start()
    job_id = without_merge(monkeypatch, scorers=["length"])
    waiting = len(objects(bucket))
    told = maintenance.forget_trace(Tables(spark, own), "tr-7")
    assert (told["staged"], len(objects(bucket))) == (1, waiting - 1)
    ledger.clear()
    resume_backfill(job_id)
    assert (get_backfill(job_id).state, len(ledger.lines())) == ("SUCCEEDED", 20)
    assert results(spark, own).count() == 20


def test_an_object_store_has_no_journals(
    spark: SparkSession, own: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And no marks for tasks; they are not looked for in a folder of that name."""
    monkeypatch.chdir(tmp_path)
    waiting, before = Tables(spark, own).results.waiting, sorted(tmp_path.iterdir())
    waiting.ask_to_stop("bf-1", 1)
    waiting.drop_recovered("bf-1")
    assert waiting.recovered("bf-1", []) is None
    assert sorted(tmp_path.iterdir()) == before


def test_spark_writes_where_it_does_not_see_what_tasks_write(
    spark: SparkSession, own: Settings, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As another endpoint or other keys make it; tasks could write, and of what they tried nothing stays."""
    caplog.set_level(logging.DEBUG, "backfill_spark.storage.reach")
    assert not Tables(spark, own).results.writes_files
    assert f"results are left to Spark's writer: tasks cannot write to s3a://{bucket}/waiting" in caplog.text
    assert "S3AFileSystem" in caplog.text
    assert objects(bucket) == []


def test_tasks_write_only_where_this_process_sees_them(
    spark: SparkSession, own: Settings, server: str, bucket: str, spark_has_s3: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each writes an object, of which nothing stays; another store than this process has, or none, is not taken."""
    assert reach.tasks_reach(spark, f"s3a://{bucket}/here")
    assert objects(bucket) == []
    assert not reach.tasks_reach(spark, "s3a://no-such-bucket/here")
    other, marking = new_bucket(server), reach._marking
    monkeypatch.setattr(reach, "_marking", lambda _: marking(f"s3://{other}"))
    assert not reach.tasks_reach(spark, f"s3a://{bucket}/there")
    assert objects(other) != []


def test_files_that_tasks_cannot_write_are_refused_when_they_are_wanted(
    spark: SparkSession, own: Settings, bucket: str, ledger: Ledger
) -> None:
    """Before a scorer is called."""
    scoring = own.scoring.model_copy(update={"writer": "files"})
    configure(own.model_copy(update={"scoring": scoring}))
    ledger_scorer(ledger.path).register().start()
    job = get_backfill(backfill_scorers(scorers=["length"]))
    assert (job.state, ledger.lines()) == ("PARTIAL", [])
    assert f"scoring.writer is files, and tasks cannot write to s3a://{bucket}/waiting" in str(job.error)
    assert "set scoring.writer to auto" in str(job.error)
