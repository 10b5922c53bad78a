"""Measures jobs against what people do instead, interleaved in one session; the ratios are what counts.

`make bench` writes benchmarks/results.json and results.md; `make bench-check` compares the ratios with those recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import usage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FOLDER = Path(__file__).parent
RESULTS, TABLE = FOLDER / "results.json", FOLDER / "results.md"
WORSE = 1.3
"""A ratio that is worse than the recorded one by more than this has changed."""
SMALL, MIDDLE, LARGE, HUGE = 1_000, 20_000, 300_000, 1_000_000


@dataclass
class Bench:
    """The subjects that are measured, round by round, in folders that are new each time."""

    spark: SparkSession
    folder: Path
    sizes: tuple[int, ...]
    took: dict[str, list[usage.Usage]] = field(default_factory=lambda: defaultdict(list))
    round: int = 0

    @contextmanager
    def measuring(self, what: str) -> Iterator[None]:
        with usage.measured() as used:
            yield
        self.took[what].append(used)
        tell(f"round {self.round}: {what}: {used.wall_s:.2f} s, {used.cpu_s:.1f} CPU s")

    def traces(self, size: int) -> Path:
        return self.folder / f"traces-{size}"

    @contextmanager
    def new(self) -> Iterator[Path]:
        made = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def jobs(self, size: int) -> None:
        """A whole job, and the same again."""
        from benchmarks import world

        with self.new() as out:
            world.settle(self.traces(size), out / "tables")
            with self.measuring(f"{size:,} x 3"):
                world.backfill()
            with self.measuring(f"{size:,} x 3 again"):
                world.backfill()

    def first(self, heap: str, master: str) -> None:
        from benchmarks.first import first_job

        what = f"{SMALL:,} x 3, first job of a session"
        self.took[what].append(used := first_job(self.traces(SMALL), heap=heap, master=master))
        tell(f"round {self.round}: {what}: {used.wall_s:.2f} s, {used.cpu_s:.1f} CPU s")

    def five(self) -> None:
        from benchmarks import world

        with self.new() as out:
            world.settle(self.traces(LARGE), out / "tables", names=world.FIVE)
            with self.measuring(f"{LARGE:,} x 5"):
                world.backfill(names=world.FIVE)

    def parts(self, size: int) -> None:
        """A sample, and a window of which half is done."""
        from benchmarks import world

        with self.new() as out:
            world.settle(self.traces(size), out / "tables", rate=0.1)
            with self.measuring(f"{size:,} x 3, 10 % sample"):
                world.backfill()
        with self.new() as out:
            world.settle(self.traces(size), out / "tables")
            world.backfill(0.5)
            with self.measuring(f"{size:,} x 3, half done"):
                world.backfill()

    def peers(self) -> None:
        from benchmarks import peers, world

        traces = str(self.traces(LARGE))
        ways: dict[str, Callable[[str], Any]] = {
            "loop, same columns, x 3": lambda out: peers.loop_rows(traces, out, world.NAMES),
            "loop, same columns, x 5": lambda out: peers.loop_rows(traces, out, world.FIVE),
            "loop, same columns, x 3, two processes": lambda out: peers.loop_rows(traces, out, world.NAMES, 2),
            "loop, id, name and value, x 3": lambda out: peers.loop_values(traces, out, world.NAMES),
            "5 Spark jobs, pruned columns": lambda out: peers.pruned_jobs(
                self.spark, traces, out, world.FIVE, whole=True
            ),
            "5 Spark jobs, whole traces": lambda out: peers.struct_jobs(
                self.spark, traces, out, world.FIVE, whole=True
            ),
            "5 Spark jobs, pruned columns, id, name and value": lambda out: peers.pruned_jobs(
                self.spark, traces, out, world.FIVE
            ),
            "bare scan": lambda _: peers.scan(self.spark, traces),
        }
        for what, way in ways.items():
            with self.new() as out, self.measuring(what):
                way(str(out / "results"))

    def mlflow(self, python: str) -> None:
        from benchmarks import peers

        with self.new() as out, self.measuring(f"mlflow.genai.evaluate, {SMALL:,} x 3, whole command"):
            seconds = peers.mlflow_evaluate(python, out, str(self.traces(SMALL)), SMALL)
        self.took["mlflow.genai.evaluate, the call alone"].append(usage.Usage(seconds, 0.0))

    def cpu(self, what: str) -> float:
        return statistics.median(used.cpu_s for used in self.took[what])

    def wall(self, what: str) -> float:
        return statistics.median(used.wall_s for used in self.took[what])


def main() -> int:
    """Measure, print, and record or compare."""
    options = arguments()
    if options.check and not RESULTS.exists():
        tell(f"There is no {RESULTS.name} to compare with: run `make bench` first.")
        return 2
    folder = Path(options.folder or tempfile.mkdtemp(prefix="backfill-bench-"))
    os.environ.setdefault("TZ", "UTC")
    from backfill_spark import Settings, get_spark
    from benchmarks import world

    spark = get_spark(Settings(spark={"spark.driver.memory": options.heap, "spark.master": options.master}))
    sizes = (SMALL, MIDDLE, LARGE, *([HUGE] if options.million else []))
    bench = Bench(spark, folder, sizes)
    for size in sizes:
        if not bench.traces(size).exists():
            world.write_traces(spark, str(bench.traces(size)), size)
    tell("warming up")
    for size in (SMALL, LARGE):
        bench.jobs(size)
    bench.took.clear()
    for bench.round in range(1, options.rounds + 1):
        for size in sizes:
            bench.jobs(size)
        bench.first(options.heap, options.master)
        bench.five()
        for size in sizes[2:]:
            bench.parts(size)
        bench.peers()
        if options.mlflow_python:
            bench.mlflow(options.mlflow_python)
    found = ratios(bench)
    print(table(bench), "\n" + "\n".join(f"{name}: {value:.3g}" for name, value in found.items()))
    spark.stop()
    if not options.folder:
        shutil.rmtree(folder, ignore_errors=True)
    if options.check:
        return check(found)
    if options.write:
        took = {w: [[u.wall_s, u.cpu_s] for u in all_] for w, all_ in bench.took.items()}
        RESULTS.write_text(json.dumps({"machine": machine(options), "seconds": took, "ratios": found}, indent=1) + "\n")
        TABLE.write_text(f"# Measurements\n\n{machine(options)}\n\n{table(bench)}\n\n{ratio_table(found)}\n")
        tell(f"written to {RESULTS.name} and {TABLE.name}")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default 3)")
    parser.add_argument("--million", action="store_true", help="jobs of 1,000,000 traces, too")
    parser.add_argument("--mlflow-python", metavar="PATH", help="a Python that has MLflow, for its evaluation")
    parser.add_argument("--heap", default="2g", help="memory of the driver's JVM (default 2g)")
    parser.add_argument("--master", default="local[2]", help="Spark master (default local[2])")
    parser.add_argument("--folder", help="where to work, kept afterwards; default: a temporary folder")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} and {TABLE.name}")
    parser.add_argument("--check", action="store_true", help=f"compare the ratios with {RESULTS.name}")
    return parser.parse_args()


def ratios(bench: Bench) -> dict[str, float]:
    """Return the ratios that are judged; of each, more is better."""
    three, five = f"{LARGE:,} x 3", f"{LARGE:,} x 5"
    found = {
        "CPU of the loop with the same columns / ours, x 3": bench.cpu("loop, same columns, x 3") / bench.cpu(three),
        "CPU of the loop with the same columns / ours, x 5": bench.cpu("loop, same columns, x 5") / bench.cpu(five),
        "CPU of the loop on two processes / ours, x 3": bench.cpu("loop, same columns, x 3, two processes")
        / bench.cpu(three),
        "CPU of the loop with id, name and value / ours, x 3": bench.cpu("loop, id, name and value, x 3")
        / bench.cpu(three),
        "CPU of 5 Spark jobs with pruned columns / ours, x 5": bench.cpu("5 Spark jobs, pruned columns")
        / bench.cpu(five),
        "CPU of 5 Spark jobs with whole traces / ours, x 5": bench.cpu("5 Spark jobs, whole traces") / bench.cpu(five),
        "CPU of 5 Spark jobs with pruned columns, id, name and value / ours, x 5": bench.cpu(
            "5 Spark jobs, pruned columns, id, name and value"
        )
        / bench.cpu(five),
        "CPU of a bare scan / ours, x 3": bench.cpu("bare scan") / bench.cpu(three),
        "CPU of a full pass / the same again": bench.cpu(three) / bench.cpu(f"{three} again"),
    }
    for size in bench.sizes[2:]:
        whole = f"{size:,} x 3"
        found[f"CPU of a full pass / a 10 % sample, {size:,}"] = bench.cpu(whole) / bench.cpu(f"{whole}, 10 % sample")
        found[f"CPU of a full pass / one whose window is half done, {size:,}"] = bench.cpu(whole) / bench.cpu(
            f"{whole}, half done"
        )
    if f"{HUGE:,} x 3" in bench.took:
        more = (bench.cpu(f"{HUGE:,} x 3") - bench.cpu(three)) / (HUGE - LARGE) * 1e6
        found["traces per CPU second, from 300,000 to 1,000,000, x 3"] = 1e6 / more
    theirs = "mlflow.genai.evaluate, the call alone"
    if theirs in bench.took:
        pace = 3 * LARGE / bench.wall(three)
        found["pairs a second: ours on 300,000 traces / mlflow.genai.evaluate on 1,000"] = pace / (
            3 * SMALL / bench.wall(theirs)
        )
        found["wall time: mlflow.genai.evaluate on 1,000 traces, whole command / our job in a warm session"] = (
            bench.wall(f"mlflow.genai.evaluate, {SMALL:,} x 3, whole command") / bench.wall(f"{SMALL:,} x 3")
        )
    return found


def check(found: dict[str, float]) -> int:
    """Compare with the recorded ratios; 1 when one is worse."""
    recorded = json.loads(RESULTS.read_text())["ratios"]
    worse = {n: v for n, v in found.items() if n in recorded and v * WORSE < recorded[n]}
    for name, value in worse.items():
        print(f"worse: {name}: {value:.3g}, recorded {recorded[name]:.3g}")
    return 1 if worse else 0


def table(bench: Bench) -> str:
    rows = ["| what | wall s | CPU s | of rounds |", "|---|---:|---:|---:|"]
    rows += [f"| {w} | {bench.wall(w):.2f} | {bench.cpu(w):.1f} | {len(all_)} |" for w, all_ in bench.took.items()]
    return "\n".join(rows)


def ratio_table(found: dict[str, float]) -> str:
    rows = [f"| {name} | {value:.3g} |" for name, value in found.items()]
    return "\n".join(["| ratio (more is better) | |", "|---|---:|", *rows])


def machine(options: argparse.Namespace) -> str:
    from importlib.metadata import version

    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {options.master}, driver heap {options.heap}, Python "
        f"{platform.python_version()}, PySpark {version('pyspark')}, Delta {version('delta-spark')}; medians of "
        f"{options.rounds} rounds, each subject once a round, in one warm session"
    )


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
