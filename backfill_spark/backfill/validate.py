"""From the arguments of a call to a frozen Request: every refusal is made here, all problems at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from backfill_spark.backfill import values
from backfill_spark.backfill.named_scorers import ALL_STARTED, all_started, models_of, named, spec_of
from backfill_spark.backfill.problems import Problems
from backfill_spark.models import Arguments, Reprocess, Request, Sampling, ScorerKind, ScorerSpec

if TYPE_CHECKING:
    from backfill_spark.jobs.job import BackfillJob
    from backfill_spark.scorers.registered import Catalog
    from backfill_spark.settings.schema import Settings
    from backfill_spark.traces.sources import TraceSource


def resolve(
    arguments: Arguments,
    settings: Settings,
    problems: Problems,
    *,
    experiment: tuple[str, bool],
    catalog: Catalog,
    now: datetime,
) -> Request:
    """Check the arguments; what is wrong goes to `problems`. The source is pinned by `pinned` afterwards."""
    experiment_id, given = experiment
    plain, names = _values(arguments, settings, problems, now)
    if arguments.scorers == ALL_STARTED:
        names, notes = all_started(catalog, experiment_id, problems)
        plain["notes"] += notes
    found = [spec_of(g, catalog, experiment_id, problems, lists_traces=plain["lists_traces"]) for g in names]
    scorers = tuple(s for s in found if s is not None)
    _for_judges_only(_bounds(arguments), scorers, problems)
    plain["notes"] += [
        f"filter of {s.name}: {note}" for s in scorers for note in values.notes_of(s.filter_string, s.filter_dialect)
    ]
    return Request(
        experiment_id=experiment_id,
        experiment_given=given,
        scorers=scorers,
        source="",
        source_version="",
        source_table_id=None,
        results_version=None,
        payload=settings.traces.payload,
        columns=settings.traces.mapping,
        slack=settings.traces.slack,
        models=models_of(scorers, settings, problems),
        **plain | {"notes": tuple(plain["notes"])},
    )


def refuse_values(arguments: Arguments, settings: Settings) -> None:
    """Refuse what the arguments alone show to be wrong: before Spark starts.

    Raises:
        BackfillRefusedError: with every such problem at once.
    """
    problems = Problems()
    _values(arguments, settings, problems, datetime.now(UTC))
    problems.raise_any()


def _values(
    arguments: Arguments, settings: Settings, problems: Problems, now: datetime
) -> tuple[dict[str, Any], Sequence[Any]]:
    """Return the fields of a Request that need neither registry nor source, and the scorers as they were named."""
    window, notes = values.window(arguments, settings, problems, now)
    listed = values.listed_ids(arguments.trace_ids, problems)
    given = named(arguments.scorers, problems)
    sampling = values.one_of(Sampling, "sampling", arguments.sampling, problems)
    if arguments.launch not in ("here", "queue"):
        problems.note(f"launch must be 'here' or 'queue', got {arguments.launch!r}.")
    if sampling is Sampling.SPARK:
        notes.append("Sampling by Spark: another source version or a higher rate chooses other traces.")
    dialect = settings.filters.dialect
    whole = values.filter_text(arguments.filter_string, dialect, problems)
    notes += [f"filter_string: {note}" for note in values.notes_of(whole, dialect)]
    limit = settings.limits.max_error_rate if arguments.max_error_rate is None else arguments.max_error_rate
    return {
        "window": window,
        "filter_string": whole,
        "filter_dialect": dialect,
        "lists_traces": listed is not None,
        "reprocess": values.one_of(Reprocess, "reprocess", arguments.reprocess, problems),
        "sampling": sampling,
        "seed": values.seed(arguments.seed, problems),
        "max_error_rate": values.rate("max_error_rate", limit, problems),
        "notes": notes,
        **limits_of(_bounds(arguments), (), problems),
    }, given


def pinned(request: Request, source: TraceSource, results_version: int | None) -> Request:
    """Return the request with the versions that it reads."""
    return replace(
        request,
        source=source.name,
        source_kind=source.kind,
        source_shape=source.shape,
        source_version=source.version,
        source_table_id=source.table_id,
        payload=(source.payload or request.payload) if request.payload == "auto" else request.payload,
        results_version=results_version,
        notes=(*request.notes, *source.notes),
    )


def limits_of(given: Mapping[str, Any], scorers: Sequence[ScorerSpec], problems: Problems) -> dict[str, Any]:
    """Check `max_calls` and `max_cost_usd`, as far as they are given; numpy's numbers become Python's."""
    _for_judges_only(given, scorers, problems)
    return {name: values.limit(name, value, problems, whole=name == "max_calls") for name, value in given.items()}


def _for_judges_only(given: Mapping[str, Any], scorers: Sequence[ScorerSpec], problems: Problems) -> None:
    """Refuse limits of judges in a job that has none."""
    named = [name for name, value in given.items() if value is not None]
    if named and scorers and all(s.kind is not ScorerKind.JUDGE for s in scorers):
        problems.note(
            f"{' and '.join(named)} bound what judges send, and no scorer of this job is a judge. Leave it out; "
            "a sample_rate bounds the calls of code scorers."
        )


def _bounds(arguments: Arguments) -> dict[str, Any]:
    return {"max_calls": arguments.max_calls, "max_cost_usd": arguments.max_cost_usd}


def overlapping(request: Request, jobs: Sequence[BackfillJob]) -> list[str]:
    """Return a problem for each live job that covers one of the request's scorers in its window."""
    return [
        f"exclusive: job {job.job_id} ({job.state}) covers {shared} in {job.window}. Wait for it "
        f"(`backfill-spark wait {job.job_id}`), cancel it, or leave exclusive out: results stay right."
        for job, shared in _sharing(request, jobs)
    ]


def shared_notes(request: Request, jobs: Sequence[BackfillJob]) -> list[str]:
    """Return a note for each job with a live runner that covers one of the request's scorers in its window."""
    if request.reprocess is Reprocess.ALL:
        return []
    return [
        f"Job {job.job_id} is at work on {shared} in {job.window}: what it has under way is waited for and taken "
        f"over, not called again; pairs due here may be its."
        for job, shared in _sharing(request, jobs)
        if job.alive
    ]


def _sharing(request: Request, jobs: Sequence[BackfillJob]) -> list[tuple[BackfillJob, list[str]]]:
    """Return the jobs that have a scorer of the request in its window, each with those scorers."""
    names = {s.name for s in request.scorers}
    found = [(job, sorted(names & {s.name for s in job.scorers})) for job in jobs]
    return [(job, shared) for job, shared in found if shared and request.window.meets(job.window)]
