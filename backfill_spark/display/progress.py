"""The progress bar of a running job: pairs done, pairs a second, time left. It never breaks a job."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)

LINE_EVERY_S = 5.0
"""A notebook gets a line of text this often at most, a long job at each twentieth of its time."""


class Progress:
    """Pairs done of a job; a bar on a terminal's stderr, lines in a notebook, else silent.

    Whatever fails in printing is logged once and ends the printing, never the job.
    """

    def __init__(
        self,
        job_id: str,
        *,
        total: int,
        done: int = 0,
        console: Console | None = None,
        notebook: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job_id = job_id
        self.total = total
        self.done = done
        self.errors = 0
        self._console = console
        self._notebook = in_notebook() if notebook is None else notebook
        self._clock = clock
        self._started_at = self._line_at = clock()
        self._started_with = done
        self._bar: Any = None
        self._task: Any = None
        self._broken = total <= 0

    def __enter__(self) -> Self:
        self._guarded(self._open)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._guarded(self._close)

    def advance(self, pairs: int, *, errors: int = 0) -> None:
        """Say that `pairs` more are staged, `errors` of them without a value."""
        self.done += pairs
        self.errors += errors
        self._guarded(self._show)

    @property
    def line(self) -> str:
        """The state in one line of plain text."""
        elapsed = max(self._clock() - self._started_at, 1e-9)
        pace = (self.done - self._started_with) / elapsed
        share = min(100 * self.done // self.total, 100) if self.total else 100
        text = f"{self.job_id}: {self.done:,} of {self.total:,} pairs ({share}%), {pace:,.0f} pairs/s"
        if pace > 0 and self.done < self.total:
            text += f", {_duration((self.total - self.done) / pace)} left"
        return text + (f", {self.errors:,} errors" if self.errors else "")

    def _guarded(self, step: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            step()
        except Exception:  # a closed terminal or a notebook's odd stream must not cost the job
            self._broken = True
            logger.debug("The progress bar of %s failed and stays silent.", self.job_id, exc_info=True)

    def _open(self) -> None:
        if self._notebook:
            return
        from backfill_spark.display.render import console

        shown_on = self._console or console(sys.stderr)
        if not shown_on.is_terminal:
            self._broken = True
            return
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            TimeRemainingColumn(),
            console=shown_on,
        )
        self._bar.start()
        self._task = self._bar.add_task(self.job_id, total=self.total, completed=self.done, numbers="")

    def _show(self) -> None:
        if self._bar is not None:
            pace = (self.done - self._started_with) / max(self._clock() - self._started_at, 1e-9)
            numbers = f"{self.done:,}/{self.total:,} pairs {pace:,.0f} pairs/s"
            numbers += f" {self.errors:,} errors" if self.errors else ""
            self._bar.update(self._task, completed=self.done, numbers=numbers)
        elif self._notebook:
            now = self._clock()
            if now - self._line_at >= max(LINE_EVERY_S, (now - self._started_at) / 20):
                self._line_at = now
                self._print_line()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._notebook:
            self._print_line()

    def _print_line(self) -> None:
        # A notebook paints stderr red, as if the job had failed.
        stream = self._console.file if self._console is not None else sys.stdout
        stream.write(self.line + "\n")
        stream.flush()


def in_notebook() -> bool:
    """True inside a Jupyter or Databricks notebook. Imports nothing."""
    ipython = sys.modules.get("IPython")
    if ipython is None:
        return False
    try:
        return hasattr(ipython.get_ipython(), "kernel")
    except Exception:  # a half-imported or foreign IPython
        return False


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
