"""F36 to F40: a standalone cluster of two workers loses an executor, a worker, the driver's JVM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from backfill_spark import ScorerSamplingConfig, scorer
from backfill_spark.storage.start_spark import CATALOG, EXTENSION
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


# --- an executor's Python that has never heard of this package

ROOT = Path(__file__).parents[2]
HEAVY = ("dateutil", "numpy", "numpy.libs", "pandas", "pyarrow", "pytz", "six.py", "tzdata")


def python_with(folder: Path, packages: Iterable[str]) -> str:
    """Make an environment that has these entries of this one's site-packages; return its Python."""
    venv.create(folder, symlinks=True)
    there, here = Path(sysconfig.get_path("purelib", vars={"base": str(folder)})), sysconfig.get_path("purelib")
    for name in packages:
        if Path(here, name).exists():
            (there / name).symlink_to(Path(here, name))
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The wheel, the same file named .zip, a module of a user, and two Pythons: of the driver, of the executors."""
    folder = tmp_path_factory.mktemp("shipped")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = folder.glob("*.whl")
    shutil.copyfile(wheel, archive := wheel.with_suffix(".zip"))
    (folder / "house_rules.py").write_text("def is_polite(text):\n    return bool(text)\n")
    installed = [p.name for p in Path(sysconfig.get_path("purelib")).iterdir() if "backfill_spark" not in p.name]
    return {
        "whl": str(wheel),
        "zip": str(archive),
        "module": str(folder / "house_rules.py"),
        "driver": python_with(folder / "driver", installed),
        "executor": python_with(folder / "executor", HEAVY),
    }


def submitted(cluster: Any, world: World, shipped: dict[str, str], files: str | None, *words: str) -> Runner:
    """Start `spark-submit jobs/run_backfill.py`; `files` says which form of the package goes along."""
    import pyspark

    package = [shipped[files]] if files else []
    conf = {
        "spark.executor.memory": "512m",
        "spark.executorEnv.PYTHONPATH": "",
        "spark.pyspark.driver.python": shipped["driver"] if files else sys.executable,
        "spark.pyspark.python": shipped["executor"],
        "spark.sql.extensions": EXTENSION,
        "spark.sql.catalog.spark_catalog": CATALOG,
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.driver.extraJavaOptions": world.options["spark.driver.extraJavaOptions"],
    }
    given = [word for name, value in conf.items() for word in ("--conf", f"{name}={value}")]
    command = [str(Path(pyspark.__file__).parent / "bin" / "spark-submit"), "--master", cluster.url, *given]
    command += ["--jars", ",".join(world.jars()), "--py-files", ",".join([*package, shipped["module"]])]
    environment = {name: value for name, value in world.environment().items() if name.startswith("BACKFILL_SPARK_")}
    del environment["BACKFILL_SPARK_SPARK"], environment["BACKFILL_SPARK_DELTA_JARS"]
    environment |= {"PYTHONPATH": "" if files else str(ROOT), "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": ""}
    return Runner([*command, *words], log=world.desk / "submit.log", environment=environment)


def polite(trace: Any) -> Any:
    """What a user's scorer does: it imports a module of the user's own when it is called."""
    import house_rules  # type: ignore[import-not-found]

    return house_rules.is_polite(trace.data.response)


@pytest.mark.parametrize("form", ["whl", "zip"])
def test_a_cluster_that_lacks_the_package_gets_it_by_py_files(
    cluster: Any, make_world: Callable[..., World], shipped: dict[str, str], form: str
) -> None:
    """The driver and the executors have it from there alone, and the module of a scorer as well."""
    world = make_world(traces=40)
    made = scorer(name="polite")(polite).register()
    made.start(sampling_config=ScorerSamplingConfig(sample_rate=1.0))
    job = [str(ROOT / "jobs" / "run_backfill.py"), "--scorers", "length,polite"]
    with submitted(cluster, world, shipped, form, *job) as runner:
        assert runner.wait(2 * START_S) == 0, runner.said()[-3000:]
    counts = world.newest().counts
    assert [(c.scored, c.calls) for c in counts.values()] == [(40, 40), (40, 40)]
    assert "executor on " in runner.said()
    assert "pyarrow" in runner.said()
    # Its executors write to the folder that the driver sees, so results are files of theirs.
    newest = max((world.folder / "tables" / "assessments" / "_delta_log").glob("*.json"))
    assert "MERGE" not in newest.read_text(encoding="utf-8")


def test_a_worker_takes_its_package_by_py_files(
    cluster: Any, make_world: Callable[..., World], shipped: dict[str, str]
) -> None:
    """`jobs/work.py --once` runs the job that waits."""
    world = make_world(traces=40)
    job_id = world.run(launch="queue")
    with submitted(cluster, world, shipped, "whl", str(ROOT / "jobs" / "work.py"), "--once") as runner:
        assert runner.wait(2 * START_S) == 0, runner.said()[-3000:]
    assert (world.job(job_id).state, world.job(job_id).calls) == ("SUCCEEDED", 40)


def test_executors_without_the_package_are_refused_before_any_call(
    cluster: Any, make_world: Callable[..., World], shipped: dict[str, str]
) -> None:
    """One line says what they have and lack, and the command that mends it."""
    world = make_world(traces=40)
    job = [str(ROOT / "jobs" / "run_backfill.py"), "--scorers", "length"]
    with submitted(cluster, world, shipped, None, *job) as runner:
        assert runner.wait(2 * START_S) == 2, runner.said()[-3000:]
    (line,) = [line for line in runner.said().splitlines() if "cannot import" in line and "Executors" in line]
    assert "backfill_spark" in line
    assert "spark-submit --py-files" in line
    assert "pyarrow" in line
    assert world.lines() == []


def test_cluster_deploy_mode_on_a_standalone_master_is_refused_by_spark(
    cluster: Any, make_world: Callable[..., World], shipped: dict[str, str]
) -> None:
    """Spark has it for Python on YARN and Kubernetes only; when that changes, docs/running.md does."""
    job = ["--deploy-mode", "cluster", str(ROOT / "jobs" / "run_backfill.py"), "--scorers", "length"]
    with submitted(cluster, make_world(), shipped, "whl", *job) as runner:
        assert runner.wait(2 * START_S) != 0
    assert "not supported for python applications on standalone clusters" in runner.said()


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
