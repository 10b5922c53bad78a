"""Results by files of the tasks, and by MERGE: the same rows, whichever way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chispa import assert_df_equality
from pyspark.sql import functions as F

from backfill_spark import (
    Feedback,
    ScorerSamplingConfig,
    Settings,
    backfill_scorers,
    configure,
    get_backfill,
    schema,
    scorer,
)
from backfill_spark.backfill.tables import Tables
from backfill_spark.results.staged import StagedChunk, StagedCounts
from backfill_spark.settings.sections import ScoringSettings
from backfill_spark.storage.delta_table import Store
from backfill_spark.storage.files import filesystem_of
from tests.factories import NOON, some_traces, write_traces

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

OWN = ("job_id", "scored_job_id", "created_at", "updated_at", "latency_ms")
"""Columns that two jobs do not share."""


def odd_scorers() -> list[Any]:
    """Values of each kind, nothing, several feedbacks, and errors."""

    @scorer
    def number(outputs: Any) -> Any:
        return len(str(outputs))

    @scorer
    def mixed(trace: Any) -> Any:
        last = int(trace.info.trace_id[-1])
        if last == 0:
            raise ValueError(f"no {trace.info.trace_id}")
        if last == 1:
            return None
        if last == 2:
            return [Feedback(name="é\n\x01", value="yes", rationale='"'), Feedback(name="b", value={"a": [1]})]
        return Feedback(value=bool(last % 2), metadata={"k": "v"}, span_id="s") if last == 3 else "text"

    return [number, mixed]


def results(spark: SparkSession, settings: Settings) -> DataFrame:
    return Store(spark, schema.ASSESSMENTS, settings).read()


def operations(spark: SparkSession, settings: Settings) -> list[str]:
    """What was done to the results table, newest first; claims and creation apart."""
    rows = spark.sql(f"DESCRIBE HISTORY delta.`{settings.tables.root}/assessments`").collect()
    return [r["operation"] for r in rows if r["operation"] != "CREATE TABLE"]


def with_writer(settings: Settings, writer: str, root: str) -> Settings:
    tables = settings.tables.model_copy(update={"root": root})
    scoring = settings.scoring.model_copy(update={"writer": writer})
    return settings.model_copy(update={"tables": tables, "scoring": scoring})


def test_all_ways_write_the_same_rows(spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the tasks that score, by the driver from what they staged, and by Spark's MERGE."""
    write_traces(spark, some_traces(60), settings.traces_path)
    found, counts = {}, []
    for writer, driver_pairs in (("files", 0), ("files", 1_000), ("spark", 0)):
        monkeypatch.setattr("backfill_spark.results.store.DRIVER_PAIRS", driver_pairs)
        way = f"{writer}_{driver_pairs}"
        own = with_writer(settings, writer, f"{settings.tables.root}_{way}")
        configure(own)
        for one in odd_scorers():
            one.register().start(sampling_config=ScorerSamplingConfig(sample_rate=0.7))
        job_id = backfill_scorers(scorers=["number", "mixed"])
        found[way] = results(spark, own)
        counts.append(get_backfill(job_id).counts)
        jobs = found[way].select("job_id", "scored_job_id").distinct().collect()
        assert [tuple(row) for row in jobs] == [(job_id, job_id)]
        assert operations(spark, own) == ["WRITE" if writer == "files" else "MERGE"]
    assert counts[0] == counts[1] == counts[2]
    assert counts[0]["mixed"].errored > 0
    merged = found["spark_0"].drop(*OWN)
    assert merged.count() > 80
    for way in ("files_0", "files_1000"):
        files = found[way].drop(*OWN)
        assert files.schema == merged.schema
        assert_df_equality(files, merged, transforms=[lambda rows: rows.sort("assessment_id", "trace_date")])
    latencies = [frame.where("latency_ms is null").count() for frame in found.values()]
    assert latencies == [0, 0, 0]


def test_no_row_is_missed_by_the_bounds_of_its_file(spark: SparkSession, settings: Settings) -> None:
    """Spark skips files by the statistics that the tasks have written."""
    configure(settings)
    odd_scorers()[0].register().start()
    jobs = []
    for day in range(2):
        write_traces(
            spark, some_traces(10, request_time=lambda i, d=day: NOON.replace(day=d + 1)), settings.traces_path
        )
        jobs.append(backfill_scorers(scorers=["number"]))
    rows = results(spark, settings)
    assert [rows.where(F.col("job_id") == job_id).count() for job_id in jobs] == [10, 10]
    some = rows.limit(1).collect()[0]
    for name in ("trace_id", "trace_time", "created_at", "draw", "scorer_name", "ordinal", "outcome"):
        assert rows.where(F.col(name) == F.lit(some[name])).count() >= 1


