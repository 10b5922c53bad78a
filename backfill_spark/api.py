"""What notebooks and the command line call; both are thin over these functions."""

from __future__ import annotations

import os
import time
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal

from backfill_spark.backfill import validate, values
from backfill_spark.backfill.problems import Problems
from backfill_spark.backfill.tables import Tables
from backfill_spark.delivery.result import Versions
from backfill_spark.errors import BackfillFailedError, BackfillRefusedError, DeliveryStoppedError, JobNotFoundError
from backfill_spark.jobs.events import JobRecord
from backfill_spark.jobs.job import BackfillJob, job_of
from backfill_spark.models import Arguments, BackfillScorerConfig, Counts, JobState, is_job_id
from backfill_spark.scorers.lookup import delete_scorer, get_scorer, list_scorer_versions, list_scorers
from backfill_spark.settings.current import configure, current, set_experiment
from backfill_spark.storage.session import active_session, get_spark, interruptible, is_running, usable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from pyspark.sql import DataFrame, SparkSession

    from backfill_spark.backfill.inspection import Inspection
    from backfill_spark.backfill.plan import BackfillPlan
    from backfill_spark.delivery.deliver import Delivery
    from backfill_spark.settings.schema import Settings

Moment = datetime | date | str | None


def plan_backfill(
    *,
    experiment_id: str | None = None,
    scorers: Sequence[BackfillScorerConfig] | Sequence[str] | Literal["all-started"],
    start_time: Moment = None,
    end_time: Moment = None,
    window: Literal["hour", "day", "week", "month"] | None = None,
    filter_string: str | None = None,
    trace_ids: Collection[str] | None = None,
    reprocess: str = "missing",
    sampling: str = "hash",
    seed: int = 0,
    max_calls: int | None = None,
    max_cost_usd: float | None = None,
    max_error_rate: float | None = None,
    exclusive: bool = False,
    spark: SparkSession | None = None,
    settings: Settings | None = None,
    traces: str | os.PathLike[str] | None = None,
) -> BackfillPlan:
    """Say what `backfill_scorers` with the same arguments would do. No scorer is called or loaded.

    Raises:
        BackfillRefusedError: the backfill would be refused; `.problems` has every reason.
    """
    arguments = Arguments(
        scorers=scorers,
        start_time=start_time,
        end_time=end_time,
        window=window,
        filter_string=filter_string,
        trace_ids=trace_ids,
        reprocess=reprocess,
        sampling=sampling,
        seed=seed,
        max_error_rate=max_error_rate,
        exclusive=exclusive,
        max_calls=max_calls,
        max_cost_usd=max_cost_usd,
        traces=traces,
    )
    tables = _tables(settings, spark, arguments=arguments)
    from backfill_spark.backfill.submit import accept

    return accept(arguments, experiment_id, tables).plan


