"""scorers …: the lifecycle of registered scorers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from backfill_spark.cli.answers import scorer_object
from backfill_spark.cli.command import ProgramCommand, ProgramGroup
from backfill_spark.cli.program import Program
from backfill_spark.models import ScorerSamplingConfig
from backfill_spark.scorers import validation
from backfill_spark.settings.locations import local_file
from backfill_spark.traces.filters import compile_filter

_name = click.argument("name")
_experiment = click.option("--experiment-id", metavar="ID", help="Experiment of the scorer.")
_rate = click.option(
    "--sample-rate", "--rate", type=float, metavar="RATE", help="Share of traces in [0, 1]; default: 1 or what is kept."
)
_filter = click.option("--filter", "filter_string", metavar="TEXT", help='MLflow filter; "" clears it.')


@click.group(cls=ProgramGroup)
def scorers() -> None:
    """Register, start, update, stop, show and delete scorers."""


@scorers.command("list", cls=ProgramCommand)
@_experiment
@click.pass_obj
def list_(program: Program, experiment_id: str | None) -> None:
    """List registered scorers, stopped ones included."""
    from backfill_spark.display.views import scorers_sheet

    found = program.api.list_scorers(experiment_id=experiment_id)
    program.answer(lambda: scorers_sheet(found), lambda: {"scorers": [scorer_object(s) for s in found]})


@scorers.command(cls=ProgramCommand)
@_name
@click.option("--version", type=int, help="This version; default: the latest.")
@_experiment
@click.pass_obj
def show(program: Program, name: str, version: int | None, experiment_id: str | None) -> None:
    """Show one scorer with its source; loads no code."""
    _show(program, program.api.get_scorer(name=name, version=version, experiment_id=experiment_id), with_source=True)


@scorers.command(cls=ProgramCommand)
@_name
@_experiment
@click.pass_obj
def versions(program: Program, name: str, experiment_id: str | None) -> None:
    """List the versions of a scorer, oldest first."""
    from backfill_spark.display.views import scorers_sheet

    found = program.api.list_scorer_versions(name=name, experiment_id=experiment_id)
    program.answer(
        lambda: scorers_sheet(found, title=f"Versions of {name}"),
        lambda: {"name": name, "versions": [scorer_object(s) for s in found]},
    )


@scorers.command(cls=ProgramCommand)
@click.argument("place", metavar="MODULE:NAME|FILE.py:NAME")
@click.option("--name", help="Name to register under; default: the scorer's own.")
@_experiment
@click.pass_obj
def register(program: Program, place: str, name: str | None, experiment_id: str | None) -> None:
    """Register a scorer from a module, also one in this folder, a file, or a built-in (backfill_spark:PIIDetection)."""
    found = import_scorer(place)
    if validation.is_of_mlflow(found):
        from backfill_spark.scorers.of_mlflow import of_mlflow

        found = of_mlflow(found)
    _show(program, found.register(name=name, experiment_id=experiment_id))


@scorers.command(cls=ProgramCommand)
@_name
@_rate
@_filter
@_experiment
@click.pass_obj
def start(program: Program, /, name: str, sample_rate: float | None, filter_string: str | None, **place: Any) -> None:
    """Start a registered scorer at a rate."""
    _change(program, name, "start", ScorerSamplingConfig(sample_rate, filter_string), **place)


@scorers.command(cls=ProgramCommand)
@_name
@_rate
@_filter
@_experiment
@click.pass_obj
def update(program: Program, /, name: str, sample_rate: float | None, filter_string: str | None, **place: Any) -> None:
    """Change a scorer's rate or filter; what is not given stays."""
    if sample_rate is None and filter_string is None:
        raise click.UsageError("nothing to update: give --sample-rate or --filter")
    _change(program, name, "update", ScorerSamplingConfig(sample_rate, filter_string), **place)


