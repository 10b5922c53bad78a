"""status, list and wait: ask about backfill jobs."""

from __future__ import annotations

from typing import Any

import click

from backfill_spark.cli.answers import job_object
from backfill_spark.cli.command import ProgramCommand
from backfill_spark.cli.program import Program
from backfill_spark.cli.run import show_end
from backfill_spark.models import JobState


@click.command(cls=ProgramCommand)
@click.argument("job_id", metavar="JOB")
@click.option("--follow", is_flag=True, help="Show how far it is until it rests, as `wait` does.")
@click.pass_obj
def status(program: Program, job_id: str, follow: bool) -> None:
    """Show a job, with its summary once it rests; exits 0 when it exists, whatever its state."""
    if follow:
        program.api.wait_for_backfill(job_id)
    show_end(program, job_id, counts=True)


@click.command("list", cls=ProgramCommand)
@click.option("--experiment-id", metavar="ID", help="Jobs of this experiment only.")
@click.option("--state", type=click.Choice(list(JobState), case_sensitive=False), help="Jobs in this state.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most this many.")
@click.pass_obj
def list_jobs(program: Program, experiment_id: str | None, state: str | None, limit: int) -> None:
    """List jobs, newest first."""
    from backfill_spark.display.views import jobs_sheet

    wanted = None if state is None else JobState(state)
    jobs = program.api.list_backfills(experiment_id=experiment_id, state=wanted, limit=limit)
    program.answer(lambda: jobs_sheet(jobs), lambda: {"jobs": [job_object(job) for job in jobs]})


@click.command(cls=ProgramCommand)
@click.argument("job_id", metavar="JOB")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Exit with 124 after this long.")
@click.pass_context
def wait(ctx: click.Context, job_id: str, timeout: float | None) -> None:
    """Wait for a job's end; exits as `run` would have."""
    program: Program = ctx.obj
    program.api.wait_for_backfill(job_id, timeout=timeout)
    ctx.exit(show_end(program, job_id))


JOB_COMMANDS: tuple[Any, ...] = (status, list_jobs, wait)
