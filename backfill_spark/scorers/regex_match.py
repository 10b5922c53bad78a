"""RegexMatch: does the output match a pattern?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from backfill_spark.errors import ScorerDefinitionError
from backfill_spark.scorers.builtin import BuiltInScorer


class RegexMatch(BuiltInScorer):
    """Says "yes" when the output matches `pattern`: anywhere ("search"), or as a whole ("fullmatch").

    Raises:
        ScorerDefinitionError: the pattern does not compile, or the match type is unknown.
    """

    def __init__(
        self,
        *,
        pattern: str,
        match_type: Literal["search", "fullmatch"] = "search",
        case_insensitive: bool = False,
        name: str = "regex_match",
        description: str | None = "Check whether output matches a regular expression pattern.",
        aggregations: Sequence[str] | None = None,
        timeout: float | None = None,
        version_note: str | None = None,
    ) -> None:
        super().__init__(
            name=name, description=description, aggregations=aggregations, timeout=timeout, version_note=version_note
        )
        if match_type not in ("search", "fullmatch"):
            raise ScorerDefinitionError(f"RegexMatch: match_type is 'search' or 'fullmatch', got {match_type!r}.")
        if not isinstance(pattern, str):
            raise ScorerDefinitionError(f"RegexMatch: pattern is a text, got {pattern!r:.80}.")
        try:
            self._compiled = re.compile(pattern, re.IGNORECASE if case_insensitive else 0)
        except (re.error, OverflowError, RecursionError) as error:
            raise ScorerDefinitionError(f"RegexMatch: invalid regex pattern {pattern!r}: {error}.") from error
        self.pattern = pattern
        self.match_type = match_type
        self.case_insensitive = bool(case_insensitive)

    def _arguments(self) -> dict[str, Any]:
        return {"pattern": self.pattern, "match_type": self.match_type, "case_insensitive": self.case_insensitive}

    def _judge(self, text: str) -> tuple[bool, str]:
        match = self._compiled.fullmatch if self.match_type == "fullmatch" else self._compiled.search
        passes = match(text) is not None
        return passes, f"Output {'matches' if passes else 'does not match'} pattern {self.pattern!r}"
