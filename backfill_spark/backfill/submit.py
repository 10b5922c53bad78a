"""From arguments to a job: everything that is checked, pinned and chosen before a scorer is called."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from backfill_spark.backfill import runner, validate
from backfill_spark.backfill.ending import coverage_of, tell_end
from backfill_spark.backfill.inputs import Inputs
from backfill_spark.backfill.inspection import expectation_notes, source_problems
from backfill_spark.backfill.judge_cost import expected_cost, has_questions
from backfill_spark.backfill.plan import BackfillPlan, plan
from backfill_spark.backfill.preflight import executor_problems
from backfill_spark.backfill.problems import Problems
from backfill_spark.backfill.repeated import counts_of_repeated
from backfill_spark.backfill.staging import staged_elsewhere
from backfill_spark.display.progress import tell
from backfill_spark.errors import BackfillError
from backfill_spark.jobs.events import End, Event
from backfill_spark.jobs.failpoints import Failpoint, failpoint
from backfill_spark.jobs.job import job_of
from backfill_spark.judges.services import keys_missing, prices_missing, probed, services_of
from backfill_spark.models import Sampling, new_job_id
from backfill_spark.results.due import highest_rate, missing_ids, spark_samples
from backfill_spark.results.related import related_pins
from backfill_spark.scorers.of_mlflow import has_mlflows, registered
from backfill_spark.selection.frozen import listed
from backfill_spark.settings.current import experiment
from backfill_spark.storage.session import few_tasks
from backfill_spark.traces.sources import open_source

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.backfill.tables import Tables
    from backfill_spark.jobs.events import Claim, JobRecord
    from backfill_spark.judges.llm.endpoints import Service
    from backfill_spark.models import Arguments, Request
    from backfill_spark.storage.delta_table import Store


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that was accepted, with what was found on the way."""

    inputs: Inputs
    plan: BackfillPlan


def accept(arguments: Arguments, experiment_id: str | None, tables: Tables) -> Accepted:
    """Check everything, pin the source, the results and the scorers, choose the pairs, and say what it would cost.

    Raises:
        BackfillRefusedError: with every problem at once; no job is left behind.
    """
    with few_tasks(tables.spark):
        return _accept(arguments, experiment_id, tables)


def _accept(arguments: Arguments, experiment_id: str | None, tables: Tables) -> Accepted:
    problems, settings, results = Problems(), tables.settings, tables.results
    where = experiment(experiment_id, settings)
    arguments = _with_mlflows(arguments, tables, where[0])
    catalog = tables.registry.catalog(where[0], definitions=True)
    request = validate.resolve(arguments, settings, problems, experiment=where, catalog=catalog, now=datetime.now(UTC))
    source = None
    try:
        source = open_source(tables.spark, settings)
        problems.note(*source_problems(source, request.scorers))
    except BackfillError as error:
        problems.note(str(error))
    problems.note(*executor_problems(tables, judges=bool(request.models)))
    services = _judge_services(tables, request, problems)
    live = [job_of(r) for r in tables.jobs.live(request.experiment_id)]
    if arguments.exclusive:
        problems.note(*validate.overlapping(request, live))
    # First what is staged: whoever merges in between is then seen in one of the two.
    staged = staged_elsewhere(tables, request.experiment_id)
    version = _usable_version(results.assessments, problems)
    problems.raise_any()
    assert source is not None
    request = validate.pinned(request, source, version)
    request = replace(request, **related_pins(request, source))
    ids = listed(tables.spark, list(arguments.trace_ids)) if request.lists_traces else None
    choice = ids if request.sampling is Sampling.HASH else spark_samples(request, source, results, ids)
    known = counts_of_repeated(tables, request)
    if known is None:
        told = expectation_notes(source, request.scorers, request.window, request.payload)
        request = replace(request, notes=(*request.notes, *told))
    inputs = (
        Inputs.counted(tables, request, source, choice=choice, services=services, staged=staged)
        if known is None
        else Inputs(tables, request, source, choice, services, staged, known)
    )
    missing = missing_ids(source, request, ids) if ids is not None else ()
    made = plan(request, inputs.pairs, missing=missing)
    made = replace(made, tables=settings.tables_at, **expected_cost(inputs))
    made = replace(made, notes=(*made.notes, *validate.shared_notes(request, live)))
    due, cost = sum(c.due for c in made.counts.values()), "" if made.cost_usd is None else f", ${made.cost_usd:,.2f}"
    tell(
        f"plan of experiment {made.experiment_id}, {made.window}: {due:,} pairs due for {len(made.scorers)} scorers, "
        f"{made.calls:,} calls in {made.chunks:,} chunks{cost}; {made.source_kind} at version {made.source_version}"
    )
    return Accepted(inputs, made)


