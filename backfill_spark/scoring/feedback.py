"""From what a scorer returned, or raised, to result rows. Total: nothing that it is given makes it raise."""

from __future__ import annotations

import inspect
import re
from functools import lru_cache
from typing import Any

from backfill_spark.display.redaction import redacted
from backfill_spark.errors import ScorerLoadError, TraceUnreadableError
from backfill_spark.models import ErrorCode
from backfill_spark.scoring.values import (
    MAX_NAME,
    MAX_TEXT,
    Columns,
    container_columns,
    extra_column,
    failed,
    optional_text,
    safe_text,
    scalar_columns,
    type_name,
)
from backfill_spark.traces.assessment import DEFAULT_FEEDBACK_NAME, TEXT_ERROR, Feedback
from backfill_spark.traces.decode import clean

FIELD_NAMES = (
    "scorer_name",
    "scorer_version",
    "ordinal",
    "assessment_name",
    "value",
    "value_double",
    "value_string",
    "rationale",
    "error_code",
    "error_message",
    "latency_ms",
    "input_digest",
    "extra",
)
"""Names of `schema.RESULT_FIELDS`, spelled here because that module needs Spark; a test holds them equal."""

ResultRow = tuple[Any, ...]
"""One result, in the order of FIELD_NAMES."""

_Tail = tuple[float | None, str | None]
"""Latency in ms and input digest."""
MAX_MESSAGE = 500
_LOOKED_AT = 4_000
"""Characters of a message that are scrubbed at all: an exception may carry megabytes."""
_ACCEPTED = "a scorer returns an int, float, bool, str, None, a Feedback or a list of Feedback"
_SHAPE = ("name", "value", "error", "rationale", "metadata", "span_id", "source")
_UNSEEN = re.compile("[\\s\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")


def result_row(
    scorer: str,
    version: int,
    tail: _Tail = (None, None),
    *,
    ordinal: int = 0,
    name: str | None = None,
    value: str | None = None,
    double: float | None = None,
    text: str | None = None,
    rationale: str | None = None,
    error: tuple[ErrorCode, str] | None = None,
    extra: str | None = None,
) -> ResultRow:
    """Return one row; without a value and an error, that of an empty result."""
    code, message = (None, None) if error is None else (error[0].value, scrub(error[1]))
    return (scorer, version, ordinal, name or scorer, value, double, text, rationale, code, message, *tail, extra)


def normalise(
    value: Any,
    *,
    scorer: str,
    version: int,
    latency_ms: float | None = None,
    input_digest: str | None = None,
) -> list[ResultRow]:
    """Turn what a scorer returned into its rows: one a feedback, one for an empty or unusable result.

    Accepted are int, float, bool, str, their subclasses, numpy scalars, None, `[]`, a Feedback (ours, or
    anything of `mlflow.entities.Feedback`'s shape) and a list of Feedback. All else is a row with an error code.
    Never raises.
    """
    tail = (latency_ms, input_digest)
    try:
        kind = type(value)
        if value is None:
            return [result_row(scorer, version, tail)]
        scalar = scalar_columns(value, kind)
        if scalar is not None:
            return [result_row(scorer, version, tail, **scalar)]
        if issubclass(kind, list):
            # Not list(value): a subclass may have its own, broken, way of iterating.
            items = list.__getitem__(value, slice(None))
            if not items:
                return [result_row(scorer, version, tail)]
        else:
            items = [value]
        if not all(_is_feedback(item) for item in items):
            raise _BadReturnError(_refusal(scorer, value))
        return [_feedback_row(item, scorer, version, n, tail) for n, item in enumerate(items)]
    except _BadReturnError as error:
        message = str(error)
    except BaseException as error:  # properties of a returned object are user code too
        message = f"{scorer} returned a value that cannot be read: {describe(error)}"
    return [failure(ErrorCode.BAD_RETURN_TYPE, message, scorer=scorer, version=version, tail=tail)]


def failure(code: ErrorCode, message: str, *, scorer: str, version: int, tail: _Tail = (None, None)) -> ResultRow:
    """Return the row of a pair that has no value."""
    return result_row(scorer, version, tail, error=(code, message))


