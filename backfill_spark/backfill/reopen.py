"""Reopening: the request, source and pairs of a job as it recorded them, read again by whoever goes on with it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backfill_spark.backfill.inputs import Inputs
from backfill_spark.backfill.staging import staged_by, staged_elsewhere
from backfill_spark.errors import BackfillError, SourceGoneError
from backfill_spark.jobs.events import Event
from backfill_spark.judges.services import services_of
from backfill_spark.models import Request
from backfill_spark.results.due import candidates
from backfill_spark.results.related import related_pins
from backfill_spark.settings.locations import Location
from backfill_spark.storage.session import compiled, few_tasks
from backfill_spark.traces.sources import TraceSource, corrupt_file, open_source, source_gone

if TYPE_CHECKING:
    from backfill_spark.backfill.attempt import Attempt
    from backfill_spark.backfill.tables import Tables
    from backfill_spark.jobs.events import JobRecord
    from backfill_spark.jobs.job import BackfillJob


logger = logging.getLogger(__name__)


def request_of(tables: Tables, record: JobRecord) -> Request:
    """Rebuild a job's frozen request, with the definitions of its pinned scorer versions and later changes."""
    data: dict[str, Any] = dict(record.created["request"]) | dict(record.changes)
    pinned = [(s["name"], s["version"]) for s in data["scorers"]]
    definitions = tables.registry.definitions(data["experiment_id"], pinned)
    return Request.from_json(json.loads(json.dumps(data)), definitions)


def inputs_of(attempt: Attempt) -> Inputs:
    """Open what a job reads, and count it again, by the results as they are now.

    Another job may have scored the pairs since this one was created.

    Raises:
        SourceGoneError: see `pinned_source`.
    """
    tables, job_id, request = attempt.tables, attempt.job_id, attempt.request
    services = services_of(tables.settings, request)
    source = pinned_source(tables, job_id, request)
    choice = tables.work.choice(job_id, request)
    # First what is staged: whoever merges in between is then seen in one of them.
    recovered = tables.results.waiting.recovered(job_id, staged_by(attempt.lease.claimed))
    mine = attempt.mine if recovered is None else (*attempt.mine, recovered)
    staged = staged_elsewhere(tables, request.experiment_id, job_id).and_mine(mine)
    request = replace(request, results_version=tables.results.assessments.version())
    return Inputs.counted(
        tables,
        request,
        source,
        choice=choice,
        services=services,
        staged=staged,
        job_id=job_id,
    )


def pinned_source(tables: Tables, job_id: str, request: Request, *, work_version: int | None = None) -> TraceSource:
    """Open the job's source at its pinned version.

    `work_version` is where an ended job, which has dropped its list of files, still has it.

    Raises:
        SourceGoneError: the version can no longer be read, or the table was replaced by another one.
    """
    files = None
    if request.source_version.startswith("files:"):
        try:
            files = tables.work.files(job_id, version=work_version) or None
        except Exception as error:
            if work_version is None or not source_gone(error):
                raise
            # Vacuumed by `maintain`: then the files that are there must be those that were pinned.
    source = _open_recorded(tables, request, version=request.source_version, files=files)
    if source.table_id != request.source_table_id:
        raise SourceGoneError(
            f"The traces table {request.source!r} was replaced: its id is {source.table_id}, the job was planned on "
            f"{request.source_table_id}. `backfill-spark resume {job_id} --repin` goes on with the new table."
        )
    return source


def repinned(tables: Tables, request: Request) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the changes that pin a request to the newest version of its source, and the frozen files."""
    source = _open_recorded(tables, request)
    changes = {"source_version": source.version, "source_table_id": source.table_id}
    newest = replace(request, results_version=tables.results.assessments.version())
    return changes | related_pins(newest, source), source.files


def _open_recorded(tables: Tables, request: Request, **pin: Any) -> TraceSource:
    """Open the source that a request names, as it was when the request was made, whatever the settings say now."""
    spark, settings, text = tables.spark, tables.settings, request.source
    if request.source_kind:
        is_table = request.source_kind == "table"
        location = Location.of_name(text) if is_table else Location.of_path(text, settings.path_roots)
        pin |= {"columns": request.columns, "shape": request.source_shape, "slack": request.slack}
        return open_source(spark, settings, location, **pin)
    try:
        return open_source(spark, settings, text, **pin)
    except BackfillError as error:
        if text.startswith("/") or ":" in text:
            raise
        raise SourceGoneError(
            f"The job was recorded with the source {text!r}, without the folder that it starts from. From "
            f"here it is not found; ask from the folder in which the job was made. {error}"
        ) from error


def summary(tables: Tables, record: JobRecord, job: BackfillJob) -> list[dict[str, Any]]:
    """Make the rows of `BackfillJob.summary`, over the current results of the pairs that the job selected.

    Those of a job at rest are kept among its events, for `status` in a process without Spark.
    """
    if "has_files" not in record.created:  # a row of `jobs` does not tell everything
        record = tables.jobs.record(record.job_id)
    candidates_at_most = sum(counts.in_window for counts in job.counts.values())
    with few_tasks(tables.spark), compiled(tables.spark, rows=candidates_at_most):
        rows = _summary(tables, record, job)
    if job.state.is_at_rest:
        try:
            plain = json.loads(json.dumps(rows, allow_nan=False))
            if record.summary is None or record.summary["rows"] != plain:
                tables.jobs.write(job.job_id, [(Event.SUMMARIZED, {"rows": plain, "at": tables.jobs.clock()})])
        except Exception as error:  # a value that is no number, or tables that may only be read
            logger.debug("The summary of %s was not kept: %s", job.job_id, error)
    return rows


def _summary(tables: Tables, record: JobRecord, job: BackfillJob) -> list[dict[str, Any]]:
    from backfill_spark.results.summary import only_seen, selected_rows, summarise

    # Which pairs have a result is not asked here, so no old version of the results is read.
    request = replace(request_of(tables, record), results_version=None)
    version = record.created.get("work_version") if record.state.is_terminal else None
    try:
        source = pinned_source(tables, job.job_id, request, work_version=version)
        choice = tables.work.choice(job.job_id, request, version=version)
        pairs = candidates(request, source, tables.results, choice=choice, job_id=None, staged=())
        return summarise(
            selected_rows(tables.results, request, pairs, job.job_id), request, job.counts, job.rate_reached
        )
    except Exception as error:
        is_ours, damaged = isinstance(error, BackfillError), corrupt_file(error)
        if not is_ours and damaged is None and not source_gone(error):
            raise
        why = str(error) if is_ours else f"{damaged or 'Files'} of {job.source!r}, version {job.source_version}, "
        why += "" if is_ours else "can no longer be read: removed, as by VACUUM." if damaged is None else "is damaged."
    # What the job itself merged is still there, and is not what was asked for.
    seen = selected_rows(tables.results, request, None, job.job_id)
    rows = summarise(seen, request, job.counts, job.rate_reached)
    return only_seen(rows, why)
