"""F36 to F40: a standalone cluster of two workers loses an executor, a worker, the driver's JVM."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.world import World
from tests.nemesis import Runner, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.kills, pytest.mark.timeout(900)]
START_S = 150.0
TASK = 300
"""Pairs of one task at most: the traces lie in two files."""


class Cluster:
    """A master and two workers of one core each."""

    def __init__(self, folder: Path) -> None:
        import pyspark

        self.folder = folder
        self._class = [str(Path(pyspark.__file__).parent / "bin" / "spark-class")]
        self.port = _free_port()
        self.url = f"spark://127.0.0.1:{self.port}"
        self._started: list[Runner] = []
        master = ["--host", "127.0.0.1", "--port", str(self.port), "--webui-port", "0"]
        self.master = self._start("master", "org.apache.spark.deploy.master.Master", *master)
        worker = ["--host", "127.0.0.1", "--cores", "1", "--memory", "1g", "--webui-port", "0", self.url]
        for name in ("one", "two"):
            folder_of = ["--work-dir", str(folder / name)]
            self._start(name, "org.apache.spark.deploy.worker.Worker", *folder_of, *worker)
        self.workers = self._started[1:]

    def _start(self, name: str, *words: str) -> Runner:
        runner = Runner(
            [*self._class, *words], log=self.folder / f"{name}.log", environment={"SPARK_LOCAL_IP": "127.0.0.1"}
        )
        self._started.append(runner)
        wanted = "successfully registered with master" if name != "master" else "I have been elected leader"
        wait_until(lambda: wanted.lower() in runner.said().lower(), START_S, f"{name} to start")
        return runner

    def executors(self) -> list[psutil.Process]:
        """Return the executors' JVMs."""
        found = []
        for worker in self.workers:
            for pid in worker.family():
                try:
                    process = psutil.Process(pid)
                    if "java" in process.name() and "CoarseGrainedExecutorBackend" in " ".join(process.cmdline()):
                        found.append(process)
                except psutil.Error:
                    continue
        return found

    def stop(self) -> None:
        """End everything."""
        for runner in reversed(self._started):
            runner.kill()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One cluster for all tests of this file."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.stop()


def runner_on(cluster: Any, world: World, *, failpoint: str = "", **spark: Any) -> Any:
    """Start `run length` with its driver here and its tasks on the cluster."""
    options = {
        "spark.master": cluster.url,
        "spark.executor.memory": "512m",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "2",
    }
    environment = world.environment(failpoint)
    environment["BACKFILL_SPARK_SPARK"] = json.dumps({**world.options, **options, **spark})
    command = [sys.executable, "-m", "tests.faults.driver", "run", "length"]
    return Runner(command, log=world.desk / "runner.log", environment=environment)


def busy(cluster: Any, ledger: str) -> Any:
    """Return the executor whose worker process made the newest call."""
    caller = int(Path(ledger).read_text(encoding="utf-8").splitlines()[-1].split("\t")[3])
    parents = {p.pid for p in psutil.Process(caller).parents()}
    return next(e for e in cluster.executors() if e.pid in parents)


def test_f36_an_executor_is_killed_while_it_scores(cluster: Any, make_world: Callable[..., World]) -> None:
    """Its task is made again elsewhere; no other call is."""
    world = make_world(gate_at=350, lease_s=60, heartbeat_s=2)
    with runner_on(cluster, world) as runner:
        world.wait_for_calls(350)
        wait_until((world.desk / "held").exists, 30, "a call at the gate")
        busy(cluster, world.ledger).kill()
        world.gate.touch()
        assert runner.wait(START_S) == 0, runner.said()[-3000:]
    assert world.newest().state == "SUCCEEDED"
    assert world.broken(extra=TASK, woken=TASK) == []


def test_f36_an_executor_is_killed_after_it_has_scored(cluster: Any, make_world: Callable[..., World]) -> None:
    """What is staged needs nothing of it: no call more."""
    world = make_world(lease_s=60, heartbeat_s=2)
    with runner_on(cluster, world, failpoint="after_stage:stop:2") as runner:
        runner.wait_for_text("failpoint after_stage: stop", START_S)
        assert len(world.lines()) == len(world.ids)
        cluster.executors()[0].kill()
        runner.wake()
        assert runner.wait(START_S) == 0, runner.said()[-3000:]
    assert world.broken() == []


def test_f38_an_executor_stands_still_for_longer_than_the_networks_limit(
    cluster: Any, make_world: Callable[..., World]
) -> None:
    """It is given up, its tasks are made again; woken up, it changes nothing."""
    world = make_world(gate_at=350, lease_s=60, heartbeat_s=2)
    limits = {"spark.network.timeout": "20s", "spark.network.timeoutInterval": "5s"}
    with runner_on(cluster, world, **limits, **{"spark.executor.heartbeatInterval": "4s"}) as runner:
        world.wait_for_calls(350)
        wait_until((world.desk / "held").exists, 30, "a call at the gate")
        stopped = busy(cluster, world.ledger)
        stopped.suspend()
        world.gate.touch()
        code = runner.wait(START_S)
        if stopped.is_running():
            stopped.resume()
        assert code == 0, runner.said()[-3000:]
    assert world.newest().state == "SUCCEEDED"
    assert world.broken(extra=2 * TASK, woken=2 * TASK) == []


def test_f39_the_drivers_jvm_is_killed(cluster: Any, make_world: Callable[..., World]) -> None:
    """The calls end, the runner is seen as dead, and the job goes on elsewhere."""
    world = make_world(gate_at=350, lease_s=15, heartbeat_s=1.5)
    with runner_on(cluster, world) as runner:
        world.wait_for_calls(350)
        jvm = next(p for p in psutil.Process(runner.pid).children(recursive=True) if "java" in p.name())
        os.kill(jvm.pid, signal.SIGKILL)
        world.gate.touch()
        assert runner.wait(START_S) != 0
    job = world.newest()
    assert job.state == "RUNNING"
    assert world.resume_when_dead(job.job_id).state == "SUCCEEDED"
    assert world.broken(extra=400, woken=400) == []


def test_f40_speculation_is_refused_before_any_call(cluster: Any, make_world: Callable[..., World]) -> None:
    """Exit code 2, and the sentence names the setting that accepts it."""
    world = make_world()
    with runner_on(cluster, world, **{"spark.speculation": "true"}) as runner:
        assert runner.wait(START_S) == 2
        assert "limits.allow_speculation" in runner.said()
    assert world.lines() == []


def test_f37_a_worker_is_killed(cluster: Any, make_world: Callable[..., World]) -> None:
    """With its executor; the other worker does the rest. The last test here: the worker is gone."""
    world = make_world(gate_at=350, lease_s=60, heartbeat_s=2)
    with runner_on(cluster, world) as runner:
        world.wait_for_calls(350)
        wait_until((world.desk / "held").exists, 30, "a call at the gate")
        parents = {p.pid for p in busy(cluster, world.ledger).parents()}
        next(w for w in cluster.workers if parents & set(w.family())).kill()
        world.gate.touch()
        assert runner.wait(START_S) == 0, runner.said()[-3000:]
    assert world.newest().state == "SUCCEEDED"
    assert world.broken(extra=TASK, woken=TASK) == []
