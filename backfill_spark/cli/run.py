"""plan and run: ask for a backfill, or see what it would do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, get_origin, get_type_hints

import click

from backfill_spark.cli.answers import job_object, plan_object
from backfill_spark.cli.command import ProgramCommand
from backfill_spark.cli.program import ExitCode, Program, exit_code_of
from backfill_spark.errors import BackfillError, BackfillFailedError, DeliveryStoppedError
from backfill_spark.models import Arguments, BackfillScorerConfig, Reprocess, Sampling
from backfill_spark.settings.locations import read_text


def request_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that are the arguments of `backfill_scorers`."""
    for option in reversed(_REQUEST_OPTIONS):
        command = option(command)
    return command


_REQUEST_OPTIONS = (
    click.option(
        "--scorers",
        multiple=True,
        metavar="NAME[=RATE],…",
        help="Registered scorers; without a rate, the registered one.",
    ),
    click.option("--all-started", is_flag=True, help="Every started scorer at its registered rate."),
    click.option("--experiment-id", metavar="ID", help="Experiment of the scorers and traces."),
    click.option(
        "--start",
        "--start-time",
        "start_time",
        metavar="TIME",
        help="ISO date or time, yesterday, today, -1d, …; inclusive.",
    ),
    click.option(
        "--end", "--end-time", "end_time", metavar="TIME", help="As --start, exclusive: a date is its midnight."
    ),
    click.option(
        "--filter", "--filter-string", "filter_string", metavar="TEXT", help="MLflow filter, besides each scorer's own."
    ),
    click.option(
        "--trace-ids", multiple=True, metavar="ID,…|@FILE", help="Exactly these traces; @FILE has an id a line."
    ),
    click.option(
        "--reprocess",
        type=click.Choice([str(value) for value in Reprocess]),
        default="missing",
        show_default=True,
        help="What is due: pairs without a result, failed ones too, or all.",
    ),
    click.option(
        "--sampling",
        type=click.Choice([str(value) for value in Sampling]),
        default="hash",
        show_default=True,
        help="How a rate chooses traces.",
    ),
    *(
        click.option(f"--{name.replace('_', '-')}", **kind.__metadata__[0])
        for name, kind in get_type_hints(Arguments, include_extras=True).items()
        if get_origin(kind) is Annotated
    ),
)


@click.command(cls=ProgramCommand)
@request_options
@click.pass_obj
def plan(program: Program, /, **options: Any) -> None:
    """Show what a backfill would do; no scorer is called."""
    from backfill_spark.display.views import plan_sheet
    from backfill_spark.storage.start_spark import short_life

    with short_life():
        made = program.api.plan_backfill(**_request(program, options))
    program.answer(lambda: plan_sheet(made), lambda: plan_object(made))


@click.command(cls=ProgramCommand)
@request_options
@click.option("--queue", is_flag=True, help="Leave the job PENDING for `work`.")
@click.option("--deliver-to", metavar="SINK", help="Where its results go then, as `deliver --to`.")
@click.pass_context
def run(ctx: click.Context, /, queue: bool, deliver_to: str | None, **options: Any) -> None:
    """Run a backfill here: plan, progress, summary."""
    from backfill_spark.display.render import Sheet
    from backfill_spark.display.views import audience

    program: Program = ctx.obj
    request = _request(program, options)
    how = ({"launch": "queue"} if queue else {}) | ({} if deliver_to is None else {"deliver_to": deliver_to})
    try:
        with audience(program.out):
            job_id = program.api.backfill_scorers(**request, **how)
    except BackfillFailedError as error:
        program.say(f"Error: {error}")
        if not error.job_id:
            raise
        ctx.exit(show_end(program, error.job_id, failure=error))
    except DeliveryStoppedError as error:
        program.say(f"Error: {error}")
        show_end(program, error.job_id)
        ctx.exit(ExitCode.PARTIAL)
    if queue:
        program.answer(lambda: Sheet(f"Job {job_id} waits for `backfill-spark work`"), lambda: {"job_id": job_id})
        return
    ctx.exit(show_end(program, job_id))


