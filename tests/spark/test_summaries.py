"""What a summary says of scorers that give several feedbacks, and of those that mostly fail."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from backfill_spark import Feedback, backfill_scorers, configure, get_backfill, list_backfills, scorer
from tests.factories import some_traces, write_traces

if TYPE_CHECKING:
    import pytest
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings

TRACES = 20


@scorer
def metrics(outputs: str) -> Any:
    number = int(outputs.split()[1])
    if number == 0:
        raise ValueError("no metrics of the first one")
    twice = [Feedback(name="long", value=False)] if number < 5 else []
    return [Feedback(name="words", value=number), Feedback(name="long", value=number >= 10), *twice]


@scorer
def misses_a_module(outputs: str) -> Any:
    if outputs.startswith(("answer 0", "answer 1 ")):
        return 1
    from mlflow_that_executors_lack import Feedback as Other  # type: ignore[import-not-found] # that is the test

    return Other(value=1)


@scorer
def tells_its_trace(outputs: str) -> int:
    return int(outputs)


def test_a_row_a_feedback_name_and_a_sentence_where_most_calls_failed(
    spark: SparkSession, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """In the summary, the job, the log and the command's last line; the job is SUCCEEDED all the same.

    The log tells the job from its plan to its end, and quotes no trace.
    """
    write_traces(spark, some_traces(TRACES), settings.traces_path)
    configure(settings)
    names = [s.register().start().name for s in (metrics, misses_a_module, tells_its_trace)]

    with caplog.at_level(logging.INFO, logger="backfill_spark"):
        job = get_backfill(backfill_scorers(scorers=names))

    rows = {(r["scorer"], r["feedback"]): r for r in job.summary().to_dict("records")}
    assert {("metrics", "words"), ("metrics", "long"), *((n, n) for n in names[1:])} == rows.keys()
    words, long = rows["metrics", "words"], rows["metrics", "long"]
    assert (19, 10.0, 20, 1) == (words["n"], words["mean"], words["results"], words["results_errored"])
    assert (19, 10 / 19, 20, 1) == (long["n"], long["mean"], long["results"], long["results_errored"])
    assert words["most_frequent_error"].startswith("scorer_error: ")
    assert list(rows["metrics", "words"])[:8] == [
        *("scorer", "feedback", "version", "rate_reached", "n", "population", "mean", "ci_low"),
    ]

    missing = "scorer_error: ModuleNotFoundError: No module named 'mlflow_that_executors_lack'"
    assert rows["misses_a_module", "misses_a_module"]["most_frequent_error"].startswith(missing)
    assert "from backfill_spark import Feedback" in rows["misses_a_module", "misses_a_module"]["most_frequent_error"]
    said = list(job.warnings)
    assert said[0].startswith(f"Scorer 'misses_a_module' failed on 18 of 20 pairs. Most frequent error: {missing}")
    # What stands once quotes its trace.
    assert said[1:] == [
        "Scorer 'tells_its_trace' failed on 20 of 20 pairs. Most frequent error: scorer_error: ValueError"
    ]
    assert all(text in caplog.text for text in said)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert told[0].startswith("plan of experiment 0, all time: 60 pairs due for 3 scorers, 60 calls in 1 chunks; ")
    steps = (
        r"claimed in epoch 1 by \S+; 0 of 60 pairs \(0%\)",
        r"chunk 0 of \[.*\): 60 pairs in \d+ s; 60 of 60 pairs \(100%\), [\d,]+ pairs/s, 39 errors",
        r"MERGE of 60 pairs from 1 chunks in \d+ s; 60 of 60 pairs \(100%\), [\d,]+ pairs/s, 39 errors",
        r"SUCCEEDED after \d+ s: 21 scored, 0 empty, 39 errored, 0 left, 60 calls",
    )
    assert len(steps) == len(told[1:])
    assert all(re.fullmatch(f"job {job.job_id}: {step}", line) for step, line in zip(steps, told[1:], strict=True))
    assert not any("answer 1" in text or "tr-1" in text for text in told)
    assert "SUCCEEDED" == job.state
    assert list_backfills(limit=1)[0].state == job.state
    assert str(job).rstrip().endswith("scorer_error: ValueError")
