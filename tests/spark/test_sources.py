"""Sources in Spark: pinning, columns, predicates in the scan, and what is refused."""

import contextlib
import io
import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from chispa import assert_df_equality
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from backfill_spark import schema
from backfill_spark.errors import NameRefusedError, SourceGoneError, TraceSourceError
from backfill_spark.models import TimeWindow
from backfill_spark.settings.schema import Settings
from backfill_spark.traces.sources import POSITIONS, corrupt_file, open_source, source_gone
from tests.factories import NOON, a_trace, some_traces, traces_frame, write_traces

EVER = TimeWindow()
DAY = TimeWindow(NOON, NOON + timedelta(days=1))
ZONES = ("UTC", "Pacific/Apia", "America/New_York")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def reading(settings: Settings, **traces: Any) -> Settings:
    """Return the settings with other `traces` ones."""
    return Settings(tables={"root": settings.tables.root}, traces=traces, timezone="UTC")


def ids(frame: DataFrame) -> list[str]:
    return sorted(row["trace_id"] for row in frame.collect())


def plan_of(frame: DataFrame) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        frame.explain("formatted")
    return out.getvalue()


def read_columns(frame: DataFrame) -> str:
    """Return what the scan reads, as the plan shows it."""
    match = re.search(r"ReadSchema: struct<(.*)>", plan_of(frame))
    assert match is not None
    return match[1]


def timed(spark: SparkSession, kind: str, *moments: datetime | None) -> DataFrame:
    """Return traces tr-0, tr-1, … whose request_time is of type `kind`: timestamp or timestamp_ntz."""
    rows = [(f"tr-{i}", None if m is None else micros(m)) for i, m in enumerate(moments)]
    frame = spark.createDataFrame(rows, "trace_id string, us bigint")  # in a session of zone UTC
    return frame.select("trace_id", F.timestamp_micros("us").cast(kind).alias("request_time"))


@pytest.fixture
def path(settings: Settings) -> str:
    return settings.traces_path


@pytest.mark.parametrize("format", ["delta", "parquet"])
def test_a_written_table_is_read_as_traces(spark: SparkSession, settings: Settings, path: str, format: str) -> None:
    """Every column comes back with the canonical type and value."""
    write_traces(spark, some_traces(3), path, format=format)
    source = open_source(spark, settings)
    frame = source.read(source.columns, EVER)
    assert (source.format, frame.schema.simpleString()) == (format, schema.TRACES.simpleString())
    expected = traces_frame(spark, some_traces(3)).orderBy("trace_id")
    assert_df_equality(frame.orderBy("trace_id"), expected, ignore_nullable=True, ignore_metadata=True)


def test_delta_is_pinned_to_the_version_at_opening(spark: SparkSession, settings: Settings, path: str) -> None:
    """Later appends are not seen, and the pinned version can be opened again."""
    write_traces(spark, some_traces(2), path)
    first = open_source(spark, settings)
    write_traces(spark, [a_trace(trace_id="late")], path, mode="append")
    again = open_source(spark, settings, version=first.version)
    newest = open_source(spark, settings)
    assert (first.version, newest.version, first.table_id) == ("0", "1", newest.table_id)
    assert [ids(s.read(["trace_id"], EVER)) for s in (first, again, newest)] == [
        ["tr-0", "tr-1"],
        ["tr-0", "tr-1"],
        ["late", "tr-0", "tr-1"],
    ]


def test_a_replaced_delta_table_has_another_id(spark: SparkSession, settings: Settings, path: str) -> None:
    """A table that was dropped and made again is told from the old one."""
    write_traces(spark, some_traces(1), path)
    first = open_source(spark, settings)
    shutil.rmtree(path)
    write_traces(spark, some_traces(1), path)
    assert open_source(spark, settings).table_id != first.table_id


def test_parquet_is_pinned_to_its_files(spark: SparkSession, settings: Settings, path: str) -> None:
    """Files that arrive later are not read; the frozen list opens again, also when the folder has grown."""
    write_traces(spark, some_traces(2), path, format="parquet")
    first = open_source(spark, settings)
    write_traces(spark, [a_trace(trace_id="late")], path, format="parquet", mode="append")
    again = open_source(spark, settings, version=first.version, files=first.files)
    newest = open_source(spark, settings)
    assert (again.version, again.files) == (first.version, first.files)
    assert newest.version != first.version
    assert [ids(s.read(["trace_id"], EVER)) for s in (first, again, newest)] == [
        ["tr-0", "tr-1"],
        ["tr-0", "tr-1"],
        ["late", "tr-0", "tr-1"],
    ]
    with pytest.raises(SourceGoneError, match="pinned list"):
        open_source(spark, settings, version=first.version)


