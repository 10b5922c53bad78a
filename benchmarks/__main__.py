"""Measures what the project promises about size and cost: marginal time a trace, a sample's cost, a re-run's cost."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import usage

RESULTS = Path(__file__).with_name("results.md")


def main() -> int:
    """Run the rows that are asked for, and print a table."""
    options = arguments()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="backfill-bench-"))
    os.environ.setdefault("TZ", "UTC")
    from backfill_spark import Settings, get_spark
    from benchmarks import world

    spark = get_spark(Settings(spark={"spark.driver.memory": options.heap, "spark.master": options.master}))
    largest = max(options.sizes)
    traces = folder / "traces"
    with usage.measured() as writing:
        world.write_traces(spark, str(traces), largest)
    tell(f"{largest:,} traces written in {writing.wall_s:.0f} s")

    def fresh(name: str, rate: float = 1.0) -> None:
        world.settle(traces, folder / name, rate=rate)

    fresh("warm-up")
    # A whole pass: what the JVM's compilers do is otherwise part of what the smaller sizes cost.
    world.backfill()
    rows: list[tuple[str, ...]] = [("what", "pairs", "calls", "wall s", "CPU s")]
    took: dict[int, usage.Usage] = {}
    for size in sorted(options.sizes):
        fresh(f"full-{size}")
        with usage.measured() as took[size]:
            job = world.backfill(size / largest)
        rows.append(line(f"{size:,} traces x 3 scorers", job, took[size]))
        tell("  ".join(rows[-1]))
    with usage.measured() as again:
        job = world.backfill()
    rows.append(line("the same again", job, again))
    tell("  ".join(rows[-1]))
    fresh("sample", rate=0.1)
    with usage.measured() as sample:
        job = world.backfill()
    rows.append(line("10 % sample", job, sample))
    tell("  ".join(rows[-1]))

    told = [table(rows), *conclusions(took, sample, again), memory()]
    text = "\n\n".join(told)
    print(text)
    if options.write:
        RESULTS.write_text(f"# Measurements\n\n{machine(options)}\n\n{text}\n", encoding="utf-8")
        tell(f"written to {RESULTS}")
    spark.stop()
    if not options.folder:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--sizes",
        type=lambda text: [int(part.replace("_", "")) for part in text.split(",")],
        default=[100_000, 200_000, 500_000, 1_000_000],
        metavar="N,N,…",
        help="traces of the full passes; of four, the last two are compared with the first two (default: to 1,000,000)",
    )
    parser.add_argument("--heap", default="2g", help="memory of the driver's JVM (default 2g)")
    parser.add_argument("--master", default="local[2]", help="Spark master (default local[2])")
    parser.add_argument("--folder", help="where to work, kept afterwards; default: a temporary folder")
    parser.add_argument("--write", action="store_true", help=f"write the table to {RESULTS.name}")
    return parser.parse_args()


def line(what: str, job: object, used: usage.Usage) -> tuple[str, ...]:
    counts = job.counts.values()  # type: ignore[attr-defined]
    finished = sum(c.scored + c.empty + c.errored + c.already_scored for c in counts)
    return what, f"{finished:,}", f"{sum(c.calls for c in counts):,}", f"{used.wall_s:.1f}", f"{used.cpu_s:.1f}"


def table(rows: list[tuple[str, ...]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---|" + "---:|" * (len(rows[0]) - 1), *body])


def conclusions(took: dict[int, usage.Usage], sample: usage.Usage, again: usage.Usage) -> list[str]:
    """Return the sentences that the promises are read from."""
    sizes = sorted(took)
    said = []
    if len(sizes) >= 4:
        early, late = marginal(took, *sizes[:2]), marginal(took, *sizes[-2:])
        said.append(
            f"Marginal time a trace, {sizes[-2]:,} to {sizes[-1]:,} against {sizes[0]:,} to {sizes[1]:,}: "
            f"{late.wall_s * 1e6:.0f} µs against {early.wall_s * 1e6:.0f} µs of wall time "
            f"({ratio(late.wall_s, early.wall_s)}), {late.cpu_s * 1e6:.0f} against {early.cpu_s * 1e6:.0f} of CPU "
            f"({ratio(late.cpu_s, early.cpu_s)}). Promised: at most 1.15x."
        )
    full = took[sizes[-1]]
    said.append(f"A full pass takes {ratio(full.cpu_s, sample.cpu_s)} the CPU of a 10 % sample. Promised: at least 3x.")
    said.append(f"A re-run takes {again.cpu_s / full.cpu_s:.1%} of the full pass's CPU.")
    return said


def marginal(took: dict[int, usage.Usage], small: int, large: int) -> usage.Usage:
    """Return the seconds that each further trace took."""
    more = large - small
    return usage.Usage((took[large].wall_s - took[small].wall_s) / more, (took[large].cpu_s - took[small].cpu_s) / more)


def ratio(one: float, other: float) -> str:
    return f"{one / other:.2f}x" if other > 0 else "no ratio: the smaller sizes took no measurable time"


def memory() -> str:
    found = usage.resident_mb()
    return "Resident at the end: " + ", ".join(f"{name} {mb:,.0f} MiB" for name, mb in found.items()) + "."


def machine(options: argparse.Namespace) -> str:
    from importlib.metadata import version

    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {options.master}, driver heap {options.heap}, Python "
        f"{platform.python_version()}, PySpark {version('pyspark')}, Delta {version('delta-spark')}. "
        f"`python -m benchmarks {' '.join(sys.argv[1:])}`"
    )


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
