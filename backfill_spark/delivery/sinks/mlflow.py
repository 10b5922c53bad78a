"""MLflow servers, over REST: each result is an assessment of its trace.

Facts, of MLflow 3.17 (run): an assessment keeps the id that the client gives. `POST …/assessments` with an id that is
there answers HTTP 500; `POST …/traces` with the trace's info and some assessments replaces those with the same ids,
adds the others and deletes none, and writes the info as it was given. `POST …/traces/batchGetInfos` gives infos with
their assessments.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from backfill_spark.delivery.result import moment_text
from backfill_spark.delivery.server import Server, in_lists

if TYPE_CHECKING:
    from backfill_spark.delivery.place import Place
    from backfill_spark.delivery.result import Result

API = "/api/3.0/mlflow/traces"
AT_ONCE = 5
"""Results of a trace from which one request for all of them takes less time (measured: 156 a second at 10)."""
INFOS = 100
"""Traces that are looked at in one request."""
NO_TRACE = "the server has no such trace (HTTP 404)"


class Mlflow:
    """An MLflow server. The id of an assessment is ours, so that a result that is sent again is the same one."""

    size = 500
    shows = True

    def __init__(self, place: Place) -> None:
        self._server = Server(place)
        self._gives_infos = True

    def unfit(self, result: Result) -> str | None:
        del result
        return None

    async def open(self) -> None:
        await self._server.open()
        await self._server.check("POST", "/api/2.0/mlflow/experiments/search", {"max_results": 1})

    async def close(self) -> None:
        await self._server.close()

    async def send(self, results: Sequence[Result]) -> dict[str, str]:
        by_trace: dict[str, list[Result]] = {}
        for result in results:
            by_trace.setdefault(result.row["trace_id"], []).append(result)
        return await self._server.each(self._send_trace(trace, mine) for trace, mine in by_trace.items())

    async def _send_trace(self, trace_id: str, results: list[Result]) -> dict[str, str]:
        if len(results) >= AT_ONCE:
            left, rejected = await self._send_together(trace_id, results)
        else:
            left, rejected = results, {}
        repeated = []
        for result in left:
            answer = await self._server.call(
                "POST", f"{API}/{quote(trace_id, safe='')}/assessments", {"assessment": assessment_of(result)}
            )
            if answer.status == 404:
                return rejected | dict.fromkeys((r.id for r in left), NO_TRACE)
            if answer.status == 500:
                repeated.append(result)
            elif not answer.is_ok:
                rejected[result.id] = answer.said
        if repeated:  # ids that are there already, or the server failed: what it has tells
            failed, more = await self._send_together(trace_id, repeated)
            rejected |= more | dict.fromkeys((r.id for r in failed), "the server failed twice (HTTP 500)")
        return rejected

    async def _send_together(self, trace_id: str, results: list[Result]) -> tuple[list[Result], dict[str, str]]:
        """Put results of one trace in one request; return those that it could not be done for, and what is rejected."""
        info = (await self._infos([trace_id])).get(trace_id)
        if info is None:
            return [], dict.fromkeys((r.id for r in results), NO_TRACE)
        there = _by_id(info)
        changed = [r for r in results if not _holds(there.get(r.id), r)]
        if not changed:
            return [], {}
        body = {"trace": {"trace_info": {**info, "assessments": [assessment_of(r) for r in changed]}}}
        answer = await self._server.call("POST", API, body)
        return ([], {}) if answer.is_ok else (changed, {})

    async def found(self, results: Sequence[Result]) -> Collection[str]:
        infos: dict[str, dict[str, Any]] = {}
        for trace_ids in in_lists({r.row["trace_id"] for r in results}, INFOS):
            infos |= await self._infos(trace_ids)
        there = {trace_id: _by_id(info) for trace_id, info in infos.items()}
        return {r.id for r in results if _holds(there.get(r.row["trace_id"], {}).get(r.id), r)}

    async def _infos(self, trace_ids: list[str]) -> dict[str, dict[str, Any]]:
        """Return the infos of the traces that are there, by id; older servers give them one at a time."""
        if self._gives_infos:
            answer = await self._server.call("POST", f"{API}/batchGetInfos", {"trace_ids": trace_ids})
            if answer.is_ok:
                return {info["trace_id"]: info for info in answer.field("trace_infos") or ()}
            self._gives_infos = answer.status not in (404, 405)
        infos = {}
        for trace_id in trace_ids:
            answer = await self._server.call("GET", f"{API}/{quote(trace_id, safe='')}")
            if answer.is_ok and "trace_info" in (answer.field("trace") or {}):
                infos[trace_id] = answer.data["trace"]["trace_info"]
        return infos


def assessment_of(result: Result) -> dict[str, Any]:
    """Return a result as MLflow's JSON of an assessment."""
    row = result.row
    feedback: dict[str, Any] = {"value": row["value"]}
    if result.is_error:
        feedback["error"] = {"error_code": row["error_code"], "error_message": row["error_message"] or ""}
    made = {
        "assessment_id": result.id,
        "assessment_name": row["assessment_name"],
        "trace_id": row["trace_id"],
        "span_id": row["span_id"],
        "source": {"source_type": row["source_type"], "source_id": row["source_id"] or ""},
        "create_time": moment_text(row["created_at"]),
        "last_update_time": moment_text(row["created_at"]),
        "feedback": feedback,
        "rationale": row["rationale"],
        "metadata": metadata_of(result),
    }
    return {name: value for name, value in made.items() if value is not None}


def metadata_of(result: Result) -> dict[str, str]:
    """Return the metadata of an assessment: the feedback's own, MLflow's keys of a scorer, and ours."""
    row = result.row
    known = {
        "mlflow.assessment.scorerName": row["scorer_name"],
        "mlflow.assessment.scorerVersion": row["scorer_version"],
        "mlflow.assessment.scorerDigest": row["scorer_digest"],
        "mlflow.assessment.judgeCost": row["cost_usd"],
        "mlflow.assessment.judgeInputTokens": row["input_tokens"],
        "mlflow.assessment.judgeOutputTokens": row["output_tokens"],
    }
    ours: dict[str, str] = {k: v for k, v in result.facts.items() if not k.startswith("backfill_spark.scorer")}
    own: dict[str, str] = row["metadata"]
    return own | {k: str(v) for k, v in known.items() if v is not None} | ours


def _by_id(info: dict[str, Any]) -> dict[str, Any]:
    return {one["assessment_id"]: one for one in info.get("assessments", ())}


def _holds(there: dict[str, Any] | None, result: Result) -> bool:
    """True when an assessment of the server has this result's value, and was sent with all that it holds."""
    if there is None or there.get("metadata", {}).get("backfill_spark.fingerprint") != result.fingerprint:
        return False
    value, wanted = there.get("feedback", {}).get("value"), result.row["value"]
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)
