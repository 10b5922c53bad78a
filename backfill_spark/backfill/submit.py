"""From arguments to a job: everything that is checked, pinned and chosen before a scorer is called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from backfill_spark.backfill import runner, validate
from backfill_spark.backfill.judge_cost import expected_cost, has_questions
from backfill_spark.backfill.plan import BackfillPlan, plan
from backfill_spark.backfill.preflight import executor_problems
from backfill_spark.backfill.runner import Prepared
from backfill_spark.display.progress import tell
from backfill_spark.errors import BackfillError
from backfill_spark.jobs.failpoints import Failpoint, failpoint
from backfill_spark.jobs.job import job_of
from backfill_spark.jobs.store import JobStore
from backfill_spark.judges.services import keys_missing, prices_missing, probed, services_of
from backfill_spark.models import Sampling, new_job_id
from backfill_spark.results.due import missing_ids, select, spark_samples
from backfill_spark.results.store import ResultStore
from backfill_spark.scorers.registry import Registry
from backfill_spark.selection.frozen import WorkStore, listed
from backfill_spark.settings.current import experiment
from backfill_spark.storage.delta_table import Store
from backfill_spark.traces.sources import open_source

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.jobs.events import Claim
    from backfill_spark.judges.llm.endpoints import Service
    from backfill_spark.models import Arguments, Request
    from backfill_spark.settings.schema import Settings


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that was accepted, with what was found on the way."""

    spark: SparkSession
    settings: Settings
    prepared: Prepared
    plan: BackfillPlan


def accept(arguments: Arguments, experiment_id: str | None, spark: SparkSession, settings: Settings) -> Accepted:
    """Check everything, pin the source, the results and the scorers, choose the pairs, and say what it would cost.

    Raises:
        BackfillRefusedError: with every problem at once; no job is left behind.
    """
    problems = validate.Problems()
    where = experiment(experiment_id, settings)
    catalog = Registry(spark, settings).catalog(where[0], definitions=True)
    request = validate.resolve(arguments, settings, problems, experiment=where, catalog=catalog, now=datetime.now(UTC))
    source = None
    try:
        source = open_source(spark, settings)
    except BackfillError as error:
        problems.note(str(error))
    for problem in executor_problems(spark, settings):
        problems.note(problem)
    services = judge_services(spark, settings, request, problems)
    if arguments.exclusive:
        for other in live_overlaps(spark, settings, request):
            problems.note(other)
    results = ResultStore(spark, settings)
    # First staging: whoever merges and empties in between is then seen in one of them.
    staging = _usable_version(results.staging, problems)
    version = _usable_version(results.assessments, problems)
    problems.raise_any()
    assert source is not None
    request = validate.pinned(request, source, version)
    ids = listed(spark, list(arguments.trace_ids)) if request.lists_traces else None
    choice = ids if request.sampling is Sampling.HASH else spark_samples(request, source, results, ids)
    selection = select(request, source, results, choice=choice, staging_version=staging)
    missing = missing_ids(source, request, ids) if ids is not None else ()
    prepared = Prepared(request, source, choice, selection, staging, services)
    made = plan(request, selection, missing=missing)
    made = replace(made, tables=settings.tables_at, **expected_cost(prepared, spark, settings))
    due, cost = sum(c.due for c in made.counts.values()), "" if made.cost_usd is None else f", ${made.cost_usd:,.2f}"
    tell(
        f"plan of experiment {made.experiment_id}, {made.window}: {due:,} pairs due for {len(made.scorers)} scorers, "
        f"{made.calls:,} calls in {made.chunks:,} chunks{cost}; {made.source_kind} at version {made.source_version}"
    )
    return Accepted(spark, settings, prepared, made)


def _usable_version(store: Store, problems: validate.Problems) -> int | None:
    try:
        if store.exists():
            store.ensure().check_columns()
            return store.version()
    except BackfillError as error:
        problems.note(str(error))
    return None


