"""A job's answer is the same from every folder, and says so in words where its source can no longer be read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from backfill_spark import BackfillScorerConfig, Settings, backfill_scorers, configure, get_backfill, plan_backfill
from backfill_spark.backfill.reopen import pinned_source, request_of
from backfill_spark.backfill.tables import Tables
from backfill_spark.cli import main
from backfill_spark.errors import SourceGoneError
from tests.factories import Ledger, ledger_scorer, some_traces, traces_frame, write_traces

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ODD = "é 100% %41 a=b #1"


def told(*words: str) -> str:
    """Return what a command prints, in one line."""
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def summary_of(job_id: str) -> list[dict[Any, Any]]:
    return get_backfill(job_id).summary().to_dict("records")


def test_a_job_gives_one_answer_from_everywhere_and_says_when_its_source_is_gone(
    spark: SparkSession, tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python and commands, relative and absolute names, other settings; then the source is vacuumed."""
    home = tmp_path / ODD
    home.mkdir()
    (home / "s.yaml").write_text(
        "tables: {root: tables}\ntraces: {path: traces, columns: {trace_id: id}}\ntimezone: UTC\n", encoding="utf-8-sig"
    )
    rows = traces_frame(spark, some_traces(12)).withColumnRenamed("trace_id", "id")
    rows.write.format("delta").save(str(home / "traces"))
    monkeypatch.chdir(home)
    configure(Settings.load("s.yaml"))
    ledger_scorer(ledger.path).register().start()
    half, whole = (BackfillScorerConfig("length", sample_rate=rate) for rate in (0.5, 1.0))
    backfill_scorers(scorers=[half])
    plan = plan_backfill(scorers=[whole])
    job_id = backfill_scorers(scorers=[whole])
    job = get_backfill(job_id)
    assert (job.source, job.source_kind, job.tables) == (f"{home}/traces", "delta path", f"{home}/tables")
    for shown in (str(plan), str(job)):
        assert f"delta path {home}/traces, version 0" in " ".join(shown.split())
        assert f"{home}/tables" in " ".join(shown.split())

    expected = job.summary().to_dict("records")
    assert (expected[0]["n"], expected[0]["calls"] < 12, "source_unreadable" in expected[0]) == (12, True, False)
    for folder in (home, tmp_path, Path("/")):
        monkeypatch.chdir(folder)
        assert expected == summary_of(job_id)
    assert expected == job.summary().to_dict("records")
    # Settings that know only where the tables are, spelt in another way.
    configure(Settings(tables={"root": (home / "tables").as_uri()}, traces={"format": "parquet"}))
    assert expected == summary_of(job_id)
    named = ("--config", f"{home}/s.yaml")
    assert "(all)" in told("wait", job_id, *named)
    assert expected == json.loads(told("status", job_id, *named, "--json"))["summary"]

    spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    rows.limit(1).write.format("delta").mode("overwrite").save(str(home / "traces"))
    spark.sql(f"VACUUM delta.`{home}/traces` RETAIN 0 HOURS").collect()
    (seen,) = summary_of(job_id)
    assert {seen[name] for name in ("n", "mean", "ci_low", "ci_high", "results")} == {None}
    assert (seen["n_seen"], seen["population"]) == (expected[0]["calls"], 12)
    assert f"{home}/traces" in seen["source_unreadable"]
    assert [seen] == json.loads(told("wait", job_id, *named, "--json"))["summary"]
    said = told("status", job_id, *named)
    assert ["(all)" in said, "mean seen" in said, "The source cannot be read" in said] == [False, True, True]


def test_files_that_come_later_and_tables_of_earlier_versions(
    spark: SparkSession, tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ended job is answered from its own files; a relative source without its folder is said not to be found."""
    monkeypatch.chdir(tmp_path)
    made = Settings(tables={"root": "tables"}, traces={"path": "traces"})
    configure(made)
    write_traces(spark, some_traces(2), tmp_path / "traces", format="parquet")
    ledger_scorer(ledger.path).register().start()
    job_id = backfill_scorers(scorers=["length"])
    job = get_backfill(job_id)
    assert job.source_kind == "parquet path"
    write_traces(spark, some_traces(3), tmp_path / "traces", format="parquet", mode="append")
    assert [2] == list(job.summary()["n"])

    record = Tables(spark, made).jobs.record(job_id)
    request, version = request_of(Tables(spark, made), record), record.created["work_version"]
    for word in ("traces", "./none"):
        with pytest.raises(SourceGoneError, match=rf"recorded with the source '{word}', without the folder"):
            pinned_source(
                Tables(spark, made), job_id, replace(request, source=word, source_kind=""), work_version=version
            )
    old = replace(request, source="./traces", source_kind="")
    assert pinned_source(Tables(spark, made), job_id, old, work_version=version).version == request.source_version
