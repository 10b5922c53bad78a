"""Scorers: `@scorer`, `Scorer`, the built-in ones, and the registry."""

from backfill_spark.scorers.builtin import PIIDetection, RegexMatch, ResponseLength
from backfill_spark.scorers.scorer import Scorer, scorer

__all__ = ["PIIDetection", "RegexMatch", "ResponseLength", "Scorer", "scorer"]
