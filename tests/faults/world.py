"""A small world for fault tests: traces, one scorer that notes its calls, and what is asked of them."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import backfill_spark
from backfill_spark.backfill.tables import Tables
from backfill_spark.results import staged_files, store
from tests.checker import Pair, check
from tests.factories import NOON, some_traces, write_traces
from tests.nemesis import Runner, ledger_count, wait_until

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark import BackfillJob
    from backfill_spark.settings.schema import Settings

# Chunks of this size are written as results by the tasks that score them: the matrix runs on that way.
store.DRIVER_PAIRS = 50


_drop = staged_files.StagedFiles.drop


def keep_staged(self: staged_files.StagedFiles, job_id: str) -> None:
    """Put what a job that SUCCEEDED would delete where the checker finds it; other tests have it elsewhere."""
    folder, kept = Path(self.folder, job_id), Path(self.folder).parent.parent / "dropped" / job_id
    if folder.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(kept)
    else:
        _drop(self, job_id)


staged_files.StagedFiles.drop = keep_staged  # type: ignore[method-assign]
TRACES = 600
"""Three chunks: the pilot of some 200 pairs and what follows."""
PATIENCE_S = 180.0
LOGGING = Path(backfill_spark.__file__).parent / "storage" / "log4j2.properties"
# Measured: of 25 s to the first call, class verification takes 1.7.
LITTLE_COMPILING = (
    "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
)
SHORT_LIVED = {
    "spark.master": "local[2]",
    "spark.ui.enabled": "false",
    "spark.driver.memory": "1g",
    # Measured: a runner that lives for 600 calls takes 25 s instead of 37 when neither Spark nor Java compiles much.
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile=file:{LOGGING} {LITTLE_COMPILING}",
    "spark.executor.extraJavaOptions": LITTLE_COMPILING,
}
"""Spark's settings for runners with few calls each."""


