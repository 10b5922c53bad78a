"""A server read over REST: by windows of time, and spans by id.

Tokens of pages are offsets: they shift while traces arrive, and each page costs more than the one before. So a page's
last instant begins the next window; tokens are used only where more traces than a page began in one millisecond.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from backfill_spark.errors import TraceSourceError
from backfill_spark.traces.decode import instant
from backfill_spark.traces.mlflow_server.assessments import assessment_of_json
from backfill_spark.traces.mlflow_server.http import RefusedError
from backfill_spark.traces.mlflow_server.otlp import take_documents, take_otlp
from backfill_spark.traces.mlflow_server.server import Experiment, Left, Recorded, Window

if TYPE_CHECKING:
    from backfill_spark.traces.mlflow_server.http import Http

_API = "/api/3.0/mlflow"
_PAGE = 500
"""The server refuses more."""
_BATCH = 100
_DURATION = re.compile(r"(-?\d+)(?:\.(\d{1,9}))?s")


class RestServer:
    """An MLflow 3 server behind its address."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def experiments(self) -> list[Experiment]:
        found: list[Experiment] = []
        token = None
        while True:
            body = {"max_results": 1000} | ({"page_token": token} if token else {})
            answer = self._http.post("/api/2.0/mlflow/experiments/search", body)
            found += [
                Experiment(str(e["experiment_id"]), e["name"], int(e.get("creation_time") or 0))
                for e in answer.get("experiments", [])
            ]
            token = answer.get("next_page_token")
            if not token:
                return found

    def first(self, experiment: Experiment) -> int | None:
        infos = self._page(experiment, "timestamp_ms >= 0", 1)[0]
        return _at_ms(infos[0]) if infos else None

    def count(self, experiment: Experiment, start: int, end: int) -> int | None:  # noqa: ARG002 - no request counts
        return None

    def window(self, experiment: Experiment, start: int, end: int, about: int) -> Window:
        infos, token = self._page(experiment, _between(start, end), min(about, _PAGE))
        until = end
        if token:
            last = _at_ms(infos[-1])
            if last > start:
                until = last
                infos = [info for info in infos if _at_ms(info) < until]
            else:
                until = start + 1
                infos = self._all(experiment, start, until)
        return Window(self._filled(infos), until)

    def ids(self, experiment: Experiment, start: int, end: int) -> list[str]:
        return [info["trace_id"] for infos in self._windows(experiment, start, end) for info in infos]

    def traces(self, ids: Collection[str]) -> list[Recorded]:
        found: list[Mapping[str, Any]] = []
        for batch in _batches(list(ids), _BATCH):
            found += self._http.post(f"{_API}/traces/batchGetInfos", {"trace_ids": batch}).get("trace_infos", [])
        return self._filled(sorted(found, key=lambda info: (_at_ms(info), info["trace_id"])))

    def scorers(self, experiment: Experiment) -> list[dict[str, Any]]:
        answer = self._http.get(f"{_API}/scorers/list?experiment_id={quote(experiment.id)}")
        return [
            {"name": s["scorer_name"], "version": int(s["scorer_version"]), "serialized": s["serialized_scorer"]}
            for s in answer.get("scorers", [])
        ]

    def close(self) -> None:
        """Requests hold nothing."""

    def _windows(self, experiment: Experiment, start: int, end: int) -> Iterable[list[Mapping[str, Any]]]:
        while start < end:
            infos, token = self._page(experiment, _between(start, end), _PAGE)
            last = _at_ms(infos[-1]) if token else end
            if token and last == start:
                last, infos = start + 1, self._all(experiment, start, start + 1)
            yield [info for info in infos if _at_ms(info) < last]
            start = last

    def _all(self, experiment: Experiment, start: int, end: int) -> list[Mapping[str, Any]]:
        infos, token = self._page(experiment, _between(start, end), _PAGE)
        while token:
            more, token = self._page(experiment, _between(start, end), _PAGE, token)
            infos += more
        return infos

    def _page(
        self, experiment: Experiment, where: str, most: int, token: str | None = None
    ) -> tuple[list[Mapping[str, Any]], str | None]:
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment.id}}
        body: dict[str, Any] = {"locations": [place], "filter": where, "max_results": most}
        body["order_by"] = ["timestamp_ms ASC"]
        if token:
            body["page_token"] = token
        answer = self._http.post(f"{_API}/traces/search", body)
        return list(answer.get("traces", [])), answer.get("next_page_token")

    def _filled(self, infos: Collection[Mapping[str, Any]]) -> list[Recorded]:
        made = {info["trace_id"]: _recorded(info) for info in infos}
        in_store = []
        for trace in made.values():
            # Without the tag it is a trace of an older client, which has written a file.
            if trace.tags.get("mlflow.trace.spansLocation") in ("TRACKING_STORE", "ARCHIVE_REPO"):
                in_store.append(trace)
            else:
                self._take_file(trace)
        for batch in _batches(in_store, _BATCH):
            self._take_spans(batch)
        return list(made.values())

    def _take_spans(self, traces: list[Recorded]) -> None:
        asked = urlencode([("trace_ids", trace.trace_id) for trace in traces])
        try:
            answer = self._http.get(f"{_API}/traces/batchGet?{asked}")
        except RefusedError as error:
            if error.status != 500:
                raise
            # One damaged trace spoils the answer for all: halves find it.
            if len(traces) == 1:
                traces[0].left = Left.UNREADABLE
                return
            for half in (traces[: len(traces) // 2], traces[len(traces) // 2 :]):
                self._take_spans(half)
            return
        found = {one["trace_info"]["trace_id"]: one.get("spans", []) for one in answer.get("traces", [])}
        for trace in traces:
            spans = found.get(trace.trace_id)
            if spans:
                take_otlp(trace, spans)
            elif trace.tags.get("mlflow.trace.spansLocation") == "ARCHIVE_REPO":
                # The server answers with a trace of no spans.
                trace.left = Left.ARCHIVE_GONE

    def _take_file(self, trace: Recorded) -> None:
        try:
            document = self._http.get(f"/ajax-api/2.0/mlflow/get-trace-artifact?request_id={quote(trace.trace_id)}")
            take_documents(trace, document["spans"])
        except (RefusedError, TraceSourceError, KeyError, TypeError):
            trace.left = Left.ARCHIVE_GONE


def _recorded(info: Mapping[str, Any]) -> Recorded:
    return Recorded(
        info["trace_id"],
        _at_ms(info),
        _milliseconds(info.get("execution_duration")),
        info.get("state") or "STATE_UNSPECIFIED",
        info.get("request_preview"),
        info.get("response_preview"),
        info.get("client_request_id"),
        dict(info.get("tags") or {}),
        dict(info.get("trace_metadata") or {}),
        [assessment_of_json(one) for one in info.get("assessments") or []],
    )


def _between(start: int, end: int) -> str:
    return f"timestamp_ms >= {start} AND timestamp_ms < {end}"


def _at_ms(info: Mapping[str, Any]) -> int:
    found = instant(info.get("request_time"), 1000)
    if found is None:
        raise TraceSourceError(f"The server gave the trace {info.get('trace_id')!r} without the time of its start.")
    return found


def _milliseconds(text: Any) -> int | None:
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    return None if match is None else int(match[1]) * 1000 + int((match[2] or "").ljust(3, "0")[:3])


def _batches(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))
