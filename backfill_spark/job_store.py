"""Jobs on Delta: the events that are the truth, the row for people, and the lease of a runner.

The protocol (DESIGN §5 "Writing" and "Jobs"), in four rules:

1. A job's state is what its events fold to; `jobs` only shows it.
2. Epoch e+1 is claimed after the end of epoch e is decided. The end of an epoch is one append under the
   transaction id `<job_id>/end/<epoch>`, so of two writers exactly one wins, and the other adopts what it reads.
3. A claim is one append under `(job_id, epoch·2^32)` to `job_events`, read back, and then an empty one to
   `staging` and `assessments`: after it, every write of an older epoch fails or is skipped.
4. Each later write of the runner carries `(job_id, epoch·2^32 + n)` with rising n.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from backfill_spark import tables
from backfill_spark.errors import JobNotFoundError, LeaseLostError
from backfill_spark.failpoints import Failpoint, failpoint
from backfill_spark.models import JobState, compact_json
from backfill_spark.pulse import Pulse
from backfill_spark.store import Store, Txn, is_conflict

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from backfill_spark.settings import Settings

EPOCH_SHIFT = 32
_FINAL = ", ".join(f"'{s.value}'" for s in JobState if s.is_terminal)
_IS_NEWER = f"t.state NOT IN ({_FINAL}) AND coalesce(t.epoch, 0) <= coalesce(s.epoch, 0)"


class Event(StrEnum):
    """What can happen to a job."""

    CREATED = "created"
    CLAIMED = "claimed"
    HEARTBEAT = "heartbeat"
    CHUNK_PLANNED = "chunk_planned"
    CHUNK_STAGED = "chunk_staged"
    CHUNK_MERGED = "chunk_merged"
    ASKED = "asked"
    """What a slice of judge calls spent."""
    COVERED = "covered"
    CANCEL_REQUESTED = "cancel_requested"
    CONFLICT = "conflict"
    CHANGED = "changed"
    """The request was changed by `resume`: a new source version, a raised budget."""
    ENDED = "ended"


class End(StrEnum):
    """How an epoch ended: with a state of the job, or with the job left to another runner."""

    SUCCEEDED = "SUCCEEDED"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    RELEASED = "RELEASED"
    """The runner was interrupted and gave the lease back."""
    LOST = "LOST"
    """Another runner took over, since the lease had run out."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What the events of one job fold to."""

    job_id: str
    state: JobState
    created: Mapping[str, Any] = field(default_factory=dict)
    """Payload of `created`: request, counts, versions, created_at."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """What `resume` changed in the request."""
    epoch: int = 0
    owner: str | None = None
    lease_s: float = 0.0
    last_seen: float | None = None
    """Commit time of the runner's newest event, in seconds since the epoch."""
    is_epoch_ended: bool = False
    """True when how the newest epoch ended is decided."""
    is_released: bool = False
    """True when the newest epoch has ended without a state: the job waits for a runner."""
    cancel_requested: bool = False
    end: Mapping[str, Any] = field(default_factory=dict)
    """Payload of the newest `ended`: counts, calls, cost_usd, rate_reached, error."""
    staged: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    asked: tuple[Mapping[str, Any], ...] = ()
    """What each slice of judge calls spent: requests, cost_usd, draw_to."""
    started_at: float | None = None
    ended_at: float | None = None

    def is_alive(self, now: float) -> bool:
        """True while a runner holds a lease that has not run out."""
        is_held = self.state in (JobState.RUNNING, JobState.CANCELING) and self.epoch > 0 and not self.is_epoch_ended
        if not is_held or self.last_seen is None:
            return False
        return now - self.last_seen <= self.lease_s


