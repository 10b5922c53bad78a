"""One connection to a database, PostgreSQL by psycopg or sqlite by Python's own module."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from backfill_spark.errors import TraceImportError, TraceSourceError

if TYPE_CHECKING:
    from types import ModuleType


class Database:
    """One connection. Statements have `?` where values stand."""

    def __init__(
        self, connection: Any, shown: str, errors: tuple[type[Exception], ...], style: Callable[[str], str]
    ) -> None:
        self._connection = connection
        self.shown = shown
        """Its address without a password."""
        self._errors = errors
        self._style = style

    @classmethod
    def of_sqlite(cls, path: str) -> Database:
        """Open a file, which is only read.

        Raises:
            TraceSourceError: there is no such file, or it is no database.
        """
        shown = f"the sqlite file {path!r}"
        if not Path(path).is_file():
            raise TraceSourceError(f"There is no file {path!r}: mlflow+sqlite:////absolute/path/mlflow.db has four /.")
        connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=60, isolation_level=None)
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        return cls(connection, shown, (sqlite3.Error,), lambda statement: statement)

    @classmethod
    def of_postgres(cls, address: str, shown: str) -> Database:
        """Connect to PostgreSQL.

        Raises:
            TraceSourceError: psycopg is not installed, or the server refuses.
        """
        psycopg = _psycopg()
        try:
            connection = psycopg.connect(address, autocommit=True, connect_timeout=20)
        except psycopg.Error as error:
            raise TraceSourceError(f"{shown} cannot be opened: {_first_line(error)}.") from error
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return cls(connection, shown, (psycopg.Error,), lambda statement: statement.replace("?", "%s"))

    def rows(self, statement: str, values: Sequence[Any]) -> list[Any]:
        cursor = self._connection.cursor()
        try:
            cursor.execute(self._style(statement), values)
            return list(cursor.fetchall())
        except self._errors as error:
            raise TraceImportError(
                f"{self.shown} could not be read: {_first_line(error)}. The same command goes on from where it was."
            ) from error
        finally:
            cursor.close()

    def among(self, ids: list[str]) -> tuple[str, Any]:
        """Return the end of a clause that holds for rows with these ids, and its one value."""
        if isinstance(self._connection, sqlite3.Connection):
            return "in (select value from json_each(?))", json.dumps(ids)
        return "= any(?)", ids

    def snapshot(self) -> Any:
        """A transaction that sees one moment."""
        if isinstance(self._connection, sqlite3.Connection):
            return _SqliteSnapshot(self._connection)
        return self._connection.transaction()

    def close(self) -> None:
        self._connection.close()


class _SqliteSnapshot:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("begin")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("rollback")


def _psycopg() -> ModuleType:
    try:
        import psycopg
    except ImportError:
        raise TraceSourceError(
            "Reading PostgreSQL needs psycopg, which is not installed: pip install 'backfill-spark[mlflow-sql]'."
        ) from None
    return psycopg


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
