"""The row of `jobs`: what it shows of a job's record, and the record of a job at rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from backfill_spark.jobs.events import JobRecord, moment
from backfill_spark.models import JobState, compact_json

_OF_A_SCORER = ("name", "version", "digest", "sample_rate", "filter_string")


def row_of(record: JobRecord) -> dict[str, Any]:
    """Return the row of `jobs` that shows this record."""
    created = dict(record.created)
    request = created["request"] | record.changes
    window = [None if t is None else datetime.fromisoformat(t) for t in request["window"]]
    return {
        "job_id": record.job_id,
        "experiment_id": request["experiment_id"],
        "state": record.state.value,
        "request": compact_json(created["request"]),
        "window_start": window[0],
        "window_end": window[1],
        "source": request["source"],
        "source_table_id": request["source_table_id"],
        "source_version": request["source_version"],
        "results_version": request["results_version"],
        "scorers": scorers_text(request),
        "seed": request["seed"],
        "counts": compact_json(record.end.get("counts") or created["counts"]),
        "rate_reached": record.end.get("rate_reached"),
        "calls": record.end.get("calls", 0),
        "cost_usd": record.end.get("cost_usd"),
        "owner": record.owner,
        "epoch": record.epoch,
        "heartbeat_at": moment(record.last_seen) if record.epoch else None,
        "error": record.end.get("error"),
        "spark_app_id": record.spark_app_id,
        "versions": compact_json(created.get("versions", {})),
        "created_at": moment(created["created_at"]),
        "started_at": moment(record.started_at),
        "ended_at": moment(record.ended_at),
    }


def scorers_text(request: Mapping[str, Any]) -> str:
    """Return what the row tells of a request's scorers."""
    return compact_json([{k: s[k] for k in _OF_A_SCORER} for s in request["scorers"]])


def record_of(row: Any) -> JobRecord:
    """Return the record of a job at rest, to which the events have nothing to add."""
    # The frozen request is as it was at first; the columns have what `resume` changed.
    request = json.loads(row["request"]) | {n: row[n] for n in ("source_version", "source_table_id", "results_version")}
    end = {
        "counts": json.loads(row["counts"]),
        "calls": row["calls"],
        "cost_usd": row["cost_usd"],
        "error": row["error"],
        "rate_reached": row["rate_reached"],
    }
    created = {
        "request": request,
        "counts": end["counts"],
        "created_at": row["created_at"].timestamp(),
        "versions": json.loads(row["versions"] or "{}"),
    }
    return JobRecord(
        row["job_id"],
        JobState(row["state"]),
        created=created,
        epoch=row["epoch"],
        owner=row["owner"],
        spark_app_id=row["spark_app_id"],
        end=end,
        started_at=row["started_at"].timestamp() if row["started_at"] else None,
        ended_at=row["ended_at"].timestamp() if row["ended_at"] else None,
    )
