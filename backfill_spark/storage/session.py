"""The Spark session that a call uses: the active one, the given one, or a new one; and what it must have."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from backfill_spark.display.progress import without_words_of_py4j
from backfill_spark.errors import BackfillInterrupted, SessionError
from backfill_spark.settings.current import current
from backfill_spark.storage.capabilities import capabilities, is_connect
from backfill_spark.storage.start_spark import CATALOG, EXTENSION, start_spark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from backfill_spark.settings.schema import Settings

logger = logging.getLogger(__name__)

COMPILED_ROWS = 50_000
_UNKNOWN_BYTES = 2**60
"""Spark's word for a size that it does not know is larger."""
_ENDED = (
    "Spark has ended: its JVM was killed, or ran out of memory (spark.driver.memory). Restart the notebook's kernel or "
    "this process; jobs that were under way go on with `resume_backfill`."
)
_told: set[str] = set()
"""Versions of Connect servers that were told of."""
_NEEDED = {
    "spark.databricks.delta.commitInfo.enabled": ("true", "a write whose reply was lost could not be found again."),
    "spark.sql.retainGroupColumns": ("true", "grouped counts would come without their groups."),
}
"""Settings of a session with which no job can be right: the value that is needed, and why."""


def get_spark(settings: Settings | None = None) -> SparkSession:
    """Return the active session as it is, or build one with Delta.

    Raises:
        SessionError: Java 17 or newer is missing, or the session that exists has no Delta or has ended.
    """
    if (spark := active_session()) is not None:
        check_delta(spark)
        return spark
    spark = start_spark(settings or current().settings)
    check_delta(spark)
    return spark


def active_session() -> SparkSession | None:
    """Return the session that is there, also from a thread of its own; None where Spark is not started.

    Raises:
        SessionError: it has ended.
    """
    if "pyspark" not in sys.modules:
        return None
    from py4j.protocol import Py4JError
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    try:
        active = SparkSession.getActiveSession()
        if active is None and (connect := sys.modules.get("pyspark.sql.connect.session")) is not None:
            active = connect.SparkSession._get_default_session()  # noqa: SLF001 - as below
        if active is None and SparkContext._active_spark_context is not None:  # noqa: SLF001 - a new thread has no active session
            return SparkSession.builder.getOrCreate()
    except (Py4JError, OSError) as error:
        raise SessionError(_ENDED) from error
    return active


def usable(spark: SparkSession | None, settings: Settings) -> SparkSession:
    """Return the session that was given, or the one of `get_spark` where none was.

    Raises:
        SessionError: it is stopped, or has no Delta.
    """
    if spark is None:
        return get_spark(settings)
    if not is_running(spark):
        raise SessionError(
            "The session given as spark=… is stopped. Give one that runs, or none: then the active one is used, or "
            "one is built."
        )
    check_delta(spark)
    return spark


def is_running(spark: SparkSession) -> bool:
    """False when the session's Spark was stopped or has died."""
    context: Any = getattr(spark, "_sc", None)
    if context is None:  # Spark Connect
        return not getattr(spark, "is_stopped", False)
    try:
        return context._jsc is not None and not context._jsc.sc().isStopped()  # noqa: SLF001
    except Exception:  # nobody answers: its JVM is gone
        return False


def check_delta(spark: SparkSession) -> None:
    """Refuse a session without Delta, or one whose settings would make writes of ours vanish.

    Raises:
        SessionError: says which settings to set.
    """
    if os.environ.get("DATABRICKS_RUNTIME_VERSION"):
        return
    if is_connect(spark):
        _check_server(spark)
    missing = []
    jvm: Any = getattr(spark, "_jvm", None)
    if jvm is not None and not callable(getattr(jvm.io.delta.tables, "DeltaTable", None)):
        missing.append(f"spark.jars.packages={_delta_package(spark.version)}")
    if "DeltaSparkSessionExtension" not in (spark.conf.get("spark.sql.extensions", "") or ""):
        missing.append(f"spark.sql.extensions={EXTENSION}")
    if not spark.conf.get("spark.sql.catalog.spark_catalog", ""):
        missing.append(f"spark.sql.catalog.spark_catalog={CATALOG}")
    if missing:
        raise SessionError(
            f"The Spark session has no Delta. Restart the kernel or process, since a JVM takes archives only when it "
            f"starts, and build the session with {' and '.join(missing)}; or let backfill_spark.get_spark() build it."
        )
    for key, (needed, why) in _NEEDED.items():
        found = spark.conf.get(key, needed)
        if found is not None and found.lower() != needed:
            raise SessionError(f"The session has {key}={found}: {why} Set it to {needed!r}.")
    if app := spark.conf.get("spark.databricks.delta.write.txnAppId", None):
        raise SessionError(
            f"The session has spark.databricks.delta.write.txnAppId={app}: Delta would skip every write after the "
            "first in silence. Unset it with spark.conf.unset('spark.databricks.delta.write.txnAppId')."
        )


