"""How long an endpoint is asked that gives no verdicts: what fails in a row, and what a firewall may have forbidden."""

from __future__ import annotations

from typing import Generic, TypeVar

from backfill_spark.judges.llm.endpoints import Service
from backfill_spark.models import ErrorCode

FAILURES_IN_A_ROW = 50
"""Questions that fail one after the other, with no verdict between them, before nothing more is asked; of all tasks."""
FAILURES_OF_A_TASK = 10
"""The same of one task, however many there are."""
FORBIDDEN_ALONE = 5
"""Questions that were all forbidden: fewer are about their prompts, where a probe was answered."""
OF_THE_ENDPOINT = frozenset(
    {ErrorCode.JUDGE_ERROR, ErrorCode.JUDGE_RATE_LIMITED, ErrorCode.TIMEOUT, ErrorCode.JUDGE_BAD_OUTPUT}
)

Call = TypeVar("Call")


class Patience(Generic[Call]):
    """Counts what one task got of its endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._limit = max(FAILURES_OF_A_TASK, FAILURES_IN_A_ROW // service.tasks)
        self._failures = 0
        self.has_verdict = False
        """True once a question was answered as it should be."""
        self.forbidden: list[Call] = []
        """Calls that were forbidden since the last verdict, until it is known what that means."""

    def window(self, limit: int) -> int:
        """Limit the requests that are open: before the first verdict, to those that may fail in a row."""
        failures = self._failures + len(self.forbidden)
        return max(1, min(limit, self._limit - failures)) if failures or not self.has_verdict else limit

    def count(self, code: ErrorCode | None, message: str) -> str | None:
        """Count a question that came to its end; return why nothing more is to be asked."""
        self.has_verdict |= code is None
        if code is None or code is ErrorCode.JUDGE_REFUSED:
            self._failures = 0
        self._failures += code in OF_THE_ENDPOINT
        if self._failures < self._limit:
            return None
        return no_verdicts(self._failures, self._service.endpoint.name, code, message)

    @property
    def is_forbidden_enough(self) -> bool:
        """True when so many calls were forbidden in a row that it is not about their prompts."""
        return len(self.forbidden) >= self._limit

    def forbids_all(self) -> bool:
        """True for an endpoint that forbids everything, False for a firewall that forbids some prompts."""
        is_alone = self._service.is_probed and len(self.forbidden) < FORBIDDEN_ALONE
        return self.is_forbidden_enough or not (self.has_verdict or is_alone)


def no_verdicts(count: int, endpoint: str, code: ErrorCode | str | None, message: str) -> str:
    """Explain why nothing more is asked after many questions without a verdict, with the setting to change."""
    # What a server says may repeat a prompt: only the part before it.
    what = message.partition(": ")[0].rstrip(".")
    advice = ""
    if code == ErrorCode.JUDGE_BAD_OUTPUT:
        advice = "; raise judge.max_output_tokens (or the judge's own max_tokens), or ask another model"
    return f"{count} questions in a row had no answer from {endpoint!r}, the last: {what}{advice}"
