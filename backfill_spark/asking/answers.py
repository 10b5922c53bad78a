"""What is asked, what comes back, and what it may cost: values of the asking room."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from backfill_spark.models import ErrorCode


@dataclass(frozen=True, slots=True)
class Question:
    """One distinct prompt."""

    prompt_hash: str
    prompt: str
    """JSON object: `messages`, `schema` and `parameters`, as a judge rendered it."""
    tokens: int
    """Estimated tokens of the prompt."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one question.

    Exactly one of `verdict`, `error_code` and `left` is set. `left` says why the question stays due (budget,
    or the endpoint refused all calls); such an answer belongs in no table, but its attempts were spent. Its
    `error_message` is what its last request met.
    """

    prompt_hash: str
    model: str
    verdict: str | None = None
    """JSON object as the model gave it."""
    error_code: ErrorCode | None = None
    error_message: str | None = None
    left: str | None = None
    attempts: int = 0
    """Requests sent for it."""
    latency_ms: float | None = None
    """Time of the last request."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    """None where unknown."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object of all fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Answer:
        code = data.get("error_code")
        return cls(**{**data, "error_code": None if code is None else ErrorCode(code)})


class Budget:
    """How many requests one task may send, and what they may cost. Retries count.

    A request is held at its highest possible cost before it is sent and settled afterwards, so that the cost
    never passes the limit. One that may have been paid although no answer came stays at what was held.
    """

    __slots__ = ("_cost_before", "_held", "_requests_before", "cost_usd", "max_cost_usd", "max_requests", "requests")

    def __init__(self, max_requests: int | None = None, max_cost_usd: float | None = None) -> None:
        self.max_requests = max_requests
        self.max_cost_usd = max_cost_usd
        self.requests = 0
        """Requests sent."""
        self.cost_usd = 0.0
        """Cost of what is settled."""
        self._held = 0.0
        self._requests_before = 0
        self._cost_before = 0.0

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
            return float("inf")
        return self.max_requests - self._requests_before - self.requests

    @property
    def cost_left(self) -> float:
        """What further requests may cost."""
        if self.max_cost_usd is None:
            return float("inf")
        return self.max_cost_usd - self._cost_before - self.committed_usd

    def fits(self, cost: float, *, kept: int = 0) -> bool:
        """Tell whether one more request fits, with `kept` others held back for calls that must be repeated."""
        if self.requests_left < 1 + kept:
            return False
        return cost <= self.cost_left + 1e-12

    def hold(self, cost: float) -> None:
        """Count one request."""
        self.requests += 1
        self._held += cost

    def take_back(self, cost: float) -> None:
        """Forget a request that never left, as when nobody listens."""
        self.requests -= 1
        self.settle(cost, 0.0)

    def settle(self, held: float, cost: float) -> None:
        """Replace what was held for a request by what it cost."""
        self._held = max(0.0, self._held - held)
        self.cost_usd += cost