@interruptible()
def backfill_scorers(
    *,
    experiment_id: str | None = None,
    scorers: Sequence[BackfillScorerConfig] | Sequence[str] | Literal["all-started"],
    start_time: Moment = None,
    end_time: Moment = None,
    window: Literal["hour", "day", "week", "month"] | None = None,
    filter_string: str | None = None,
    trace_ids: Collection[str] | None = None,
    reprocess: str = "missing",
    sampling: str = "hash",
    seed: int = 0,
    max_calls: int | None = None,
    max_cost_usd: float | None = None,
    max_error_rate: float | None = None,
    exclusive: bool = False,
    launch: Literal["here", "queue"] = "here",
    deliver_to: str | None = None,
    spark: SparkSession | None = None,
    settings: Settings | None = None,
    traces: str | os.PathLike[str] | None = None,
) -> str:
    """Apply registered scorers to traces of the past, and return the job's id when the job has ended.

    Args:
        experiment_id: default: `set_experiment()`, the settings, else "0".
        scorers: names, or BackfillScorerConfig objects; never empty, never mixed. Or "all-started": every started
            scorer of the experiment at its registered rate.
        start_time: inclusive; a datetime, a date, ISO text, or a time relative to now: "yesterday" and "today" (their
            midnight), "now", "-1d", "-12h", "-30m". None is no bound.
        end_time: exclusive; a date is its midnight. None is no bound.
        window: the last complete hour, day, week or month, instead of both bounds.
        filter_string: an MLflow filter, AND-ed to each scorer's own.
        trace_ids: exactly these traces, not sampled unless a config gives a rate.
        reprocess: "missing" (pairs without a result), "failed" (those and errors) or "all".
        sampling: "hash" (the same traces on every run) or "spark" (DataFrame.sample).
        seed: of the draw.
        max_calls: most requests that judges may send; the job then rests as PARTIAL.
        max_cost_usd: most that judges may spend, in US dollars.
        max_error_rate: the job fails when a scorer's share of errors passes it.
        exclusive: refuse when another live job covers a pair of (scorer, window).
        launch: "here" runs the job now, with a progress bar; "queue" leaves it PENDING for `work`.
        deliver_to: where its results go when it has ended, as in `deliver_backfill`; only where it runs here.
        spark: default: the active session, or one built from the settings.
        settings: default: those of `configure()`, else environment and file.
        traces: a path or the name of a table, instead of the traces of the settings.

    Raises:
        BackfillRefusedError: refused before any scorer call; `.problems` has every reason.
        BackfillFailedError: the job ended FAILED; `.job_id` names it.
        BackfillInterrupted: the call was interrupted; `.job_id` names the job, which keeps what it has.
        DeliveryStoppedError: the job has ended, and not all of its results could be delivered.
    """
    arguments = Arguments(
        scorers=scorers,
        start_time=start_time,
        end_time=end_time,
        window=window,
        filter_string=filter_string,
        trace_ids=trace_ids,
        reprocess=reprocess,
        sampling=sampling,
        seed=seed,
        max_error_rate=max_error_rate,
        exclusive=exclusive,
        max_calls=max_calls,
        max_cost_usd=max_cost_usd,
        launch=launch,
        traces=traces,
    )
    tables = _tables(settings, spark, arguments=arguments)
    from backfill_spark.backfill.runner import run_job
    from backfill_spark.backfill.submit import (
        accept,
        create,
        create_claimed,
        create_ended,
        probe_models,
        withdraw_unless_alone,
    )
    from backfill_spark.display import views
    from backfill_spark.display.progress import Progress

    if deliver_to is not None:
        if launch == "queue":
            raise BackfillRefusedError("deliver_to needs launch='here': deliver a queued job when `work` has run it.")
        from backfill_spark.delivery.deliver import check_place

        check_place(tables, deliver_to)
    made = accept(arguments, experiment_id, tables)
    views.announce(made.plan)
    if launch == "here" and (ended := create_ended(made)) is not None:
        return ended.job_id
    made = probe_models(made)
    claim = create_claimed(made) if launch == "here" else None
    job_id = create(made) if claim is None else claim.job_id
    if exclusive:
        withdraw_unless_alone(made, job_id, claim)
    if launch == "queue":
        return job_id
    total = sum(c.due for c in made.inputs.pairs.counts.values())
    with Progress(job_id, total=total) as bar:
        record = run_job(tables, job_id, claim=claim, planned=made.inputs, bar=bar)
    views.conclude(lambda: _job(tables, tables.jobs.record(job_id)))
    _ended(record)
    if deliver_to is not None:
        told = _deliver(tables, record, deliver_to, Versions.KEEP, read_back=True)
        if not told.is_complete:
            raise DeliveryStoppedError(
                f"Job {job_id} ended {record.state}. Of its {told.results:,} results {told.destination} rejected "
                f"{told.rejected:,}, {told.left:,} were not sent and {told.missing:,} are not shown: "
                f"`backfill-spark deliver {job_id} --to {deliver_to}` goes on. {told.stopped or ''}".rstrip(),
                job_id,
            )
    return job_id


def deliver_backfill(
    job_id: str,
    *,
    to: str,
    versions: str = "keep",
    read_back: bool = True,
    spark: SparkSession | None = None,
    settings: Settings | None = None,
) -> Delivery:
    """Deliver the results that a job has merged to where people look at their traces, and say what came of it.

    What an earlier delivery sent is not sent again; one that was killed goes on.

    Args:
        job_id: a job at rest.
        to: a sink of the settings (`mlflow`, `phoenix`, `langfuse`, `otel` or a name of `deliver.sinks`), an address
            such as `mlflow+http://host:5000`, or `table:` and the name or path of a Delta table.
        versions: "keep" leaves what an older version of a scorer delivered; "replace" puts the new result in its place.
        read_back: ask the sink for what it accepted.
        spark: needed only where tables do not lie in a folder of this machine, or for `table:`.
        settings: default: those of `configure()`, else environment and file.

    Raises:
        JobNotFoundError: no job has this id.
        BackfillRefusedError: the job is under way, or the sink is unknown, does not answer, or does not accept the key.
    """
    wanted = Versions.of(versions)
    tables = _tables(settings, spark, job_id=job_id, is_light=True)
    record = tables.jobs.record(job_id)
    if not record.state.is_at_rest:
        raise BackfillRefusedError(
            f"Job {job_id} is {record.state}. Deliver it when it rests: `backfill-spark wait {job_id}`."
        )
    return _deliver(tables, record, to, wanted, read_back=read_back)