@scorers.command(cls=ProgramCommand)
@_name
@_experiment
@click.pass_obj
def stop(program: Program, name: str, experiment_id: str | None) -> None:
    """Stop a scorer: rate 0; registration and filter stay."""
    found = program.api.get_scorer(name=name, experiment_id=experiment_id)
    _show(program, found.stop(experiment_id=experiment_id))


@scorers.command(cls=ProgramCommand)
@_name
@click.option("--version", type=int, help="This version only; default: all of them.")
@_experiment
@click.pass_obj
def delete(program: Program, name: str, version: int | None, experiment_id: str | None) -> None:
    """Delete a scorer; its results stay."""
    from backfill_spark.display.render import Sheet

    program.api.delete_scorer(name=name, version=version, experiment_id=experiment_id)
    what = f"scorer {name}" if version is None else f"version {version} of scorer {name}"
    program.answer(lambda: Sheet(f"Deleted {what}."), lambda: {"deleted": name, "version": version})


def import_scorer(place: str) -> Any:
    """Return the scorer at `MODULE:NAME` or `FILE.py:NAME`; a built-in's class is called.

    Modules are looked for in the current folder first, a file's in the file's folder.

    Raises:
        click.ClickException: no MODULE:NAME, a module that does not import, or no such scorer in it.
    """
    module_name, colon, attribute = place.rpartition(":")
    if not (module_name and colon and attribute):
        raise click.UsageError(f"{place!r}: write MODULE:NAME, for example my_scorers:is_polite")
    folder, file = str(Path.cwd()), None
    if module_name.endswith(".py") or "/" in module_name:
        file = local_file(module_name).absolute()
        if not file.is_file() or file.suffix != ".py":
            raise click.UsageError(
                f"{place!r}: there is no Python file {str(file)!r}; write FILE.py:NAME or MODULE:NAME"
            )
        folder, module_name = str(file.parent), file.stem
    if folder not in sys.path:
        sys.path.insert(0, folder)
    found: Any = _attempt(f"The module {module_name!r} does not import", lambda: importlib.import_module(module_name))
    source = getattr(found, "__file__", None)
    if file is not None and not (source and file.samefile(source)):
        raise click.ClickException(f"{module_name!r} is another module, {source}; give {str(file)!r} another name.")
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = f"It has the scorers {_scorers_in(found)}."
            raise click.ClickException(f"{module_name!r} has no {attribute!r}. {known}")
        found = getattr(found, part)
    if isinstance(found, type):
        made: Callable[[], Any] = found
        found = _attempt(f"{place!r} cannot be made without arguments; make it in a module of yours", made)
    if not callable(getattr(found, "register", None)):
        kind = type(found).__name__
        raise click.ClickException(f"{place!r} is no scorer but a {kind}: put @scorer above the function.")
    return found


def _attempt(what: str, step: Callable[[], Any]) -> Any:
    """Run code of the user's; whatever it raises is told in a line (and as the cause, for --debug)."""
    try:
        return step()
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0][:400]
        raise click.ClickException(f"{what}: {type(error).__name__}: {said}") from error


def _scorers_in(module: Any) -> list[str]:
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, type) and callable(getattr(value, "register", None))
    )


def _change(program: Program, name: str, verb: str, config: ScorerSamplingConfig, *, experiment_id: str | None) -> None:
    # What is wrong in itself is refused before Spark starts.
    config = (validation.checked_start if verb == "start" else validation.checked_config)(config)
    compile_filter(config.filter_string, program.settings.filters.dialect)
    found = program.api.get_scorer(name=name, experiment_id=experiment_id)
    _show(program, getattr(found, verb)(experiment_id=experiment_id, sampling_config=config))


def _show(program: Program, scorer: Any, *, with_source: bool = False) -> None:
    from backfill_spark.display.views import scorer_sheet

    program.answer(
        lambda: scorer_sheet(scorer, with_source=with_source), lambda: scorer_object(scorer, with_source=with_source)
    )