def _with_mlflows(arguments: Arguments, tables: Tables, experiment_id: str) -> Arguments:
    """Register the scorers of MLflow among the arguments, when nothing else in them is wrong."""
    if not has_mlflows(arguments.scorers):
        return arguments
    validate.refuse_values(arguments, tables.settings)
    return replace(arguments, scorers=registered(arguments.scorers, tables.registry, experiment_id))


def _usable_version(store: Store, problems: Problems) -> int | None:
    try:
        if store.exists():
            store.ensure().check_columns()
            return store.version()
    except BackfillError as error:
        problems.note(str(error))
    return None


def _judge_services(tables: Tables, request: Request, problems: Problems) -> dict[str, Service]:
    """Return the services that the judges ask; what is wrong with them goes to `problems`."""
    if not request.models:
        return {}
    try:
        services = services_of(tables.settings, request)
    except BackfillError:  # `validate.resolve` has noted it
        return {}
    problems.note(*keys_missing(tables.spark, services))
    if request.max_cost_usd is not None:
        problems.note(*prices_missing(services))
    return services


def probe_models(made: Accepted) -> Accepted:
    """Ask each model one small question before the job exists, when there is a prompt left to ask."""
    inputs = made.inputs
    if not inputs.services or not has_questions(inputs):
        return made
    services = {uri: probed(service) for uri, service in inputs.services.items()}
    return replace(made, inputs=replace(inputs, services=services))


def create(made: Accepted) -> str:
    """Record the job with everything that it has chosen, for whoever claims it; return its id."""
    job_id, created = _job_of(made)
    made.inputs.tables.jobs.create(job_id, created)
    failpoint(Failpoint.AFTER_CREATE)
    tell(f"job {job_id}: created, waits for `work`")
    return job_id


def create_claimed(made: Accepted) -> Claim:
    """Record the job with everything that it has chosen, and claim it."""
    return made.inputs.tables.jobs.create_claimed(*_job_of(made))


def create_ended(made: Accepted) -> JobRecord | None:
    """Record a job that has nothing to do, which has thereby ended; None when a pair is due."""
    counts, request, began = made.inputs.pairs.counts, made.inputs.request, time.monotonic()
    if made.inputs.choice is not None or any(c.due for c in counts.values()):
        return None
    payload = {
        "counts": {n: c.to_json() for n, c in counts.items()},
        "calls": 0,
        "cost_usd": None,
        "rate_reached": highest_rate(request),
        "error": None,
        "warnings": [],
    }
    coverage = coverage_of(request, None)
    notes = [] if coverage is None else [(Event.COVERED, coverage)]
    notes.append((Event.ENDED, {"end": End.SUCCEEDED.value, **payload}))
    record = made.inputs.tables.jobs.create_ended(*_job_of(made), notes)
    tell_end(record, payload, counts, time.monotonic() - began)
    return record


def _job_of(made: Accepted) -> tuple[str, dict[str, Any]]:
    """Name a new job, make its tables, keep its choice and its files, and say what its first event holds."""
    inputs = made.inputs
    tables, choice, files = inputs.tables, inputs.choice, inputs.source.files
    # What cannot be made ends here, with no job left behind.
    tables.results.ensure()
    now = datetime.now(UTC)
    job_id = new_job_id(now)
    if choice is not None:
        tables.work.keep_choice(job_id, choice)
    if files:
        tables.work.keep_files(job_id, files)
    return job_id, {
        "request": inputs.request.to_json(),
        "counts": {n: c.to_json() for n, c in inputs.pairs.counts.items()},
        "created_at": now.timestamp(),
        "versions": _versions(tables.spark),
        "trace_ids_missing": list(made.plan.trace_ids_missing),
        "has_files": bool(files),
        "work_version": tables.work.store.version() if files or choice is not None else None,
    }


def live_overlaps(tables: Tables, request: Request, *, but: str = "") -> list[str]:
    """Return a sentence for each live job that covers one of the request's scorers in its window."""
    live = tables.jobs.live(request.experiment_id)
    return validate.overlapping(request, [job_of(r) for r in live if r.job_id != but])


def withdraw_unless_alone(made: Accepted, job_id: str, claim: Claim | None) -> None:
    """Look again once the job is there for others to see: of two created at the same moment not both may start.

    Args:
        claim: of a job that is claimed already.

    Raises:
        BackfillRefusedError: another live job covers its pairs; this one was canceled before any call.
    """
    problems, tables = Problems(), made.inputs.tables
    others = live_overlaps(tables, made.inputs.request, but=job_id)
    problems.note(*(f"{o} It was created at the same moment; {job_id} was canceled before any call." for o in others))
    if others and claim is None:
        runner.cancel(tables, job_id)
    elif others and claim is not None:
        canceled = replace(claim, record=replace(claim.record, cancel_requested=True))
        runner.run_job(tables, job_id, claim=canceled, planned=made.inputs)
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
