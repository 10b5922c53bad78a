"""A key lies in its environment variable and in requests, and in nothing that jobs leave behind.

    python -m tests.spark.test_judge_secrets FOLDER ADDRESS MOVED

is what the test starts, with the key in JUDGE_API_KEY: a session of its own, since Python workers inherit the
environment that the JVM was started with.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import traceback
from pathlib import Path

from tests.factories import some_traces, write_traces
from tests.faults.world import SHORT_LIVED
from tests.judge_server import serving

TEXTS = ("fine", "tells-key", "tells-key-as-result", "tells-key-400", "tells-key-500x1", "enum", "filter")


def test_a_key_is_in_no_table_event_log_or_output(tmp_path: Path) -> None:
    """Three jobs: one with answers and error rows, one that the endpoint stops, one that the probe refuses."""
    key = f"canary.{secrets.token_hex(12)}"
    output = tmp_path / "output.txt"
    with serving() as server, serving(redirects="http://127.0.0.1:9/") as moved, output.open("wb") as out:
        command = [sys.executable, "-m", "tests.spark.test_judge_secrets", str(tmp_path), server.url, moved.url]
        done = subprocess.run(
            command, env=os.environ | {"JUDGE_API_KEY": key}, stdout=out, stderr=out, timeout=400, check=False
        )
        assert 0 == done.returncode, output.read_text()[-3_000:]
        assert key.encode() in server.log.heads[-1]
        assert key.encode() in moved.log.heads[-1]
    said = output.read_text()
    for state in ("SUCCEEDED", "PARTIAL", "redirects"):
        assert state in said
    found = {path.relative_to(tmp_path): texts_in(path) for path in tmp_path.rglob("*") if path.is_file()}
    holders = {part for path in found for part in path.parts[:2]}
    assert {"output.txt", "events"} <= holders
    assert {"jobs", "job_events", "judgements", "assessments", "work"} <= holders
    # A part of it would do, too.
    assert [] == [str(path) for path, text in found.items() if any(p in text for p in (key[7:17], key[-10:]))]


def texts_in(path: Path) -> str:
    """Return what a file holds; pages of Parquet are compressed."""
    if path.suffix != ".parquet":
        return path.read_bytes().decode("utf-8", "replace")
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        return repr(pq.read_table(file).to_pylist())


def main(folder: str, address: str, moved: str) -> None:
    """Run the three jobs, and print all that a user might."""
    from backfill_spark import (
        BackfillRefusedError,
        Safety,
        Settings,
        backfill_scorers,
        configure,
        get_backfill,
        get_spark,
        list_scorers,
    )

    key = "JUDGE_API_KEY"
    events = Path(folder, "events")
    events.mkdir()
    settings = Settings(
        tables={"root": f"{folder}/tables"},
        traces={"path": f"{folder}/traces"},
        timezone="UTC",
        spark=SHORT_LIVED
        | {
            "spark.sql.shuffle.partitions": "2",
            "spark.default.parallelism": "2",
            "spark.eventLog.enabled": "true",
            "spark.eventLog.compress": "false",
            "spark.eventLog.dir": events.as_uri(),
            # As on a cluster, where executors are handed the variable.
            f"spark.executorEnv.{key}": os.environ[key],
        },
        judge={
            "model": "local:/tiny",
            "endpoints": {
                "local": {"base_url": address, "api_key_env": key},
                "moved": {"base_url": moved, "api_key_env": key},
            },
        },
    )
    configure(settings)
    spark = get_spark(settings)
    rows = some_traces(len(TEXTS), response=lambda i: f"fault:{TEXTS[i]} {i}" if i else "fine")
    write_traces(spark, rows, settings.traces_path)
    Safety().register().start()
    job = get_backfill(backfill_scorers(scorers=["safety"]))
    print(job, job.counts, job.summary().to_string(), list_scorers())
    write_traces(spark, some_traces(1, trace_id="tr-stop", response="fault:tells-key-401"), settings.traces_path)
    job = get_backfill(backfill_scorers(scorers=["safety"]))
    print(job, job.counts)
    Safety(name="moved", model="moved:/tiny").register().start()
    try:
        backfill_scorers(scorers=["moved"])
    except BackfillRefusedError:
        traceback.print_exc()
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
