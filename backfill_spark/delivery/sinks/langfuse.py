"""Langfuse: each result is a score, sent in lists.

Facts, from Langfuse's documentation and its own client 5.0 (not run: there is no server to test with): a score
replaces another one of the same id, name and day of its `timestamp`, so the trace's time is sent. A list is answered
with 202, or with 207 and how many were rejected, not which. What was accepted shows after some seconds, and a value
that is not allowed may be dropped then: only a read-back tells. Servers before 4.59 take one score at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from backfill_spark.delivery.result import label_of, moment_text
from backfill_spark.delivery.server import Server, in_lists

if TYPE_CHECKING:
    from backfill_spark.delivery.place import Place
    from backfill_spark.delivery.result import Result

SCORES = "/api/public/scores"
FOUND = "/api/public/v3/scores"
AT_ONCE = 100
"""Scores of one list: what Langfuse's own client for JavaScript sends at most."""
LONGEST_TEXT = 500
ONE_S = 1.0
"""Between two looks at what shows late."""


class Langfuse:
    """A Langfuse project: its two keys name it."""

    size = 1_000
    shows = True

    def __init__(self, place: Place) -> None:
        self._server = Server(place)
        self._settle_s = place.settings.settle_s
        self._takes_lists = True

    def unfit(self, result: Result) -> str | None:
        if result.is_error:
            return "Langfuse has no form for an error"
        label = label_of(result.row["value"])
        if isinstance(result.row["value"], bool) or label is None:
            return None
        return None if 1 <= len(label) <= LONGEST_TEXT else f"Langfuse takes texts of 1 to {LONGEST_TEXT} characters"

    async def open(self) -> None:
        await self._server.open()
        await self._server.check("GET", FOUND, params=[("limit", "1")])

    async def close(self) -> None:
        await self._server.close()

    async def send(self, results: Sequence[Result]) -> dict[str, str]:
        return await self._server.each(self._send(some) for some in in_lists(results, AT_ONCE))

    async def _send(self, results: list[Result]) -> dict[str, str]:
        if self._takes_lists:
            answer = await self._server.call("POST", SCORES, [_score(r) for r in results])
            if answer.is_ok and not answer.field("rejected"):
                return {}
            # One of them is bad, or the server takes none: by themselves they tell, and one that is sent again is one.
            alone = await self._server.each(self._send_one(r) for r in results)
            self._takes_lists = answer.is_ok or bool(alone)
            return alone
        return await self._server.each(self._send_one(r) for r in results)

    async def _send_one(self, result: Result) -> dict[str, str]:
        answer = await self._server.call("POST", SCORES, _score(result))
        return {} if answer.is_ok else {result.id: answer.said}

    async def found(self, results: Sequence[Result]) -> Collection[str]:
        there: set[str] = set()
        until = time.monotonic() + self._settle_s
        while True:
            left = [r for r in results if r.id not in there]
            for some in in_lists(left, AT_ONCE):
                there |= await self._shown(some)
            if len(there) == len(results) or time.monotonic() >= until:
                return there
            await asyncio.sleep(min(ONE_S, self._settle_s))

    async def _shown(self, results: list[Result]) -> set[str]:
        ids = ",".join(r.id for r in results)
        params = [("id", ids), ("limit", str(AT_ONCE)), ("fields", "details")]
        answer = await self._server.call("GET", FOUND, params=params)
        data = answer.data if answer.is_ok and isinstance(answer.data, dict) else {}
        held = {
            one["id"]: (one.get("metadata") or {}).get("backfill_spark.fingerprint") for one in data.get("data", ())
        }
        return {r.id for r in results if held.get(r.id) == r.fingerprint}


def _score(result: Result) -> dict[str, Any]:
    row = result.row
    value, kind = row["value"], "NUMERIC"
    if isinstance(value, bool):
        value, kind = int(value), "BOOLEAN"
    elif (label := label_of(value)) is not None:
        value, kind = label, "CATEGORICAL" if isinstance(row["value"], str) else "TEXT"
    made = {
        "id": result.id,
        "traceId": row["trace_id"],
        "observationId": row["span_id"],
        "name": row["assessment_name"],
        "value": value,
        "dataType": kind,
        "comment": row["rationale"],
        "metadata": row["metadata"] | result.facts,
        "timestamp": moment_text(row["trace_time"] or row["created_at"]),
    }
    return {name: value for name, value in made.items() if value is not None}
