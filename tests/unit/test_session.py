"""Java is looked for before Spark is started; a session that cannot be used is refused with the way out."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyspark.sql
import pytest

import backfill_spark as bs
from backfill_spark import api
from backfill_spark.errors import SessionError
from backfill_spark.storage.session import few_tasks
from backfill_spark.storage.start_spark import _java_options, check_java, short_life
from backfill_spark.storage.wheels import ship_wheels

if TYPE_CHECKING:
    from collections.abc import Callable

DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
WITHOUT_DELTA: dict[str, Any] = dict.fromkeys(DELTA)


@bs.scorer
def length(outputs: Any) -> Any:
    return len(outputs)


def a_session(*, stopped: bool = False, **changes: Any) -> Any:
    """Return what a check sees of a session; without `changes` it has Delta."""
    conf = {k: v for k, v in (DELTA | changes).items() if v is not None}
    session: dict[str, Any] = {"version": "4.1.1", "conf": SimpleNamespace(get=lambda k, d=None: conf.get(k, d))}
    return SimpleNamespace(**session, is_stopped=stopped)


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Make a session the active one."""
    return lambda session: monkeypatch.setattr(pyspark.sql.SparkSession, "getActiveSession", lambda: session)


def a_java(folder: Path, says: str) -> Path:
    """Write a program that says `says` as `java -version` does."""
    program = folder / "bin" / "java"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("says", "version"),
    [('java version "1.8.0_392"', "8"), ('openjdk version "11.0.21" 2023-10-17', "11"), ("no java here", "unknown")],
)
def test_an_old_java_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, version: str) -> None:
    """The message names the version that is there and what to install."""
    program = a_java(tmp_path, says)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(SessionError, match=f"is Java {version}") as raised:
        check_java()
    assert str(program) in str(raised.value)
    assert "Install Java 17 or newer" in str(raised.value)


@pytest.mark.parametrize("says", ['openjdk version "17.0.9"', 'openjdk version "21" 2023-09-19', 'version "25-ea"'])
def test_java_17_or_newer_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    """From JAVA_HOME, or from PATH."""
    program = a_java(tmp_path, says)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert str(program) == check_java()
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    assert str(program) == check_java()


def test_no_java_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in JAVA_HOME nor on PATH."""
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(SessionError, match="has none"):
        check_java()
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SessionError, match="there is none on PATH"):
        check_java()


@pytest.mark.parametrize(
    "call",
    [
        bs.get_spark,
        length.register,
        length.start,
        bs.list_scorers,
        lambda: bs.list_scorer_versions(name="length"),
        lambda: bs.get_scorer(name="length"),
        lambda: bs.delete_scorer(name="length"),
        lambda: bs.plan_backfill(scorers=["length"]),
        lambda: bs.backfill_scorers(scorers=["length"]),
        lambda: bs.get_backfill("bf-00000000"),
        bs.list_backfills,
        lambda: bs.wait_for_backfill("bf-00000000"),
        lambda: bs.cancel_backfill("bf-00000000"),
        lambda: bs.resume_backfill("bf-00000000"),
        bs.read_traces,
        bs.read_assessments,
        lambda: bs.read_assessments(spark=a_session(**WITHOUT_DELTA)),
    ],
)
def test_every_call_in_a_session_without_delta_says_what_to_set(
    active: Callable[[Any], None], call: Callable[[], object]
) -> None:
    """A notebook often has a session already. Tables that have names in a catalog are behind Spark."""
    bs.configure(bs.Settings(tables={"schema": "lab"}))
    active(a_session(**WITHOUT_DELTA))
    with pytest.raises(SessionError, match=r"no Delta.*spark\.sql\.extensions=io\.delta.*spark\.sql\.catalog"):
        call()


def test_tables_in_a_folder_of_this_machine_need_no_delta_in_the_session(
    active: Callable[[Any], None], tmp_path: Path
) -> None:
    """Nor a session at all."""
    bs.configure(bs.Settings(tables={"root": str(tmp_path)}))
    active(a_session(**WITHOUT_DELTA))
    length.register().start()
    assert [one.name for one in bs.list_scorers()] == ["length"]
    assert bs.list_backfills() == []


@pytest.mark.parametrize(
    ("delta", "archive"), [("4.4.0", "delta-spark_4.1_2.13:4.4.0"), ("4.0.1", "delta-spark_2.13:4.0.1")]
)
def test_the_archive_that_fits_this_spark_is_named(
    active: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, delta: str, archive: str
) -> None:
    """The settings are there, and the classes are not."""
    session = a_session()
    session._jvm = SimpleNamespace(io=SimpleNamespace(delta=SimpleNamespace(tables=SimpleNamespace(DeltaTable=None))))
    active(session)
    monkeypatch.setattr("importlib.metadata.version", lambda _: delta)
    with pytest.raises(SessionError, match=rf"spark\.jars\.packages=io\.delta:{re.escape(archive)};"):
        bs.get_spark()


@pytest.mark.parametrize(
    "setting",
    [{"spark.databricks.delta.commitInfo.enabled": "false"}, {"spark.databricks.delta.write.txnAppId": "etl"}],
)
def test_settings_with_which_no_job_can_be_right_are_refused(
    active: Callable[[Any], None], setting: dict[str, Any]
) -> None:
    """Delta skips writes of a used transaction id in silence, and tells nothing without its commit info."""
    active(a_session(**setting))
    with pytest.raises(SessionError, match=next(iter(setting))):
        bs.read_assessments()


def test_a_stopped_session_as_argument_is_refused() -> None:
    with pytest.raises(SessionError, match="session given as spark=… is stopped"):
        bs.list_backfills(spark=a_session(stopped=True))


def test_a_jvm_that_has_died_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed for its memory, for example."""

    def gone() -> None:
        raise ConnectionRefusedError("py4j")

    monkeypatch.setattr(pyspark.sql.SparkSession, "getActiveSession", gone)
    with pytest.raises(SessionError, match=r"Spark has ended.*Restart the notebook's kernel"):
        bs.read_assessments()


