"""How a delivery looks."""

from __future__ import annotations

from typing import Any

from backfill_spark.display.formats import many
from backfill_spark.display.render import Sheet, Table

_COUNTS = ("results", "delivered_before", "accepted", "rejected", "not_sent", "left")


def delivery_sheet(done: Any) -> Sheet:
    """A Delivery: what was sent where, and why results were not."""
    counts = Table(
        (*(name.replace("_", "\n") for name in _COUNTS), "read\nback"),
        (
            (
                *(f"{getattr(done, name):,}" for name in _COUNTS),
                "-" if done.read_back is None else f"{done.read_back:,}",
            ),
        ),
    )
    how = "complete" if done.is_complete else "not complete"
    notes = [f"{count:,}: {why}" for why, count in done.reasons.items()]
    if done.missing:
        notes.append(
            f"{many(done.missing, 'result')} were accepted and are not shown: the next delivery sends them again."
        )
    if done.stopped:
        notes.append(done.stopped)
    if not done.results:
        notes.append(
            "This job has merged no results of its own: where pairs had some, deliver the jobs that made them."
        )
    return Sheet(
        f"Delivery of {done.job_id} {how}",
        (("to", done.destination), ("versions", str(done.versions))),
        (counts,),
        tuple(notes),
        style="bold green" if done.is_complete else "bold yellow",
    )
