"""A table of traces made by Spark itself, so that a million of them take seconds, and three code scorers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from backfill_spark import ScorerSamplingConfig, Settings, configure, get_backfill, scorer
from backfill_spark.api import backfill_scorers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import SparkSession

    from backfill_spark import BackfillJob

START = datetime(2024, 5, 1, tzinfo=UTC)
DAYS = 60
END = START + timedelta(days=DAYS)
NAMES = ("answer_length", "says_sorry", "question_words")
FIVE = (*NAMES, "has_code", "ends_well")


def write_traces(spark: SparkSession, path: str, count: int) -> None:
    """Write `count` traces over 60 days: questions of 40-200 characters, answers of log-normal length, two spans each.

    An answer has 900 characters in the mean and a trace some 4 kB, since its spans hold the texts, too.
    """
    micros = F.lit(int(START.timestamp() * 1e6)) + (F.col("id") * F.lit(DAYS * 86_400_000_000) / F.lit(count)).cast(
        "long"
    )
    hashed = F.sha2(F.col("id").cast("string"), 256)
    question = F.concat(
        F.lit("How do I change "), F.expr("repeat(concat(substr(h, 1, 7), ' '), 3 + cast(id % 20 as int))")
    )
    answer = F.concat(
        F.when(F.col("id") % 9 == 0, "I am sorry. ").otherwise(""),
        F.expr("repeat(concat(h, ' '), 1 + cast(least(exp(2.2 + 0.8 * normal), 400) as int))"),
    )

    def span(number: int, kind: str) -> Any:
        return F.struct(
            F.concat(F.lit(f"s{number}-"), F.col("id")).alias("span_id"),
            F.lit(None if number == 1 else "s1").alias("parent_id"),
            F.lit(kind.lower()).alias("name"),
            F.lit(kind).alias("span_type"),
            (F.col("micros") * 1000).alias("start_time_ns"),
            (F.col("micros") * 1000 + 5_000_000).alias("end_time_ns"),
            F.lit("OK").alias("status_code"),
            F.col("request").alias("inputs"),
            F.col("response").alias("outputs"),
            F.map_from_arrays(F.array(F.lit("k")), F.array(F.lit("v"))).alias("attributes"),
        )

    rows = spark.range(0, count, 1, max(2, count // 50_000)).withColumns(
        {"h": hashed, "micros": micros, "normal": F.randn(7)}
    )
    rows = rows.withColumns({"request": question, "response": answer})
    rows.select(
        F.concat(F.lit("tr-"), hashed.substr(1, 16), F.col("id")).alias("trace_id"),
        F.timestamp_micros("micros").alias("request_time"),
        F.lit("OK").alias("state"),
        "request",
        "response",
        F.map_from_arrays(F.array(F.lit("mlflow.traceName")), F.array(F.lit("bench"))).alias("tags"),
        F.array(span(1, "AGENT"), span(2, "TOOL")).alias("spans"),
    ).write.format("delta").save(path)


def answer_length(outputs: Any) -> Any:
    return len(outputs)


def says_sorry(outputs: Any) -> Any:
    return "sorry" in outputs.lower()


def question_words(inputs: Any) -> Any:
    return len(inputs.split())


def has_code(outputs: Any) -> Any:
    return "def " in outputs or "```" in outputs


def ends_well(outputs: Any) -> Any:
    return outputs.rstrip().endswith((".", "!", "?"))


PLAIN = {f.__name__: f for f in (answer_length, says_sorry, question_words, has_code, ends_well)}
"""The functions themselves, for those who do without us."""


def settle(
    traces: Path, results: Path, *, rate: float = 1.0, spark: dict[str, str] | None = None, names: Sequence[str] = NAMES
) -> Settings:
    """Use tables of their own at `results` over the traces, with scorers started."""
    made = Settings(tables={"root": str(results)}, traces={"path": str(traces)}, timezone="UTC", spark=spark or {})
    configure(made)
    for name in names:
        scorer(PLAIN[name]).register().start(sampling_config=ScorerSamplingConfig(sample_rate=rate))
    return made


def backfill(share: float = 1.0, *, start: float = 0.0, names: Sequence[str] = NAMES) -> BackfillJob:
    """Run the scorers over a share of the 60 days."""
    first, end = (START + timedelta(days=DAYS) * s for s in (start, share))
    return get_backfill(backfill_scorers(scorers=list(names), start_time=first, end_time=end))
