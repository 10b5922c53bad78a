"""init, doctor and demo: the first hour."""

from __future__ import annotations

from dataclasses import asdict

import click

from backfill_spark.cli.command import ProgramCommand
from backfill_spark.cli.program import ExitCode, Program


@click.command(cls=ProgramCommand)
@click.pass_obj
def init(program: Program) -> None:
    """Make the tables; those that are there stay as they are."""
    from backfill_spark.display.render import Sheet, Table
    from backfill_spark.schema import ALL_TABLES

    made = []
    for table in ALL_TABLES:
        store = program.stores.small(table)
        was_there = store.exists()
        store.ensure()
        made.append({"table": table.name, "location": store.location.shown, "made": not was_there})
    rows = tuple((str(one["table"]), str(one["location"]), "made" if one["made"] else "was there") for one in made)
    columns = Table(("table", "location", ""), rows, frozenset({"location", ""}))
    program.answer(lambda: Sheet("Tables", tables=(columns,)), lambda: {"tables": made})


@click.command(cls=ProgramCommand)
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Look at Java, Spark, Delta, Python on executors and the tables; exits 2 when something is bad."""
    from backfill_spark.cli.doctor import Finding, examine
    from backfill_spark.display.render import clean

    program: Program = ctx.obj
    findings: list[Finding] = []
    for finding in examine(program):
        findings.append(finding)
        if program.as_json:
            continue
        mark = "ok " if finding.ok else "bad"
        lines = [finding.said, *([f"→ {finding.advice}"] if finding.advice else [])]
        text = clean("\n".join(lines), lines=True).replace("\n", "\n" + " " * 25)
        click.echo(f"{mark}  {finding.what:<20}{text}")
    bad = [finding.what for finding in findings if not finding.ok]
    program.answer_object({"ok": not bad, "findings": [asdict(finding) for finding in findings]})
    if bad:
        program.say(f"Not ready: {', '.join(bad)}.")
        ctx.exit(ExitCode.REFUSED)


@click.command(cls=ProgramCommand)
@click.option("--folder", default="backfill_demo", show_default=True, help="Made anew by each demo.")
@click.option("--traces", type=click.IntRange(min=1), default=20_000, show_default=True, help="Traces of the history.")
@click.option("--days", type=click.IntRange(min=1), default=60, show_default=True, help="Days of the history.")
@click.pass_obj
def demo(program: Program, folder: str, traces: int, days: int) -> None:
    """See a backfill happen on a made-up history, in a folder of its own."""
    from backfill_spark.cli.demo.show import run_demo

    run_demo(program.out, folder=folder, traces=traces, days=days)
    program.answer_object({"folder": folder, "traces": traces, "days": days})


SETUP_COMMANDS = (init, doctor, demo)
