"""From what a scorer returned, or raised, to result rows. Total: nothing that it is given makes it raise."""

from __future__ import annotations

import inspect
import json
import math
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from typing import Any, NamedTuple, cast

from backfill_spark.display.redaction import redacted
from backfill_spark.errors import ScorerLoadError, TraceUnreadableError
from backfill_spark.models import ErrorCode
from backfill_spark.traces.assessment import DEFAULT_FEEDBACK_NAME, DEFAULT_SOURCE_ID, TEXT_ERROR, Feedback

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
"""Names of `tables.RESULT_FIELDS`, spelled here because that module needs Spark; a test holds them equal."""

ResultRow = tuple[
    str,
    int,
    int,
    str,
    str | None,
    float | None,
    str | None,
    str | None,
    str | None,
    str | None,
    float | None,
    str | None,
    str | None,
]
"""One result, in the order of FIELD_NAMES."""

MAX_TEXT = 64_000
"""Characters of a value or rationale."""
MAX_MESSAGE = 500
MAX_NAME = 250
"""Characters of an assessment's name or of a metadata key: MLflow's own limit."""

_LOOKED_AT = 4_000
"""Characters of a message that are scrubbed at all: an exception may carry megabytes."""
_ACCEPTED = "a scorer returns an int, float, bool, str, None, a Feedback or a list of Feedback"
_SHAPE = ("name", "value", "error", "rationale", "metadata", "span_id", "source")
_YES_NO = {"yes": 1.0, "no": 0.0}
_SOURCE_TYPES = {"CODE": "CODE", "LLM_JUDGE": "LLM_JUDGE", "AI_JUDGE": "LLM_JUDGE", "HUMAN": "HUMAN"}
_UNSEEN = re.compile("[\\s\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")


class _Scalar(NamedTuple):
    """A value as the three columns that hold it; or, without `value`, why there is none."""

    value: str | None = None
    double: float | None = None
    text: str | None = None
    error: tuple[ErrorCode, str] | None = None


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
            return [_empty(scorer, version, tail)]
        scalar = _scalar(value, kind)
        if scalar is not None:
            return [_row(scalar, scorer, version, 0, scorer, tail)]
        if issubclass(kind, list):
            # Not list(value): a subclass may have its own, broken, way of iterating.
            items = list.__getitem__(value, slice(None))
            if not items:
                return [_empty(scorer, version, tail)]
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


def failure(
    code: ErrorCode,
    message: str,
    *,
    scorer: str,
    version: int,
    ordinal: int = 0,
    tail: tuple[float | None, str | None] = (None, None),
) -> ResultRow:
    """Return the row of a pair, or of one of its feedbacks, that has no value; `tail` is latency and input digest."""
    return (scorer, version, ordinal, scorer, None, None, None, None, code.value, scrub(message), *tail, None)


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
    elif issubclass(kind, ModuleNotFoundError) and _safe_text(getattr(error, "name", "")).startswith("mlflow"):
        return code, (
            f"{describe(error)}. The executors have no MLflow, and need none: write "
            "`from backfill_spark import Feedback` (Trace, AssessmentSource, …) in place of MLflow's import."
        )
    return code, describe(error)


def describe(error: BaseException) -> str:
    """Return `Type: message` of an exception, scrubbed; also where its own `str()` fails."""
    name = _type_name(error)
    text = scrub(_safe_text(error))
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


