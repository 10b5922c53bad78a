"""Delivery: each result once at the sink, whatever breaks on the way, and every result counted."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import re
import shlex
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from backfill_spark import (
    BackfillRefusedError,
    DeliveryStoppedError,
    JobNotFoundError,
    Settings,
    api,
    backfill_scorers,
    configure,
    deliver_backfill,
)
from backfill_spark.backfill import runner, submit
from backfill_spark.backfill.tables import Tables
from backfill_spark.cli import main
from backfill_spark.delivery.deliver import Delivery
from backfill_spark.delivery.sinks.mlflow_database import COLUMNS, HEADS
from backfill_spark.storage import start_spark
from tests.delivered import (
    JOB,
    Asked,
    FakeMlflow,
    Reply,
    SinkServer,
    a_result,
    add_results,
    an_error,
    job_with,
    serving,
)
from tests.unit.test_without_spark import created

TRACES = [f"tr-{number:032x}" for number in range(6)]


@pytest.fixture(autouse=True)
def _no_session_and_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_spark, "check_java", lambda: pytest.fail("a session was started"))
    monkeypatch.setattr("backfill_spark.delivery.server.LONGEST_PAUSE_S", 0.01)


@pytest.fixture
def mlflow() -> FakeMlflow:
    return FakeMlflow(*TRACES)


@pytest.fixture
def server(mlflow: FakeMlflow) -> Iterator[SinkServer]:
    with serving(mlflow) as made:
        yield made


def deliver(settings: Settings, server: SinkServer, kind: str = "mlflow", **how: Any) -> Delivery:
    return deliver_backfill(JOB, to=f"{kind}+{server.url}", settings=settings, **how)


def add_up(done: Delivery) -> bool:
    return done.results == done.delivered_before + done.accepted + done.rejected + done.not_sent + done.left


def writes(server: SinkServer) -> list[str]:
    """The requests that write: not those that look."""
    looks = ("/search", "/batchGetInfos")
    return [path for path in server.paths() if path.startswith("POST") and not path.endswith(looks)]


def three_scorers(trace_id: str) -> list[dict[str, Any]]:
    return [
        a_result(trace_id, value=3, rationale="short"),
        a_result(trace_id, scorer_name="polite", value=True, metadata={"mine": "x"}),
        an_error(trace_id, scorer_name="slow"),
    ]


# --- MLflow


def test_results_are_delivered_once(settings: Settings, mlflow: FakeMlflow, server: SinkServer) -> None:
    """All of them under their own ids, and a second delivery writes nothing."""
    rows = [row for trace in TRACES for row in three_scorers(trace)]
    job_with(settings, rows)

    first = deliver(settings, server)
    assert (first.results, first.accepted, first.read_back, first.is_complete) == (18, 18, 18, True)
    assert set(mlflow.there) == {row["assessment_id"] for row in rows}
    server.asked.clear()
    second = deliver(settings, server)
    assert (second.delivered_before, second.accepted, second.is_complete) == (18, 0, True)
    assert writes(server) == []


def test_what_an_assessment_holds(settings: Settings, mlflow: FakeMlflow, server: SinkServer) -> None:
    """Value, error, source, time, rationale, and where it comes from."""
    job_with(settings, three_scorers(TRACES[0]))
    deliver(settings, server)
    there = {one["assessment_name"]: one for one in mlflow.there.values()}
    assert there["length"]["feedback"] == {"value": 3}
    assert there["length"]["rationale"] == "short"
    assert there["length"]["create_time"] == "2024-07-01T08:30:00Z"
    assert there["length"]["source"] == {"source_type": "CODE", "source_id": "length"}
    assert there["polite"]["feedback"] == {"value": True}
    told = there["polite"]["metadata"]
    assert told["mine"] == "x"
    assert told["mlflow.assessment.scorerVersion"] == "1"
    assert told["backfill_spark.job_id"] == JOB
    assert there["slow"]["feedback"]["error"] == {"error_code": "timeout", "error_message": "took more than 300 s"}


def test_many_results_of_a_trace_are_one_request(settings: Settings, mlflow: FakeMlflow, server: SinkServer) -> None:
    """The trace's own info is sent back as it was."""
    job_with(settings, [a_result(TRACES[0], scorer_name=f"scorer{n}") for n in range(7)])
    assert deliver(settings, server).accepted == 7
    assert writes(server) == ["POST /api/3.0/mlflow/traces"]
    sent = next(one for one in server.asked if one.path.endswith("/traces")).body["trace"]["trace_info"]
    assert {k: v for k, v in sent.items() if k != "assessments"} == mlflow.traces[TRACES[0]]


