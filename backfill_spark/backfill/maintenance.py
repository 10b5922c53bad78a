"""Upkeep of our own tables: small files, old events, expired staged results, and forgetting one trace."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from backfill_spark import schema
from backfill_spark.backfill.staging import staged_by
from backfill_spark.jobs.events import Event
from backfill_spark.judges.answers import close_journal
from backfill_spark.judges.llm.journal import forget_journaled, journal_folder, journaled_jobs
from backfill_spark.models import JobState, compact_json, new_job_id
from backfill_spark.settings.sections import parse_duration
from backfill_spark.storage.capabilities import is_connect
from backfill_spark.storage.delta_table import Store

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.backfill.tables import Tables
    from backfill_spark.jobs.store import JobStore
    from backfill_spark.results.staged import StagedChunk

DAY_S = 86_400.0


def maintain(tables: Tables, *, clock: Callable[[], float] = time.time) -> dict[str, Any]:
    """Drop what has expired, compact the files of our tables, and remove files that no version needs.

    Returns:
        What was done: `staged_jobs` (jobs whose staged results were dropped), `work_jobs` and `file_jobs` (ended jobs
        whose runner died before it dropped their prompts and choices, or their heartbeat and spool files; and choices
        of jobs whose creator died before the job was there),
        `heartbeats` (number of jobs whose heartbeat events were dropped), `optimized` and `vacuumed` (tables).
    """
    stores = [s for s in map(tables.of, schema.ALL_TABLES) if s.exists()]
    by_name = {s.table.name: s.ensure() for s in stores}
    done: dict[str, Any] = {"staged_jobs": [], "work_jobs": [], "file_jobs": [], "heartbeats": 0}
    done |= {"optimized": [], "vacuumed": []}
    jobs = tables.jobs
    if "jobs" in by_name:
        ended = _ended(jobs)
        final = {j for j, (state, _) in ended.items() if JobState(state).is_terminal}
        done["staged_jobs"] = _expire_staged(tables, ended, clock())
        if "work" in by_name:
            done["work_jobs"] = _drop_jobs(by_name["work"], final | _never_created(by_name["work"], jobs, clock()))
        done["file_jobs"] = _drop_files(tables, final)
        done["heartbeats"] = _drop_heartbeats(by_name["job_events"], final)
    for name, store in by_name.items():
        store.compact()
        with _quiet(tables.spark):
            store.vacuum()
        done["optimized"].append(name)
        done["vacuumed"].append(name)
    return done


def forget_trace(tables: Tables, trace_id: str) -> dict[str, int]:
    """Delete every row about one trace from our tables; returns rows deleted by table, and answers in files (`spool`).

    Older versions of the tables keep the rows until VACUUM removes their files (7 days by default). The traces
    table is the user's own: a job at rest that goes on scores the trace again if its pinned version has it.
    """
    deleted: dict[str, int] = {}
    hashes: list[str] = []
    for table in (schema.ASSESSMENTS, schema.WORK):
        store = tables.of(table)
        if not store.exists():
            continue
        mine = store.read().where(F.col("trace_id") == trace_id)
        deleted[table.name] = mine.count()
        found = mine.where("prompt_hash is not null").select("prompt_hash").distinct().collect()
        hashes += [r[0] for r in found]
        if deleted[table.name]:
            store.delete({"trace_id": [trace_id]})
    if tables.of(schema.ASSESSMENTS).exists():
        deleted["staged"], prompts = _forget_staged(tables, trace_id)
        hashes += prompts
    deleted["job_events"] = _forget_missing(tables.of(schema.JOB_EVENTS), trace_id)
    judgements = tables.judgements
    if hashes and judgements.exists():
        # An answer may quote the trace. Another trace with the same prompt is asked again when it is due.
        wanted = sorted(set(hashes))
        deleted["judgements"] = judgements.read().where(F.col("prompt_hash").isin(wanted)).count()
        judgements.delete({"prompt_hash": wanted})
        deleted["spool"] = forget_journaled(journal_folder(tables.settings), set(hashes))
    return deleted


def _forget_staged(tables: Tables, trace_id: str) -> tuple[int, list[str]]:
    """Delete the rows of a trace among the staged results of jobs that no runner works on."""
    waiting, now = tables.results.waiting, tables.jobs.clock()
    chunks: list[StagedChunk] = []
    merged = set(_ended(tables.jobs))
    for record in tables.jobs.with_staged(None, "", now):
        merged.discard(record.job_id)
        if not record.is_alive(now):
            known = staged_by(record)
            # What is merged of them is a file of the table, if it could be.
            chunks += [c.apart() if c.chunk in record.merged else c for c in known]
            if (recovered := waiting.recovered(record.job_id, known)) is not None:
                chunks.append(recovered)
    gone = {chunk.key for chunk in waiting.gone(chunks)}
    return waiting.forget(trace_id, [chunk for chunk in chunks if chunk.key not in gone], merged)


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
        where = {"event": [Event.CREATED.value], "job_id": [row["job_id"]]}
        store.update(where, "payload", compact_json(payload))
        changed += 1
    return changed


def _ended(jobs: JobStore) -> dict[str, tuple[str, float]]:
    """Jobs at rest: id → state and when it ended, in seconds since the epoch."""
    rows = jobs.jobs.read({"state": [s.value for s in JobState if s.is_at_rest]})
    return {r["job_id"]: (r["state"], (r["ended_at"] or r["created_at"]).timestamp()) for r in rows}


def _expire_staged(tables: Tables, ended: dict[str, tuple[str, float]], now: float) -> list[str]:
    """Delete the staged results of jobs that SUCCEEDED, or rest for long; return those that had some."""
    if not tables.of(schema.ASSESSMENTS).exists():
        return []
    results, kept_for = tables.results, parse_duration(tables.settings.limits.staging_retention).total_seconds()
    expired = {j for j, (state, at) in ended.items() if state == JobState.SUCCEEDED.value or now - at > kept_for}
    found = sorted(expired & results.waiting.jobs())
    for job_id in found:
        results.waiting.drop(job_id)
    return found


def _never_created(store: Store, jobs: JobStore, now: float) -> set[str]:
    """Jobs that made a choice more than a day ago and have no events: their creator died in between."""
    newest = new_job_id(datetime.fromtimestamp(now - DAY_S, UTC))
    rows = store.read().where(F.col("job_id") < newest).select("job_id").distinct().collect()
    old = {r["job_id"] for r in rows}
    return old - {r.job_id for r in jobs.records(sorted(old))}


def _drop_jobs(store: Store, jobs: set[str]) -> list[str]:
    """Delete the rows of these jobs; return those that had some."""
    found = sorted(jobs & {r[0] for r in store.read().select("job_id").distinct().collect()})
    if found:
        store.delete({"job_id": found})
    return found


def _drop_files(tables: Tables, jobs: set[str]) -> list[str]:
    """Delete the heartbeat and spool files of these jobs; return those that had some."""
    heartbeat = tables.jobs.heartbeat
    beating, spooled = jobs & heartbeat.jobs(), jobs & journaled_jobs(journal_folder(tables.settings))
    for job_id in beating:
        heartbeat.clear(job_id)
    for job_id in spooled:
        close_journal(tables, job_id)
    return sorted(beating | spooled)


def _drop_heartbeats(store: Store, jobs: set[str]) -> int:
    """Drop the heartbeats of jobs that have ended for good; the other events stay."""
    where = {"event": [Event.HEARTBEAT.value], "job_id": sorted(jobs)}
    beats = store.read().where((F.col("event") == Event.HEARTBEAT.value) & F.col("job_id").isin(where["job_id"]))
    count = beats.select("job_id").distinct().count() if jobs else 0
    if count:
        store.delete(where)
    return count


@contextmanager
def _quiet(spark: SparkSession) -> Iterator[None]:
    """VACUUM prints a line a table from the JVM: that would stand in the output of `--json`."""
    if is_connect(spark):
        yield
        return
    jvm: Any = spark._jvm  # noqa: SLF001
    console = getattr(getattr(jvm.scala, "Console$"), "MODULE$")
    before = console.out()
    console.setOutDirect(jvm.java.io.PrintStream(jvm.java.io.OutputStream.nullOutputStream()))
    try:
        yield
    finally:
        console.setOutDirect(before)
