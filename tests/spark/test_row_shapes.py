"""Shapes with a row a trace: the same conversations score the same, however they are stored."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from pyspark.sql import functions as F

from backfill_spark import (
    backfill_scorers,
    configure,
    get_backfill,
    plan_backfill,
    read_assessments,
    read_traces,
    scorer,
)
from backfill_spark.errors import BackfillRefusedError, SourceGoneError, TraceSourceError
from backfill_spark.models import ScorerKind, ScorerSpec, TimeWindow
from backfill_spark.schema import TRACES
from backfill_spark.scoring.arguments import Batch
from backfill_spark.scoring.columns import worker_columns, worker_inputs
from backfill_spark.settings.schema import Settings
from backfill_spark.traces.sources import open_source
from tests.factories import NOON, a_trace, an_expectation, some_traces, traces_frame
from tests.servers import run_in
from tests.spark.test_real_traces import of_framework, of_swe, of_tau, records

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyspark.sql import SparkSession

    from backfill_spark.traces.sources import TraceSource

EVER = TimeWindow()
TEN = Path(__file__).parents[1] / "resources" / "mlflow" / "traces.jsonl"


@scorer
def asked(inputs: Any) -> Any:
    """Tell one input from another."""
    return zlib.crc32(json.dumps(inputs, sort_keys=True).encode())


@scorer
def answered(outputs: Any) -> Any:
    """Tell one output from another."""
    return zlib.crc32(json.dumps(outputs, sort_keys=True).encode())


@scorer
def tools(trace: Any) -> Any:
    """Count the TOOL spans, and the others."""
    return f"{len(trace.search_spans(span_type='TOOL'))} of {len(trace.data.spans)}"


def conversations(shared: Path) -> list[dict[str, Any]]:
    """Return the 145 recorded agent runs as rows of TRACES, an hour apart."""
    named = {"tau_bench_airline_gpt4o": of_tau, "swe_agent_trajectories": of_swe, "framework_traces": of_framework}
    rows: list[dict[str, Any]] = []
    for name, spans_of in named.items():
        for record in records(shared, name):
            spans = spans_of(record)
            ids = {span["span_id"] for span in spans}
            root = next((s for s in spans if s["parent_id"] not in ids), spans[0])
            spans = [root, *(s for s in spans if s is not root)]
            for span in spans:
                span["end_time_ns"] = span["end_time_ns"] or span["start_time_ns"]
            start = NOON + timedelta(hours=len(rows))
            rows.append(
                a_trace(
                    trace_id=record["id"],
                    request_time=start,
                    request=root["inputs"],
                    response=root["outputs"],
                    spans=spans,
                    session_id=f"s-{len(rows) % 7}",
                )
            )
    return rows


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row without its computed date, times as ISO text."""
    return {k: v for k, v in row.items() if k != "trace_date"} | {"request_time": row["request_time"].isoformat()}


def as_delta(spark: SparkSession, rows: list[dict[str, Any]], path: Path) -> str:
    traces_frame(spark, rows).write.format("delta").save(str(path))
    return str(path)


