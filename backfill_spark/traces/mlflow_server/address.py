"""Addresses of servers: `http://…`, `mlflow+postgresql://…`, `mlflow+sqlite:///…`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from backfill_spark.errors import TraceSourceError, nearest_first
from backfill_spark.traces.mlflow_server.archives import Archives
from backfill_spark.traces.mlflow_server.database import Database
from backfill_spark.traces.mlflow_server.http import Http
from backfill_spark.traces.mlflow_server.rest import RestServer
from backfill_spark.traces.mlflow_server.sql import SqlServer

if TYPE_CHECKING:
    from backfill_spark.traces.mlflow_server.server import Experiment, Server

_KNOWN = "http://HOST:PORT, https://…, mlflow+postgresql://USER:PASSWORD@HOST/DATABASE and mlflow+sqlite:////PATH/FILE"


def open_server(address: str, *, artifacts: str | None = None) -> Server:
    """Connect to a server.

    Args:
        address: of its REST interface, or of its database.
        artifacts: where the files lie that the database calls `mlflow-artifacts:/`.

    Raises:
        TraceSourceError: no such address, or what is there cannot be read.
    """
    scheme = address.partition(":")[0].lower()
    if scheme in ("http", "https"):
        if not urlsplit(address).hostname:
            raise TraceSourceError(f"{address!r} names no host. Known are {_KNOWN}.")
        return RestServer(Http(address))
    # SQLAlchemy names a driver after the database: postgresql+psycopg2.
    kind = scheme.removeprefix("mlflow+").partition("+")[0]
    if scheme.startswith("mlflow+") and kind in ("postgresql", "postgres"):
        rest = address.partition(":")[2]
        return SqlServer(Database.of_postgres(f"postgresql:{rest}", _without_password(rest)), Archives(artifacts))
    if scheme.startswith("mlflow+") and kind == "sqlite":
        path = unquote(address.partition(":///")[2])
        return SqlServer(Database.of_sqlite(path), Archives(artifacts))
    hint = ""
    if scheme.startswith("mlflow+"):
        hint = " Other databases are read through the server's address, http://…."
    elif scheme in ("postgresql", "postgres", "sqlite"):
        hint = " Write mlflow+ before it: the tables of MLflow are read."
    raise TraceSourceError(f"Traces cannot be imported from {scheme}:…. Known are {_KNOWN}.{hint}")


def find_experiment(server: Server, wanted: str | None) -> Experiment:
    """Return the experiment of a name or id; without one, the only one that has traces.

    Raises:
        TraceSourceError: there is none, or more than one.
    """
    known = server.experiments()
    if wanted is not None:
        exact = [e for e in known if e.id == wanted] or [e for e in known if e.name == wanted]
        if exact:
            return exact[0]
        nearest = nearest_first(wanted, [e.name for e in known])[:5]
        raise TraceSourceError(f"There is no experiment {wanted!r}. The nearest are {nearest}.")
    used = [e for e in known if server.first(e) is not None]
    if len(used) == 1:
        return used[0]
    if not used:
        raise TraceSourceError(f"None of the {len(known)} experiments has traces.")
    shown = ", ".join(f"{e.name!r} ({e.id})" for e in used[:10])
    raise TraceSourceError(f"{len(used)} experiments have traces: {shown}. Name one with --experiment.")


def _without_password(rest: str) -> str:
    parts = urlsplit(f"postgresql:{rest}")
    port = f":{parts.port}" if parts.port else ""
    return f"the PostgreSQL database {parts.hostname or 'localhost'}{port}{parts.path}"
