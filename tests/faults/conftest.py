"""Fixtures of the fault tests: worlds with quick leases, copied from one that is made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.world import NO_GATE, SHORT_LIVED, TRACES, World

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings


def settings_in(folder: Path, *, lease_s: float = 20, heartbeat_s: float | None = None) -> Settings:
    """Return settings whose tables lie in `folder`; a heartbeat is due four times in a lease."""
    from backfill_spark.settings.schema import Settings

    return Settings(
        tables={"root": str(folder / "tables")},
        traces={"path": str(folder / "traces")},
        timezone="UTC",
        limits={"lease_s": lease_s, "heartbeat_s": heartbeat_s or lease_s / 4},
        spark={"spark.master": "local[2]"},
    )


@pytest.fixture(scope="session")
def spark_options() -> dict[str, str]:
    """Nothing is compiled: few rows and many queries, a sixth less time."""
    return {"spark.sql.codegen.factoryMode": "NO_CODEGEN"}


@pytest.fixture(scope="session")
def pattern(_spark_session: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with traces, tables and the scorer `length`, to be copied: making one takes ten times as long."""
    folder, desk = tmp_path_factory.mktemp("pattern"), tmp_path_factory.mktemp("desk")
    world = World(_spark_session, settings_in(folder), folder, desk)
    world.write_traces(TRACES)
    world.register()
    return world


@pytest.fixture(scope="session")
def quick(pattern: World, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Settings with which a runner starts sooner; made by a whole job, so only where there are many runners."""
    folder = tmp_path_factory.mktemp("quick")
    shutil.copytree(pattern.folder, folder, dirs_exist_ok=True)
    world = World(pattern.spark, settings_in(folder), folder, pattern.desk)
    world.order()
    return world.keep_classes()


@pytest.fixture
def make_world(
    request: pytest.FixtureRequest, spark: SparkSession, pattern: World, tmp_path: Path
) -> Iterator[Callable[..., World]]:
    """Make a world; its scorer waits at call `gate_at` until the gate is there, each call takes `pause` seconds."""
    import backfill_spark
    from backfill_spark.jobs import failpoints

    options = request.getfixturevalue("quick") if request.node.get_closest_marker("kills") else SHORT_LIVED

    def make(
        *,
        traces: int = TRACES,
        lease_s: float = 20,
        heartbeat_s: float | None = None,
        gate_at: int = NO_GATE,
        pause: float = 0.0,
    ) -> World:
        shutil.copytree(pattern.folder, tmp_path, dirs_exist_ok=True)
        settings = settings_in(tmp_path, lease_s=lease_s, heartbeat_s=heartbeat_s)
        world = World(spark, settings, tmp_path, pattern.desk, list(pattern.ids), options)
        world.order(gate_at=gate_at, pause=pause)
        if traces != TRACES:
            world.write_traces(traces)
        backfill_spark.configure(settings)
        return world

    yield make
    failpoints.arm("")
    failpoints.wake.set()
    pattern.gate.touch()
    backfill_spark.configure(None)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """600 traces and the scorer `length`, nothing run yet."""
    return make_world()
