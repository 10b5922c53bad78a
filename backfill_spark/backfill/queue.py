"""The queue: jobs that wait for a runner are run one after the other."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from backfill_spark.backfill.ending import logged
from backfill_spark.backfill.runner import run_job

if TYPE_CHECKING:
    from backfill_spark.backfill.tables import Tables
    from backfill_spark.jobs.events import JobRecord


def work(tables: Tables, *, forever: bool = False, poll_s: float = 5.0) -> Iterator[JobRecord]:
    """Run waiting jobs, oldest first: PENDING ones, interrupted ones and those of dead runners.

    Gives each job as it ended. What keeps one job from running does not keep the others: it is logged, and tried
    again. Without `forever` it stops when nothing waits, or has been tried three times.

    Raises:
        Exception: without `forever`, what kept the last job from running, when the others are done.
    """
    jobs = tables.jobs
    tried: Counter[str] = Counter()
    trouble: dict[str, Exception] = {}
    while True:
        has_worked, waiting = False, []
        with logged("the queue", trouble):
            waiting = [r.job_id for r in jobs.claimable() if forever or tried[r.job_id] < 3]
        for job_id in waiting:
            tried[job_id] += 1
            with logged(job_id, trouble):
                ended = run_job(tables, job_id)
                if ended.state.is_at_rest:
                    has_worked = True
                    yield ended
        if not waiting and not forever:
            for error in trouble.values():
                raise error
            return
        if not has_worked:
            time.sleep(poll_s)
