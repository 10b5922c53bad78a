"""The first job of a session that has done nothing, its start apart: `python -m benchmarks.first TRACES` (a table)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import usage


def first_job(traces: Path, *, heap: str, master: str) -> usage.Usage:
    """Return what the job takes, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.first", str(traces), heap, master]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return usage.Usage(*json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Start a session, run the job, and print wall and CPU seconds of the job as JSON."""
    os.environ.setdefault("TZ", "UTC")
    from backfill_spark import Settings, get_spark
    from benchmarks import world

    traces, heap, master = (*sys.argv[1:], "2g", "local[2]")[:3]
    get_spark(Settings(spark={"spark.driver.memory": heap, "spark.master": master}))
    with tempfile.TemporaryDirectory(prefix="backfill-bench-") as folder:
        world.settle(Path(traces), Path(folder, "tables"))
        with usage.measured() as used:
            world.backfill()
    print(json.dumps([used.wall_s, used.cpu_s]))


if __name__ == "__main__":
    main()
