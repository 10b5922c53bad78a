"""The lease: a runner's right to write for one job in one epoch, renewed in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backfill_spark.errors import LeaseLostError, interrupt_behind
from backfill_spark.jobs.events import EPOCH_SHIFT, Claim, End, Event, JobRecord
from backfill_spark.jobs.failpoints import Failpoint, failpoint
from backfill_spark.storage.capabilities import is_connect
from backfill_spark.storage.retry import FULL_DISK, error_text
from backfill_spark.storage.small_table import Txn

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.jobs.store import JobStore

logger = logging.getLogger(__name__)


class Lease:
    """A runner's right to write for one job in one epoch."""

    def __init__(self, store: JobStore, claim: Claim) -> None:
        self.store = store
        self.claimed = claim.record
        """The job as it was when it was claimed, with what this epoch has changed in its request."""
        self.job_id = claim.job_id
        self.epoch = claim.epoch
        self.owner = claim.record.owner
        self.is_canceled = claim.record.cancel_requested
        self._notes: list[tuple[Event, Mapping[str, Any]]] = []
        self._n = 0
        self._lock = threading.RLock()
        self._telling = threading.Lock()
        self._renewed = self._told = claim.at
        self._lost: str | None = None
        self._failed: str | None = None
        """What the last heartbeat or event that did not land ended with."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._interrupt: Callable[[], None] = lambda: None

    def next_txn(self) -> Txn:
        """Return the identity of this runner's next write."""
        with self._lock:
            self._n += 1
            return Txn(self.job_id, (self.epoch << EPOCH_SHIFT) + self._n)

    def record(self, event: Event, payload: Mapping[str, Any]) -> None:
        """Keep an event for the next `flush`."""
        with self._lock:
            self._notes.append((event, payload))

    def change(self, fields: Mapping[str, Any]) -> None:
        """Change the job's request from this epoch on, with the next `flush`."""
        self.record(Event.CHANGED, fields)
        self.claimed = replace(self.claimed, changes={**self.claimed.changes, **fields})

    def take_recorded(self) -> list[tuple[Event, Mapping[str, Any]]]:
        """Return the kept events, for a caller that appends them itself."""
        with self._lock:
            notes, self._notes = self._notes, []
            return notes

    def end(self, how: End, payload: Mapping[str, Any]) -> JobRecord:
        """End the epoch with its last events; tried again while the storage is away, as long as the lease lasts.

        Raises:
            LeaseLostError: it could not be written in time; another runner may go on with the job.
        """
        notes, pause = self.take_recorded(), 0.2
        while True:
            try:
                return self.store.end(self.job_id, self.epoch, how, payload, notes, claimed=self.claimed)
            except Exception as error:
                if interrupt_behind(error) is not None:
                    raise
                self._failed = error_text(error)
                logger.warning("job %s: its end could not be written yet: %s", self.job_id, self._failed)
                self.check()
                time.sleep(pause)
                pause = min(2 * pause, 5.0)

    def flush(self) -> None:
        """Append the kept events of this epoch, or a heartbeat, which renews the lease.

        Raises:
            LeaseLostError: a newer epoch has fenced this runner off.
        """
        with self._telling:
            with self._lock:
                count, events = len(self._notes), list(self._notes) or [(Event.HEARTBEAT, {})]
                txn = self.next_txn()
                n, self._n = self._n, self._n + len(events) - 1
                self._told = sent = time.monotonic()
            if not self.store.write(self.job_id, events, epoch=self.epoch, n=n, txn=txn):
                self.revoke("a newer epoch of the job has been claimed")
                self.check()
            with self._lock:
                self._notes = self._notes[count:]
                self._renewed = max(self._renewed, sent)
                self._failed = None

    @property
    def is_fresh(self) -> bool:
        """False when the last event is a heartbeat ago: a runner that stood still may have been replaced since."""
        return time.monotonic() - self._told <= self.store.settings.limits.heartbeat_s

    def flush_recorded(self) -> None:
        """Append the kept events of this epoch, where there are some; see `flush`."""
        if self._notes:
            self.flush()

    def check(self) -> None:
        """Refuse to go on without a lease.

        Raises:
            LeaseLostError: the lease was lost, or not renewed for two thirds of its length.
        """
        if self._lost is None:
            self._lose_when_late()
        if self._lost is not None:
            raise self.lost()

    def _lose_when_late(self) -> None:
        if time.monotonic() - self._renewed > self.store.settings.limits.lease_s * 2 / 3:
            why = f", the last one for: {self._failed}" if self._failed else ""
            self.revoke(f"its heartbeats did not land for two thirds of the lease{why}")

    def lost(self) -> LeaseLostError:
        """Return what says that the lease is gone, and why."""
        if self._failed is not None and FULL_DISK in self._failed:
            return LeaseLostError(
                f"{self._failed}, then go on with `backfill-spark resume {self.job_id}`: nothing of the job could be "
                "written until its lease was over. What it has staged is kept."
            )
        return LeaseLostError(
            f"Runner {self.owner} no longer owns job {self.job_id}: {self._lost}. "
            f"`backfill-spark status {self.job_id}` shows who does; `resume` goes on when nobody does."
        )

    def revoke(self, why: str) -> None:
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
        newest = self.store.heartbeat.beat(self.job_id, self.epoch)
        if newest is None:
            self.flush()
        elif newest > self.epoch:
            self.revoke("a newer epoch of the job has been claimed")
            self.check()
        else:
            self._renewed, self._failed = sent, None

    def stop(self) -> None:
        """Stop the heartbeats, and wait for one under way."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=30)

    def _beat(self) -> None:
        limits = self.store.settings.limits
        _use_pool(self.store.tables.running, "heartbeat")
        while not self._stop.wait(limits.heartbeat_s):
            if self._lost is not None:
                self._interrupt()
                continue
            try:
                failpoint(Failpoint.BEFORE_HEARTBEAT)
                self._renew()
                self.is_canceled = self.is_canceled or self.store.is_cancel_asked(self.job_id)
            except LeaseLostError:
                continue
            except Exception as error:  # the store may be away for a while; the lease decides for how long
                self._failed = error_text(error)
                self._lose_when_late()
            if self.is_canceled:
                # At each beat, since it stops only the tasks that run: one may come between two of Spark's jobs.
                self._interrupt()


def _use_pool(spark: SparkSession | None, pool: str) -> None:
    """Give this thread's jobs the next free slot where the scheduler is FAIR; without effect elsewhere."""
    if spark is not None and not is_connect(spark):
        with suppress(Exception):  # its JVM is gone, and what is under way says so
            spark.sparkContext.setLocalProperty("spark.scheduler.pool", pool)
