"""Assessments that a filter sees besides those in a trace's own row: those of its session, and our own results."""

from __future__ import annotations

from collections.abc import Collection

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from backfill_spark.traces.filters.assessments import SEEN, seen
from backfill_spark.traces.filters.tree import SESSION

MORE = "_more_assessments"
"""Column of a TRACES frame with further assessments of each trace, as SEEN."""


def of_sessions(traces: DataFrame, named: Collection[tuple[str, str]]) -> DataFrame:
    """Return the assessments that are about a whole session: `session` and MORE.

    Args:
        traces: With `assessments`.
        named: Kind and name of each assessment that a filter asks for.
    """
    found = traces.select(F.explode(seen(traces.schema)).alias("one")).where(_is_one_of(named))
    rows = found.where("one.session is not null").groupBy(F.col("one.session").alias("session"))
    return rows.agg(F.collect_set("one").cast(SEEN).alias(MORE))


def session_of(traces: DataFrame) -> Column:
    """Return the session of each trace."""
    found = [F.col("session_id")] if "session_id" in traces.columns else []
    if "trace_metadata" in traces.columns:
        found.append(F.try_element_at("trace_metadata", F.lit(SESSION)))
    return F.coalesce(*found) if found else F.lit(None).cast("string")


def with_more(traces: DataFrame, more: DataFrame) -> DataFrame:
    """Add to each trace the assessments of its session."""
    keyed = traces.withColumn("_session", session_of(traces))
    return keyed.join(more.withColumnRenamed("session", "_session"), "_session", "left").drop("_session")


def _is_one_of(named: Collection[tuple[str, str]]) -> Column:
    asked = F.lit(False)
    for kind, name in sorted(named):
        asked = asked | ((F.col("one.kind") == kind) & (F.col("one.name") == name))
    return asked
