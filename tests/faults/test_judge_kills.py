"""Runners of judges are killed in the middle of a slice; what was paid is read from the server's own log."""

from __future__ import annotations

import contextlib
import json
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import xxhash

from backfill_spark import LeaseLostError
from backfill_spark.backfill import runner as backfill_runner
from backfill_spark.backfill import turns
from backfill_spark.jobs.lease import Lease
from backfill_spark.selection.frozen import WorkStore
from tests.factories import some_traces, write_traces
from tests.faults.world import World
from tests.faulty_store import Fault, FaultPlan, Kind, Operation, faulty
from tests.judge_server import JudgeServer, serving
from tests.nemesis import Runner, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.kills, pytest.mark.timeout(1500)]
IN_FLIGHT = 64
TASKS = 2
"""Tasks that ask, one a slot: `max_in_flight` is what each has open."""
SPOOLED_S = 5.0
"""Answers older than this are in the spool."""
WRITING_S = 1.0
"""An answer's way to the client, and the writing of the spool's last file and of the next: some 10 ms each when
nothing else runs, ten times as much beside the kill of a JVM; the pause of five seconds begins after a write."""
PARTIAL = 3
"""Exit code."""
START_S = 300.0
LEASE_S = 8.0
PRICES = {"*": {"input": 1.0, "output": 2.0}}
KEY_ENV, KEY = "FAULT_TESTS_JUDGE_KEY", "sk-of-the-fault-tests"


@dataclass(frozen=True)
class Sent:
    """A request that came to the server."""

    prompt: str
    """Digest of its messages."""
    at: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class Kill:
    """When a runner's family was told to die, and when nobody of it was left."""

    began: float
    ended: float


@dataclass
class Judged:
    """A world with one judge, and the server that it asks."""

    world: World
    server: JudgeServer
    log: Path
    runners: int = 0

    def start(self, action: str, *words: str, failpoint: str = "") -> Runner:
        """Start the next runner."""
        self.runners += 1
        return self.world.runner(action, *words, failpoint=failpoint, log=f"runner-{self.runners}")

    def kill(self, runner: Runner, *, after: int) -> Kill:
        """Kill a runner and all that it started when the server has seen `after` more requests."""
        aim = self.server.log.requests + after
        wait_until(lambda: self.server.log.requests >= aim or runner.process.poll() is not None, START_S, "requests")
        assert runner.process.poll() is None, runner.said()[-4000:]
        began = time.time()
        runner.kill()
        return Kill(began, time.time())

    def sent(self) -> list[Sent]:
        """Return the requests for pairs, oldest first; each runner sent one more before, to see that all is well."""
        lines = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        probe = lines[0]["prompt"]
        assert self.runners == sum(line["prompt"] == probe for line in lines)
        return [Sent(line["prompt"], line["at"]) for line in lines if line["prompt"] != probe]


@pytest.fixture
def judged(
    make_world: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Judged]]:
    """Make a world of traces with different texts, and a server that takes `latency_s` for each answer."""
    import backfill_spark
    from backfill_spark import Guidelines
    from backfill_spark.settings.judges import JudgeSettings

    monkeypatch.setenv(KEY_ENV, KEY)
    with contextlib.ExitStack() as stack:

        def make(
            *,
            traces: int,
            response: Callable[[int], str] = lambda i: f"Your parcel {i} arrives on Friday.",
            latency_s: float = 0.0,
            key: str | None = KEY,
            **limits: float,
        ) -> Judged:
            log = tmp_path / "requests.jsonl"
            server = stack.enter_context(serving(latency_s=latency_s, key=key, keeps_bodies=False, log_file=str(log)))
            world = make_world(**({"lease_s": LEASE_S, "heartbeat_s": 1} | limits))
            endpoint = {
                "base_url": server.url,
                "api_key_env": None if key is None else KEY_ENV,
                "max_in_flight": IN_FLIGHT // TASKS,
                "prices": PRICES,
            }
            judge = JudgeSettings.model_validate({"model": "local:/model", "endpoints": {"local": endpoint}})
            world.settings = world.settings.model_copy(update={"judge": judge})
            backfill_spark.configure(world.settings)
            rows = some_traces(traces, response=response, spans=[])
            write_traces(world.spark, rows, world.settings.traces_path, files=2)
            world.ids = [r["trace_id"] for r in rows]
            Guidelines(name="polite", guidelines="The answer is polite.").register().start()
            return Judged(world, server, log)

        yield make


def results(world: World) -> list[Any]:
    """Return the judge's rows."""
    rows = world.spark.read.format("delta").load(f"{world.settings.tables.root}/assessments")
    return rows.where("scorer_name = 'polite'").select("trace_id", "draw", "value", "cached", "attempts").collect()


