"""The Spark jobs of a backfill as one group, so that all of them can be stopped at once."""

from __future__ import annotations

import signal
import threading
import time
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


def cancel_group(spark: SparkSession, job_id: str, *, grace_s: float = 0.0) -> None:
    """Stop the Spark jobs of a backfill, where Spark still answers; they have `grace_s` to end by themselves."""
    until = time.monotonic() + grace_s
    try:
        while time.monotonic() < until and _is_at_work(spark, job_id):
            time.sleep(0.02)
    finally:
        _cancel(spark, job_id)


def _is_at_work(spark: SparkSession, job_id: str) -> bool:
    with suppress(Exception):
        status = spark.sparkContext.statusTracker()
        return not set(status.getActiveJobsIds()).isdisjoint(status.getJobIdsForGroup(job_id))
    return False


@contextmanager
def without_sparks_handler() -> Iterator[None]:
    """Let an interrupt be ours alone: PySpark's handler stops all Spark jobs of the process within their calls."""
    kept = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or "SparkContext" not in getattr(
        kept, "__qualname__", ""
    ):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, kept)


def _cancel(spark: SparkSession, job_id: str) -> None:
    with suppress(Exception):
        if is_connect(spark):
            spark.interruptTag(job_id)
        else:
            spark.sparkContext.cancelJobGroup(job_id)
