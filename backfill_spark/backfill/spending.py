"""Spending: what a job may still send to models, and what it got so far. Arithmetic without Spark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backfill_spark.judges.llm.retry import BUDGET_SHARE

if TYPE_CHECKING:
    from backfill_spark.models import Request

FIRST_ANSWERS = 50
"""Questions that tell what an answer costs, under a budget in dollars."""
GROWTH = 20
"""Times the answers whose cost is known: the longest next slice under such a budget."""


@dataclass(slots=True)
class Spending:
    """What a job may still spend, and what it got so far, in all its epochs."""

    calls: int | None
    """Requests that are left; None: any number."""
    cost_usd: float | None
    """Dollars that are left; None: any number."""
    requests: int = 0
    """Sent so far."""
    answers: int = 0
    paid_usd: float = 0.0
    """At most; of unknown prices only what is known."""
    attempts: int = 0
    """Requests sent so far, as far as answers tell."""
    failed: int = 0
    """Questions without a verdict since the last one."""

    @classmethod
    def of(cls, request: Request, asked: Iterable[Mapping[str, Any]]) -> Spending:
        """Count what earlier epochs have spent, by their events."""
        spending = cls(request.max_calls, request.max_cost_usd)
        for a in asked:
            spending.spend(a["requests"], a["cost_usd"] or 0.0, a.get("answers", 0), a.get("attempts", 0))
        return spending

    def spend(self, requests: int, cost_usd: float, answers: int, attempts: int = 0) -> None:
        """Count what was spent."""
        self.requests += requests
        self.answers += answers
        self.attempts += attempts
        self.paid_usd += cost_usd
        self.calls = None if self.calls is None else self.calls - requests
        self.cost_usd = None if self.cost_usd is None else self.cost_usd - cost_usd

    def affords(self, least: int) -> int | None:
        """Return the number of questions that is left at the mean cost of an answer so far; None: any number.

        Args:
            least: Questions that one draw may have. They are tried whatever is left: their highest cost decides.
        """
        counts = []
        if self.calls is not None:
            counts.append(_without_retries(self.calls))
        if self.cost_usd is not None and not self.answers:
            counts.append(FIRST_ANSWERS)
        elif self.cost_usd is not None and self.paid_usd > 0:
            count = min(self.cost_usd * self.answers / self.paid_usd, GROWTH * self.answers)
            counts.append(max(_without_retries(int(count)), least))
        return min(counts, default=None)


def _without_retries(count: int) -> int:
    return max(0, count - int(count * BUDGET_SHARE)) if count >= 1 / BUDGET_SHARE else max(0, count)
