"""Launch: how a job gets its runner, and how a runner ends."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from backfill_spark.backfill.attempt import Attempt, Canceled
from backfill_spark.backfill.judge_steps import run_slices
from backfill_spark.backfill.preflight import executor_problems
from backfill_spark.backfill.steps import collect_earlier, end_for, finish, merge, run
from backfill_spark.backfill.validate import Problems, limits_of
from backfill_spark.display.progress import Progress
from backfill_spark.errors import BackfillError, BackfillRefusedError, LeaseLostError, SourceGoneError, interrupt_behind
from backfill_spark.jobs.events import End, JobRecord
from backfill_spark.jobs.failpoints import Failpoint, failpoint
from backfill_spark.jobs.heartbeat import Heartbeat
from backfill_spark.jobs.lease import Lease
from backfill_spark.jobs.store import JobStore
from backfill_spark.judges.answers import close_journal, forget_answers
from backfill_spark.judges.services import prices_missing, services_of
from backfill_spark.models import Counts, JobState, Request
from backfill_spark.results.counts import PairCounts
from backfill_spark.results.store import ResultStore
from backfill_spark.scorers.registry import Registry
from backfill_spark.selection.frozen import WorkStore
from backfill_spark.settings.locations import Location
from backfill_spark.storage.delta_table import aside, error_text
from backfill_spark.storage.retry import until_alone
from backfill_spark.traces.sources import TraceSource, corrupt_file, open_source, source_gone

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from backfill_spark.jobs.events import Claim
    from backfill_spark.judges.llm.endpoints import Service
    from backfill_spark.settings.schema import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What planning has just found out, so that the first epoch need not find it again."""

    request: Request
    source: TraceSource
    choice: DataFrame | None
    selection: PairCounts
    staging_version: int | None
    services: Mapping[str, Service] = field(default_factory=dict)
    probed: frozenset[str] = frozenset()
    """Model URIs whose service has answered."""


@dataclass(frozen=True, slots=True)
class Change:
    """What `resume` changes in a job's request."""

    fields: Mapping[str, Any]
    files: tuple[str, ...] | None = None
    """Frozen file list of the newly pinned source, () for a table; None when the pin stays."""


def run_job(
    spark: SparkSession,
    settings: Settings,
    job_id: str,
    *,
    claim: Claim | None = None,
    prepared: Prepared | None = None,
    change: Change | None = None,
    bar: Progress | None = None,
) -> JobRecord:
    """Claim a job, unless its creator has (`claim`), and work on it until it ends; return it as it then is.

    Raises:
        BackfillRefusedError: another runner has it, and so the `change` was not made.
        LeaseLostError: another runner took the job.
        KeyboardInterrupt, SystemExit: the interrupt, after the lease was given back.
    """
    jobs, results = JobStore(spark, settings), ResultStore(spark, settings)
    is_new = claim is not None
    record = claim.record if claim is not None else jobs.record(job_id)
    if record.state.is_terminal:
        return record
    # Before the claim: what is refused here leaves the job as it is.
    if change is not None:
        record = replace(record, changes={**record.changes, **change.fields})
    request = prepared.request if prepared is not None else request_of(spark, settings, record)
    if prepared is None and not record.cancel_requested:
        _refuse_unfit(spark, settings, request)
    if claim is None:
        results.ensure()
        claim = jobs.claim(record, [results.staging, results.assessments])
        if claim is None:
            record = jobs.record(job_id)
            if change is not None and not record.state.is_terminal:
                raise _has_runner(record)
            return record
    lease = Lease(jobs, claim)
    planned = {n: Counts.from_json(c) for n, c in lease.claimed.created["counts"].items()}
    attempt = Attempt(
        spark=spark,
        settings=settings,
        job_id=job_id,
        request=request,
        source=None,  # type: ignore[arg-type]
        results=results,
        lease=lease,
        bar=bar or Progress(job_id, total=sum(c.due for c in planned.values())),
        ask_judges=run_slices,
        planned=planned,
        spent_usd=sum(a["cost_usd"] or 0.0 for a in lease.claimed.asked),
        asked=sum(a.get("attempts", 0) for a in lease.claimed.asked),
    )
    attempt.bar.tell(f"claimed in epoch {lease.epoch} by {lease.owner}")
    earlier = sys.exception()
    try:
        record = _work_and_end(attempt, jobs, prepared, change, earlier)
    except BaseException as raised:
        interrupt = interrupt_behind(raised, earlier=earlier)
        if interrupt is None:
            raise
        jobs.end(job_id, lease.epoch, End.RELEASED, {}, lease.take_recorded())
        attempt.bar.tell("interrupted and given back; `resume` or `work` goes on")
        raise interrupt from None
    has_staged = lease.epoch > 1 or any(t.finished for t in attempt.tallies.values())
    close(spark, settings, record, has_row=is_new, has_staged=has_staged)
    if record.state is JobState.CANCELING:
        # Asked for when the epoch had ended already: nobody else need come back.
        return run_job(spark, settings, job_id)
    return record


