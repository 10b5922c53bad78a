"""What an answer that is none means: a row, another try, a slower pace, another form, or the end of the asking."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

import orjson

from backfill_spark.asking.endpoints import Shape
from backfill_spark.models import ErrorCode

MAX_MESSAGE = 400
SHORTEST_KEY = 12
"""Characters; shorter ones are words such as EMPTY, which servers without keys are given."""
_KEYS = re.compile(
    r"(?i)\b(?:sk|pk|rk)[-_][a-z0-9_*-]{6,}|\b(?:bearer|basic)\s+[^\s\"',;]{6,}|\bdapi[a-z0-9]{8,}|\beyj[a-z0-9_.-]{10,}"
    r"|[a-z0-9+/_-]{40,}={0,2}"
)
_QUOTA = ("insufficient_quota", "billing_hard_limit", "exceeded your current quota", "credit balance is too low")
_FORM = ("response_format", "json_schema", "structured output", "tool_choice", "guided_json", "input_schema")
_LIMIT_FIELDS = ("max_completion_tokens", "max_tokens")
_CONTEXT = (
    "context_length_exceeded",
    "maximum context length",
    "context window",
    "context length",
    "context size",
    "prompt is too long",
    "input is too long",
    "too many tokens",
    "too many input tokens",
    "string_above_max_length",
    "request_too_large",
)
_FILTER = ("content_filter", "content management policy", "responsibleaipolicy", "content_policy", "safety system")
_RETRIED = frozenset({408, 409, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_STOPPING = {401: "its key is not accepted", 402: "it wants to be paid", 403: "it forbids the call"}


class Action(StrEnum):
    """What to do about a fault."""

    ROW = "row"
    """This question has an error row; not asked again."""
    RETRY = "retry"
    """Ask again later, within deadline and retry budget."""
    SLOW = "slow"
    """Ask again later, and everything slower."""
    RESHAPE = "reshape"
    """Ask again at once in another form, and keep to that form."""
    STOP = "stop"
    """Ask nothing more; what has no answer stays due."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One answer that is none, and what to do about it."""

    action: Action
    code: ErrorCode
    message: str
    retry_after: float | None = None
    """Seconds that the server asks to wait."""
    shape: Shape | None = None


def fault_of(status: int, headers: Mapping[str, str], body: bytes, shape: Shape) -> Fault:
    """Classify an answer whose status is not 200."""
    code, message, text = _error_in(body)
    shown = f"HTTP {status}{f' ({code})' if code else ''}{f': {message}' if message else ''}"
    wait = retry_after(headers, datetime.now(UTC))
    if 200 <= status < 300:
        return Fault(Action.ROW, ErrorCode.JUDGE_BAD_OUTPUT, f"HTTP {status} without an answer")
    if 300 <= status < 400:
        return Fault(
            Action.ROW,
            ErrorCode.JUDGE_ERROR,
            f"HTTP {status}: the endpoint redirects, which is not followed. Set its base_url to the final address.",
        )
    if status in _STOPPING or (status in (400, 429) and any(word in text for word in _QUOTA)):
        reason = _STOPPING.get(status, "its quota is used up")
        return Fault(Action.STOP, ErrorCode.JUDGE_ERROR, f"HTTP {status}{f' ({code})' if code else ''}: {reason}")
    if status == 404:
        return Fault(Action.STOP, ErrorCode.JUDGE_ERROR, "HTTP 404: it has no such address or model")
    if status == 429:
        return Fault(Action.SLOW, ErrorCode.JUDGE_RATE_LIMITED, shown, wait)
    if status in _RETRIED:
        return Fault(Action.RETRY, ErrorCode.JUDGE_ERROR, shown, wait)
    if status == 413 or any(word in text for word in _CONTEXT):
        return Fault(Action.ROW, ErrorCode.TRACE_TOO_LARGE, shown)
    if any(word in text for word in _FILTER):
        return Fault(Action.ROW, ErrorCode.JUDGE_REFUSED, shown)
    if status in (400, 422):
        other = _reshaped(text, shape)
        if other is not None:
            return Fault(Action.RESHAPE, ErrorCode.JUDGE_ERROR, shown, shape=other)
    return Fault(Action.ROW, ErrorCode.JUDGE_ERROR, shown)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds that `retry-after-ms` or `Retry-After` (seconds, or an HTTP date) ask to wait."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * unit
        except ValueError:
            try:
                moment = parsedate_to_datetime(text)
            except (ValueError, OverflowError):
                continue
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            seconds = max(0.0, (moment - now).total_seconds())
        if 0 <= seconds < 1e9:
            return seconds
    return None


def scrubbed(text: str, key: str | None) -> str:
    """Return a message on one line without keys, at most MAX_MESSAGE characters."""
    if key:
        text = text.replace(key, "[key]")
    return _KEYS.sub("[key]", " ".join(text[:4_000].split()))[:MAX_MESSAGE]


def without_key(body: bytes, key: str | None) -> bytes:
    """Return an answer that holds no key, should the server or a gateway have repeated it."""
    return body if key is None or len(key) < SHORTEST_KEY else body.replace(key.encode(), b"[key]")


def _reshaped(text: str, shape: Shape) -> Shape | None:
    """Return the form to fall back to when a 400 says that it does not take this one."""
    if shape.limit_field is not None and shape.limit_field in text:
        # The longer name first: it also stands in advice to use it.
        other = next((f for f in _LIMIT_FIELDS if f != shape.limit_field and f in text), None)
        return replace(shape, limit_field=other)
    if shape.structured and any(word in text for word in _FORM):
        return replace(shape, structured=False)
    return None


def _error_in(body: bytes) -> tuple[str, str, str]:
    """Return code and message of an error body, and its start in lower case to look for words in."""
    text = body[:4_000].decode("utf-8", "replace")
    try:
        data: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "", "", text.lower()
    if not isinstance(data, dict):
        return "", "", text.lower()
    inner = data.get("error")
    error = inner if isinstance(inner, dict) else data
    words = [str(error[k]) for k in ("code", "type", "error_code", "param") if isinstance(error.get(k), str | int)]
    message = next((error[k] for k in ("message", "detail", "error") if isinstance(error.get(k), str)), "")
    if words or message:
        # Only these: a body may repeat the prompt, which may hold any words.
        text = " ".join([*words, message[:2_000]])
    return (words[0] if words else "")[:80], message[:300], text.lower()
