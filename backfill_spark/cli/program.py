"""Program: the state of one invocation: settings, where answers go, and what an error exits with."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from backfill_spark.cli.log import level_of
from backfill_spark.display.progress import without_words_of_py4j
from backfill_spark.errors import (
    BackfillError,
    BackfillRefusedError,
    SchemaVersionError,
    SessionError,
    interrupt_behind,
)
from backfill_spark.models import JobState

if TYPE_CHECKING:
    from rich.console import Console

    from backfill_spark.display.render import Sheet
    from backfill_spark.settings.schema import Settings
    from backfill_spark.storage.stores import Stores

REFUSALS = (ValueError, LookupError, SessionError, SchemaVersionError)
"""Errors of ours that mean wrong use or a refused plan; the others mean that something failed."""


class ExitCode(IntEnum):
    """What the shell sees."""

    SUCCEEDED = 0
    FAILED = 1
    REFUSED = 2
    PARTIAL = 3
    STILL_RUNNING = 124
    """`wait --timeout` ran out, as timeout(1) says it."""
    INTERRUPTED = 130
    TERMINATED = 143


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where an interrupt would be, so that the runner lets go of its job the same way."""


def exit_code_of(state: JobState) -> ExitCode:
    """Return what run, resume, wait and work exit with for a job at rest."""
    if state is JobState.SUCCEEDED:
        return ExitCode.SUCCEEDED
    return ExitCode.PARTIAL if state is JobState.PARTIAL else ExitCode.FAILED


class Program:
    """State of one invocation. Tests give their own, with other functions behind `api`."""

    def __init__(self, api: Any = None) -> None:
        self._functions = api
        self.config: str | None = None
        self.values: dict[str, Any] = {}
        self.as_json = False
        self.debug = False
        self.log_level: str | None = None
        self.quiet = False
        self._stdout: TextIO = sys.stdout
        self._answered = False

    @cached_property
    def api(self) -> Any:
        """The functions of the package, told the settings of this invocation."""
        functions = self._functions
        if functions is None:
            from backfill_spark import api

            functions = api
        functions.configure(self.settings)
        return functions

    @cached_property
    def settings(self) -> Settings:
        """Settings of `--config` and `--set`.

        Raises:
            SettingsError: a key is unknown or a value does not fit.
        """
        from backfill_spark.settings.schema import Settings

        return Settings.load(self.config, **self.values)

    @property
    def level(self) -> str:
        """The level from which on the log is written to stderr."""
        return level_of(self.log_level, quiet=self.quiet)

    @cached_property
    def stores(self) -> Stores:
        """Our tables; Spark starts where one needs it."""
        from backfill_spark.storage.stores import Stores

        return Stores(None, self.settings)

    @cached_property
    def out(self) -> Console:
        """Where people read answers; stderr when stdout is for the one JSON object."""
        from backfill_spark.display.render import console

        made = console(sys.stderr if self.as_json else self._stdout)
        made.quiet = self.as_json and self.quiet
        return made

    def answer(self, sheet: Callable[[], Sheet], data: Callable[[], dict[str, Any]]) -> None:
        """Print the answer of a command: a sheet for people, or the object for `--json`."""
        if self.as_json:
            self.answer_object(data())
        else:
            self.out.print(sheet())

    def answer_object(self, body: dict[str, Any]) -> None:
        """With `--json`, print the one object; the first one stands."""
        if self.as_json and not self._answered:
            self._answered = True
            self._stdout.write(json.dumps(body, allow_nan=False) + "\n")
            self._stdout.flush()

    def say(self, text: str) -> None:
        """Print a message on stderr."""
        from backfill_spark.display.render import clean

        click.echo(clean(text, lines=True), err=True)

    @contextlib.contextmanager
    def guarding(self) -> Iterator[None]:
        """Turn errors and signals into messages and exit codes; keep stdout for the answer."""
        self._stdout = sys.stdout
        _forgive_encoding()
        with contextlib.ExitStack() as stack:
            stack.enter_context(_terminating())
            stack.enter_context(without_words_of_py4j())
            try:
                yield
            except (click.exceptions.Exit, click.Abort, SystemExit):
                raise
            except KeyboardInterrupt as interrupt:
                self._interrupted(interrupt)
            except click.ClickException as error:
                if isinstance(error, click.UsageError) and error.ctx is not None:
                    click.echo(error.ctx.get_usage(), err=True)
                self._fail(error, error.format_message(), ExitCode.REFUSED)
            except TimeoutError as error:
                self._fail(error, str(error) or "The time given has run out.", ExitCode.STILL_RUNNING)
            except BackfillError as error:
                refused = isinstance(error, REFUSALS)
                self._fail(error, str(error), ExitCode.REFUSED if refused else ExitCode.FAILED)
            except Exception as error:
                if (hidden := interrupt_behind(error)) is not None:
                    self._interrupted(hidden)
                said = (str(error).strip().splitlines() or [""])[0][:400]
                hint = "" if self.debug else " (--debug shows the traceback)"
                self._fail(error, f"Unexpected {type(error).__name__}: {said}{hint}", ExitCode.FAILED)

    @contextlib.contextmanager
    def only_answers(self) -> Iterator[None]:
        """With `--json`, send whatever else prints (a user's module, a library) to stderr."""
        if not self.as_json:
            yield
            return
        with contextlib.redirect_stdout(sys.stderr):
            yield

    def _interrupted(self, interrupt: BaseException) -> NoReturn:
        job_id = getattr(interrupt, "job_id", "")
        self.say(
            f"Interrupted. `backfill-spark resume {job_id}` goes on with the job, which keeps what it has done; so "
            "does the same command again."
            if job_id
            else "Interrupted. Nothing that was staged is lost: the same command again goes on from there."
        )
        body: dict[str, Any] = {"type": "Interrupted", "message": "interrupted", "problems": []}
        self.answer_object({"error": body | ({"job_id": job_id} if job_id else {})})
        raise click.exceptions.Exit(ExitCode.TERMINATED if isinstance(interrupt, Terminated) else ExitCode.INTERRUPTED)

    def _fail(self, error: BaseException, text: str, code: ExitCode) -> NoReturn:
        if self.debug:
            click.echo("".join(traceback.format_exception(error)), err=True)
        self.say(f"Error: {text}")
        problems = error.problems if isinstance(error, BackfillRefusedError) else [text]
        body: dict[str, Any] = {"type": type(error).__name__, "message": text, "problems": problems}
        if job_id := getattr(error, "job_id", ""):
            body["job_id"] = job_id
        self.answer_object({"error": body})
        raise click.exceptions.Exit(code) from None


def _forgive_encoding() -> None:
    """Print `?` for what the terminal's encoding lacks, instead of failing after the work is done."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """Raise Terminated on SIGTERM inside the `with`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(_signal: int, _frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
