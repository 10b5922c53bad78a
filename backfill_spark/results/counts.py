"""What has been staged, counted by scorer and outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from backfill_spark.models import Counts, ErrorCode, ScorerSpec

_ERROR = ("scorer_name", "error_code", "error_message")
_NO_CALL = (ErrorCode.TRACE_TOO_LARGE, ErrorCode.LOAD_FAILED)


@dataclass(frozen=True, slots=True)
class StagedCounts:
    """What has been staged for one scorer."""

    scored: int = 0
    empty: int = 0
    errored: int = 0
    calls: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0
    """Time in calls, added up over tasks; that of a chunk's or trace's other scorers stands with its first one."""

    def __add__(self, other: StagedCounts) -> StagedCounts:
        costs = [c for c in (self.cost_usd, other.cost_usd) if c is not None]
        return StagedCounts(
            self.scored + other.scored,
            self.empty + other.empty,
            self.errored + other.errored,
            self.calls + other.calls,
            sum(costs) if costs else None,
            self.seconds + other.seconds,
        )

    @property
    def finished(self) -> int:
        """Pairs that have a result."""
        return self.scored + self.empty + self.errored


def count_staged(staged: DataFrame, job_id: str, scorers: Sequence[ScorerSpec]) -> dict[str, StagedCounts]:
    """Count staged pairs by scorer and outcome; calls and costs are those that `job_id` made itself."""
    names = ("scorer_name", "ordinal", "value", "error_code", "latency_ms", "extra")
    feedbacks = F.arrays_zip(*[f"results.{n}" for n in ("scorer_name", "value", "error_code")])

    def scorers_with(holds: Callable[[Column], Column]) -> Column:
        found = F.transform(F.filter(feedbacks, holds), lambda x: x["scorer_name"])
        return F.when(F.array_max("results.ordinal") > 0, found)

    # A pair with several feedbacks is an error when one of them is, and scored when one has a value. Looked at once
    # a trace, and only where there are several: per pair it would keep Spark from compiling the rest.
    rows = staged.select(
        "scored_job_id",
        scorers_with(lambda x: x["error_code"].isNotNull()).alias("failing"),
        scorers_with(lambda x: x["value"].isNotNull()).alias("valuing"),
        F.inline(F.arrays_zip(*[f"results.{n}" for n in names])),
    )

    def is_in(column: str) -> Column:
        return F.coalesce(F.array_contains(column, F.col("scorer_name")), F.lit(False))

    failed = F.col("error_code").isNotNull() | is_in("failing")
    valued = F.col("value").isNotNull() | is_in("valuing")
    sums = (
        rows.where("ordinal = 0")
        .select("scorer_name", failed.alias("failed"), valued.alias("valued"), *_calls(job_id))
        .groupBy("scorer_name")
        .agg(
            F.count(F.when(F.col("failed"), 1)).alias("errored"),
            F.count(F.when(~F.col("failed") & F.col("valued"), 1)).alias("scored"),
            F.count(F.when(~F.col("failed") & ~F.col("valued"), 1)).alias("empty"),
            F.sum("calls").alias("calls"),
            F.sum("cost").alias("cost"),
            F.sum("ms").alias("ms"),
        )
        .collect()
    )
    found = {
        r["scorer_name"]: StagedCounts(
            r["scored"], r["empty"], r["errored"], r["calls"] or 0, r["cost"], (r["ms"] or 0.0) / 1000
        )
        for r in sums
    }
    return {s.name: found.get(s.name, StagedCounts()) for s in scorers}


def error_rows(staged: DataFrame) -> DataFrame:
    """Return the errors among staged results as `most_frequent_errors` takes them."""
    return staged.select(F.inline(F.arrays_zip(*[f"results.{n}" for n in _ERROR]))).where("error_code is not null")


def most_frequent_errors(rows: DataFrame, scorers: Sequence[str]) -> dict[str, str]:
    """Return code and message of each scorer's most frequent error, of rows that have a scorer and an error.

    A message that stands once may quote its trace: then only its type is told.
    """
    kinds = rows.where(F.col("scorer_name").isin(list(scorers))).groupBy(*_ERROR).agg(F.count(F.lit(1)).alias("n"))
    found = kinds.groupBy("scorer_name").agg(F.max_by(F.struct(*_ERROR, "n"), "n").alias("most")).collect()
    said = {}
    for name, _, code, message, n in ((r["scorer_name"], *r["most"]) for r in found):
        text = message or ""
        said[name] = f"{code}: {text if n > 1 else text.split(':', 1)[0]}"
    return said


def _calls(job_id: str) -> list[Column]:
    """Calls, cost and time of a pair's first row; adopted rows cost nothing here."""
    extra = F.when(F.col("extra").isNotNull(), F.from_json("extra", "attempts int, cost_usd double"))
    made = F.coalesce(extra["attempts"], F.when(without_call(), 0).otherwise(1))
    mine = F.col("scored_job_id") == job_id
    return [
        F.when(mine, made).otherwise(0).alias("calls"),
        F.when(mine, extra["cost_usd"]).alias("cost"),
        F.when(mine, F.col("latency_ms")).alias("ms"),
    ]


def without_call() -> Column:
    """True for an error row that no call was made for: the trace was refused before, or could not be decoded."""
    undecoded = (F.col("error_code") == ErrorCode.TRACE_UNREADABLE.value) & F.col("latency_ms").isNull()
    return F.coalesce(F.col("error_code").isin([c.value for c in _NO_CALL]) | undecoded, F.lit(False))


@dataclass(frozen=True, slots=True)
class StagedChunk:
    """What came of scoring a chunk."""

    counts: Mapping[str, StagedCounts]
    """By scorer."""
    staged: tuple[str, ...] = ()
    """Paths of its files in the folder of `staging`, where tasks have written them."""
    results: tuple[Mapping[str, Any], ...] = ()
    """Files of `assessments` that its tasks have written and no commit names yet; none where it was staged only."""

    @property
    def pairs(self) -> int:
        """Pairs that have a result."""
        return sum(counts.finished for counts in self.counts.values())


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
