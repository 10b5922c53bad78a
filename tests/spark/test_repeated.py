"""A request that was asked before: its counts are known, and they are counted anew when a result may be gone."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from deltalake import DeltaTable

from backfill_spark import backfill_scorers, configure, get_backfill, plan_backfill
from backfill_spark.results.due import count_due
from tests.factories import Ledger, ledger_scorer, some_traces, write_traces

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark import BackfillJob, Settings

COUNT = 12


@pytest.fixture
def countings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that pairs were counted in the traces."""
    found: list[int] = []

    def counted(*args: Any, **options: Any) -> Any:
        found.append(1)
        return count_due(*args, **options)

    monkeypatch.setattr("backfill_spark.backfill.inputs.count_due", counted)
    return found


@pytest.fixture
def first(spark: SparkSession, settings: Settings, ledger: Ledger) -> BackfillJob:
    write_traces(spark, some_traces(COUNT), settings.traces_path)
    configure(settings)
    ledger_scorer(ledger.path).register().start()
    job = run()
    assert len(ledger.lines()) == COUNT
    ledger.clear()
    return job


def run(**options: Any) -> BackfillJob:
    return get_backfill(backfill_scorers(scorers=["length"], **options))


def commits(settings: Settings) -> list[int]:
    tables = ("jobs", "job_events", "assessments")
    return [DeltaTable(f"{settings.tables.root}/{name}").version() for name in tables]


def test_it_is_not_counted_again_and_is_one_commit(
    settings: Settings, ledger: Ledger, first: BackfillJob, countings: list[int]
) -> None:
    before = commits(settings)
    again = run()
    assert (countings, ledger.lines()) == ([], [])
    assert [now - then for now, then in zip(commits(settings), before, strict=True)] == [1, 1, 0]
    counts = again.counts["length"]
    assert (again.state, counts.due, counts.already_scored) == ("SUCCEEDED", 0, COUNT)
    assert counts.in_window == first.counts["length"].in_window
    assert again.summary()["results"].tolist() == [COUNT]
    assert plan_backfill(scorers=["length"]).counts["length"] == counts
    assert countings == []


@pytest.mark.parametrize("change", ["trace", "window", "version", "rate", "reprocess", "seed"])
def test_another_request_is_counted(
    spark: SparkSession,
    settings: Settings,
    ledger: Ledger,
    first: BackfillJob,
    countings: list[int],
    change: str,
) -> None:
    options: dict[str, Any] = {}
    match change:
        case "trace":
            write_traces(spark, some_traces(1, trace_id="late"), settings.traces_path)
        case "window":
            options = {"start_time": "2024-01-01"}
        case "version":
            ledger_scorer(ledger.path, on="trace").register().start()
        case "rate":
            from backfill_spark import ScorerSamplingConfig, get_scorer

            get_scorer(name="length").update(sampling_config=ScorerSamplingConfig(sample_rate=0.5))
        case _:
            options = {"reprocess": "all"} if change == "reprocess" else {"seed": 1}
    run(**options)
    assert countings == [1]
    calls = {"trace": 1, "version": COUNT, "reprocess": COUNT}
    assert len(ledger.lines()) == calls.get(change, 0)


def test_a_result_that_was_taken_away_is_due_again(
    settings: Settings, ledger: Ledger, first: BackfillJob, countings: list[int]
) -> None:
    table = DeltaTable(f"{settings.tables.root}/assessments")
    gone = table.to_pyarrow_table(columns=["trace_id"])["trace_id"][0].as_py()
    table.delete(f"trace_id = '{gone}'")
    assert run().counts["length"].due == 1
    assert (len(countings), len(ledger.lines())) == (1, 1)
    assert run().counts["length"].due == 0
    assert len(countings) == 1  # the newest job knows of the table as it is


def test_a_table_that_was_made_anew_has_no_results(
    settings: Settings, ledger: Ledger, first: BackfillJob, countings: list[int]
) -> None:
    shutil.rmtree(f"{settings.tables.root}/assessments")
    assert run().counts["length"].due == COUNT
    assert len(ledger.lines()) == COUNT


def test_a_table_that_was_compacted_has_them_still(
    settings: Settings, first: BackfillJob, countings: list[int]
) -> None:
    DeltaTable(f"{settings.tables.root}/assessments").optimize.compact()
    assert run().counts["length"].due == 0
    assert countings == []
