"""Progress of a running job: pairs done, pace and time left, told by a bar, by lines and in the log alike.

Nothing that fails in showing it breaks a job.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from backfill_spark.display.render import duration, one_line

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)
J = TypeVar("J")

LINE_EVERY_S = 5.0
"""A notebook gets a line of text this often at most, a long job at each twentieth of its time."""
KNOWN_AT = 0.1
"""Share of a job's pairs from which the first chunk alone tells the pace."""

_hidden: ContextVar[bool] = ContextVar("backfill_spark_progress_hidden", default=False)


class Progress:
    """Pairs done of a job, how fast and for how long still.

    Entered, it shows a bar on a terminal's stderr or lines in a notebook. `tell` writes to the log in any case.
    """

    def __init__(
        self,
        job_id: str,
        *,
        total: int,
        done: int = 0,
        noun: str = "pairs",
        console: Console | None = None,
        notebook: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job_id = job_id
        self.total = total
        self.done = done
        self.errors = 0
        self.noun = noun
        self._console = console
        self._notebook = in_notebook() if notebook is None else notebook
        self._clock = clock
        self._started_at = self._line_at = clock()
        self._bar: Any = None
        self._is_shown = False
        self._unmerged = 0
        self._merging: int | None = None
        """Pairs of the MERGE under way."""
        self._merge_s_per_pair = 0.0
        self.begin(total - done)

    def begin(self, pairs: int, *, later: int = 0) -> None:
        """Begin a part of the job: `pairs` that are done at one pace, and `later` ones that are done at another."""
        self.total = self.done + pairs + later
        self._pairs, self._later = pairs, later
        self._from, self._from_at, self._chunks = self.done, self._clock(), 0
        self.pairs_per_s: float | None = None
        """Pace of scoring and staging, without MERGEs; None until it is known."""
        self._ends_at: float | None = None

    def advance(self, pairs: int, *, errors: int = 0) -> None:
        """Count a chunk of `pairs` that is staged, `errors` of them without a value."""
        self.done += pairs
        self.errors += errors
        self._unmerged += pairs
        self._chunks += 1
        self._measure()
        self._guarded(self._show)

    def discount(self, pairs: int) -> None:
        """Take pairs out of the pace that were counted last, and that an earlier runner or another job has scored."""
        self._from += pairs
        self._chunks -= 1
        self._measure()

    @contextmanager
    def merging(self, pairs: int) -> Iterator[None]:
        """Show that a MERGE of `pairs` is under way, and take its time out of the pace."""
        began, self._merging = self._clock(), pairs
        self._guarded(lambda: self._show(at_once=True))
        try:
            yield
        finally:
            self._merging = None
            self._from_at += self._clock() - began
        self._merge_s_per_pair = (self._clock() - began) / max(pairs, 1)
        self._unmerged = 0
        self._measure()
        self._guarded(self._show)

    def _measure(self) -> None:
        """Take the pace, and from it the end; nothing is known of what comes after the part.

        The first chunk pays for the start of Python workers: alone it tells the pace only of a tenth of the pairs.
        """
        done, seconds, now = self.done - self._from, self._clock() - self._from_at, self._clock()
        if self._chunks == 1 and done < KNOWN_AT * self._pairs:
            self._from, self._from_at, done = self.done, now, 0
        self.pairs_per_s = done / seconds if done > 0 and seconds > 0 else None
        left = self.total - self.done
        self._ends_at = None
        if self.pairs_per_s and left > 0 and not self._later:
            self._ends_at = now + left / self.pairs_per_s + (left + self._unmerged) * self._merge_s_per_pair

    @property
    def elapsed_s(self) -> float:
        """Seconds since this runner began."""
        return self._clock() - self._started_at

    @property
    def left_s(self) -> float | None:
        """Seconds left; None while nobody can know them."""
        left = None if self._ends_at is None else self._ends_at - self._clock()
        return left if left is not None and left > 0 else None

    @property
    def pace(self) -> str:
        """Pace, time left and errors, as far as they are known."""
        parts = []
        if self.pairs_per_s is not None:
            parts.append(f"{self.pairs_per_s:,.0f} {self.noun}/s")
        if self._merging is not None:
            parts.append(f"merging {self._merging:,} {self.noun}")
        elif (left := self.left_s) is not None:
            parts.append(f"{duration(left)} left")
        if self.errors:
            parts.append(f"{self.errors:,} errors")
        return ", ".join(parts)

    @property
    def counts(self) -> str:
        """What is done, how fast, and how long the rest will take."""
        return ", ".join(filter(None, (self.done_text, self.pace)))

    @property
    def done_text(self) -> str:
        """What is done."""
        share = min(100 * self.done // self.total, 100) if self.total else 100
        return f"{self.done:,} of {self.total:,} {self.noun} ({share}%)"

    @property
    def line(self) -> str:
        """The state in one line of plain text."""
        return f"{self.job_id}: {self.counts}"

    def tell(self, what: str) -> None:
        """Log what was done last, and how far the job is."""
        tell(f"job {self.job_id}: {what}; {self.counts}")

    def _guarded(self, step: Callable[[], None]) -> None:
        if not self._is_shown:
            return
        try:
            step()
        except Exception:  # a closed terminal or a notebook's odd stream must not cost the job
            self._is_shown = False
            logger.debug("The progress bar of %s failed and stays silent.", self.job_id, exc_info=True)

    def __enter__(self) -> Self:
        self._is_shown = self.total > 0 and not _hidden.get()
        self._guarded(self._open)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._guarded(self._close)

    def _open(self) -> None:
        if self._notebook:
            self._print_line()  # the id, before anything is called
            return
        from backfill_spark.display.render import console

        shown_on = self._console or console(sys.stderr)
        if not shown_on.is_terminal:
            self._is_shown = False
            return
        from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            SpinnerColumn(),
            BarColumn(),
            TaskProgressColumn(),
            # Read anew at each of rich's refreshes, some ten a second: the time left goes on while a chunk is scored.
            TextColumn(
                "{task.fields[job].done:,}/{task.fields[job].total:,} {task.fields[job].noun} {task.fields[job].pace}",
                markup=False,
            ),
            console=shown_on,
            get_time=self._clock,
        )
        # On a line of its own, since both do not fit into 80 columns.
        shown_on.print(self.job_id, markup=False, highlight=False)
        self._bar.start()
        self._task = self._bar.add_task("", total=self.total, completed=self.done, job=self)

    def _show(self, *, at_once: bool = False) -> None:
        if self._bar is not None:
            # Without a total rich's bar moves to and fro.
            self._bar.update(self._task, completed=self.done, total=self.total if self._merging is None else None)
        elif self._notebook:
            now = self._clock()
            if at_once or now - self._line_at >= max(LINE_EVERY_S, (now - self._started_at) / 20):
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


def following(look: Callable[[], J]) -> Iterator[J]:
    """Yield a job again and again, and show how far its runner in another process is, as far as its events tell."""
    job: Any = look()
    with Progress(job.job_id, total=_due(job), done=_done(job)) as bar:
        while True:
            yield job
            job = look()
            if _due(job) != bar.total:  # a runner has counted again
                bar.done = _done(job)
                bar.begin(_due(job) - bar.done)
            if (more := _done(job) - bar.done) > 0:
                bar.advance(more, errors=sum(c.errored for c in job.counts.values()) - bar.errors)
                bar.tell(str(job.state))


def _due(job: Any) -> int:
    return sum(int(c.due) for c in job.counts.values())


def _done(job: Any) -> int:
    return _due(job) - sum(int(c.left) for c in job.counts.values())


def tell(text: str) -> None:
    """Write one line at INFO to the log of `backfill_spark`."""
    logger.info("%s", one_line(text))


@contextmanager
def hidden(*, when: bool) -> Iterator[None]:
    """Show no bar and no lines inside the `with`; the log is not touched."""
    token = _hidden.set(when)
    try:
        yield
    finally:
        _hidden.reset(token)


@contextmanager
def without_words_of_py4j() -> Iterator[None]:
    """Leave out what py4j logs of an interrupt, and of the calls that it broke: it is raised as well."""
    root, log = logging.getLogger(), logging.getLogger("py4j")
    level = log.level
    log.setLevel(logging.CRITICAL)
    root.addFilter(_is_not_of_py4j)
    try:
        yield
    finally:
        root.removeFilter(_is_not_of_py4j)
        log.setLevel(level)


def _is_not_of_py4j(record: logging.LogRecord) -> bool:
    """Its calls are logged by the root logger, so that no level of its own keeps them out."""
    return not str(record.msg).endswith("while sending command.")


def in_notebook() -> bool:
    """True inside a Jupyter or Databricks notebook. Imports nothing."""
    ipython = sys.modules.get("IPython")
    if ipython is None:
        return False
    try:
        return hasattr(ipython.get_ipython(), "kernel")
    except Exception:  # a half-imported or foreign IPython
        return False
