"""What is asked and what comes back: values of the client."""

from __future__ import annotations

from dataclasses import dataclass

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
