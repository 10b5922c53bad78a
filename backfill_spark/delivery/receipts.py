"""Receipts: what was delivered where, in the table `deliveries`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from backfill_spark import schema
from backfill_spark.models import compact_json

if TYPE_CHECKING:
    from backfill_spark.delivery.result import Result
    from backfill_spark.storage.stores import Stores


class Receipt(NamedTuple):
    """What a sink has under one id."""

    fingerprint: str
    age: tuple[int, int]
    """Of the result: a higher one is newer."""


class Receipts:
    """Owner of `deliveries`, for one job and one destination."""

    def __init__(
        self,
        stores: Stores,
        destination: str,
        job_id: str,
        results_version: int,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._table = stores.small(schema.DELIVERIES)
        self._of = {"destination": destination, "job_id": job_id, "results_version": results_version}
        self._clock = clock

    def known(self) -> dict[str, Receipt]:
        """Return what the destination has, of all jobs: id → receipt."""
        found: dict[str, Receipt] = {}
        rows = self._table.read({"destination": [self._of["destination"]]})
        for row in sorted(rows, key=lambda r: r["at"]):
            for text in row["delivered"] or ():
                key, fingerprint, version, made = text.split(" ")
                found[key] = Receipt(fingerprint, (int(version), int(made)))
            for key in row["missing"] or ():
                found.pop(key, None)
        return found

    def add(
        self,
        delivered: Collection[Result] = (),
        *,
        rejected: Mapping[str, str] | None = None,
        missing: Collection[str] = (),
    ) -> None:
        """Remember one batch, in one commit; nothing of it is known before.

        Args:
            delivered: what the sink accepted.
            rejected: assessment_id → the reason.
            missing: ids that were accepted, and that the sink does not show.
        """
        if not delivered and not rejected and not missing:
            return
        lines = [f"{r.id} {r.fingerprint} {r.age[0]} {r.age[1]}" for r in delivered]
        row = self._of | {
            "delivered": lines,
            "missing": list(missing),
            "rejected": compact_json(rejected) if rejected else None,
            "at": datetime.fromtimestamp(self._clock(), UTC),
        }
        self._table.append([row])
