"""Staged results counted by Spark, the most frequent errors, and what a request comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from backfill_spark.models import Counts
from backfill_spark.results.staged import StagedCounts

_ERROR = ("scorer_name", "error_code", "error_message")


def count_staged(rows: DataFrame, job_id: str) -> tuple[dict[str, StagedCounts], tuple[date, ...]]:
    """Count staged rows in pairs by scorer and outcome; calls and costs are those that `job_id` made itself.

    Returns:
        The counts, and the dates of the traces.
    """
    first = (F.col("ordinal") == 0) & (F.col("scored_job_id") == job_id)
    pairs = rows.groupBy("scorer_name", "trace_id", "trace_date").agg(
        F.max(F.col("error_code").isNotNull()).alias("failed"),
        F.max(F.col("value").isNotNull()).alias("valued"),
        *(F.sum(F.when(first, F.col(name))).alias(name) for name in ("attempts", "cost_usd", "latency_ms")),
    )
    found = (
        pairs.groupBy("scorer_name")
        .agg(
            F.count(F.when(~F.col("failed") & F.col("valued"), 1)).alias("scored"),
            F.count(F.when(~F.col("failed") & ~F.col("valued"), 1)).alias("empty"),
            F.count(F.when(F.col("failed"), 1)).alias("errored"),
            *(F.sum(name).alias(name) for name in ("attempts", "cost_usd", "latency_ms")),
            F.collect_set("trace_date").alias("dates"),
        )
        .collect()
    )
    counts = {
        r["scorer_name"]: StagedCounts(
            r["scored"], r["empty"], r["errored"], r["attempts"] or 0, r["cost_usd"], (r["latency_ms"] or 0.0) / 1000
        )
        for r in found
    }
    return counts, tuple(sorted({day for r in found for day in r["dates"]}))


def most_frequent_errors(rows: DataFrame, scorers: Sequence[str]) -> dict[str, str]:
    """Return code and message of each scorer's most frequent error, of rows of `assessments`.

    A message that stands once may quote its trace: then only its type is told.
    """
    failed = rows.where(F.col("scorer_name").isin(list(scorers)) & F.col("error_code").isNotNull())
    kinds = failed.groupBy(*_ERROR).agg(F.count(F.lit(1)).alias("n"))
    found = kinds.groupBy("scorer_name").agg(F.max_by(F.struct(*_ERROR, "n"), "n").alias("most")).collect()
    said = {}
    for name, _, code, message, n in ((r["scorer_name"], *r["most"]) for r in found):
        text = message or ""
        said[name] = f"{code}: {text if n > 1 else text.split(':', 1)[0]}"
    return said


@dataclass(frozen=True, slots=True)
class PairCounts:
    """How many pairs of each kind a request comes to, at pinned versions."""

    counts: Mapping[str, Counts]
    """Scorer → counts up to `due`."""
    own: Mapping[str, int]
    """Scorer → due pairs that this job has staged already."""
    elsewhere: Mapping[str, int]
    """Scorer → due pairs that other jobs have staged: adopted at 0 calls."""
    calls_by_hour: Mapping[int, int]
    """Hour since the epoch → pairs of code scorers that must be called."""
    asks_by_hour: Mapping[int, int]
    """Hour since the epoch → pairs of judges that must be asked, or answered from earlier answers."""
    has_duplicates: bool
    has_ties: bool

    @property
    def calls(self) -> int:
        """Pairs that must be called."""
        return sum(self.calls_by_hour.values()) + sum(self.asks_by_hour.values())