def failure_of(error: BaseException) -> tuple[ErrorCode, str]:
    """Return code and message of what a scorer raised."""
    code = ErrorCode.SCORER_ERROR
    kind = type(error)
    if issubclass(kind, MemoryError):
        code = ErrorCode.MEMORY
    elif issubclass(kind, TraceUnreadableError):
        code = ErrorCode.TRACE_UNREADABLE
    elif issubclass(kind, ScorerLoadError):
        code = ErrorCode.LOAD_FAILED
    elif issubclass(kind, ModuleNotFoundError) and safe_text(getattr(error, "name", "")).startswith("mlflow"):
        return code, (
            f"{describe(error)}. The executors have no MLflow, and need none: write "
            "`from backfill_spark import Feedback` (Trace, AssessmentSource, …) in place of MLflow's import."
        )
    return code, describe(error)


def describe(error: BaseException) -> str:
    """Return `Type: message` of an exception, scrubbed; also where its own `str()` fails."""
    name = type_name(error)
    text = scrub(safe_text(error))
    return scrub(f"{name}: {text}") if text else name


def scrub(text: str) -> str:
    """Return `text` on one line, without control characters and what looks like a key, ≤ 500 characters."""
    cut = text[:_LOOKED_AT]
    if len(text) > _LOOKED_AT:
        # A key that the cut halves may no longer look like one.
        cut = re.sub(r"\S{1,200}\Z", "", cut) or cut
    return _scrubbed(cut)


# A scorer that fails on every trace mostly says the same: 40 µs a message without the cache.
@lru_cache(maxsize=256)
def _scrubbed(text: str) -> str:
    text = _UNSEEN.sub(" ", clean(text)).strip()
    text = redacted(text)
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


class _BadReturnError(Exception):
    """The return value is of no accepted kind; says why."""


def _is_feedback(item: Any) -> bool:
    kind = type(item)
    if issubclass(kind, Feedback):
        return True
    # mlflow.entities.Feedback, without MLflow: an Expectation has the same names, and an `expectation` besides.
    return (
        not issubclass(kind, type)
        and all(hasattr(item, name) for name in _SHAPE)
        and getattr(item, "expectation", None) is None
    )


def _refusal(scorer: str, value: Any) -> str:
    kind = type(value)
    if inspect.iscoroutine(value):
        value.close()
        return f"{scorer} returned a coroutine, which nothing awaits; write the scorer with async def."
    if issubclass(kind, list):
        items = list.__getitem__(value, slice(None))
        inner = next((type_name(item) for item in items if not _is_feedback(item)), "nothing")
        return f"{scorer} returned a list with {inner} in it; {_ACCEPTED}."
    return f"{scorer} returned {type_name(value)}; {_ACCEPTED}."


def _feedback_row(item: Any, scorer: str, version: int, ordinal: int, tail: _Tail) -> ResultRow:
    name = _own_name(item.name) or scorer
    rationale = optional_text(item.rationale, MAX_TEXT)
    extra = extra_column(item)
    error, value = item.error, item.value
    columns: Columns | None = {}
    if error is not None:
        columns = failed(ErrorCode.SCORER_ERROR, _error_text(error))
    elif value is not None:
        columns = scalar_columns(value, type(value)) or container_columns(value)
    if columns is None:
        why = (
            f"The feedback {name!r} of {scorer} holds {type_name(value)}; a value is an int, float, bool or str, "
            "or a list or dict (its keys texts) of such."
        )
        columns = failed(ErrorCode.BAD_RETURN_TYPE, why)
    return result_row(scorer, version, tail, ordinal=ordinal, name=name, rationale=rationale, extra=extra, **columns)


def _own_name(name: Any) -> str | None:
    if not issubclass(type(name), str):
        return None
    text = clean(str.__str__(name))[:MAX_NAME]
    return None if text in {"", DEFAULT_FEEDBACK_NAME} else text


def _error_text(error: Any) -> str:
    if isinstance(error, BaseException):
        return describe(error)
    code, message = getattr(error, "error_code", None), getattr(error, "error_message", None)
    if code is None and message is None:
        return safe_text(error)
    code = None if code == TEXT_ERROR and message else code
    return ": ".join(safe_text(part)[:_LOOKED_AT] for part in (code, message) if part)
