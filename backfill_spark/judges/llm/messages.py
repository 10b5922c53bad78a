"""What is asked, what a model replies, and what became of a question: values of the client."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered, whatever the provider's form."""

    text: str | None = None
    data: dict[str, Any] | None = None
    """The answer, where the provider decoded it already."""
    finish: str | None = None
    refusal: str | None = None
    """Why the model would not answer, or None."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    is_empty: bool = False
    """True when there is no answer in it at all."""

    @property
    def tokens(self) -> int | None:
        """Tokens of prompt and answer; None where one of the two is unknown."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return self.input_tokens + self.output_tokens
