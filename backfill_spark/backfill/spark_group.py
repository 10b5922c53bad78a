"""The Spark jobs of a backfill as one group, so that all of them can be stopped at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@contextmanager
def grouped(spark: SparkSession, job_id: str) -> Iterator[None]:
    """Name this thread's Spark jobs, so that a heartbeat can stop them."""
    try:
        spark.sparkContext.setJobGroup(job_id, f"backfill {job_id}", interruptOnCancel=True)
    except Exception:  # Spark Connect has no job groups; a cancel then waits for the chunk's end
        yield
        return
    try:
        yield
    finally:
        spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]
        spark.sparkContext.setLocalProperty("spark.job.description", None)  # type: ignore[arg-type]


def cancel_group(spark: SparkSession, job_id: str) -> None:
    """Stop the Spark jobs of a backfill, where Spark can."""
    try:
        spark.sparkContext.cancelJobGroup(job_id)
    except Exception:
        return
