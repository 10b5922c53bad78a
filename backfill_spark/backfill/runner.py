"""The runner: how a job gets one, what it does, and how it ends."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from backfill_spark.backfill.attempt import Attempt, JobProgress
from backfill_spark.backfill.ending import close, end_for, explained, finish
from backfill_spark.backfill.preflight import executor_problems
from backfill_spark.backfill.problems import Problems
from backfill_spark.backfill.reopen import inputs_of, repinned, request_of
from backfill_spark.backfill.spark_group import cancel_group, grouped, without_sparks_handler
from backfill_spark.backfill.spending import Spending
from backfill_spark.backfill.staging import collect_earlier, merge
from backfill_spark.backfill.steps import run
from backfill_spark.backfill.validate import limits_of
from backfill_spark.display.progress import Progress
from backfill_spark.errors import BackfillInterrupted, BackfillRefusedError, LeaseLostError, interrupt_behind
from backfill_spark.jobs.events import End, JobRecord
from backfill_spark.jobs.lease import Lease
from backfill_spark.judges.services import prices_missing, services_of
from backfill_spark.models import Counts, JobState, Request
from backfill_spark.storage.retry import error_text, until_alone
from backfill_spark.storage.session import few_tasks

if TYPE_CHECKING:
    from backfill_spark.backfill.inputs import Inputs
    from backfill_spark.backfill.tables import Tables
    from backfill_spark.jobs.events import Claim
    from backfill_spark.settings.schema import Settings

logger = logging.getLogger(__name__)

GRACE_S = 3.0
"""Seconds for the calls that are under way when a runner is interrupted."""


@dataclass(frozen=True, slots=True)
class Change:
    """What `resume` changes in a job's request."""

    fields: Mapping[str, Any]
    files: tuple[str, ...] | None = None
    """Frozen file list of the newly pinned source, () for a table; None when the pin stays."""


def run_job(
    tables: Tables,
    job_id: str,
    *,
    claim: Claim | None = None,
    planned: Inputs | None = None,
    change: Change | None = None,
    bar: Progress | None = None,
) -> JobRecord:
    """Claim a job, unless its creator has, and work on it until it ends; return it as it then is.

    Args:
        claim: of a job that its creator has claimed.
        planned: what planning has just found out, so that the first epoch need not find it again.
        change: made before anything is read, once the job is claimed.
        bar: where progress shows.

    Raises:
        BackfillRefusedError: another runner has it, and so the `change` was not made.
        LeaseLostError: another runner took the job.
        BackfillInterrupted, SystemExit: the interrupt, after the lease was given back.
    """
    jobs, results = tables.jobs, tables.results
    record = claim.record if claim is not None else jobs.record(job_id)
    if record.state.is_terminal:
        return record
    # Before the claim: what is refused here leaves the job as it is.
    if change is not None:
        record = replace(record, changes={**record.changes, **change.fields})
    request = planned.request if planned is not None else request_of(tables, record)
    if planned is None and not record.cancel_requested:
        _refuse_unfit(tables, request)
    if claim is None:
        results.ensure()
        claim = jobs.claim(record, results.assessments)
        if claim is None:
            record = jobs.record(job_id)
            if change is not None and not record.state.is_terminal:
                raise _has_runner(record)
            return record
    lease = Lease(jobs, claim)
    attempt = _attempt(tables, request, lease, bar)
    attempt.bar.tell(f"claimed in epoch {lease.epoch} by {lease.owner}")
    earlier = sys.exception()
    try:
        record = _work_and_end(attempt, planned, change, earlier)
    except BaseException as raised:
        interrupt = interrupt_behind(raised, earlier=earlier)
        if interrupt is None:
            raise
        jobs.end(job_id, lease.epoch, End.RELEASED, {}, lease.take_recorded())
        attempt.bar.tell("interrupted and given back; `resume` or `work` goes on")
        if type(interrupt) is KeyboardInterrupt:
            interrupt = BackfillInterrupted.of_job(job_id, attempt.bar.done_text)
        raise interrupt from None
    has_staged = lease.epoch > 1 or any(t.finished for t in attempt.progress.staged.values())
    close(tables, record, has_staged=has_staged)
    if record.state is JobState.CANCELING:
        # Asked for when the epoch had ended already: nobody else need come back.
        return run_job(tables, job_id)
    return record


def _refuse_unfit(tables: Tables, request: Request) -> None:
    """Refuse a job that cannot run here, as a plan would, with every problem at once."""
    services_of(tables.settings, request)  # a key is looked for when there is something to ask
    if problems := executor_problems(tables, judges=bool(request.models)):
        raise BackfillRefusedError(problems)


def _attempt(tables: Tables, request: Request, lease: Lease, bar: Progress | None) -> Attempt:
    claimed = lease.claimed
    planned = {name: Counts.from_json(counts) for name, counts in claimed.created["counts"].items()}
    bar = bar or Progress(lease.job_id, total=sum(c.due for c in planned.values()))
    return Attempt(tables, request, lease, JobProgress(planned, Spending.of(request, claimed.asked)), bar)


