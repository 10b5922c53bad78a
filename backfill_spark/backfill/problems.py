"""Problems: what is wrong with a request, collected, so that everything is told at once."""

from __future__ import annotations

from backfill_spark.errors import BackfillRefusedError, ScorerNotFoundError


class Problems:
    """Collects what is wrong, so that everything is told at once."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self.missing: list[str] = []

    def raise_any(self) -> None:
        """Raise when anything is wrong.

        Raises:
            ScorerNotFoundError: only scorers are missing.
            BackfillRefusedError: anything else is wrong, too.
        """
        if self.missing and not self.all:
            raise ScorerNotFoundError(self.missing)
        if self.all or self.missing:
            raise BackfillRefusedError([*self.missing, *self.all])

    def note(self, *problems: str) -> None:
        self.all += problems
