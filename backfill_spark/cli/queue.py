"""resume, cancel, work and maintain: jobs that stopped, jobs that wait, tables that grew."""

from __future__ import annotations

from typing import Any

import click

from backfill_spark.cli.answers import job_object
from backfill_spark.cli.command import ProgramCommand
from backfill_spark.cli.program import ExitCode, Program, exit_code_of
from backfill_spark.cli.run import show_end


@click.command(cls=ProgramCommand)
@click.argument("job_id", metavar="JOB")
@click.option("--repin", is_flag=True, help="Read the newest version of the source instead of the pinned one.")
@click.option("--max-calls", type=int, metavar="N", help="New limit of judge requests, earlier ones included.")
@click.option("--max-cost-usd", type=float, metavar="USD", help="New limit of their cost, in US dollars.")
@click.pass_context
def resume(ctx: click.Context, /, job_id: str, **options: Any) -> None:
    """Go on with a job that is PARTIAL, was interrupted, or whose runner is dead."""
    program: Program = ctx.obj
    program.api.resume_backfill(job_id, **options)
    ctx.exit(show_end(program, job_id))


@click.command(cls=ProgramCommand)
@click.argument("job_id", metavar="JOB")
@click.pass_obj
def cancel(program: Program, job_id: str) -> None:
    """Ask for a job's end; a live runner stops within seconds, a dead one's job ends now."""
    from backfill_spark.display.views import job_sheet

    job = program.api.cancel_backfill(job_id)
    program.answer(lambda: job_sheet(job), lambda: job_object(job))


@click.command(cls=ProgramCommand)
@click.option("--once/--forever", default=True, help="Stop when nothing waits, or keep looking.")
@click.pass_context
def work(ctx: click.Context, once: bool) -> None:
    """Run jobs that wait: PENDING ones, interrupted ones, and those of dead runners."""
    program: Program = ctx.obj
    jobs = []
    for job in program.api.work(forever=not once):
        jobs.append(job)
        if program.level == "warning":  # from info on the log has said it, and its warnings are said there at any level
            program.say(f"{job.job_id}  {job.state}")
    program.answer_object({"jobs": [job_object(job) for job in jobs]})
    codes = [exit_code_of(job.state) for job in jobs]
    bad = [code for code in codes if code is not ExitCode.SUCCEEDED]
    ctx.exit(max(bad, key=lambda code: code == ExitCode.FAILED) if bad else ExitCode.SUCCEEDED)


@click.command(cls=ProgramCommand)
@click.option("--forget-trace", metavar="ID", help="Delete every row about this trace instead.")
@click.pass_obj
def maintain(program: Program, forget_trace: str | None) -> None:
    """Compact and clean our own tables: OPTIMIZE, VACUUM, old events, expired staged results."""
    from backfill_spark.backfill import maintenance
    from backfill_spark.backfill.tables import Tables
    from backfill_spark.display.render import Sheet

    tables = Tables(program.api.get_spark(program.settings), program.settings)
    if forget_trace is not None:
        deleted = maintenance.forget_trace(tables, forget_trace)
        said = ", ".join(f"{rows} rows of {table}" for table, rows in deleted.items() if rows) or "no rows"
        notes = (
            "Older table versions keep them until VACUUM removes their files, after 7 days by default.",
            "Your traces table is as it was. A job at rest that goes on scores the trace again if its version has it.",
        )
        program.answer(lambda: Sheet(f"Deleted {said}", notes=notes), lambda: {"deleted": deleted})
        return
    done = maintenance.maintain(tables)
    lines = (
        f"compacted and vacuumed: {', '.join(done['optimized']) or 'no tables yet'}",
        f"dropped: staged results of {len(done['staged_jobs'])} jobs, heartbeats of {done['heartbeats']}",
        f"left by dead runners: choices or prompts of {len(done['work_jobs'])} jobs, files of {len(done['file_jobs'])}",
    )
    program.answer(lambda: Sheet("Maintained", notes=lines), lambda: done)


QUEUE_COMMANDS: tuple[Any, ...] = (resume, cancel, work, maintain)
