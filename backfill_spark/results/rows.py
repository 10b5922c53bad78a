"""Rows of `assessments`: found by a job's scorers, which of them a MERGE replaces, and which are current."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from backfill_spark import schema
from backfill_spark.models import Outcome, ScorerSpec

_PAIR = [*schema.PAIR_KEY, "trace_date"]


def current(rows: DataFrame) -> DataFrame:
    """Keep of each (experiment, trace, scorer) the rows of the newest version and of the latest trace date."""
    pair = Window.partitionBy("experiment_id", "trace_id", "scorer_name")
    rows = rows.withColumn("_version", F.max("scorer_version").over(pair)).where("scorer_version = _version")
    newest = F.max_by("trace_date", F.struct("created_at", "trace_date")).over(pair)
    return rows.withColumn("_date", newest).where("trace_date = _date").drop("_version", "_date")


def _is(spec: ScorerSpec, name: Column, version: Column) -> Column:
    return (name == spec.name) & (version == spec.version)


def position_of(scorers: Sequence[ScorerSpec], name: Column, version: Column) -> Column:
    """Index of the scorer in the job, or NULL."""
    return F.coalesce(*[F.when(_is(s, name, version), F.lit(i)) for i, s in enumerate(scorers)])


def without_mended(puts: DataFrame, old: DataFrame, job_id: str) -> DataFrame:
    """Drop pairs that another job got a result for after this one had staged an error, and rested."""
    failed = F.max(F.col("outcome") == Outcome.ERROR.value).alias("failed")
    mended = old.where(F.col("job_id") != job_id).groupBy(*_PAIR).agg(failed).where("not failed")
    return puts.join(mended, _PAIR, "left_anti")


def with_deletes(puts: DataFrame, old: DataFrame) -> DataFrame:
    """Add a `delete` for each old row of these pairs that is not put again."""
    replaced = old.join(puts.select(*_PAIR).distinct(), _PAIR, "left_semi")
    gone = replaced.join(puts.select(*_PAIR, "ordinal"), [*_PAIR, "ordinal"], "left_anti")
    return puts.withColumn("op", F.lit("put")).unionByName(gone.withColumn("op", F.lit("delete")))
