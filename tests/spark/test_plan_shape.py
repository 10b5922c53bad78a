"""What a plan and a run read: no more than they need, and each due pair is called once."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.classic import dataframe as classic

from backfill_spark import (
    ScorerSamplingConfig,
    backfill_scorers,
    configure,
    get_backfill,
    plan_backfill,
    scorer,
)
from backfill_spark.backfill import steps
from backfill_spark.scorers.stored_code import loading
from backfill_spark.selection import pairs
from tests.factories import NOON, Ledger, ledger_scorer, some_traces, write_traces
from tests.spark.test_row_shapes import as_archive

if TYPE_CHECKING:
    from backfill_spark.settings.schema import Settings

TEXTS = ("request", "response", "spans", "assessments", "request_preview", "response_preview")
START = datetime(2024, 6, 17)


def scans(frame: DataFrame, path: str) -> list[str]:
    """Return the scans of the table at `path` in the physical plan: columns, filters and schema read."""
    told = frame._jdf.queryExecution().explainString(
        frame.sparkSession._jvm.org.apache.spark.sql.execution.ExplainMode.fromString("formatted")  # type: ignore[union-attr]
    )
    blocks = re.split(r"\n(?=\(\d+\) )", told)
    found = [b for b in blocks if re.match(r"\(\d+\) Scan", b) and path in b]
    assert found, told
    return found


def read_schema(scan: str) -> set[str]:
    """Return the columns that one scan reads from the files."""
    match = re.search(r"ReadSchema: struct<(.*)>", scan)
    assert match is not None, scan
    return set(re.findall(r"(?:^|,)(\w+):", re.sub(r"<[^<>]*>", "", re.sub(r"<[^<>]*(<[^<>]*>)[^<>]*>", "", match[1]))))


@pytest.fixture
def world(spark: SparkSession, settings: Settings, ledger: Ledger) -> Settings:
    rows = some_traces(300, request_time=lambda n: NOON + timedelta(hours=n))
    write_traces(spark, rows, settings.traces_path, files=3)
    configure(settings)
    ledger_scorer(ledger.path).register().start()
    ledger_scorer(ledger.path, name="on_trace", on="trace").register().start()
    return settings


def test_a_plan_makes_no_call_and_loads_no_code(
    world: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the definition cannot be loaded."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("a plan loaded code")

    monkeypatch.setattr(loading, "load", refuse)
    plan = plan_backfill(scorers=["length", "on_trace"], start_time=START)
    assert 2 * (300 - 36) == plan.calls
    assert ledger.lines() == []


def test_a_run_reads_what_its_scorers_need(world: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window reaches the scan; a scorer on outputs never reads spans; the second run reads no texts at all."""
    scored: list[DataFrame] = []
    selected: list[DataFrame] = []
    counted = pairs.counted
    _keep_scored(scored, monkeypatch)
    monkeypatch.setattr(pairs, "counted", lambda *a, **k: _kept(selected, counted(*a, **k)))

    first = get_backfill(backfill_scorers(scorers=["length"], start_time=START))
    assert 264 == first.counts["length"].calls == len(ledger.lines()) == len(set(ledger.lines()))
    assert scored
    for frame in scored:
        (scan,) = scans(frame, world.traces_path)
        assert {"response"} == read_schema(scan) & set(TEXTS)
        assert re.search(r"PushedFilters: \[.*GreaterThanOrEqual\(request_time,", scan), scan
    for frame in selected:
        assert not set().union(*(read_schema(s) for s in scans(frame, world.traces_path))) & set(TEXTS)

    # Unchanged: no call, and no row is read; of another request the light columns are.
    ledger.clear()
    scored.clear()
    selected.clear()
    again = get_backfill(backfill_scorers(scorers=["length"], start_time=START))
    assert (0, 264) == (again.counts["length"].calls, again.counts["length"].already_scored)
    assert ledger.lines() == []
    assert scored == []
    assert selected == []
    plan_backfill(scorers=["length"], start_time=START, seed=1)
    assert selected
    for frame in selected:
        assert not set().union(*(read_schema(s) for s in scans(frame, world.traces_path))) & set(TEXTS)


