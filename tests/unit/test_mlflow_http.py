"""Answers of a server that are no traces: named, or waited for; and rows that need no server to be made."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from backfill_spark.errors import TraceSourceError
from backfill_spark.traces.mlflow_server.address import open_server
from backfill_spark.traces.mlflow_server.archives import Archives
from backfill_spark.traces.mlflow_server.assessments import assessment
from backfill_spark.traces.mlflow_server.http import Http, RefusedError
from backfill_spark.traces.mlflow_server.otlp import take_documents
from backfill_spark.traces.mlflow_server.rows import reason_left, row_of
from backfill_spark.traces.mlflow_server.server import Experiment, Left, Recorded

Answer = tuple[int, dict[str, str], bytes]
EXPERIMENT = Experiment("1", "parcels", 5)


@contextmanager
def answering(answer: Callable[[str], Answer]) -> Iterator[tuple[str, list[str]]]:
    """Serve what `answer` gives for a path; yield the address, and the header `Authorization` of each request."""
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers.get("Authorization") or "")
            status, headers, body = answer(self.path)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", keys
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, {}, b""), "answers 401.*MLFLOW_TRACKING_TOKEN"),
        ((403, {}, b"{}"), "answers 403.*MLFLOW_TRACKING_TOKEN"),
        ((404, {}, b"<h1>no</h1>"), "404 to /x: there is no MLflow 3 server"),
        ((404, {}, b'{"message": "No Experiment with id=9"}'), "404 to /x: No Experiment with id=9"),
        ((200, {}, b"<html>Log in</html>"), "no JSON.*log in"),
        ((429, {"Retry-After": "4000"}, b""), "asks to wait 4,000 s"),
    ],
)
def test_a_refusal_says_what_to_do(answer: Answer, said: str) -> None:
    """The address, what it answered, and the next step."""
    with answering(lambda _: answer) as (address, _), pytest.raises((TraceSourceError, RefusedError), match=said):
        Http(address).get("/x?id=9")


def test_a_server_that_is_not_there_is_named() -> None:
    """At once, and without the password of its address; one that has answered is waited for."""
    waits: list[float] = []
    with pytest.raises(TraceSourceError, match=r"^http://127.0.0.1:9 does not answer"):
        Http("http://ann:secret@127.0.0.1:9", sleep=waits.append).get("/x")
    assert waits == []
    with answering(lambda _: (200, {}, b"{}")) as (address, _):
        http = Http(address, sleep=waits.append)
        http.get("/x")
    with pytest.raises(TraceSourceError, match="does not answer"):
        http.get("/x")
    assert waits == [1, 2, 4, 8, 16, 32, 60]


def test_a_busy_server_is_waited_for_as_long_as_it_says() -> None:
    """Seconds or a date of Retry-After; without it, longer each time."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30))
    answers = [(429, {"Retry-After": "7"}), (503, {"Retry-After": date}), (502, {}), (429, {"Retry-After": "soon"})]
    waits: list[float] = []

    def answer(_: str) -> Answer:
        return (*answers.pop(0), b"") if answers else (200, {}, b'{"a": 1}')

    with answering(answer) as (address, _):
        assert Http(address, sleep=waits.append).get("/x") == {"a": 1}
    assert (waits[0], 20 < waits[1] <= 30, waits[2:]) == (7, True, [4, 8])