def get_backfill(job_id: str, *, spark: SparkSession | None = None, settings: Settings | None = None) -> BackfillJob:
    """Return one job as it is now.

    Raises:
        JobNotFoundError: no job has this id.
    """
    tables = _tables(settings, spark, job_id=job_id, is_light=True)
    return _job(tables, tables.jobs.record(job_id))


def list_backfills(
    experiment_id: str | None = None,
    state: JobState | str | None = None,
    limit: int = 50,
    *,
    spark: SparkSession | None = None,
    settings: Settings | None = None,
) -> list[BackfillJob]:
    """Return jobs, newest first."""
    wanted = None if state is None else _state(state)
    tables = _tables(settings, spark, is_light=True)
    records = tables.jobs.newest(None if experiment_id is None else str(experiment_id), wanted, limit)
    from backfill_spark.display import views
    from backfill_spark.display.render import Listed

    return Listed([_job(tables, r) for r in records], views.jobs_sheet)


def wait_for_backfill(
    job_id: str,
    timeout: float | None = None,
    *,
    spark: SparkSession | None = None,
    settings: Settings | None = None,
) -> BackfillJob:
    """Wait until a job has ended or rests, and return it; how far its runner is shows on a terminal or in a notebook.

    Raises:
        TimeoutError: it is still under way after `timeout` seconds.
        JobNotFoundError: no job has this id.
    """
    from backfill_spark.display.progress import following

    began = time.monotonic()
    for job in following(lambda: get_backfill(job_id, spark=spark, settings=settings)):
        if job.state.is_at_rest:
            break
        left = None if timeout is None else timeout - (time.monotonic() - began)
        if left is not None and left <= 0:
            raise TimeoutError(
                f"Job {job_id} is {job.state} after {timeout} s. `backfill-spark status {job_id}` shows it."
            )
        time.sleep(2.0 if left is None else min(2.0, left))
    return job


@interruptible()
def resume_backfill(
    job_id: str,
    *,
    repin: bool = False,
    max_calls: int | None = None,
    max_cost_usd: float | None = None,
    spark: SparkSession | None = None,
    settings: Settings | None = None,
) -> BackfillJob:
    """Go on here with a job that is PARTIAL, was interrupted, or whose runner is dead; return it as it then is.

    Args:
        job_id: the job; it keeps its id, its pinned scorers and what it has staged.
        repin: read the newest version of the source instead of the pinned one.
        max_calls: the new limit of judge requests, those already sent included; None keeps the old one.
        max_cost_usd: the new limit of their cost, in US dollars; None keeps the old one.

    Raises:
        JobNotFoundError: no job has this id.
        BackfillRefusedError: it has ended, or its runner is alive.
    """
    limits = {"max_calls": max_calls, "max_cost_usd": max_cost_usd}
    problems = Problems()
    validate.limits_of(limits, (), problems)
    problems.raise_any()
    tables = _tables(settings, spark, job_id=job_id)
    from backfill_spark.backfill import runner
    from backfill_spark.display.progress import Progress

    job = _job(tables, tables.jobs.record(job_id))
    total = sum(c.due for c in job.counts.values())
    changes = {k: v for k, v in limits.items() if v is not None}
    with Progress(job_id, total=total) as bar:
        record = runner.resume(tables, job_id, changes=changes, repin=repin, bar=bar)
    return _job(tables, record)


def cancel_backfill(job_id: str, *, spark: SparkSession | None = None, settings: Settings | None = None) -> BackfillJob:
    """Ask for a job's end and return it: CANCELING while its runner stops, CANCELED when it has none.

    A job that has ended stays as it is.

    Raises:
        JobNotFoundError: no job has this id.
    """
    tables = _tables(settings, spark, job_id=job_id, is_light=True)
    from backfill_spark.backfill import runner

    return _job(tables, runner.cancel(tables, job_id))


def work(
    *, forever: bool = False, spark: SparkSession | None = None, settings: Settings | None = None
) -> Iterator[BackfillJob]:
    """Run jobs that wait (PENDING, interrupted, dead runner), oldest first; give each as it ended."""
    tables = _tables(settings, spark, is_light=True)
    from backfill_spark.backfill import queue

    for record in queue.work(tables, forever=forever):
        yield _job(tables, record)


def read_traces(
    source: DataFrame | str | os.PathLike[str] | None = None,
    *,
    spark: SparkSession | None = None,
    settings: Settings | None = None,
) -> DataFrame:
    """Return traces as TRACES: of a DataFrame, a path, a table name, or the settings' source.

    Raises:
        TraceSourceError: there are no traces, or their columns do not fit.
    """
    tables = _tables(settings, spark)
    from backfill_spark.traces.sources import open_source

    return open_source(tables.spark, tables.settings, source).traces()


