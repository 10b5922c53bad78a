"""The documents agree with the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from backfill_spark.cli import main
from backfill_spark.settings.judges import EndpointSettings, JudgeSettings
from scripts.reference import PAGES

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands(command: click.Command = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command that is no group, with its words."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    for name, inner in command.commands.items():
        yield from commands(inner, (*path, name))


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_up_to_date(name: str) -> None:
    """`make docs` would change nothing."""
    assert PAGES[name]() == text_of(f"docs/{name}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Each link to a file of the repository names one that is there."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))

    dead = [link for link in links if "://" not in link and not (document.parent / link).exists()]

    assert [] == dead


@pytest.mark.parametrize("words", [words for words, _ in commands()])
def test_every_command_is_explained(words: str) -> None:
    """docs/cli.md has a line for the command."""
    assert re.search(rf"^\| `{words}[` ]", text_of("docs/cli.md"), re.MULTILINE)


def test_every_option_is_explained() -> None:
    """docs/cli.md names each option of each command."""
    page = text_of("docs/cli.md")
    options = {o for _, command in commands() for p in command.params for o in (*p.opts, *p.secondary_opts)}

    assert [] == sorted(o for o in options if o.startswith("--") and not re.search(rf"{o}(?![\w-])", page))


def test_every_module_has_its_line() -> None:
    """docs/how-it-works.md says for each module and folder of the package what is changed there."""
    table = text_of("docs/how-it-works.md").partition("## To change X, open Y")[2].partition("\n## ")[0]
    package = ROOT / "backfill_spark"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    modules = {path.name for path in package.glob("*.py")} | folders

    assert [] == sorted(module for module in modules if f"`{module}" not in table)


def test_how_it_works_names_rooms_that_exist() -> None:
    """A module named in docs/how-it-works.md is there."""
    named = set(re.findall(r"`([\w/.]+\.py)`", text_of("docs/how-it-works.md")))

    assert [] == sorted(n for n in named if not (ROOT / "backfill_spark" / n).exists() and not (ROOT / n).exists())


def test_every_judge_setting_is_explained() -> None:
    """docs/judges.md names each setting of judges and endpoints."""
    page = text_of("docs/judges.md")
    names = [f"judge.{name}" for name in JudgeSettings.model_fields] + [f"`{n}`" for n in EndpointSettings.model_fields]

    assert [] == [name for name in names if name not in page]


def test_every_decision_names_modules_that_exist() -> None:
    """docs/decisions.md speaks of modules that are there."""
    named = set(re.findall(r"`([\w/]+\.py)`", text_of("docs/decisions.md")))

    assert [] == sorted(n for n in named if not (ROOT / "backfill_spark" / n).exists())
