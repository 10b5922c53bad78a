"""A client of Spark Connect: what is missing or too old is told, and a folder counts only where the server sees it."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backfill_spark import Settings
from backfill_spark.errors import SessionError
from backfill_spark.storage import capabilities, session
from backfill_spark.storage.reach import is_shared, reached
from backfill_spark.storage.session import check_delta
from backfill_spark.storage.start_spark import start_spark
from tests.unit.test_session import DELTA

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class FakeConnect:
    """A session whose server is `version`, and sees files where `sees` says so."""

    __module__ = "pyspark.sql.connect.session"

    def __init__(self, version: str = "4.2.0", sees: Callable[[str], bool] = lambda path: True) -> None:
        self.version = version
        self.session_id = f"{id(self)}"
        self.conf = SimpleNamespace(get=lambda key, default=None: DELTA.get(key, default))
        self.read = SimpleNamespace(text=self._text)
        self.createDataFrame = self._frame
        self.takes_rows = True
        self._sees = sees
        self.asked: list[str] = []

    def _frame(self, *_: Any) -> Any:
        if not self.takes_rows:
            raise RuntimeError('[SQL_CONF_NOT_FOUND] The SQL config "x" cannot be found.\n\nJVM stacktrace:')
        return SimpleNamespace(collect=list)

    def _text(self, path: str) -> Any:
        self.asked.append(path)
        if not self._sees(path):
            raise RuntimeError("PATH_NOT_FOUND")
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - as it was given
            lines = file.readlines()
        return SimpleNamespace(count=lambda: len(lines))


def a_client(**how: Any) -> Any:
    return FakeConnect(**how)


def test_a_folder_counts_where_the_server_sees_it(tmp_path: Path) -> None:
    """Asked once a session with a file that is gone afterwards, above folders that are not there yet."""
    spark = a_client()
    assert capabilities.is_connect(spark)
    assert is_shared(spark, tmp_path / "tables")
    assert is_shared(spark, tmp_path / "tables")
    assert len(spark.asked) == 1
    assert list(tmp_path.iterdir()) == []
    assert not is_shared(a_client(sees=lambda path: False), tmp_path)


def test_tables_of_a_server_elsewhere_are_left_to_spark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where this machine has a folder of that name."""
    from backfill_spark.settings.locations import Location

    location, plain = Location.of_path(str(tmp_path / "tables" / "jobs")), Settings()
    elsewhere = a_client(sees=lambda path: False)
    assert reached(location, plain, lambda: elsewhere) == tmp_path / "tables" / "jobs"
    monkeypatch.setenv("SPARK_REMOTE", "sc://elsewhere")
    assert reached(location, plain, lambda: elsewhere) is None
    assert reached(location, plain, a_client) == tmp_path / "tables" / "jobs"


def test_a_server_of_an_older_version_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Refused below 4.0; above it once, with the client that fits."""
    with pytest.raises(SessionError, match=r"server runs Spark 3\.5\.1, and backfill_spark needs 4\.0\.1"):
        check_delta(a_client(version="3.5.1"))
    session._told.clear()
    for version in ("99.0.0", "4.0.1", "4.0.1"):
        check_delta(a_client(version=version))
    assert [r.getMessage() for r in caplog.records if "pip install pyspark==4.0.1" in r.getMessage()] == [
        caplog.records[0].getMessage()
    ]


def test_a_server_that_cannot_take_the_clients_rows_is_refused() -> None:
    """Spark promises only that old clients work with newer servers."""
    session._told.clear()
    spark = a_client(version="4.0.1")
    spark.takes_rows = False
    with pytest.raises(SessionError, match=r"runs Spark 4\.0\.1 and cannot.*NOT_FOUND.*pip install pyspark==4\.0\.1`"):
        check_delta(spark)
    assert session._told == set()


def test_without_the_extra_the_refusal_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a token of the address is not shown."""
    monkeypatch.setitem(sys.modules, "pyspark.sql.connect.session", None)
    remote = {"spark.remote": "sc://host:1/;token=secret"}
    with pytest.raises(SessionError, match=r"pip install 'backfill-spark\[connect\]'") as raised:
        start_spark(Settings(spark=remote))
    assert "secret" not in str(raised.value)