def test_a_server_that_takes_no_infos(settings: Settings, mlflow: FakeMlflow) -> None:
    """Without the request for many, results go one by one, and traces are read back one by one."""

    def older(asked: Asked) -> Reply:
        if asked.path.endswith("/batchGetInfos"):
            return 405, {}
        if asked.method == "POST" and asked.path.endswith("/traces"):
            return 404, {}
        if asked.method == "GET":
            return 200, {"trace": {"trace_info": mlflow.info(asked.path.split("/")[-1])}}
        return mlflow(asked)

    job_with(settings, [a_result(TRACES[0], scorer_name=f"scorer{n}") for n in range(7)])
    with serving(older) as server:
        done = deliver(settings, server)
    assert (done.accepted, done.read_back, len(mlflow.there)) == (7, 7, 7)


def test_a_lost_reply_makes_no_second_one(settings: Settings, mlflow: FakeMlflow) -> None:
    """The server took the result and the connection broke: asked again, it says that the id is there."""
    broken = iter([True, True])

    def answer(asked: Asked) -> Reply:
        said = mlflow(asked)
        return None if asked.path.endswith("/assessments") and next(broken, False) else said

    job_with(settings, three_scorers(TRACES[0]))
    with serving(answer) as server:
        done = deliver(settings, server)
    assert (done.accepted, done.rejected, done.read_back, len(mlflow.there)) == (3, 0, 3, 3)


@pytest.mark.parametrize("before", [0.1, 0.5])
def test_a_result_that_changed_is_sent_again(
    settings: Settings, mlflow: FakeMlflow, server: SinkServer, before: float
) -> None:
    """Scored anew, it has its old id: another value, or the same one for another reason, is replaced."""
    row = a_result(TRACES[0], rationale="new")
    there = {"assessment_id": row["assessment_id"], "trace_id": TRACES[0], "feedback": {"value": before}}
    mlflow.there[row["assessment_id"]] = there | {"rationale": "old"}
    job_with(settings, [row])
    done = deliver(settings, server)
    assert (done.accepted, done.read_back) == (1, 1)
    now = mlflow.there[row["assessment_id"]]
    assert (now["feedback"], now["rationale"]) == ({"value": 0.5}, "new")


@pytest.mark.parametrize(("versions", "there"), [("keep", {0.5, 0.9}), ("replace", {0.9})])
def test_a_new_scorer_version(
    settings: Settings, mlflow: FakeMlflow, server: SinkServer, versions: str, there: set[float]
) -> None:
    """Both stay, or the new one takes the old one's place; delivered late, the old one does not come back."""
    job_with(settings, [a_result(TRACES[0])])
    later = "bf-20240616-120000-000000-abcdef02"
    job_with(settings, [a_result(TRACES[0], scorer_version=2, value=0.9, job_id=later)], later)
    deliver(settings, server, versions=versions)
    deliver_backfill(later, to=f"mlflow+{server.url}", versions=versions, settings=settings)
    again = deliver(settings, server, versions=versions)
    assert {one["feedback"]["value"] for one in mlflow.there.values()} == there
    assert add_up(again)
    assert again.accepted == 0


