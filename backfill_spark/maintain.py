"""Upkeep of our own tables: small files, old events, expired staging, and forgetting one trace."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from backfill_spark import tables
from backfill_spark.job_record import Event
from backfill_spark.job_store import JobStore
from backfill_spark.models import JobState, compact_json
from backfill_spark.settings import parse_duration
from backfill_spark.store import Store, until_alone

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings import Settings


def maintain(spark: SparkSession, settings: Settings, *, clock: Callable[[], float] = time.time) -> dict[str, Any]:
    """Drop what has expired, compact the files of our tables, and remove files that no version needs.

    Returns:
        What was done: `staging_jobs` (jobs whose staged rows were dropped), `heartbeats` (jobs whose heartbeats
        were dropped), `optimized` and `vacuumed` (tables).
    """
    stores = [s for s in (Store(spark, t, settings) for t in tables.ALL_TABLES) if s.exists()]
    by_name = {s.table.name: s.ensure() for s in stores}
    done: dict[str, Any] = {"staging_jobs": [], "heartbeats": 0, "optimized": [], "vacuumed": []}
    jobs = JobStore(spark, settings)
    if "jobs" in by_name:
        ended = _ended(jobs)
        if "staging" in by_name:
            done["staging_jobs"] = _expire_staging(by_name["staging"], settings, ended, clock())
        done["heartbeats"] = _drop_heartbeats(by_name["job_events"], ended)
    for name, store in by_name.items():
        until_alone(store.delta().optimize().executeCompaction)
        store.delta().vacuum()
        done["optimized"].append(name)
        done["vacuumed"].append(name)
    return done


def forget_trace(spark: SparkSession, settings: Settings, trace_id: str) -> dict[str, int]:
    """Delete every row about one trace from our tables; returns rows deleted by table.

    Older versions of the tables keep the rows until VACUUM removes their files (7 days by default). The traces
    table is the user's own.
    """
    deleted: dict[str, int] = {}
    hashes: list[str] = []
    for table in (tables.ASSESSMENTS, tables.STAGING, tables.WORK):
        store = Store(spark, table, settings)
        if not store.exists():
            continue
        mine = store.read().where(F.col("trace_id") == trace_id)
        deleted[table.name] = mine.count()
        if "prompt_hash" in table.schema.fieldNames():
            found = mine.where("prompt_hash is not null").select("prompt_hash").distinct().collect()
            hashes += [r[0] for r in found]
        if deleted[table.name]:
            store.delete(F.col("trace_id") == trace_id)
    deleted["job_events"] = _forget_missing(Store(spark, tables.JOB_EVENTS, settings), trace_id)
    judgements = Store(spark, tables.JUDGEMENTS, settings)
    if hashes and judgements.exists():
        # An answer may quote the trace. Another trace with the same prompt is asked again when it is due.
        condition = F.col("prompt_hash").isin(sorted(set(hashes)))
        deleted["judgements"] = judgements.read().where(condition).count()
        judgements.delete(condition)
    return deleted


def _forget_missing(store: Store, trace_id: str) -> int:
    """Take a listed id that was not found out of what its jobs remember."""
    if not store.exists():
        return 0
    created = F.col("event") == Event.CREATED.value
    quoted = json.dumps(trace_id, ensure_ascii=False)
    rows = store.read().where(created & F.col("payload").contains(quoted)).select("job_id", "payload").collect()
    changed = 0
    for row in rows:
        payload = json.loads(row["payload"])
        if trace_id not in payload.get("trace_ids_missing", ()):
            continue
        payload["trace_ids_missing"].remove(trace_id)
        condition = created & (F.col("job_id") == row["job_id"])
        until_alone(lambda c=condition, p=payload: store.delta().update(c, {"payload": F.lit(compact_json(p))}))  # type: ignore[misc]
        changed += 1
    return changed


def _ended(jobs: JobStore) -> dict[str, tuple[str, float]]:
    """Jobs at rest: id → state and when it ended, in seconds since the epoch."""
    at_rest = [s.value for s in JobState if s.is_at_rest]
    rows = jobs.jobs.read().where(F.col("state").isin(at_rest))
    seconds = (F.unix_micros(F.coalesce("ended_at", "created_at")) / 1e6).alias("seconds")
    return {r["job_id"]: (r["state"], r["seconds"]) for r in rows.select("job_id", "state", seconds).collect()}


def _expire_staging(store: Store, settings: Settings, ended: dict[str, tuple[str, float]], now: float) -> list[str]:
    kept_for = parse_duration(settings.limits.staging_retention).total_seconds()
    staged = [r[0] for r in store.read().select("job_id").distinct().collect()]
    expired = [
        j for j in staged if j in ended and (ended[j][0] == JobState.SUCCEEDED.value or now - ended[j][1] > kept_for)
    ]
    if expired:
        store.delete(F.col("job_id").isin(expired))
    return sorted(expired)


def _drop_heartbeats(store: Store, ended: dict[str, tuple[str, float]]) -> int:
    """Drop the heartbeats of jobs that have ended for good; the other events stay."""
    final = sorted(j for j, (state, _) in ended.items() if JobState(state).is_terminal)
    beats = (F.col("event") == Event.HEARTBEAT.value) & F.col("job_id").isin(final)
    count = store.read().where(beats).select("job_id").distinct().count() if final else 0
    if count:
        store.delete(beats)
    return count
