"""The database of an MLflow server, written by SQL: some 100 times as fast as its REST interface.

The tables are MLflow's own business and change between its versions, so only a schema head that was looked at is
written to. Facts, of MLflow 3.17 (run): an assessment is one row of `assessments`, with its trace's experiment and
time beside it, and a number for aggregations: a number itself, a boolean or yes/no as 1/0 that is not numeric.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from backfill_spark.delivery.server import in_lists
from backfill_spark.delivery.sinks.mlflow import NO_TRACE, metadata_of
from backfill_spark.errors import BackfillRefusedError, DeliveryStoppedError

if TYPE_CHECKING:
    from datetime import datetime

    from backfill_spark.delivery.place import Place
    from backfill_spark.delivery.result import Result

HEADS = ("dc11669786a5",)
"""Schema heads (`alembic_version`) that were looked at: MLflow 3.17."""
COLUMNS = (
    "assessment_id",
    "trace_id",
    "experiment_id",
    "trace_timestamp_ms",
    "name",
    "assessment_type",
    "value",
    "error",
    "created_timestamp",
    "last_updated_timestamp",
    "source_type",
    "source_id",
    "span_id",
    "rationale",
    "valid",
    "assessment_metadata",
    "aggregate_value",
    "is_numeric_value",
)
_IDS = 500
"""Ids that stand in one query."""


class MlflowDatabase:
    """An MLflow server's database: sqlite, or PostgreSQL with psycopg."""

    size = 10_000
    shows = True

    def __init__(self, place: Place) -> None:
        self._place = place
        self._database: Any = None
        self._is_sqlite = place.address.startswith("sqlite")

    def unfit(self, result: Result) -> str | None:
        del result
        return None

    async def open(self) -> None:
        try:
            self._database = self._connect()
            heads = [row[0] for row in self._rows("SELECT version_num FROM alembic_version", [])]
        except BackfillRefusedError:
            raise
        except Exception as error:
            said = type(error).__name__
            raise BackfillRefusedError(
                f"{self._place.destination} is no MLflow database that can be opened: {said}. Look at the address, and "
                "at PGPASSWORD or .pgpass where it wants a password."
            ) from None
        if not set(heads) & set(HEADS):
            raise BackfillRefusedError(
                f"{self._place.destination} has the schema head {heads}; known are {list(HEADS)} (MLflow 3.17). "
                "Deliver by REST: --to mlflow+http://HOST:PORT."
            )

    def _connect(self) -> Any:
        if self._is_sqlite:
            path = urlsplit(self._place.address).path[1:]
            return sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=60)
        try:
            import psycopg
        except ImportError:
            raise BackfillRefusedError("PostgreSQL is written with psycopg: pip install 'psycopg[binary]'.") from None
        return psycopg.connect(self._place.address)

    async def close(self) -> None:
        if self._database is not None:
            self._database.close()

    async def send(self, results: Sequence[Result]) -> dict[str, str]:
        traces = self._traces({r.row["trace_id"] for r in results})
        unknown = {r.id: NO_TRACE.partition(" (")[0] for r in results if r.row["trace_id"] not in traces}
        return unknown | self._put(
            [(r.id, _row(r, *traces[r.row["trace_id"]])) for r in results if r.id not in unknown]
        )

    def _put(self, rows: list[tuple[str, tuple[Any, ...]]]) -> dict[str, str]:
        """Write rows in one transaction; where the database refuses it, by halves, until the bad row is alone."""
        marks, changes = ", ".join("?" for _ in COLUMNS), ", ".join(f"{c} = excluded.{c}" for c in COLUMNS[1:])
        query = f"INSERT INTO assessments ({', '.join(COLUMNS)}) VALUES ({marks}) "  # noqa: S608 - names of ours
        query += f"ON CONFLICT (assessment_id) DO UPDATE SET {changes}"
        try:
            self._database.cursor().executemany(self._spelled(query), [row for _, row in rows])
            self._database.commit()
        except Exception as error:
            name = type(error).__name__
            if name == "OperationalError":  # of both drivers: it is locked, full or gone
                raise DeliveryStoppedError(f"{self._place.destination} cannot be written: {name}.") from None
            self._database.rollback()
            if len(rows) == 1:
                return {rows[0][0]: f"the database refused it: {name}"}
            half = len(rows) // 2
            return self._put(rows[:half]) | self._put(rows[half:])
        return {}

    async def found(self, results: Sequence[Result]) -> Collection[str]:
        there: dict[str, Any] = {}
        for ids in in_lists([r.id for r in results], _IDS):
            query = "SELECT assessment_id, assessment_metadata FROM assessments WHERE assessment_id IN"
            there |= dict(self._rows(f"{query} ({', '.join('?' for _ in ids)})", ids))
        return {r.id for r in results if _fingerprint(there.get(r.id)) == r.fingerprint}

    def _traces(self, trace_ids: Collection[str]) -> dict[str, tuple[int, int]]:
        """Return the traces that are there: id → experiment and time."""
        found: dict[str, tuple[int, int]] = {}
        for ids in in_lists(trace_ids, _IDS):
            query = "SELECT request_id, experiment_id, timestamp_ms FROM trace_info WHERE request_id IN"
            rows = self._rows(f"{query} ({', '.join('?' for _ in ids)})", ids)
            found |= {trace_id: (experiment, at) for trace_id, experiment, at in rows}
        return found

    def _rows(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        cursor = self._database.cursor()
        cursor.execute(self._spelled(query), values)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        self._database.commit()
        return rows

    def _spelled(self, query: str) -> str:
        return query if self._is_sqlite else query.replace("?", "%s")


def _row(result: Result, experiment_id: int, at: int) -> tuple[Any, ...]:
    row = result.row
    error = {"error_code": row["error_code"], "error_message": row["error_message"], "stack_trace": None}
    value = row["value"]
    made = {
        "assessment_id": result.id,
        "trace_id": row["trace_id"],
        "experiment_id": experiment_id,
        "trace_timestamp_ms": at,
        "name": row["assessment_name"],
        "assessment_type": "feedback",
        "value": json.dumps(value),
        "error": json.dumps(error) if result.is_error else None,
        "created_timestamp": _milliseconds(row["created_at"]),
        "last_updated_timestamp": _milliseconds(row["created_at"]),
        "source_type": row["source_type"],
        "source_id": row["source_id"],
        "span_id": row["span_id"],
        "rationale": row["rationale"],
        "valid": True,
        "assessment_metadata": json.dumps(metadata_of(result)),
        "aggregate_value": row["value_double"],
        "is_numeric_value": isinstance(value, (int, float)) and not isinstance(value, bool),
    }
    return tuple(made[name] for name in COLUMNS)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000 + moment.microsecond // 1_000


def _fingerprint(metadata: str | None) -> Any:
    return None if metadata is None else json.loads(metadata).get("backfill_spark.fingerprint")
