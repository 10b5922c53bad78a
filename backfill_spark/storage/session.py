"""The only place that builds a SparkSession."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from backfill_spark.errors import SessionError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings

MINIMUM_JAVA = 17
COMPILED_ROWS = 50_000
_HOW_TO_GET_JAVA = (
    "Install Java 17 or newer (Debian and Ubuntu: `apt-get install -y openjdk-17-jre-headless`; "
    "macOS: `brew install openjdk@17`) or set JAVA_HOME to one."
)
_ENDED = (
    "Spark has ended: its JVM was killed, or ran out of memory (spark.driver.memory). Restart the notebook's kernel or "
    "this process; jobs that were under way go on with `resume_backfill`."
)
_EXTENSION = "io.delta.sql.DeltaSparkSessionExtension"
_CATALOG = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
_NEEDED = {
    "spark.databricks.delta.commitInfo.enabled": ("true", "a write whose reply was lost could not be found again."),
    "spark.sql.retainGroupColumns": ("true", "grouped counts would come without their groups."),
}
"""Settings of a session with which no job can be right: the value that is needed, and why."""
UNNEEDED_ARCHIVES = (
    "io.delta:delta-kernel-api,io.delta:delta-kernel-defaults,io.delta:delta-kernel-unitycatalog,"
    "io.unitycatalog:unitycatalog-client,io.unitycatalog:unitycatalog-hadoop,org.antlr:antlr4-runtime"
)


def get_spark(settings: Settings | None = None) -> SparkSession:
    """Return the active session as it is, or build one with Delta.

    Raises:
        SessionError: Java 17 or newer is missing, or the session that exists has no Delta or has ended.
    """
    if (spark := active_session()) is not None:
        check_delta(spark)
        return spark
    if settings is None:
        from backfill_spark.settings.schema import Settings

        settings = Settings.load()
    return _build(settings)


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
    if not os.environ.get("PYSPARK_PYTHON"):
        # Workers otherwise start another Python than the one that pickled the scorers.
        os.environ["PYSPARK_PYTHON"] = sys.executable
    given = _given() | settings.spark
    options = {
        "spark.app.name": "backfill_spark",
        "spark.sql.extensions": _EXTENSION,
        "spark.sql.catalog.spark_catalog": _CATALOG,
        "spark.sql.session.timeZone": "UTC",
        # A heartbeat must not wait behind all tasks of a chunk: its pool gets the next free slot.
        "spark.scheduler.mode": "FAIR",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.execution.pyspark.udf.faulthandler.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "2000",
        # Measured: of the 20,000 calls into Java that a small job makes, 10,600 ask where in Python a column was made.
        "spark.python.sql.dataFrameDebugging.enabled": "false",
        "spark.redaction.regex": "(?i)secret|password|token|access[.]?key|api[._-]?key|credential|authorization|bearer",
    }
    master = given.get("spark.master") or os.environ.get("MASTER") or "local[*]"
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
        options["spark.driver.extraJavaOptions"] = _java_options(given.pop("spark.driver.extraJavaOptions", ""))
    if extension := given.pop("spark.sql.extensions", None):
        options["spark.sql.extensions"] = ",".join(dict.fromkeys([_EXTENSION, *extension.split(",")]))
    options |= given
    builder = SparkSession.builder
    for key, value in options.items():
        builder = builder.config(key, value)
    own_jars = [settings.absolute(jar) for jar in settings.delta_jars]
    missing = [jar for jar in own_jars if not Path(jar.removeprefix("file:")).is_file()]
    if missing:
        raise SessionError(f"delta_jars: these files do not exist: {missing}.")
    jars, packages = (_split(given.get(key)) for key in ("spark.jars", "spark.jars.packages"))
    if own_jars:
        builder = builder.config("spark.jars", ",".join([*jars, *own_jars]))
    elif not any("delta-spark_" in one for one in [*jars, *packages]):
        builder = configure_spark_with_delta_pip(builder, packages)
        if not packages and (fetched := _fetched_archives(builder)):
            builder = builder.config("spark.jars", ",".join(fetched)).config("spark.jars.packages", "")
        else:
            excluded = [UNNEEDED_ARCHIVES, *_split(given.get("spark.jars.excludes"))]
            builder = builder.config("spark.jars.excludes", ",".join(excluded))
    try:
        with _incubator_warning_dropped():
            spark = builder.getOrCreate()
    except Exception as error:
        raise SessionError(
            f"Spark did not start: {str(error).strip().splitlines()[0][:400]}. If the machine has no Java registry, "
            "name local archives of delta-spark and delta-storage in the setting delta_jars."
        ) from error
    if wished := given.get("spark.pyspark.python"):  # PySpark itself looks at the environment only
        spark.sparkContext.pythonExec = wished
    check_delta(spark)
    return spark


@contextmanager
def _incubator_warning_dropped() -> Iterator[None]:
    """Start a JVM whose stderr comes through a pipe: its launcher adds a module that no option can silence."""
    try:
        ours, theirs = os.dup(2), os.dup(2)
    except OSError:  # a process without stderr
        yield
        return
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)
    Thread(target=_copy, args=(read, theirs), daemon=True).start()
    try:
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)


def _copy(read: int, to: int) -> None:
    """Copy until the last writer, which is the JVM, has ended."""
    with os.fdopen(read, "rb") as lines, os.fdopen(to, "wb", buffering=0) as out:
        for line in lines:
            if not line.startswith(b"WARNING: Using incubator modules: jdk.incubator.vector"):
                with suppress(OSError):  # what it went to is closed; the JVM must not wait
                    out.write(line)


def _given() -> dict[str, str]:
    """Settings of spark-submit, spark-defaults.conf and PYSPARK_SUBMIT_ARGS; a builder's values would replace them."""
    from pyspark import SparkConf, SparkContext
    from pyspark.find_spark_home import _find_spark_home

    if "PYSPARK_GATEWAY_PORT" in os.environ:  # spark-submit has started the JVM
        SparkContext._ensure_initialized()  # noqa: SLF001
        return dict(SparkConf().getAll())
    file = Path(os.environ.get("SPARK_CONF_DIR") or Path(_find_spark_home(), "conf"), "spark-defaults.conf")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    pairs = [re.split(r"\s*[=:\s]\s*", line.strip(), maxsplit=1) for line in lines]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--conf", action="append", default=[])
    for name in _SUBMITTED:
        parser.add_argument(name)
    said = vars(parser.parse_known_args(shlex.split(os.environ.get("PYSPARK_SUBMIT_ARGS", "")))[0])
    pairs += [pair.split("=", 1) for pair in said.pop("conf")]
    pairs += [[key, said[name.lstrip("-").replace("-", "_")]] for name, key in _SUBMITTED.items()]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[1] and pair[0].startswith("spark.")}