@pytest.mark.parametrize("shape", ["canonical", "databricks_archive"])
def test_what_filters_say_of_time_and_status_reaches_the_scan(
    spark: SparkSession, settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    """The job's filter and its scorer's, where states are spelled in any case; one on tags reads no spans."""
    rows = some_traces(
        24,
        request_time=lambda n: NOON + timedelta(minutes=10 * n),
        state=lambda n: ("OK", "error", "ERROR")[n % 3],
        tags=lambda n: {"env": "prod" if n % 2 else "dev"},
    )
    if shape == "canonical":
        write_traces(spark, rows, settings.traces_path)
    else:
        as_archive(spark, rows, Path(settings.traces_path))
    configure(settings)
    since = NOON + timedelta(minutes=65)
    one = ledger_scorer(ledger.path).register()
    one.start(sampling_config=ScorerSamplingConfig(filter_string=f"timestamp_ms >= {int(since.timestamp()) * 1000}"))
    scored: list[DataFrame] = []
    _keep_scored(scored, monkeypatch)
    text = "status = 'ERROR' AND tags.env = 'prod'"
    job = get_backfill(backfill_scorers(scorers=["length"], filter_string=text))
    assert (24, 18, 6) == tuple(job.counts["length"][name] for name in ("in_window", "filtered_out", "calls"))
    assert {7, 11, 13, 17, 19, 23} == {int(line.split()[2]) for line in ledger.lines()}
    assert scored
    for frame in scored:
        (scan,) = scans(frame, settings.traces_path)
        assert {"response"} == read_schema(scan) & set(TEXTS)
        (pushed,) = re.findall(r"PushedFilters: \[.*", scan)
        for told in ("GreaterThanOrEqual(state,ERROR)", "LessThanOrEqual(state,error)"):
            assert told in pushed
        assert f"GreaterThanOrEqual(request_time,{since:%Y-%m-%d}" in pushed
        assert f"{since:%H:%M}:00" in pushed


def test_of_rows_that_tie_the_first_counts_whatever_a_filter_says(
    spark: SparkSession, settings: Settings, ledger: Ledger
) -> None:
    """Although only the second one matches."""
    states = ("OK", "ERROR", "ERROR")
    rows = some_traces(3, trace_id=lambda n: f"tr-{n // 2}", state=lambda n: states[n])
    write_traces(spark, rows, settings.traces_path)
    configure(settings)
    ledger_scorer(ledger.path).register().start()
    job = get_backfill(backfill_scorers(scorers=["length"], filter_string="status = 'ERROR'"))
    counts = job.counts["length"]
    assert (1, 1, 1) == (counts.skipped_reasons["duplicate_trace_id"], counts.filtered_out, counts.due)
    assert 1 == len(ledger.lines())


def _keep_scored(into: list[DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the tasks are given, and the same with the UDF, which takes the place of a task where it must."""
    made = steps.ChunkScoring.in_task

    def in_task(self: Any) -> Any:
        rows, score = made(self)
        into.extend([rows.mapInArrow(lambda batches: batches, rows.schema), self.frame()])
        return rows, score

    monkeypatch.setattr(steps.ChunkScoring, "in_task", in_task)


def _kept(into: list[DataFrame], frame: DataFrame) -> DataFrame:
    into.append(frame)
    return frame


def test_one_scan_and_one_python_node_serve_all_scorers(
    world: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two scorers share the scan and the worker; each due pair is called exactly once."""
    frames: list[DataFrame] = []
    _keep_scored(frames, monkeypatch)

    @scorer
    def third(inputs: Any) -> Any:
        return len(inputs)

    third.register().start()
    job = get_backfill(backfill_scorers(scorers=["length", "on_trace", "third"], end_time=START))
    assert [36] * 3 == [c.calls for c in job.counts.values()]
    lines = ledger.lines()
    assert 72 == len(lines)
    ids = [line for line in lines if line.startswith("on_trace\t")]
    assert 36 == len(ids) == len(set(ids))
    for frame in frames:
        text = frame._jdf.queryExecution().executedPlan().toString()
        assert 1 == len(re.findall(r"(?:ArrowEvalPython|BatchEvalPython|MapInArrow|ArrowPythonRunner)", text)), text
        assert 1 == len(scans(frame, world.traces_path))


def test_the_driver_collects_nothing_per_trace(
    spark: SparkSession, settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that come to the driver: as many for 1,200 traces of one hour as for 300, in the job and its summary."""
    taken = 0

    def counting(name: str) -> None:
        original = getattr(classic.DataFrame, name)

        def count(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal taken
            found = original(self, *args, **kwargs)
            taken += len(found) if hasattr(found, "__len__") else 1
            return found

        monkeypatch.setattr(classic.DataFrame, name, count)

    for name in ("collect", "toPandas", "toArrow", "head", "toLocalIterator"):
        counting(name)
    configure(settings)
    ledger_scorer(ledger.path).register().start()
    seen: list[Any] = []
    for size, day in ((300, 17), (1_200, 18)):
        rows = some_traces(
            size, trace_id=lambda n, d=day: f"{d}-{n}", request_time=datetime(2024, 6, day, 12, tzinfo=UTC)
        )
        write_traces(spark, rows, settings.traces_path, mode="append" if seen else "overwrite", files=2)
        taken = 0
        job_id = backfill_scorers(scorers=["length"], start_time=f"2024-06-{day}", end_time=f"2024-06-{day + 1}")
        assert len(get_backfill(job_id).summary()) == 1
        seen.append(taken)
    assert len(ledger.lines()) == 1_500
    assert abs(seen[0] - seen[1]) < 40