def test_an_older_result_does_not_come_back(settings: Settings, mlflow: FakeMlflow, server: SinkServer) -> None:
    """A trace whose date has changed was scored again: both rows have one id, and the newer one stays."""
    later, made = "bf-20240616-120000-000000-abcdef02", datetime(2024, 8, 1, tzinfo=UTC)
    job_with(settings, [a_result(TRACES[0])])
    job_with(settings, [a_result(TRACES[0], value=0.9, job_id=later, created_at=made)], later)
    deliver(settings, server)
    deliver_backfill(later, to=f"mlflow+{server.url}", settings=settings)
    assert deliver(settings, server).reasons == {"a newer result is there": 1}
    assert [one["feedback"]["value"] for one in mlflow.there.values()] == [0.9]


def test_a_rejected_result_costs_itself_only(settings: Settings, mlflow: FakeMlflow) -> None:
    """It is counted with its reason, the others arrive, and the next delivery tries it again."""
    refuses = [True]

    def answer(asked: Asked) -> Reply:
        if asked.path.endswith("/assessments") and asked.body["assessment"]["assessment_name"] == "bad" and refuses:
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "Name may not be bad."}
        return mlflow(asked)

    job_with(settings, [a_result(TRACES[0]), a_result(TRACES[0], scorer_name="bad"), a_result("tr-gone")])
    with serving(answer) as server:
        done = deliver(settings, server)
        assert (done.accepted, done.rejected, done.is_complete) == (1, 2, False)
        assert done.reasons == {
            "HTTP 400: Name may not be bad.": 1,
            "the server has no such trace (HTTP 404)": 1,
        }
        refuses.clear()
        later = deliver(settings, server)
    assert (later.delivered_before, later.accepted, later.rejected) == (1, 1, 1)


def test_what_is_accepted_and_not_shown_is_not_delivered(settings: Settings, mlflow: FakeMlflow) -> None:
    """The read-back counts it apart, and it is sent again."""
    loses = [True]

    def answer(asked: Asked) -> Reply:
        said = mlflow(asked)
        if asked.path.endswith("/assessments") and loses:
            mlflow.there.clear()
        return said

    job_with(settings, [a_result(TRACES[0])])
    with serving(answer) as server:
        done = deliver(settings, server)
        assert (done.accepted, done.read_back, done.missing, done.is_complete) == (1, 0, 1, False)
        loses.clear()
        assert deliver(settings, server, read_back=False).accepted == 1
    assert len(mlflow.there) == 1


def test_too_many_requests_are_waited_for(settings: Settings, mlflow: FakeMlflow) -> None:
    """As long as `Retry-After` says; each result arrives once."""
    refused = iter([True] * 4)

    def answer(asked: Asked) -> Reply:
        if asked.path.endswith("/assessments") and next(refused, False):
            return 429, {"message": "slow down"}, {"Retry-After": "0.05"}
        return mlflow(asked)

    job_with(settings, [a_result(trace) for trace in TRACES])
    with serving(answer) as server:
        done = deliver(settings, server)
    assert (done.accepted, done.rejected, len(mlflow.there)) == (6, 0, 6)
    assert len([p for p in server.paths() if p.endswith("/assessments")]) == 10


def test_a_rate_of_the_settings_holds(settings: Settings, server: SinkServer, mlflow: FakeMlflow) -> None:
    """600 a minute: 10 at once, then 10 a second."""
    traces = [f"tr-{n}" for n in range(16)]
    mlflow.traces |= FakeMlflow(*traces).traces
    job_with(settings, [a_result(trace) for trace in traces])
    sink = {"base_url": server.url, "rpm": 600}
    own = Settings(tables={"root": settings.root}, deliver={"sinks": {"mlflow": sink}})
    began = time.monotonic()
    assert deliver_backfill(JOB, to="mlflow", settings=own).accepted == 16
    assert time.monotonic() - began >= (len(server.asked) - 10) / 10 - 0.05


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "does not accept the key"), (403, "does not accept"), (404, "does not answer as mlflow does")],
)
def test_a_server_that_does_not_serve_is_named_before_any_row(settings: Settings, status: int, said: str) -> None:
    """Its first answer decides; nothing is sent, nothing remembered."""
    job_with(settings, [a_result(TRACES[0])])
    with serving(lambda _: (status, {"message": "no"})) as server, pytest.raises(BackfillRefusedError, match=said):
        deliver(settings, server)
    assert len(server.asked) == 1


