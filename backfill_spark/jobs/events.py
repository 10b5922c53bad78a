"""A job as its events tell it: the kinds of events, and the fold that turns them into a record."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from backfill_spark.models import JobState

EPOCH_SHIFT = 32
"""The n-th write of an epoch has the transaction version `(epoch << EPOCH_SHIFT) + n`."""


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
    WAITING = "waiting"
    """The runner has nothing under way while another live job has the same pairs."""
    CHANGED = "changed"
    """The request was changed: by `resume` a new source version or budget, by an epoch the results it goes by."""
    ENDED = "ended"
    SUMMARIZED = "summarized"
    """The summary of a job at rest was read: its rows, so that `status` need not read the results again."""


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
    spark_app_id: str | None = None
    """Spark application of the newest claim."""
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
    """Chunk → what its event says of it; see `results.staged`."""
    merged: frozenset[int] = frozenset()
    """Staged chunks that are in `assessments`."""
    under_way: Mapping[str, Any] | None = None
    """What the newest epoch is scoring: a payload of `chunk_planned`, {} for all pairs of the job, None for nothing."""
    asked: tuple[Mapping[str, Any], ...] = ()
    """What each slice of judge calls spent and got: requests, cost_usd, answers, attempts, draw_to."""
    summary: Mapping[str, Any] | None = None
    """Payload of the newest `summarized`: rows, at."""
    started_at: float | None = None
    ended_at: float | None = None

    def is_alive(self, now: float) -> bool:
        """True while a runner holds a lease that has not run out."""
        is_held = self.state in (JobState.RUNNING, JobState.CANCELING) and self.epoch > 0 and not self.is_epoch_ended
        if not is_held or self.last_seen is None:
            return False
        return now - self.last_seen <= self.lease_s


@dataclass(frozen=True, slots=True)
class Claim:
    """An epoch of a job that this process has claimed; a `Lease` holds it."""

    record: JobRecord
    """The job as it was when it was claimed."""
    at: float = field(default_factory=time.monotonic)
    """Moment before the claim was written, on the monotonic clock in seconds: the lease runs from then."""

    @property
    def job_id(self) -> str:
        """Id of the job."""
        return self.record.job_id

    @property
    def epoch(self) -> int:
        """Number of the claim, from 1."""
        return self.record.epoch


def moment(seconds: float | None) -> datetime | None:
    """Return seconds since the epoch as a datetime in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def fold(job_id: str, events: Iterable[Mapping[str, Any]]) -> JobRecord:
    """Fold a job's events (rows with event, epoch, n, payload, at, seen) into its record; their order is free.

    `seen` is the commit's time, which leases go by; `at` is the writer's, which people are shown.
    """
    rows = sorted(events, key=lambda r: (r["epoch"], r["n"], r["seen"], r["at"]))
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
                    spark_app_id=payload.get("spark_app_id"),
                    lease_s=payload["lease_s"],
                    is_epoch_ended=False,
                    is_released=False,
                    under_way={},
                    started_at=record.started_at or row["at"],
                )
            case Event.CHUNK_PLANNED:
                record = replace(record, under_way=payload)
            case Event.WAITING:
                record = replace(record, under_way=None)
            case Event.CHUNK_STAGED:
                staged[payload["chunk"]] = payload
                if record.under_way is not None and record.under_way.get("chunk") == payload["chunk"]:
                    record = replace(record, under_way=None)
            case Event.CHUNK_MERGED:
                record = replace(record, merged=record.merged.union(payload["chunks"]))
            case Event.ASKED:
                record = replace(record, asked=(*record.asked, payload), under_way=None)
            case Event.SUMMARIZED if record.summary is None or record.summary["at"] < payload["at"]:
                record = replace(record, summary=payload)
    ends = sorted((r for r in rows if r["event"] == Event.ENDED), key=lambda r: int(r["epoch"]))
    if ends and ends[-1]["epoch"] == record.epoch:
        payload = json.loads(ends[-1]["payload"])
        how = End(payload["end"])
        record = replace(record, is_epoch_ended=True)
        if how in (End.RELEASED, End.LOST):
            record = replace(record, is_released=True)
        else:
            record = replace(record, state=JobState(how.value), end=payload, ended_at=ends[-1]["at"])
    if record.summary is not None and record.summary["at"] < (record.ended_at or float("inf")):
        record = replace(record, summary=None)  # a runner has gone on since
    if record.cancel_requested and not record.state.is_terminal:
        record = replace(record, state=JobState.CANCELING)
    others = (Event.CANCEL_REQUESTED, Event.CHANGED, Event.SUMMARIZED)  # no sign of the runner's life
    seen = [r["seen"] for r in rows if r["epoch"] == record.epoch and r["event"] not in others]
    return replace(record, changes=changes, staged=staged, last_seen=max(seen, default=None))