def show_end(
    program: Program, job_id: str, *, failure: BackfillFailedError | None = None, counts: bool = False
) -> ExitCode:
    """Print a job at rest with its summary; with `counts`, any job, and both. Return what a job at rest exits with."""
    from backfill_spark.display.views import job_sheet

    try:
        job = program.api.get_backfill(job_id)
    except BackfillError:
        if failure is None:
            raise
        raise failure from None
    summary = _summary(program, job) if job.state.is_at_rest or not counts else None
    program.answer(lambda: job_sheet(job, summary=summary, counts=counts), lambda: job_object(job, summary=summary))
    return exit_code_of(job.state)


def _summary(program: Program, job: Any) -> Any:
    """Return the rows of the summary, or None with a message: the job's end is told either way."""
    try:
        known = getattr(job, "known_summary", None)
        return job.summary().to_dict("records") if known is None else known
    except Exception as error:
        if program.debug:
            raise
        program.say(f"The summary could not be read: {type(error).__name__} (--debug shows the traceback)")
        return None


def _request(program: Program, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options as arguments; what they alone show to be wrong is refused before Spark is imported."""
    from backfill_spark.backfill.named_scorers import ALL_STARTED
    from backfill_spark.backfill.validate import refuse_values
    from backfill_spark.storage.session import active_session

    if options.pop("all_started") == bool(options["scorers"]):
        raise click.UsageError("Name scorers with --scorers, or take every started one with --all-started.")
    given = options | {
        "scorers": parse_scorers(options["scorers"]) if options["scorers"] else ALL_STARTED,
        "trace_ids": parse_trace_ids(options["trace_ids"]),
    }
    request = {name: value for name, value in given.items() if value is not None and value is not False}
    named = {name: value for name, value in request.items() if name != "experiment_id"}
    if active_session() is None:
        refuse_values(Arguments(**named), program.settings)
    return request


def parse_scorers(texts: tuple[str, ...]) -> list[str] | list[BackfillScorerConfig]:
    """Turn `a,b=0.8` into names, or into BackfillScorerConfig objects when any has a rate.

    Raises:
        click.UsageError: an empty name or a rate that is no number; names all of them.
    """
    entries: list[tuple[str, float | None]] = []
    problems = []
    for part in ",".join(texts).split(","):
        name, equals, rate = part.strip().rpartition("=")
        if not equals:
            name, rate = rate, ""
        try:
            entries.append((name.strip(), float(rate) if equals else None))
        except ValueError:
            problems.append(f"--scorers {part.strip()!r}: the rate {rate.strip()!r} is no number in [0, 1]")
        if not name.strip():
            problems.append(f"--scorers {part.strip()!r}: the scorer's name is missing")
    if problems:
        raise click.UsageError("\n".join(problems))
    if all(rate is None for _, rate in entries):
        return [name for name, _ in entries]
    return [BackfillScorerConfig(scorer=name, sample_rate=rate) for name, rate in entries]


def parse_trace_ids(texts: tuple[str, ...]) -> list[str] | None:
    """Turn `a,b` and `@file` into ids; ids in a file are taken exactly as they stand, one a line.

    Raises:
        click.UsageError: the file cannot be read, or no id is named.
    """
    if not texts:
        return None
    ids: list[str] = []
    for text in texts:
        if not text.startswith("@"):
            ids += [part for part in text.split(",") if part]
            continue
        try:
            content = read_text(text[1:])
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--trace-ids {text}: the file cannot be read: {error}") from error
        ids += [line.removesuffix("\r") for line in content.split("\n") if line.removesuffix("\r")]
    if not ids:
        raise click.UsageError("--trace-ids names no id")
    return ids


RUN_COMMANDS = (plan, run)
