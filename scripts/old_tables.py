"""Writes small tables with an older version of the package, for tests that open them.

    python -m scripts.old_tables 61af8eb

checks that commit out into a scratch folder, runs this file there, and keeps what it wrote in
tests/resources/tables_61af8eb.tar.xz: the traces; the registry; a job that SUCCEEDED (`length`); one whose runner died
when its results were staged and not merged (`polite`); and one that waits in the queue, with listed traces (`short`).
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TRACES = "old_traces"
"""The traces' table by name, so that it is found wherever the files are unpacked."""


def main(commit: str) -> None:
    """Keep the tables that the package of `commit` writes."""
    with tempfile.TemporaryDirectory() as scratch:
        package, tables = Path(scratch, "package"), Path(scratch, "tables")
        tables.mkdir()
        subprocess.run(["git", "worktree", "add", "--detach", str(package), commit], cwd=ROOT, check=True)
        try:
            program = Path(scratch, "old_tables.py")  # scorers keep the file's name
            program.write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
            environment = {
                **{k: v for k, v in os.environ.items() if not k.startswith("BACKFILL_SPARK_")},
                "PYTHONPATH": str(package),
                "LOGNAME": "somebody",
                "WRITTEN_BY": commit,
                "TZ": "UTC",
            }
            subprocess.run([sys.executable, str(program), "--inside", str(tables)], env=environment, check=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(package)], cwd=ROOT, check=True)
        pack(tables, ROOT / "tests" / "resources" / f"tables_{commit}.tar.xz")


def pack(folder: Path, archive: Path) -> None:
    """Write all files but checksums, which are not needed; Parquet is compressed already, the log is not."""

    def kept(found: tarfile.TarInfo) -> tarfile.TarInfo | None:
        found.uid = found.gid = 0
        found.uname = found.gname = ""
        return None if found.name.endswith(".crc") else found

    with tarfile.open(archive, "w:xz", preset=9) as out:
        out.add(folder, arcname=".", filter=kept)
    print(f"{archive}: {archive.stat().st_size:,} bytes")


def write(folder: Path) -> None:
    """Make the tables, with whatever version of the package is imported."""
    socket.gethostname = lambda: "old-host"
    # By name: some of these modules are not there any more.
    bs, failpoints, tables, store = (
        importlib.import_module(f"backfill_spark{name}") for name in ("", ".failpoints", ".tables", ".store")
    )
    Feedback = bs.Feedback

    def length(outputs: Any) -> int:
        """Characters of the answer."""
        return len(str(outputs))

    def polite(trace: Any) -> Any:
        """Whether the answer asks nicely; says who called it."""
        import os

        return Feedback(
            value="please" in trace.data.response, rationale=os.environ.get("WRITTEN_BY", "a later version")
        )

    os.chdir(folder.parent)
    settings = bs.Settings(
        tables={"root": str(folder)},
        traces={"table": TRACES},
        timezone="UTC",
        spark={"spark.master": "local[2]", "spark.sql.warehouse.dir": str(folder.parent / "warehouse")},
    )
    bs.configure(settings)
    spark = bs.get_spark(settings)
    noon = datetime(2024, 6, 15, 12, tzinfo=UTC)
    rows = [
        (f"tr-{i}", noon + timedelta(hours=6 * i), f"question {i}", "please wait" if i % 3 else f"answer {i}")
        for i in range(8)
    ]
    columns = "trace_id STRING, request_time TIMESTAMP, request STRING, response STRING"
    frame = spark.createDataFrame(rows, columns).coalesce(1)
    frame.write.format("delta").option("path", str(folder / "traces")).saveAsTable(TRACES)
    for table in tables.ALL_TABLES:
        store.Store(spark, table, settings).ensure()
    for made in (
        bs.scorer(aggregations=["mean"])(length),
        bs.scorer(polite),
        bs.RegexMatch(name="short", pattern="^.{0,9}$"),
    ):
        made.register().start(sampling_config=bs.ScorerSamplingConfig(sample_rate=1.0))
    bs.backfill_scorers(scorers=["length"])
    bs.backfill_scorers(scorers=["short"], trace_ids=["tr-0", "tr-1", "tr-3"], launch="queue")
    failpoints.arm("after_stage:raise")
    try:
        bs.backfill_scorers(scorers=["polite"])
    except failpoints.FailpointError:
        os._exit(0)  # as if it were killed: nothing is put in order
    raise AssertionError("the job did not come to its failpoint")


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        write(Path(sys.argv[2]))
    else:
        main(sys.argv[1])
