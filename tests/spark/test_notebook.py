"""One notebook, run by a real kernel: both pages' snippets, judges, other loops and threads, and a stopped session."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.judge_server import serving
from tests.spark import test_seeds as seeds
from tests.spark.test_seeds import traces

SETUP = """
from datetime import datetime, timedelta
from backfill_spark import *
from backfill_spark import BackfillScorerConfig, ScorerSamplingConfig, Settings, backfill_scorers, configure, scorer
from tests.factories import write_traces
from tests.spark.test_seeds import traces

configure(
    tables={{"root": {root!r}}},
    judge={{"model": "local:/model", "endpoints": {{"local": {{"base_url": {url!r}, "api_key_file": {key!r}}}}}}},
    spark={{"spark.master": "local[2]", "spark.driver.memory": "700m", "spark.sql.warehouse.dir": {root!r}}},
)
spark = get_spark()
write_traces(spark, [t | {{"experiment_id": None}} for t in traces()], {root!r} + "/traces")
YOUR_EXPERIMENT_ID = "0"
"""
TYPED = """
import typing
from backfill_spark import make_judge

judge = make_judge(name="fine", instructions="Is {{ outputs }} fine?", feedback_value_type=typing.Literal["yes", "no"])
fine = judge.register().start()

async def backfill():
    return backfill_scorers(scorers=["fine"], trace_ids=["tr-0", "tr-1"])

job_id = await backfill()
"""
THREAD = """
import asyncio
found = await asyncio.to_thread(lambda: [s.name for s in list_scorers()])
assert "fine" in found, found
"""
PATCHED = """
import nest_asyncio2
nest_asyncio2.apply()

async def again():
    return backfill_scorers(scorers=["fine"], trace_ids=["tr-2"])

job_id = asyncio.run(again())
"""
SLOW = """
import os, signal, threading, time
from backfill_spark import scorer  # a cell above has given the name to something else

