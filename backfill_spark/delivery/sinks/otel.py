"""OpenTelemetry: each result is a log record `gen_ai.evaluation.result`, sent as OTLP/HTTP in JSON.

Facts taken from the semantic conventions for generative AI (in development) and from OTLP 1.x: the record carries the
trace and span ids of what was judged; `gen_ai.evaluation.name` is required. A collector adds what it is sent, so a
result that is sent again is there twice: `backfill_spark.assessment_id` tells which ones are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from backfill_spark.delivery.result import hex_id, label_of
from backfill_spark.delivery.server import Server
from backfill_spark.errors import BackfillRefusedError

if TYPE_CHECKING:
    from datetime import datetime

    from backfill_spark.delivery.place import Place
    from backfill_spark.delivery.result import Result

PATH = "/v1/logs"
EVENT = "gen_ai.evaluation.result"


class Otel:
    """A collector, or what speaks like one. It cannot be asked what it has."""

    size = 500
    shows = False

    def __init__(self, place: Place) -> None:
        self._server = Server(place)

    def unfit(self, result: Result) -> str | None:
        if hex_id(result.row["trace_id"], 32) is None:
            return "OpenTelemetry's trace ids have 32 hex digits"
        return None

    async def open(self) -> None:
        await self._server.open()
        await self._server.check("POST", PATH, {"resourceLogs": []})

    async def close(self) -> None:
        await self._server.close()

    async def send(self, results: Sequence[Result]) -> dict[str, str]:
        answer = await self._server.call("POST", PATH, _logs(results))
        if answer.is_ok:
            count = int((answer.field("partialSuccess") or {}).get("rejectedLogRecords") or 0)
            # It says how many, not which, and OTLP forbids to send them all again: so many stand for them.
            return dict.fromkeys(
                (r.id for r in results[len(results) - count :]), "the collector took fewer than it got"
            )
        if len(results) == 1:
            return {results[0].id: answer.said}
        half = len(results) // 2
        return await self.send(results[:half]) | await self.send(results[half:])

    async def found(self, results: Sequence[Result]) -> Collection[str]:
        raise BackfillRefusedError(f"A collector cannot be asked for {len(results)} results.")


def _logs(results: Sequence[Result]) -> dict[str, Any]:
    return {
        "resourceLogs": [
            {
                "resource": {"attributes": [_attribute("service.name", "backfill_spark")]},
                "scopeLogs": [{"scope": {"name": "backfill_spark"}, "logRecords": [_record(r) for r in results]}],
            }
        ]
    }


def _record(result: Result) -> dict[str, Any]:
    row = result.row
    known = {
        "gen_ai.evaluation.name": row["assessment_name"],
        "gen_ai.evaluation.score.value": row["value_double"],
        "gen_ai.evaluation.score.label": label_of(row["value"]),
        "gen_ai.evaluation.explanation": row["rationale"],
        "gen_ai.conversation.id": row["session_id"],
        "gen_ai.response.model": row["model"],
        "error.type": row["error_code"],
        "error.message": row["error_message"],
    }
    attributes = row["metadata"] | {k: v for k, v in known.items() if v is not None} | result.facts
    record = {
        "timeUnixNano": _nanoseconds(row["trace_time"] or row["created_at"]),
        "observedTimeUnixNano": _nanoseconds(row["created_at"]),
        "severityNumber": 17 if result.is_error else 9,
        "eventName": EVENT,
        "traceId": hex_id(row["trace_id"], 32),
        "spanId": hex_id(row["span_id"], 16),
        "attributes": [_attribute(key, value) for key, value in attributes.items()],
    }
    return {name: value for name, value in record.items() if value is not None}


def _attribute(key: str, value: Any) -> dict[str, Any]:
    kind = "doubleValue" if isinstance(value, float) else "stringValue"
    return {"key": key, "value": {kind: value}}


def _nanoseconds(moment: datetime) -> str:
    """Return an instant as OTLP's JSON has it: a text of digits."""
    return str(int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1_000)
