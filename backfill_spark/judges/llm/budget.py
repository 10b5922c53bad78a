"""What a task may send before it must write again: the permits that keep a budget hard through a kill."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from math import inf
from time import monotonic

from backfill_spark.errors import BackfillError
from backfill_spark.judges.llm.journal import Journal, Permit
from backfill_spark.judges.llm.messages import Answer


class StoodStillError(BackfillError):
    """This process was stopped for so long that another runner may be at the job."""


class Permits:
    """Writes a journal for a pool: every few seconds, and before a request that the last permit does not cover.

    Args:
        window: Requests that a pool has open at a time.
        still_s: Longest time that this process may have been stopped; after it nothing more is sent.
    """

    def __init__(
        self, journal: Journal, budget: Budget, *, window: int, has_price: bool, still_s: float | None = None
    ) -> None:
        self._journal = journal
        self._budget = budget
        self._window = window
        self._has_price = has_price
        self._still_s = inf if still_s is None else max(still_s, 2 * journal.every_s)
        self._moved = monotonic()
        self._writing = asyncio.Lock()
        self._highest = 0.0
        """Highest cost held for one request so far."""
        self._requests_before = 0
        self._allowed: tuple[float, float] = (0, 0.0)
        """Requests and cost that what is on disk covers."""

    def add(self, answer: Answer) -> None:
        """Keep an answer for the next file."""
        self._journal.add(answer)

    async def cover(self, held: float) -> None:
        """Return once all that the budget holds, `held` for the last one, is covered by what is on disk.

        Returns at once where the budget is overdrawn: nothing may be sent then.

        Raises:
            StoodStillError: this process was stopped for longer than `still_s`.
        """
        self._look()
        self._highest = max(self._highest, held)
        while not self._budget.is_overdrawn and not self._is_covered():
            await self._write()

    async def write_all(self) -> None:
        """Write what waits every few seconds, for ever."""
        while True:
            await asyncio.sleep(self._journal.every_s)
            self._look()
            if self._journal.has_answers:
                await self._write()

    def close(self) -> None:
        """Write the last file: what was spent, exactly."""
        budget = self._budget
        permit = Permit(budget.requests, budget.committed_usd, budget.requests, budget.committed_usd, is_closed=True)
        self._journal.put(self._journal.draft(permit))

    def _look(self) -> None:
        """Raise after a stop of the whole process; in a mere wait `write_all` looks every few seconds."""
        still, self._moved = monotonic() - self._moved, monotonic()
        if still > self._still_s:
            self._still_s = 0.0
            raise StoodStillError(f"This process stood still for {still:.0f} s: another runner may be at the job.")

    def _is_covered(self) -> bool:
        requests, cost = self._allowed
        return self._budget.requests <= requests and self._budget.committed_usd <= cost + 1e-12

    async def _write(self) -> None:
        async with self._writing:
            permit = self._next()
            told = (permit.max_requests, inf if permit.max_cost_usd is None else permit.max_cost_usd)
            # Until the file is there, either permit may be the one that a reader finds: the lower one counts.
            self._allowed = (min(self._allowed[0], told[0]), min(self._allowed[1], told[1]))
            # Off the loop, since an object store takes a quarter of a second.
            put = asyncio.get_running_loop().run_in_executor(None, self._journal.put, self._journal.draft(permit))
            try:
                await asyncio.shield(put)
            except asyncio.CancelledError:
                # The draft holds answers that are paid: they are on disk before the pool is closed.
                await put
                raise
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


@dataclass(slots=True)
class Budget:
    """How many requests one task may send, and what they may cost. Retries count.

    A request is held at its highest possible cost before it is sent and settled afterwards, so that the cost
    never passes the limit. One that may have been paid although no answer came stays at what was held.
    """

    max_requests: int | None = None
    max_cost_usd: float | None = None
    requests: int = 0
    """Requests sent, and held for calls that are to be repeated."""
    cost_usd: float = 0.0
    """Cost of what is settled."""
    _held: float = 0.0
    _requests_before: int = 0
    _cost_before: float = 0.0

    def spent_before(self, requests: int, cost_usd: float) -> None:
        """Take off what an earlier attempt at the same task has spent; it is not told again in `requests` and cost."""
        self._requests_before, self._cost_before = requests, cost_usd

    @property
    def committed_usd(self) -> float:
        """Cost of what is settled, and of what is on its way at its highest."""
        return self.cost_usd + self._held

    @property
    def requests_left(self) -> float:
        """Requests that may still be sent."""
        if self.max_requests is None:
            return inf
        return self.max_requests - self._requests_before - self.requests

    @property
    def cost_left(self) -> float:
        """What further requests may cost."""
        if self.max_cost_usd is None:
            return inf
        return self.max_cost_usd - self._cost_before - self.committed_usd

    @property
    def is_overdrawn(self) -> bool:
        """True when settled requests cost more than was held for them, so that what is held passes the limit."""
        return self.cost_left < -1e-12

    def fits(self, cost: float) -> bool:
        """True when one more request fits."""
        return self.requests_left >= 1 and cost <= self.cost_left + 1e-12

    def hold(self, cost: float) -> None:
        """Count one request, before it is sent."""
        self.requests += 1
        self._held += cost

    def take_back(self, cost: float) -> None:
        """Forget a request that was not sent, or found nobody."""
        self.requests -= 1
        self.settle(cost, 0.0)

    def settle(self, held: float, cost: float) -> None:
        """Replace what was held for a request by what it cost."""
        self._held = max(0.0, self._held - held)
        self.cost_usd += cost
