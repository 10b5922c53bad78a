"""A model is probed from wherever a notebook may call: inside a running loop, a callback, a thread, a patched loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from backfill_spark.judges.llm.client import probe
from backfill_spark.judges.llm.endpoints import Endpoint, Service
from tests.judge_server import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.judge_server import JudgeServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setenv("JUDGE_KEY", "k")
    with serving() as started:
        yield started


def problem(url: str) -> str | None:
    """Return what the probe finds; it needs a loop to ask."""
    return probe(
        Service(Endpoint(name="local", provider="openai", base_url=url, api_key_env="JUDGE_KEY"), "tiny")
    ).problem


async def in_a_coroutine(url: str) -> Any:
    return problem(url)


async def in_a_callback(url: str) -> Any:
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: done.set_result(problem(url)))
    return await done


async def in_a_thread_of_the_loop(url: str) -> Any:
    return await asyncio.to_thread(problem, url)


@pytest.mark.parametrize("cell", [in_a_coroutine, in_a_callback, in_a_thread_of_the_loop])
def test_a_probe_works_inside_a_running_loop(server: JudgeServer, cell: Callable[[str], Any]) -> None:
    """A notebook's cell is run by a loop."""
    assert asyncio.run(cell(server.url)) is None


def test_a_probe_works_in_a_thread_that_has_a_running_loop(server: JudgeServer) -> None:
    """As that of a web application that starts a backfill."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(in_a_coroutine(server.url))))
    thread.start()
    thread.join()
    assert found == [None]


def test_a_probe_works_where_loops_are_patched(server: JudgeServer) -> None:
    """The patch is for the whole process, so it has one of its own."""
    code = (
        "import nest_asyncio2; nest_asyncio2.apply()\n"
        "import asyncio\n"
        "from tests.unit.test_running_loops import in_a_coroutine\n"
        f"print(asyncio.run(in_a_coroutine({server.url!r})))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("None\n", "")