def judge_services(
    spark: SparkSession, settings: Settings, request: Request, problems: validate.Problems
) -> dict[str, Service]:
    """Return the services that the judges ask; what is wrong with them goes to `problems`."""
    if not request.models:
        return {}
    try:
        services = services_of(settings, request)
    except BackfillError:  # `requests.resolve` has noted it
        return {}
    for problem in keys_missing(spark, services):
        problems.note(problem)
    if request.max_cost_usd is not None:
        for problem in prices_missing(services):
            problems.note(problem)
    return services


def probe_models(made: Accepted) -> Accepted:
    """Ask each model one small question before the job exists, when there is a prompt left to ask."""
    prepared = made.prepared
    if not prepared.services or not has_questions(prepared, made.spark, made.settings):
        return made
    services = {uri: probed(service) for uri, service in prepared.services.items()}
    return Accepted(
        made.spark, made.settings, replace(prepared, services=services, probed=frozenset(services)), made.plan
    )


def create(made: Accepted) -> str:
    """Record the job with everything that it has chosen, for whoever claims it; return its id."""
    job_id, created = _job_of(made)
    JobStore(made.spark, made.settings).create(job_id, created)
    failpoint(Failpoint.AFTER_CREATE)
    tell(f"job {job_id}: created, waits for `work`")
    return job_id


def create_claimed(made: Accepted) -> Claim:
    """Record the job with everything that it has chosen, and claim it."""
    return JobStore(made.spark, made.settings).create_claimed(*_job_of(made))


def _job_of(made: Accepted) -> tuple[str, dict[str, Any]]:
    """Name a new job, make its tables, keep its choice and its files, and say what its first event holds."""
    request, source = made.prepared.request, made.prepared.source
    # What cannot be made ends here, with no job left behind.
    ResultStore(made.spark, made.settings).ensure()
    now = datetime.now(UTC)
    job_id = new_job_id(now)
    work = WorkStore(made.spark, made.settings)
    if made.prepared.choice is not None:
        work.keep_choice(job_id, made.prepared.choice)
    if source.files:
        work.keep_files(job_id, source.files)
    return job_id, {
        "request": request.to_json(),
        "counts": {n: c.to_json() for n, c in made.prepared.selection.counts.items()},
        "created_at": now.timestamp(),
        "versions": _versions(made.spark),
        "trace_ids_missing": list(made.plan.trace_ids_missing),
        "has_files": bool(source.files),
        "work_version": work.store.version() if source.files or made.prepared.choice is not None else None,
    }


def live_overlaps(spark: SparkSession, settings: Settings, request: Request, *, but: str = "") -> list[str]:
    """Return a sentence for each live job that covers one of the request's scorers in its window."""
    live = JobStore(spark, settings).live(request.experiment_id)
    return validate.overlapping(request, [job_of(r) for r in live if r.job_id != but])


def withdraw_unless_alone(made: Accepted, job_id: str, claim: Claim | None) -> None:
    """Look again once the job is there for others to see: of two created at the same moment not both may start.

    Args:
        made: the request.
        job_id: its job.
        claim: of a job that is claimed already.

    Raises:
        BackfillRefusedError: another live job covers its pairs; this one was canceled before any call.
    """
    problems = validate.Problems()
    for other in live_overlaps(made.spark, made.settings, made.prepared.request, but=job_id):
        problems.note(f"{other} It was created at the same moment; {job_id} was canceled before any call.")
    if problems.all and claim is None:
        runner.cancel(made.spark, made.settings, job_id)
    elif problems.all and claim is not None:
        canceled = replace(claim, record=replace(claim.record, cancel_requested=True))
        runner.run_job(made.spark, made.settings, job_id, claim=canceled, prepared=made.prepared)
    problems.raise_any()


def _versions(spark: SparkSession) -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "spark": spark.version}
    for package in ("backfill-spark", "delta-spark"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # shipped with --py-files, or the platform's own
            continue
    return found
