"""What a task writes of scored traces; that all ways write the same is shown on Spark."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from backfill_spark import schema
from backfill_spark.models import compact_json
from backfill_spark.results import write
from backfill_spark.results.staged import count_rows
from backfill_spark.results.write import _ROW_KEY, OfScorer, ResultWriter, _ids, as_they_are
from backfill_spark.settings.locations import Location
from backfill_spark.storage.deltalake_table import DeltalakeTable
from backfill_spark.storage.files import OBJECT_STORES, arrow_uri, filesystem_of

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def table(tmp_path: Path) -> DeltalakeTable:
    made = DeltalakeTable(schema.ASSESSMENTS, Location.of_path(str(tmp_path / "a")), tmp_path / "a")
    return made.ensure()


def scored(*traces: tuple[str, datetime, list[dict[str, Any]]]) -> pa.RecordBatch:
    """Rows of `schema.SCORED`."""
    names = [name for name, _ in schema.RESULT_FIELDS]
    kinds: dict[Any, Any] = {schema.STRING: pa.string(), schema.INT: pa.int32(), schema.DOUBLE: pa.float64()}
    results = pa.struct([(name, pa.list_(kinds[kind])) for name, kind in schema.RESULT_FIELDS])
    rows = [
        {
            "trace_id": trace_id,
            "trace_time": at,
            "trace_date": at.date(),
            "draw": 0.25,
            "results": {name: [one.get(name) for one in each] for name in names},
        }
        for trace_id, at, each in traces
    ]
    shape = pa.schema(
        [
            ("trace_id", pa.string()),
            ("session_id", pa.string()),
            ("trace_time", pa.timestamp("us", "UTC")),
            ("trace_date", pa.date32()),
            ("draw", pa.float64()),
            ("results", results),
        ]
    )
    return pa.RecordBatch.from_pylist(rows, schema=shape)


def one(name: str = "length", **values: Any) -> dict[str, Any]:
    return {"scorer_name": name, "scorer_version": 1, "ordinal": 0, "latency_ms": 1.0} | values


def writer(table: DeltalakeTable, *, by_date: bool = True) -> ResultWriter:
    shared = {"job_id": "bf-1", "scored_job_id": "bf-1", "experiment_id": "0", "source_version": None, "seed": 7}
    scorers = {"length": OfScorer("d", 0.5, "CODE")}
    return ResultWriter(str(table.folder), by_date, table.columns(), shared, scorers)


def rows_of(table: DeltalakeTable, *batches: pa.RecordBatch) -> list[dict[str, Any]]:
    return list(pa.Table.from_batches(writer(table).rows(batches)).to_pylist())


def test_a_value_an_error_and_nothing(table: DeltalakeTable) -> None:
    """The outcome and the number of calls follow from what the row holds."""
    given_rows = [
        one(value="3", value_double=3.0),
        one(),
        one(error_code="scorer_error", error_message="ValueError: x"),
        one(error_code="load_failed"),
        one(error_code="trace_unreadable", latency_ms=None),
        one(error_code="trace_unreadable"),
    ]
    rows = rows_of(table, scored(*((f"tr-{i}", NOON, [row]) for i, row in enumerate(given_rows))))
    assert [row["outcome"] for row in rows] == ["scored", "empty", "error", "error", "error", "error"]
    assert [row["attempts"] for row in rows] == [1, 1, 1, 0, 0, 1]
    first = rows[0]
    assert (first["assessment_name"], first["scorer_digest"], first["sample_rate"]) == ("length", "d", 0.5)
    assert (first["job_id"], first["scored_job_id"]) == ("bf-1", "bf-1")
    assert (first["source_type"], first["source_id"], first["seed"], first["target"]) == ("CODE", "length", 7, "trace")


def test_what_few_results_have_stands_in_extra(table: DeltalakeTable) -> None:
    """A row with it beside one without."""
    extra = {"span_id": "s", "metadata": {"k": "v"}, "attempts": 3, "model": "m", "cost_usd": 0.5, "cached": True}
    rows = rows_of(table, scored(("tr-1", NOON, [one(value="1", extra=json.dumps(extra)), one(ordinal=1, value="2")])))
    assert {k: rows[0][k] for k in ("span_id", "attempts", "model", "cost_usd", "cached")} == {
        k: v for k, v in extra.items() if k != "metadata"
    }
    assert (dict(rows[0]["metadata"]), rows[0]["target"], rows[0]["source_id"]) == ({"k": "v"}, "span", "m")
    assert (rows[1]["metadata"], rows[1]["target"], rows[1]["attempts"], rows[1]["cached"]) == (None, "trace", 1, None)


@given(st.text(), st.text(), st.integers(1, 9))
def test_an_id_is_the_digest_of_the_key_as_compact_json(trace_id: str, scorer: str, version: int) -> None:
    """Control characters and quotes included; texts are UTF-8 by then."""
    key = [value.encode("utf-8", "replace").decode() for value in ("0", trace_id, scorer)]
    columns: dict[str, pa.Array] = {"scorer_name": pa.array([key[2]] * 2)}
    columns |= {"scorer_version": pa.array([version] * 2), "ordinal": pa.array([0, 1])}
    assert _ROW_KEY == schema.ROW_KEY
    digests = [hashlib.sha256(compact_json([*key, version, ordinal]).encode()).hexdigest() for ordinal in (0, 1)]
    found = _ids(key[0], pa.chunked_array([["other", key[1]]]), pa.array([1, 1]), columns)
    assert found.to_pylist() == [f"a-{digest[:32]}" for digest in digests]


@pytest.mark.parametrize("runs", [1, 400])
def test_dates_in_turn_are_a_file_each(table: DeltalakeTable, monkeypatch: pytest.MonkeyPatch, runs: int) -> None:
    """As they lie, or sorted where they change often."""
    monkeypatch.setattr(write, "MANY_RUNS", runs)
    traces = [(f"tr-{n}", NOON.replace(day=2 + n % 3), [one(value=str(n))]) for n in range(300)]
    (named,) = writer(table).write([scored(*traces[:100]), scored(*traces[100:])])
    assert [file["part"] for file in named.to_pylist()] == ["2026-01-02", "2026-01-03", "2026-01-04"]
    for file in named.to_pylist():
        kept = pq.ParquetFile(table.folder / file["path"]).read(["trace_id", "trace_time"])
        assert kept["trace_id"].to_pylist() == [f"tr-{n}" for n in range(300) if 2 + n % 3 == int(file["part"][-2:])]
        assert {time.date().isoformat() for time in kept["trace_time"].to_pylist()} == {file["part"]}


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}"])
def test_results_that_wait_are_a_file_in_the_folder_of_their_job(
    table: DeltalakeTable, tmp_path: Path, form: str
) -> None:
    """Which is made; a path and a file URI name the same."""
    folder = tmp_path / "a 1%20" / "b"
    to_folder = replace(writer(table, by_date=False), folder=form.format(folder))
    (named,) = to_folder.write([scored(("tr-1", NOON, [one(value="1")]))])
    (file,) = named.to_pylist()
    assert [str(path.relative_to(folder)) for path in folder.rglob("*.parquet")] == [file["path"]]
    assert pq.ParquetFile(folder / file["path"]).read()["trace_id"].to_pylist() == ["tr-1"]
    assert file["path"].startswith("bf-1/part-")


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("s3://bucket/a/b/", ("s3", "bucket/a/b")),
        ("s3a://bucket/a", ("s3", "bucket/a")),
        ("gs://bucket/a", ("gcs", "bucket/a")),
        ("gcs://bucket/a", ("gcs", "bucket/a")),
        ("abfs://box@account.dfs.core.windows.net/a", ("abfs", "box/a")),
        ("abfss://box@account.dfs.core.windows.net/a", ("abfs", "box/a")),
    ],
)
def test_hadoops_address_of_an_object_store_is_one_of_pyarrow(
    monkeypatch: pytest.MonkeyPatch, folder: str, expected: tuple[str, str]
) -> None:
    """Nothing is asked of a store, and Google is not tried for as long as pyarrow does."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    files, path = filesystem_of(arrow_uri(folder))
    assert folder.startswith(OBJECT_STORES)
    assert (files.type_name, path) == expected
    if files.type_name == "gcs":
        assert files != fs.FileSystem.from_uri(folder)[0]


