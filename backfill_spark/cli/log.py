"""The log on stderr: what `--log-level` and `--quiet` mean."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from backfill_spark.display.progress import hidden
from backfill_spark.display.render import one_line

LEVELS = ("debug", "info", "warning", "error")
LINE_LENGTH = 300
"""Longest line, in characters; tracebacks at debug are no lines of ours."""


def level_of(wanted: str | None, *, quiet: bool) -> str:
    """Return the level of the log: where a terminal shows a bar, only what needs a look."""
    if wanted is not None or quiet:
        return wanted or "error"
    return "warning" if sys.stderr.isatty() else "info"


@contextmanager
def log_on_stderr(level: str, *, quiet: bool) -> Iterator[None]:
    """Write the log of `backfill_spark` to stderr inside the `with`; `quiet` shows no bar."""
    handler, logger = _Stderr(), logging.getLogger("backfill_spark")
    handler.setFormatter(_Lines("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    try:
        with hidden(when=quiet):
            yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


class _Stderr(logging.Handler):
    """Looks for stderr at each line: a bar puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # a closed stream must not cost the job
            self.handleError(record)


class _Lines(logging.Formatter):
    @staticmethod
    def converter(seconds: float | None) -> time.struct_time:
        return time.gmtime(seconds)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return one_line(super().formatMessage(record), LINE_LENGTH)