def _work_and_end(
    attempt: Attempt, planned: Inputs | None, change: Change | None, earlier: BaseException | None
) -> JobRecord:
    spark, job_id, lease = attempt.tables.spark, attempt.job_id, attempt.lease
    how, error = End.SUCCEEDED, None
    waiting = attempt.tables.results.waiting

    def stop(grace_s: float = 0.0) -> None:
        waiting.ask_to_stop(job_id, lease.epoch)
        cancel_group(spark, job_id, grace_s=grace_s)

    lease.start(stop)
    try:
        with grouped(spark, job_id), few_tasks(spark), without_sparks_handler():
            if change is not None:
                _make(change, attempt)
            collect_earlier(attempt)
            attempt.check()
            attempt.open(_inputs(attempt, planned))
            run(attempt)
    except BaseException as raised:
        if interrupt_behind(raised, earlier=earlier) is not None:
            # Its tasks would go on calling, and keep the slots that the release needs.
            stop(GRACE_S)
            raise
        if isinstance(raised, LeaseLostError) or not isinstance(raised, Exception):
            raise
        lease.check()
        how, error = end_for(explained(attempt, raised))
        if how is not End.CANCELED:
            _merge_what_is_staged(attempt)
    finally:
        lease.stop()
    return finish(attempt, how, error)


def _make(change: Change, attempt: Attempt) -> None:
    """Change the job's request, and drop what it has read of a source that is pinned anew; both are fenced writes.

    First the rows of `work`: with the old pin they are only read again, with the new one they would be wrong.
    """
    files, lease, work = change.files, attempt.lease, attempt.tables.work
    if files is not None and not until_alone(lambda: work.replace_source(attempt.job_id, files, lease.next_txn())):
        attempt.fenced()
    lease.change(change.fields)
    lease.flush()


def _has_runner(record: JobRecord) -> BackfillRefusedError:
    return BackfillRefusedError(
        f"Job {record.job_id} is {record.state} and its runner {record.owner} is alive. Wait for it "
        f"(`backfill-spark wait {record.job_id}`) or cancel it."
    )


def _inputs(attempt: Attempt, planned: Inputs | None) -> Inputs:
    """Take over the plan's inputs, or open them and count again."""
    if planned is not None:
        # As it was stored: Spark's samples need not be drawn for each chunk.
        choice = attempt.tables.work.choice(attempt.job_id, attempt.request)
        return replace(planned, job_id=attempt.job_id, choice=choice)
    attempt.tables.jobs.show(attempt.lease.claimed)
    inputs = inputs_of(attempt)
    attempt.lease.change({"results_version": inputs.request.results_version})
    return inputs


def _merge_what_is_staged(attempt: Attempt) -> None:
    """Show what was paid for before an early end; what cannot be merged now stays staged."""
    try:
        merge(attempt)
    except LeaseLostError:
        raise
    except Exception as error:
        logger.warning("job %s: its staged results could not be merged: %s", attempt.job_id, error_text(error))


def resume(tables: Tables, job_id: str, *, changes: Mapping[str, Any], repin: bool, bar: Progress | None) -> JobRecord:
    """Go on with a job that rests, was interrupted, or whose runner is dead.

    Raises:
        JobNotFoundError: no job has this id.
        BackfillRefusedError: it has ended with something left or is to be changed, or its runner is alive.
    """
    jobs = tables.jobs
    record = jobs.record(job_id)
    if record.state is JobState.SUCCEEDED and not changes and not repin:
        return record  # nothing is left
    if record.state.is_terminal:
        raise BackfillRefusedError(
            f"Job {job_id} is {record.state}, which never changes. Run the same backfill again: a new job scores only "
            "what has no result."
        )
    if record.is_alive(jobs.clock()):
        raise _has_runner(record)
    request, files = request_of(tables, record), None
    changed = _checked_limits(tables.settings, request, changes)
    if repin:
        pins, files = repinned(tables, request)
        changed |= pins
    return run_job(tables, job_id, change=Change(changed, files) if changed else None, bar=bar)


def _checked_limits(settings: Settings, request: Request, changes: Mapping[str, Any]) -> dict[str, Any]:
    problems = Problems()
    changed = limits_of(changes, request.scorers, problems)
    if changed.get("max_cost_usd") is not None:
        problems.note(*prices_missing(services_of(settings, request)))
    problems.raise_any()
    return changed


def cancel(tables: Tables, job_id: str) -> JobRecord:
    """Ask for a job's end; end it here when nobody is working on it.

    Raises:
        JobNotFoundError: no job has this id.
    """
    jobs = tables.jobs
    record = jobs.record(job_id)
    if record.state.is_terminal:
        return record
    jobs.ask_cancel(record)
    record = jobs.record(job_id)
    if record.state.is_terminal or record.is_alive(jobs.clock()):
        return record
    return run_job(tables, job_id) if record.epoch else _cancel_unclaimed(tables, record)


def _cancel_unclaimed(tables: Tables, record: JobRecord) -> JobRecord:
    """End a job that no runner has ever had: nothing of it is staged, and no Spark is needed."""
    jobs, counts = tables.jobs, record.created["counts"]
    claim = jobs.claim(record, None)
    if claim is None:
        return jobs.record(record.job_id)
    payload = {"counts": counts, "calls": 0, "cost_usd": None, "rate_reached": None, "warnings": []}
    payload["error"] = f"Job {record.job_id} was canceled."
    record = jobs.end(record.job_id, claim.epoch, End.CANCELED, payload, claimed=claim.record)
    close(tables, record, has_staged=False)
    return record
