"""The only place that builds a SparkSession."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from backfill_spark.errors import SessionError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings import Settings

MINIMUM_JAVA = 17
COMPILED_ROWS = 50_000
_HOW_TO_GET_JAVA = (
    "Install Java 17 or newer (Debian and Ubuntu: `apt-get install -y openjdk-17-jre-headless`; "
    "macOS: `brew install openjdk@17`) or set JAVA_HOME to one."
)
UNNEEDED_ARCHIVES = (
    "io.delta:delta-kernel-api,io.delta:delta-kernel-defaults,io.delta:delta-kernel-unitycatalog,"
    "io.unitycatalog:unitycatalog-client,io.unitycatalog:unitycatalog-hadoop,org.antlr:antlr4-runtime"
)


def get_spark(settings: Settings | None = None) -> SparkSession:
    """Return the active session as it is, or build one with Delta.

    Raises:
        SessionError: Java 17 or newer is missing, or the session that exists has no Delta.
    """
    active = active_session()
    if active is not None:
        return active
    if settings is None:
        from backfill_spark.settings import Settings

        settings = Settings.load()
    return _build(settings)


def active_session() -> SparkSession | None:
    """Return the session that is there, also from a thread of its own; None where Spark is not started."""
    if "pyspark" not in sys.modules:
        return None
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is None and SparkContext._active_spark_context is not None:  # noqa: SLF001 - a new thread has no active session
        return SparkSession.builder.getOrCreate()
    return active


def check_java() -> str:
    """Return the path of Java 17 or newer.

    Raises:
        SessionError: none is found, or it is older; says which and what to install.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if java is None or not Path(java).exists():
        where = f"JAVA_HOME={home} has none" if home else "there is none on PATH, and JAVA_HOME is not set"
        raise SessionError(f"Spark needs Java {MINIMUM_JAVA} or newer: {where}. {_HOW_TO_GET_JAVA}")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr  # noqa: S603 - JAVA_HOME is the user's own
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    if match is None or int(match[1]) < MINIMUM_JAVA:
        found = match[1] if match else "unknown"
        raise SessionError(f"Spark needs Java {MINIMUM_JAVA} or newer; {java} is Java {found}. {_HOW_TO_GET_JAVA}")
    return java


def _build(settings: Settings) -> SparkSession:
    from delta import configure_spark_with_delta_pip
    from pyspark.sql import SparkSession

    check_java()
    # Workers otherwise start another Python than the one that pickled the scorers.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    options = {
        "spark.app.name": "backfill_spark",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        # A heartbeat must not wait behind all tasks of a chunk: its pool gets the next free slot.
        "spark.scheduler.mode": "FAIR",
        "spark.ui.showConsoleProgress": "false",
        # Measured: an empty Python task takes 12 ms of a slot instead of 59.
        "spark.python.unix.domain.socket.enabled": "true",
        "spark.sql.execution.pyspark.udf.faulthandler.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "2000",
        # Measured: of the 20,000 calls into Java that a small job makes, 10,600 ask where in Python a column was made.
        "spark.python.sql.dataFrameDebugging.enabled": "false",
        "spark.redaction.regex": "(?i)secret|password|token|access[.]?key|api[._-]?key|credential|authorization|bearer",
    }
    master = settings.spark.get("spark.master") or os.environ.get("MASTER") or "local[*]"
    if master.startswith("local"):
        options |= {
            "spark.master": master,
            "spark.ui.enabled": "false",
            # Kept for that page, a thousand each: plans that fill the heap of a worker that runs for days.
            "spark.sql.ui.retainedExecutions": "20",
            "spark.ui.retainedJobs": "20",
            "spark.ui.retainedStages": "20",
            "spark.ui.retainedTasks": "100",
            # Measured: registry and job writes take 1.5 s instead of 6.6.
            "spark.databricks.delta.snapshotPartitions": "2",
            "spark.sql.shuffle.partitions": "4",
            # Few rows in our own tables: planning a query again between its stages costs more than it gains.
            "spark.sql.adaptive.enabled": "false",
            # Measured: a small job takes a third less CPU when its queries are not compiled whole; `compiled` turns
            # it on for chunks that are worth it. (Without any compilation, catalog.listTables() fails.)
            "spark.sql.codegen.wholeStage": "false",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
        }
        log4j = Path(__file__).with_name("log4j2.properties")
        options["spark.driver.extraJavaOptions"] = f"-Dlog4j2.configurationFile=file:{log4j} -XX:+UseParallelGC"
    options |= settings.spark
    builder = SparkSession.builder
    for key, value in options.items():
        builder = builder.config(key, value)
    if settings.delta_jars:
        jars = [settings.absolute(jar) for jar in settings.delta_jars]
        missing = [jar for jar in jars if not Path(jar.removeprefix("file:")).is_file()]
        if missing:
            raise SessionError(f"delta_jars: these files do not exist: {missing}.")
        builder = builder.config("spark.jars", ",".join(jars))
    else:
        builder = configure_spark_with_delta_pip(builder)
        if fetched := _fetched_archives(builder):
            builder = builder.config("spark.jars", ",".join(fetched)).config("spark.jars.packages", "")
        else:
            builder = builder.config("spark.jars.excludes", UNNEEDED_ARCHIVES)
    try:
        spark = builder.getOrCreate()
    except Exception as error:
        raise SessionError(
            f"Spark did not start: {str(error).strip().splitlines()[0][:400]}. If the machine has no Java registry, "
            "name local archives of delta-spark and delta-storage in the setting delta_jars."
        ) from error
    return spark


def _fetched_archives(builder: SparkSession.Builder) -> list[str]:
    """Return Delta's archives when an earlier start has fetched them: Ivy takes a second to look, and prints a page."""
    options = builder._options  # noqa: SLF001 - the coordinates are Delta's to know
    if options.keys() & {"spark.jars", "spark.jars.ivy", "spark.jars.ivySettings"}:
        return []
    group, name, version = options["spark.jars.packages"].split(":")
    folder = Path.home() / ".ivy2.5.2" / "jars"
    archives = [folder / f"{group}_{one}-{version}.jar" for one in (name, "delta-storage")]
    return [str(a) for a in archives] if all(a.exists() for a in archives) else []


def check_delta(spark: SparkSession) -> None:
    """Refuse a session without Delta.

    Raises:
        SessionError: says which settings are missing.
    """
    catalog = spark.conf.get("spark.sql.extensions", "") or ""
    if "DeltaSparkSessionExtension" in catalog or os.environ.get("DATABRICKS_RUNTIME_VERSION"):
        return
    raise SessionError(
        "The Spark session has no Delta. Start it with spark.jars.packages=io.delta:delta-spark_4.2_2.13:4.4.0, "
        "spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension and spark.sql.catalog.spark_catalog="
        "org.apache.spark.sql.delta.catalog.DeltaCatalog, or let backfill_spark.get_spark() build one."
    )


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


def scheduling_slots(spark: SparkSession) -> int:
    """Return how many tasks run at once, as far as Spark tells (Spark Connect does not: 2)."""
    try:
        return int(spark.sparkContext.defaultParallelism)
    except Exception:
        return 2
