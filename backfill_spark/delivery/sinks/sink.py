"""What every sink does."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from backfill_spark.delivery.result import Result


class Sink(Protocol):
    """A place that takes results. Sending one again changes nothing, but where the sink's docstring says otherwise."""

    size: int
    """Results that are sent, and remembered, at a time."""
    shows: bool
    """True when it can be asked what it has."""

    def unfit(self, result: Result) -> str | None:
        """Return why the sink has no form for a result, or None."""

    async def open(self) -> None:
        """Connect, and see that results can be sent.

        Raises:
            BackfillRefusedError: nobody answers, a key is not accepted, or it is no such place.
        """

    async def close(self) -> None:
        """Let go of the connection."""

    async def send(self, results: Sequence[Result]) -> dict[str, str]:
        """Send results; return those that were rejected: id → reason.

        Raises:
            DeliveryStoppedError: no more can be sent; nobody knows which of these were.
        """

    async def found(self, results: Sequence[Result]) -> Collection[str]:
        """Return the ids of the results that the place has, with what they hold."""