def inspect_traces(
    traces: DataFrame | str | os.PathLike[str] | None = None,
    *,
    spark: SparkSession | None = None,
    settings: Settings | None = None,
) -> Inspection:
    """Say what traces hold and what a scorer would see of them: their shape, mapping, counts, and three of them.

    Raises:
        TraceSourceError: there are no traces, or they are of no known shape; the message names the nearest.
    """
    tables = _tables(settings, spark)
    from backfill_spark.backfill.inspection import inspect

    return inspect(tables.spark, tables.settings, traces)


def read_assessments(
    *,
    experiment_id: str | None = None,
    scorers: Sequence[str] | None = None,
    version: int | None = None,
    job_id: str | None = None,
    spark: SparkSession | None = None,
    settings: Settings | None = None,
) -> DataFrame:
    """Return the current results without `empty` rows: columns of the table `assessments`.

    `read_traces().join(read_assessments().select("trace_id", "scorer_name", "value"), "trace_id")` has them with their
    traces.

    Args:
        experiment_id: of these results only; default: all.
        scorers: the names of scorers.
        version: results of this version of each scorer; default: of the newest one that has results.
        job_id: only those that this job wrote.
        spark: default: the active session, or one built from the settings.
        settings: default: those of `configure()`, else environment and file.
    """
    from pyspark.sql import functions as F

    from backfill_spark.results.rows import current as current_rows

    store = _tables(settings, spark).results.assessments
    rows = store.read() if store.exists() else store.frame([])
    if version is not None:
        rows = rows.where(F.col("scorer_version") == version)
    rows = current_rows(rows).where("outcome != 'empty'")
    if experiment_id is not None:
        rows = rows.where(F.col("experiment_id") == str(experiment_id))
    if scorers is not None:
        rows = rows.where(F.col("scorer_name").isin([scorers] if isinstance(scorers, str) else list(scorers)))
    if job_id is not None:
        rows = rows.where(F.col("job_id") == job_id)
    return rows


# --- shared


def _deliver(tables: Tables, record: JobRecord, to: str, versions: Versions, *, read_back: bool) -> Delivery:
    from backfill_spark.delivery.deliver import Deliverer
    from backfill_spark.display.progress import Progress
    from backfill_spark.judges.llm.client import run_aside

    deliverer = Deliverer(tables, record.job_id, to, versions)
    total = sum(c.scored + c.empty + c.errored for c in _job(tables, record).counts.values())
    with Progress(record.job_id, total=total, noun="results") as bar:
        return run_aside(deliverer.run(bar, read_back=read_back))


def _ended(record: JobRecord) -> str:
    if record.state is JobState.FAILED:
        raise BackfillFailedError(
            f"Job {record.job_id} failed: {record.end.get('error')} "
            f"`backfill-spark status {record.job_id}` shows its counts.",
            record.job_id,
        )
    return record.job_id


def _tables(
    settings: Settings | None,
    spark: SparkSession | None,
    *,
    arguments: Arguments | None = None,
    job_id: str | None = None,
    is_light: bool = False,
) -> Tables:
    """Return the tables; what the arguments alone show to be wrong is refused before a session is started.

    With `is_light` none is started before something asks for it.
    """
    settings = settings or current().settings
    if spark is None and (is_light or active_session() is None):
        if arguments is not None:
            validate.refuse_values(arguments, settings)
        if job_id is not None and not is_job_id(job_id):
            raise JobNotFoundError.for_id(job_id)
    if arguments is not None and arguments.traces is not None:
        settings = settings.with_traces(values.traces_place(arguments.traces))
    return Tables(None if spark is None and is_light else usable(spark, settings), settings)


def _state(value: JobState | str) -> JobState:
    try:
        return JobState(value)
    except ValueError:
        raise BackfillRefusedError(f"state must be one of {[str(s) for s in JobState]}, got {value!r}.") from None


def _job(tables: Tables, record: JobRecord) -> BackfillJob:
    def summarise(job: BackfillJob) -> list[dict[str, Any]]:
        from backfill_spark.backfill.reopen import summary

        # A job outlives the session that read it.
        is_there = tables.running is not None and is_running(tables.running)
        return summary(tables if is_there else Tables(None, tables.settings), record, job)

    return job_of(record, tables=tables.settings.tables_at, summarise=summarise)


__all__ = [
    "BackfillScorerConfig",
    "Counts",
    "backfill_scorers",
    "cancel_backfill",
    "configure",
    "delete_scorer",
    "deliver_backfill",
    "get_backfill",
    "get_scorer",
    "get_spark",
    "inspect_traces",
    "list_backfills",
    "list_scorer_versions",
    "list_scorers",
    "plan_backfill",
    "read_assessments",
    "read_traces",
    "resume_backfill",
    "set_experiment",
    "wait_for_backfill",
    "work",
]