def clean(text: str) -> str:
    """Return `text` as UTF-8 can hold it: lone surrogates become U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class _BadReturnError(Exception):
    """The return value is of no accepted kind; says why."""


def _safe_text(value: object) -> str:
    try:
        return str.__str__(str(value))
    except BaseException:
        return "<str failed>"


def _type_name(value: object) -> str:
    try:
        return str.__str__(type(value).__name__)[:100]
    except BaseException:
        return "an unnamed type"


def _empty(scorer: str, version: int, tail: tuple[float | None, str | None]) -> ResultRow:
    return (scorer, version, 0, scorer, None, None, None, None, None, None, *tail, None)


def _row(
    scalar: _Scalar,
    scorer: str,
    version: int,
    ordinal: int,
    name: str,
    tail: tuple[float | None, str | None],
    rationale: str | None = None,
    extra: str | None = None,
) -> ResultRow:
    code, message = (None, None) if scalar.error is None else scalar.error
    return (
        scorer,
        version,
        ordinal,
        name,
        scalar.value,
        scalar.double,
        scalar.text,
        rationale,
        None if code is None else code.value,
        None if message is None else scrub(message),
        *tail,
        extra,
    )


def _scalar(value: Any, kind: type) -> _Scalar | None:
    """Return the columns of a bool, number or text, or None for anything else."""
    # type(), not isinstance(): an object may lie about its __class__.
    if kind is bool:
        return _Scalar("true" if value else "false", float(value))
    if issubclass(kind, str):
        return _text_scalar(str.__str__(value))
    if issubclass(kind, int):
        return _int_scalar(int.__int__(value))
    if issubclass(kind, float):
        return _float_scalar(float.__float__(value))
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, numpy.generic):
        inner = value.item()
        if type(inner) is kind:  # longdouble has no Python counterpart
            inner = float(value) if issubclass(kind, numpy.floating) else None
        return None if inner is None else _scalar(inner, type(inner))
    return None


class _BadPartError(Exception):
    """A part of a list or dict that cannot be stored: its code, and why."""


def _container(value: Any) -> _Scalar | None:
    """Return the columns of a list or dict as JSON text, or None for anything else."""
    if not issubclass(type(value), list | dict):
        return None
    try:
        text = clean(json.dumps(_json_of(value), ensure_ascii=False, separators=(",", ":")))
    except _BadPartError as error:
        return _Scalar(error=(error.args[0], f"In a {_type_name(value)}: {error.args[1]}"))
    except RecursionError:
        return _Scalar(error=(ErrorCode.BAD_RETURN_TYPE, f"A {_type_name(value)} that nests too deeply."))
    if len(text) > MAX_TEXT:
        why = f"A {_type_name(value)} of {len(text):,} characters of JSON; the longest value is {MAX_TEXT:,}."
        return _Scalar(error=(ErrorCode.VALUE_TOO_LONG, why))
    return _Scalar(text)


def _json_of(value: Any) -> Any:
    kind = type(value)
    if value is None:
        return None
    if issubclass(kind, list):
        return [_json_of(item) for item in list.__iter__(value)]
    if issubclass(kind, dict):
        odd = next((key for key in dict.keys(value) if not issubclass(type(key), str)), None)
        if odd is not None:
            raise _BadPartError(ErrorCode.BAD_RETURN_TYPE, f"A key is {_type_name(odd)}; keys are texts.")
        return {str.__str__(key): _json_of(item) for key, item in dict.items(value)}
    scalar = _scalar(value, kind)
    if scalar is None:
        raise _BadPartError(ErrorCode.BAD_RETURN_TYPE, f"{_type_name(value)} is nothing that JSON has.")
    if scalar.value is None:
        raise _BadPartError(*(scalar.error or ()))
    return json.loads(scalar.value)


def _text_scalar(value: str) -> _Scalar:
    if len(value) > MAX_TEXT:
        why = f"A text of {len(value):,} characters; the longest value is {MAX_TEXT:,}. Return less of it."
        return _Scalar(error=(ErrorCode.VALUE_TOO_LONG, why))
    text = clean(value)
    return _Scalar(quoted(text), _YES_NO.get(text.lower()) if len(text) < 4 else None, text)


def _int_scalar(value: int) -> _Scalar:
    try:
        double = float(value)
    except OverflowError:
        why = f"An integer of {value.bit_length():,} bits; a value must fit a double (below 1.8e308)."
        return _Scalar(error=(ErrorCode.VALUE_OUT_OF_RANGE, why))
    return _Scalar(int.__repr__(value), double)


def _float_scalar(value: float) -> _Scalar:
    if not math.isfinite(value):
        why = f"{value!r} is not a finite number; return None where there is no value."
        return _Scalar(error=(ErrorCode.VALUE_NOT_FINITE, why))
    return _Scalar(float.__repr__(value), value)


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
        inner = next((_type_name(item) for item in items if not _is_feedback(item)), "nothing")
        return f"{scorer} returned a list with {inner} in it; {_ACCEPTED}."
    return f"{scorer} returned {_type_name(value)}; {_ACCEPTED}."


def _feedback_row(
    item: Any, scorer: str, version: int, ordinal: int, tail: tuple[float | None, str | None]
) -> ResultRow:
    name = _own_name(item.name) or scorer
    rationale = _optional_text(item.rationale, MAX_TEXT)
    extra = _extra(item)
    error, value = item.error, item.value
    if error is not None:
        scalar = _Scalar(error=(ErrorCode.SCORER_ERROR, _error_text(error)))
    elif value is None:
        scalar = _Scalar()
    else:
        found = _scalar(value, type(value)) or _container(value)
        if found is None:
            why = (
                f"The feedback {name!r} of {scorer} holds {_type_name(value)}; a value is an int, float, bool or str, "
                "or a list or dict (its keys texts) of such."
            )
            found = _Scalar(error=(ErrorCode.BAD_RETURN_TYPE, why))
        scalar = found
    return _row(scalar, scorer, version, ordinal, name, tail, rationale, extra)


def _own_name(name: Any) -> str | None:
    if not issubclass(type(name), str):
        return None
    text = clean(str.__str__(name))[:MAX_NAME]
    return None if text in {"", DEFAULT_FEEDBACK_NAME} else text


def _optional_text(value: Any, limit: int) -> str | None:
    if value is None:
        return None
    text = str.__str__(value) if issubclass(type(value), str) else _safe_text(value)
    return clean(text[:limit])


def _error_text(error: Any) -> str:
    if isinstance(error, BaseException):
        return describe(error)
    code, message = getattr(error, "error_code", None), getattr(error, "error_message", None)
    if code is None and message is None:
        return _safe_text(error)
    code = None if code == TEXT_ERROR and message else code
    return ": ".join(_safe_text(part)[:_LOOKED_AT] for part in (code, message) if part)


def _extra(item: Any) -> str | None:
    """Return what few feedbacks have as a JSON object, see `tables.EXTRA`."""
    found: dict[str, Any] = {}
    span_id = _optional_text(item.span_id, MAX_NAME)
    if span_id:
        found["span_id"] = span_id
    source = item.source
    if source is not None:
        kind = _SOURCE_TYPES.get(_safe_text(getattr(source, "source_type", "")).upper())
        who = _optional_text(getattr(source, "source_id", None), MAX_NAME)
        is_default = kind == "CODE" and who == DEFAULT_SOURCE_ID
        if kind is not None and not is_default:
            found["source_type"] = kind
        if who and who != DEFAULT_SOURCE_ID:
            found["source_id"] = who
    metadata = _metadata(item.metadata)
    if metadata:
        found["metadata"] = metadata
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")) if found else None


def _metadata(value: Any) -> dict[str, str | None]:
    if not isinstance(value, Mapping):
        return {}
    return {
        cast("str", _optional_text(_plain(k), MAX_NAME)): _optional_text(_plain(v), MAX_TEXT) for k, v in value.items()
    }


def _plain(value: Any) -> Any:
    """Return JSON text of a number, truth value or container, and anything else as it is."""
    if value is None or issubclass(type(value), str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_safe_text)
    except BaseException:
        return _safe_text(value)
