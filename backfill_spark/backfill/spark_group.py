"""The Spark jobs of a backfill as one group, so that all of them can be stopped at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from backfill_spark.storage.capabilities import is_connect

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@contextmanager
def grouped(spark: SparkSession, job_id: str) -> Iterator[None]:
    """Name this thread's Spark jobs, so that a heartbeat can stop them."""
    if is_connect(spark):
        spark.addTag(job_id)
        try:
            yield
        finally:
            spark.removeTag(job_id)
        return
    context = spark.sparkContext
    context.setJobGroup(job_id, f"backfill {job_id}", interruptOnCancel=True)
    try:
        yield
    finally:
        with suppress(Exception):  # its JVM is gone: what ended the block says more
            context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]
            context.setLocalProperty("spark.job.description", None)  # type: ignore[arg-type]


def cancel_group(spark: SparkSession, job_id: str) -> None:
    """Stop the Spark jobs of a backfill, where Spark still answers."""
    with suppress(Exception):
        if is_connect(spark):
            spark.interruptTag(job_id)
        else:
            spark.sparkContext.cancelJobGroup(job_id)