# --- what a kill costs


def at_stake(sent: list[Sent], kill: Kill, latency_s: float, *, back: float) -> set[Sent]:
    """Return the requests that had no answer at a kill, or one in the last `back` seconds before it."""
    return {s for s in sent if s.at <= kill.ended and s.at + latency_s >= kill.began - back}


def paid_twice(sent: list[Sent], kills: list[Kill], latency_s: float) -> tuple[list[Sent], list[Sent]]:
    """Return the requests whose prompt was asked again, and those of them that no kill excuses."""
    by_prompt: dict[str, list[Sent]] = defaultdict(list)
    for one in sent:
        by_prompt[one.prompt].append(one)
    again, unexcused = [], []
    stakes = [at_stake(sent, kill, latency_s, back=SPOOLED_S + WRITING_S) for kill in kills]
    for first, second in (pair for many in by_prompt.values() for pair in pairwise(many)):
        again.append(first)
        # Only the first kill after a request can have cost its answer: a resume reads the spool before it asks.
        kill, stake = next(((k, s) for k, s in zip(kills, stakes, strict=True) if first.at <= k.ended), (None, set()))
        if kill is None or second.at <= kill.ended or first not in stake:
            unexcused.append(first)
    return again, unexcused


def test_a_kill_costs_what_was_in_flight_and_the_last_seconds(judged: Callable[..., Judged]) -> None:
    """Three kills of the whole family, 64 calls in flight each time: no other answer is paid twice."""
    latency_s, traces = 1.0, 3000
    here = judged(traces=traces, latency_s=latency_s)
    kills = []
    for action in (("run", "polite"), ("resume",), ("resume",)):
        with here.start(*action) as runner:
            # Twelve seconds and more: two files of the spool.
            kills.append(here.kill(runner, after=800))
    with here.start("resume") as runner:
        assert 0 == runner.wait(2 * START_S)

    sent = here.sent()
    again, unexcused = paid_twice(sent, kills, latency_s)
    in_flight = [len(at_stake(sent, k, latency_s, back=0)) for k in kills]
    recent = [len(at_stake(sent, k, latency_s, back=SPOOLED_S)) for k in kills]
    print(f"figures: {len(sent)} requests, {len(again)} again, {in_flight=}, with last 5 s {recent}")
    assert [] == unexcused
    assert IN_FLIGHT == here.server.log.most_in_flight
    # Not idle between two answers: the kills came in the middle.
    assert min(in_flight) > IN_FLIGHT / 2
    assert len(again) <= sum(recent)
    assert traces == len({s.prompt for s in sent})

    job = here.world.newest()
    counts = job.counts["polite"]
    assert ("SUCCEEDED", traces, traces) == (job.state, counts.scored, counts.calls)
    rows = results(here.world)
    assert set(here.world.ids) == {r["trace_id"] for r in rows}
    assert {('"yes"', False, 1)} == {(r["value"], r["cached"], r["attempts"]) for r in rows}
    assert [] == here.world.broken(expected=here.world.pairs("polite"))


