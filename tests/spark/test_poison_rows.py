"""What one trace holds costs at most its own results: bytes that are no text, broken JSON, odd types and names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import DataFrame

from backfill_spark import (
    ScorerSamplingConfig,
    backfill_scorers,
    configure,
    get_backfill,
    plan_backfill,
    read_assessments,
    read_traces,
    scorer,
)
from backfill_spark.errors import TraceSourceError
from backfill_spark.models import TimeWindow
from backfill_spark.traces.sources import open_source

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings

TORN = "concat('caf', cast(X'e9' as string))"
"""Text of bytes that are no UTF-8."""
COLUMNS = {
    # column of the source: (healthy value, {poisoned row: value})
    "trace_id": ("concat('tr-', id)", {1: f"concat('tr-', id, {TORN})"}),
    "experiment_id": ("'0'", {2: TORN}),
    "state": ("'OK'", {3: TORN}),
    "request": ("concat('question ', id)", {4: TORN}),
    # Own columns may be called like ours: `results` is the response here.
    "results": ("concat('answer ', id)", {5: TORN, 21: "concat('genuine ', decode(X'efbfbd', 'utf-8'))"}),
    "request_preview": ("'q'", {6: TORN}),
    "response_preview": ("'a'", {7: TORN}),
    "client_request_id": ("'c'", {8: TORN}),
    "session_id": ("'s'", {9: TORN}),
    "tags": (
        "map('env', 'prod')",
        {
            10: f"map('env', {TORN})",
            11: f"map({TORN}, 'prod')",
            21: "map('env', decode(X'efbfbd', 'utf-8'))",
            22: "cast(null as map<string,string>)",
        },
    ),
    "trace_metadata": (
        """'{"env":"prod"}'""",
        {
            12: """'{"env":"prod"'""",
            13: """"{'env': 'prod'}\"""",
            14: "'[1, 2]'",
            15: """'"a text"'""",
            16: f"""concat('{{"env":"', {TORN}, '"}}')""",
            22: "'null'",
            23: """'"{\\\\"env\\\\":\\\\"prod\\\\"}"'""",
        },
    ),
    "spans": (
        "array(named_struct('span_id', 'a', 'name', 'root', 'attributes', map('k', 'v')))",
        {
            17: f"array(named_struct('span_id', 'a', 'name', {TORN}, 'attributes', map('k', 'v')))",
            18: f"array(named_struct('span_id', 'a', 'name', 'root', 'attributes', map('k', {TORN})))",
            21: "array(named_struct('span_id', 'a', 'name', decode(X'efbfbd', 'utf-8'), 'attributes', map('k', 'v')))",
        },
    ),
    "assessments": ("'[]'", {19: "'[{'", 20: f"concat('[\"', {TORN}, '\"]')"}),
}
HIDDEN = [
    "_metadata",
    "_file",
    "draw",
    "due",
    "skip",
    "matched",
    "sampled",
    "trace_time",
    "ties",
    "unreadable",
    "chosen",
]


@pytest.fixture(autouse=True)
def _configured(settings: Settings) -> None:
    configure(settings)


def poisoned(spark: SparkSession, rows: int) -> DataFrame:
    """Return traces of which 1 to 20 hold something that cannot be read."""
    columns = ["id", "timestamp_micros(1718452800000000 + id) request_time", *(f"'own' `{name}`" for name in HIDDEN)]
    for name, (healthy, others) in COLUMNS.items():
        cases = " ".join(f"when {row} then {value}" for row, value in others.items())
        columns.append(f"case id {cases} else {healthy} end `{name}`")
    return spark.range(rows).selectExpr(*columns)