def _refuse_unfit(spark: SparkSession, settings: Settings, request: Request) -> None:
    """Refuse a job that cannot run here, as a plan would.

    Raises:
        BackfillRefusedError: with every problem at once.
    """
    services_of(settings, request)  # a key is looked for when there is something to ask
    if problems := executor_problems(spark, settings):
        raise BackfillRefusedError(problems)


def _work_and_end(
    attempt: Attempt,
    jobs: JobStore,
    prepared: Prepared | None,
    change: Change | None,
    earlier: BaseException | None,
) -> JobRecord:
    spark, settings, job_id, lease = attempt.spark, attempt.settings, attempt.job_id, attempt.lease
    how, error = End.SUCCEEDED, None
    lease.start(lambda: _cancel_group(spark, job_id))
    try:
        with _job_group(spark, job_id):
            if change is not None:
                _make(change, attempt)
            collect_earlier(attempt)
            attempt.check()
            if prepared is not None:
                attempt.source = prepared.source
                attempt.selection, attempt.staging_version = prepared.selection, prepared.staging_version
                attempt.services, attempt.probed = prepared.services, prepared.probed
            else:
                jobs.show(lease.claimed)
                attempt.services = services_of(settings, attempt.request)
                attempt.source = pinned_source(spark, settings, job_id, attempt.request)
            # As it was kept: Spark's samples need not be drawn again for each chunk.
            attempt.choice = WorkStore(spark, settings).choice(job_id, attempt.request)
            run(attempt)
    except BaseException as raised:
        if interrupt_behind(raised, earlier=earlier) is not None:
            # Its tasks would go on calling, and keep the slots that the release needs.
            _cancel_group(spark, job_id)
            raise
        if isinstance(raised, LeaseLostError) or not isinstance(raised, Exception):
            raise
        lease.check()
        how, error = end_for(_explained(attempt, raised))
        if how is not End.CANCELED:
            _merge_what_is_staged(attempt)
    finally:
        lease.stop()
    return finish(attempt, how, error)


def _make(change: Change, attempt: Attempt) -> None:
    """Change the job's request, and drop what it has read of a source that is pinned anew; both are fenced writes.

    First the rows of `work`: with the old pin they are only read again, with the new one they would be wrong.
    """
    files, lease = change.files, attempt.lease
    if files is not None:
        work = WorkStore(attempt.spark, attempt.settings)
        if not until_alone(lambda: work.replace_source(attempt.job_id, files, lease.next_txn())):
            attempt.fenced()
    lease.change(change.fields)
    lease.flush()


def _has_runner(record: JobRecord) -> BackfillRefusedError:
    return BackfillRefusedError(
        f"Job {record.job_id} is {record.state} and its runner {record.owner} is alive. Wait for it "
        f"(`backfill-spark wait {record.job_id}`) or cancel it."
    )


def _merge_what_is_staged(attempt: Attempt) -> None:
    """Show what was paid for before an early end; what cannot be merged now stays staged."""
    try:
        merge(attempt)
    except LeaseLostError:
        raise
    except Exception as error:
        logger.warning("job %s: its staged results could not be merged: %s", attempt.job_id, error_text(error))