def test_a_page_for_people_is_no_answer(settings: Settings) -> None:
    """A login page has status 200, too."""
    job_with(settings, [a_result(TRACES[0])])
    with (
        serving(lambda _: (200, "<html>Log in</html>")) as server,
        pytest.raises(BackfillRefusedError, match="as mlflow does"),
    ):
        deliver(settings, server)


@pytest.mark.parametrize("head", [None, "0123456789ab"])
def test_a_database_that_is_none_of_mlflow(settings: Settings, tmp_path: Path, head: str | None) -> None:
    """No such file, or a schema that nobody has looked at: nothing is made, nothing written."""
    file = tmp_path / "mlflow.db"
    if head is not None:
        with contextlib.closing(sqlite3.connect(file)) as made:
            made.execute("CREATE TABLE alembic_version (version_num)")
            made.execute("INSERT INTO alembic_version VALUES (?)", [head])
            made.commit()
    job_with(settings, [a_result(TRACES[0])])
    with pytest.raises(BackfillRefusedError, match=head or "no MLflow database"):
        deliver_backfill(JOB, to=f"mlflow+sqlite:///{file}", settings=settings)
    assert file.exists() == (head is not None)


def test_a_row_that_a_database_refuses(settings: Settings, tmp_path: Path) -> None:
    """It costs itself only; a database that cannot be written any more ends the delivery."""
    file = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(file)) as made:
        made.execute(f"CREATE TABLE alembic_version AS SELECT '{HEADS[0]}' version_num")
        made.execute("CREATE TABLE trace_info (request_id, experiment_id, timestamp_ms)")
        made.executemany("INSERT INTO trace_info VALUES (?, 0, 5)", [[trace] for trace in TRACES])
        made.execute(f"CREATE TABLE assessments ({', '.join(COLUMNS)} CHECK (name != 'bad'), UNIQUE (assessment_id))")
        made.commit()
        rows = [a_result(trace, scorer_name="bad" if trace == TRACES[2] else "length") for trace in TRACES]
        job_with(settings, rows)

        done = deliver_backfill(JOB, to=f"mlflow+sqlite:///{file}", settings=settings)
        assert (done.accepted, done.rejected, done.read_back) == (5, 1, 5)
        assert done.reasons == {"the database refused it: IntegrityError": 1}
        assert made.execute(
            "SELECT count(*), min(trace_timestamp_ms), sum(aggregate_value) FROM assessments"
        ).fetchone() == (
            5,
            5,
            2.5,
        )
        made.execute("DROP TABLE assessments")
        add_results(settings, [a_result(TRACES[0], scorer_name="later")])
        assert deliver_backfill(JOB, to=f"mlflow+sqlite:///{file}", settings=settings).left == 2


