"""The command line: `backfill-spark`. One file a group of commands, each thin over the functions of the package."""

from __future__ import annotations

import click

from backfill_spark.cli.command import ProgramGroup
from backfill_spark.cli.deliver import DELIVER_COMMANDS
from backfill_spark.cli.import_traces import import_
from backfill_spark.cli.jobs import JOB_COMMANDS
from backfill_spark.cli.queue import QUEUE_COMMANDS
from backfill_spark.cli.run import RUN_COMMANDS
from backfill_spark.cli.scorers import scorers
from backfill_spark.cli.setup import SETUP_COMMANDS
from backfill_spark.cli.sources import sources

__all__ = ["main"]


@click.group(
    cls=ProgramGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 succeeded, 1 failed or canceled, 2 wrong use or refused, 3 partial, 130/143 interrupted.",
)
@click.version_option(package_name="backfill-spark")
def main() -> None:
    """Apply GenAI scorers to recorded traces: a sample of them, in a time range, exactly once.

    \b
    backfill-spark init
    backfill-spark scorers register my_scorers:is_polite
    backfill-spark scorers start is_polite --sample-rate 0.5
    backfill-spark plan --scorers is_polite --start 2024-06-01 --end 2024-07-01
    backfill-spark run --scorers is_polite --start 2024-06-01 --end 2024-07-01
    """  # noqa: D301 - click wants the control character


sources.add_command(import_)
for command in (*SETUP_COMMANDS, *RUN_COMMANDS, *JOB_COMMANDS, *QUEUE_COMMANDS, *DELIVER_COMMANDS, scorers, sources):
    main.add_command(command)
