"""What a second worker brings: `python -m benchmarks.workers [--traces N]`.

A standalone cluster of two workers of one core each, once with one of them at work and once with both, in turn; the
seconds from start to end of the stages that score.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

WORKER = ["org.apache.spark.deploy.worker.Worker", "--cores", "1", "--memory", "2g", "--webui-port", "0"]
PORT = 7_977


def main() -> None:
    """Print the ratio, or be one of the jobs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--traces", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cores", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cores:
        print("SECONDS", json.dumps(seconds(options.traces, options.cores, Path(options.folder))))
        return
    import pyspark

    folder = Path(tempfile.mkdtemp(prefix="backfill-workers-"))
    start = str(Path(pyspark.__file__).parent / "bin" / "spark-class")
    url = f"spark://127.0.0.1:{PORT}"
    master = ["org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", str(PORT), "--webui-port", "0"]
    # Pinned: one worker of one core would else use both, since its JVM and its Python work at once.
    worker = [start, *WORKER, "--work-dir"]
    commands = [[start, *master], *(["taskset", "-c", str(n), *worker, str(folder / str(n)), url] for n in (0, 1))]
    started = []
    try:
        for command in commands:
            started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(5)
        took: dict[int, list[float]] = {1: [], 2: []}
        for number in range(options.rounds):
            for cores, seen in took.items():
                out = ["--cores", str(cores), "--folder", str(folder), "--traces", str(options.traces)]
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.workers", *out], capture_output=True, text=True, check=True
                )
                line = next(line for line in done.stdout.splitlines() if line.startswith("SECONDS"))
                seen.append(min(json.loads(line.removeprefix("SECONDS"))))
                print(f"round {number + 1}, {cores} at work: {seen[-1]:.2f} s", flush=True)
        print(f"two workers of one core / one, scoring: {min(took[1]) / min(took[2]):.2f} times as fast")
    finally:
        for process in reversed(started):
            process.terminate()
        shutil.rmtree(folder, ignore_errors=True)


def seconds(traces: int, cores: int, folder: Path) -> list[float]:
    """Run a job three times on so many workers; return the seconds of the largest chunk of each."""
    os.environ.setdefault("TZ", "UTC")
    from backfill_spark import Settings, get_spark
    from benchmarks import world

    options = {
        "spark.master": f"spark://127.0.0.1:{PORT}",
        "spark.cores.max": str(cores),
        "spark.executor.cores": "1",
        "spark.executor.memory": "1g",
        "spark.driver.host": "127.0.0.1",
    }
    spark = get_spark(Settings(spark=options))
    place = folder / "traces"
    if not place.exists():
        world.write_traces(spark, str(place), traces)
    found, before = [], 0.0
    for _ in range(3):
        world.settle(place, folder / "tables", spark=options)
        world.backfill()
        shutil.rmtree(folder / "tables")
        so_far = _scored_s(spark)
        found.append(so_far - before)
        before = so_far
    spark.stop()
    return found


def _scored_s(spark: SparkSession) -> float:
    """Return the seconds from start to end of the stages that score, of all jobs so far."""
    context: Any = spark.sparkContext
    no_quantiles = context._gateway.new_array(context._jvm.double, 0)  # noqa: SLF001 - no public way
    listed = context._jsc.sc().statusStore().stageList(None, False, False, no_quantiles, None)  # noqa: SLF001
    stages: list[Any] = [listed.apply(number) for number in range(listed.size())]
    seconds = [
        (stage.completionTime().get().getTime() - stage.submissionTime().get().getTime()) / 1000
        for stage in stages
        if "results/store.py" in stage.name() and stage.completionTime().isDefined()
    ]
    return float(sum(seconds))


if __name__ == "__main__":
    main()
