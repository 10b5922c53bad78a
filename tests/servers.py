"""Real servers for tests, each in a process of its own, from environments that `scripts/setup servers` makes.

They hold other versions of shared packages than the tests do, so nothing here imports them: a test speaks HTTP, S3 or
SQL, or lets `python_of("mlflow")` run a script.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ENVIRONMENTS = Path(__file__).parents[1] / ".venv-servers"
STARTS_WITHIN_S = 120
"""A server imports for 10 s on an idle machine, and for a minute on a busy one."""
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "PHOENIX_TELEMETRY_ENABLED": "false"}


def python_of(name: str) -> Path:
    """The Python of an environment, `mlflow`, `phoenix` or `moto`: its `bin` holds the server's command."""
    python = ENVIRONMENTS / name / "bin" / "python"
    if not python.exists():
        _lacks(f"there is no {name} server: run scripts/setup servers")
    return python


def run_in(name: str, script: str | Path, *arguments: str, **environment: str) -> str:
    """Run a Python script in an environment, and return what it prints; its errors fail the test."""
    command = [str(python_of(name)), str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(environment), check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@contextlib.contextmanager
def mlflow_server(folder: Path, *, database: str | None = None, options: tuple[str, ...] = ()) -> Iterator[str]:
    """Run `mlflow server`, and yield its address.

    Args:
        folder: where its artifacts and its log go, and `mlflow.db` when no database is named.
        database: of its backend store, such as what `postgres()` yields.
        options: further ones of the command.
    """
    commands = python_of("mlflow").parent
    port = free_port()
    command = [str(commands / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database or f"sqlite:///{folder / 'mlflow.db'}", *options]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    address = f"http://127.0.0.1:{port}"
    with _running(command, folder / "mlflow.log", ready=lambda: _answers(f"{address}/health")):
        yield address


@contextlib.contextmanager
def phoenix_server(folder: Path) -> Iterator[str]:
    """Run Phoenix on a database in `folder`, and yield its address."""
    commands = python_of("phoenix").parent
    port, grpc = free_port(), free_port()
    address = f"http://127.0.0.1:{port}"
    where = {"PHOENIX_HOST": "127.0.0.1", "PHOENIX_PORT": str(port), "PHOENIX_GRPC_PORT": str(grpc)}
    where |= {"PHOENIX_WORKING_DIR": str(folder)}
    log = folder / "phoenix.log"
    with _running([str(commands / "phoenix"), "serve"], log, ready=lambda: _answers(f"{address}/healthz"), **where):
        yield address


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Run moto's server, which speaks S3 and keeps objects in memory, and yield its address; its log is in `folder`."""
    commands = python_of("moto").parent
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [str(commands / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, folder / "moto.log", ready=lambda: _answers(f"{address}/moto-api/")):
        yield address


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run PostgreSQL on an empty database, and yield its address as `postgresql://…`; nobody asks for a password."""
    user = _other_user()
    # Not a folder of pytest's: the other user may not enter it.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    data, port = folder / "data", free_port()
    if user is not None:
        shutil.chown(folder, user)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    options += " -c max_connections=50 -c full_page_writes=off -c synchronous_commit=off"
    made = [_postgres_command("initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8"]
    control = [_postgres_command("pg_ctl"), "-D", str(data), "-w", "-t", str(STARTS_WITHIN_S)]
    try:
        _as(user, [*made, "--locale=C"])
        _as(user, [*control, "-o", options, "-l", str(folder / "log"), "start"])
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            _as(user, [*control, "-m", "immediate", "stop"])
    finally:
        shutil.rmtree(folder)


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _lacks(why: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def _environment(more: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHONPATH"))}
    return kept | QUIET | more


@contextlib.contextmanager
def _running(command: list[str], log: Path, *, ready: Callable[[], bool], **environment: str) -> Iterator[None]:
    """Run a server until the `with` ends; what it says goes to `log`."""
    with log.open("w", encoding="utf-8") as said:
        # A group of its own: servers start workers.
        process = subprocess.Popen(
            command, stdout=said, stderr=said, cwd=log.parent, env=_environment(environment), start_new_session=True
        )
    try:
        until = time.monotonic() + STARTS_WITHIN_S
        while not ready():
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"{command[0]} does not serve:\n{log.read_text(encoding='utf-8')[-4000:]}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _other_user() -> str | None:
    """Whom PostgreSQL runs as where this is root, whom it refuses."""
    if os.getuid() != 0:
        return None
    known = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _postgres_command(name: str) -> str:
    folders = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), key=len)
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        _lacks("there is no PostgreSQL: run scripts/setup servers as root, or install Debian's postgresql")
    return str(found)


def _as(user: str | None, command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=user, cwd="/")
