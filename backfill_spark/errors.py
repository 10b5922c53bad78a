"""Every exception, with the sentence its reader sees.

An exception is built from one message (or a list of problems), so that it survives pickling.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class BackfillError(Exception):
    """Base of every error that backfill_spark raises on purpose."""


class SettingsError(BackfillError, ValueError):
    """A setting is unknown or has a value that cannot be used."""


class SessionError(BackfillError, RuntimeError):
    """No usable Java, Spark or Delta."""


class FilterError(BackfillError, ValueError):
    """A filter string does not parse, or asks for what the grammar does not have."""

    @classmethod
    def at(cls, text: str, position: int, what: str) -> FilterError:
        """Build the message with a caret under character `position` (0-based) of `text`."""
        shown = text.replace("\n", " ").replace("\t", " ").replace("\x00", " ")
        start = max(0, position - 60)
        line = shown[start : start + 120]
        return cls(f"filter_string: {what}\n    {line}\n    {' ' * (position - start)}^")


class TraceSourceError(BackfillError, ValueError):
    """The traces cannot be read: missing table, unknown format, or columns that do not fit."""

    @classmethod
    def missing_columns(cls, source: str, missing: Iterable[str], found: Iterable[str]) -> TraceSourceError:
        """Name the columns that lack, and those that are there."""
        return cls(
            f"The traces at {source!r} lack the columns {sorted(missing)}. Found: {sorted(found)}. "
            "Rename them, or map them with the setting traces.columns, for example {trace_id: my_id}."
        )


class TraceImportError(BackfillError):
    """An import of traces ended on the way; what it has copied stays, and the next one goes on from there."""


class SourceGoneError(BackfillError):
    """The pinned version of the source can no longer be read; `resume --repin` goes on from the newest."""


class SchemaVersionError(BackfillError):
    """A table was written by a newer backfill_spark, or does not have the columns it must have."""


class NameRefusedError(BackfillError, ValueError):
    """A table name or path that no table may have."""


class ScorerLifecycleError(BackfillError, ValueError):
    """A lifecycle call that does not fit the scorer's state."""


class ScorerDefinitionError(BackfillError, ValueError):
    """A scorer that cannot be stored: something in it cannot travel to the executors."""


class ScorerLoadError(BackfillError):
    """A stored scorer that cannot be made callable again."""


class TraceUnreadableError(BackfillError, ValueError):
    """A part of one trace cannot be decoded; costs that trace's results only."""


class PromptTooLargeError(BackfillError, ValueError):
    """A judge's prompt is above the token cap; costs that pair's result only, and no money."""


class JudgeInputError(BackfillError, ValueError):
    """A trace lacks what a judge must see."""


class JudgeOutputError(BackfillError, ValueError):
    """A model's verdict is outside what the judge allows."""


class JobNotFoundError(BackfillError, LookupError):
    """No job has this id."""

    @classmethod
    def for_id(cls, job_id: str, tables: str = "") -> JobNotFoundError:
        where = f" in the tables at {tables}" if tables else ""
        return cls(f"No backfill job has the id {job_id!r}{where}. `backfill-spark list` shows the newest ones.")


class BackfillFailedError(BackfillError):
    """The job ended FAILED. `.job_id` names it."""

    def __init__(self, message: str, job_id: str = "") -> None:
        super().__init__(message, job_id)
        self.message = message
        self.job_id = job_id

    def __str__(self) -> str:
        return self.message


class DeliveryStoppedError(BackfillError):
    """Not all results could be delivered: the sink gives no answer, does not accept the key any more, or rejected some.

    `.job_id` names the job, which has ended.
    """

    def __init__(self, message: str, job_id: str = "") -> None:
        super().__init__(message, job_id)
        self.message = message
        self.job_id = job_id

    def __str__(self) -> str:
        return self.message


class BackfillInterrupted(KeyboardInterrupt):
    """The call was interrupted. `.job_id` names the job, which keeps what it has; "" when there was none yet."""

    def __init__(self, message: str, job_id: str = "") -> None:
        super().__init__(message, job_id)
        self.message = message
        self.job_id = job_id

    @classmethod
    def of_job(cls, job_id: str, done: str) -> BackfillInterrupted:
        """Say what the job has done and how to go on with it."""
        return cls(
            f"Interrupted: job {job_id} keeps what it has done, {done}. resume_backfill({job_id!r}) goes on with it; "
            "the same call again calls only for what is missing.",
            job_id,
        )

    def __str__(self) -> str:
        return self.message

    def _render_traceback_(self) -> list[str]:
        """Show one sentence in a notebook, which asks for this instead of pages of calls."""
        return [self.message]


class LeaseLostError(BackfillError):
    """This runner no longer owns its job: another one claimed it, or its heartbeats did not land."""


class BackfillRefusedError(BackfillError, ValueError):
    """The request was refused before any scorer call; `.problems` lists everything that is wrong."""

    def __init__(self, problems: Sequence[str] | str) -> None:
        super().__init__(problems)
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        return "The backfill was refused:\n" + "\n".join(f"  - {p}" for p in self.problems)


class ScorerNotFoundError(BackfillRefusedError, LookupError):
    """Scorers that are not registered in the experiment; every missing name at once."""

    @classmethod
    def for_names(cls, missing: Sequence[str], known: Iterable[str], experiment_id: str) -> ScorerNotFoundError:
        """Name each missing scorer and the available ones, nearest first."""
        names = sorted(known)
        return cls([not_found_problem(name, names, experiment_id) for name in missing])


def nearest_first(name: str, known: Iterable[str]) -> list[str]:
    """Sort `known` by likeness to `name`, then by name."""
    return sorted(known, key=lambda k: (-difflib.SequenceMatcher(None, name.lower(), k.lower()).ratio(), k))


def not_found_problem(name: str, known: Iterable[str], experiment_id: str) -> str:
    """Return the sentence for one scorer that is not registered."""
    return (
        f"Scheduled scorer {name!r} not found in experiment {experiment_id!r}. "
        f"Available scorers: {nearest_first(name, known)}"
    )


def interrupt_behind(error: BaseException | None, *, earlier: BaseException | None = None) -> BaseException | None:
    """Return the interrupt that `error` is or hides, if any.

    An interrupt closes py4j's connection, and PySpark's own clean-up on the way out may then fail with an error of
    its own: of 400 interrupts, 3 came out as Py4JNetworkError.

    Args:
        earlier: was being handled before the work began, so it is no part of it.
    """
    while error is not None and error is not earlier:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            return error
        error = error.__context__
    return None
