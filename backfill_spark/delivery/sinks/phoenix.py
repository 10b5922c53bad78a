"""Phoenix: each result is an annotation of its trace, or of its span.

Facts, of Phoenix 20.26 (run): annotations with the same target, name and identifier are one, which the last call
writes. A call in which one target is unknown writes nothing, answers HTTP 404 and names the targets. There are no
booleans and no errors.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from backfill_spark.delivery.result import Versions, hex_id, label_of
from backfill_spark.delivery.server import Server, in_lists

if TYPE_CHECKING:
    from backfill_spark.delivery.place import Place
    from backfill_spark.delivery.result import Result

AT_ONCE = 100
"""Annotations of one call: a server writes 80 to 120 a second (measured), and others wait meanwhile."""
_KINDS = {"LLM_JUDGE": "LLM", "HUMAN": "HUMAN"}
_PAGE = 10_000


class Phoenix:
    """A Phoenix server. The identifier of an annotation is `<scorer>@<version>`, or `<scorer>` where one replaces."""

    size = 500
    shows = True

    def __init__(self, place: Place, versions: Versions) -> None:
        self._server = Server(place)
        self._versions = versions
        self._project = quote(place.settings.project, safe="")

    def unfit(self, result: Result) -> str | None:
        if result.is_error:
            return "Phoenix has no form for an error"
        return "Phoenix keeps the name note for itself" if result.row["assessment_name"] == "note" else None

    async def open(self) -> None:
        await self._server.open()
        # Named here, since without it nothing could be read back.
        await self._server.check("GET", f"/v1/projects/{self._project}")

    async def close(self) -> None:
        await self._server.close()

    async def send(self, results: Sequence[Result]) -> dict[str, str]:
        rejected: dict[str, str] = {}
        for kind in ("trace", "span"):
            mine = [r for r in results if _kind_of(r) == kind]
            for some in in_lists(mine, AT_ONCE):
                rejected |= await self._send(kind, some)
        return rejected

    async def _send(self, kind: str, results: list[Result]) -> dict[str, str]:
        rejected: dict[str, str] = {}
        while results:
            body = {"data": [self._annotation(kind, r) for r in results]}
            answer = await self._server.call("POST", f"/v1/{kind}_annotations", body, [("sync", "true")])
            if answer.is_ok:
                return rejected
            unknown = {r.id for r in results if _target(r) in answer.body} if answer.status == 404 else set()
            if unknown:
                rejected |= dict.fromkeys(unknown, f"the server has no such {kind} (HTTP 404)")
                results = [r for r in results if r.id not in unknown]
            elif len(results) == 1:
                return rejected | {results[0].id: answer.said}
            else:
                half = len(results) // 2
                return rejected | await self._send(kind, results[:half]) | await self._send(kind, results[half:])
        return rejected

    def _annotation(self, kind: str, result: Result) -> dict[str, Any]:
        row = result.row
        found = {"label": label_of(row["value"]), "score": row["value_double"], "explanation": row["rationale"]}
        return {
            f"{kind}_id": _target(result),
            "name": row["assessment_name"],
            "annotator_kind": _KINDS.get(row["source_type"], "CODE"),
            "identifier": self._identifier(result),
            "result": {name: value for name, value in found.items() if value is not None},
            "metadata": row["metadata"] | result.facts,
        }

    def _identifier(self, result: Result) -> str:
        row = result.row
        version = f"@{row['scorer_version']}" if self._versions is Versions.KEEP else ""
        return f"{row['scorer_name']}{version}" + (f"#{row['ordinal']}" if row["ordinal"] else "")

    async def found(self, results: Sequence[Result]) -> Collection[str]:
        there: set[tuple[Any, ...]] = set()
        for kind in ("trace", "span"):
            targets = {_target(r) for r in results if _kind_of(r) == kind}
            for some in in_lists(targets, AT_ONCE):
                there |= await self._annotations(kind, some)
        return {
            r.id
            for r in results
            if (_target(r), r.row["assessment_name"], self._identifier(r), r.fingerprint, r.row["value_double"])
            in there
        }

    async def _annotations(self, kind: str, targets: list[str]) -> set[tuple[Any, ...]]:
        found: set[tuple[Any, ...]] = set()
        params = [(f"{kind}_ids", target) for target in targets] + [("limit", str(_PAGE))]
        cursor: str | None = None
        while True:
            more = [] if cursor is None else [("cursor", cursor)]
            path = f"/v1/projects/{self._project}/{kind}_annotations"
            answer = await self._server.call("GET", path, params=[*params, *more])
            for one in answer.field("data") or () if answer.is_ok else ():
                held = (one.get("metadata") or {}).get("backfill_spark.fingerprint")
                score = (one.get("result") or {}).get("score")
                found.add((one[f"{kind}_id"], one["name"], one["identifier"], held, score))
            cursor = answer.field("next_cursor") if answer.is_ok else None
            if not cursor:
                return found


def _kind_of(result: Result) -> str:
    return "span" if hex_id(result.row["span_id"], 16) else "trace"


def _target(result: Result) -> str:
    row = result.row
    return hex_id(row["span_id"], 16) or hex_id(row["trace_id"], 32) or str(row["trace_id"])