@pytest.mark.parametrize(("is_same_date", "is_large"), [(True, True), (True, False), (False, False)])
def test_rows_that_others_wrote_meanwhile(
    spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch, is_same_date: bool, is_large: bool
) -> None:
    """To the same dates: then MERGE looks at each row, and none is doubled. To others: they are no concern."""
    from backfill_spark.results.store import ResultStore

    write_traces(spark, some_traces(20), settings.traces_path)
    configure(settings)
    odd_scorers()[0].register().start()
    if is_large:
        monkeypatch.setattr("backfill_spark.results.store.DRIVER_PAIRS", 0)
    write, date = ResultStore._add_files, "trace_date" if is_same_date else "date'1999-01-01'"

    def overtaken(self: Any, job_id: str, request: Any, chunks: Any, txn: Any) -> Any:
        monkeypatch.setattr(ResultStore, "_add_files", write)
        rows = self.waiting.read(chunks).limit(5).selectExpr("* except (trace_date)", f"{date} as trace_date")
        self.assessments.append(rows.select(*schema.ASSESSMENTS.schema.fieldNames()))
        return write(self, job_id, request, chunks, txn)

    monkeypatch.setattr(ResultStore, "_add_files", overtaken)
    backfill_scorers(scorers=["number"])
    rows = results(spark, settings).where("trace_date > date'2000-01-01'")
    assert (rows.count(), rows.select("trace_id").distinct().count()) == (20, 20)
    assert operations(spark, settings)[0] == ("MERGE" if is_same_date else "WRITE")


def test_tasks_write_results_only_where_this_process_sees_them(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each executor is asked to write a file to the folder; nothing of it stays."""
    from backfill_spark.storage import reach

    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    assert reach.tasks_reach(spark, str(here))
    assert list(here.iterdir()) == []
    assert not reach.tasks_reach(spark, str(tmp_path / "not there"))
    marking = reach._marking
    monkeypatch.setattr(reach, "_marking", lambda _: marking(str(elsewhere)))
    for folder in (elsewhere, tmp_path / "another"):
        folder.mkdir()
    assert not reach.tasks_reach(spark, str(tmp_path / "another"))


def test_staged_results_wait_in_a_folder_of_ones_own(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """Where Spark may not write into the folder of the table, such as a catalog's."""
    tables = settings.tables.model_copy(update={"staged": str(tmp_path / "volume [1]")})
    own = settings.model_copy(update={"tables": tables, "scoring": ScoringSettings(writer="spark")})
    configure(own)
    write_traces(spark, some_traces(20), own.traces_path)
    odd_scorers()[0].register().start()
    job = get_backfill(backfill_scorers(scorers=["number"]))
    assert (job.state, job.counts["number"].scored, results(spark, own).count()) == ("SUCCEEDED", 20, 20)
    assert (tmp_path / "volume [1]").is_dir()
    assert not (Path(own.tables.root) / "assessments" / "_staged").exists()


def test_a_file_uri_names_a_folder_of_this_machine(
    spark: SparkSession, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks write there as to a path: of `assessments`, and of results that wait."""
    monkeypatch.setattr("backfill_spark.results.store.DRIVER_PAIRS", 10)
    tables = {"root": f"file://{tmp_path}/the tables", "staged": f"file:{tmp_path}/waiting"}
    own = Settings(tables=tables, traces={"path": settings.traces_path}, timezone="UTC")
    configure(own)
    odd_scorers()[0].register().start()
    for number in (20, 25):  # a large chunk, and one that the driver puts together
        write_traces(spark, some_traces(number), own.traces_path, mode="overwrite")
        job = get_backfill(backfill_scorers(scorers=["number"]))
        assert (job.state, job.counts["number"].left) == ("SUCCEEDED", 0)
    folder = tmp_path / "the tables" / "assessments"
    assert (operations(spark, own), results(spark, own).count()) == (["WRITE", "WRITE"], 25)
    assert len(list(folder.glob("trace_date=*/part-*.parquet"))) >= 2
    assert list((tmp_path / "waiting").iterdir()) == []


def test_files_that_only_their_task_sees_are_not_staged(
    spark: SparkSession, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event would name what nobody can read."""
    write_traces(spark, some_traces(5), settings.traces_path)
    configure(settings)
    odd_scorers()[0].register().start()
    monkeypatch.setattr("backfill_spark.results.store.filesystem_of", lambda _: filesystem_of(str(tmp_path / "mine")))
    job = get_backfill(backfill_scorers(scorers=["number"]))
    assert (job.state, job.counts["number"].scored) == ("PARTIAL", 0)
    assert "Set scoring.writer to spark" in str(job.error)


def test_a_chunk_whose_pairs_others_have_scored_meanwhile_has_no_file_and_lacks_none(
    spark: SparkSession, settings: Settings
) -> None:
    """One that has results and no file does."""
    waiting = Tables(spark, settings).results.waiting
    nothing = StagedChunk("bf-1", 0, {"number": StagedCounts()}, (), ())
    lost = StagedChunk("bf-1", 1, {"number": StagedCounts(scored=1)}, (), ())
    assert waiting.gone([nothing, lost]) == [lost]
    assert waiting.read([nothing]).count() == 0
