"""A session that the package builds keeps what the user has set, by each of the ways that Spark has for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json
from backfill_spark import Settings, get_spark, list_scorers
spark = get_spark(Settings(spark={"spark.driver.extraJavaOptions": "-Dmine=1 -XX:+UseSerialGC"}))
list_scorers()
conf = dict(spark.sparkContext.getConf().getAll())
told = {"python": spark.sparkContext.pythonExec, "conf": conf, "zone": spark.conf.get("spark.sql.session.timeZone")}
print(json.dumps(told))
"""
DEFAULTS = """
# a cluster's own
spark.sql.session.timeZone   Europe/Rome
spark.serializer=org.apache.spark.serializer.KryoSerializer
spark.driver.memory          700m
spark.sql.extensions         org.apache.spark.sql.delta.sql.Absent
spark.pyspark.python         {python}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a process says whose defaults file and submit arguments are the user's."""
    folder = tmp_path_factory.mktemp("session")
    python = folder / "python"
    python.symlink_to(sys.executable)
    (folder / "spark-defaults.conf").write_text(DEFAULTS.format(python=python), encoding="utf-8")
    own = {
        "SPARK_CONF_DIR": str(folder),
        "PYSPARK_SUBMIT_ARGS": "--master local[1] --conf spark.app.name=mine pyspark-shell",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | own, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "stderr": done.stderr, "wished": str(python)}


def test_what_the_user_has_set_about_the_session_is_kept(built: dict[str, object]) -> None:
    """By spark-defaults.conf, by PYSPARK_SUBMIT_ARGS and by the settings; ours is added where both can stand."""
    conf = built["conf"]
    assert isinstance(conf, dict)
    assert built["python"] == built["wished"]
    assert built["zone"] == "Europe/Rome"
    assert ("local[1]", "mine", "700m") == tuple(
        conf[f"spark.{key}"] for key in ("master", "app.name", "driver.memory")
    )
    assert conf["spark.serializer"] == "org.apache.spark.serializer.KryoSerializer"
    assert conf["spark.sql.extensions"].split(",")[1:] == ["org.apache.spark.sql.delta.sql.Absent"]
    assert "-Dmine=1 -XX:+UseSerialGC -Dlog4j2.configurationFile=" in conf["spark.driver.extraJavaOptions"]


def test_a_start_of_spark_writes_nothing_to_stderr(built: dict[str, object]) -> None:
    """No warning of incubator modules, no page of Ivy."""
    assert built["stderr"] == ""