def fold(job_id: str, events: Iterable[Mapping[str, Any]]) -> JobRecord:
    """Fold a job's events (rows with event, epoch, n, payload, seen) into its record; their order is free."""
    rows = sorted(events, key=lambda r: (r["epoch"], r["n"], r["seen"]))
    record = JobRecord(job_id, JobState.PENDING)
    changes: dict[str, Any] = {}
    staged: dict[int, Mapping[str, Any]] = {}
    for row in rows:
        payload = json.loads(row["payload"] or "{}")
        match row["event"]:
            case Event.CREATED:
                record = replace(record, created=payload)
            case Event.CANCEL_REQUESTED:
                record = replace(record, cancel_requested=True)
            case Event.CHANGED:
                changes |= payload
            case Event.CLAIMED:
                record = replace(
                    record,
                    state=JobState.RUNNING,
                    epoch=row["epoch"],
                    owner=payload["owner"],
                    lease_s=payload["lease_s"],
                    is_epoch_ended=False,
                    is_released=False,
                    started_at=record.started_at or row["seen"],
                )
            case Event.CHUNK_STAGED:
                staged[payload["chunk"]] = payload
            case Event.ASKED:
                record = replace(record, asked=(*record.asked, payload))
    ends = sorted((r for r in rows if r["event"] == Event.ENDED), key=lambda r: int(r["epoch"]))
    if ends and ends[-1]["epoch"] == record.epoch:
        payload = json.loads(ends[-1]["payload"])
        how = End(payload["end"])
        record = replace(record, is_epoch_ended=True)
        if how in (End.RELEASED, End.LOST):
            record = replace(record, is_released=True)
        else:
            record = replace(record, state=JobState(how.value), end=payload, ended_at=ends[-1]["seen"])
    if record.cancel_requested and not record.state.is_terminal:
        record = replace(record, state=JobState.CANCELING)
    seen = [r["seen"] for r in rows if r["epoch"] == record.epoch and r["event"] != Event.CANCEL_REQUESTED]
    return replace(record, changes=changes, staged=staged, last_seen=max(seen, default=None))