@scorer
def slow(outputs, trace):
    import os, time
    handle = os.open({ledger!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(handle, (trace.info.trace_id + "\\n").encode())
    os.close(handle)
    time.sleep(0.05)
    return len(outputs)

slow = slow.register().start()
interrupted = []

def interrupt():  # as Jupyter does: the kernel's whole group, in which Spark is, too
    while not os.path.exists({ledger!r}):
        time.sleep(0.05)
    os.killpg(os.getpgid(0), signal.SIGINT)
"""
INTERRUPTED = """
threading.Thread(target=interrupt).start() if not interrupted else None
interrupted.append(True)
job_id = backfill_scorers(scorers=["slow"])
"""
AGAIN = """
print(job_id, list_backfills()[1].state, [s for s in read_assessments(scorers=["slow"], version=1).columns][:2])
print(read_assessments(scorers=["slow"]).count(), read_assessments(scorers=["slow"], version=2).count())
"""
STOPPED = """
job = get_backfill(job_id)
before = job.summary()
spark.stop()
assert before.equals(job.summary())
"""


@pytest.fixture
def cells(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The outputs of each cell, by its name."""
    key = tmp_path / "key"
    key.write_text("no secret", encoding="utf-8")
    # ipykernel shows what child processes write to stderr, but not in a test.
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    with serving(latency_s=0.01) as server:
        sources = {
            "setup": SETUP.format(root=str(tmp_path / "tables"), url=server.url, key=str(key)),
            "custom": seeds.CUSTOM,
            "recent": seeds.RECENT,
            "current": seeds.CURRENT,
            "register": seeds.REGISTER + "registered_scorer = my_scorer",
            "start": seeds.START,
            "update": seeds.UPDATE,
            "stop": seeds.STOP,
            "monitor": "Safety().register(name='safety_monitor').start()",
            "get": seeds.GET,
            "list": seeds.LIST,
            "rate": seeds.RATE + seeds.FILTER,
            "delete": seeds.DELETE,
            "config": seeds.CONFIG,
            "january": "safety_scorer = safety_judge.register(experiment_id='your-experiment-id')\n"
            "response_length = response_length.register(experiment_id='your-experiment-id')\n" + seeds.BACKFILL,
            "typed": TYPED,
            "thread": THREAD,
            "patched": PATCHED,
            "slow": SLOW.format(ledger=str(tmp_path / "ledger")),
            "interrupted": INTERRUPTED,
            "rerun": INTERRUPTED,
            "costs nothing": INTERRUPTED,
            "again": AGAIN,
            **{f"example {i}": source for i, source in enumerate(example(str(tmp_path / "tables")))},
            "stopped": STOPPED,
        }
        v4: Any = nbformat.v4  # without types
        fails = {"interrupted": {"tags": ["raises-exception"]}}
        made = [v4.new_code_cell(source, metadata=fails.get(name, {})) for name, source in sources.items()]
        book = v4.new_notebook(cells=made)
        folder = {"metadata": {"path": str(tmp_path)}}
        client = NotebookClient(book, timeout=300, kernel_name="python3", resources=folder, coalesce_streams=True)
        client.execute(env=os.environ | _SEEN)
    return dict(zip(sources, (cell.outputs for cell in book.cells), strict=True))


EXAMPLE = Path(__file__).parents[2] / "examples" / "backfill.ipynb"
_SEEN = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}
"""The kernel works in a folder of its own, and takes the traces from the tests."""


def example(root: str) -> list[str]:
    """Return the cells of examples/backfill.ipynb, with the tables in another folder."""
    book: Any = nbformat.reads(EXAMPLE.read_text(encoding="utf-8"), as_version=4)  # type: ignore[no-untyped-call]
    return [c.source.replace("./backfill_demo", root) for c in book.cells if c.cell_type == "code"]


def test_both_pages_run_in_a_notebook(cells: dict[str, Any], tmp_path: Path) -> None:
    """Every cell ends well, a backfill's shows how far it is in a few lines, and nothing is written to stderr."""
    told = {name: "".join(o.get("text", "") for o in outputs) for name, outputs in cells.items()}
    for name in ("custom", "recent", "current", "january", "typed", "patched"):
        bars = [line for line in told[name].splitlines() if " pairs (" in line]
        assert 1 <= len(bars) <= 20, (name, told[name])
        assert "(100%)" in bars[-1]
        assert ["display_data", "stream", "display_data"] == [output["output_type"] for output in cells[name]]
        plan, _, answer = cells[name]
        assert "<b>Plan</b>" in plan["data"]["text/html"]
        assert "[95 % interval]" in answer["data"]["text/html"]
        assert "\x1b" not in told[name]
    assert "2 of 2 pairs" in told["typed"]
    assert told["update"] == "Original: 0.5\nUpdated: 0.8\n"
    assert "Name: safety_monitor\nSample rate: 1.0\nFilter: None\n" in told["list"]
    errors = {name: o.text for name, outputs in cells.items() for o in outputs if o.get("name") == "stderr"}
    assert errors == {}
    interrupted_and_run_again(cells, told, tmp_path)
    shown = {name: outputs[-1] for name, outputs in cells.items() if name.startswith("example") and outputs}
    assert len(shown) == 9
    assert all("<table" in o["data"]["text/html"] for o in shown.values())


def interrupted_and_run_again(cells: dict[str, Any], told: dict[str, str], folder: Path) -> None:
    """One sentence names the job and the way on; the same cell scores what is missing, and then nothing."""
    *_, error = cells["interrupted"]
    (sentence,) = error["traceback"]
    (job_id, *_) = re.findall(r"bf-[0-9a-z-]{8,40}", told["interrupted"])
    assert f"resume_backfill({job_id!r})" in sentence
    assert "\n" not in sentence
    assert ["display_data", "stream", "error"] == [o["output_type"] for o in cells["interrupted"]]
    calls = (folder / "ledger").read_text(encoding="utf-8").split()
    assert len(set(calls)) == len(traces())
    assert len(calls) == len(traces()), "calls that were under way have come to their end"
    assert "(100%)" in told["rerun"].splitlines()[-1]
    assert re.search(r">[\d.,]+ \(all\)<", cells["rerun"][-1]["data"]["text/html"]), "the mean"
    (nothing,) = cells["costs nothing"]
    assert "Nothing is due" in nothing["data"]["text/html"]
    assert f"{len(traces())} 0" == told["again"].splitlines()[-1]
