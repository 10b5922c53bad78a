"""A plan counts in one pass, and looks again where that is not enough."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from backfill_spark import backfill_scorers, configure, plan_backfill
from tests.factories import NOON, Ledger, a_trace, ledger_scorer, some_traces, write_traces

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark import Settings

LATER = NOON + timedelta(days=1)


def test_a_result_of_another_date_is_not_this_traces(spark: SparkSession, settings: Settings, ledger: Ledger) -> None:
    """The time of a trace was mended since: its result stands at the old date, and it is due again."""
    write_traces(spark, some_traces(3), settings.traces_path)
    configure(settings)
    ledger_scorer(ledger.path).register().start()
    backfill_scorers(scorers=["length"])
    write_traces(spark, some_traces(3, request_time=lambda n: NOON if n else LATER), settings.traces_path)
    counts = plan_backfill(scorers=["length"]).counts["length"]
    assert (counts.in_window, counts.already_scored, counts.due) == (3, 2, 1)
    ledger.clear()
    backfill_scorers(scorers=["length"])
    assert len(ledger.lines()) == 1
    counts = plan_backfill(scorers=["length"], start_time=NOON, end_time=LATER).counts["length"]
    assert (counts.in_window, counts.already_scored, counts.due) == (2, 2, 0)


def test_rows_that_are_skipped_are_counted_each(spark: SparkSession, settings: Settings, ledger: Ledger) -> None:
    rows = [a_trace(), a_trace(state="IN_PROGRESS"), a_trace(state="IN_PROGRESS", request_time=LATER)]
    write_traces(spark, rows, settings.traces_path)
    configure(settings)
    ledger_scorer(ledger.path).register().start()
    for due in (1, 0):
        counts = plan_backfill(scorers=["length"]).counts["length"]
        assert (counts.in_window, dict(counts.skipped_reasons), counts.due) == (3, {"in_progress": 2}, due)
        backfill_scorers(scorers=["length"])
    write_traces(spark, [*rows, a_trace()], settings.traces_path)
    counts = plan_backfill(scorers=["length"]).counts["length"]
    assert dict(counts.skipped_reasons) == {"in_progress": 2, "duplicate_trace_id": 1}
    assert (counts.already_scored, counts.due) == (1, 0)


def test_of_rows_that_tie_one_that_does_not_match_may_count(
    spark: SparkSession, settings: Settings, ledger: Ledger
) -> None:
    """Two rows of one id and moment: the first in its file is the trace, though a filter lets only the second in."""
    rows = [a_trace(trace_id="tr-a", state="ERROR"), a_trace(trace_id="tr-a"), a_trace(trace_id="tr-b")]
    write_traces(spark, rows, settings.traces_path)
    configure(settings)
    ledger_scorer(ledger.path, on="trace").register().start()
    only: dict[str, Any] = {"scorers": ["length"], "filter_string": "status = 'OK'"}
    assert plan_backfill(**only).counts["length"].due == 1
    backfill_scorers(**only)
    assert ledger.lines() == ["length\ttr-b"]
