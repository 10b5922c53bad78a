"""What a task may send before it must write again: the permits that keep a budget hard through a kill."""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic

from backfill_spark.asking.answers import Answer, Budget
from backfill_spark.asking.spool import Permit, Spool
from backfill_spark.errors import BackfillError


class StoodStillError(BackfillError):
    """This process was stopped for so long that another runner may be at the job."""


class Permits:
    """Writes a spool for a desk: every few seconds, and before a request that the last permit does not cover.

    Args:
        spool: Where answers and permits are written.
        budget: What was spent.
        window: Requests that a desk has open at a time.
        has_price: Whether costs are known.
        still_s: Longest time that this process may have been stopped; after it nothing more is sent.
    """

    def __init__(
        self, spool: Spool, budget: Budget, *, window: int, has_price: bool, still_s: float | None = None
    ) -> None:
        self._spool = spool
        self._budget = budget
        self._window = window
        self._has_price = has_price
        self._still_s = inf if still_s is None else max(still_s, 2 * spool.every_s)
        self._moved = monotonic()
        self._writing = asyncio.Lock()
        self._highest = 0.0
        """Highest cost held for one request so far."""
        self._requests_before = 0
        self._allowed: tuple[float, float] = (0, 0.0)
        """Requests and cost that what is on disk covers."""

    def add(self, answer: Answer) -> None:
        """Keep an answer for the next file."""
        self._spool.add(answer)

    async def cover(self, held: float) -> None:
        """Return once another request, which may cost `held`, is covered by what is on disk; or does not fit any more.

        Raises:
            StoodStillError: this process was stopped for longer than `still_s`.
        """
        self._look()
        self._highest = max(self._highest, held)
        while self._budget.fits(held) and not self._covers(held):
            await self._write()

    async def write_all(self) -> None:
        """Write what waits every few seconds, for ever."""
        while True:
            await asyncio.sleep(self._spool.every_s)
            self._look()
            if self._spool.has_answers:
                await self._write()

    def close(self) -> None:
        """Write the last file: what was spent, exactly."""
        budget = self._budget
        permit = Permit(budget.requests, budget.committed_usd, budget.requests, budget.committed_usd, is_closed=True)
        self._spool.put(self._spool.draft(permit))

    def _look(self) -> None:
        """Tell a stop from a wait: `write_all` looks every few seconds, unless the whole process stands still."""
        still, self._moved = monotonic() - self._moved, monotonic()
        if still > self._still_s:
            self._still_s = 0.0
            raise StoodStillError(f"This process stood still for {still:.0f} s: another runner may be at the job.")

    def _covers(self, held: float) -> bool:
        requests, cost = self._allowed
        return self._budget.requests + 1 <= requests and self._budget.committed_usd + held <= cost + 1e-12

    async def _write(self) -> None:
        async with self._writing:
            permit = self._next()
            told = (permit.max_requests, inf if permit.max_cost_usd is None else permit.max_cost_usd)
            # Until the file is there, either permit may be the one that a reader finds: the lower one counts.
            self._allowed = (min(self._allowed[0], told[0]), min(self._allowed[1], told[1]))
            # Off the loop, since an object store takes a quarter of a second.
            await asyncio.get_running_loop().run_in_executor(None, self._spool.put, self._spool.draft(permit))
            self._allowed = told

    def _next(self) -> Permit:
        """Return a permit for some seconds more: as many requests as in the last ones, and one window."""
        budget = self._budget
        more = min(self._window + budget.requests - self._requests_before, budget.requests_left)
        self._requests_before = budget.requests
        cost = None
        if self._has_price:
            cost = budget.committed_usd + min(budget.cost_left, self._highest * (more + 1))
        return Permit(budget.requests, budget.committed_usd, budget.requests + int(more), cost)
