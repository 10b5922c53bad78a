"""What `doctor` looks at: one finding a part, each with what to do. Needs no tables."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backfill_spark.errors import BackfillError, BackfillRefusedError, SessionError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.cli.program import Program
    from backfill_spark.settings.judges import JudgeSettings

PACKAGES = ("pyspark", "delta-spark", "pandas", "pyarrow")


@dataclass(frozen=True, slots=True)
class Finding:
    """How one part is."""

    what: str
    ok: bool
    said: str
    advice: str = ""
    """What to do, where the part is bad or not there yet."""


def examine(program: Program) -> Iterator[Finding]:
    """Yield findings one by one; what needs a Spark session is left out when none starts."""
    yield _python()
    yield _packages()
    readable = _looked_at("settings", lambda: _settings(program), "Mend the settings named here.")
    yield readable
    asked = _judge_models(program.settings.judge) if readable.ok else {}
    for what, uri in asked.items():
        yield _looked_at(what, lambda uri=uri: _key(uri, program.settings.judge), "")  # type: ignore[misc]
    if not os.environ.get("SPARK_REMOTE"):
        yield _looked_at("Java", _java, "")
    from backfill_spark.storage.start_spark import short_life

    session: list[Any] = []

    def start() -> str:
        with short_life():
            session.append(program.api.get_spark(program.settings))
        master = session[0].conf.get("spark.master", "remote")
        return f"{session[0].version}, master {master}"

    found = _looked_at("Spark", start, "Mend what is said here; the parts below need a session.")
    yield found
    if not session:
        return
    yield _looked_at("Delta", lambda: _delta(session[0]), "Put delta-spark's archives on the session's class path.")
    yield _looked_at("Python on executors", lambda: _executors(program, session[0]), "")
    if asked:
        yield _looked_at("keys on executors", lambda: _keys(session[0], program.settings.judge, asked), "")
    yield _tables(program)
    yield _traces(program, session[0])


def _looked_at(what: str, look: Callable[[], str], advice: str) -> Finding:
    try:
        return Finding(what, True, look())
    except BackfillError as error:
        return Finding(what, False, str(error), "")
    except Exception as error:
        return Finding(what, False, _said(error), advice)


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or [''])[0][:400]}"


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    ok = sys.version_info >= (3, 11)
    return Finding("Python", ok, f"{version} at {sys.executable}", "" if ok else "Install Python 3.11 or newer.")


def _packages() -> Finding:
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("packages", False, f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return Finding("packages", True, ", ".join(found))


def _settings(program: Program) -> str:
    return f"tables at {program.settings.tables_at}"


def _judge_models(judge: JudgeSettings) -> dict[str, str]:
    """Return what to look at: each endpoint of the settings, and the model of judges that name none."""
    asked = {f"judge {name}": f"{name}:/any" for name in sorted(judge.endpoints)}
    return asked | ({} if judge.model is None else {"judge.model": judge.model})


def _key(uri: str, judge: JudgeSettings) -> str:
    """Say where an endpoint's key lies, never what it is."""
    from backfill_spark.judges.llm.endpoints import read_key, resolve

    endpoint, _ = resolve(uri, judge)
    if endpoint.api_key_env is None and endpoint.api_key_file is None:
        return f"{endpoint.base_url}, without a key: neither api_key_env nor api_key_file is set"
    read_key(endpoint)
    variable = f"the environment variable {endpoint.api_key_env}"
    return f"{endpoint.base_url}, its key is in {variable if endpoint.api_key_env else endpoint.api_key_file}"


def _keys(spark: SparkSession, judge: JudgeSettings, asked: Mapping[str, str]) -> str:
    """Look for the keys where judges ask; those that no address was found for were told before."""
    from backfill_spark.judges.llm.endpoints import Service, resolve
    from backfill_spark.judges.services import keys_missing

    services = {}
    for what, uri in asked.items():
        with contextlib.suppress(BackfillRefusedError):
            services[what] = Service(*resolve(uri, judge))
    problems = keys_missing(spark, services)
    if problems:
        raise BackfillRefusedError("\n".join(problems))
    return "all that the settings name"


def _java() -> str:
    from backfill_spark.storage.start_spark import check_java

    return str(check_java())


def _delta(spark: SparkSession) -> str:
    from backfill_spark.storage.commit_log import is_delta
    from backfill_spark.storage.session import check_delta

    check_delta(spark)
    # The setting may be there without the archives: any call into them tells.
    with tempfile.TemporaryDirectory() as folder:
        is_delta(spark, folder)
    return "ready"


def _executors(program: Program, spark: SparkSession) -> str:
    """Run the probe job that each plan runs."""
    from backfill_spark.backfill.preflight import executor_problems
    from backfill_spark.storage.capabilities import capabilities
    from backfill_spark.storage.stores import Stores

    problems = executor_problems(Stores(spark, program.settings))
    if problems:
        raise SessionError("\n".join(problems))
    return f"the driver's version, with this package, in {capabilities(spark).slots} slots"


def _tables(program: Program) -> Finding:
    from backfill_spark.schema import ALL_TABLES

    place = program.settings.tables_at
    there, problems = 0, []
    for table in ALL_TABLES:
        try:
            store = program.stores.small(table)
            if store.exists():
                store.ensure()
                there += 1
        except Exception as error:
            problems.append(str(error) if isinstance(error, BackfillError) else f"{table.name}: {_said(error)}")
    if problems:
        return Finding("tables", False, "\n".join(problems))
    if there < len(ALL_TABLES):
        if program.settings.tables.schema_ is None and not _is_writable(place):
            return Finding("tables", False, f"{place} cannot be written", "Set tables.root to a folder of yours.")
        said = f"{there} of {len(ALL_TABLES)} are at {place}"
        return Finding("tables", True, said, "`backfill-spark init`, or the first job, makes the others.")
    return Finding("tables", True, f"all {there} at {place}")


def _is_writable(root: str) -> bool:
    """True when the nearest existing folder above `root` can be written; remote places are not looked at."""
    if "://" in root:
        return True
    path = Path(root.removeprefix("file:")).absolute()
    nearest = next((parent for parent in (path, *path.parents) if parent.exists()), Path("/"))
    return nearest.is_dir() and os.access(nearest, os.W_OK)


def _traces(program: Program, spark: SparkSession) -> Finding:
    """Look whether the traces open; a machine without any yet is no fault of the set-up."""
    from backfill_spark.traces.sources import open_source

    try:
        source = open_source(spark, program.settings)
    except Exception as error:
        said = str(error) if isinstance(error, BackfillError) else _said(error)
        return Finding("traces", True, f"not readable yet: {said}")
    return Finding("traces", True, f"{source.name} ({source.kind}, version {source.version})")