def test_odd_names_and_partitions_of_parquet_folders_are_read(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    """Blanks, wildcards and percent signs in paths are plain characters; folders `name=value` are columns."""
    folder = tmp_path / "my traces [1] {a,b} 100%"
    rows = [a_trace(trace_id=f"tr-{s}", state=s) for s in ("OK", "ERROR", "a b/c%")]
    traces_frame(spark, rows).write.partitionBy("state").parquet(str(folder))
    source = open_source(spark, settings, str(folder))
    again = open_source(spark, settings, str(folder), files=source.files)
    for opened in (source, again):
        found = opened.read(["trace_id", "state"], EVER).collect()
        assert sorted(map(tuple, found)) == [("tr-ERROR", "ERROR"), ("tr-OK", "OK"), ("tr-a b/c%", "A B/C%")]
    one = open_source(spark, settings, next(f for f in source.files if "ERROR" in f))
    assert ids(one.read(["trace_id"], EVER)) == ["tr-ERROR"]


def test_parquet_columns_of_later_files_are_not_left_out(spark: SparkSession, settings: Settings, path: str) -> None:
    """A column that only some files have is there, and NULL for the others."""
    traces_frame(spark, [a_trace(trace_id="old")]).drop("response").write.parquet(path)
    write_traces(spark, [a_trace(trace_id="new", response="yes")], path, format="parquet", mode="append")
    found = open_source(spark, settings).read(["trace_id", "response"], EVER)
    expected = spark.createDataFrame([("new", "yes"), ("old", None)], "trace_id string, response string")
    assert_df_equality(found, expected, ignore_row_order=True, ignore_nullable=True, ignore_metadata=True)


def test_tables_are_opened_by_name(
    spark: SparkSession, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delta and Parquet tables of the catalog are pinned too; other formats are refused, and folders without a `/`."""
    (tmp_path / "named_folder").mkdir()
    monkeypatch.chdir(tmp_path)
    frame = traces_frame(spark, some_traces(2))
    try:
        frame.write.format("delta").saveAsTable("named_delta")
        frame.write.format("parquet").partitionBy("state").saveAsTable("named_parquet")
        frame.write.format("json").saveAsTable("named_json")
        for name, kind in (("named_delta", "delta"), ("default.named_parquet", "parquet")):
            source = open_source(spark, reading(settings, table=name))
            assert (source.name, source.format) == (name, kind)
            expected = spark.createDataFrame([("tr-0", "OK"), ("tr-1", "OK")], "trace_id string, state string")
            found = source.read(["trace_id", "state"], EVER)
            assert_df_equality(found, expected, ignore_row_order=True, ignore_nullable=True, ignore_metadata=True)
        for name, why in (
            ("named_json", "format json"),
            ("named_none", "no such table"),
            ("named_folder", "name is './n"),
        ):
            with pytest.raises(TraceSourceError, match=why):
                open_source(spark, settings, name)
    finally:
        for name in ("named_delta", "named_parquet", "named_json"):
            spark.sql(f"DROP TABLE IF EXISTS {name}")


@pytest.mark.parametrize("format", ["delta", "parquet"])
@pytest.mark.parametrize("kind", ["timestamp", "timestamp_ntz"])
@pytest.mark.parametrize("untimed", [False, True])
def test_the_window_reaches_the_file_scan(
    spark: SparkSession, settings: Settings, path: str, format: str, kind: str, untimed: bool
) -> None:
    """The scan gets both bounds, on the bare column, without a Python function or a shuffle above it."""
    timed(spark, kind, NOON, None).write.format(format).save(path)
    plan = plan_of(open_source(spark, settings).read(["trace_id"], DAY, untimed=untimed, positions=True))
    pushed = next(line for line in plan.splitlines() if line.startswith("PushedFilters"))
    assert re.search(r"GreaterThanOrEqual\(request_time,2024-06-15[ T]12:00", pushed)
    assert re.search(r"LessThan\(request_time,2024-06-16[ T]12:00", pushed)
    assert ("IsNull(request_time)" in pushed) == untimed
    assert not re.search("Exchange|Python|Arrow|Sort", plan)


@pytest.mark.parametrize("format", ["delta", "parquet"])
def test_only_the_asked_columns_are_read(spark: SparkSession, settings: Settings, path: str, format: str) -> None:
    """A scorer on outputs never makes Spark read spans."""
    write_traces(spark, some_traces(2), path, format=format)
    source = open_source(spark, settings)
    frame = source.read({"trace_id", "response", "trace_date"}, DAY)
    assert frame.columns == ["trace_id", "response", "trace_date"]
    assert read_columns(frame) == "trace_id:string,request_time:timestamp,response:string"


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("kind", ["timestamp", "timestamp_ntz"])
def test_times_follow_no_session_zone(spark: SparkSession, settings: Settings, path: str, zone: str, kind: str) -> None:
    """Window, instant and date are UTC in every zone, before 1970 and in hours that a zone skips."""
    moments = [
        datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
        datetime(1901, 1, 1, tzinfo=UTC),
        datetime(2011, 12, 30, 5, 30, tzinfo=UTC),  # a day that Apia never had
        datetime(2024, 3, 10, 2, 30, tzinfo=UTC),  # an hour that New York never had
        datetime(2500, 1, 1, tzinfo=UTC),
        datetime(2500, 1, 1, tzinfo=UTC) - timedelta(microseconds=1),
    ]
    timed(spark, kind, *moments).write.parquet(path)
    spark.conf.set("spark.sql.session.timeZone", zone)
    source = open_source(spark, settings)
    frame = source.read(["trace_id", "request_time", "trace_date"], EVER)
    assert frame.schema["request_time"].dataType == schema.TIMESTAMP
    found = frame.select("trace_id", F.unix_micros("request_time"), F.unix_date("trace_date")).collect()
    expected = [(f"tr-{i}", micros(m), (m.date() - date(1970, 1, 1)).days) for i, m in enumerate(moments)]
    assert sorted(map(tuple, found)) == expected
    windows = [TimeWindow(m, m + timedelta(microseconds=1)) for m in moments]
    each = [source.read(["trace_id"], w).withColumn("window", F.lit(f"tr-{i}")) for i, w in enumerate(windows)]
    in_window = reduce(DataFrame.unionAll, each).collect()
    assert [(f"tr-{i}", f"tr-{i}") for i in range(len(moments))] == sorted(map(tuple, in_window))


def test_windows_are_half_open_and_rows_without_time_are_apart(
    spark: SparkSession, settings: Settings, path: str
) -> None:
    """The start is in, the end is out; NULL times only come when asked for."""
    timed(spark, "timestamp", DAY.start, DAY.end, None).write.format("delta").save(path)
    source = open_source(spark, settings)

    def found(window: TimeWindow, **how: Any) -> list[str]:
        return ids(source.read(["trace_id"], window, **how))

    assert found(DAY) == ["tr-0"]
    assert found(DAY, untimed=True) == ["tr-0", "tr-2"]
    assert found(EVER) == ["tr-0", "tr-1"]
    assert found(EVER, untimed=True) == ["tr-0", "tr-1", "tr-2"]
    assert found(TimeWindow(DAY.end, None)) == ["tr-1"]
    assert found(TimeWindow(None, DAY.end)) == ["tr-0"]


def test_the_source_s_own_trace_date_is_not_believed(spark: SparkSession, settings: Settings, path: str) -> None:
    """The date is computed, also where a partition column says another one."""
    frame = traces_frame(spark, [a_trace(trace_date=date(1999, 1, 1))])
    frame.write.format("delta").partitionBy("trace_date").save(path)
    found = open_source(spark, settings).read(["trace_date"], DAY).collect()
    assert [row[0] for row in found] == [NOON.date()]


def test_positions_tell_rows_in_file_order(spark: SparkSession, settings: Settings, path: str) -> None:
    """File, block and row order duplicates the same way each time."""
    rows = [a_trace(trace_id="twice", response=str(i)) for i in range(10)]
    write_traces(spark, rows, path, format="parquet")
    frame = open_source(spark, settings).read(["trace_id", "response"], DAY, positions=True)
    assert tuple(frame.columns) == ("trace_id", "response", *POSITIONS)
    found = [row["response"] for row in frame.orderBy(*POSITIONS).collect()]
    assert found == [str(i) for i in range(10)]


def test_an_experiment_s_rows_are_its_own_and_nobody_s(spark: SparkSession, settings: Settings, path: str) -> None:
    """Rows with NULL belong to the experiment that asks; sources without the column are not filtered."""
    rows = [a_trace(trace_id=f"tr-{e}", experiment_id=e) for e in ("1", "2", None)]
    source = open_source(spark, settings, write_traces(spark, rows, path))
    assert ids(source.read(["trace_id"], EVER, experiment_id="1")) == ["tr-1", "tr-None"]
    bare = open_source(spark, settings, traces_frame(spark, rows).drop("experiment_id"))
    assert len(ids(bare.read(["trace_id"], EVER, experiment_id="1"))) == 3


def test_other_types_and_names_are_read_as_the_canonical_ones(spark: SparkSession, settings: Settings) -> None:
    """Integers as ids, any number as duration, structs and JSON as maps, nested payloads as JSON text."""
    frame = spark.sql(
        """SELECT 7 AS `my.id`, TIMESTAMP '2024-06-15 12:00:00Z' AS request_time, 12.7D AS execution_duration_ms,
           'in_progress' AS state, named_struct('q', 'hi', 'n', 1) AS request, array(1, 2) AS response,
           '{"a": "b", "n": {"x": 1}}' AS tags, map('k', 1.5D) AS trace_metadata, '[]' AS spans,
           parse_json('{"v": [1]}') AS request_preview
           UNION ALL SELECT 8, TIMESTAMP '2024-06-15 12:00:00Z', DOUBLE('NaN'), NULL, NULL, NULL, 'no json', NULL, NULL,
           NULL"""
    )
    source = open_source(spark, reading(settings, columns={"trace_id": "my.id"}), frame)
    first, second = source.read(source.columns, EVER).orderBy("trace_id").collect()
    assert (source.version, source.table_id, source.files) == ("", None, ())
    assert first.asDict() == {
        "trace_id": "7",
        "request_time": NOON.astimezone().replace(tzinfo=None),
        "execution_duration_ms": 12,
        "state": "IN_PROGRESS",
        "request": '{"q":"hi","n":1}',
        "response": "[1,2]",
        "request_preview": '{"v":[1]}',
        "trace_metadata": {"k": "1.5"},
        "tags": {"a": "b", "n": '{"x":1}'},
        "spans": "[]",
        "trace_date": NOON.date(),
    }
    # Tags that are no JSON are told, never taken for none.
    unreadable = {"backfill_spark.unreadable": "no json"}
    assert (second["trace_id"], second["execution_duration_ms"], second["tags"]) == ("8", None, unreadable)


def test_traces_fills_absent_columns_with_null(spark: SparkSession, settings: Settings) -> None:
    """A frame of two columns becomes one of all, rows without time included."""
    frame = open_source(spark, settings, timed(spark, "timestamp", NOON, None)).traces()
    assert frame.schema.simpleString() == schema.TRACES.simpleString()
    assert ids(frame) == ["tr-0", "tr-1"]


def test_a_column_that_the_source_lacks_cannot_be_asked_for(spark: SparkSession, settings: Settings) -> None:
    """What is absent is never read as NULL in silence."""
    source = open_source(spark, settings, timed(spark, "timestamp", NOON))
    with pytest.raises(ValueError, match=r"do not have the columns \['response'\]"):
        source.read(["trace_id", "response"], EVER)


@pytest.mark.parametrize("key", ["ignoreMissingFiles", "ignoreCorruptFiles"])
def test_sessions_that_skip_files_are_refused(spark: SparkSession, settings: Settings, path: str, key: str) -> None:
    """At opening, and at reading when the setting came later."""
    write_traces(spark, some_traces(1), path)
    source = open_source(spark, settings)
    spark.conf.set(f"spark.sql.files.{key}", "true")
    with pytest.raises(TraceSourceError, match=key):
        open_source(spark, settings)
    with pytest.raises(TraceSourceError, match=key):
        source.read(["trace_id"], EVER)


def _text_file(folder: Path) -> None:
    folder.mkdir()
    (folder / "traces.txt").write_text("trace_id,request_time\n" * 50)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda folder: None, "no such file, folder or table"),
        (lambda folder: folder.mkdir(), "no files"),
        (_text_file, r"neither a Delta table nor readable Parquet.*traces\.txt"),
    ],
)
def test_what_is_no_traces_table_is_refused(
    spark: SparkSession, settings: Settings, path: str, make: Callable[[Path], None], why: str
) -> None:
    """The message says what is there instead, and what to do."""
    make(Path(path))
    with pytest.raises(TraceSourceError, match=why):
        open_source(spark, settings)


def test_a_format_that_does_not_fit_is_refused(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """Delta is never read as the Parquet files that it is made of, nor the other way round."""
    delta = write_traces(spark, some_traces(1), tmp_path / "delta")
    parquet = write_traces(spark, some_traces(1), tmp_path / "parquet", format="parquet")
    with pytest.raises(TraceSourceError, match="is a Delta table"):
        open_source(spark, reading(settings, path=delta, format="parquet"))
    with pytest.raises(TraceSourceError, match="is no Delta table"):
        open_source(spark, reading(settings, path=parquet, format="delta"))


def test_paths_outside_the_roots_are_refused(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """The source itself and each frozen file must lie in a root."""
    inside = write_traces(spark, some_traces(1), tmp_path / "in" / "t", format="parquet")
    outside = write_traces(spark, some_traces(1), tmp_path / "out", format="parquet")
    limited = Settings(limits={"path_roots": [str(tmp_path / "in")]})
    source = open_source(spark, limited, inside)
    foreign = open_source(spark, settings, outside).files
    for path, files in ((outside, None), (inside, [*source.files, *foreign])):
        with pytest.raises(NameRefusedError, match="path_roots"):
            open_source(spark, limited, path, files=files)


def test_a_version_that_is_gone_is_named(spark: SparkSession, settings: Settings, path: str) -> None:
    """A missing version, another format in its place, and nothing at all are the same kind of error."""
    write_traces(spark, some_traces(1), path)
    for version, files in (("99", None), ("files:0123456789abcdef", None), (None, [f"{path}/x.parquet"])):
        with pytest.raises(SourceGoneError, match=re.escape(path)):
            open_source(spark, settings, version=version, files=files)
    shutil.rmtree(path)
    with pytest.raises(SourceGoneError, match=re.escape(path)):
        open_source(spark, settings, version="0")
    write_traces(spark, some_traces(1), path, format="parquet")
    with pytest.raises(SourceGoneError, match="were a Delta table"):
        open_source(spark, settings, version="0")


@pytest.mark.parametrize("format", ["delta", "parquet"])
def test_files_that_vanish_or_rot_after_opening_are_named(
    spark: SparkSession, settings: Settings, path: str, format: str
) -> None:
    """What Spark throws while reading tells gone from damaged, and which file."""
    write_traces(spark, some_traces(5), path, format=format)
    frame = open_source(spark, settings).read(["trace_id", "response"], EVER)
    file = next(Path(path).glob("part-*.parquet"))
    for checksum in Path(path).glob(".*.crc"):
        checksum.unlink()
    file.write_bytes(file.read_bytes()[:40] + os.urandom(60))
    with pytest.raises(Exception) as rotten:
        frame.collect()
    assert file.name in str(corrupt_file(rotten.value))
    assert not source_gone(rotten.value)
    file.unlink()
    with pytest.raises(Exception) as gone:
        frame.collect()
    assert (source_gone(gone.value), corrupt_file(gone.value)) == (True, None)


def test_times_in_nanoseconds_are_read(spark: SparkSession, settings: Settings, path: str) -> None:
    """pandas writes them by default, and Spark reads them only as numbers; the session stays as it is."""
    import pandas as pd

    Path(path).mkdir()
    moments = [NOON, NOON + timedelta(microseconds=1), NOON + timedelta(days=1)]
    frame = pd.DataFrame({"trace_id": ["a", "b", "c"], "request_time": pd.to_datetime(moments).as_unit("ns")})
    frame.to_parquet(f"{path}/a.parquet")
    source = open_source(spark, settings)
    assert source.mapping["request_time"] == "request_time (in ns since 1970)"
    found = source.read(["trace_id", "request_time"], DAY).select("trace_id", F.unix_micros("request_time")).collect()
    assert sorted(map(tuple, found)) == [("a", micros(NOON)), ("b", micros(NOON) + 1)]
    assert spark.conf.get("spark.sql.legacy.parquet.nanosAsLong") == "false"
