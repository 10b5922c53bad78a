"""Jobs on Delta: the events that are the truth, the row for people, and the claim of a runner.

The protocol, in four rules:

1. A job's state is what its events fold to; `jobs` only shows it.
2. Epoch e+1 is claimed after the end of epoch e is decided. The end of an epoch is one append under the
   transaction id `<job_id>/end/<epoch>`, so of two writers exactly one wins, and the other adopts what it reads.
3. A claim is one append under `(job_id, epoch·2^32)` to `job_events`, read back, and then an empty one to
   `staging` and `assessments`: after it, every write of an older epoch fails or is skipped. Epoch 1 of a job that
   its creator runs is in the commit that creates the job: nobody else can know of it.
4. Each later write of the runner carries `(job_id, epoch·2^32 + n)` with rising n.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from backfill_spark import schema
from backfill_spark.errors import JobNotFoundError, LeaseLostError
from backfill_spark.jobs.events import EPOCH_SHIFT, Claim, End, Event, JobRecord, fold, moment
from backfill_spark.jobs.failpoints import Failpoint, failpoint
from backfill_spark.jobs.heartbeat import Heartbeat
from backfill_spark.jobs.row import record_of, row_of
from backfill_spark.models import JobState, compact_json
from backfill_spark.storage.delta_table import Store, Stores, Txn, aside
from backfill_spark.storage.retry import until_alone

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_TERMINAL = [s.value for s in JobState if s.is_terminal]
_FINAL = ", ".join(f"'{s}'" for s in _TERMINAL)
_IS_NEWER = f"t.state NOT IN ({_FINAL}) AND coalesce(t.epoch, 0) <= coalesce(s.epoch, 0)"


class JobStore:
    """Owner of `job_events` and `jobs`."""

    def __init__(self, tables: Stores, *, clock: Callable[[], float] = time.time) -> None:
        self.spark = tables.spark
        self.settings = tables.settings
        self.clock = clock
        self.events = tables.of(schema.JOB_EVENTS)
        self.jobs = tables.of(schema.JOBS)
        self.heartbeat = Heartbeat(tables.settings)

    def ensure(self) -> None:
        """Create both tables when they are not there."""
        self.events.ensure()
        self.jobs.ensure()

    def create(self, job_id: str, created: Mapping[str, Any]) -> None:
        """Record a new job; PENDING until it is claimed."""
        self._create(job_id, [_row_of(job_id, Event.CREATED, created, 0, 0, self.clock())])

    def create_claimed(self, job_id: str, created: Mapping[str, Any]) -> Claim:
        """Record a new job that this process runs at once: nobody else can know it, so one commit is both."""
        claimed, at = self._claim_of(), time.monotonic()
        now = self.clock()
        rows = [
            _row_of(job_id, Event.CREATED, created, 0, 0, now),
            _row_of(job_id, Event.CLAIMED, claimed, 1, 0, now),
        ]
        record = self._create(job_id, rows)
        failpoint(Failpoint.AFTER_CLAIM)
        return Claim(record, at)

    def _create(self, job_id: str, rows: Sequence[dict[str, Any]]) -> JobRecord:
        self.ensure()
        now = self.clock()
        record = fold(job_id, [{**r, "at": now, "seen": now} for r in rows])
        with aside(lambda: self.jobs.append(self.jobs.frame([row_of(record)]))):
            self.events.append(self.events.frame(rows))
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
        now = self.clock()
        rows = [_row_of(job_id, event, payload, epoch, n + i, now) for i, (event, payload) in enumerate(events)]
        return self.events.append(self.events.frame(rows), txn=txn)

    def record(self, job_id: str) -> JobRecord:
        """Return one job as its events tell it.

        Raises:
            JobNotFoundError: no job has this id.
        """
        found = self.records([job_id])
        if not found:
            raise JobNotFoundError.for_id(job_id, self.settings.tables_at)
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
        return [self._with_heartbeat(fold(j, by_job[j])) for j in known]

    def _with_heartbeat(self, record: JobRecord) -> JobRecord:
        if not record.epoch or record.is_epoch_ended:
            return record
        seen = self.heartbeat.seen(record.job_id, record.epoch)
        return record if seen is None else replace(record, last_seen=max(seen, record.last_seen or 0.0))

    def _events(self) -> DataFrame:
        # The commit's clock is the storage's, the same for every runner: the time of the event's file.
        seen = (F.unix_micros("_metadata.file_modification_time") / 1e6).alias("seen")
        at = (F.unix_micros("at") / 1e6).alias("at")
        return self.events.read().select("job_id", "event", "epoch", "n", "payload", at, seen)

    def ask_cancel(self, record: JobRecord) -> None:
        """Ask for the job's end: an event for its record, and a mark, since a runner that can look for marks does."""
        self.heartbeat.ask_cancel(record.job_id)  # each time, and first: no runner reads the event where marks are
        if not record.cancel_requested:
            self.write(record.job_id, [(Event.CANCEL_REQUESTED, {})])

    def is_cancel_asked(self, job_id: str) -> bool:
        """True when anybody asked for the job's end."""
        is_marked = self.heartbeat.is_cancel_asked(job_id)
        if is_marked is not None:
            return is_marked
        rows = self.events.read().where((F.col("job_id") == job_id) & (F.col("event") == Event.CANCEL_REQUESTED.value))
        return bool(rows.select("event").head(1))

    def newest(self, experiment_id: str | None, state: JobState | None, limit: int) -> list[JobRecord]:
        """Return jobs, newest first; rows that are not at rest are read again from the events."""
        if not self.jobs.exists():
            return []
        rows = self.jobs.read()
        if experiment_id is not None:
            rows = rows.where(F.col("experiment_id") == experiment_id)
        if state is None:
            wanted = rows.orderBy(F.col("job_id").desc()).limit(limit).collect()
        else:
            # A row that is not at rest may be stale, so every such job is looked at.
            moving = F.col("state").isin([s.value for s in JobState if not s.is_terminal])
            at_rest = rows.where(F.col("state") == state.value).orderBy(F.col("job_id").desc()).limit(limit)
            wanted = at_rest.where(~moving).unionByName(rows.where(moving)).collect()
            wanted.sort(key=lambda r: r["job_id"], reverse=True)
        moving_ids = [r["job_id"] for r in wanted if not JobState(r["state"]).is_terminal]
        fresh = {r.job_id: r for r in self.records(moving_ids)}
        for row in wanted:
            if (now := fresh.get(row["job_id"])) is not None and now.state.value != row["state"]:
                self.show(now)
        records = [fresh.get(r["job_id"]) or record_of(r) for r in wanted]
        return [r for r in records if state is None or r.state is state][:limit]

    def live(self, experiment_id: str) -> list[JobRecord]:
        """Return the experiment's jobs that wait or have a live runner."""
        now = self.clock()
        found = self._not_at_rest(F.col("experiment_id") == experiment_id)
        return [r for r in found if r.state is JobState.PENDING or r.is_alive(now)]

    def claimable(self) -> list[JobRecord]:
        """Return jobs that wait for a runner, oldest first: PENDING, interrupted, or with a dead runner."""
        now = self.clock()
        return [r for r in self._not_at_rest() if not r.state.is_at_rest and not r.is_alive(now)]

    def _not_at_rest(self, condition: Column | None = None) -> list[JobRecord]:
        """Return the jobs whose row is not at rest, as their events tell them now."""
        if not self.jobs.exists():
            return []
        rows = self.jobs.read().where(F.col("state").isin([s.value for s in JobState if not s.is_at_rest]))
        rows = rows if condition is None else rows.where(condition)
        return self.records([r["job_id"] for r in rows.select("job_id").orderBy("job_id").collect()])

    def show(self, record: JobRecord, *, has_row: bool = False) -> None:
        """Bring the job's row in `jobs` up to date; conflicts with other jobs' rows are tried again.

        With `has_row` the row is known to be there: an UPDATE takes half the CPU of a MERGE.
        """
        row = row_of(record)
        changes = {k: f"s.{k}" for k in row if k != "job_id"}
        if has_row:
            until_alone(lambda: self._update(record, row))
            return
        until_alone(
            lambda: self.jobs.merge(
                lambda _: self.jobs.frame([row]),
                "t.job_id = s.job_id",
                # A stale reader must not show an older state over a newer or final one.
                lambda b: b.whenMatchedUpdate(_IS_NEWER, set=dict(changes)).whenNotMatchedInsert(
                    values={"job_id": "s.job_id", **changes}  # by name: a newer version may have added columns
                ),
            )
        )

    def _update(self, record: JobRecord, row: Mapping[str, Any]) -> None:
        is_older = ~F.col("state").isin(_TERMINAL)
        is_older &= F.coalesce(F.col("epoch"), F.lit(0)) <= record.epoch
        types = {f.name: f.dataType for f in schema.JOBS.schema.fields}
        values: dict[str, str | Column] = {
            k: F.lit(v).cast(types[k]) for k, v in row.items() if k not in ("job_id", "request")
        }
        self.jobs.delta().update((F.col("job_id") == record.job_id) & is_older, values)

    # --- claims

    def claim(self, record: JobRecord, fence: Sequence[Store]) -> Claim | None:
        """Take the next epoch of a job; None when another runner was first, or the job has ended.

        The first epoch has no older runner, so it needs no `fence`.

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
        payload, at = self._claim_of(), time.monotonic()
        owner = payload["owner"]
        txn = Txn(record.job_id, epoch << EPOCH_SHIFT)
        if not self.write(record.job_id, [(Event.CLAIMED, payload)], epoch=epoch, txn=txn):
            return None
        now = self.record(record.job_id)
        if now.epoch != epoch or now.owner != owner or now.state.is_at_rest:
            return None
        failpoint(Failpoint.AFTER_CLAIM)
        for fenced in fence if epoch > 1 else ():
            for _ in range(20):
                if fenced.append(fenced.frame([]), txn=txn):
                    break
                if (now := self.record(record.job_id)).epoch != epoch:
                    raise LeaseLostError(f"Job {record.job_id} was claimed by {now.owner} while {owner} claimed it.")
            else:
                raise LeaseLostError(
                    f"Runner {owner} could not fence off earlier runners of job {record.job_id} in "
                    f"{fenced.location.shown!r}: other commits kept coming first. Resume the job."
                )
        failpoint(Failpoint.AFTER_WALL)
        return Claim(now, at)

    def _claim_of(self) -> dict[str, Any]:
        """Return what a claim of this runner holds: its name, among others."""
        owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        lease_s = self.settings.limits.lease_s
        return {"owner": owner, "lease_s": lease_s, "spark_app_id": _app_id(self.spark)}

    def end(
        self,
        job_id: str,
        epoch: int,
        how: End,
        payload: Mapping[str, Any],
        notes: Sequence[tuple[Event, Mapping[str, Any]]] = (),
        *,
        claimed: JobRecord | None = None,
    ) -> JobRecord:
        """End an epoch once, with its last events; return the job, whose end another writer may have decided first."""
        failpoint(Failpoint.BEFORE_END)
        txn = Txn(f"{job_id}/end/{epoch}", 1)
        events = [*notes, (Event.ENDED, {"end": how.value, **payload})]
        landed = self.write(job_id, events, epoch=epoch, n=(1 << EPOCH_SHIFT) - len(events), txn=txn)
        if landed and claimed is not None and how.value in _TERMINAL:
            # This end is the job's, and no event that is still to come changes it.
            state, now = JobState(how.value), self.clock()
            record = replace(claimed, state=state, is_epoch_ended=True, end=payload, last_seen=now, ended_at=now)
        else:
            record = self.record(job_id)
        failpoint(Failpoint.AFTER_END)
        return record


def _app_id(spark: SparkSession) -> str | None:
    try:
        return str(spark.sparkContext.applicationId)
    except Exception:
        return None


def _row_of(job_id: str, event: Event, payload: Mapping[str, Any], epoch: int, n: int, now: float) -> dict[str, Any]:
    text = compact_json(payload)
    return {"job_id": job_id, "event": event.value, "epoch": epoch, "n": n, "at": moment(now), "payload": text}