def test_keys_are_those_of_mlflows_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name and password of the address or the environment, else a token."""
    with answering(lambda _: (200, {}, b"{}")) as (address, keys):
        Http(address).get("/x")
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
        Http(address).get("/x")
        Http(address.replace("//", "//ann:secret@")).get("/x")
    assert keys == ["", "Bearer abc", "Basic YW5uOnNlY3JldA=="]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("mlflow+mysql://h/d", "through the server's address"),
        ("postgresql://h/d", r"Write mlflow\+ before it"),
        ("databricks", "Known are http://"),
        ("http://", "names no host"),
        ("mlflow+sqlite:///nowhere.db", "no file 'nowhere.db'"),
        ("mlflow+postgresql://ann:secret@127.0.0.1:9/d", "the PostgreSQL database 127.0.0.1:9/d cannot be opened"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, said: str) -> None:
    """With what is known; a password is never shown."""
    with pytest.raises(TraceSourceError, match=said) as caught:
        open_server(address)
    assert "secret" not in str(caught.value)


def test_a_sqlite_file_of_another_program_is_refused(tmp_path: Path) -> None:
    """As one that is no database at all."""
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("create table t (a)")
    connection.close()
    (tmp_path / "text.db").write_text("no database", encoding="utf-8")
    for name in ("other.db", "text.db"):
        with pytest.raises(TraceSourceError, match="no MLflow database"):
            open_server(f"mlflow+sqlite:///{tmp_path / name}")


def recorded(**changes: Any) -> Recorded:
    trace = Recorded("tr-1", 1_000, 5, "OK", "preview", "preview", None)
    for name, value in changes.items():
        setattr(trace, name, value)
    return trace


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("gone", Left.ARCHIVE_GONE),
        ("damaged", Left.UNREADABLE),
        ("mlflow-artifacts:/1/x", Left.ARCHIVE_OUT_OF_REACH),
        ("", Left.ARCHIVE_GONE),
        ("nfs://host/x", Left.ARCHIVE_OUT_OF_REACH),
    ],
)
def test_archived_spans_that_cannot_be_read_are_a_reason(tmp_path: Path, place: str, reason: Left) -> None:
    """Never an error, and never a trace without spans."""
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/traces.pb").write_bytes(b"\xff\xff")
    where = place if ":" in place or not place else str(tmp_path / place)
    trace = recorded(
        tags={"mlflow.trace.spansLocation": "ARCHIVE_REPO", "mlflow.trace.archiveLocation": where},
    )
    Archives().fill(trace)
    assert (trace.left, trace.spans) == (reason, [])


def test_artifacts_of_a_server_are_found_where_they_are_said_to_be(tmp_path: Path) -> None:
    """--artifacts stands for mlflow-artifacts:/."""
    folder = tmp_path / "1/traces/tr-1/artifacts"
    folder.mkdir(parents=True)
    (folder / "traces.json").write_text('{"spans": [{"span_id": "a", "attributes": {}}]}', encoding="utf-8")
    tags = {
        "mlflow.trace.spansLocation": "ARTIFACT_REPO",
        "mlflow.artifactLocation": "mlflow-artifacts:/1/traces/tr-1/artifacts",
    }
    trace = recorded(tags=tags)
    Archives(str(tmp_path)).fill(trace)
    assert (trace.left, [json.loads(span)["span_id"] for span in trace.spans]) == (None, ["a"])


@pytest.mark.parametrize(("code", "state"), [("STATUS_CODE_OK", "OK"), ("STATUS_CODE_ERROR", "ERROR")])
def test_a_trace_whose_root_is_elsewhere_ends_as_its_first_span(code: str, state: str) -> None:
    """MLflow leaves it IN_PROGRESS for ever; the earliest span whose parent is not there stands for the root."""
    later = {"span_id": "b", "parent_span_id": "x", "start_time_unix_nano": 2, "attributes": {"mlflow.spanInputs": "2"}}
    child = {"span_id": "c", "parent_span_id": "a", "start_time_unix_nano": 0, "attributes": {}}
    first = later | {"span_id": "a", "start_time_unix_nano": 1, "status": {"code": code}}
    first["attributes"] = {"mlflow.spanInputs": '"q"'}
    trace = recorded(state="IN_PROGRESS")
    take_documents(trace, [later, child, first])
    row = row_of(trace, EXPERIMENT)
    assert row is not None
    assert (row["state"], row["request"], row["response"]) == (state, '"q"', None)
    assert [span["span_id"] for span in json.loads(row["spans"])] == ["a", "c", "b"]


def test_half_a_surrogate_pair_is_written_as_a_mark() -> None:
    """A file holds UTF-8; one odd text must not end an import."""
    told = {"metadata": {"k": "\ud800"}, "valid": True}
    trace = recorded(
        tags={"t": "\udfff"}, assessments=[assessment("feedback", "\ud800", None, told, created_ms=1, updated_ms=1)]
    )
    take_documents(trace, [{"span_id": "a", "name": "\ud800", "attributes": {"mlflow.spanInputs": '"\ud800"'}}])
    row = row_of(trace, EXPERIMENT)
    assert row is not None
    assert json.dumps(row, default=str, ensure_ascii=False).encode()
    assert (row["request"], row["tags"]) == ('"\ufffd"', [("t", "\ufffd")])


def test_what_a_client_counted_may_be_anything() -> None:
    """Statistics that are no JSON say nothing; fewer spans than counted make a trace incomplete."""
    spans = ['{"attributes": {}}']
    counted = ("{", "5", '{"num_spans": "x"}', '{"num_spans": 1}', '{"num_spans": 2}')
    traces = [recorded(spans=spans, metadata={"mlflow.trace.sizeStats": text}) for text in counted]
    assert [None] * 4 + [Left.INCOMPLETE] == [reason_left(trace) for trace in traces]


def test_a_root_that_is_no_object_makes_no_row() -> None:
    """It is left out, and counted as unreadable."""
    assert row_of(recorded(spans=["[1]"]), EXPERIMENT) is None
    assert row_of(recorded(spans=["{"]), EXPERIMENT) is None