def noting(folder: str, *, name: str = "length") -> Any:
    """Return a function on `trace` that notes `name<TAB>trace id<TAB>nanoseconds<TAB>process` and gives a number.

    Args:
        folder: holds `ledger.txt` and `orders.txt`, which says `<nth> <pause>`: the nth call does not return
            before the file `gate` is there; each takes `pause` seconds.
        name: of the scorer.
    """

    def score(trace: Any) -> Any:
        # By value into the workers: nothing of this module is there.
        import os
        import time
        from pathlib import Path

        handle = os.open(f"{folder}/ledger.txt", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, f"{name}\t{trace.info.trace_id}\t{time.time_ns()}\t{os.getpid()}\n".encode())
        nth, pause = Path(folder, "orders.txt").read_text().split()
        gate, held = Path(folder, "gate"), Path(folder, "held")
        if int(nth) <= os.pread(handle, os.fstat(handle).st_size, 0).count(b"\n"):
            try:
                # One call only: a task slot must stay free for the commits of everybody else.
                os.close(os.open(held, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                while not gate.exists():
                    time.sleep(0.02)
        os.close(handle)
        time.sleep(float(pause))
        return len(str(trace.data.response or ""))

    score.__name__ = name
    return score


NO_GATE = 10**9


@dataclass
class World:
    """Tables in a folder of their own, and a ledger."""

    spark: SparkSession
    settings: Settings
    folder: Path
    """Of this world's tables."""
    desk: Path
    """Of the scorer's ledger and orders, and of the runners' logs."""
    ids: list[str] = field(default_factory=list)
    options: Mapping[str, str] = field(default_factory=lambda: SHORT_LIVED)
    """Spark's settings for runners."""

    @property
    def tables(self) -> Tables:
        """Session, settings and owners of the tables, as a new call makes them."""
        return Tables(self.spark, self.settings)

    @property
    def ledger(self) -> str:
        return str(self.desk / "ledger.txt")

    @property
    def gate(self) -> Path:
        """The file that lets the held call go."""
        return self.desk / "gate"

    # What there is

    def write_traces(self, count: int = TRACES, *, first: int = 0, mode: str = "overwrite", **options: Any) -> None:
        """Write traces tr-<first>, …, a quarter of an hour apart, two files."""
        rows = some_traces(first + count, request_time=lambda i: NOON + timedelta(minutes=15 * i), spans=[])[first:]
        write_traces(self.spark, rows, self.settings.traces_path, mode=mode, files=2, **options)
        ids = [r["trace_id"] for r in rows]
        self.ids = ids if mode == "overwrite" else self.ids + ids

    def order(self, *, gate_at: int = NO_GATE, pause: float = 0.0) -> None:
        """Clear the scorer's desk and say what its calls do: the nth waits at the gate, each takes time."""
        for name in ("ledger.txt", "gate", "held"):
            (self.desk / name).unlink(missing_ok=True)
        (self.desk / "orders.txt").write_text(f"{gate_at} {pause}")

    def hurry(self) -> None:
        """Let later calls take no time, and wait for nothing."""
        (self.desk / "orders.txt").write_text(f"{NO_GATE} 0")

    def register(self) -> None:
        """Make the tables; register and start the scorer `length`."""
        from backfill_spark import ScorerSamplingConfig, schema, scorer
        from backfill_spark.storage.delta_table import Store

        backfill_spark.configure(self.settings)
        for table in schema.ALL_TABLES:
            Store(self.spark, table, self.settings).ensure()
        made = scorer(name="length")(noting(str(self.desk))).register()
        made.start(sampling_config=ScorerSamplingConfig(sample_rate=1.0))

    def pairs(self, *names: str) -> set[Pair]:
        """Return every pair of the traces written so far."""
        return {(n, i) for n in names or ("length",) for i in self.ids}

    # What is done

    def run(self, *scorers: str, **options: Any) -> str:
        """Run a backfill here; return its id."""
        from backfill_spark import backfill_scorers

        return backfill_scorers(
            scorers=list(scorers or ("length",)), spark=self.spark, settings=self.settings, **options
        )

    def run_later(self, *scorers: str, **options: Any) -> str:
        """Run as `run`, with a clock by which the last runner's lease has run out: saves the wait."""
        with clock_shifted(self.settings.limits.lease_s + 1):
            return self.run(*scorers, **options)

    def newest(self) -> BackfillJob:
        """Return the newest job."""
        from backfill_spark import list_backfills

        return list_backfills(limit=1, spark=self.spark, settings=self.settings)[0]

    def job(self, job_id: str) -> BackfillJob:
        """Return a job as it is now."""
        from backfill_spark import get_backfill

        return get_backfill(job_id, spark=self.spark, settings=self.settings)

    def resume(self, job_id: str, **options: Any) -> BackfillJob:
        """Take a job up again, with a clock by which its last runner's lease has run out: saves the wait."""
        from backfill_spark import resume_backfill

        with clock_shifted(self.settings.limits.lease_s + 1):
            resume_backfill(job_id, spark=self.spark, settings=self.settings, **options)
        return self.job(job_id)

    def resume_when_dead(self, job_id: str, **options: Any) -> BackfillJob:
        """Take a job up again as soon as its last runner is seen as dead by the true clock."""
        from backfill_spark import resume_backfill

        wait_until(lambda: not self.job(job_id).alive, 3 * self.settings.limits.lease_s + 20, "the lease to run out")
        return resume_backfill(job_id, spark=self.spark, settings=self.settings, **options)

    def cancel(self, job_id: str) -> None:
        """Ask for a job's end."""
        from backfill_spark import cancel_backfill

        cancel_backfill(job_id, spark=self.spark, settings=self.settings)

    def crash(self, place: str, *scorers: str, **options: Any) -> str:
        """Run a backfill that dies at a failpoint (in this process: as if its runner were gone); return its id."""
        from backfill_spark import resume_backfill
        from backfill_spark.jobs import failpoints

        # A job that its creator runs at once is claimed in the commit that creates it; a queued one is not.
        job_id = self.run(*scorers, launch="queue", **options) if place == "before_claim" else None
        failpoints.arm(f"{place}:raise")
        try:
            if job_id is None:
                self.run(*scorers, **options)
            else:
                resume_backfill(job_id, spark=self.spark, settings=self.settings)
        except failpoints.FailpointError:
            return self.newest().job_id
        finally:
            failpoints.arm("")
        raise AssertionError(f"the job never came to {place}")

    @contextmanager
    def meanwhile(self, work: Callable[[], Any]) -> Iterator[Started]:
        """Do `work` in another thread; at the end, open the gate and wait for it."""
        started = Started(work)
        started.thread.start()
        try:
            yield started
        finally:
            self.gate.touch()
            started.thread.join(PATIENCE_S)
            assert not started.thread.is_alive(), "the job in the other thread does not end"

    def wait_for_calls(self, count: int) -> None:
        """Wait until the ledger has `count` lines."""
        wait_until(lambda: ledger_count(self.ledger) >= count, PATIENCE_S, f"{count} calls")

    def lines(self) -> list[str]:
        """Return the ledger."""
        path = Path(self.ledger)
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def runner(self, action: str, *arguments: str, failpoint: str = "", log: str = "runner") -> Runner:
        """Start a runner of its own processes on this world's tables."""
        command = [sys.executable, "-m", "tests.faults.driver", action, *arguments]
        return Runner(command, log=self.desk / f"{log}.log", environment=self.environment(failpoint))

    def jars(self) -> list[str]:
        """Return Delta's archives: Ivy would look them up again at each start."""
        return [a.removeprefix("file://") for a in (self.spark.conf.get("spark.jars", "") or "").split(",") if a]

    def keep_classes(self) -> Mapping[str, str]:
        """Let a runner write the classes that a job needs to an archive; return settings that read them from there.

        Measured: 21 CPU seconds to a runner's first call instead of 29.
        """
        plain, archive = self.options, self.desk / "classes.jsa"

        def with_flag(flag: str) -> Mapping[str, str]:
            java = f"{plain['spark.driver.extraJavaOptions']} -XX:{flag}={archive}"
            return {
                **plain,
                "spark.driver.extraClassPath": ":".join(self.jars()),
                "spark.driver.extraJavaOptions": java,
            }

        self.options = with_flag("ArchiveClassesAtExit")
        with self.runner("run", "length", log="classes") as runner:
            assert runner.wait(PATIENCE_S) == 0, runner.said()
            wait_until(lambda: not runner.family(), PATIENCE_S, "the JVM to write its classes")
        return with_flag("SharedArchiveFile")

    def environment(self, failpoint: str = "") -> dict[str, str]:
        """Return the settings as a runner's environment."""
        limits = self.settings.limits
        found = {
            "BACKFILL_SPARK_TABLES__ROOT": self.settings.tables.root,
            "BACKFILL_SPARK_TRACES__PATH": self.settings.traces_path,
            "BACKFILL_SPARK_TIMEZONE": "UTC",
            "BACKFILL_SPARK_LIMITS__LEASE_S": str(limits.lease_s),
            "BACKFILL_SPARK_LIMITS__HEARTBEAT_S": str(limits.heartbeat_s),
            "BACKFILL_SPARK_JUDGE": self.settings.judge.model_dump_json(),
            "BACKFILL_SPARK_DELTA_JARS": json.dumps(self.jars()),
            "BACKFILL_SPARK_SPARK": json.dumps(dict(self.options)),
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }
        return found | ({"BACKFILL_SPARK_FAILPOINT": failpoint} if failpoint else {})

    # What must be so

    def broken(self, *, extra: int = 0, woken: int = 0, expected: set[Pair] | None = None) -> list[str]:
        """Return every promise that the checker finds broken."""
        wanted = self.pairs() if expected is None else expected
        return check(self.settings, self.lines(), expected=wanted, extra=extra, woken=woken)


@contextmanager
def clock_shifted(seconds: float) -> Iterator[None]:
    """Let job stores that are made inside see another time."""
    from backfill_spark.jobs.store import JobStore

    defaults: dict[str, Any] = JobStore.__init__.__kwdefaults__ or {}
    before = defaults["clock"]
    defaults["clock"] = lambda: time.time() + seconds
    try:
        yield
    finally:
        defaults["clock"] = before


def refusal(work: Callable[[], Any]) -> str | None:
    """Do `work`; return what it raised as text, or None."""
    try:
        work()
    except Exception as error:
        return str(error)
    return None


class Started:
    """Work in another thread: its result, or what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._work = work
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # handed to the test
            self.error = error
