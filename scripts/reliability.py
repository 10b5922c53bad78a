"""Write docs/reliability.md from a run of the fault tests: `python -m scripts.reliability build/faults.xml`.

Only tests that passed in that run are printed; what has no passing test is listed as not shown.
"""

from __future__ import annotations

import ast
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
TESTS = ROOT / "tests" / "faults"
WANTED = range(1, 47)
"""Numbers of the faults that a backfill must survive."""
ELSEWHERE = {
    42: "executors with another Python, another version, without a module or a key: tests/unit/test_preflight.py, "
    "for keys tests/spark/test_judges.py; all before any call",
    43: "what an endpoint of judges may answer: tests/unit/test_llm_client.py and test_llm_retry.py",
}

HEAD = """# Reliability

What happens to a job when something breaks, as shown by the tests under `tests/faults`. Each line is a test that
passed when it was last run for this page, which `make reliability` writes from their results: a line without a
passing test cannot stand here.

After each of them a checker reads the scorer's own list of calls, the tables and the events, and finds no broken
promise:

- **P1** A pair (experiment, trace, scorer, scorer version) has one result set.
- **P2** Calls beyond one a pair are within the budget that the test gives: the pairs in flight when something broke.
- **P3** A pair whose result was staged is not called again.
- **P4** The counts of a job add up for each scorer.
- **P5** A state that is final does not change, and nothing is written to `assessments` after it.

`F` numbers name the faults.
"""


@dataclass(frozen=True)
class Shown:
    """One test that passed."""

    faults: tuple[int, ...]
    title: str
    outcome: str
    cases: int


def main(*reports: str) -> None:
    """Write the page from JUnit reports; what a later one says of a test counts."""
    passed: dict[tuple[str, str], int] = {}
    for report in reports:
        passed |= _cases(report)
    lines, found = [HEAD], set()
    for file in sorted(TESTS.glob("test_*.py")):
        title, rows = _read(file, passed)
        if rows:
            lines += [f"## {title}", "", "| faults | what is done | outcome | cases |", "|---|---|---|---:|"]
            lines += [f"| {_names(r.faults)} | {r.title} | {r.outcome} | {r.cases} |" for r in rows]
            lines.append("")
        found |= {n for r in rows for n in r.faults}
    missing = [n for n in WANTED if n not in found]
    lines += ["## Shown elsewhere, or not", ""]
    lines += [f"- F{n:02}: {ELSEWHERE.get(n, 'no test passed in the last run')}." for n in missing]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(found)} faults shown, {len(missing)} not")


def _cases(report: str) -> dict[tuple[str, str], int]:
    """Count the cases of each test that passed; below zero when one did not."""
    found: dict[tuple[str, str], int] = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        key = case.get("classname", "").rsplit(".", 1)[-1], case.get("name", "").split("[")[0]
        is_bad = any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
        found[key] = -1_000 if is_bad else found.get(key, 0) + 1
    return found


def _read(file: Path, passed: dict[tuple[str, str], int]) -> tuple[str, list[Shown]]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    head = (ast.get_docstring(tree) or file.stem).split("\n", 1)[0]
    title = head.split(": ", 1)[-1].rstrip(".").capitalize()
    return title, list(_shown(tree, file.stem, passed))


def _shown(tree: ast.Module, module: str, passed: dict[tuple[str, str], int]) -> Iterator[Shown]:
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or passed.get((module, node.name), 0) < 1:
            continue
        numbers = re.findall(r"(?<=_)f(\d\d)(?=_)", node.name)
        faults = range(int(numbers[0]), int(numbers[-1]) + 1) if numbers else ()
        words = re.sub(r"^test_(f\d\d_)*", "", node.name).replace("_", " ")
        outcome = " ".join((ast.get_docstring(node) or "").split())
        yield Shown(tuple(faults), words, outcome, passed[module, node.name])


def _names(faults: tuple[int, ...]) -> str:
    return f"F{faults[0]:02}-F{faults[-1]:02}" if len(faults) > 1 else "".join(f"F{n:02}" for n in faults)


if __name__ == "__main__":
    main(*sys.argv[1:])
