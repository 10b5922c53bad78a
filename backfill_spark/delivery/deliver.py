"""One delivery: the results that a job has merged, to one place, in batches that are remembered.

What `deliveries` tells is not sent again, so a delivery that was killed goes on when it is asked for again. A batch is
remembered after it was sent: a kill in between sends it twice, and the sink's ids make it one (but for OpenTelemetry).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backfill_spark import schema
from backfill_spark.delivery.place import place_of
from backfill_spark.delivery.receipts import Receipts
from backfill_spark.delivery.result import Versions, results_of
from backfill_spark.delivery.sinks import sink_of
from backfill_spark.display.progress import tell
from backfill_spark.errors import DeliveryStoppedError
from backfill_spark.judges.llm.client import run_aside
from backfill_spark.models import Outcome

if TYPE_CHECKING:
    from backfill_spark.delivery.receipts import Receipt
    from backfill_spark.delivery.result import Result
    from backfill_spark.display.progress import Progress
    from backfill_spark.storage.stores import Stores

logger = logging.getLogger(__name__)

NO_VALUE = "the scorer gave no value"
NEWER = "a newer result is there"
_REASONS = 20
"""Different reasons that are counted apart."""


@dataclass(slots=True)
class Delivery:
    """What came of a delivery. `results = delivered_before + accepted + rejected + not_sent + left`."""

    job_id: str
    destination: str
    versions: Versions
    results: int = 0
    """Rows that the job has merged."""
    delivered_before: int = 0
    accepted: int = 0
    """Results that the sink took in this delivery."""
    rejected: int = 0
    """Results that it did not take; they are sent again by the next delivery."""
    not_sent: int = 0
    """Results that it has no form for."""
    left: int = 0
    """Results that were not sent since the delivery stopped."""
    read_back: int | None = None
    """Accepted results that the sink then showed; None where it was not asked, or cannot be."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Why results were rejected or not sent: reason → results."""
    stopped: str | None = None
    """Why the delivery stopped."""

    @property
    def missing(self) -> int:
        """Accepted results that the sink does not show; they are sent again by the next delivery."""
        return 0 if self.read_back is None else self.accepted - self.read_back

    @property
    def is_complete(self) -> bool:
        """True when the sink has every result that it has a form for, and nothing stopped the delivery."""
        return not (self.rejected or self.left or self.missing or self.stopped)

    def reject(self, why: str) -> None:
        """Count one result as rejected."""
        self.rejected += 1
        self._count(why)

    def withhold(self, why: str) -> None:
        """Count one result as not sent."""
        self.not_sent += 1
        self._count(why)

    def _count(self, why: str) -> None:
        key = why if why in self.reasons or len(self.reasons) < _REASONS else "other reasons"
        self.reasons[key] = self.reasons.get(key, 0) + 1


class Deliverer:
    """One job's results on the way to one place."""

    def __init__(self, stores: Stores, job_id: str, to: str, versions: Versions) -> None:
        place = place_of(to, stores.settings)
        self._results = stores.small(schema.ASSESSMENTS)
        self._sink = sink_of(place, versions, stores)
        self._stores = stores
        self.delivery = Delivery(job_id, place.destination, versions)

    async def check(self) -> None:
        """See that results can be sent.

        Raises:
            BackfillRefusedError: nobody answers there, or a key is not accepted.
        """
        try:
            await self._sink.open()
        finally:
            await self._sink.close()

    async def run(self, bar: Progress | None = None, *, read_back: bool = True) -> Delivery:
        """Send what is not delivered, then ask for what was accepted.

        Raises:
            BackfillRefusedError: as `check`; nothing was sent.
        """
        done = self.delivery
        try:
            await self._sink.open()
            if not self._results.exists():
                return done
            version = self._results.version()
            receipts = Receipts(self._stores, done.destination, done.job_id, version)
            accepted = await self._send(receipts, version, bar)
            if read_back and self._sink.shows and done.stopped is None:
                await self._read_back(receipts, version, accepted)
        finally:
            await self._sink.close()
        return done

    def _pieces(self, version: int) -> Iterator[list[Result]]:
        done = self.delivery
        return results_of(self._results, done.job_id, done.versions, version=version, size=self._sink.size)

    async def _send(self, receipts: Receipts, version: int, bar: Progress | None) -> set[str]:
        done, known, accepted = self.delivery, receipts.known(), set[str]()
        for piece in self._pieces(version):
            due = [r for r in piece if self._is_due(r, known)]
            if done.stopped is None and due:
                try:
                    rejected = await self._sink.send(due)
                except DeliveryStoppedError as error:
                    done.stopped = str(error)
                else:
                    for why in rejected.values():
                        done.reject(why)
                    taken = [r for r in due if r.id not in rejected]
                    done.accepted += len(taken)
                    accepted.update(r.id for r in taken)
                    receipts.add(
                        taken, rejected={r.row["assessment_id"]: rejected[r.id] for r in due if r.id in rejected}
                    )
                    tell(f"job {done.job_id}: {done.accepted:,} results delivered to {done.destination}")
            if done.stopped is not None:
                done.left += len(due)
            if bar is not None:
                bar.advance(len(piece))
        return accepted

    def _is_due(self, result: Result, known: dict[str, Receipt]) -> bool:
        """Count a result that is not to be sent; True for the others."""
        done = self.delivery
        done.results += 1
        there = known.get(result.id)
        if result.row["outcome"] == Outcome.EMPTY:
            done.withhold(NO_VALUE)
        elif there is not None and there.fingerprint == result.fingerprint:
            done.delivered_before += 1
        elif there is not None and there.age > result.age:
            done.withhold(NEWER)
        elif (why := self._sink.unfit(result)) is not None:
            done.withhold(why)
        else:
            return True
        return False

    async def _read_back(self, receipts: Receipts, version: int, accepted: set[str]) -> None:
        """Ask for what was accepted; what the sink does not show is no longer delivered."""
        done, shown = self.delivery, set[str]()
        try:
            for piece in self._pieces(version):
                asked = [r for r in piece if r.id in accepted]
                shown |= set(await self._sink.found(asked)) if asked else set()
        except DeliveryStoppedError as error:
            done.stopped = f"Everything was sent, and could not be read back: {error}"
            return
        done.read_back = len(shown)
        receipts.add(missing=accepted - shown)


def check_place(stores: Stores, to: str) -> None:
    """See that results can be delivered to a place, before there are any.

    Raises:
        BackfillRefusedError: it is unknown, nobody answers there, or a key is not accepted.
    """
    deliverer = Deliverer(stores, "", to, Versions.KEEP)
    run_aside(deliverer.check())