class JobStore:
    """Owner of `job_events` and `jobs`."""

    def __init__(self, spark: SparkSession, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self.spark = spark
        self.settings = settings
        self.clock = clock
        self.events = Store(spark, tables.JOB_EVENTS, settings)
        self.jobs = Store(spark, tables.JOBS, settings)
        self.pulse = Pulse(settings)

    def ensure(self) -> None:
        """Create both tables when they are not there."""
        self.events.ensure()
        self.jobs.ensure()

    def create(self, job_id: str, created: Mapping[str, Any]) -> JobRecord:
        """Record a new job; PENDING until it is claimed."""
        self.ensure()
        self.write(job_id, [(Event.CREATED, created)])
        record = fold(job_id, [_fresh(Event.CREATED, created, self.clock())])
        self.jobs.append(self.jobs.frame([self._row(record)]))
        return record

    def write(
        self,
        job_id: str,
        events: Sequence[tuple[Event, Mapping[str, Any]]],
        *,
        epoch: int = 0,
        n: int = 0,
        txn: Txn | None = None,
    ) -> bool:
        """Append events in one commit; with `txn`, say whether it landed."""
        rows = [
            {
                "job_id": job_id,
                "event": event.value,
                "epoch": epoch,
                "n": n + i,
                "at": _moment(self.clock()),
                "payload": compact_json(payload),
            }
            for i, (event, payload) in enumerate(events)
        ]
        return self.events.append(self.events.frame(rows), txn=txn)

    def record(self, job_id: str) -> JobRecord:
        """Return one job as its events tell it.

        Raises:
            JobNotFoundError: no job has this id.
        """
        found = self.records([job_id])
        if not found:
            raise JobNotFoundError.for_id(job_id)
        return found[0]

    def records(self, job_ids: Sequence[str]) -> list[JobRecord]:
        """Return several jobs as their events tell them, in one read."""
        if not job_ids or not self.events.exists():
            return []
        rows = self._events().where(F.col("job_id").isin(list(job_ids))).collect()
        by_job: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            by_job.setdefault(row["job_id"], []).append(row.asDict())
        known = [j for j in job_ids if any(r["event"] == Event.CREATED for r in by_job.get(j, []))]
        return [self._with_pulse(fold(j, by_job[j])) for j in known]

    def _with_pulse(self, record: JobRecord) -> JobRecord:
        if not record.epoch or record.is_epoch_ended:
            return record
        seen = self.pulse.seen(record.job_id, record.epoch)
        return record if seen is None else replace(record, last_seen=max(seen, record.last_seen or 0.0))

    def _events(self) -> DataFrame:
        # The commit's clock is the storage's, the same for every runner: the time of the event's file.
        seen = (F.unix_micros("_metadata.file_modification_time") / 1e6).alias("seen")
        return self.events.read().select("job_id", "event", "epoch", "n", "payload", seen)

    def cancel_is_requested(self, job_id: str) -> bool:
        """True when anybody asked for the job's end."""
        rows = self.events.read().where((F.col("job_id") == job_id) & (F.col("event") == Event.CANCEL_REQUESTED.value))
        return bool(rows.select("event").head(1))

    def newest(self, experiment_id: str | None, state: JobState | None, limit: int) -> list[JobRecord]:
        """Return jobs, newest first; rows that are not at rest are read again from the events."""
        if not self.jobs.exists():
            return []
        rows = self.jobs.read()
        if experiment_id is not None:
            rows = rows.where(F.col("experiment_id") == experiment_id)
        if state is not None:
            moving = [s.value for s in JobState if not s.is_terminal]
            rows = rows.where(F.col("state").isin([state.value, *moving]))
        wanted = rows.orderBy(F.col("job_id").desc()).limit(limit if state is None else limit + 200).collect()
        moving_ids = [r["job_id"] for r in wanted if not JobState(r["state"]).is_terminal]
        fresh = {r.job_id: r for r in self.records(moving_ids)}
        for row in wanted:
            if (now := fresh.get(row["job_id"])) is not None and now.state.value != row["state"]:
                self.show(now)
        records = [fresh.get(r["job_id"]) or _from_row(r) for r in wanted]
        return [r for r in records if state is None or r.state is state][:limit]

    def live(self, experiment_id: str) -> list[JobRecord]:
        """Return the experiment's jobs that wait or have a live runner."""
        if not self.jobs.exists():
            return []
        moving = [s.value for s in JobState if not s.is_at_rest]
        rows = self.jobs.read().where((F.col("experiment_id") == experiment_id) & F.col("state").isin(moving))
        records = self.records([r["job_id"] for r in rows.select("job_id").collect()])
        now = self.clock()
        return [r for r in records if r.state is JobState.PENDING or r.is_alive(now)]

    def claimable(self) -> list[JobRecord]:
        """Return jobs that wait for a runner, oldest first: PENDING, interrupted, or with a dead runner."""
        if not self.jobs.exists():
            return []
        moving = [s.value for s in JobState if not s.is_at_rest]
        rows = self.jobs.read().where(F.col("state").isin(moving)).select("job_id").orderBy("job_id").collect()
        now = self.clock()
        records = self.records([r["job_id"] for r in rows])
        return [r for r in records if not r.state.is_at_rest and not r.is_alive(now)]

    def show(self, record: JobRecord) -> None:
        """Bring the job's row in `jobs` up to date; conflicts with other jobs' rows are tried again."""
        row = self._row(record)
        changes = {k: f"s.{k}" for k in row if k != "job_id"}
        for attempt in range(20):
            try:
                self.jobs.merge(
                    lambda spark: spark.createDataFrame(
                        [tuple(row.get(n) for n in tables.JOBS.schema.fieldNames())], tables.JOBS.schema
                    ),
                    "t.job_id = s.job_id",
                    # A stale reader must not show an older state over a newer or final one.
                    lambda b: b.whenMatchedUpdate(_IS_NEWER, set=dict(changes)).whenNotMatchedInsertAll(),
                )
            except Exception as error:
                if not is_conflict(error) or attempt == 19:
                    raise
                time.sleep(secrets.randbelow(200) / 1000 * (attempt + 1))
            else:
                return

    def _row(self, record: JobRecord) -> dict[str, Any]:
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
            "scorers": compact_json(
                [
                    {k: s[k] for k in ("name", "version", "digest", "sample_rate", "filter_string")}
                    for s in request["scorers"]
                ]
            ),
            "seed": request["seed"],
            "counts": compact_json(record.end.get("counts") or created["counts"]),
            "rate_reached": record.end.get("rate_reached"),
            "calls": record.end.get("calls", 0),
            "cost_usd": record.end.get("cost_usd"),
            "owner": record.owner,
            "epoch": record.epoch,
            "heartbeat_at": _moment(record.last_seen) if record.epoch else None,
            "error": record.end.get("error"),
            "parent_job_id": created.get("parent_job_id"),
            "spark_app_id": created.get("spark_app_id"),
            "versions": compact_json(created.get("versions", {})),
            "created_at": _moment(created["created_at"]),
            "started_at": _moment(record.started_at),
            "ended_at": _moment(record.ended_at),
        }

    # --- leases

    def claim(self, record: JobRecord, walls: Sequence[Store]) -> Lease | None:
        """Take the next epoch of a job; None when another runner was first, or the job has ended.

        Raises:
            LeaseLostError: a newer epoch fenced this claim off before it was complete.
        """
        failpoint(Failpoint.BEFORE_CLAIM)
        if record.is_alive(self.clock()):
            return None
        if record.epoch and not record.is_epoch_ended:
            if not self.end(record.job_id, record.epoch, End.LOST, {}).is_released:
                return None
            failpoint(Failpoint.AFTER_DECIDE)
        epoch = record.epoch + 1
        owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        txn = Txn(record.job_id, epoch << EPOCH_SHIFT)
        limits = self.settings.limits
        payload = {"owner": owner, "lease_s": limits.lease_s, "spark_app_id": _app_id(self.spark)}
        self.write(record.job_id, [(Event.CLAIMED, payload)], epoch=epoch, txn=txn)
        now = self.record(record.job_id)
        if now.epoch != epoch or now.owner != owner or now.state.is_at_rest:
            return None
        failpoint(Failpoint.AFTER_CLAIM)
        for wall in walls:
            for _ in range(20):
                if wall.append(wall.frame([]), txn=txn):
                    break
                if (now := self.record(record.job_id)).epoch != epoch:
                    raise LeaseLostError(f"Job {record.job_id} was claimed by {now.owner} while {owner} claimed it.")
            else:
                raise LeaseLostError(
                    f"Runner {owner} could not fence off earlier runners of job {record.job_id} in "
                    f"{wall.location.shown!r}: other commits kept coming first. Resume the job."
                )
        failpoint(Failpoint.AFTER_WALL)
        return Lease(self, now, owner)

    def end(self, job_id: str, epoch: int, how: End, payload: Mapping[str, Any]) -> JobRecord:
        """End an epoch once; return the job, whose end another writer may have decided first."""
        failpoint(Failpoint.BEFORE_END)
        txn = Txn(f"{job_id}/end/{epoch}", 1)
        self.write(
            job_id, [(Event.ENDED, {"end": how.value, **payload})], epoch=epoch, n=(1 << EPOCH_SHIFT) - 1, txn=txn
        )
        record = self.record(job_id)
        failpoint(Failpoint.AFTER_END)
        return record