def _check_server(spark: SparkSession) -> None:
    """Refuse a Connect server that is too old, for us or for the client; tell once of one that is only older."""
    from pyspark import __version__ as installed

    server, client = ([int(n) for n in version.split(".")[:2]] for version in (spark.version, installed))
    if server < [4, 0]:
        raise SessionError(
            f"The Spark Connect server runs Spark {spark.version}, and backfill_spark needs 4.0.1 or newer. Name a "
            "newer server in spark.remote or SPARK_REMOTE."
        )
    if server < client and spark.version not in _told:
        try:
            # Measured: with pyspark 4.2 a server of Spark 4.0 lacks a setting that the client asks for here.
            spark.createDataFrame([(1,)], "one INT").collect()
        except Exception as error:
            raise SessionError(
                f"The Spark Connect server runs Spark {spark.version} and cannot take rows from the client's pyspark "
                f"{installed}, which is newer ({str(error).strip().splitlines()[0][:200]}). `pip install "
                f"pyspark=={spark.version}` gives a client that fits; or name a newer server in spark.remote or "
                "SPARK_REMOTE."
            ) from error
        _told.add(spark.version)
        logger.warning(
            "the Spark Connect server runs Spark %s, older than the client's pyspark %s: Spark promises that old "
            "clients work with newer servers, not the other way; `pip install pyspark==%s` gives a client that fits",
            spark.version,
            installed,
            spark.version,
        )


def _delta_package(spark_version: str) -> str:
    """Return the coordinates of the Delta that fits this Spark, at the version that is installed beside it."""
    from importlib.metadata import version

    delta = version("delta-spark")
    # Delta 4.0 is for one Spark, which its archive does not name.
    spark = "" if delta.startswith("4.0.") else f"_{'.'.join(spark_version.split('.')[:2])}"
    return f"io.delta:delta-spark{spark}_2.13:{delta}"


@contextmanager
def interruptible() -> Iterator[None]:
    """Make a sentence of an interrupt."""
    with without_words_of_py4j():
        try:
            yield
        except KeyboardInterrupt as interrupt:
            if type(interrupt) is not KeyboardInterrupt:
                raise
            raise BackfillInterrupted(
                "Interrupted before a scorer was called. The same call again begins anew."
            ) from None


@contextmanager
def compiled(spark: SparkSession, *, rows: int) -> Iterator[None]:
    """Compile queries over many rows, in a session that was built here and leaves small ones alone."""
    name = "spark.sql.codegen.wholeStage"
    if rows < COMPILED_ROWS or spark.conf.get(name, "true") != "false":
        yield
        return
    spark.conf.set(name, "true")
    try:
        yield
    finally:
        spark.conf.set(name, "false")


def rows_read(frame: DataFrame) -> int:
    """Return about how many rows lie in the files that a query is going to read; 0 where nobody says.

    By their bytes, once Delta has left out files: 300 a trace, measured with traces of 4 kB. This costs nothing, since
    the same plan is run afterwards.
    """
    total = 0
    with suppress(Exception):  # Spark Connect has no plans; what cannot be planned fails when it runs
        leaves = frame._jdf.queryExecution().optimizedPlan().collectLeaves()  # noqa: SLF001
        sizes = [int(str(leaves.apply(at).stats().sizeInBytes())) for at in range(leaves.length())]
        total = sum(size for size in sizes if size < _UNKNOWN_BYTES)
    return total // 300


@contextmanager
def few_tasks(spark: SparkSession) -> Iterator[None]:
    """Run queries over our own tables, which have few rows, in few tasks, where nobody has said in how many.

    Without it, in a session that was built elsewhere, Delta reads the log of a table in 50 tasks. Afterwards the
    session is as it was.
    """
    wanted = {
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.sql.shuffle.partitions": str(max(4, 2 * capabilities(spark).slots)),
    }
    ours = []
    for name, value in wanted.items():
        with suppress(Exception):  # a platform that lets nobody set it
            if spark.conf.get(name, None) is None:
                spark.conf.set(name, value)
                ours.append(name)
    try:
        yield
    finally:
        for name in ours:
            with suppress(Exception):  # Spark has ended
                spark.conf.unset(name)
