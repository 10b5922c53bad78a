"""Files of a results table after 30 nightly jobs, and what readers pay: `python -m benchmarks.nightly [--traces N]`."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks import usage

NIGHTS = 30


def main() -> None:
    """Run the jobs, and print files and reading times before and after `maintain`."""
    from backfill_spark import Settings, get_spark, read_assessments
    from backfill_spark.backfill.maintenance import maintain
    from backfill_spark.backfill.tables import Tables
    from benchmarks import world

    parser = argparse.ArgumentParser(prog="python -m benchmarks.nightly", description=__doc__)
    parser.add_argument("--traces", type=int, default=10_000, help="of each night (default 10,000)")
    options = parser.parse_args()
    spark = get_spark(Settings(spark={"spark.driver.memory": "2g", "spark.master": "local[2]"}))
    with tempfile.TemporaryDirectory(prefix="backfill-bench-") as folder:
        traces, tables = Path(folder, "traces"), Path(folder, "tables")
        world.write_traces(spark, str(traces), options.traces * world.DAYS)
        settings = world.settle(traces, tables)
        walls = []
        for night in range(NIGHTS):
            with usage.measured() as used:
                world.backfill((night + 1) / world.DAYS, start=night / world.DAYS)
            walls.append(used.wall_s)

        def look(when: str) -> float:
            current = [spark.read.format("delta").load(str(tables / "assessments")).inputFiles()]
            times = []
            for _ in range(5):
                with usage.measured() as used:
                    read_assessments().groupBy("scorer_name").count().collect()
                times.append(used.wall_s)
            print(f"{when}: {len(current[0]):,} files, read in {statistics.median(times):.2f} s")
            return statistics.median(times)

        each = statistics.median(walls)
        print(f"{NIGHTS} jobs of {options.traces:,} x 3: {walls[0]:.1f} s the first, {each:.1f} s in the median")
        before = look("before maintain")
        maintain(Tables(spark, settings))
        print(f"{before / look('after maintain'):.2f} times the reading time of a maintained table")
    spark.stop()


if __name__ == "__main__":
    main()