def test_twenty_poison_rows_cost_their_own_results(spark: SparkSession, settings: Settings) -> None:
    """A scorer of the whole trace, one of the outputs, and one with a filter on metadata, in one job that succeeds."""
    settings = settings.model_copy(
        update={"traces": settings.traces.model_copy(update={"columns": {"response": "results"}})}
    )
    configure(settings)
    poisoned(spark, 2_000).coalesce(2).write.format("delta").save(settings.traces_path)

    @scorer
    def whole(trace: Any) -> Any:
        return len(f"{trace.info.session_id} {trace.info.state} {trace.to_json()}")

    @scorer
    def outputs_only(outputs: Any) -> Any:
        return len(outputs)

    @scorer
    def filtered(outputs: Any) -> Any:
        return len(outputs)

    for each in (whole, outputs_only):
        each.register().start()
    filtered.register().start(sampling_config=ScorerSamplingConfig(1.0, "metadata.env = 'prod'"))

    names = ["whole", "outputs_only", "filtered"]
    job = get_backfill(backfill_scorers(scorers=names))
    assert ("SUCCEEDED", None) == (job.state, job.error)
    counts = {name: (c.scored, c.errored, c.filtered_out, c.left, c.calls) for name, c in job.counts.items()}
    rows = read_assessments().where("error_code is not null").toPandas()
    codes = {name: sorted(set(group.error_code)) for name, group in rows.groupby("scorer_name")}
    assert counts == {
        # Broken tags, metadata, spans and assessments are met when the scorer reads them: inside the call.
        "whole": (1_980, 20, 0, 0, 1_999),
        "outputs_only": (1_998, 2, 0, 0, 1_998),
        "filtered": (1_992, 7, 1, 0, 1_992),
    }
    assert codes == {name: ["trace_unreadable"] for name in counts}
    assert {"tr-1caf\ufffd", "tr-5"} == set(rows[rows.scorer_name == "outputs_only"].trace_id)
    assert all("holds" in text or "cannot be read" in text for text in rows.error_message)
    assert 0 == plan_backfill(scorers=names).calls


def test_values_follow_no_setting_of_the_session(spark: SparkSession, settings: Settings) -> None:
    """Times in structs, maps and variants keep microseconds and are UTC; NULL fields and texts are the same."""
    time = "timestamp_micros(1718452800123456)"
    frame = spark.range(1).selectExpr(
        "'t' trace_id",
        f"{time} request_time",
        f"named_struct('at', {time}, 'n', timestamp_ntz'2024-06-15 12:00:00.123456', 'x', null) request",
        f"to_variant_object(named_struct('at', {time})) response",
        f"map('at', {time}) tags",
        f"named_struct('at', {time}, 'x', null) trace_metadata",
    )
    seen = []
    for conf in (
        {},
        {"spark.sql.session.timeZone": "America/New_York", "spark.sql.ansi.enabled": "false"},
        {"spark.sql.legacy.timeParserPolicy": "LEGACY", "spark.sql.jsonGenerator.ignoreNullFields": "false"},
        {"spark.sql.caseSensitive": "true", "spark.sql.session.timeZone": "Asia/Kathmandu"},
    ):
        for key, value in conf.items():
            spark.conf.set(key, value)
        row = read_traces(frame).select("request", "response", "tags", "trace_metadata").collect()[0]
        seen.append(tuple(row))
        for key in conf:
            spark.conf.unset(key)
    assert seen == [
        (
            '{"at":"2024-06-15T12:00:00.123456Z","n":"2024-06-15T12:00:00.123456"}',
            '{"at":"2024-06-15 12:00:00.123456+00:00"}',
            {"at": "2024-06-15T12:00:00.123456Z"},
            {"at": "2024-06-15T12:00:00.123456Z"},
        )
    ] * len(seen)


