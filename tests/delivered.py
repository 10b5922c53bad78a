"""A job with results, written without Spark, and a server that takes what is delivered."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from backfill_spark import Settings, schema
from backfill_spark.backfill.tables import Tables
from backfill_spark.jobs.events import End
from backfill_spark.models import Counts, Request, ScorerKind, ScorerSpec, TimeWindow, compact_json
from tests.factories import NOON

JOB = "bf-20240615-120000-000000-abcdef01"


def a_result(trace_id: str = "tr-1", **values: Any) -> dict[str, Any]:
    """Return a row of `assessments`: a number of the scorer `length`, unless it is overridden."""
    value = values.pop("value", 0.5)
    row: dict[str, Any] = {
        "experiment_id": "0",
        "trace_id": trace_id,
        "trace_time": NOON,
        "trace_date": NOON.date(),
        "target": "trace",
        "scorer_name": "length",
        "scorer_version": 1,
        "scorer_digest": "d1",
        "ordinal": 0,
        "outcome": "scored",
        "source_type": "CODE",
        "value": None if value is None else compact_json(value),
        "value_double": float(value) if isinstance(value, (bool, int, float)) else None,
        "value_string": value if isinstance(value, str) else None,
        "job_id": JOB,
        "created_at": datetime(2024, 7, 1, 8, 30, tzinfo=UTC),
    } | values
    row.setdefault("assessment_name", row["scorer_name"])
    row.setdefault("source_id", row["scorer_name"])
    key = compact_json([row[name] for name in schema.ROW_KEY])
    return {"assessment_id": f"a-{hashlib.sha256(key.encode()).hexdigest()[:32]}"} | row


def an_error(trace_id: str = "tr-1", **values: Any) -> dict[str, Any]:
    """Return a row of a scorer that failed."""
    return a_result(
        trace_id, value=None, outcome="error", error_code="timeout", error_message="took more than 300 s", **values
    )


def job_with(settings: Settings, rows: list[dict[str, Any]], job_id: str = JOB) -> str:
    """Record a job that has ended, and the results that it has merged."""
    tables = Tables(None, settings)
    spec = ScorerSpec("length", 1, "d1", ScorerKind.FUNCTION, {}, None, ("outputs",), 1.0)
    request = Request("0", False, (spec,), TimeWindow(), "/traces", "3", "id", None)
    counts = {"length": Counts(in_window=len(rows), due=len(rows), scored=len(rows)).to_json()}
    created = {"request": request.to_json(), "counts": counts, "created_at": 1.7e9, "versions": {}}
    claim = tables.jobs.create_claimed(job_id, created)
    record = tables.jobs.end(job_id, claim.epoch, End.SUCCEEDED, {"counts": counts, "calls": 0}, claimed=claim.record)
    tables.jobs.show(record)
    add_results(settings, rows)
    return job_id


def add_results(settings: Settings, rows: list[dict[str, Any]]) -> None:
    """Put rows into `assessments`."""
    table = Tables(None, settings).small(schema.ASSESSMENTS).ensure()
    if rows:
        table.append(rows)


@dataclass
class Asked:
    """One request that a server got."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: Any
    headers: dict[str, str]


Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]] | None
"""Status, body (JSON, or a text as it is) and headers; None breaks the connection off."""


@dataclass
class SinkServer:
    """A server on 127.0.0.1 whose answers are a function's."""

    answer: Callable[[Asked], Reply]
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def paths(self) -> list[str]:
        """The requests in their order, as `METHOD /path`."""
        return [f"{one.method} {one.path}" for one in self.asked]


@contextmanager
def serving(answer: Callable[[Asked], Reply]) -> Iterator[SinkServer]:
    """Serve inside the `with`."""
    made = SinkServer(answer)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            text = self.rfile.read(length)
            parts = urlsplit(self.path)
            asked = Asked(
                self.command,
                parts.path,
                parse_qs(parts.query),
                json.loads(text) if text else None,
                {k.lower(): v for k, v in self.headers.items()},
            )
            with lock:  # one after the other, so that a test may count
                made.asked.append(asked)
                reply = made.answer(asked)
            if reply is None:
                self.close_connection = True
                return
            body = (reply[1] if isinstance(reply[1], str) else json.dumps(reply[1])).encode()
            self.send_response(reply[0])
            for name, value in (reply[2] if len(reply) == 3 else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = handle_any  # noqa: N815 - http.server calls them

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class FakeMlflow:
    """The part of MLflow 3.17's REST interface that a delivery uses, as it was seen to answer."""

    def __init__(self, *trace_ids: str) -> None:
        self.traces = {
            t: {"trace_id": t, "tags": {"kept": "yes"}, "request_time": "2024-06-15T12:00:00Z"} for t in trace_ids
        }
        self.there: dict[str, dict[str, Any]] = {}

    def __call__(self, asked: Asked) -> Reply:
        parts = asked.path.split("/")
        if asked.path.endswith("/experiments/search"):
            return 200, {"experiments": []}
        if asked.path.endswith("/batchGetInfos"):
            return 200, {"trace_infos": [self.info(t) for t in asked.body["trace_ids"] if t in self.traces]}
        if asked.path.endswith("/assessments"):
            return self.create(parts[-2], asked.body["assessment"])
        if asked.method == "POST" and asked.path.endswith("/traces"):
            info = asked.body["trace"]["trace_info"]
            for one in info["assessments"]:
                self.there[one["assessment_id"]] = one | {"trace_id": info["trace_id"]}
            return 200, {"trace": {"trace_info": self.info(info["trace_id"])}}
        return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": "Not Found"}

    def create(self, trace_id: str, assessment: dict[str, Any]) -> Reply:
        if trace_id not in self.traces:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"Trace with ID '{trace_id}' not found."}
        if assessment["assessment_id"] in self.there:
            return 500, {"error_code": "INTERNAL_ERROR", "message": "due to a constraint violation."}
        self.there[assessment["assessment_id"]] = assessment | {"trace_id": trace_id}
        return 200, {"assessment": assessment}

    def info(self, trace_id: str) -> dict[str, Any]:
        mine = [one for one in self.there.values() if one["trace_id"] == trace_id]
        return self.traces[trace_id] | ({"assessments": mine} if mine else {})
