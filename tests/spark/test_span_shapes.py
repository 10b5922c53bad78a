"""Shapes whose rows are spans: what is particular to each, and what of the files is read."""

from __future__ import annotations

import contextlib
import io
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backfill_spark.errors import TraceSourceError
from backfill_spark.models import TimeWindow
from backfill_spark.traces.sources import open_source
from tests.shape_writers import START, WRITERS, Conversation, hex_id

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession

    from backfill_spark.settings.schema import Settings

ONE = hex_id("one", 32)
EVER = TimeWindow()
DAY = TimeWindow(START, START + timedelta(days=1))


def a_conversation(number: int = 0, **of_root: Any) -> Conversation:
    """Return a root and a tool below it, a day after the one before."""
    start = int((START + timedelta(days=number)).timestamp()) * 10**9
    root = {
        "span_id": hex_id("root", 16),
        "parent_id": None,
        "name": "support",
        "span_type": "AGENT",
        "start_time_ns": start,
        "end_time_ns": start + 2 * 10**9,
        "status_code": "OK",
        "inputs": "question",
        "outputs": "answer",
    } | of_root
    tool = root | {"span_id": hex_id("tool", 16), "parent_id": root["span_id"], "name": "search", "span_type": "TOOL"}
    return Conversation(ONE if number == 0 else hex_id(f"{number}", 32), "s-1", [root, tool])


def written(spark: SparkSession, folder: Path, shape: str, *found: Conversation) -> str:
    return WRITERS[shape](spark, found or [a_conversation(n) for n in range(2)], folder)


def plan_of(frame: DataFrame) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        frame.explain("formatted")
    return out.getvalue()


TIMES = {
    "clickhouse_otel": "Timestamp",
    "databricks_otel_v2": "time",
    "databricks_otel_v1": "start_time_unix_nano",
    "langfuse": "start_time",
    "langsmith": "start_time",
    "phoenix": "start_time",
}


@pytest.mark.parametrize("shape", TIMES)
def test_the_window_with_its_slack_reaches_the_file_scan(
    spark: SparkSession, settings: Settings, tmp_path: Path, shape: str
) -> None:
    """Both bounds, an hour wider, on the bare column; only columns that are needed; no spans are collected."""
    source = open_source(spark, settings, written(spark, tmp_path / "w", shape))
    plan = plan_of(source.read({"trace_id", "response"}, DAY))
    pushed = next(line for line in plan.splitlines() if line.startswith("PushedFilters"))
    for bound, moment in (
        ("GreaterThanOrEqual", START - timedelta(hours=1)),
        ("LessThan", START + timedelta(hours=25)),
    ):
        shown = re.escape(f"{int(moment.timestamp())}000000000")
        assert re.search(rf"{bound}\({TIMES[shape]},({shown}|{moment:%Y-%m-%d[ T]%H:%M})", pushed), pushed
    assert not re.search("collect_list|Python|Arrow", plan)
    read = plan[plan.index("ReadSchema: ") :].partition("\n")[0]
    assert not re.search(r"\b(metadata|tags|input|inputs|attributes\.input|extra)\b:", read), read
    found = source.read(source.columns, DAY).collect()
    assert [(row["trace_id"], row["request"], row["response"]) for row in found] == [(ONE, "question", "answer")]


def only(rows: list[Row]) -> dict[str, Any]:
    (row,) = rows
    return dict(row.asDict(recursive=True))


def values_of(assessments: list[dict[str, Any]]) -> dict[str, Any]:
    """Return name: value of the feedback or expectation."""
    return {a["assessment_name"]: (a["feedback"] or a["expectation"])["value"] for a in assessments}