def test_variants_and_columns_without_a_value_are_read(spark: SparkSession, settings: Settings) -> None:
    """A VARIANT's text is bare, its null is NULL; VOID columns, and those of any type with NULLs only, are NULL."""
    texts = ['"a \\"b\\" text"', "null", '{"k":[1,null]}', "5"]
    frame = spark.createDataFrame(list(enumerate(texts)), "id int, v string").selectExpr(
        "id trace_id",
        "timestamp_micros(0) request_time",
        "parse_json(v) response",
        "map('k', parse_json(v)) trace_metadata",
        'case when id = 0 then parse_json(\'"{\\\\"k\\\\":\\\\"v\\\\"}"\') when id = 1 then parse_json(\'null\') '
        'else parse_json(\'{"k":"v"}\') end tags',
        "null spans",
        "null request",
        "cast(null as int) assessments",
        "cast(null as int) state",
    )
    rows = read_traces(frame).orderBy("trace_id").collect()
    bare = ['a "b" text', None, '{"k":[1,null]}', "5"]
    assert bare == [row.response for row in rows]
    assert bare == [row.trace_metadata["k"] for row in rows]
    assert [{"k": "v"}, None, {"k": "v"}, {"k": "v"}] == [row.tags for row in rows]
    assert {(None, None, None, None)} == {(r.spans, r.request, r.assessments, r.state) for r in rows}
    with pytest.raises(TraceSourceError, match="state is INT, expected STRING"):
        read_traces(frame.drop("state").withColumn("state", frame["trace_id"]))


def write_parquet(path: Path, **columns: Iterable[Any]) -> None:
    """Write one file as pandas does."""
    import pandas as pd

    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame({"request_time": pd.to_datetime(["2024-06-15T12:00:00Z"]), **columns})
    frame.to_parquet(path, coerce_timestamps="us", allow_truncated_timestamps=True)


def test_folder_names_are_read_as_they_are_spelled(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """007 stays 007, 1e3 is no 1000, and a session that looks like a date is one all the same."""
    for trace, experiment, session in (("007", "007", "2024-06-15"), ("7", "1e3", "5L"), ("a%3Ab", "9" * 25, "x")):
        folder = tmp_path / "pq" / f"trace_id={trace}" / f"experiment_id={experiment}" / f"session_id={session}"
        write_parquet(folder / "0.parquet", response=["r"])
    rows = read_traces(str(tmp_path / "pq")).select("trace_id", "experiment_id", "session_id", "response").collect()
    assert sorted(map(tuple, rows)) == [
        ("007", "007", "2024-06-15", "r"),
        ("7", "1e3", "5L", "r"),
        ("a:b", "9" * 25, "x", "r"),
    ]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"session_id": [None]}, {"session_id": ["s"]}, "session_id (int and string)"),
        ({"score": [1], "tags": [{"a": 1}]}, {"score": ["x"], "tags": [{"a": "b"}]}, "tags (struct<a:bigint> and"),
        ({"my col": [1.5]}, {"my col": [True]}, "my col (double and boolean)"),
    ],
)
def test_schemas_that_do_not_merge_are_told_by_column(
    spark: SparkSession, settings: Settings, tmp_path: Path, one: Any, other: Any, said: str
) -> None:
    """The refusal names each column with both types, and what to do."""
    for n, columns in enumerate((one, other)):
        write_parquet(tmp_path / "pq" / f"{n}.parquet", trace_id=[f"t{n}"], **columns)
    with pytest.raises(TraceSourceError) as raised:
        read_traces(str(tmp_path / "pq"))
    assert said in str(raised.value)
    assert "Write the column with one type in all files" in str(raised.value)


@pytest.mark.parametrize("name", ["_metadata", "_Metadata", "_tmp_metadata_row_index"])
def test_own_columns_like_spark_s_hidden_ones_hide_nothing(
    spark: SparkSession, settings: Settings, tmp_path: Path, name: str
) -> None:
    """Positions in a Parquet file are told, whatever its columns are called."""
    write_parquet(tmp_path / "pq" / "0.parquet", trace_id=["t"], **{name: ["own"]})
    source = open_source(spark, settings, str(tmp_path / "pq"))
    row = source.read(["trace_id"], TimeWindow(), positions=True).collect()[0]
    assert row["_file"].endswith("/0.parquet")
