"""What the job machinery costs: `python -m benchmarks.jobs [--pairs N] [--jobs N] [--events N]`.

Two figures: the share of a fault-free job's wall time that goes to events, leases, heartbeats and the bookkeeping of
staging; and the seconds that `status` and `list` take when the tables hold many jobs.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pyspark.sql import functions as F

from benchmarks import usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

    from backfill_spark import BackfillJob, Settings


def main() -> None:
    """Print both figures."""
    from backfill_spark import Settings, get_spark
    from benchmarks import world

    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000, help="of each job")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=100_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="backfill-bench-"))
    spark = get_spark(Settings(spark={"spark.driver.memory": "2g", "spark.master": "local[2]"}))
    try:
        for scorers in (len(world.NAMES), 1):
            job, settings = share(spark, folder / f"with-{scorers}", options.pairs, scorers)
        many(spark, settings, jobs=options.jobs, events=options.events)
        for name, look in looks(job.job_id).items():
            look()
            with usage.measured() as used:
                look()
            print(f"{name} with {options.jobs:,} jobs and {options.events:,} events: {used.wall_s:.2f} s.")
    finally:
        spark.stop()
        shutil.rmtree(folder, ignore_errors=True)


def share(spark: SparkSession, folder: Path, pairs: int, scorers: int) -> tuple[BackfillJob, Settings]:
    """Run a job of `pairs` with the first `scorers` of three, and print what the machinery takes of its time."""
    from backfill_spark import get_backfill
    from backfill_spark.api import backfill_scorers
    from backfill_spark.backfill.tables import Tables
    from benchmarks import world

    names = list(world.NAMES[:scorers])
    world.write_traces(spark, str(folder / "traces"), -(-pairs // scorers))
    world.settle(folder / "traces", folder / "warm-up")
    world.backfill(0.3)
    settings = world.settle(folder / "traces", folder / "tables")
    # Tables are made once, not for each job.
    tables = Tables(spark, settings)
    tables.jobs.ensure()
    tables.results.ensure()
    with usage.measured() as whole, Stopwatch() as machinery:
        job_id = backfill_scorers(scorers=names, start_time=world.START, end_time=world.END)
    job = get_backfill(job_id)
    print(
        f"A job of {sum(c.due for c in job.counts.values()):,} pairs of {scorers} scorers took {whole.wall_s:.1f} s; "
        f"its start and end, events, heartbeats and the bookkeeping of staging {machinery.seconds:.1f} s "
        f"of it: {machinery.seconds / whole.wall_s:.1%}."
    )
    slowest = sorted(machinery.by_name.items(), key=lambda entry: -entry[1])[:6]
    print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in slowest), flush=True)
    return job, settings


def looks(job_id: str) -> dict[str, Any]:
    """Return calls that look at a job as `status` and `list` do."""
    from backfill_spark import get_backfill, list_backfills

    return {
        "status": lambda: get_backfill(job_id).counts,
        "list": lambda: list_backfills(limit=50),
        "list --state FAILED": lambda: list_backfills(state="FAILED"),
    }


class Stopwatch:
    """Adds up the wall time for which the runner waits for the machinery; calls inside others count once."""

    def __init__(self) -> None:
        self.by_name: dict[str, float] = defaultdict(float)
        self._depth = 0
        self._main = threading.current_thread()
        self._kept: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Self:
        """Wrap what belongs to the machinery."""
        for owner, name in _machinery():
            function = getattr(owner, name)
            self._kept.append((owner, name, function))
            setattr(owner, name, self._timed(f"{owner.__name__.rpartition('.')[2]}.{name}", function))
        return self

    def __exit__(self, *_: object) -> None:
        """Take the wrappers off."""
        for owner, name, function in self._kept:
            setattr(owner, name, function)

    @property
    def seconds(self) -> float:
        """All of them."""
        return sum(self.by_name.values())

    def _timed(self, title: str, function: Any) -> Any:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not self._main or self._depth:
                return function(*args, **kwargs)
            self._depth, began = 1, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth = 0
                self.by_name[title] += time.perf_counter() - began

        return timed


def _machinery() -> Iterator[tuple[Any, str]]:
    from backfill_spark.backfill import runner
    from backfill_spark.jobs.lease import Lease
    from backfill_spark.jobs.store import JobStore
    from backfill_spark.results.staged_files import StagedFiles
    from backfill_spark.results.store import ResultStore
    from backfill_spark.storage.delta_table import Store

    yield runner, "close"
    yield from ((JobStore, name) for name in ("create_claimed", "claim", "write", "records", "show", "end"))
    yield from ((Lease, name) for name in ("flush", "start", "stop"))
    yield ResultStore, "adopt"
    yield from ((StagedFiles, name) for name in ("gone", "drop", "drop_recovered"))
    yield Store, "version"


def many(spark: SparkSession, settings: Settings, *, jobs: int, events: int) -> None:
    """Multiply the one job that is there: rows and events of `jobs` more."""
    from backfill_spark.backfill.tables import Tables
    from backfill_spark.schema import JOB_EVENTS, JOBS

    tables = Tables(spark, settings)
    rows, of_jobs = tables.of(JOBS), tables.of(JOB_EVENTS)
    fake = F.format_string("bf-20200101-%08d", "id").alias("job_id")
    row = rows.read().limit(1).drop("job_id")
    rows.append(spark.range(jobs).select("id", fake).crossJoin(row).drop("id").select(*rows.read().columns))
    own = of_jobs.read().where("event in ('created', 'claimed', 'ended')").drop("job_id")
    beats = own.where("event = 'claimed'").withColumn("event", F.lit("heartbeat"))
    heads = spark.range(jobs).select("id", fake).crossJoin(own).drop("id")
    tails = spark.range(events - 3 * jobs).select((F.col("id") % jobs).alias("id")).select(fake).crossJoin(beats)
    of_jobs.append(heads.unionByName(tails).select(*of_jobs.read().columns))


if __name__ == "__main__":
    main()
