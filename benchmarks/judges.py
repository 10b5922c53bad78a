"""CPU that an answered judgement takes here and in MLflow, on one local server: `python -m benchmarks.judges`.

The judge is `Safety`, the texts are the same, and the server is a process of its own that is not counted. Each side
runs in a fresh process, turn by turn, and counts its own CPU from the trace's text to the verdict, after a warm-up.
MLflow may lie in another environment: --mlflow-python. `--spark N` asks N prompts through a whole job instead, and
tells the pace of its ask step; `--budgets N` compares a third of N texts' cost as a budget with a third as calls.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

WARM_UP = 50
THREADS = 16
"""Of MLflow's side; 1 to 64 make no difference to its CPU."""


def main() -> int:
    """Run both sides in turns, and print what each took."""
    options = arguments()
    if options.side is not None:
        print(json.dumps(measured(SIDES[options.side](), options.url, options.count)))
        return 0
    if options.spark:
        print(through_spark(options.spark, options.latency))
        return 0
    if options.budgets:
        print("\n".join(budgets(options.budgets, options.latency)))
        return 0
    has_mlflow = can_import(options.mlflow_python)
    if not has_mlflow:
        tell(f"MLflow's side is left out: {options.mlflow_python} has no mlflow. Name one with --mlflow-python.")
    sides = {"here": (sys.executable, options.here)}
    if has_mlflow:
        sides["mlflow"] = (options.mlflow_python, options.theirs)
    took: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    server, url = started_server(options.latency)
    try:
        for number in range(options.rounds):
            for name in sides if number % 2 == 0 else reversed(sides):
                python, count = sides[name]
                took[name].append(in_process(python, name, url, count))
                tell(f"round {number + 1}, {name}: {shown(took[name][-1])}")
    finally:
        server.terminate()
        server.wait()
    print("\n".join(table(took)))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judges", description=__doc__)
    parser.add_argument("--here", type=int, default=20_000, metavar="N", help="judgements of a round here")
    parser.add_argument("--theirs", type=int, default=2_000, metavar="N", help="judgements of a round in MLflow")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.01, help="seconds before each answer of the server")
    parser.add_argument("--spark", type=int, metavar="N", help="judgements of one job on Spark, in place of the rest")
    parser.add_argument("--budgets", type=int, metavar="N", help="N texts under two budgets, in place of the rest")
    parser.add_argument("--mlflow-python", default=sys.executable, metavar="PATH", help="Python that has mlflow")
    parser.add_argument("--side", choices=sorted(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def can_import(python: str) -> bool:
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('mlflow') is None)"
    return subprocess.run([python, "-c", look], check=False).returncode == 0


def started_server(latency: float) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "tests.judge_server", "--latency", str(latency)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, server.stdout.readline().strip()


def in_process(python: str, side: str, url: str, count: int) -> dict[str, Any]:
    """Run one side in a new process; a side that fails ends the benchmark."""
    command = [python, "-m", "benchmarks.judges", "--side", side, "--url", url, "--count", str(count)]
    # MLflow takes its address from the variable, and would look for prices in the network.
    own = {
        "OPENAI_API_KEY": "EMPTY",
        "OPENAI_API_BASE": url,
        "MLFLOW_MODEL_CATALOG_URI": "",
        "MLFLOW_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-2_000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


Side = Callable[[str, Sequence[str]], int]
"""Judges texts at an address; returns how many have a verdict."""


def measured(judge: Side, url: str, count: int) -> dict[str, Any]:
    judge(url, texts("warm-up", WARM_UP))
    given = texts(f"{time.time_ns()}", count)
    wall, cpu = time.perf_counter(), time.process_time()
    answered = judge(url, given)
    return {"answered": answered, "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def texts(mark: str, count: int) -> list[str]:
    """Return answers of some 600 characters, all different."""
    body = "You can return the parcel within thirty days; we pay for it. Print the label that we have sent. " * 6
    return [f"{mark} {number}: {body}" for number in range(count)]


def here() -> Side:
    from backfill_spark import Safety
    from backfill_spark.judges.llm.client import ask
    from backfill_spark.judges.llm.endpoints import Endpoint, Service
    from backfill_spark.judges.llm.journal import Journal
    from backfill_spark.judges.llm.messages import Question
    from backfill_spark.judges.prompt import Prompt, prompt_hash

    safety = Safety(model="local:/tiny")

    def judge(url: str, given: Sequence[str]) -> int:
        def question(text: str) -> Question:
            prompt = safety.render(outputs=text)
            assert isinstance(prompt, Prompt)
            return Question(prompt_hash("local:/tiny", prompt.parameters, prompt), prompt.to_json(), prompt.tokens)

        service = Service(Endpoint(name="local", provider="openai", base_url=url), "tiny")
        batches = ([question(t) for t in given[i : i + 500]] for i in range(0, len(given), 500))
        with tempfile.TemporaryDirectory() as folder:
            answers = [a for batch in ask(batches, service, journal=Journal(folder, "bench", 0)) for a in batch]
        return sum(safety.interpret(a.verdict).value == "yes" for a in answers if a.verdict is not None)

    return judge


@contextlib.contextmanager
def texts_on_spark(count: int, latency: float) -> Iterator[Any]:
    """Yield settings for `count` texts in a table, a session on two cores, and a server for their judges."""
    from pyspark.sql import functions as F

    import backfill_spark as b

    server, url = started_server(latency)
    os.environ["BENCH_KEY"] = "EMPTY"
    with tempfile.TemporaryDirectory() as folder:
        endpoint = {
            "provider": "openai",
            "base_url": url,
            "api_key_env": "BENCH_KEY",
            "max_in_flight": 600,
            "prices": {"tiny": {"input": 1, "output": 1}},
        }
        settings = b.Settings(
            tables={"root": f"{folder}/tables"},
            traces={"path": f"{folder}/traces"},
            spark={"spark.master": "local[2]", "spark.driver.memory": "2g"},
            judge={"model": "local:/tiny", "endpoints": {"local": endpoint}},
        )
        b.configure(settings)
        spark = b.get_spark(settings)
        try:
            spark.range(count).select(
                F.format_string("tr-%d", "id").alias("trace_id"),
                F.lit("2024-06-01T12:00:00").cast("timestamp").alias("request_time"),
                F.lit("What about the parcel?").alias("request"),
                F.concat(F.col("id").cast("string"), F.lit(": " + texts("", 1)[0])).alias("response"),
            ).write.format("delta").save(settings.traces_path)
            yield settings
        finally:
            server.terminate()
            server.wait()
            spark.stop()


def budgets(count: int, latency: float) -> list[str]:
    """Run jobs over a third of `count` texts, by calls and by dollars; return a line for each."""
    import backfill_spark as b

    lines: list[str] = []
    with texts_on_spark(count, latency) as settings:

        def run(name: str, **limit: Any) -> Any:
            judge = b.make_judge(name=name, instructions=f"Is {{{{ outputs }}}} fine, {name}?")
            judge.register().start()
            began = time.perf_counter()
            job = b.get_backfill(b.backfill_scorers(scorers=[name], **limit))
            took = time.perf_counter() - began
            events = b.get_spark().read.format("delta").load(f"{settings.tables.root}/job_events")
            slices = events.where(f"job_id = '{job.job_id}' AND event = 'asked'").count()
            said = ", ".join(f"{key} {value:.6g}" for key, value in limit.items())
            lines.append(f"| {said} | {slices} | {job.calls:,} | {job.cost_usd:.6f} | {took:.1f} |")
            return job.cost_usd

        run("first", max_calls=20)  # the session is warm after it
        lines = ["| limit | slices | requests | USD | wall s |", "|---|---:|---:|---:|---:|"]
        cost = run("by_calls", max_calls=count // 3)
        run("by_cost", max_cost_usd=cost)
    return lines


def through_spark(count: int, latency: float) -> str:
    """Run a job of `count` prompts on two cores; return its pace while it asks."""
    import backfill_spark as b
    from backfill_spark.backfill import judge_steps

    asked = 0.0
    ask_slice = judge_steps.ask_slice

    def timed(*args: Any, **kwargs: Any) -> float:
        nonlocal asked
        began = time.perf_counter()
        try:
            return ask_slice(*args, **kwargs)
        finally:
            asked += time.perf_counter() - began

    judge_steps.ask_slice = timed
    with texts_on_spark(count, latency):
        b.Safety().register().start()
        job = b.get_backfill(b.backfill_scorers(scorers=["safety"]))
    calls = sum(c.calls for c in job.counts.values())
    return f"{calls:,} judgements, {asked:.1f} s in the ask step: {calls / asked:,.0f}/s"


def mlflow() -> Side:
    from mlflow.genai.scorers import Safety

    safety = Safety(model="openai:/tiny")

    def judge(_url: str, given: Sequence[str]) -> int:
        with ThreadPoolExecutor(THREADS) as pool:
            found = pool.map(lambda text: safety(outputs=text), given)
            return sum(str(feedback.value) == "yes" for feedback in found)

    return judge


SIDES: dict[str, Callable[[], Side]] = {"here": here, "mlflow": mlflow}


def shown(one: dict[str, Any]) -> str:
    each, pace = one["cpu_s"] / one["answered"] * 1e3, one["answered"] / one["wall_s"]
    return f"{one['answered']:,} answered, {each:.3f} ms CPU each, {pace:,.0f}/s"


def table(took: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return a line for each side, and the ratio of the medians."""
    lines = [
        "| side | answered a round | CPU ms a judgement (median, least to most) | judgements/CPU s | judgements/s |"
    ]
    lines.append("|---|---:|---:|---:|---:|")
    middle = {}
    for name, rounds in took.items():
        each = sorted(r["cpu_s"] / r["answered"] * 1e3 for r in rounds)
        middle[name] = statistics.median(each)
        pace = statistics.median(r["answered"] / r["wall_s"] for r in rounds)
        spread = f"{middle[name]:.3f} ({each[0]:.3f} to {each[-1]:.3f})"
        lines.append(f"| {name} | {rounds[0]['answered']:,} | {spread} | {1e3 / middle[name]:,.0f} | {pace:,.0f} |")
    if "mlflow" in middle:
        lines.append(f"\nHere a judgement takes 1/{middle['mlflow'] / middle['here']:.1f} of MLflow's CPU.")
        lines.append("Promised: at most 1/4.")
    return lines


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    sys.exit(main())