def resume(
    spark: SparkSession,
    settings: Settings,
    job_id: str,
    *,
    changes: Mapping[str, Any],
    repin: bool,
    bar: Progress | None,
) -> JobRecord:
    """Go on with a job that rests, was interrupted, or whose runner is dead.

    Raises:
        JobNotFoundError: no job has this id.
        BackfillRefusedError: it has ended with something left or is to be changed, or its runner is alive.
    """
    jobs = JobStore(spark, settings)
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
    request = request_of(spark, settings, record)
    changed = _checked_limits(settings, request, changes)
    files = None
    if repin:
        pins, files = repinned(spark, settings, request)
        changed |= pins
    return run_job(spark, settings, job_id, change=Change(changed, files) if changed else None, bar=bar)


def _checked_limits(settings: Settings, request: Request, changes: Mapping[str, Any]) -> dict[str, Any]:
    if not changes:
        return {}
    problems = Problems()
    changed = limits_of(changes, request.scorers, problems)
    if changed.get("max_cost_usd") is not None:
        for problem in prices_missing(services_of(settings, request)):
            problems.note(problem)
    problems.raise_any()
    return changed


def cancel(spark: SparkSession, settings: Settings, job_id: str) -> JobRecord:
    """Ask for a job's end; end it here when nobody is working on it.

    Raises:
        JobNotFoundError: no job has this id.
    """
    jobs = JobStore(spark, settings)
    record = jobs.record(job_id)
    if record.state.is_terminal:
        return record
    jobs.ask_cancel(record)
    record = jobs.record(job_id)
    if record.state.is_terminal or record.is_alive(jobs.clock()):
        return record
    return run_job(spark, settings, job_id)


def work(spark: SparkSession, settings: Settings, *, forever: bool = False, poll_s: float = 5.0) -> Iterator[JobRecord]:
    """Run waiting jobs, oldest first: PENDING ones, interrupted ones and those of dead runners.

    Gives each job as it ended. What keeps one job from running does not keep the others: it is logged, and tried
    again. Without `forever` it stops when nothing waits, or has been tried three times.

    Raises:
        Exception: without `forever`, what kept the last job from running, when the others are done.
    """
    jobs = JobStore(spark, settings)
    tried: Counter[str] = Counter()
    trouble: dict[str, Exception] = {}
    while True:
        has_worked, waiting = False, []
        with _logged("the queue", trouble):
            waiting = [r.job_id for r in jobs.claimable() if forever or tried[r.job_id] < 3]
        for job_id in waiting:
            tried[job_id] += 1
            with _logged(job_id, trouble):
                ended = run_job(spark, settings, job_id)
                if ended.state.is_at_rest:
                    has_worked = True
                    yield ended
        if not waiting and not forever:
            for error in trouble.values():
                raise error
            return
        if not has_worked:
            time.sleep(poll_s)


@contextmanager
def _logged(what: str, trouble: dict[str, Exception]) -> Iterator[None]:
    """Log what goes wrong in the block and keep it in `trouble`; forget it when it goes well."""
    try:
        yield
    except LeaseLostError as error:
        logger.warning("%s", error)
    except Exception as error:
        if interrupt_behind(error) is not None:
            raise
        said = str(error) if isinstance(error, BackfillError) else f"{type(error).__name__}: {error_text(error)}"
        logger.warning("%s: %s", what, said)
        trouble[what] = error
    else:
        trouble.pop(what, None)


def close(
    spark: SparkSession, settings: Settings, record: JobRecord, *, has_row: bool = False, has_staged: bool = True
) -> None:
    """Bring the job's row up to date and drop what an ended job no longer needs; its end stands already."""
    with (
        _logged(f"job {record.job_id} is {record.state}; its tables are tidied later", {}),
        aside(lambda: JobStore(spark, settings).show(record, has_row=has_row)),
    ):
        if record.state.is_terminal:
            _clean_up(spark, settings, record, has_staged=has_staged)
    if record.state.is_terminal:
        failpoint(Failpoint.AFTER_CLEANUP)


def _clean_up(spark: SparkSession, settings: Settings, record: JobRecord, *, has_staged: bool) -> None:
    job_id, request = record.job_id, record.created["request"]
    Heartbeat(settings).clear(job_id)
    has_work = request["lists_traces"] or request["sampling"] != "hash" or request["models"]
    if has_work or record.created.get("has_files"):
        WorkStore(spark, settings).clear(job_id)
    if has_staged and record.state == End.SUCCEEDED.value:
        ResultStore(spark, settings).clear(job_id)
    if request["models"]:
        close_journal(spark, settings, job_id)
        if settings.judge.cache != "on":
            forget_answers(spark, settings, job_id)


