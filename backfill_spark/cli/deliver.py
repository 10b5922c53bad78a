"""deliver: a job's results to where people look at their traces."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from backfill_spark.cli.answers import plain
from backfill_spark.cli.command import ProgramCommand
from backfill_spark.cli.program import ExitCode, Program
from backfill_spark.delivery.result import Versions


@click.command(cls=ProgramCommand)
@click.argument("job_id", metavar="JOB")
@click.option(
    "--to",
    required=True,
    metavar="SINK",
    help="mlflow, phoenix, langfuse, otel or a name of deliver.sinks; an address such as mlflow+http://host:5000; "
    "or table:NAME.",
)
@click.option(
    "--versions",
    type=click.Choice([str(value) for value in Versions]),
    default="keep",
    show_default=True,
    help="What a new scorer version does to what an older one delivered.",
)
@click.option("--read-back/--no-read-back", default=True, help="Ask the sink for what it accepted.")
@click.pass_context
def deliver(ctx: click.Context, job_id: str, to: str, versions: str, read_back: bool) -> None:
    """Deliver a job's results; what was delivered before is not sent again."""
    from backfill_spark.display.delivery import delivery_sheet

    program: Program = ctx.obj
    done = program.api.deliver_backfill(job_id, to=to, versions=versions, read_back=read_back)
    program.answer(
        lambda: delivery_sheet(done),
        lambda: plain(asdict(done)) | {"missing": done.missing, "is_complete": done.is_complete},
    )
    ctx.exit(ExitCode.SUCCEEDED if done.is_complete else ExitCode.PARTIAL)


DELIVER_COMMANDS: tuple[Any, ...] = (deliver,)
