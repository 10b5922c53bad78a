"""What a user has set about the session changes no value, prompt, digest, count or property of our tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from delta.tables import DeltaTable

from backfill_spark import (
    JobState,
    Settings,
    backfill_scorers,
    configure,
    get_backfill,
    make_judge,
    read_assessments,
    scorer,
)
from tests.factories import Ledger, an_expectation, ledger_line, some_traces, write_traces
from tests.judge_server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyspark.sql import SparkSession

_OF_DELTA = "spark.databricks.delta."
ODD = {
    "spark.sql.session.timeZone": "America/New_York",
    "spark.sql.caseSensitive": "true",
    "spark.sql.timestampType": "TIMESTAMP_NTZ",
    "spark.sql.sources.default": "csv",
    "spark.sql.sources.partitionOverwriteMode": "dynamic",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
    "spark.sql.shuffle.partitions": "3",
    "spark.sql.adaptive.enabled": "true",
    "spark.sql.mapKeyDedupPolicy": "LAST_WIN",
    "spark.sql.crossJoin.enabled": "false",
    "spark.sql.parser.quotedRegexColumnNames": "true",
    "spark.sql.parser.escapedStringLiterals": "true",
    "spark.sql.pyspark.inferNestedDictAsStruct.enabled": "true",
    "spark.sql.optimizer.collapseProjectAlwaysInline": "true",
    "spark.sql.execution.arrow.pyspark.enabled": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "1",
    "spark.sql.execution.arrow.useLargeVarTypes": "true",
    "spark.sql.execution.pandas.convertToArrowArraySafely": "true",
    "spark.sql.execution.pythonUDF.arrow.enabled": "true",
    "spark.sql.legacy.castComplexTypesToString.enabled": "true",
    "spark.sql.legacy.createEmptyCollectionUsingStringType": "true",
    "spark.sql.legacy.followThreeValuedLogicInArrayExists": "false",
    "spark.sql.legacy.json.allowEmptyString.enabled": "true",
    "spark.sql.legacy.keepCommandOutputSchema": "true",
    "spark.sql.legacy.sizeOfNull": "true",
    "spark.sql.legacy.timeParserPolicy": "LEGACY",
    "spark.sql.legacy.typeCoercion.datetimeToString.enabled": "true",
    f"{_OF_DELTA}autoCompact.enabled": "true",
    f"{_OF_DELTA}optimizeWrite.enabled": "true",
    f"{_OF_DELTA}history.metricsEnabled": "false",
    f"{_OF_DELTA}schema.autoMerge.enabled": "true",
    f"{_OF_DELTA}properties.defaults.appendOnly": "true",
    f"{_OF_DELTA}properties.defaults.columnMapping.mode": "name",
    f"{_OF_DELTA}properties.defaults.enableChangeDataFeed": "true",
    f"{_OF_DELTA}properties.defaults.enableDeletionVectors": "true",
    f"{_OF_DELTA}properties.defaults.checkpointPolicy": "v2",
    f"{_OF_DELTA}properties.defaults.checkpointInterval": "1",
    f"{_OF_DELTA}properties.defaults.logRetentionDuration": "interval 0 days",
    f"{_OF_DELTA}properties.defaults.setTransactionRetentionDuration": "interval 1 days",
}
STRICT = ODD | {
    "spark.sql.ansi.enabled": "true",
    "spark.sql.ansi.doubleQuotedIdentifiers": "true",
    "spark.sql.ansi.enforceReservedKeywords": "true",
    "spark.sql.storeAssignmentPolicy": "STRICT",
}
LOOSE = ODD | {"spark.sql.ansi.enabled": "false", "spark.sql.storeAssignmentPolicy": "LEGACY"}
ANSWER = [
    "trace_id", "scorer_name", "outcome", "value", "value_double", "rationale", "error_code", "draw", "scorer_digest",
    "input_digest", "prompt_hash", "cast(trace_time as long) as seconds", "trace_date",
]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as started:
        yield started.url


def answer(folder: Path, url: str) -> Any:
    """Return all that a job with a code scorer, a judge and a filter says, and the calls that it made."""
    ledger = Ledger(str(folder.with_name("ledger")))
    ledger.clear()
    path = ledger.path

    @scorer
    def seen(trace: Any, inputs: Any, outputs: Any, expectations: Any) -> str:
        ledger_line(path, trace.info.trace_id)
        return f"{trace.info.request_time} {trace.info.timestamp_ms} {inputs!r} {outputs!r} {expectations!r}"

    judge = make_judge(name="fine", instructions="Is {{ outputs }} fine for {{ inputs }}, {{ expectations }}?")
    made = Settings(
        tables={"root": str(folder / "tables")},
        traces={"path": str(folder.with_name("traces")), "payload": "json"},
        judge={
            "model": "local:/model",
            "endpoints": {"local": {"base_url": url, "api_key_file": str(folder.with_name("key"))}},
        },
    )
    configure(made)
    seen.register().start()
    judge.register().start()
    job_id = backfill_scorers(
        scorers=["seen", "fine"],
        start_time="2024-06-15T10:00:00Z",
        end_time="2024-06-16T00:00:00Z",
        filter_string="tags.mlflow.traceName = 'support' AND trace.timestamp_ms > 1718000000000",
    )
    job = get_backfill(job_id)
    rows = sorted(tuple(r) for r in read_assessments().selectExpr(*ANSWER).collect())
    summary = job.summary().drop(columns=["job_id"], errors="ignore").to_json(orient="records")
    return {"state": job.state, "rows": rows, "counts": job.counts, "summary": summary, "calls": sorted(ledger.lines())}


@pytest.mark.parametrize("odd", [STRICT, LOOSE], ids=["strict", "loose"])
def test_a_job_says_the_same_under_odd_settings(
    spark: SparkSession, tmp_path: Path, server: str, odd: dict[str, str]
) -> None:
    """Time zone, ANSI, letter case, legacy behaviour, Arrow, and what Delta gives to new tables."""
    (tmp_path / "key").write_text("no secret", encoding="utf-8")
    texts = ['{"a": 0.1, "b": "x\\ty"}', "plain", '"quoted"', "", None, "2024-06-15 12:00:00"]
    expected = [an_expectation("k", '{"at": "2024-06-15", "n": 18}'), an_expectation("none", None)]
    traces = some_traces(
        6, request=lambda n: texts[n], response=lambda n: texts[-n], assessments=lambda _: list(expected)
    )
    write_traces(spark, traces, tmp_path / "traces", files=2)
    usual = answer(tmp_path / "usual", server)
    assert (JobState.SUCCEEDED, 12, 6) == (usual["state"], len(usual["rows"]), len(usual["calls"]))

    for key, value in odd.items():
        spark.conf.set(key, value)
    spark.sql(f"CREATE DATABASE elsewhere LOCATION '{tmp_path / 'elsewhere'}'")
    spark.catalog.setCurrentDatabase("elsewhere")
    try:
        found = answer(tmp_path / "odd", server)
    finally:
        spark.catalog.setCurrentDatabase("default")
        spark.sql("DROP DATABASE elsewhere")
    assert usual == found

    kept = {"delta.columnMapping.mode": "none", "delta.enableChangeDataFeed": "false", "delta.checkpointInterval": "50"}
    for name in ("assessments", "job_events", "jobs", "scorers"):
        detail = DeltaTable.forPath(spark, str(tmp_path / "odd" / "tables" / name)).detail().collect()[0]
        assert kept.items() <= detail["properties"].items()
        assert detail["properties"]["delta.appendOnly"] == str(name == "scorers").lower()
        assert not {"columnMapping", "deletionVectors", "changeDataFeed", "v2Checkpoint"} & set(detail["tableFeatures"])
