"""sources: look at traces before anything is scored."""

from __future__ import annotations

from typing import Any

import click

from backfill_spark.cli.answers import plain
from backfill_spark.cli.command import ProgramCommand, ProgramGroup
from backfill_spark.cli.program import Program


@click.group(cls=ProgramGroup)
def sources() -> None:
    """Look at where traces come from, and import them."""


@sources.command(cls=ProgramCommand)
@click.argument("traces", required=False, metavar="[PATH|TABLE]")
@click.pass_obj
def inspect(program: Program, traces: str | None) -> None:
    """Show of which shape traces are, how their columns are read, how many there are, and what a scorer sees.

    Default: the traces of the settings. Nothing is scored or written.
    """
    from backfill_spark.display.sources import inspection_sheet

    found = program.api.inspect_traces(traces)
    program.answer(lambda: inspection_sheet(found), lambda: inspection_object(found))


def inspection_object(found: Any) -> dict[str, Any]:
    names = ("source", "source_kind", "source_version", "shape", "title", "why", "mapping", "absent", "counts")
    body = {name: plain(getattr(found, name)) for name in (*names, "first_time", "last_time", "experiments", "notes")}
    body["samples"] = [
        {k: plain(v.to_dict() if hasattr(v, "info") else v) for k, v in sample.items()} for sample in found.samples
    ]
    return body
