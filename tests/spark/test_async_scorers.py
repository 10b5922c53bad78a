"""A backfill with an `async def` scorer: each trace is asked once, many at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backfill_spark import backfill_scorers, configure, get_backfill, get_scorer, read_assessments, scorer
from tests.factories import Ledger, ledger_scorer, some_traces, write_traces

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings


def asking(path: str) -> Any:
    """Return an async scorer that notes each call, and gives how many calls were under way with it."""
    under_way = [0]

    @scorer(name="asks")
    async def asks(trace: Any) -> Any:
        import asyncio
        import os

        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, f"asks\t{trace.info.trace_id}\n".encode())
        os.close(handle)
        under_way[0] += 1
        most = under_way[0]
        await asyncio.sleep(0.05)
        under_way[0] -= 1
        return most

    return asks


def test_each_trace_is_asked_once_and_many_at_a_time(spark: SparkSession, settings: Settings, ledger: Ledger) -> None:
    """Beside a plain scorer, and again for nothing: the kind of the scorer is kept in the registry."""
    write_traces(spark, some_traces(200), settings.traces_path, files=1)
    configure(settings)
    asking(ledger.path).register().start()
    ledger_scorer(ledger.path, on="trace").register().start()
    assert get_scorer(name="asks").is_async

    rows_at_once = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = str(spark.conf.get(rows_at_once))
    spark.conf.set(rows_at_once, 10)
    try:
        job = get_backfill(backfill_scorers(scorers=["asks", "length"]))
    finally:
        spark.conf.set(rows_at_once, before)

    calls = sorted(line.split("\t")[1] for line in ledger.lines() if line.startswith("asks"))
    assert sorted(f"{row['trace_id']}" for row in some_traces(200)) == calls
    assert {"asks": 200, "length": 200} == {name: count.scored for name, count in job.counts.items()}
    rows = read_assessments(scorers=["asks"]).collect()
    assert 200 == len(rows)
    assert 64 == max(row["value_double"] for row in rows), "the pilot's tasks are large enough to fill their places"

    again = get_backfill(backfill_scorers(scorers=["asks", "length"]))
    assert (0, 400) == (again.counts["asks"].due, len(ledger.lines()))
