"""What a session's Spark can do, asked here and nowhere else: classic Spark, or a client of Spark Connect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What differs between sessions."""

    is_connect: bool
    """True where Spark is behind Spark Connect: no JVM at hand, so no second session, no pools of its scheduler."""
    application: str
    """Id of the Spark application."""
    slots: int
    """How many tasks run at once."""


_known: dict[str, Capabilities] = {}
"""By session of Spark Connect, where each answer is asked of the server."""


def is_connect(spark: SparkSession) -> bool:
    """True for a client of Spark Connect."""
    return type(spark).__module__.startswith("pyspark.sql.connect")


def capabilities(spark: SparkSession) -> Capabilities:
    """Return what this session's Spark can do."""
    if not is_connect(spark):
        try:
            context = spark.sparkContext
            return Capabilities(False, str(context.applicationId), int(context.defaultParallelism))
        except Exception:  # its JVM is gone: what is asked of it next says so
            return Capabilities(False, "", 1)
    session = spark.session_id  # type: ignore[attr-defined]
    if session not in _known:
        from pyspark.sql import functions as F

        # Spark Connect has no defaultParallelism; a range without a number of parts takes as many.
        parts = spark.range(10_000).select(F.spark_partition_id()).distinct().count()
        _known[session] = Capabilities(True, str(spark.conf.get("spark.app.id", session)), parts)
    return _known[session]
