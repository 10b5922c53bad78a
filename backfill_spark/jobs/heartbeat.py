"""Heartbeats of runners and cancel marks as small files beside the tables.

Heartbeats as events are Spark jobs, which wait while slow calls hold every task slot: a runner at work would look
dead. A file needs no slot. Its time is the storage's clock, like a commit's. Where the tables have no folder
(`tables.schema`), heartbeats are events.
"""

from __future__ import annotations

import posixpath
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow import fs

    from backfill_spark.settings.schema import Settings


_NO_PLACE = (LookupError, OSError)
"""There is no folder for files, or it cannot be used now: events take their place."""
BEING_WRITTEN = 0
"""Instead of an epoch: a beat is being written at this moment, which is a beat."""


class Heartbeat:
    """The files of all jobs of one set of tables."""

    def __init__(self, settings: Settings, *, is_here: bool = True) -> None:
        """`is_here` is False where the tables' folder is another machine's, as behind a Connect server."""
        tables = settings.tables
        self.folder = None if tables.schema_ or not is_here else f"{settings.root.rstrip('/')}/{tables.prefix}pulse"
        self._is_shared = False

    @property
    def has_folder(self) -> bool:
        """True where beats are files."""
        with suppress(*_NO_PLACE):
            self._place("", "beat")
            return True
        return False

    def beat(self, job_id: str, epoch: int) -> int | None:
        """Say that the runner of `epoch` is alive.

        Returns:
            The newest epoch that has a beat, which is another one when this runner was replaced; None when there is
            no place for files.
        """
        with suppress(*_NO_PLACE):
            files, path = self._place(job_id, "beat")
            newest = self._epoch(files, path) or 0
            if newest <= epoch:
                self._write(files, path, str(epoch))
            return max(newest, epoch)
        return None

    def seen(self, job_id: str, epoch: int) -> float | None:
        """Return when the runner of `epoch` beat last, in seconds since 1970."""
        with suppress(*_NO_PLACE):
            files, path = self._place(job_id, "beat")
            if self._epoch(files, path) in (epoch, BEING_WRITTEN):
                beaten = files.get_file_info(path).mtime_ns
                return None if beaten is None else beaten / 1e9
        return None

    def ask_cancel(self, job_id: str) -> None:
        """Mark a job whose end was asked for, so that its runner need not read events to know."""
        with suppress(*_NO_PLACE):
            self._write(*self._place(job_id, "cancel"), "")

    def is_cancel_asked(self, job_id: str) -> bool | None:
        """True when the mark is there; None when there is no place for it."""
        with suppress(*_NO_PLACE):
            files, path = self._place(job_id, "cancel")
            return bool(files.get_file_info(path).is_file)
        return None

    def clear(self, job_id: str) -> None:
        """Remove the files of an ended job."""
        for kind in ("beat", "cancel"):
            with suppress(*_NO_PLACE):
                files, path = self._place(job_id, kind)
                if files.get_file_info(path).is_file:
                    files.delete_file(path)

    def jobs(self) -> set[str]:
        """Return the ids of the jobs that have files."""
        from pyarrow.fs import FileSelector

        with suppress(*_NO_PLACE):
            files, path = self._place("", "beat")
            found = files.get_file_info(FileSelector(posixpath.dirname(path), allow_not_found=True))
            return {posixpath.splitext(f.base_name)[0] for f in found}
        return set()

    def _place(self, job_id: str, kind: str) -> tuple[fs.FileSystem, str]:
        from pyarrow.fs import FileType

        from backfill_spark.storage.files import filesystem_of

        if self.folder is None:
            raise LookupError("the tables have no folder")
        try:
            files, root = filesystem_of(self.folder)
            if not self._is_shared:
                # Python and Spark may take one address for two places: dbfs:/…, or a relative path after a chdir.
                log = f"{root.removesuffix('pulse')}job_events/_delta_log"
                self._is_shared = files.get_file_info(log).type == FileType.Directory
        except Exception as error:  # an address that pyarrow does not know
            raise LookupError(str(error)) from error
        if not self._is_shared:
            raise LookupError(f"the table job_events is not beside {self.folder}")
        return files, posixpath.join(root, f"{job_id}.{kind}")

    @staticmethod
    def _epoch(files: fs.FileSystem, path: str) -> int | None:
        """Epoch of a job's newest beat; None when there is none."""
        if not files.get_file_info(path).is_file:
            return None
        with files.open_input_stream(path) as stream:
            text = stream.read().decode()
        return int(text) if text.isdecimal() else BEING_WRITTEN

    @staticmethod
    def _write(files: fs.FileSystem, path: str, text: str) -> None:
        files.create_dir(posixpath.dirname(path), recursive=True)
        with files.open_output_stream(path) as stream:
            stream.write(text.encode())