def request_of(spark: SparkSession, settings: Settings, record: JobRecord) -> Request:
    """Rebuild a job's frozen request, with the definitions of its pinned scorer versions and later changes."""
    data: dict[str, Any] = dict(record.created["request"]) | dict(record.changes)
    pinned = [(s["name"], s["version"]) for s in data["scorers"]]
    definitions = Registry(spark, settings).definitions(data["experiment_id"], pinned)
    return Request.from_json(json.loads(json.dumps(data)), definitions)


def pinned_source(
    spark: SparkSession, settings: Settings, job_id: str, request: Request, *, work_version: int | None = None
) -> TraceSource:
    """Open the job's source at its pinned version.

    `work_version` is where an ended job, which has dropped its list of files, still has it.

    Raises:
        SourceGoneError: the version can no longer be read, or the table was replaced by another one.
    """
    files = None
    if request.source_version.startswith("files:"):
        try:
            files = WorkStore(spark, settings).files(job_id, version=work_version) or None
        except Exception as error:
            if work_version is None or not source_gone(error):
                raise
            # Vacuumed by `maintain`: then the files that are there must be those that were pinned.
    source = _open_recorded(spark, settings, request, version=request.source_version, files=files)
    if source.table_id != request.source_table_id:
        raise SourceGoneError(
            f"The traces table {request.source!r} was replaced: its id is {source.table_id}, the job was planned on "
            f"{request.source_table_id}. `backfill-spark resume {job_id} --repin` goes on with the new table."
        )
    return source


def _open_recorded(spark: SparkSession, settings: Settings, request: Request, **pin: Any) -> TraceSource:
    """Open the source that a request names, as it was when the request was made, whatever the settings say now."""
    if request.source_kind:
        is_table = request.source_kind == "table"
        text, roots = request.source, settings.path_roots
        location = Location.of_name(text) if is_table else Location.of_path(text, roots)
        return open_source(spark, settings, location, columns=request.columns, **pin)
    try:
        return open_source(spark, settings, request.source, **pin)
    except BackfillError as error:
        if request.source.startswith("/") or ":" in request.source:
            raise
        raise SourceGoneError(
            f"The job was recorded with the source {request.source!r}, without the folder that it starts from. From "
            f"here it is not found; ask from the folder in which the job was made. {error}"
        ) from error


def _explained(attempt: Attempt, error: Exception) -> Exception:
    """Name a lost or corrupt file of the source, and a cancel, behind a Spark error."""
    if attempt.lease.is_canceled:
        return Canceled(f"Job {attempt.job_id} was canceled.")
    if isinstance(error, SourceGoneError):
        return error
    if source_gone(error):
        return SourceGoneError(
            f"Version {attempt.request.source_version} of {attempt.request.source!r} can no longer be read in full: "
            "its "
            f"files were removed. `backfill-spark resume {attempt.job_id} --repin` goes on from the newest version."
        )
    if (file := corrupt_file(error)) is not None:
        return SourceGoneError(
            f"The source file {file} is corrupt. Restore it and `backfill-spark resume {attempt.job_id}`, or repair "
            "the "
            "table and resume with --repin."
        )
    return error


@contextmanager
def _job_group(spark: SparkSession, job_id: str) -> Iterator[None]:
    """Name this thread's Spark jobs, so that a heartbeat can stop them."""
    try:
        spark.sparkContext.setJobGroup(job_id, f"backfill {job_id}", interruptOnCancel=True)
    except Exception:  # Spark Connect has no job groups; a cancel then waits for the chunk's end
        yield
        return
    try:
        yield
    finally:
        spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]
        spark.sparkContext.setLocalProperty("spark.job.description", None)  # type: ignore[arg-type]


def _cancel_group(spark: SparkSession, job_id: str) -> None:
    try:
        spark.sparkContext.cancelJobGroup(job_id)
    except Exception:
        return


def repinned(spark: SparkSession, settings: Settings, request: Request) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the changes that pin a request to the newest version of its source, and the frozen files."""
    source = _open_recorded(spark, settings, request)
    changed = replace(request, source_version=source.version, source_table_id=source.table_id)
    return {"source_version": changed.source_version, "source_table_id": changed.source_table_id}, source.files