def test_files_are_a_date_each_with_bounds(table: DeltalakeTable) -> None:
    """A bound that is long is left out; one of times ends a millisecond later at most."""
    late = NOON.replace(day=3, microsecond=1)
    batch = scored(("tr-2", late, [one(value="1")]), ("tr-1", NOON, [one(value="1")]), ("x" * 40, NOON, [one()]))
    (named,) = writer(table).write([batch])
    files = sorted(named.to_pylist(), key=lambda file: file["part"])
    assert [file["part"] for file in files] == ["2026-01-02", "2026-01-03"]
    first, second = (json.loads(file["stats"]) for file in files)
    assert (first["numRecords"], second["numRecords"]) == (2, 1)
    assert "trace_id" not in first["minValues"]
    assert second["minValues"]["trace_id"] == second["maxValues"]["trace_id"] == "tr-2"
    assert second["minValues"]["trace_time"] == "2026-01-03T12:00:00.000Z"
    assert second["maxValues"]["trace_time"] == "2026-01-03T12:00:00.001Z"
    assert first["nullCount"]["draw"] == 0
    assert all((table.folder / file["path"]).is_file() for file in files)
    assert {date.fromisoformat(file["part"]) for file in files} == {NOON.date(), late.date()}
    counts = [file["counts"] for file in named.to_pylist()]
    assert counts[1:] == [None]
    assert json.loads(counts[0]) == {"length": [2, 1, 0, 3, None, 0.003]}


def test_a_file_of_all_dates_waits_in_the_folder_of_its_job(table: DeltalakeTable) -> None:
    """It is no part of the table as it is."""
    rows = scored(("tr-1", NOON, [one(value="1")]), ("tr-2", NOON.replace(day=3), [one(error_code="timeout")]))
    ((file,),) = (named.to_pylist() for named in writer(table, by_date=False).write([rows]))
    assert file["path"].startswith("bf-1/")
    assert (file["part"], json.loads(file["counts"])) == (None, {"length": [1, 0, 1, 2, None, 0.002]})
    kept = pq.ParquetFile(table.folder / file["path"]).read(["trace_id", "trace_date", "outcome"]).to_pylist()
    assert [row["outcome"] for row in kept] == ["scored", "error"]
    assert [row["trace_date"] for row in kept] == [NOON.date(), date(2026, 1, 3)]


def test_a_pair_with_several_feedbacks_is_counted_once(table: DeltalakeTable) -> None:
    """An error where one of them is; its call, cost and time are those of the first."""
    several = [one(value="1"), one(ordinal=1, error_code="scorer_error"), one("other", value="2"), one("third")]
    several += [one("third", ordinal=1, value="3")]
    kept = writer(table)
    keys, results = next(as_they_are([scored(("tr-1", NOON, several), ("tr-2", NOON, [one(value="1")]))]))
    counts = count_rows(*kept.results(keys, results))
    found = {name: (c.scored, c.empty, c.errored, c.calls, c.seconds) for name, c in counts.items()}
    assert found == {
        "length": (1, 0, 1, 2, 0.002),
        "other": (1, 0, 0, 1, 0.001),
        "third": (1, 0, 0, 1, 0.001),
    }
