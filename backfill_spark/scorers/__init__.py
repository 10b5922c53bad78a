"""Scorers: `@scorer`, `Scorer`, and the built-in ones, a file each."""

from backfill_spark.scorers.pii_detection import PIIDetection
from backfill_spark.scorers.regex_match import RegexMatch
from backfill_spark.scorers.response_length import ResponseLength
from backfill_spark.scorers.scorer import Registration, Scorer, scorer

__all__ = ["PIIDetection", "RegexMatch", "Registration", "ResponseLength", "Scorer", "scorer"]