def test_a_key_that_expires_on_the_way(settings: Settings, mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not sent is left, and the next delivery sends it."""
    monkeypatch.setattr("backfill_spark.delivery.sinks.mlflow.Mlflow.size", 2)
    expired = [True]

    def answer(asked: Asked) -> Reply:
        is_over = len(mlflow.there) >= 2 and expired
        return (401, {}) if is_over and asked.path.endswith("/assessments") else mlflow(asked)

    job_with(settings, [a_result(trace) for trace in TRACES])
    with serving(answer) as server:
        done = deliver(settings, server)
        assert (done.accepted, done.left) == (2, 4)
        assert add_up(done)
        assert done.stopped is not None
        assert "does not accept the key" in done.stopped
        expired.clear()
        later = deliver(settings, server)
    assert (later.delivered_before, later.accepted, later.read_back) == (2, 4, 4)


def test_a_result_without_a_value_is_not_sent(settings: Settings, server: SinkServer) -> None:
    """An empty one has no form anywhere."""
    job_with(settings, [a_result(TRACES[0], value=None, outcome="empty")])
    done = deliver(settings, server)
    assert (done.not_sent, done.is_complete, done.reasons) == (1, True, {"the scorer gave no value": 1})


# --- keys


@pytest.mark.parametrize(
    ("variables", "header"),
    [
        ({"MLFLOW_TRACKING_TOKEN": "t0ken-of-mine"}, "Bearer t0ken-of-mine"),
        (
            {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "pa55"},
            "Basic " + base64.b64encode(b"me:pa55").decode(),
        ),
        ({}, None),
    ],
)
def test_the_key_of_the_environment_is_sent(
    settings: Settings,
    server: SinkServer,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    header: str | None,
) -> None:
    """The variables are those that MLflow's own client reads."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    job_with(settings, [a_result(TRACES[0])])
    deliver(settings, server)
    assert {one.headers.get("authorization") for one in server.asked} == {header}


def test_keys_are_never_shown(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A server that says the key back in its error: neither messages, log nor tables have it."""
    key = "k7Jx-secret-0123456789"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", key)
    job_with(settings, [a_result(TRACES[0])])

    def answer(asked: Asked) -> Reply:
        if asked.path.endswith("/assessments"):
            return 400, {"message": f"bad: Authorization: Bearer {key}"}
        return 200, {}

    with serving(answer) as server, caplog.at_level(logging.DEBUG, "backfill_spark"):
        done = deliver(settings, server)
    assert done.rejected == 1
    assert key not in repr(done) + caplog.text
    assert not [f for f in (tmp_path / "tables").rglob("*") if f.is_file() and key.encode() in f.read_bytes()]


# --- what is refused


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("mlfow", "'mlflow'"),
        ("mlflow", r"deliver\.sinks\.mlflow\.base_url"),
        ("mlflow+ftp://host", "cannot be used"),
        ("mlflow+http://me:secret@host", "no user, password"),
        ("mlflow+postgresql://me:secret@host/db", "holds a password"),
        ("langfuse+http://127.0.0.1:9", "LANGFUSE_PUBLIC_KEY"),
        ("kafka+http://127.0.0.1:9", "known are"),
        ("mlflow+http://127.0.0.1:9", "no answer in"),
        ("https://user:secret@host/x y", "write mlflow"),
        ("table:a-b", "table name"),
        ("table:", "write mlflow"),
    ],
)
def test_a_place_that_is_none(settings: Settings, to: str, said: str) -> None:
    """Refused with what to write instead, and without what may be a key."""
    job_with(settings, [])
    with pytest.raises(BackfillRefusedError if to != "table:a-b" else ValueError, match=said) as refused:
        deliver_backfill(JOB, to=to, settings=settings)
    assert "secret" not in str(refused.value)


def test_a_job_that_is_not_there_or_under_way(settings: Settings, server: SinkServer) -> None:
    """Only jobs at rest are delivered."""
    with pytest.raises(JobNotFoundError):
        deliver(settings, server)
    Tables(None, settings).jobs.create(JOB, created())
    with pytest.raises(BackfillRefusedError, match="PENDING"):
        deliver(settings, server)
    with pytest.raises(BackfillRefusedError, match="versions must be"):
        deliver(settings, server, versions="both")


# --- a job that delivers


@pytest.fixture
def job_runs(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put a job that ends at once, with two results, in place of planning and scoring; return what was done of it."""
    done: list[str] = []

    def run_job(*_: Any, **__: Any) -> Any:
        done.append("run")
        job_with(settings, [a_result(TRACES[0]), a_result("tr-gone")])
        return Tables(None, settings).jobs.record(JOB)

    def accept(*_: Any) -> Any:
        done.append("plan")
        return made

    made = SimpleNamespace(plan=None, inputs=SimpleNamespace(pairs=SimpleNamespace(counts={})))
    monkeypatch.setattr(api, "usable", lambda *_: None)
    monkeypatch.setattr(submit, "accept", accept)
    monkeypatch.setattr(submit, "create_ended", lambda _: None)
    monkeypatch.setattr(submit, "probe_models", lambda made: made)
    monkeypatch.setattr(submit, "create_claimed", lambda _: SimpleNamespace(job_id=JOB))
    monkeypatch.setattr(runner, "run_job", run_job)
    return done


def test_a_job_that_delivers(settings: Settings, mlflow: FakeMlflow, server: SinkServer, job_runs: list[str]) -> None:
    """When it has ended; that a result was rejected is told, with the job's id."""
    with pytest.raises(DeliveryStoppedError, match="rejected 1, 0 were not sent") as stopped:
        backfill_scorers(scorers=["length"], deliver_to=f"mlflow+{server.url}", settings=settings)
    assert stopped.value.job_id == JOB
    assert len(mlflow.there) == 1
    mlflow.traces |= FakeMlflow("tr-gone").traces
    assert deliver(settings, server).is_complete


def test_a_place_is_asked_before_the_job_is_planned(settings: Settings, job_runs: list[str]) -> None:
    """A wrong key costs nothing, and a queued job is delivered by hand."""
    with serving(lambda _: (401, {})) as closed, pytest.raises(BackfillRefusedError, match="does not accept the key"):
        backfill_scorers(scorers=["length"], deliver_to=f"mlflow+{closed.url}", settings=settings)
    with pytest.raises(BackfillRefusedError, match="launch='here'"):
        backfill_scorers(scorers=["length"], deliver_to="table:x", launch="queue", settings=settings)
    assert job_runs == []


# --- the command


def run(settings: Settings, *words: str) -> Any:
    return CliRunner().invoke(main, ["deliver", JOB, *words, "--set", f"tables.root={settings.root}"])


def test_the_command(settings: Settings, server: SinkServer) -> None:
    """Exit 0 when all is there, 3 when something was rejected, 2 when nothing could be sent."""
    job_with(settings, [a_result(TRACES[0])])
    shown = run(settings, "--to", f"mlflow+{server.url}")
    assert shown.exit_code == 0, shown.output
    assert "complete" in shown.stdout
    add_results(settings, [a_result("tr-gone")])
    told = run(settings, "--to", f"mlflow+{server.url}", "--json")
    assert told.exit_code == 3
    body = json.loads(told.stdout)
    assert (body["delivered_before"], body["rejected"], body["is_complete"]) == (1, 1, False)
    assert body["reasons"] == {"the server has no such trace (HTTP 404)": 1}
    assert run(settings, "--to", "nowhere").exit_code == 2


def test_a_sink_of_the_settings(settings: Settings, server: SinkServer) -> None:
    """A name of its own, with its kind and address."""
    job_with(settings, [a_result(TRACES[0])])
    shown = run(
        settings,
        "--to",
        "prod",
        "--set",
        "deliver.sinks.prod.kind=mlflow",
        "--set",
        f"deliver.sinks.prod.base_url={server.url}",
    )
    assert shown.exit_code == 0, shown.output


def test_the_page_holds(settings: Settings, server: SinkServer, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/deliver.md: its command and its Python, run; only the address is this test's."""
    page = (
        (Path(__file__).parents[2] / "docs/deliver.md")
        .read_text(encoding="utf-8")
        .replace("http://localhost:5000", server.url)
    )
    job_with(settings, [row for trace in TRACES for row in three_scorers(trace)])
    command = re.findall(r"^backfill-spark (.*)$", page, re.MULTILINE)[0]
    shown = CliRunner().invoke(main, [*shlex.split(command), "--set", f"tables.root={settings.root}"])
    assert shown.exit_code == 0, shown.output
    configure(settings)
    try:
        exec(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0], {})
    finally:
        configure()
    assert capsys.readouterr().out == "0 0 0\n"


# --- Langfuse, against what its documentation and client say: there is no server to test with


class FakeLangfuse:
    """Scores by id, name and day; a list with a bad score is answered by how many were rejected, not which."""

    def __init__(self) -> None:
        self.there: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.takes_lists = True
        self.late = 0
        """Looks before anything shows."""

    def __call__(self, asked: Asked) -> Reply:
        if asked.method == "GET":
            if asked.query.get("id") and self.late > 0:
                self.late -= 1
                return 200, {"data": []}
            ids = asked.query.get("id", [""])[0].split(",")
            return 200, {"data": [one for one in self.there.values() if one["id"] in ids]}
        if not isinstance(asked.body, list):
            return (202, {}) if self.put(asked.body) else (400, {"message": "value is not allowed"})
        if not self.takes_lists:
            return 400, {"message": "Expected object, received array"}
        rejected = sum(not self.put(one) for one in asked.body)
        if rejected:
            return 207, {"accepted": len(asked.body) - rejected, "rejected": rejected, "errors": [{"message": "bad"}]}
        return 202, {"message": "Accepted"}

    def put(self, score: dict[str, Any]) -> bool:
        if score["name"] == "bad":
            return False
        self.there[score["id"], score["name"], score["timestamp"][:10]] = score
        return True


@pytest.fixture
def langfuse(monkeypatch: pytest.MonkeyPatch) -> FakeLangfuse:
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-1")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-2")
    return FakeLangfuse()


def test_langfuse_gets_lists(settings: Settings, langfuse: FakeLangfuse) -> None:
    """Numbers, booleans as 1/0, texts; the trace's time, so that a repeated score is the same one."""
    rows = [
        a_result(value=2, rationale="why"),
        a_result(scorer_name="polite", value=False),
        a_result(scorer_name="tone", value="kind"),
        a_result(scorer_name="parts", value=[1, 2]),
        a_result(scorer_name="long", value="x" * 501),
        an_error(scorer_name="slow"),
    ]
    job_with(settings, rows)
    langfuse.late = 1
    with serving(langfuse) as server:
        done = deliver(settings, server, "langfuse")
    assert (done.accepted, done.not_sent, done.read_back) == (4, 2, 4)
    held = {one["name"]: (one["value"], one["dataType"]) for one in langfuse.there.values()}
    assert held == {
        "length": (2, "NUMERIC"),
        "polite": (0, "BOOLEAN"),
        "tone": ("kind", "CATEGORICAL"),
        "parts": ("[1,2]", "TEXT"),
    }
    assert {one["timestamp"] for one in langfuse.there.values()} == {"2024-06-15T12:00:00Z"}
    assert [p for p in server.paths() if p.startswith("POST")] == ["POST /api/public/scores"]
    assert server.asked[0].headers["authorization"] == "Basic " + base64.b64encode(b"pk-lf-1:sk-lf-2").decode()


@pytest.mark.parametrize("takes_lists", [True, False])
def test_langfuse_tells_a_bad_score_by_itself(settings: Settings, langfuse: FakeLangfuse, takes_lists: bool) -> None:
    """A list only says how many; servers before lists take one at a time."""
    langfuse.takes_lists = takes_lists
    job_with(settings, [a_result(), a_result(scorer_name="bad"), a_result("tr-2")])
    with serving(langfuse) as server:
        done = deliver(settings, server, "langfuse")
    assert (done.accepted, done.rejected, done.read_back) == (2, 1, 2)
    assert done.reasons == {"HTTP 400: value is not allowed": 1}


def test_langfuse_drops_what_it_accepted(settings: Settings, langfuse: FakeLangfuse) -> None:
    """Only the read-back tells; it waits as long as the settings say."""
    job_with(settings, [a_result(), a_result("tr-2")])

    def answer(asked: Asked) -> Reply:
        said = langfuse(asked)
        for key in [key for key, one in langfuse.there.items() if one["traceId"] == "tr-2"]:
            del langfuse.there[key]
        return said

    with serving(answer) as server:
        sink = {"base_url": server.url, "settle_s": 0}
        own = Settings(tables={"root": settings.root}, deliver={"sinks": {"langfuse": sink}})
        done = deliver_backfill(JOB, to="langfuse", settings=own)
    assert (done.accepted, done.read_back, done.missing) == (2, 1, 1)


# --- OpenTelemetry


def test_log_records(settings: Settings) -> None:
    """`gen_ai.evaluation.result`, on the trace and span that were judged; nothing can be read back."""
    span = "00f067aa0ba902b7"
    rows = [
        a_result(TRACES[1], value=True, rationale="why", span_id=span),
        an_error(TRACES[1], scorer_name="slow"),
        a_result("my-trace"),
    ]
    job_with(settings, rows)
    with serving(lambda _: (200, {})) as server:
        done = deliver(settings, server, "otel")
    assert (done.accepted, done.not_sent, done.read_back, done.is_complete) == (2, 1, None, True)
    (scope,) = server.asked[-1].body["resourceLogs"][0]["scopeLogs"]
    first, second = scope["logRecords"]
    assert (first["eventName"], first["traceId"], first["spanId"]) == ("gen_ai.evaluation.result", TRACES[1][3:], span)
    told = {a["key"]: next(iter(a["value"].values())) for a in first["attributes"]}
    assert told["gen_ai.evaluation.name"] == "length"
    assert (told["gen_ai.evaluation.score.value"], told["gen_ai.evaluation.score.label"]) == (1.0, "true")
    assert told["gen_ai.evaluation.explanation"] == "why"
    assert told["backfill_spark.assessment_id"] == rows[0]["assessment_id"]
    assert {"key": "error.type", "value": {"stringValue": "timeout"}} in second["attributes"]
    assert first["timeUnixNano"] == "1718452800000000000"


def test_a_collector_that_takes_fewer(settings: Settings) -> None:
    """It says how many, and OTLP forbids to send them all again."""
    job_with(settings, [a_result(trace) for trace in TRACES])

    def answer(asked: Asked) -> Reply:
        count = 2 if asked.body["resourceLogs"] else 0
        return 200, {"partialSuccess": {"rejectedLogRecords": str(count)}} if count else {}

    with serving(answer) as server:
        done = deliver(settings, server, "otel")
    assert (done.accepted, done.rejected) == (4, 2)


def test_a_bad_record_is_found_by_halves(settings: Settings) -> None:
    """A collector that refuses a request as a whole costs the others nothing."""
    job_with(settings, [a_result(trace) for trace in TRACES])

    def answer(asked: Asked) -> Reply:
        is_bad = TRACES[4][3:] in json.dumps(asked.body)
        return (400, {"message": "bad record"}) if is_bad else (200, {})

    with serving(answer) as server:
        done = deliver(settings, server, "otel")
    assert (done.accepted, done.rejected, done.reasons) == (5, 1, {"HTTP 400: bad record": 1})


# --- many


def test_pieces_are_pinned_and_whole(settings: Settings, mlflow: FakeMlflow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that come while a delivery is under way are the next one's."""
    monkeypatch.setattr("backfill_spark.delivery.sinks.mlflow.Mlflow.size", 4)
    job_with(settings, [a_result(trace, scorer_name=f"s{n}") for trace in TRACES[:5] for n in range(2)])
    grown = iter([True])

    def answer(asked: Asked) -> Reply:
        if asked.path.endswith("/assessments") and next(grown, False):
            add_results(settings, [a_result(TRACES[5])])
        return mlflow(asked)

    with serving(answer) as server:
        assert (deliver(settings, server).results, len(mlflow.there)) == (10, 10)
        later = deliver(settings, server)
    assert (later.results, later.delivered_before, later.accepted) == (11, 10, 1)
