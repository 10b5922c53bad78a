"""What the fault tests start as processes of their own, on tables that are there already.

    python -m tests.faults.driver run SCORER… [--OPTION VALUE]… | work | resume [skew=SECONDS] [after=FILE]…

`run` and `work` are the command line's own, and so are options. `resume` waits for FILE, takes the newest job, and
waits until its last runner is seen as dead; with SECONDS it asks at once, by a clock that is so far off. Settings come
from the environment (BACKFILL_SPARK_TABLES__ROOT and so on). `READY` is printed when Spark is there; exit codes are
the command line's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.world import clock_shifted
from tests.nemesis import wait_until

if TYPE_CHECKING:
    from backfill_spark import Settings


def main(action: str, *words: str) -> None:
    """Do one action, and exit as the command line does."""
    from backfill_spark import Settings, list_backfills
    from backfill_spark.cli import main as command_line
    from backfill_spark.storage.session import get_spark

    settings = Settings.load()
    get_spark(settings)
    print("READY", flush=True)
    first = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    names, options = words[:first], words[first:]
    if action == "run":
        command_line(["run", "--scorers", ",".join(names), *options])
    if action == "work":
        command_line(["work", "--once"])
    known = dict(word.split("=", 1) for word in names)
    if "after" in known:
        wait_until(Path(known["after"]).exists, 600, "the word to go")
    if "skew" in known:
        with clock_shifted(float(known["skew"])):
            command_line(["resume", list_backfills(limit=1)[0].job_id, *options])
    resume(settings, *options)


def resume(settings: Settings, *options: str) -> None:
    """Take up the newest job, and exit as the command line does."""
    from backfill_spark import get_backfill, list_backfills
    from backfill_spark.cli import main as command_line

    job_id = list_backfills(limit=1)[0].job_id
    # A runner that was killed looks alive until its lease has run out.
    wait_until(lambda: not get_backfill(job_id).alive, 10 * settings.limits.lease_s, "the lease to run out")
    if get_backfill(job_id).state.is_terminal:
        command_line(["wait", job_id])
    command_line(["resume", job_id, *options])


if __name__ == "__main__":
    main(*sys.argv[1:])
