"""sources import: traces of an MLflow server."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from backfill_spark.cli.command import ProgramCommand
from backfill_spark.cli.program import Program
from backfill_spark.errors import BackfillError
from backfill_spark.models import parse_moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backfill_spark.display.render import Sheet
    from backfill_spark.traces.mlflow_server.copying import Imported
    from backfill_spark.traces.mlflow_server.server import Experiment, Server


def _time_span(_ctx: click.Context, _parameter: click.Parameter, value: str) -> timedelta:
    from backfill_spark.settings.sections import parse_duration

    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _moment(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    try:
        return parse_moment(value, None)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no ISO date or time") from error


@click.command("import", cls=ProgramCommand)
@click.argument("address", metavar="http://…|mlflow+postgresql://…|mlflow+sqlite:///…")
@click.option("--experiment", metavar="NAME|ID", help="Experiment to copy; default: the only one that has traces.")
@click.option("--to", metavar="FOLDER", help="Delta table to copy to; default: the traces of the settings.")
@click.option("--start", metavar="TIME", callback=_moment, help="Of the first import; default: the earliest trace.")
@click.option(
    "--lag",
    default="5m",
    show_default=True,
    callback=_time_span,
    help="Traces younger than this wait for the next one.",
)
@click.option(
    "--look-back",
    default="2h",
    show_default=True,
    callback=_time_span,
    help="How long after its start a trace may arrive and still be found.",
)
@click.option(
    "--artifacts", metavar="FOLDER|URI", help="Where the files lie that the database calls mlflow-artifacts:/."
)
@click.option("--scorers", is_flag=True, help="Register the experiment's scorers here, too: judges and built-ins.")
@click.option(
    "--stored-code",
    is_flag=True,
    help="With --scorers, register functions as well: source that the server stores, which jobs execute.",
)
@click.pass_obj
def import_(program: Program, /, address: str, experiment: str | None, to: str | None, **how: Any) -> None:
    """Copy an experiment of an MLflow server into a Delta table of traces; again: only what is new."""
    from backfill_spark.traces.mlflow_server.address import find_experiment, open_server
    from backfill_spark.traces.mlflow_server.copying import Import
    from backfill_spark.traces.mlflow_server.target import target

    server = open_server(address, artifacts=how["artifacts"])
    try:
        found = find_experiment(server, experiment)
        table = target(program.settings, to)
        copy = Import(server, found, table, lag=how["lag"], look_back=how["look_back"])
        with _bar(program, server, copy) as tell:
            copy.tell = tell
            done = copy.run(how["start"])
        registered = _register(program, server, found, with_code=how["stored_code"]) if how["scorers"] else []
    finally:
        server.close()
    folder = str(table.folder)
    program.answer(lambda: _sheet(done, folder, registered), lambda: _object(done, folder) | {"scorers": registered})


def _register(program: Program, server: Server, experiment: Experiment, *, with_code: bool) -> list[dict[str, Any]]:
    """Register the scorers of an experiment under its id; those that cannot be are told with their reason."""
    from backfill_spark.scorers.of_mlflow import of_document

    _ = program.api  # the registry of this invocation's settings
    told: list[dict[str, Any]] = []
    for one in server.scorers(experiment):
        name = str(one["name"])
        try:
            made = of_document(json.loads(one["serialized"]), with_code=with_code)
            version = made.register(name=name, experiment_id=experiment.id).scorer_version
            told.append({"name": name, "version": version, "problem": None})
        except (BackfillError, ValueError) as error:
            told.append({"name": name, "version": None, "problem": str(error)})
    return told


@contextmanager
def _bar(program: Program, server: Server, copy: Any) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many traces are read."""
    from backfill_spark.display.render import console

    shown_on = console(sys.stderr)
    if not shown_on.is_terminal or program.quiet:
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    total = server.count(copy.experiment, copy.position_ms or 0, copy.end_ms)
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("traces {task.speed:,.0f}/s"), TimeRemainingColumn()
    with Progress(*columns, console=shown_on, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda traces: bar.advance(task, traces)


def _sheet(done: Imported, folder: str, registered: list[dict[str, Any]]) -> Sheet:
    from backfill_spark.display.formats import many, moment_text
    from backfill_spark.display.render import Sheet, Table, duration

    left = ", ".join(f"{count:,} {reason}" for reason, count in sorted(done.left.items()))
    # The first second is for connections and the first commit.
    pace = f", {done.traces / done.seconds:,.0f}/s" if done.traces and done.seconds > 5 else ""
    scorers = tuple((s["name"], s["problem"] or f"version {s['version']}") for s in registered)
    notes: tuple[str, ...] = ()
    if done.unfinished:
        notes = ("Traces are still in progress: they, and those that began after them, come with the next import.",)
    return Sheet(
        f"Imported {many(done.traces, 'trace')} of experiment {done.experiment.name} ({done.experiment.id})",
        facts=(
            ("to", folder),
            ("up to", moment_text(done.until)),
            ("late", f"{done.late:,}" if done.late else ""),
            ("left out", left),
            ("took", f"{duration(done.seconds)}{pace}"),
        ),
        tables=(Table(("scorer", "registered as"), scorers),) if scorers else (),
        notes=notes,
    )


def _object(done: Imported, folder: str) -> dict[str, Any]:
    return {
        "experiment_id": done.experiment.id,
        "experiment": done.experiment.name,
        "to": folder,
        "traces": done.traces,
        "late": done.late,
        "left": dict(sorted(done.left.items())),
        "unfinished": done.unfinished,
        "until": None if done.until is None else done.until.isoformat(),
        "seconds": round(done.seconds, 3),
    }