_SUBMITTED = {
    "--master": "spark.master",
    "--name": "spark.app.name",
    "--jars": "spark.jars",
    "--packages": "spark.jars.packages",
    "--exclude-packages": "spark.jars.excludes",
    "--driver-java-options": "spark.driver.extraJavaOptions",
}
"""Options of spark-submit for keys that a session built here sets, too."""


def _java_options(given: str) -> str:
    """Return `given`, and ours where it says nothing of them: quiet logs, a collector for small heaps."""
    options = [given] if given else []
    own_file = Path(os.environ.get("SPARK_CONF_DIR", ""), "log4j2.properties")
    if "log4j" not in given and not ("SPARK_CONF_DIR" in os.environ and own_file.exists()):
        options.append(f"-Dlog4j2.configurationFile=file:{Path(__file__).with_name('log4j2.properties')}")
    if not re.search(r"-XX:\+Use\w+GC\b", given):
        options.append("-XX:+UseParallelGC")
    return " ".join(options)


def _split(value: str | None) -> list[str]:
    return [part.strip() for part in (value or "").split(",") if part.strip()]


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
    """Refuse a session without Delta, or one whose settings would make writes of ours vanish.

    Raises:
        SessionError: says which settings to set.
    """
    if os.environ.get("DATABRICKS_RUNTIME_VERSION"):
        return
    missing = []
    jvm: Any = getattr(spark, "_jvm", None)
    if jvm is not None and not callable(getattr(jvm.io.delta.tables, "DeltaTable", None)):
        missing.append(f"spark.jars.packages={_delta_package(spark.version)}")
    if "DeltaSparkSessionExtension" not in (spark.conf.get("spark.sql.extensions", "") or ""):
        missing.append(f"spark.sql.extensions={_EXTENSION}")
    if not spark.conf.get("spark.sql.catalog.spark_catalog", ""):
        missing.append(f"spark.sql.catalog.spark_catalog={_CATALOG}")
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


def _delta_package(spark_version: str) -> str:
    """Return the coordinates of the Delta that fits this Spark, at the version that is installed beside it."""
    from importlib.metadata import version

    major, minor = spark_version.split(".")[:2]
    return f"io.delta:delta-spark_{major}.{minor}_2.13:{version('delta-spark')}"


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
