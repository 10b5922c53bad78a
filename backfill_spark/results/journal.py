"""Journal of a task: results of slow calls, on disk as they come, for whoever goes on when their runner is gone.

A chunk is staged when it is scored as a whole. What a killed runner had scored of one lies in the journals of its
tasks: Arrow streams, of which a torn end is left out. A task that is asked to stop writes what it has and ends: Spark
alone would let it call on until its next batch, or kill it within a call. Knows no Spark.
"""

from __future__ import annotations

import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

SUFFIX = ".journal"
EVERY_S = 0.05
"""Seconds of calls that a kill may cost a task."""
SLOW = 4_000
"""Results a second; faster ones are not worth a journal. Writing one takes 5 to 10 µs a result."""


class TaskStopped(Exception):  # noqa: N818 - asked for
    """The runner was interrupted or canceled: what its tasks score now is not staged."""


class Journal:
    """Results of one task that no file has yet.

    Args:
        folder: of the job.
        epoch: of the runner that started the task.

    Raises:
        TaskStopped: the runner has asked its tasks to stop.
    """

    def __init__(self, folder: Path, epoch: int = 0) -> None:
        self._stop = _stop_file(folder, epoch)
        self._look()  # Spark starts a task again that has failed
        self._path = folder / f"{secrets.token_hex(16)}{SUFFIX}"
        self._file: Any = None
        self._stream: Any = None
        self._since = time.monotonic()
        self._waiting: list[pa.Table] = []

    def add(self, rows: pa.Table) -> None:
        """Take rows; write what waits when it took long to come."""
        self._waiting.append(rows)
        took, count = time.monotonic() - self._since, sum(map(len, self._waiting))
        if took < EVERY_S:
            return
        if count < SLOW * took:
            self._write(pa.concat_tables(self._waiting))
        self._waiting, self._since = [], time.monotonic()
        self._look()

    def _look(self) -> None:
        if self._stop.exists():
            raise TaskStopped

    def _write(self, rows: pa.Table) -> None:
        if self._stream is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
            self._stream = pa.ipc.new_stream(self._file, rows.schema)
        self._stream.write_table(rows)
        self._file.flush()

    def close(self) -> None:
        """End the journal; its file stays until the chunk is staged."""
        if self._file is not None:
            self._file.close()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let an interrupt pass, which a terminal or a notebook sends to all processes: the runner asks tasks to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ask_to_stop(folder: Path, epoch: int) -> None:
    """Let the tasks of a job's runner end after the calls that are under way."""
    folder.mkdir(parents=True, exist_ok=True)
    _stop_file(folder, epoch).touch()


def _stop_file(folder: Path, epoch: int) -> Path:
    return folder / f"stop-{epoch}"


def journals(folder: Path) -> list[Path]:
    """Return the journals in the folder of a job."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def rows_of(paths: Sequence[Path]) -> list[pa.RecordBatch]:
    """Read journals, as far as they were written."""
    batches: list[pa.RecordBatch] = []
    for path in paths:
        with suppress(pa.ArrowInvalid, OSError, StopIteration), pa.OSFile(str(path)) as source:
            reader = pa.ipc.open_stream(source)
            while True:
                batches.append(reader.read_next_batch())
    return batches
