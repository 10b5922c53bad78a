"""The digest of a scorer is one, wherever its source runs: as a script, a module, or a notebook's cells."""

from __future__ import annotations

import ast
import importlib
import json
import linecache
import subprocess
import sys
from pathlib import Path

import pytest

from backfill_spark import Scorer

CLASSES = '''\
from __future__ import annotations

import collections
import dataclasses
import enum
from backfill_spark import scorer

LIMIT = 3


class Base:
    n = 1


@scorer
def a_class(outputs):
    class Found:
        n = 1

    return len(outputs) * Found.n


@scorer
def an_enum(outputs):
    class Level(enum.IntEnum):
        LOW = 1
        HIGH = LIMIT

    return Level.HIGH.value


@scorer
def a_dataclass(outputs: str) -> int:
    @dataclasses.dataclass(frozen=True)
    class Size:
        x: int = LIMIT

        def total(self) -> int:
            return self.x + len(outputs)

    return Size().total()


@scorer
def classes_in_classes(outputs):
    class Outer(Base):
        class Inner:
            words: list[str] = [word for word in ("a", "b")]

    return len(Outer.Inner.words)


@scorer
def functions(outputs):
    def inner(a: int = 2, *, b: str = "x") -> int:
        return sum(i for i in range(a))

    pair = collections.namedtuple("pair", "x y")
    if (n := len(outputs)) > LIMIT:
        return n
    return pair(inner(), (lambda q: q + 1)(2)).x


@scorer
def its_module(outputs):
    import logging

    logging.getLogger(__name__).debug("seen")
    return 1


@scorer
async def an_async_class(outputs):
    class Meter:
        """Words about it."""

        kind: str = "x"

        async def go(self):
            return [c for c in outputs]

    return len(await Meter().go())


if __name__ == "__main__":
    import json

    print(json.dumps({k: v.digest for k, v in globals().items() if hasattr(v, "digest")}))
'''
PLAIN = '''
import json
import re
from backfill_spark import Feedback, scorer

LIMIT = 5
WORDS = {"good": 1, "bad": -1}
PATTERN = re.compile("a+", re.I)

def helper(text, *, more=LIMIT):
    """Not part of it."""
    return len(text) + more

class Counter:
    weight = 2

    def count(self, text):
        return helper(text) * self.weight

@scorer
def plain(outputs):
    return len(outputs)

@scorer(name="other", timeout=3)
def with_helpers(inputs, outputs):
    found = [word for word in outputs.split() if word in WORDS]
    return Feedback(name="n", value=helper(outputs) + len(found), rationale=json.dumps(found))

@scorer
async def awaits(outputs: str = "x") -> bool:
    return bool(PATTERN.search(outputs)) and (lambda n: n > LIMIT)(Counter().count(outputs))
'''
PINNED = {
    "plain": "84085502db86215db5c4add71a9cbfb995c8e702b69ef4335c4d0b6b41a00766",
    "with_helpers": "d608cb4fcc4027fdafaf4a6ab526ca83b7008028c15056e8ae7ae78e40b523ae",
    "awaits": "91262f8a1132cfe3d23b6f09397322521d4edd55073a9ddd3f02469a94cefe57",
}


def digests_of_module(text: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    return {k: v.digest for k, v in vars(importlib.import_module(name)).items() if isinstance(v, Scorer)}


def digests_of_cells(cells: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """As IPython runs them: statement by statement in `__main__`, with the future statements of earlier ones."""
    space, futures = {"__name__": "__main__", "__annotations__": {}}, 0
    for number, cell in enumerate(cells):
        file = f"<ipython-input-{number}-{id(space)}>"
        monkeypatch.setitem(linecache.cache, file, (len(cell), None, cell.splitlines(keepends=True), file))
        for node in ast.parse(cell).body:
            code = compile(ast.Module([node], []), file, "exec", flags=futures, dont_inherit=True)
            futures |= code.co_flags & 0x1FF0000
            exec(code, space)
    return {k: v.digest for k, v in space.items() if isinstance(v, Scorer)}


def test_a_script_a_module_and_a_notebook_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes, enums, dataclasses, nested functions and annotations in a scorer's body change nothing."""
    module = digests_of_module(CLASSES, "classes_of_scorers", tmp_path, monkeypatch)
    done = subprocess.run(
        [sys.executable, "classes_of_scorers.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    source = CLASSES.partition("if __name__")[0]
    first, *rest = source.split("@scorer\n")

    assert 7 == len(module)
    assert module == json.loads(done.stdout)
    assert module == digests_of_cells([source], monkeypatch)
    assert module == digests_of_cells([first, *("@scorer\n" + cell for cell in rest)], monkeypatch)


def test_digests_stay_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another digest of the same source makes every pair due, and paid for, again."""
    assert PINNED == digests_of_module(PLAIN, "plain_scorers", tmp_path, monkeypatch)
