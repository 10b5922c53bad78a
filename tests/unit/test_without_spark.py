"""What needs no Spark starts none: commands over jobs and scorers whose tables lie in a folder of this machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from backfill_spark import Settings, cancel_backfill, configure, get_backfill, list_backfills, wait_for_backfill
from backfill_spark.backfill.tables import Tables
from backfill_spark.cli import main
from backfill_spark.jobs.events import End, Event
from backfill_spark.models import Counts, JobState, Reprocess, Request, Sampling, ScorerKind, ScorerSpec, TimeWindow
from backfill_spark.storage import start_spark

PENDING, DONE = "bf-20240601-120000-000000-abcdef01", "bf-20240601-120001-000000-abcdef02"


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tables:
    """Tables of this test, with settings that commands find too; a session that is started fails the test."""
    monkeypatch.setenv("BACKFILL_SPARK_TABLES__ROOT", str(tmp_path / "tables"))
    monkeypatch.setattr(start_spark, "check_java", lambda: pytest.fail("a session was started"))
    configure(Settings(tables={"root": str(tmp_path / "tables")}))
    return Tables(None, Settings(tables={"root": str(tmp_path / "tables")}))


def told(*words: str) -> Any:
    """The object that a command prints."""
    result = CliRunner().invoke(main, [*words, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def created(due: int = 3) -> dict[str, Any]:
    """The first event of a job of one scorer."""
    spec = ScorerSpec("length", 1, "d", ScorerKind.FUNCTION, {}, None, ("outputs",), 1.0)
    request = Request(
        experiment_id="0",
        experiment_given=False,
        scorers=(spec,),
        window=TimeWindow(datetime(2024, 6, 1, tzinfo=UTC), None),
        source="/traces",
        source_version="3",
        source_table_id="id",
        results_version=None,
        reprocess=Reprocess.MISSING,
        sampling=Sampling.HASH,
        seed=0,
        notes=(),
    )
    counts = Counts(in_window=due, due=due, left=due).to_json()
    return {"request": request.to_json(), "counts": {"length": counts}, "created_at": 1.7e9, "versions": {}}


def test_scorers_live_and_die(tables: Tables, tmp_path: Path) -> None:
    """Each command of their lifecycle."""
    file = tmp_path / "mine.py"
    file.write_text("from backfill_spark import scorer\n@scorer\ndef length(outputs):\n    return len(outputs)\n")
    assert told("scorers", "register", f"{file}:length")["scorer_version"] == 1
    assert told("scorers", "start", "length", "--rate", "0.5")["status"] == "STARTED"
    assert told("scorers", "update", "length", "--rate", "0.25")["sample_rate"] == 0.25
    assert told("scorers", "stop", "length")["status"] == "STOPPED"
    assert [one["name"] for one in told("scorers", "list")["scorers"]] == ["length"]
    assert "def length" in told("scorers", "show", "length")["source_text"]
    assert len(told("scorers", "versions", "length")["versions"]) == 1
    told("scorers", "delete", "length")
    assert told("scorers", "list")["scorers"] == []


def test_jobs_are_listed_shown_and_canceled(tables: Tables) -> None:
    """One that waits, and one that is done and whose summary was read."""
    jobs = tables.jobs
    jobs.create(PENDING, created())
    claim = jobs.create_claimed(DONE, created())
    counts = {"length": Counts(in_window=3, due=3, scored=3, calls=3).to_json()}
    record = jobs.end(DONE, claim.epoch, End.SUCCEEDED, {"counts": counts, "calls": 3}, claimed=claim.record)
    jobs.show(record)
    rows = [{"scorer": "length", "feedback": "length", "version": 1, "n": 3, "mean": 4.0, "ci_low": None}]
    jobs.write(DONE, [(Event.SUMMARIZED, {"rows": rows, "at": jobs.clock()})])

    assert [one["job_id"] for one in told("list")["jobs"]] == [DONE, PENDING]
    assert [one["job_id"] for one in told("list", "--state", "PENDING")["jobs"]] == [PENDING]
    assert told("status", DONE)["summary"][0]["mean"] == 4.0
    assert told("wait", DONE)["state"] == "SUCCEEDED"
    assert "results of" in CliRunner().invoke(main, ["status", DONE]).output
    assert wait_for_backfill(DONE).state is JobState.SUCCEEDED
    assert told("status", PENDING)["state"] == "PENDING"
    canceled = cancel_backfill(PENDING)
    assert (canceled.state, canceled.calls, canceled.counts["length"].left) == (JobState.CANCELED, 0, 3)
    assert get_backfill(PENDING).error == f"Job {PENDING} was canceled."
    assert [job.state for job in list_backfills()] == [JobState.SUCCEEDED, JobState.CANCELED]


def test_a_summary_is_forgotten_when_a_runner_goes_on(tables: Tables) -> None:
    """What was read of a job that rested is not what it comes to now."""
    jobs = tables.jobs
    claim = jobs.create_claimed(DONE, created())
    jobs.end(DONE, claim.epoch, End.PARTIAL, {"counts": created()["counts"]}, claimed=claim.record)
    jobs.write(DONE, [(Event.SUMMARIZED, {"rows": [{"n": 1}], "at": jobs.clock()})])
    assert get_backfill(DONE).known_summary == ({"n": 1},)
    second = jobs.claim(jobs.record(DONE), None)
    assert second is not None
    assert second.record.summary is None
    jobs.end(DONE, second.epoch, End.PARTIAL, {"counts": created()["counts"]}, claimed=second.record)
    assert get_backfill(DONE).known_summary is None
