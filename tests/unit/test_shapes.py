"""Shapes and what they are stored in, as far as no JVM is needed: what tells them, mappings, units, names."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from pyspark.sql import types as T

from backfill_spark.backfill.inspection import Inspection, source_problems
from backfill_spark.errors import BackfillRefusedError, SettingsError, SourceGoneError, TraceSourceError
from backfill_spark.models import ScorerKind, ScorerSpec
from backfill_spark.settings.locations import Location
from backfill_spark.settings.schema import Settings
from backfill_spark.traces.sources.canonical import resolve
from backfill_spark.traces.sources.delta import versions_of
from backfill_spark.traces.sources.files import format_of
from backfill_spark.traces.sources.mapping import steps_of
from backfill_spark.traces.sources.shapes import SHAPES, shape_of
from backfill_spark.traces.times import unit_of
from backfill_spark.traces.trace import Trace

SPAN_OF_VIEW = T.StructType(
    [T.StructField(n, T.StringType()) for n in ("parent_span_id", "start_time_unix_nano", "resource")]
)


class Stored:
    """What a shape is told by, without any rows."""

    def __init__(self, *columns: str, stored: str = "delta", **types: T.DataType) -> None:
        kinds = dict.fromkeys(columns, T.StringType()) | types
        self.schema = T.StructType([T.StructField(name, kind) for name, kind in kinds.items()])
        self.columns = frozenset(kinds)
        self.format, self.name, self.names = stored, "/traces", frozenset[str]()


def told(*columns: str, **how: Any) -> str:
    return shape_of(cast("Any", Stored(*columns, **how))).name


def test_shapes_are_told_by_their_columns() -> None:
    """Each row shape by its marks, whatever else is there; names are unique."""
    assert told("info", "data", stored="json") == "mlflow_documents"
    frame = ("trace_id", "request_time", "execution_duration", "trace_metadata", "spans", "request")
    assert told(*frame) == told(*frame, stored="json") == "mlflow_frame"
    assert told("trace_id", "request_time", "trace_location", "spans") == "databricks_archive"
    spans = {"spans": T.ArrayType(SPAN_OF_VIEW)}
    assert told("trace_id", "request_time", "client_request_id", **spans) == "databricks_unified"
    for stored in ("delta", "json", "csv"):
        assert told("trace_id", "request_time", "client_request_id", "spans", stored=stored) == "canonical"
    assert len({shape.name for shape in SHAPES}) == len(SHAPES)


def test_no_shape_names_the_nearest_and_what_it_lacks() -> None:
    """With all that is there; a mapping makes it a table of one's own."""
    with pytest.raises(
        TraceSourceError, match=r"they have 'answer', 'trace_id'. The nearest is .* lacks 'request_time'"
    ):
        told("trace_id", "answer")
    with pytest.raises(TraceSourceError, match=r"nearest is canonical .* lacks 'trace_id', 'request_time'"):
        told("id", "created_at", "request", "response")
    assert shape_of(cast("Any", Stored("a", "b")), columns={"trace_id": "a"}).name == "canonical"
    with pytest.raises(TraceSourceError, match=r"no shape 'langfusion'; traces.shape is auto or one of"):
        shape_of(cast("Any", Stored("a")), "langfusion")


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        (1_718_452_800, "s"),
        ("1718452800000", "ms"),
        (-1_718_452_800_000, "ms"),
        (1_718_452_800_000_000, "us"),
        (1_718_452_800_000_000_000, "ns"),
        (1_718_452_800.25, "s"),
        ("2024-06-15T12:00:00Z", ""),
        ("nan", ""),
        (None, ""),
    ],
)
def test_the_size_of_a_number_tells_its_unit(value: object, unit: str) -> None:
    """Of the years 1973 to 5138; what is no number has none."""
    assert unit == unit_of(value)


def test_paths_are_taken_apart() -> None:
    """By dots and brackets, or as they were given."""
    assert steps_of("body.items[0].text") == ["body", "items", 0, "text"]
    assert steps_of(["body", "the.answer", 0]) == ["body", "the.answer", 0]


def test_columns_may_be_paths_and_constants() -> None:
    """Told as people wrote them; a struct is followed, a JSON text and a map are believed."""
    body = T.StructType(
        [T.StructField("q", T.StringType()), T.StructField("m", T.MapType(T.StringType(), T.DoubleType()))]
    )
    found = T.StructType(
        [T.StructField("id", T.LongType()), T.StructField("at", T.LongType()), T.StructField("b", body)]
    )
    columns = {
        "trace_id": "id",
        "request_time": {"column": "at", "unit": "s"},
        "request": {"path": "b.q.text[0]"},
        "response": {"path": ["b", "m", "a.b"]},
        "state": {"constant": "OK"},
    }
    origins = resolve(found, columns, "/traces")
    assert {name: origin.told for name, origin in origins.items()} == {
        "trace_id": "id",
        "request_time": "at",
        "request": "b.q.text[0]",
        "response": "b.m.a.b",
        "state": "constant 'OK'",
    }
    assert origins["request_time"].unit == "s"
    assert isinstance(origins["response"].type, T.DoubleType)


