"""The examples of schedules: what they start are commands that there are, with options that mean something."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from databricks.bundles.jobs import Job

from backfill_spark.cli import main
from backfill_spark.cli.program import Program
from backfill_spark.cli.run import parse_scorers

SCHEDULES = Path(__file__).parents[2] / "examples" / "schedules"
AIRFLOW = os.environ.get("AIRFLOW_PYTHON")
"""Python of an environment with apache-airflow, which cannot share ours."""
LOAD_DAGS = """
import sys
from airflow.models.dagbag import DagBag
bag = DagBag(sys.argv[1], include_examples=False)
assert not bag.import_errors, bag.import_errors
(dag,) = bag.dags.values()
print(dag.dag_id, [task.task_id for task in dag.tasks])
"""


def text_of(name: str) -> str:
    return (SCHEDULES / name).read_text(encoding="utf-8")


def check(command: str, words: list[str]) -> None:
    """Let click read a command's options; what it does not know is its UsageError."""
    given = main.commands[command].make_context(command, words, obj=Program()).params
    if command == "run":
        assert given["all_started"] or parse_scorers(given["scorers"])


def test_each_line_of_the_crontab_is_a_command() -> None:
    """Five fields, then a command that appends to a log and shows its end when it fails."""
    lines = [line for line in text_of("crontab").splitlines() if re.match(r"[\d*]", line)]
    assert len(lines) == 3
    for line in lines:
        _, program, rest = re.split(r"(\S+/backfill-spark) ", line)
        assert program.endswith("backfill-spark")
        assert len(line.split(program)[0].split()) == 5
        words = shlex.split(rest.split(">>")[0])
        check(words[0], words[1:])


def test_the_systemd_unit_starts_a_worker() -> None:
    """It restarts what failed, but for what was refused."""
    unit = configparser.ConfigParser(strict=True, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text_of("backfill-spark-work.service"))
    words = shlex.split(unit["Service"]["ExecStart"])
    check(words[1], words[2:])
    assert unit["Service"]["RestartPreventExitStatus"] == "2"


def test_the_kubernetes_application_runs_a_backfill() -> None:
    """By the script of this package, at the versions that are pinned in conf/spark-defaults.conf."""
    spec = yaml.safe_load(text_of("kubernetes.yaml"))["spec"]["template"]
    check("run", spec["arguments"])
    defaults = (SCHEDULES.parents[1] / "conf" / "spark-defaults.conf").read_text(encoding="utf-8")
    told = dict(line.split(None, 1) for line in defaults.splitlines() if line and not line.startswith("#"))
    assert spec["deps"]["packages"] == [told["spark.jars.packages"]]
    assert {name: value for name, value in spec["sparkConf"].items() if told.get(name, "").strip() != value} == {}


def a_job() -> Any:
    jobs = yaml.safe_load(text_of("databricks.yml"))["resources"]["jobs"]
    return jobs["nightly_backfill"]


def test_the_databricks_job_runs_a_backfill() -> None:
    """By a script of this repository."""
    (task,) = a_job()["tasks"]
    check("run", task["spark_python_task"]["parameters"])
    assert (SCHEDULES / task["spark_python_task"]["python_file"]).resolve().is_file()


def test_the_databricks_job_fits_the_bundles_schema() -> None:
    """As their own package knows it; a field that it does not know is an error."""
    assert Job.from_dict(a_job()).name == "nightly_backfill"


def test_the_airflow_dag_runs_a_backfill() -> None:
    """The window is the data interval, so a night that is cleared runs over the same traces again."""
    submit = re.search(r'SUBMIT = """\n(.*?)"""', text_of("airflow_dag.py"), re.DOTALL)
    assert submit is not None
    words = shlex.split(re.sub(r"{{ (\w+).*? }}", r"2024-06-01", submit[1].replace("\\\n", " ")))
    check("run", words[words.index("/opt/backfill/jobs/run_backfill.py") + 1 :])
    assert "data_interval_start" in submit[1]


@pytest.mark.skipif(not AIRFLOW, reason="AIRFLOW_PYTHON names no Python that has apache-airflow")
def test_airflow_loads_the_dag(tmp_path: Path) -> None:
    """By its own parser, without an import error."""
    env = os.environ | {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PYTHONPATH": ""}
    done = subprocess.run(
        [str(AIRFLOW), "-c", LOAD_DAGS, str(SCHEDULES / "airflow_dag.py")],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["backfill_spark ['score_the_day']"], done.stderr[-3000:]
