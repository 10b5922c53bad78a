"""ResponseLength: is the output neither too short nor too long?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from backfill_spark.errors import ScorerDefinitionError
from backfill_spark.scorers.builtin import BuiltInScorer


class ResponseLength(BuiltInScorer):
    """Says "yes" when the output's length in characters or words lies within the bounds, both inclusive.

    Raises:
        ScorerDefinitionError: no bound, a bound that is no whole number from 0, bounds that cross, or an unknown unit.
    """

    def __init__(
        self,
        *,
        min_length: int | None = None,
        max_length: int | None = None,
        unit: Literal["chars", "words"] = "chars",
        name: str = "response_length",
        description: str | None = "Check whether the output length is within specified bounds.",
        aggregations: Sequence[str] | None = None,
        timeout: float | None = None,
        version_note: str | None = None,
    ) -> None:
        super().__init__(
            name=name, description=description, aggregations=aggregations, timeout=timeout, version_note=version_note
        )
        if min_length is None and max_length is None:
            raise ScorerDefinitionError("ResponseLength needs min_length, max_length or both.")
        bounds: tuple[tuple[str, Any], ...] = (("min_length", min_length), ("max_length", max_length))
        for what, bound in bounds:
            if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int) or bound < 0):
                raise ScorerDefinitionError(f"ResponseLength: {what} is a whole number from 0, got {bound!r}.")
        if min_length is not None and max_length is not None and min_length > max_length:
            raise ScorerDefinitionError(f"ResponseLength: min_length {min_length} is above max_length {max_length}.")
        if unit not in ("chars", "words"):
            raise ScorerDefinitionError(f"ResponseLength: unit is 'chars' or 'words', got {unit!r}.")
        self.min_length = min_length
        self.max_length = max_length
        self.unit = unit

    def _arguments(self) -> dict[str, Any]:
        return {"min_length": self.min_length, "max_length": self.max_length, "unit": self.unit}

    def _judge(self, text: str) -> tuple[bool, str]:
        length = len(text.split()) if self.unit == "words" else len(text)
        if self.min_length is not None and length < self.min_length:
            return False, f"Output length ({length} {self.unit}) is below the minimum ({self.min_length} {self.unit})"
        if self.max_length is not None and length > self.max_length:
            return False, f"Output length ({length} {self.unit}) exceeds the maximum ({self.max_length} {self.unit})"
        return True, f"Output length ({length} {self.unit}) is within bounds"
