"""Starts Spark with Delta, as the settings and spark-defaults.conf say."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from backfill_spark.display.redaction import KEY_NAMES
from backfill_spark.errors import SessionError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings

MINIMUM_JAVA = 17
_HOW_TO_GET_JAVA = (
    "Install Java 17 or newer (Debian and Ubuntu: `apt-get install -y openjdk-17-jre-headless`; "
    "macOS: `brew install openjdk@17`) or set JAVA_HOME to one."
)
EXTENSION = "io.delta.sql.DeltaSparkSessionExtension"
CATALOG = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
_is_short: ContextVar[bool] = ContextVar("backfill_spark_short_life", default=False)
LATE_COMPILING = " ".join(
    f"-XX:Tier4{name}={20 * default}"
    for name, default in {
        "InvocationThreshold": 5_000,
        "MinInvocationThreshold": 600,
        "CompileThreshold": 15_000,
        "BackEdgeThreshold": 40_000,
    }.items()
)
"""Java's second compiler takes on code that has run twenty times as often as by default. Measured, in CPU seconds: the
first job of a session 16.8 in place of 30.6, a later one of 1,000 traces 3.1 in place of 4.7, of 300,000 16.0 in place
of 17.7, of 500,000 spans 22.5 in place of 24.7. Without that compiler small jobs take 15 % less again, and spans twice
as much."""
UNNEEDED_ARCHIVES = (
    "io.delta:delta-kernel-api,io.delta:delta-kernel-defaults,io.delta:delta-kernel-unitycatalog,"
    "io.unitycatalog:unitycatalog-client,io.unitycatalog:unitycatalog-hadoop,org.antlr:antlr4-runtime"
)


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


def start_spark(settings: Settings) -> SparkSession:
    """Build a session with Delta.

    Raises:
        SessionError: Java 17 or newer is missing, an archive of `delta_jars` does not exist, or Spark did not start.
    """
    from delta import configure_spark_with_delta_pip
    from pyspark.sql import SparkSession

    remote = settings.spark.get("spark.remote") or os.environ.get("SPARK_REMOTE") or ""
    if remote:
        _check_connect(remote)
    if remote and not remote.startswith("local"):
        return _connected(settings.spark | {"spark.remote": remote})
    check_java()
    if not os.environ.get("PYSPARK_PYTHON"):
        # Workers otherwise start another Python than the one that pickled the scorers.
        os.environ["PYSPARK_PYTHON"] = sys.executable
    given = _given() | settings.spark
    options = {
        "spark.app.name": "backfill_spark",
        "spark.sql.extensions": EXTENSION,
        "spark.sql.catalog.spark_catalog": CATALOG,
        "spark.sql.session.timeZone": "UTC",
        # A heartbeat must not wait behind all tasks of a chunk: its pool gets the next free slot.
        "spark.scheduler.mode": "FAIR",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.execution.pyspark.udf.faulthandler.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "2000",
        # Measured: of the 20,000 calls into Java that a small job makes, 10,600 ask where in Python a column was made.
        "spark.python.sql.dataFrameDebugging.enabled": "false",
        "spark.redaction.regex": f"(?i){KEY_NAMES}|bearer",
    }
    master = remote or given.get("spark.master") or os.environ.get("MASTER") or "local[*]"
    if master.startswith("local"):
        options |= {
            "spark.remote" if remote else "spark.master": master,
            "spark.ui.enabled": "false",
            # Kept for that page, a thousand each: plans that fill the heap of a worker that runs for days.
            "spark.sql.ui.retainedExecutions": "20",
            "spark.ui.retainedJobs": "20",
            "spark.ui.retainedStages": "20",
            "spark.ui.retainedTasks": "100",
            # Measured: registry and job writes take 1.5 s instead of 6.6.
            "spark.databricks.delta.snapshotPartitions": "2",
            "spark.sql.shuffle.partitions": "4",
            # Of more than 32 files that a plan names Spark would start a task for each, to look whether it is there.
            "spark.sql.sources.parallelPartitionDiscovery.threshold": "1000",
            # Few rows in our own tables: planning a query again between its stages costs more than it gains.
            "spark.sql.adaptive.enabled": "false",
            # Measured: a small job takes a third less CPU when its queries are not compiled whole; `compiled` turns
            # it on for chunks that are worth it. (Without any compilation, catalog.listTables() fails.)
            "spark.sql.codegen.wholeStage": "false",
            # With its hundred, jobs over two sources in turn compile a quarter of their code again, each time.
            "spark.sql.codegen.cache.maxEntries": "500",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
        }
        options["spark.driver.extraJavaOptions"] = _java_options(given.pop("spark.driver.extraJavaOptions", ""))
    if extension := given.pop("spark.sql.extensions", None):
        options["spark.sql.extensions"] = ",".join(dict.fromkeys([EXTENSION, *extension.split(",")]))
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
        with _incubator_warning_dropped(), _no_word_of_static_options():
            spark = builder.getOrCreate()
    except Exception as error:
        raise SessionError(
            f"Spark did not start: {str(error).strip().splitlines()[0][:400]}. If the machine has no Java registry, "
            "name local archives of delta-spark and delta-storage in the setting delta_jars."
        ) from error
    if (wished := given.get("spark.pyspark.python")) and not remote:  # PySpark itself looks at the environment only
        spark.sparkContext.pythonExec = wished
    return spark


def _check_connect(remote: str) -> None:
    try:
        import pyspark.sql.connect.session  # noqa: F401 - that it can be imported is the question
    except ImportError as error:
        raise SessionError(
            f"Spark Connect ({_address(remote)}) needs further packages: {str(error).splitlines()[0]} "
            "Install them with pip install 'backfill-spark[connect]'."
        ) from error


def _address(remote: str) -> str:
    return remote.split(";", maxsplit=1)[0]  # what follows may hold a token


def _connected(options: Mapping[str, str]) -> SparkSession:
    """Build a session on a server, which has its own settings; what can only be set when it starts is left out."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder
    for key, value in {"spark.sql.session.timeZone": "UTC", **options}.items():
        builder = builder.config(key, value)
    try:
        with _no_word_of_static_options():
            spark = builder.getOrCreate()
        spark.version  # noqa: B018 - the first question to the server
    except Exception as error:
        raise SessionError(
            f"The Spark Connect server {_address(options['spark.remote'])} does not answer: "
            f"{str(error).strip().splitlines()[0][:300]} Look whether it runs and can be reached from here "
            "(spark.remote or SPARK_REMOTE: sc://host:15002)."
        ) from error
    return spark