def test_a_time_has_the_unit_of_the_first_one() -> None:
    """Milliseconds where there is none to look at."""
    found = T.StructType([T.StructField("trace_id", T.StringType()), T.StructField("request_time", T.LongType())])
    assert resolve(found, {}, "/t", lambda _: 1_718_452_800)["request_time"].unit == "s"
    assert resolve(found, {}, "/t", lambda _: None)["request_time"].unit == "ms"


@pytest.mark.parametrize(
    "entry",
    [{"path": "a", "constant": 1}, {}, {"path": []}, {"path": ""}, {"column": "a", "unit": "minutes"}, {"col": "a"}, 7],
)
def test_a_mapping_that_says_no_one_thing_is_refused(entry: object) -> None:
    """When the settings are read."""
    with pytest.raises(SettingsError, match=r"traces\.columns\.request"):
        Settings(traces={"columns": {"request": entry}})


def test_formats_are_told_by_the_names_of_all_files() -> None:
    """A name that says something else makes it Parquet, which then says what it is not."""
    assert format_of(["/a/1.jsonl", "/a/2.json.gz", "/a/3.NDJSON"]) == "json"
    assert format_of(["/a/1.csv", "/a/2.csv.gz"]) == "csv"
    assert format_of(["/a/1.csv", "/a/2.json"]) == format_of(["/a/part-0"]) == "parquet"


def test_a_version_names_each_table() -> None:
    """The table itself, and those beside it."""
    assert versions_of("7+otel_annotations@3") == {"": "7", "otel_annotations": "3"}
    for text in ("view:0123", "7+a", "files:12"):
        with pytest.raises(SourceGoneError):
            versions_of(text)


def test_traces_are_named_by_a_path_a_file_or_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text without a slash is a table, unless a file of that name lies here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers.csv").touch()
    (tmp_path / "answers").mkdir()
    assert Location.given("answers.csv").path == f"{tmp_path}/answers.csv"
    assert Location.given("./answers").path == f"{tmp_path}/answers"
    assert Location.given(Path("answers")).path == f"{tmp_path}/answers"
    assert Location.given("answers").name == "answers"
    assert Location.given("main.logs.answers").name == "main.logs.answers"
    named = Settings(traces={"table": "a.b", "payload": "text"}).with_traces("answers.csv")
    assert (named.traces.path, named.traces.table, named.traces.payload) == (f"{tmp_path}/answers.csv", None, "text")
    assert Settings(traces={"path": "/x"}).with_traces("a.b").traces.path is None


def test_a_data_frame_is_no_name_of_traces() -> None:
    """It says what to do with it."""
    from backfill_spark import backfill_scorers

    with pytest.raises(BackfillRefusedError, match="write it first"):
        backfill_scorers(scorers=["x"], traces=cast("Any", {"trace_id": ["a"]}), spark=cast("Any", object()))


class Source:
    """A source that has these columns."""

    name = "/traces"

    def __init__(self, *columns: str) -> None:
        self.columns = frozenset(columns)


@pytest.mark.parametrize(
    ("columns", "signature", "is_refused"),
    [
        (("trace_id",), ("outputs",), True),
        (("request",), ("outputs",), True),
        (("request",), ("inputs", "outputs"), False),
        (("spans",), ("outputs",), False),
        (("trace_id",), ("trace",), False),
        (("trace_id",), ("outputs", "trace"), False),
    ],
)
def test_what_would_score_nothing_but_none_is_refused(
    columns: tuple[str, ...], signature: tuple[str, ...], is_refused: bool
) -> None:
    """A scorer of inputs or outputs, of which the traces have no column."""
    spec = ScorerSpec("one", 1, "", ScorerKind.FUNCTION, {}, None, signature, 1.0)
    assert is_refused == bool(source_problems(cast("Any", Source(*columns)), [spec]))


def test_an_inspection_is_shown_clean() -> None:
    """Counts that are not 0, values cut, and no control characters of traces."""
    trace = Trace({"trace_id": "tr-1", "state": "OK", "spans": '[{"span_id": "1", "name": "a\\u001b[31m"}]'})
    sample: dict[str, Any] = {
        "trace_id": "tr-1",
        "inputs": "x" * 500,
        "outputs": None,
        "expectations": {},
        "trace": trace,
    }
    counts = {"traces": 3000, "no_time": 2, "no_request": 0}
    when = datetime(2024, 6, 1, tzinfo=UTC)
    text = str(
        Inspection(
            "/t",
            "delta path",
            "7",
            "canonical",
            "a row a trace",
            ("trace_id",),
            {"trace_id": "id"},
            ("tags",),
            counts,
            when,
            when,
            {"": 3000},
            (sample,),
        )
    )
    for part in (
        "3,000, 2 without a time",
        "canonical: a row a trace",
        "none (3,000)",
        "(502 characters)",
        "1 span: a",
    ):
        assert part in text
    assert "without a request" not in text
    assert "\x1b" not in text
