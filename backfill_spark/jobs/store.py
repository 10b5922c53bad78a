"""Jobs on Delta: the events that are the truth, the row for people, and the claim of a runner.

The protocol, in four rules:

1. A job's state is what its events fold to; `jobs` only shows it.
2. Epoch e+1 is claimed after the end of epoch e is decided. The end of an epoch is one append under the
   transaction id `<job_id>/end/<epoch>`, so of two writers exactly one wins, and the other adopts what it reads.
3. A claim is one append under `(job_id, epoch·2^32)` to `job_events`, read back, and then an empty one to
   `assessments`: after it, every write of an older epoch fails or is skipped. Epoch 1 of a job that
   its creator runs is in the commit that creates the job: nobody else can know of it.
4. Each later write of the runner carries `(job_id, epoch·2^32 + n)` with rising n.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backfill_spark import schema
from backfill_spark.errors import JobNotFoundError, LeaseLostError
from backfill_spark.jobs.events import EPOCH_SHIFT, Claim, End, Event, JobRecord, fold, moment
from backfill_spark.jobs.failpoints import Failpoint, failpoint
from backfill_spark.jobs.heartbeat import Heartbeat
from backfill_spark.jobs.row import record_of, row_of
from backfill_spark.models import JobState, compact_json
from backfill_spark.storage.small_table import Txn

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.storage.delta_table import Store
    from backfill_spark.storage.small_table import Where
    from backfill_spark.storage.stores import Stores

_TERMINAL = [s.value for s in JobState if s.is_terminal]
_MOVING = [s.value for s in JobState if not s.is_terminal]
_NOT_AT_REST = [s.value for s in JobState if not s.is_at_rest]
_NOT_SUCCEEDED = [s.value for s in JobState if s is not JobState.SUCCEEDED]
NEWEST = 5
"""Jobs that are looked at for one that began and SUCCEEDED between two looks."""


class JobStore:
    """Owner of `job_events` and `jobs`."""

    def __init__(self, tables: Stores, *, clock: Callable[[], float] = time.time) -> None:
        self.tables = tables
        self.settings = tables.settings
        self.clock = clock
        self.events = tables.small(schema.JOB_EVENTS)
        self.jobs = tables.small(schema.JOBS)
        self.heartbeat = Heartbeat(tables.settings, is_here=tables.is_here)

    def ensure(self) -> None:
        """Create both tables when they are not there."""
        self.events.ensure()
        self.jobs.ensure()

    def create(self, job_id: str, created: Mapping[str, Any]) -> None:
        """Record a new job; PENDING until it is claimed."""
        self._create(job_id, [_row_of(job_id, Event.CREATED, created, 0, 0, self.clock())])

    def create_claimed(self, job_id: str, created: Mapping[str, Any]) -> Claim:
        """Record a new job that this process runs at once: nobody else can know it, so one commit is both."""
        at = time.monotonic()
        record = self._create(job_id, self._claimed_rows(job_id, created))
        failpoint(Failpoint.AFTER_CLAIM)
        return Claim(record, at)

    def create_ended(
        self, job_id: str, created: Mapping[str, Any], notes: Sequence[tuple[Event, Mapping[str, Any]]]
    ) -> JobRecord:
        """Record a new job that has nothing to do, and its last events: its whole life is one commit."""
        now, first = self.clock(), (1 << EPOCH_SHIFT) - len(notes)
        rows = [_row_of(job_id, event, payload, 1, first + i, now) for i, (event, payload) in enumerate(notes)]
        return self._create(job_id, [*self._claimed_rows(job_id, created), *rows])

    def _claimed_rows(self, job_id: str, created: Mapping[str, Any]) -> list[dict[str, Any]]:
        now = self.clock()
        return [
            _row_of(job_id, Event.CREATED, created, 0, 0, now),
            _row_of(job_id, Event.CLAIMED, self._claim_of(), 1, 0, now),
        ]

    def _create(self, job_id: str, rows: Sequence[dict[str, Any]]) -> JobRecord:
        self.ensure()
        now = self.clock()
        record = fold(job_id, [{**r, "at": now, "seen": now} for r in rows])
        self.events.append(rows)
        self.jobs.append([row_of(record)])
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
        return self.events.append(rows, txn=txn)

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
        by_job: dict[str, list[Mapping[str, Any]]] = {}
        # The commit's clock is the storage's, the same for every runner: the time of the event's file.
        for row in self.events.read({"job_id": job_ids}, seen=True) if job_ids else ():
            by_job.setdefault(row["job_id"], []).append(row | {"at": row["at"].timestamp()})
        known = [j for j in job_ids if any(r["event"] == Event.CREATED for r in by_job.get(j, []))]
        return [self._with_heartbeat(fold(j, by_job[j])) for j in known]

    def _with_heartbeat(self, record: JobRecord) -> JobRecord:
        if not record.epoch or record.is_epoch_ended:
            return record
        seen = self.heartbeat.seen(record.job_id, record.epoch)
        return record if seen is None else replace(record, last_seen=max(seen, record.last_seen or 0.0))

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
        return bool(self.events.read({"job_id": [job_id], "event": [Event.CANCEL_REQUESTED.value]}))

    def newest(self, experiment_id: str | None, state: JobState | None, limit: int) -> list[JobRecord]:
        """Return jobs, newest first; rows that are not at rest are read again from the events."""
        where = {} if experiment_id is None else {"experiment_id": [experiment_id]}
        if state is None:
            wanted = self.jobs.read(where, newest=("job_id", limit))
        else:
            # A row that is not at rest may be stale, so every such job is looked at.
            wanted = self.jobs.read(where | {"state": _MOVING})
            if state.is_terminal:
                wanted += self.jobs.read(where | {"state": [state.value]}, newest=("job_id", limit))
            wanted.sort(key=lambda r: r["job_id"], reverse=True)
        moving_ids = [r["job_id"] for r in wanted if not JobState(r["state"]).is_terminal]
        fresh = {r.job_id: r for r in self.records(moving_ids)}
        for row in wanted:
            if (now := fresh.get(row["job_id"])) is not None and now.state.value != row["state"]:
                self.show(now)
        records = [fresh.get(r["job_id"]) or record_of(r) for r in wanted]
        return self._with_summaries([r for r in records if state is None or r.state is state][:limit])

    def _with_summaries(self, records: list[JobRecord]) -> list[JobRecord]:
        """Add the newest summaries, which rows of `jobs` do not hold."""
        ids = [r.job_id for r in records if r.summary is None and r.state.is_at_rest]
        found: dict[str, Any] = {}
        where = {"job_id": ids, "event": [Event.SUMMARIZED.value]}
        for row in self.events.read(where) if ids else ():
            told = json.loads(row["payload"])
            if row["job_id"] not in found or found[row["job_id"]]["at"] < told["at"]:
                found[row["job_id"]] = told
        return [replace(r, summary=found[r.job_id]) if r.job_id in found else r for r in records]

    def live(self, experiment_id: str) -> list[JobRecord]:
        """Return the experiment's jobs that wait or have a live runner."""
        now = self.clock()
        found = self._not_at_rest({"experiment_id": [experiment_id]})
        return [r for r in found if r.state is JobState.PENDING or r.is_alive(now)]

    def others(self, experiment_id: str, job_id: str) -> list[JobRecord]:
        """Return the experiment's other jobs that are not at rest, whether or not their runners are alive."""
        return [r for r in self._not_at_rest({"experiment_id": [experiment_id]}, but=job_id) if not r.state.is_at_rest]

    def with_staged(self, experiment_id: str | None, job_id: str, kept_s: float) -> list[JobRecord]:
        """Return the other jobs (of an experiment) whose staged results `assessments` may lack: none that SUCCEEDED.

        Args:
            kept_s: how long results of jobs at rest are kept, in seconds.
        """
        where = {} if experiment_id is None else {"experiment_id": [experiment_id]}
        rows = self.jobs.read({**where, "state": _NOT_SUCCEEDED})
        since = moment(self.clock() - kept_s)
        kept = [r for r in rows if r["state"] in _NOT_AT_REST or r["ended_at"] is None or r["ended_at"] >= since]
        return self.records(sorted(r["job_id"] for r in kept if r["job_id"] != job_id))

    def succeeded(self, experiment_id: str) -> frozenset[str]:
        """Return the ids of the experiment's newest jobs that SUCCEEDED: all that they staged is merged."""
        where = {"experiment_id": [experiment_id], "state": [JobState.SUCCEEDED.value]}
        return frozenset(r["job_id"] for r in self.jobs.read(where, newest=("job_id", NEWEST)))

    def active(self, experiment_id: str, job_id: str, more: Collection[str]) -> list[JobRecord]:
        """Return the experiment's other jobs that are not at rest, and those of these ids."""
        rows = self.jobs.read({"experiment_id": [experiment_id], "state": _NOT_AT_REST})
        return self.records(sorted({r["job_id"] for r in rows}.union(more) - {job_id}))

    def claimable(self) -> list[JobRecord]:
        """Return jobs that wait for a runner, oldest first: PENDING, interrupted, or with a dead runner."""
        now = self.clock()
        return [r for r in self._not_at_rest({}) if not r.state.is_at_rest and not r.is_alive(now)]

    def _not_at_rest(self, where: Where, *, but: str = "") -> list[JobRecord]:
        """Return the jobs whose row is not at rest, as their events tell them now."""
        rows = self.jobs.read({**where, "state": _NOT_AT_REST})
        return self.records(sorted(r["job_id"] for r in rows if r["job_id"] != but))

    def show(self, record: JobRecord) -> None:
        """Bring the job's row in `jobs` up to date; a stale reader does not show an older state over a newer one."""

        def is_newer(row: Mapping[str, Any]) -> bool:
            return row["state"] not in _TERMINAL and (row["epoch"] or 0) <= record.epoch

        self.jobs.put(row_of(record), key="job_id", guard=("state", "epoch"), is_newer=is_newer)

    # --- claims

    def claim(self, record: JobRecord, fence: Store | None) -> Claim | None:
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
        if fence is not None and epoch > 1:
            for _ in range(20):
                if fence.fence(txn):
                    break
                if (now := self.record(record.job_id)).epoch != epoch:
                    raise LeaseLostError(f"Job {record.job_id} was claimed by {now.owner} while {owner} claimed it.")
            else:
                raise LeaseLostError(
                    f"Runner {owner} could not fence off earlier runners of job {record.job_id} in "
                    f"{fence.location.shown!r}: other commits kept coming first. Resume the job."
                )
        failpoint(Failpoint.AFTER_WALL)
        return Claim(now, at)

    def _claim_of(self) -> dict[str, Any]:
        """Return what a claim of this runner holds: its name, among others."""
        owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        lease_s = self.settings.limits.lease_s
        return {"owner": owner, "lease_s": lease_s, "spark_app_id": _app_id(self.tables.running)}

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


def _app_id(spark: SparkSession | None) -> str | None:
    if spark is None:
        return None
    from backfill_spark.storage.capabilities import capabilities

    return capabilities(spark).application or None


def _row_of(job_id: str, event: Event, payload: Mapping[str, Any], epoch: int, n: int, now: float) -> dict[str, Any]:
    text = compact_json(payload)
    return {"job_id": job_id, "event": event.value, "epoch": epoch, "n": n, "at": moment(now), "payload": text}