@contextmanager
def _no_word_of_static_options() -> Iterator[None]:
    """Leave out PySpark's warnings: a client of Spark Connect sets each option again, and some are set at the start."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Failed to set spark", category=UserWarning)
        yield


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
    """Return what spark-submit, spark-defaults.conf or PYSPARK_SUBMIT_ARGS set: a builder's values would replace it."""
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
    """Return `given`, and ours where it says nothing of them: quiet logs, a collector, when to compile."""
    options = [given] if given else []
    own_file = Path(os.environ.get("SPARK_CONF_DIR", ""), "log4j2.properties")
    if "log4j" not in given and not ("SPARK_CONF_DIR" in os.environ and own_file.exists()):
        options.append(f"-Dlog4j2.configurationFile=file:{Path(__file__).with_name('log4j2.properties')}")
    is_short = _is_short.get()
    if not re.search(r"-XX:\+Use\w+GC\b", given):
        options.append("-XX:+UseSerialGC" if is_short else "-XX:+UseParallelGC")
    if "Tier" not in given:
        options.append("-XX:TieredStopAtLevel=1" if is_short else LATE_COMPILING)
    return " ".join(options)


@contextmanager
def short_life() -> Iterator[None]:
    """Start a JVM that begins quickly, in place of one that runs fast later on: a plan is a few queries."""
    token = _is_short.set(True)
    try:
        yield
    finally:
        _is_short.reset(token)


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
