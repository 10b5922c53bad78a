"""MLflow's database, read by SQL."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from backfill_spark.errors import TraceImportError, TraceSourceError
from backfill_spark.traces.decode import decode_payload
from backfill_spark.traces.mlflow_server.assessments import as_object, assessment
from backfill_spark.traces.mlflow_server.server import Experiment, Left, Recorded, Window

if TYPE_CHECKING:
    from backfill_spark.traces.mlflow_server.archives import Archives
    from backfill_spark.traces.mlflow_server.database import Database

KNOWN_HEADS = {"dc11669786a5": "MLflow 3.17"}
"""Heads of the schema that the statements below were read from and tested with."""
_TOKENS = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_input_tokens_above_1hr",
)
_COSTS = ("input_cost", "output_cost", "total_cost")
# MLflow keeps these in columns of their own, and shows them as metadata.
_INFO = f"""select request_id, timestamp_ms, execution_time_ms, status, request_preview, response_preview,
 client_request_id, trace_name, session_id, {", ".join((*_TOKENS, *_COSTS))} from trace_info"""
_SPANS = """select trace_id, span_id, parent_span_id, start_time_unix_nano, content from spans"""
_ASSESSMENTS = """select trace_id, assessment_id, name, assessment_type, value, error, created_timestamp,
 last_updated_timestamp, source_type, source_id, span_id, rationale, overrides, valid, assessment_metadata
 from assessments"""
_IN_WINDOW = "where experiment_id = ? and timestamp_ms >= ? and timestamp_ms < ?"


class SqlServer:
    """An MLflow database. It is only read; a user with SELECT is enough."""

    def __init__(self, database: Database, archives: Archives) -> None:
        self._database = database
        self._archives = archives
        try:
            self._check_head()
        except BaseException:
            self.close()
            raise

    def experiments(self) -> list[Experiment]:
        rows = self._rows("select experiment_id, name, creation_time from experiments where lifecycle_stage = 'active'")
        return [Experiment(str(number), name, int(created or 0)) for number, name, created in rows]

    def first(self, experiment: Experiment) -> int | None:
        found = self._rows("select min(timestamp_ms) from trace_info where experiment_id = ?", int(experiment.id))
        return None if found[0][0] is None else int(found[0][0])

    def count(self, experiment: Experiment, start: int, end: int) -> int | None:
        return int(self._rows(f"select count(*) from trace_info {_IN_WINDOW}", int(experiment.id), start, end)[0][0])

    def window(self, experiment: Experiment, start: int, end: int, about: int) -> Window:
        where = int(experiment.id), start, end
        # All of a window is read in one transaction: tags and spans are those of the same moment.
        with self._database.snapshot():
            edge = self._rows(
                f"select timestamp_ms from trace_info {_IN_WINDOW} order by timestamp_ms limit 1 offset ?",
                *where,
                about,
            )
            # More than so many may have begun in one millisecond.
            until = max(edge[0][0], start + 1) if edge else end
            infos = self._rows(
                f"{_INFO} {_IN_WINDOW} order by timestamp_ms, request_id", int(experiment.id), start, until
            )
            return Window(self._filled(infos), until)

    def ids(self, experiment: Experiment, start: int, end: int) -> list[str]:
        found = self._rows(f"select request_id from trace_info {_IN_WINDOW}", int(experiment.id), start, end)
        return [one for (one,) in found]

    def traces(self, ids: Collection[str]) -> list[Recorded]:
        with self._database.snapshot():
            infos = self._of(f"{_INFO} where request_id {{ids}} order by timestamp_ms, request_id", ids)
            return self._filled(infos)

    def scorers(self, experiment: Experiment) -> list[dict[str, Any]]:
        rows = self._rows(
            """select s.scorer_name, v.scorer_version, v.serialized_scorer from scorers s
            join scorer_versions v on v.scorer_id = s.scorer_id where s.experiment_id = ?
            and v.scorer_version = (select max(w.scorer_version) from scorer_versions w where w.scorer_id = s.scorer_id)
            order by s.scorer_name""",
            int(experiment.id),
        )
        return [{"name": name, "version": version, "serialized": text} for name, version, text in rows]

    def close(self) -> None:
        self._database.close()

    def _check_head(self) -> None:
        try:
            heads = [head for (head,) in self._rows("select version_num from alembic_version")]
        except TraceImportError as error:
            raise TraceSourceError(
                f"This is no MLflow database, or its user may not read it. {error.__cause__ or error}"
            ) from error
        if len(heads) != 1 or heads[0] not in KNOWN_HEADS:
            known = ", ".join(f"{head} ({version})" for head, version in KNOWN_HEADS.items())
            raise TraceSourceError(
                f"The schema of {self._database.shown} has the head {', '.join(heads) or 'nothing'}, and the "
                f"statements here are for {known}. Import from the server's address (http://…) instead, or with a "
                "backfill_spark that knows this head."
            )

    def _rows(self, statement: str, *values: Any) -> list[Any]:
        return self._database.rows(statement, values)

    def _of(self, statement: str, ids: Collection[str]) -> list[Any]:
        clause, value = self._database.among(list(ids))
        return self._database.rows(statement.replace("{ids}", clause), (value,))

    def _filled(self, infos: Sequence[Any]) -> list[Recorded]:
        """Return traces with all that other tables say about them."""
        made = {row[0]: _recorded(row) for row in infos}
        for key, value, trace_id in self._of(
            "select key, value, request_id from trace_tags where request_id {ids}", made
        ):
            made[trace_id].tags.setdefault(key, value)
        statement = "select key, value, request_id from trace_request_metadata where request_id {ids}"
        for key, value, trace_id in self._of(statement, made):
            made[trace_id].metadata.setdefault(key, value)
        order = "order by created_timestamp, assessment_id"
        for row in self._of(f"{_ASSESSMENTS} where trace_id {{ids}} {order}", made):
            made[row[0]].assessments.append(_assessment(row))
        spans: dict[str, list[Any]] = {trace_id: [] for trace_id in made}
        for row in self._of(f"{_SPANS} where trace_id {{ids}}", made):
            spans[row[0]].append(row)
        for trace in made.values():
            self._take_spans(trace, spans[trace.trace_id])
        return list(made.values())

    def _take_spans(self, trace: Recorded, rows: list[Any]) -> None:
        # Only the tag decides where spans are: a client may have left a traces.json beside those of the database.
        where = trace.tags.get("mlflow.trace.spansLocation")
        if where in ("ARCHIVE_REPO", "ARTIFACT_REPO") or (where is None and not rows):
            self._archives.fill(trace)
            return
        rows.sort(key=lambda row: (row[2] is not None, row[3], row[1]))
        # Spans that were archived keep their rows, with content ''.
        trace.spans = [row[4] for row in rows if row[4]]
        trace.has_root = bool(rows) and rows[0][2] is None
        if not trace.has_root and rows:
            ids = {row[1] for row in rows}
            # The earliest span whose parent is not here stands for the root.
            trace.spans.insert(0, trace.spans.pop(next((i for i, r in enumerate(rows) if r[2] not in ids), 0)))
        if len(trace.spans) < len(rows):
            trace.left = Left.UNREADABLE


def _recorded(row: Any) -> Recorded:
    name, session, numbers = row[7], row[8], row[9:]
    trace = Recorded(row[0], row[1], row[2], row[3], row[4], row[5], row[6])
    if name is not None:
        trace.tags["mlflow.traceName"] = name
    if session is not None:
        trace.metadata["mlflow.trace.session"] = session
    tokens = {k: v for k, v in zip(_TOKENS, numbers, strict=False) if v is not None}
    costs = {k: v for k, v in zip(_COSTS, numbers[len(_TOKENS) :], strict=True) if v is not None}
    if tokens:
        trace.metadata["mlflow.trace.tokenUsage"] = json.dumps(tokens)
    if costs:
        trace.metadata["mlflow.trace.cost"] = json.dumps(costs)
    return trace


def _assessment(row: Any) -> dict[str, Any]:
    (trace_id, assessment_id, name, kind, value, error, created, updated, *source, span_id) = row[:11]
    rationale, overrides, valid, metadata = row[11:]
    return assessment(
        kind,
        decode_payload(value, "json"),
        as_object(error),
        {
            "assessment_id": assessment_id,
            "trace_id": trace_id,
            "assessment_name": name,
            "source": {"source_type": source[0], "source_id": source[1]},
            "rationale": rationale,
            "metadata": as_object(metadata),
            "span_id": span_id,
            "overrides": overrides,
            "valid": bool(valid),
        },
        created_ms=created,
        updated_ms=updated,
    )
