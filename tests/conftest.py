"""Fixtures shared by all tests. Nothing here imports pyspark before a test asks for Spark."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.factories import Ledger

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings

REPOSITORY = Path(__file__).parents[1]
# Not a setting, so that Settings would refuse it: taken out of the environment before anything reads that.
_SHARED = os.environ.pop("BACKFILL_SPARK_TEST_SHARED", None)

# Collected timestamps come back in the local zone of the process; `TZ=... make test-unit` tries another one.
os.environ.setdefault("TZ", "UTC")
time.tzset()
# No test is timed: an example that takes longer on a busy machine is not wrong.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test sees only the settings that it makes."""
    for name in list(os.environ):
        if name.startswith("BACKFILL_SPARK_"):
            monkeypatch.delenv(name)


@pytest.fixture
def shared() -> Path:
    """Folder of the data that lie outside the repository."""
    folder = Path(_SHARED) if _SHARED else REPOSITORY.parent / "shared"
    if not folder.is_dir():
        why = f"the shared data are not at {folder}; name their folder in BACKFILL_SPARK_TEST_SHARED"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return folder


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """An append-only file in which scorers note their calls."""
    return Ledger(str(tmp_path / "ledger.txt"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose tables lie in the test's own folder."""
    from backfill_spark.settings.schema import Settings

    return Settings(
        tables={"root": str(tmp_path / "tables")},
        traces={"path": str(tmp_path / "traces")},
        timezone="UTC",
        spark={"spark.master": "local[2]"},
    )


@pytest.fixture(scope="session")
def spark_options() -> dict[str, str]:
    """Further settings of the run's session."""
    return {}


@pytest.fixture(scope="session")
def _spark_session(tmp_path_factory: pytest.TempPathFactory, spark_options: dict[str, str]) -> Iterator[SparkSession]:
    """The one JVM of the run, started by the first test that uses `spark`."""
    from backfill_spark.settings.schema import Settings
    from backfill_spark.storage.session import get_spark

    folder = tmp_path_factory.mktemp("spark")
    session = get_spark(
        Settings(
            spark={
                "spark.master": "local[2]",
                "spark.app.name": "backfill_spark tests",
                "spark.driver.memory": "2g",
                "spark.driver.bindAddress": "127.0.0.1",
                "spark.driver.host": "127.0.0.1",
                "spark.ui.enabled": "false",
                # Few rows: each further task or state partition is only overhead (registry writes: 6.6 s to 1.5 s).
                "spark.sql.shuffle.partitions": "2",
                "spark.default.parallelism": "2",
                "spark.databricks.delta.snapshotPartitions": "2",
                "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",
                "spark.sql.warehouse.dir": str(folder / "warehouse"),
                "spark.local.dir": str(folder / "local"),
                "spark.driver.extraJavaOptions": " ".join(
                    [
                        f"-Dlog4j2.configurationFile=file:{REPOSITORY / 'backfill_spark/storage/log4j2.properties'}",
                        f"-Dderby.system.home={folder / 'derby'}",
                        # Measured: half of 256 MB is full after six minutes.
                        "-XX:+UseParallelGC -XX:ReservedCodeCacheSize=512m -Xms2g -Xmn1g",
                    ]
                ),
            }
            | spark_options
        )
    )
    yield session
    session.stop()


@pytest.fixture
def spark(_spark_session: SparkSession) -> Iterator[SparkSession]:
    """The session that all tests share; what a test did to it is undone."""
    # Another session that a test made stays the active one otherwise.
    _spark_session.createDataFrame([], "id BIGINT")
    before = dict(_spark_session.conf.getAll)
    yield _spark_session
    # Measured: each table that Delta has seen keeps its plans. After 150 tests, collecting garbage was a fifth of the
    # time, in a heap of 2 GB that was full.
    assert _spark_session._jvm is not None
    _spark_session._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    _spark_session.catalog.clearCache()
    for view in _spark_session.catalog.listTables():
        if view.isTemporary:
            _spark_session.catalog.dropTempView(view.name)
    after = dict(_spark_session.conf.getAll)
    for key in after.keys() - before.keys():
        _spark_session.conf.unset(key)
    for key, value in before.items():
        if after.get(key) != value:
            _spark_session.conf.set(key, value)