def test_annotations_of_databricks_are_those_of_the_trace(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    """Of each tag and assessment the newest counts, and may be deleted; both tables are pinned together."""
    path = written(spark, tmp_path / "w", "databricks_otel_v2")
    annotations = str(tmp_path / "w" / "support_otel_annotations")
    by = {"mlflow.source.source_type": "HUMAN", "mlflow.source.source_id": "me", "mlflow.span_id": "s", "own": "1"}
    failed = {"mlflow.error.error_code": "E", "mlflow.error.error_message": "failed"}
    info = {"client_request_id": "c-1", "request_preview": "q…", "trace_metadata": {"mlflow.sourceRun": "run-1"}}
    rows = [
        ("m", "METADATA", "metadata", json.dumps(info), {}, 0, False),
        ("t1", "TAG", "stage", '"dev"', {}, 0, False),
        ("t1", "TAG", "stage", '"prod"', {}, 1, False),
        ("t2", "TAG", "gone", '"x"', {}, 0, False),
        ("t2", "TAG", "gone", '"x"', {}, 2, True),
        ("a1", "FEEDBACK", "ok", "true", by, 0, False),
        ("a2", "FEEDBACK", "word", '"yes"', by, 1, False),
        ("a3", "FEEDBACK", "broken", None, failed, 2, False),
        ("a4", "EXPECTATION", "answer", '"18"', by, 3, False),
        ("a5", "FEEDBACK", "deleted", "1", by, 0, True),
    ]
    frame = spark.createDataFrame(
        [(i, ONE, k, n, v, json.dumps(m), d, gone) for i, k, n, v, m, d, gone in rows],
        "annotation_id string, target_id string, annotation_type string, name string, value string, metadata string,"
        " day int, gone boolean",
    )
    frame.selectExpr(
        "annotation_id",
        "'TRACE' AS target_type",
        "target_id",
        "annotation_type",
        "name",
        "parse_json(value) AS value",
        "'why' AS comment",
        "parse_json(metadata) AS metadata",
        "timestamp'2024-05-16 00:00:00' + make_interval(0, 0, 0, day) AS created_at",
        "CAST(NULL AS TIMESTAMP) AS updated_at",
        "CASE WHEN gone THEN timestamp'2024-05-20 00:00:00' END AS deleted_at",
    ).write.format("delta").mode("append").save(annotations)
    source = open_source(spark, settings, path)
    found = only(source.read(source.columns, DAY).collect())
    tags = {"stage": "prod", "number": "0", "service.name": "support", "mlflow.traceName": "support"}
    assert (found["tags"], found["client_request_id"], found["request_preview"]) == (tags, "c-1", "q…")
    assert found["trace_metadata"]["mlflow.sourceRun"] == "run-1"
    assert values_of(found["assessments"]) == {"ok": "true", "word": "yes", "broken": None, "answer": "18"}
    by_name = {a["assessment_name"]: a for a in found["assessments"]}
    assert by_name["broken"]["feedback"]["error"]["error_message"] == "failed"
    ok = by_name["ok"]
    assert (ok["source"]["source_type"], ok["metadata"], ok["rationale"], ok["span_id"]) == (
        "HUMAN",
        {"own": "1"},
        "why",
        "s",
    )
    spark.sql(f"DELETE FROM delta.`{annotations}`")
    again = open_source(spark, settings, path, version=source.version)
    assert only(again.read(source.columns, DAY).collect()) == found
    assert open_source(spark, settings, path).version != source.version


def test_logs_of_databricks_version_1_are_those_of_the_trace(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    """MLflow's events: metadata, tags and snapshots of assessments, the latest of each."""
    path = written(spark, tmp_path / "w", "databricks_otel_v1")
    tag, snapshot = "genai.trace.tag", "genai.assessments.snapshot"
    feedback = {"assessment_id": "a1", "kind": "feedback", "assessment_name": "ok", "source.source_type": "CODE"}
    rows = [
        ("genai.trace.metadata", {"client_request_id": "c-1", "trace_metadata": '{"k": "v"}'}),
        (tag, {"key": "stage", "value": "dev", "deleted": "false"}),
        (tag, {"key": "stage", "value": "prod", "deleted": "false"}),
        (tag, {"key": "gone", "value": "x", "deleted": "false"}),
        (tag, {"key": "gone", "value": "x", "deleted": "true"}),
        (snapshot, feedback | {"feedback.value": "no", "create_time": "1718452800000", "metadata.own": "1"}),
        (snapshot, feedback | {"feedback.value": '"yes"', "create_time": "1718452800000", "metadata.own": "1"}),
        (
            snapshot,
            {"assessment_id": "a2", "kind": "expectation", "assessment_name": "answer", "expectation.value": "18"},
        ),
        ("another.event", {"key": "stage", "value": "other"}),
    ]
    start = int(START.timestamp()) * 10**9
    spark.createDataFrame(
        [(name, ONE, start + n, said) for n, (name, said) in enumerate(rows)],
        "event_name string, trace_id string, time_unix_nano bigint, attributes map<string,string>",
    ).write.format("delta").save(str(tmp_path / "w" / "support_otel_logs"))
    source = open_source(spark, settings, path)
    found = only(source.read(source.columns, DAY).collect())
    assert (found["tags"]["stage"], found["client_request_id"]) == ("prod", "c-1")
    assert "gone" not in found["tags"]
    assert found["trace_metadata"] == {"k": "v", "session.id": '"s-1"', "mlflow.trace.session": "s-1"} | {
        key: value for key, value in found["trace_metadata"].items() if key.startswith("mlflow.span")
    }
    assert values_of(found["assessments"]) == {"ok": "yes", "answer": "18"}
    made = next(a for a in found["assessments"] if a["assessment_name"] == "ok")
    assert (made["metadata"], made["create_time"]) == ({"own": "1"}, datetime(2024, 6, 15, 12))


def test_scores_of_langfuse_are_assessments(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """By their type; of a score that was exported twice the later one."""
    path = written(spark, tmp_path / "w", "langfuse")
    texts = ("id", "trace_id", "observation_id", "name", "source", "comment", "data_type", "string_value")
    micros = pa.timestamp("us", "UTC")
    schema = pa.schema(
        [*((t, pa.string()) for t in texts), ("value", pa.float64()), ("timestamp", micros), ("updated_at", micros)]
    )

    def score(
        name: str, kind: str, value: float, word: str = "", *, later: int = 0, source: str = "API"
    ) -> dict[str, Any]:
        base = dict.fromkeys(texts, "") | {"id": name, "trace_id": ONE, "name": name, "source": source}
        moment = START + timedelta(minutes=later)
        return base | {
            "data_type": kind,
            "value": value,
            "string_value": word,
            "timestamp": START,
            "updated_at": moment,
        }

    rows = [
        score("number", "NUMERIC", 0.5),
        score("number", "NUMERIC", 0.75, later=1),
        score("flag", "BOOLEAN", 1.0, source="EVAL"),
        score("word", "CATEGORICAL", 0.0, "good", source="ANNOTATION"),
    ]
    project, name = tmp_path / "w" / "p1", "2024-08-01T00-00-00"
    (project / "scores").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), project / "scores" / f"{name}.parquet")
    manifest = {"version": 1, "files": [{"key": f"p1/scores/{name}.parquet"}]}
    (project / "manifests" / f"{name}.json").write_text(json.dumps(manifest), encoding="utf-8")
    source = open_source(spark, settings, path)
    found = only(source.read(source.columns, DAY).collect())
    assert values_of(found["assessments"]) == {"number": "0.75", "flag": "true", "word": "good"}
    who = {a["assessment_name"]: a["source"]["source_type"] for a in found["assessments"]}
    assert who == {"number": "CODE", "flag": "LLM_JUDGE", "word": "HUMAN"}
    assert found["tags"] == {"support": "true", "environment": "production", "mlflow.traceName": "support"}
    assert (found["experiment_id"], found["session_id"]) == ("p1", "s-1")
    asked = source.read({"trace_id"}, EVER, experiment_id="other").collect()
    assert (asked, len(source.read({"trace_id"}, EVER, experiment_id="p1").collect())) == ([], 2)


def test_a_run_of_langsmith_that_ended_meanwhile_has_ended(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    """Of overlapping exports the ended run counts; one that never ended is IN_PROGRESS; a run of a dataset is told."""
    path = written(spark, tmp_path / "w", "langsmith")
    (file,) = Path(path).rglob("*.parquet")
    table = pq.read_table(file, partitioning=None)
    rows = [row for row in table.to_pylist() if row["parent_run_id"] is None]
    pending = [row | {"status": "pending", "outputs": None, "end_time": None} for row in rows]
    other = {"id": "x", "trace_id": "x", "reference_example_id": "example-1"}
    later = Path(str(file).replace("export_id=e1", "export_id=e2"))
    later.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([*pending, pending[0] | other], schema=table.schema), later)
    source = open_source(spark, settings, path)
    found = {row["trace_id"]: row for row in source.read(source.columns, DAY).collect()}
    assert (found[ONE]["state"], found[ONE]["response"]) == ("OK", "answer")
    assert (found["x"]["state"], found["x"]["response"]) == ("IN_PROGRESS", None)
    assert found["x"]["trace_metadata"]["mlflow.sourceRun"] == "example-1"


def test_nanoseconds_are_read_and_no_setting_is_changed(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    """Of Phoenix and ClickHouse, beside a file of evaluations."""
    spark.conf.set("spark.sql.session.timeZone", "Pacific/Apia")
    path = written(
        spark, tmp_path / "w", "phoenix", a_conversation(start_time_ns=int(START.timestamp()) * 10**9 + 1999)
    )
    pq.write_table(pa.table({"context.span_id": ["x"], "score": [1.0]}), Path(path) / "evaluations-1.parquet")
    found = only(open_source(spark, settings, path).traces().collect())
    assert found["request_time"].replace(tzinfo=UTC) == START + timedelta(microseconds=1)
    assert found["spans"][0]["start_time_ns"] == int(START.timestamp()) * 10**9 + 1999
    assert found["spans"][0]["attributes"] == {"session.id": "s-1", "llm.token_count.total": "7.0"}
    assert spark.conf.get("spark.sql.legacy.parquet.nanosAsLong") == "false"


def test_one_document_over_many_lines_is_read(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """As protobuf's printer makes it by default; in lines a torn one is counted as a trace without a time."""
    path = Path(written(spark, tmp_path / "w", "otlp_json, by the collector"))
    first, second = sorted(path.iterdir())
    lines = second.read_text(encoding="utf-8").splitlines()
    first.write_text(first.read_text(encoding="utf-8") + lines[0][:-20], encoding="utf-8")
    source = open_source(spark, settings, str(path))
    rows = source.read({"trace_id", "request_time"}, EVER, untimed=True).collect()
    assert sorted((row["trace_id"] is None, row["request_time"] is None) for row in rows) == [
        (False, False),
        (False, False),
        (True, True),
    ]
    one = tmp_path / "one.json"
    one.write_text(json.dumps(json.loads(lines[0]), indent=2), encoding="utf-8")
    assert len(open_source(spark, settings, str(one)).read({"trace_id"}, EVER).collect()) == 1


def test_exports_without_texts_are_refused(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """Before anything is read; the message says how to export them."""
    dropped = {
        "langfuse": (("input", "output"), "field group io"),
        "langsmith": (("inputs", "outputs"), "export_fields"),
        "phoenix": (("attributes.input.value", "attributes.output.value"), "get_spans_dataframe"),
    }
    for shape, (columns, why) in dropped.items():
        path = written(spark, tmp_path / shape, shape)
        for file in Path(path).rglob("*.parquet"):
            table = pq.read_table(file, partitioning=None)
            pq.write_table(table.drop_columns(list(columns)), file)
        with pytest.raises(TraceSourceError, match=why):
            open_source(spark, settings, path)


def test_columns_of_spans_are_not_mapped(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """`traces.columns` is for tables with a row a trace."""
    path = written(spark, tmp_path / "w", "databricks_otel_v1")
    with pytest.raises(TraceSourceError, match=r"traces\.columns does not fit"):
        open_source(spark, settings, path, columns={"trace_id": "trace_id"})