class Lease:
    """A runner's right to write for one job in one epoch."""

    def __init__(self, store: JobStore, record: JobRecord, owner: str) -> None:
        self.store = store
        self.record = record
        """The job as it was when it was claimed."""
        self.job_id = record.job_id
        self.epoch = record.epoch
        self.owner = owner
        self.is_canceled = record.cancel_requested
        self._notes: list[tuple[Event, Mapping[str, Any]]] = []
        self._n = 0
        self._lock = threading.RLock()
        self._renewed = self._told = time.monotonic()
        self._lost: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._interrupt: Callable[[], None] = lambda: None

    def next_txn(self) -> Txn:
        """Return the identity of this runner's next write."""
        with self._lock:
            self._n += 1
            return Txn(self.job_id, (self.epoch << EPOCH_SHIFT) + self._n)

    def note(self, event: Event, payload: Mapping[str, Any]) -> None:
        """Keep an event for the next `tell`."""
        with self._lock:
            self._notes.append((event, payload))

    def tell(self) -> None:
        """Append the kept events of this epoch, or a heartbeat, which renews the lease.

        Raises:
            LeaseLostError: a newer epoch has fenced this runner off.
        """
        with self._lock:
            events = self._notes or [(Event.HEARTBEAT, {})]
            txn = self.next_txn()
            n, self._n = self._n, self._n + len(events) - 1
            sent = time.monotonic()
            if not self.store.write(self.job_id, events, epoch=self.epoch, n=n, txn=txn):
                self.lose("a newer epoch of the job has been claimed")
                self.check()
            self._notes = []
            self._renewed = self._told = sent

    def tell_when_due(self) -> None:
        """Append the kept events when the last ones are a while ago; heartbeats take them along otherwise."""
        if time.monotonic() - self._told > self.store.settings.limits.heartbeat_s / 4:
            self.tell()

    def check(self) -> None:
        """Refuse to go on without a lease.

        Raises:
            LeaseLostError: the lease was lost, or not renewed for two thirds of its length.
        """
        if self._lost is None and time.monotonic() - self._renewed > self.store.settings.limits.lease_s * 2 / 3:
            self.lose("its heartbeats did not land for two thirds of the lease")
        if self._lost is not None:
            raise LeaseLostError(
                f"Runner {self.owner} no longer owns job {self.job_id}: {self._lost}. "
                f"`backfill-spark status {self.job_id}` shows who does; `resume` goes on when nobody does."
            )

    def lose(self, why: str) -> None:
        """Stop: no further call, no further write."""
        self._lost = self._lost or why
        self._interrupt()

    def start(self, interrupt: Callable[[], None]) -> None:
        """Renew the lease and look for a cancel request in the background; `interrupt` stops running tasks."""
        self._interrupt = interrupt
        self._renew()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{self.job_id}", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        """Beat: by a file, which needs no task slot, else by an event."""
        sent = time.monotonic()
        newest = self.store.pulse.beat(self.job_id, self.epoch)
        if newest is None:
            self.tell()
        elif newest > self.epoch:
            self.lose("a newer epoch of the job has been claimed")
            self.check()
        else:
            self._renewed = sent

    def _cancel_is_asked(self) -> bool:
        asked = self.store.pulse.is_cancel_asked(self.job_id)
        return self.store.cancel_is_requested(self.job_id) if asked is None else asked

    def stop(self) -> None:
        """Stop the heartbeats."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=30)

    def _beat(self) -> None:
        limits = self.store.settings.limits
        _use_pool(self.store.spark, "heartbeat")
        while not self._stop.wait(limits.heartbeat_s):
            try:
                failpoint(Failpoint.BEFORE_HEARTBEAT)
                self._renew()
                if not self.is_canceled and self._cancel_is_asked():
                    self.is_canceled = True
                    self._interrupt()
            except LeaseLostError:
                return
            except Exception:  # the store may be away for a while; the lease decides for how long
                if time.monotonic() - self._renewed > limits.lease_s * 2 / 3:
                    self.lose("its heartbeats did not land for two thirds of the lease")
                    return


def _use_pool(spark: SparkSession, pool: str) -> None:
    """Give this thread's jobs the next free slot where the scheduler is FAIR; without effect elsewhere."""
    try:
        spark.sparkContext.setLocalProperty("spark.scheduler.pool", pool)
    except Exception:
        return


def _app_id(spark: SparkSession) -> str | None:
    try:
        return str(spark.sparkContext.applicationId)
    except Exception:
        return None


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _fresh(event: Event, payload: Mapping[str, Any], seen: float) -> dict[str, Any]:
    return {"event": event.value, "epoch": 0, "n": 0, "payload": compact_json(payload), "seen": seen}


def _from_row(row: Any) -> JobRecord:
    """A job at rest as its row tells it: the events have nothing to add."""
    request = json.loads(row["request"])
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
        "spark_app_id": row["spark_app_id"],
    }
    return JobRecord(
        row["job_id"],
        JobState(row["state"]),
        created=created,
        epoch=row["epoch"],
        owner=row["owner"],
        end=end,
        started_at=row["started_at"].timestamp() if row["started_at"] else None,
        ended_at=row["ended_at"].timestamp() if row["ended_at"] else None,
    )
