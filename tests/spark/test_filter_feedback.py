"""Filters on feedback in jobs: what the traces have, what their session has, and our own results."""

import os
from typing import Any

import pytest
from pyspark.sql import SparkSession

from backfill_spark import (
    ScorerSamplingConfig,
    backfill_scorers,
    configure,
    get_backfill,
    plan_backfill,
    read_assessments,
    scorer,
)
from backfill_spark.api import work
from backfill_spark.errors import BackfillRefusedError
from backfill_spark.settings.schema import Settings
from tests.factories import a_source_feedback, ledger_scorer, some_traces, write_traces

UNSAFE = [f"tr-{n}" for n in range(0, 12, 4)]


@pytest.fixture(autouse=True)
def _configured(settings: Settings) -> None:
    configure(settings)


def register_safety(answer: str) -> Any:
    @scorer(name="safety")
    def safety(outputs: Any) -> Any:
        return answer if int(outputs.split(" ")[1]) % 4 == 0 else "yes"

    return safety.register()


def scored(name: str, job_id: str) -> list[str]:
    rows = read_assessments(scorers=[name], job_id=job_id).select("trace_id").collect()
    return sorted(row[0] for row in rows)


def test_what_failed_is_scored_again(spark: SparkSession, settings: Settings) -> None:
    """A filter sees our results as they were when the job was created, also when it runs after they have changed."""
    write_traces(spark, some_traces(12), settings.traces_path)
    ledger_scorer(os.devnull).register().start()
    wanted: dict[str, Any] = {"scorers": ["length"], "filter_string": "feedback.safety = 'no'"}
    assert 0 == plan_backfill(**wanted).counts["length"].due

    register_safety("no").start()
    backfill_scorers(scorers=["safety"])
    plan = plan_backfill(**wanted)
    assert (3, 9) == (plan.counts["length"].due, plan.counts["length"].filtered_out)
    waiting = backfill_scorers(**wanted, launch="queue")
    # A newer version of the scorer takes it all back.
    register_safety("yes")
    backfill_scorers(scorers=["safety"])
    assert 0 == plan_backfill(**wanted).counts["length"].due
    assert 12 == plan_backfill(scorers=["length"], filter_string="feedback.safety != 'no'").counts["length"].due

    [job] = work()
    assert ("SUCCEEDED", 3) == (job.state, job.counts["length"].scored)
    assert UNSAFE == scored("length", waiting)
    assert 3 == get_backfill(waiting).summary()["n"][0]


def test_feedback_of_the_source_and_of_sessions_is_seen(spark: SparkSession, settings: Settings) -> None:
    """A trace matches by its own feedback, by that of a trace of its session, and not by that of another session."""
    about = {"metadata": {"mlflow.trace.session": "s0"}}
    has = {
        0: [a_source_feedback("calm", "no", **about)],
        3: [a_source_feedback("calm", "no")],
        5: [a_source_feedback("calm", "no", valid="false")],
    }
    write_traces(
        spark,
        some_traces(8, session_id=lambda n: f"s{n % 4}", assessments=lambda n: has.get(n, [])),
        settings.traces_path,
    )
    ledger_scorer(os.devnull).register().start()
    wanted: dict[str, Any] = {"scorers": ["length"], "filter_string": "feedback.calm = 'no'"}
    assert 3 == plan_backfill(**wanted).counts["length"].due
    assert ["tr-0", "tr-3", "tr-4"] == scored("length", backfill_scorers(**wanted))


def test_the_dialect_is_kept_with_the_scorer_and_the_job(spark: SparkSession, settings: Settings) -> None:
    """What was registered and created in the extended dialect is read in it, whatever the setting says later."""
    write_traces(spark, some_traces(6, state=lambda n: "OK" if n % 2 else "ERROR"), settings.traces_path)
    text = "status = 'ERROR' OR request_id = 'tr-1'"
    length = ledger_scorer(os.devnull).register()
    with pytest.raises(ValueError, match="OR needs filters"):
        length.start(sampling_config=ScorerSamplingConfig(filter_string=text))
    with pytest.raises(BackfillRefusedError, match="OR needs filters"):
        plan_backfill(scorers=["length"], filter_string=text)

    extended = settings.model_copy(update={"filters": settings.filters.model_copy(update={"dialect": "extended"})})
    configure(extended)
    length.start(sampling_config=ScorerSamplingConfig(filter_string=text))
    waiting = backfill_scorers(scorers=["length"], filter_string="NOT request_id = 'tr-0'", launch="queue")

    configure(settings)
    assert 4 == plan_backfill(scorers=["length"]).counts["length"].due
    [job] = work()
    assert ["tr-1", "tr-2", "tr-4"] == scored("length", waiting)
    assert "SUCCEEDED" == job.state