def as_json_lines(_: SparkSession, rows: list[dict[str, Any]], path: Path) -> str:
    file = path.with_suffix(".jsonl")
    file.write_text("".join(json.dumps(plain(row)) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def as_json_list(_: SparkSession, rows: list[dict[str, Any]], path: Path) -> str:
    file = path.with_suffix(".json")
    file.write_text(json.dumps([plain(row) for row in rows], indent=1), encoding="utf-8")
    return str(file)


def texts(rows: list[dict[str, Any]]) -> Any:
    """The rows as a pandas frame: nested values as JSON texts, times as they are."""
    import pandas as pd

    return pd.DataFrame(
        [{k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in row.items()} for row in rows]
    )


def as_csv(_: SparkSession, rows: list[dict[str, Any]], path: Path) -> str:
    file = path.with_suffix(".csv")
    texts([plain(row) for row in rows]).to_csv(file, index=False)
    return str(file)


def as_nanoseconds(_: SparkSession, rows: list[dict[str, Any]], path: Path) -> str:
    file = path.with_suffix(".parquet")
    frame = texts(rows).drop(columns=["trace_date", "client_request_id"])
    frame["request_time"] = frame["request_time"].astype("datetime64[ns, UTC]")
    frame.to_parquet(file)
    return str(file)


def as_archive(spark: SparkSession, rows: list[dict[str, Any]], path: Path) -> str:
    """Databricks' archive table: experiment in the location, other names and types in spans and assessments."""
    spans = F.transform(
        "spans",
        lambda s: F.struct(
            s["span_id"],
            F.col("trace_id").alias("trace_id"),
            s["parent_id"],
            F.timestamp_micros((s["start_time_ns"] / 1000).cast("bigint")).alias("start_time"),
            F.timestamp_micros((s["end_time_ns"] / 1000).cast("bigint")).alias("end_time"),
            s["status_code"],
            s["name"],
            mlflow_attributes(s).alias("attributes"),
        ),
    )
    place = F.struct(
        F.lit("MLFLOW_EXPERIMENT").alias("type"), F.struct(F.col("experiment_id")).alias("mlflow_experiment")
    )
    frame = traces_frame(spark, rows).withColumn("spans", spans).withColumn("trace_location", place)
    frame.drop("experiment_id", "session_id", "trace_date").write.format("delta").save(str(path))
    return str(path)


def as_view(spark: SparkSession, rows: list[dict[str, Any]], path: Path) -> str:
    """A copy of Databricks' unified view."""
    spans = F.transform(
        "spans",
        lambda s: F.struct(
            F.col("trace_id").alias("trace_id"),
            s["span_id"],
            F.coalesce(s["parent_id"], F.lit("")).alias("parent_span_id"),
            s["name"],
            s["start_time_ns"].alias("start_time_unix_nano"),
            s["end_time_ns"].alias("end_time_unix_nano"),
            mlflow_attributes(s).alias("attributes"),
            F.struct(F.lit("").alias("message"), F.lit("STATUS_CODE_OK").alias("code")).alias("status"),
            F.struct(F.create_map(F.lit("service.name"), F.lit("x")).alias("attributes")).alias("resource"),
        ),
    )
    frame = traces_frame(spark, rows).withColumn("spans", spans)
    frame = frame.withColumn("execution_duration_ms", F.col("execution_duration_ms").cast("decimal(30,9)"))
    frame.drop("experiment_id", "session_id", "trace_date").write.format("delta").save(str(path))
    return str(path)


def mlflow_attributes(span: Any) -> Any:
    """The attributes that MLflow writes: each a JSON text."""
    return F.map_from_arrays(
        F.array(F.lit("mlflow.spanType"), F.lit("mlflow.spanInputs"), F.lit("mlflow.spanOutputs")),
        F.array(
            F.concat(F.lit('"'), span["span_type"], F.lit('"')),
            as_json_value(span["inputs"]),
            as_json_value(span["outputs"]),
        ),
    )


def as_json_value(text: Any) -> Any:
    """JSON objects and lists as they are, other texts as JSON strings; as `decoded` of the export script."""
    wrapped = F.to_json(F.struct(text.alias("v")))
    quoted = F.substring(wrapped, F.lit(6), F.length(wrapped) - 6)
    is_json = text.rlike(r"^\s*[\[{]") & F.try_parse_json(text).isNotNull()
    return F.when(is_json, text).when(text.isNotNull(), quoted)


OWN = {
    "trace_id": "id",
    "request_time": {"column": "at", "unit": "ms"},
    "request": {"path": "body.question"},
    "response": {"path": ["body", "the.answer"]},
    "spans": "steps",
    "experiment_id": {"constant": "0"},
}


def as_own_table(spark: SparkSession, rows: list[dict[str, Any]], path: Path) -> str:
    """A table of other columns: the payload in one JSON text, the time as a number."""
    body = F.to_json(F.struct(F.col("request").alias("question"), F.col("response").alias("the.answer")))
    traces_frame(spark, rows).select(
        F.col("trace_id").alias("id"),
        F.unix_millis("request_time").alias("at"),
        body.alias("body"),
        F.col("spans").alias("steps"),
    ).write.parquet(str(path))
    return str(path)


WRITERS: dict[str, tuple[Callable[..., str], str]] = {
    "delta": (as_delta, "canonical"),
    "json lines": (as_json_lines, "canonical"),
    "json list": (as_json_list, "canonical"),
    "csv": (as_csv, "canonical"),
    "parquet, nanoseconds": (as_nanoseconds, "canonical"),
    "archive": (as_archive, "databricks_archive"),
    "unified view": (as_view, "databricks_unified"),
    "own table": (as_own_table, "canonical"),
}


def seen(source: TraceSource) -> dict[tuple[str, str], Any]:
    """Call the three scorers with what a worker gives them of each trace; return the value of each pair."""
    scorers = [asked, answered, tools]
    spec = ScorerSpec("all", 1, "", ScorerKind.FUNCTION, {}, None, ("inputs", "outputs", "trace"), 1.0)
    names, _, given = worker_inputs([spec], source.columns, trace_mb=16)
    assert given is not None
    rows = source.read(names, EVER).select(given.alias("given")).collect()
    batch = Batch(worker_columns(names, [[r["given"][n] for r in rows] for n in names]), [spec.signature], "auto")
    values = {}
    for row in range(len(rows)):
        trace_id = batch.argument("trace")(row).info.trace_id
        for one in scorers:
            arguments = {name: batch.argument(name)(row) for name in one.signature}
            values[trace_id, one.name] = json.dumps(one(**arguments))
    return values


def scored(path: str) -> dict[tuple[str, str], Any]:
    """Run a job of the three scorers over the traces at `path`; return the value of each pair."""
    job_id = backfill_scorers(scorers=["asked", "answered", "tools"], traces=path)
    assert {c.errored for c in get_backfill(job_id).counts.values()} == {0}
    rows = read_assessments(job_id=job_id).collect()
    return {(r["trace_id"], r["scorer_name"]): r["value"] for r in rows}


def expected(rows: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    """What the scorers say of the records, without the package."""

    def decoded(text: Any) -> Any:
        try:
            return json.loads(text) if text is not None and text.lstrip()[:1] in ("{", "[") else text
        except ValueError:
            return text

    values: dict[tuple[str, str], Any] = {}
    for row in rows:
        count = sum(s["span_type"] == "TOOL" for s in row["spans"])
        values[row["trace_id"], "asked"] = zlib.crc32(json.dumps(decoded(row["request"]), sort_keys=True).encode())
        values[row["trace_id"], "answered"] = zlib.crc32(json.dumps(decoded(row["response"]), sort_keys=True).encode())
        values[row["trace_id"], "tools"] = f"{count} of {len(row['spans'])}"
    return {key: json.dumps(value) for key, value in values.items()}


@pytest.fixture
def registered(spark: SparkSession, settings: Settings) -> Settings:
    configure(settings)
    for one in (asked, answered, tools):
        one.register().start()
    return settings


def test_conversations_score_the_same_in_each_shape(
    registered: Settings, spark: SparkSession, shared: Path, tmp_path: Path
) -> None:
    """145 agent runs of three sources and eleven frameworks; values made without the package."""
    rows = conversations(shared)
    want = expected(rows)
    assert len(want) == 3 * 145
    for name, (write, shape) in WRITERS.items():
        path = write(spark, rows, tmp_path / name.replace(", ", "-").replace(" ", "_"))
        source = open_source(spark, registered, path, columns=OWN if name == "own table" else {})
        found = seen(source)
        assert {k: (want[k], v) for k, v in found.items() if want[k] != v} == {}, name
        assert (shape, want.keys()) == (source.shape, found.keys()), name
    # The last one by a job, too, which keeps the mapping.
    configure(Settings(tables={"root": registered.tables.root}, traces={"columns": OWN}, timezone="UTC"))
    assert want == scored(path)


def as_pandas_writes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the fractions of their payloads cut to ten digits, which is what `to_json` of a frame keeps."""
    import pandas as pd

    def cut(text: str | None) -> str | None:
        if text is None or text.lstrip()[:1] not in ("{", "["):
            return text
        try:
            return json.dumps(json.loads(pd.DataFrame({"v": [json.loads(text)]}).to_json(orient="records"))[0]["v"])
        except ValueError:
            return text

    return [row | {name: cut(row[name]) for name in ("request", "response")} for row in rows]


def test_what_mlflow_saves_scores_the_same(
    registered: Settings, spark: SparkSession, shared: Path, tmp_path: Path
) -> None:
    """Written, searched and saved by MLflow itself: documents, and frames with and without their column `trace`."""
    rows = conversations(shared)[::5]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(plain(r)) + "\n" for r in rows), encoding="utf-8")
    script = Path(__file__).parents[1] / "mlflow_export.py"
    ours = json.loads(run_in("mlflow", script, str(tmp_path / "rows.jsonl"), str(tmp_path)).splitlines()[-1])
    want = expected(rows)
    shapes = dict.fromkeys(("documents.jsonl", "frame.jsonl", "frame.csv", "frame.parquet"), "mlflow_documents")
    for name, shape in (shapes | {"bare.jsonl": "mlflow_frame"}).items():
        source = open_source(spark, registered, str(tmp_path / name))
        found = {(ours[i], scorer): value for (i, scorer), value in seen(source).items()}
        if name == "bare.jsonl":
            want = expected(as_pandas_writes(rows))
        assert {k: (want[k], v) for k, v in found.items() if want[k] != v} == {}, name
        assert (shape, want.keys()) == (source.shape, found.keys()), name
    with pytest.raises(TraceSourceError, match="without its column trace"):
        open_source(spark, registered, str(tmp_path / "bare.csv"))


def test_mlflow_documents_are_read_column_by_column(spark: SparkSession, settings: Settings) -> None:
    """Traces that MLflow's SDK wrote: ids, times, states, texts, lists as the arrays of TRACES."""
    documents = [json.loads(line) for line in TEN.read_text(encoding="utf-8").splitlines()]
    frame = read_traces(TEN, spark=spark, settings=settings)
    assert frame.schema.simpleString() == TRACES.simpleString()
    found = {row["trace_id"]: row for row in frame.collect()}
    assert found.keys() == {d["info"]["trace_id"] for d in documents}
    for document in documents:
        info, spans, row = document["info"], document["data"]["spans"], found[document["info"]["trace_id"]]
        root = next(s for s in spans if not s["parent_span_id"])
        told = root["attributes"].get("mlflow.spanOutputs")
        outputs = None if told is None else json.loads(told)
        assert row["response"] == (outputs if outputs is None or isinstance(outputs, str) else row["response"])
        assert outputs is None or isinstance(outputs, str) or json.loads(row["response"]) == outputs
        assert row["state"] == info["state"]
        assert row["request_time"].replace(tzinfo=UTC) == datetime.fromisoformat(info["request_time"])
        assert row["execution_duration_ms"] == info["execution_duration_ms"]
        assert row["tags"] == info["tags"]
        assert row["experiment_id"] == info["trace_location"]["mlflow_experiment"]["experiment_id"]
        assert [(s["name"], s["start_time_ns"], s["status_code"]) for s in row["spans"]] == [
            (s["name"], s["start_time_unix_nano"], s["status"]["code"].removeprefix("STATUS_CODE_")) for s in spans
        ]
        assert all(len(s["span_id"]) == 16 for s in row["spans"])
        assert {s["parent_id"] for s in row["spans"]} <= {None, *(s["span_id"] for s in row["spans"])}
        told = [a["assessment_name"] for a in info.get("assessments", [])]
        assert [a["assessment_name"] for a in row["assessments"] or []] == told
        assert all(a["create_time"] is not None for a in row["assessments"] or [])


def test_traces_whose_archived_spans_are_gone_are_not_scored(
    spark: SparkSession, registered: Settings, tmp_path: Path
) -> None:
    """Counted with a reason; those of which the file was read, and those that never had spans, are scored."""
    spans = [{"span_id": "a", "parent_span_id": "", "attributes": {"mlflow.spanOutputs": '"text"'}}]

    def document(number: int, place: str, spans: Any) -> str:
        tags = {"mlflow.trace.spansLocation": place}
        info = {"trace_id": f"tr-{number}", "request_time": NOON.isoformat(), "state": "OK", "tags": tags}
        return json.dumps({"info": info, "data": {"spans": spans}})

    places = ("ARCHIVE_REPO", "ARTIFACT_REPO", "TRACKING_STORE")
    each = [(place, has) for place in places for has in (spans, [], None)]
    path = tmp_path / "saved.jsonl"
    path.write_text("\n".join(document(n, *one) for n, one in enumerate(each)), encoding="utf-8")
    counts = plan_backfill(scorers=["answered"], traces=str(path)).counts["answered"]
    assert (counts.in_window, counts.due, counts.skipped_reasons) == (9, 5, {"incomplete": 4})

    def line(number: int, place: str, spans: Any) -> dict[str, Any]:
        times = {"request_time": int(NOON.timestamp()) * 1000, "execution_duration": 5}
        maps = {"trace_metadata": {}, "tags": {"mlflow.trace.spansLocation": place}}
        response = "text" if spans else None
        return {"trace_id": f"tr-{number}", "state": "OK", "response": response, "spans": spans, **times, **maps}

    lines = [line(n, *one) for n, one in enumerate(each)]
    for dropped in ({"spans"}, {"response"}):  # a frame's columns besides its `trace`, or some of them
        texts = [json.dumps({name: value for name, value in one.items() if name not in dropped}) for one in lines]
        path.write_text("\n".join(texts), encoding="utf-8")
        found = open_source(spark, registered, str(path)).read(["state"], EVER).groupBy("state").count().collect()
        assert {row["state"]: row["count"] for row in found} == {"OK": 5, "INCOMPLETE": 4}


def test_lists_kept_as_json_text_come_as_arrays(spark: SparkSession, settings: Settings) -> None:
    """`read_traces` gives TRACES, whatever was stored."""
    row = a_trace(assessments=[an_expectation("expected_response", "18")])
    whole = traces_frame(spark, [row])
    as_text = whole.withColumns({name: F.to_json(name) for name in ("spans", "assessments")})
    assert read_traces(as_text, settings=settings).collect() == whole.collect()


TIMES = [
    ("bigint", 1_718_452_800, "in s"),
    ("bigint", 1_718_452_800_000, "in ms"),
    ("bigint", 1_718_452_800_000_000, "in us"),
    ("double", 1_718_452_800.0, "in s"),
    ("string", "1718452800000", "in ms"),
    ("string", "2024-06-15T12:00:00Z", ""),
    ("string", "2024-06-15 14:00:00.000+02:00", ""),
    ("string", "2024-06-15T12:00:00", ""),
]


def test_times_of_each_kind_are_the_same_instant(spark: SparkSession, settings: Settings) -> None:
    """Numbers in the unit that their size tells, ISO texts with and without a zone; what is no time is NULL."""
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")
    day = TimeWindow(NOON, NOON + timedelta(microseconds=1))
    found = []
    for kind, value, unit in TIMES:
        frame = spark.createDataFrame([("tr-1", value)], f"trace_id string, request_time {kind}")
        if kind == "string":
            frame = frame.unionByName(spark.createDataFrame([("tr-2", "12:00")], frame.schema))
        source = open_source(spark, settings, frame)
        assert source.mapping["request_time"] == (f"request_time ({unit} since 1970)" if unit else "request_time")
        rows = source.read(["trace_id", "request_time"], day).select(F.unix_micros("request_time"), F.lit(str(value)))
        found.append(rows)
        assert [r[0] for r in source.read(["request_time"], EVER, untimed=True).collect()][1:] in ([], [None])
    instants = [row[0] for frame in found for row in frame.collect()]
    assert instants == [int(NOON.timestamp()) * 1_000_000] * len(TIMES)


def test_files_of_text_are_pinned(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """A file that arrives later is not read; a column that only a later document has is."""
    folder = tmp_path / "days"
    folder.mkdir()
    rows = [plain(a_trace(trace_id=f"tr-{n}")) for n in range(3)]
    (folder / "1.jsonl").write_text(
        f"{json.dumps({k: rows[0][k] for k in ('trace_id', 'request_time')})}\n", encoding="utf-8"
    )
    (folder / "2.jsonl").write_text(f"{json.dumps(rows[1])}\nno json\n", encoding="utf-8")
    first = open_source(spark, settings, str(folder))
    (folder / "3.jsonl").write_text(json.dumps(rows[2]), encoding="utf-8")
    again = open_source(spark, settings, str(folder), version=first.version, files=first.files)
    found = again.read(["trace_id", "response"], EVER).collect()
    assert sorted(map(tuple, found)) == [("tr-0", None), ("tr-1", rows[1]["response"])]
    # What is no JSON is a row without an id and a time, which every job counts as skipped.
    assert again.read(["trace_id"], EVER, untimed=True).where("trace_id IS NULL").count() == 1
    with pytest.raises(SourceGoneError, match="pinned list"):
        open_source(spark, settings, str(folder), version=first.version)


def test_folders_of_text_files_are_columns(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """Folders `name=value` are columns as they are spelled, of JSON and of CSV."""
    row = plain(a_trace())
    for suffix, text in ((".jsonl", json.dumps(row)), (".csv", "trace_id,request_time\ntr-1,2024-06-15\n")):
        folder = tmp_path / suffix / "experiment_id=007"
        folder.mkdir(parents=True)
        (folder / f"1{suffix}").write_text(text.replace('"experiment_id": "0", ', ""), encoding="utf-8")
        found = open_source(spark, settings, str(tmp_path / suffix)).read(["trace_id", "experiment_id"], EVER)
        assert [("tr-1", "007")] == [tuple(r) for r in found.collect()]


def test_what_is_of_no_known_shape_is_told_with_the_nearest(spark: SparkSession, settings: Settings) -> None:
    """What is there, the nearest shape, and what it lacks."""
    frame = spark.sql("SELECT 'x' AS question, 'y' AS answer")
    with pytest.raises(TraceSourceError, match=r"no known shape: they have 'answer', 'question'"):
        open_source(spark, settings, frame)
    with pytest.raises(TraceSourceError, match=r"nearest is canonical .*lacks 'request_time'"):
        open_source(spark, settings, spark.sql("SELECT 'x' AS trace_id, 'y' AS answer"))
    with pytest.raises(TraceSourceError, match=r"no shape 'langfusion'"):
        open_source(spark, settings, frame, shape="langfusion")


def test_a_mapping_that_does_not_fit_is_told_at_once(spark: SparkSession, settings: Settings) -> None:
    """Columns, fields of structs, units and types, all in one message."""
    frame = spark.sql("SELECT 'x' AS id, named_struct('q', 1) AS body, true AS at, array(1) AS many")
    columns = {
        "trace_id": "idd",
        "request": {"path": "body.question"},
        "response": {"path": "at.x"},
        "state": {"column": "id", "unit": "s"},
        "request_time": "at",
        "tags": {"path": "many[0]"},
    }
    with pytest.raises(TraceSourceError) as caught:
        open_source(spark, settings, frame, columns=columns)
    for said in (
        "the column 'idd' is not there",
        "no field 'question' at 'body.question'; the nearest are ['q']",
        "'at.x' leads into a BOOLEAN",
        "a unit is for request_time only",
        "request_time (their 'at') is BOOLEAN",
        "tags (their 'many[0]') is INT",
    ):
        assert said in str(caught.value)


@scorer
def is_right(outputs: Any, expectations: Any) -> Any:
    """Compare with what is expected."""
    return expectations.get("expected_response") == outputs


def test_expectations_in_quotes_are_said_and_read(spark: SparkSession, settings: Settings) -> None:
    """`"18"` with quotes is the text 18: else every pair would fail without a word."""
    rows = some_traces(
        4,
        response="18",
        assessments=lambda n: [an_expectation("expected_response", '"18"' if n else "18")],
    )
    as_delta(spark, rows, Path(settings.traces_path))
    configure(settings)
    is_right.register().start()
    job = get_backfill(backfill_scorers(scorers=["is_right"]))
    assert any("JSON text in quotes in 3 of the first 4: scorers get it without" in note for note in job.notes)
    assert [r["value"] for r in read_assessments().collect()] == ["true"] * 4


def test_traces_without_a_payload_are_refused(registered: Settings, spark: SparkSession, tmp_path: Path) -> None:
    """A scorer that would be given None for every trace is named before any call."""
    bare = traces_frame(spark, some_traces(2)).select("trace_id", "request_time", "state")
    bare.write.format("delta").save(str(tmp_path / "bare"))
    with pytest.raises(BackfillRefusedError, match=r"'answered' takes outputs.*neither response nor spans") as caught:
        backfill_scorers(scorers=["asked", "answered", "tools"], traces=tmp_path / "bare")
    assert len(caught.value.problems) == 2
    with pytest.raises(BackfillRefusedError, match="A DataFrame cannot be pinned"):
        backfill_scorers(scorers=["asked"], traces=cast("Any", bare))


def test_a_view_is_pinned_by_what_it_reads(registered: Settings, spark: SparkSession, tmp_path: Path) -> None:
    """The plan says so; once its table has changed, nothing more is read, and `--repin` goes on."""
    path = as_delta(spark, some_traces(3), tmp_path / "t")
    spark.sql(
        f"CREATE OR REPLACE TEMP VIEW seen AS SELECT * EXCEPT (tags) FROM delta.`{path}` WHERE trace_id <> 'tr-0'"
    )
    source = open_source(spark, registered, "seen")
    again = open_source(spark, registered, "seen", version=source.version)
    assert (source.kind, source.format, "tags" in source.columns) == ("table", "view", False)
    assert sorted(r[0] for r in again.read(["trace_id"], EVER, positions=True).select("trace_id").collect()) == [
        "tr-1",
        "tr-2",
    ]
    job = get_backfill(backfill_scorers(scorers=["answered"], traces="seen"))
    assert job.counts["answered"].scored == 2
    assert any(f"{path} at version 0" in note for note in job.notes)
    traces_frame(spark, [a_trace(trace_id="late")]).write.format("delta").mode("append").save(path)
    for read in (
        lambda: source.read(["trace_id"], EVER),
        lambda: open_source(spark, registered, "seen", version=source.version),
    ):
        with pytest.raises(SourceGoneError, match="has changed since it was pinned"):
            read()
    assert open_source(spark, registered, "seen").version != source.version


def test_a_view_of_no_files_is_pinned_by_its_rows(registered: Settings, spark: SparkSession) -> None:
    """Whatever their order; the plan says so. Of a row that has changed nothing is read."""
    rows = some_traces(3, tags=lambda n: {"n": str(n)})
    traces_frame(spark, rows).createOrReplaceTempView("made")
    source = open_source(spark, registered, "made")
    traces_frame(spark, rows[::-1]).createOrReplaceTempView("made")
    assert 3 == source.read(["trace_id"], EVER).count()
    job = get_backfill(backfill_scorers(scorers=["answered"], traces="made"))
    assert job.counts["answered"].scored == 3
    assert any("a view of no files, pinned by a digest of its rows" in note for note in job.notes)
    traces_frame(spark, [*rows[:2], rows[2] | {"tags": {"n": "x"}}]).createOrReplaceTempView("made")
    with pytest.raises(SourceGoneError, match="has changed since it was pinned"):
        source.read(["trace_id"], EVER)