class Conf:
    """Settings of a session, as PySpark has them."""

    def __init__(self, **given: str) -> None:
        self.values = {name.replace("_", "."): value for name, value in given.items()}

    def get(self, name: str, default: str | None = None) -> str | None:
        return self.values.get(name, default)

    def set(self, name: str, value: str) -> None:
        self.values[name] = value

    def unset(self, name: str) -> None:
        del self.values[name]


@pytest.mark.parametrize("given", [{}, {"spark_sql_shuffle_partitions": "200"}])
def test_a_session_built_elsewhere_is_as_it_was_afterwards(given: dict[str, str]) -> None:
    """What nobody has set is small for a while; what somebody has set, even to Spark's own number, stays."""
    conf = Conf(**given)
    before = dict(conf.values)
    with pytest.raises(KeyError), few_tasks(SimpleNamespace(conf=conf)):  # type: ignore[arg-type]
        assert conf.get("spark.databricks.delta.snapshotPartitions") == "2"
        assert conf.get("spark.sql.shuffle.partitions") == given.get("spark_sql_shuffle_partitions", "4")
        raise KeyError
    assert conf.values == before


def test_a_wheel_of_spark_submit_is_sent_again_as_a_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once an application; what PySpark takes as it is, is left alone."""
    (tmp_path / "ours-1.0-py3-none-any.whl").write_bytes(b"zipped")
    monkeypatch.setattr("pyspark.SparkFiles.get", lambda name: str(tmp_path / name))
    sent: list[tuple[str, bytes]] = []
    given = SimpleNamespace(get=lambda *_: "file:/x/ours-1.0-py3-none-any.whl,/y/rules.py,/z/more.zip")
    context = SimpleNamespace(
        applicationId=f"app-{tmp_path}",
        getConf=lambda: given,
        addPyFile=lambda path: sent.append((Path(path).name, Path(path).read_bytes())),
    )
    for _ in range(2):
        ship_wheels(SimpleNamespace(_sc=context, sparkContext=context))  # type: ignore[arg-type]
    assert sent == [("ours-1.0-py3-none-any.zip", b"zipped")]
    ship_wheels(SimpleNamespace())  # type: ignore[arg-type]


def test_a_plan_starts_a_jvm_for_a_short_life_and_a_run_does_not() -> None:
    """What the user says of it stands."""
    with short_life():
        assert "-XX:+UseSerialGC -XX:TieredStopAtLevel=1" in _java_options("")
        assert "-XX:+UseSerialGC" not in _java_options("-XX:+UseZGC -XX:TieredStopAtLevel=3")
        assert _java_options("-XX:+UseZGC -XX:TieredStopAtLevel=3").count("TieredStopAtLevel") == 1
    assert "TieredStopAtLevel" not in _java_options("")
    assert "-XX:Tier4InvocationThreshold=100000" in _java_options("")
    assert "Tier4" not in _java_options("-XX:-TieredCompilation")
    assert "-XX:+UseParallelGC" in _java_options("")


def test_an_interrupt_is_one_sentence(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Before there is a job, too; other interrupts than Ctrl-C stay what they are, and py4j's pages are left out."""

    def interrupted(*_: Any, **__: Any) -> None:
        logging.getLogger().info("Exception while sending command.")
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "_tables", interrupted)
    with pytest.raises(bs.BackfillInterrupted) as raised:
        bs.backfill_scorers(scorers=["length"])
    assert raised.value.job_id == ""
    assert raised.value._render_traceback_() == [str(raised.value)]
    assert caplog.records == []

    class Terminated(KeyboardInterrupt):
        pass

    def terminated(*_: Any, **__: Any) -> None:
        raise Terminated

    monkeypatch.setattr(api, "_tables", terminated)
    with pytest.raises(Terminated):
        bs.resume_backfill("bf-20240601-120000-000000-abcdef01")
