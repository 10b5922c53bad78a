"""Commands and the options that all of them share."""

from __future__ import annotations

from typing import Any

import click

from backfill_spark.cli.log import LEVELS, log_on_stderr
from backfill_spark.cli.program import Program


class ProgramCommand(click.Command):
    """A command with the options that all commands share."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(["--config"], metavar="FILE", help="YAML file of settings.", **_kept("config")),
            click.Option(
                ["--set", "values"],
                metavar="KEY=VALUE",
                multiple=True,
                help="Any setting, for example tables.root=./data.",
                **_kept("values"),
            ),
            click.Option(
                ["--json", "as_json"],
                is_flag=True,
                help="One JSON object on stdout, all else on stderr.",
                is_eager=True,
                **_kept("as_json"),
            ),
            click.Option(["--debug"], is_flag=True, help="Show tracebacks.", is_eager=True, **_kept("debug")),
            click.Option(
                ["--log-level"],
                type=click.Choice(LEVELS, case_sensitive=False),
                help="Log on stderr from this level on; default: info, on a terminal warning.",
                **_kept("log_level"),
            ),
            click.Option(["--quiet"], is_flag=True, help="Nothing on stderr but errors.", **_kept("quiet")),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        program: Program = ctx.obj
        with program.only_answers(), log_on_stderr(program.level, quiet=program.quiet):
            return super().invoke(ctx)


class ProgramGroup(click.Group):
    """A group whose commands end in exit codes and messages, never in tracebacks."""

    command_class = ProgramCommand
    group_class = type

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        if parent is None and extra.get("obj") is None:
            extra["obj"] = Program()
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.parent is not None:
            return super().invoke(ctx)
        program: Program = ctx.obj
        with program.guarding():
            return super().invoke(ctx)


def _kept(name: str) -> dict[str, Any]:
    """Keep an option's value in the Program instead of handing it to the command."""

    def keep(ctx: click.Context, _parameter: click.Parameter, value: Any) -> None:
        setattr(ctx.obj, name, parse_values(value) if name == "values" else value)

    return {"expose_value": False, "callback": keep}


def parse_values(texts: tuple[str, ...]) -> dict[str, Any]:
    """Turn `tables.root=./data` and the like into nested settings.

    A value that starts with `[` or `{` is read as YAML. Keys below `spark.` keep their dots.

    Raises:
        click.UsageError: no `=`, an empty key, or YAML that cannot be read.
    """
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise click.UsageError(f"--set {text!r}: write KEY=VALUE, for example --set tables.root=./data")
        if path[0] == "spark":
            # Both `spark.spark.driver.memory` and `spark.driver.memory` say what is meant.
            path = ["spark", ".".join(path[1:] if path[1:2] == ["spark"] else path)]
        place = values
        for part in path[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise click.UsageError(f"--set {text!r}: {part!r} has a value already")
        place[path[-1]] = _parsed(text, value)
    return values


def _parsed(text: str, value: str) -> Any:
    if not value.lstrip().startswith(("[", "{")):
        return value
    import yaml

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise click.UsageError(f"--set {text!r}: not a readable list or mapping") from error