def test_two_jobs_that_start_at_the_same_moment_ask_each_question_once(
    judged: Callable[..., Judged], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has planned all of them: one asks, and the other takes the answers from the table."""
    here = judged(traces=40, key=None, lease_s=240, heartbeat_s=80)
    together, run_job = threading.Barrier(2, timeout=120), backfill_runner.run_job

    def once_both_are_planned(*args: Any, **options: Any) -> Any:
        together.wait()
        return run_job(*args, **options)

    monkeypatch.setattr(turns, "POLL_S", 0.1)
    monkeypatch.setattr(backfill_runner, "run_job", once_both_are_planned)
    with here.world.meanwhile(lambda: here.world.run("polite")) as first:
        second = here.world.run("polite")
    assert first.error is None
    counts = [here.world.job(job_id).counts["polite"] for job_id in (first.result, second)]
    assert [(c.due, c.scored) for c in counts] == [(40, 40)] * 2
    assert sum(c.calls for c in counts) == 40
    # One for each, and two probes.
    assert here.server.log.requests <= 40 + 2
    assert [] == here.world.broken(expected=here.world.pairs("polite"))


def test_prompts_of_a_runner_that_was_replaced_do_not_land(
    judged: Callable[..., Judged], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was held while it wrote them; the one that took its job over has asked meanwhile, each pair once."""
    # It does not learn of the other one by a heartbeat, which would stop its tasks: the fence alone is left.
    monkeypatch.setattr(Lease, "_renew", lambda _: None)
    # Without a key: the workers of this session were started before there was one.
    here = judged(traces=30, key=None)
    plan = FaultPlan(Fault("work", Operation.APPEND, Kind.HOLD))
    with faulty(plan), here.world.meanwhile(lambda: here.world.run("polite")) as job:
        assert plan.held.wait(120)
        with here.start("resume", f"skew={2 * LEASE_S}") as runner:
            assert 0 == runner.wait(START_S), runner.said()[-4000:]
        plan.go.set()
    assert isinstance(job.error, LeaseLostError)
    done = here.world.newest()
    assert ("SUCCEEDED", 30) == (done.state, done.counts["polite"].scored)
    work = here.world.spark.read.format("delta").load(f"{here.world.settings.tables.root}/work")
    assert 0 == work.count()
    # One for each, and two probes.
    assert here.server.log.requests <= 30 + 2
    assert [] == here.world.broken(expected=here.world.pairs("polite"))


def test_prompts_do_not_land_between_another_runners_look_for_some_and_its_own(
    judged: Callable[..., Judged], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner was stopped right before it wrote them, and is woken just then: each pair is asked once."""
    # No heartbeat is due before it writes: the wall that the other one has put up is all that stops it.
    here = judged(traces=30, key=None, lease_s=240, heartbeat_s=80)
    look = WorkStore.has_prompts
    with here.start("run", "polite", failpoint="before_prompts:stop") as runner:
        runner.wait_for_text("failpoint before_prompts: stop", START_S)
        runner.stop()

        def look_and_wake(work: WorkStore, job_id: str) -> bool:
            found = look(work, job_id)
            runner.wake()
            assert 0 != runner.wait(START_S)
            return found

        monkeypatch.setattr(WorkStore, "has_prompts", look_and_wake)
        job = here.world.resume(here.world.newest().job_id)
    assert ("SUCCEEDED", 30) == (job.state, job.counts["polite"].scored)
    # One for each, and two probes.
    assert here.server.log.requests <= 30 + 2
    assert [] == here.world.broken(expected=here.world.pairs("polite"))


# --- budgets


def draw_of(trace_id: str, seed: int = 0) -> float:
    """Return a trace's draw, by an implementation of xxhash that is not Spark's."""
    h = xxhash.xxh64_intdigest(struct.pack("<q", seed), seed=xxhash.xxh64_intdigest(trace_id.encode(), seed=42))
    return ((h - 2**64 if h >= 2**63 else h) + 2**63) / 2**64


def holds_below(here: Judged) -> float:
    """Assert that the newest job is PARTIAL with just the pairs below the draw that it tells; return that draw."""
    job = here.world.newest()
    assert ("PARTIAL", False) == (job.state, job.alive)
    assert job.rate_reached is not None
    draws = {i: draw_of(i) for i in here.world.ids}
    below = {i: d for i, d in draws.items() if d < job.rate_reached}
    rows = results(here.world)
    assert below == {r["trace_id"]: r["draw"] for r in rows}
    counts = job.counts["polite"]
    assert (len(rows), len(draws) - len(rows)) == (counts.scored, counts.left)
    assert len(rows) == len(below)
    assert [] == here.world.broken(expected={("polite", i) for i in below})
    return job.rate_reached


def test_f34_a_budget_is_kept_through_kills_and_a_larger_one_goes_on(judged: Callable[..., Judged]) -> None:
    """1,000 calls on 10,000 pairs, killed twice, then 3,000: each time one draw, below which all is scored.

    One answer in twenty fails at first: failed attempts and calls lost in a kill count as spent.
    """
    here = judged(
        traces=10_000, latency_s=0.3, response=lambda i: f"Parcel {i}." + (" fault:500x1" if i % 20 == 0 else "")
    )
    for action in (("run", "polite", "--max-calls", "1000"), ("resume",)):
        with here.start(*action) as runner:
            here.kill(runner, after=250)
    figures = []
    for budget, options in ((1000, ()), (3000, ("--max-calls", "3000"))):
        with here.start("resume", *options) as runner:
            assert PARTIAL == runner.wait(2 * START_S), runner.said()[-4000:]
        sent = here.sent()
        reached = holds_below(here)
        assert len(sent) <= budget
        # A kill costs what is in flight and the rest of a permit, here some 200 calls each time; never most of it.
        assert len(results(here.world)) > budget / 4
        figures.append((len(sent), len({s.prompt for s in sent}), len(results(here.world)), reached))
        if budget == 1000:
            # The same budget once more: nothing is asked, and the job still says how far it came.
            assert reached == here.world.resume(here.world.newest().job_id).rate_reached
            assert len(sent) == len(here.sent())
    print(f"figures: requests, prompts, scored, rate reached: {figures}")
    assert figures[0][3] < figures[1][3]
