"""What an answer that is none means: a row, another try, a slower pace, another form, or the end of the asking."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

import orjson

from backfill_spark.judges.llm.endpoints import Shape
from backfill_spark.models import ErrorCode

MAX_MESSAGE = 400
SHORTEST_KEY = 12
"""Characters; shorter ones are words such as EMPTY, which servers without keys are given."""
_KEYS = re.compile(
    r"(?i)\b(?:sk|pk|rk)[-_][a-z0-9_*-]{6,}|\b(?:bearer|basic)\s+[^\s\"',;]{6,}|\bdapi[a-z0-9]{8,}|\beyj[a-z0-9_.-]{10,}"
    r"|[a-z0-9+/_-]{40,}={0,2}"
)

# What servers say, in lower case with spaces for `_` and `-`. Each pattern was met at several providers.
_NO_CREDIT = re.compile(
    r"insufficient (?:quota|balance|credit|funds)|exceeded your (?:current |monthly )?quota|credit balance"
    r"|(?:no|out of) credits?|(?:used|spent) all (?:available )?credits|billing (?:hard limit|not active)|arrearage"
)
_USED_UP = re.compile(
    r"(?:spend(?:ing)?|usage) limit|(?:requests|tokens) per (?:day|month)|perday|per model per day|daily limit"
)
_PASSES = re.compile(r"per ?minute|\bminute|per ?second|\brpm\b|\btpm\b")
_FORM = re.compile(
    r"response format|json schema|structured output|tool choice|guided json|input schema|requested parameters"
)
_LIMIT_FIELDS = ("max_completion_tokens", "max_tokens")
_UNSUPPORTED = re.compile(
    r"unsupported|not supported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|forbidden|\binstead of\b"
    r"|not allowed|use .{0,3}max (?:completion )?tokens.{0,3} instead|incompatible"
)
_CONTEXT = re.compile(
    r"context (?:length|window|size|limit)|max(?:imum)? (?:context|prompt|input|model|sequence) (?:length|len|tokens)"
    r"|(?:prompt|input|request|message|content|text)s? (?:is |are |was )?too (?:long|large|big)|string above max length"
    r"|too many (?:input |prompt )?tokens|token count.{0,40}exceed|exceed.{0,40}number of tokens|inputs?.? tokens \+"
    r"|(?:prompt|input)s?\b.{0,60}(?:exceed|longer than|more than).{0,40}(?:length|tokens|limit|characters)"
    r"|exceed context|when context the overflows|context overflow|reduce the length of|entity too large"
)
_LARGE_FOR_RATE = re.compile(r"request too large|must be reduced|larger than the (?:rate )?limit")
_LIMIT, _REQUESTED = re.compile(r"\blimit\b\D{0,5}([\d,]+)"), re.compile(r"\brequested\b\D{0,5}([\d,]+)")
_FILTER = re.compile(
    r"content filter|content management policy|responsibleaipolicy|content policy|safety system|\binvalid prompt\b"
    r"|flagged|usage (?:policy|policies|guidelines)|guardrail|moderation|data ?inspection|inappropriate content"
    r"|(?:sensitive|prohibited) content|content exists risk|safety (?:filter|setting|check|reason)"
    r"|prompt (?:was )?blocked|blockreason"
)
_NO_PERMISSION = re.compile(
    r"^(?:permission (?:error|denied)|permission|invalid api key|access denied|authenticat\w*)\b"
)
# Of an error that is told with status 200 and no number: the status that it would have had.
_STATUS_WORDS = (
    (429, re.compile(r"rate.?limit|throttl|too many requests|quota|resource exhausted|request limit exceeded")),
    (401, re.compile(r"authentication|api key|unauthori[sz]ed")),
    (403, re.compile(r"permission|forbidden")),
    (404, re.compile(r"not found")),
    (400, re.compile(r"invalid|bad request|badrequest|unprocessable")),
)
_WAIT_TEXT = re.compile(
    r"(?:try again|retry|wait)\D{0,30}?((?:\d+(?:\.\d+)?\s*(?:ms|milliseconds?|h(?:ours?)?|m(?:in(?:ute)?s?)?"
    r"|s(?:ec(?:ond)?s?)?)(?![a-z])[\s,]*)+)"
)
_WAIT_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|mil|h|m|s)")
_WAIT_FIELD = re.compile(
    r'"retry[-_]?(?:delay|after)(?:_?(?:in_)?(ms|seconds|s))?"\s*:\s*"?(\d+(?:\.\d+)?)(ms|s)?[",}\s]'
)
_UNITS = {"ms": 1e-3, "mil": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TITLE = re.compile(r"(?is)<title[^>]*>(.*?)</title>")

_RETRIED = frozenset({408, 409, 425})
_STOPPING = {401: "its key is not accepted", 402: "it wants to be paid"}
_CODE_FIELDS = ("code", "type", "error_code", "__type", "status", "param", "loc", "reason", "reasons", "quotaid")
_SAYING_FIELDS = ("message", "msg", "error_msg", "error_message", "detail", "title", "error", "raw")
_INNER_FIELDS = ("error", "errors", "detail", "details", "innererror", "inner_error", "metadata", "raw", "violations")
_ANSWER_FIELDS = ("choices", "content", "output", "candidates")


class Action(StrEnum):
    """What to do about a fault."""

    ROW = "row"
    """This question has an error row; not asked again."""
    RETRY = "retry"
    """Ask again later, within deadline and retry budget."""
    SLOW = "slow"
    """Ask again later, and everything slower."""
    RESHAPE = "reshape"
    """Ask again at once in another form."""
    UNSURE = "unsure"
    """A row when the endpoint answers others, else the end of the asking."""
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


def fault_of(status: int, headers: Mapping[str, str], body: bytes, shape: Shape, *, sent: int | None = None) -> Fault:
    """Classify an answer that is none.

    Args:
        status: HTTP status, or the one that an error in the body of another status tells.
        headers: Of the answer.
        body: As it came.
        shape: Form of the request.
        sent: HTTP status, where it is another one.
    """
    codes, message = _told(body)
    shown = f"HTTP {sent or status}"
    if code := (codes[0] if codes else str(status) if sent else ""):
        shown += f" ({code})"
    shown_whole = f"{shown}: {message}" if message else shown
    # Only what is meant as a message: a body may repeat the prompt, which may hold any words.
    text = _plain(" ".join([*codes, message]))
    wait = _wait_of(headers, body, message)
    if 200 <= status < 300:
        return Fault(Action.ROW, ErrorCode.JUDGE_BAD_OUTPUT, f"HTTP {status} without an answer")
    if 300 <= status < 400:
        return Fault(
            Action.ROW,
            ErrorCode.JUDGE_ERROR,
            f"HTTP {status}: the endpoint redirects, which is not followed. Set its base_url to the final address.",
        )
    if status in (401, 402):
        return Fault(Action.STOP, ErrorCode.JUDGE_ERROR, f"{shown}: {_STOPPING[status]}")
    if status == 429 and _is_too_large(text):
        return Fault(Action.ROW, ErrorCode.TRACE_TOO_LARGE, shown_whole)
    if _FILTER.search(text) and status != 404:
        return Fault(Action.ROW, ErrorCode.JUDGE_REFUSED, shown_whole)
    is_used_up = status in (400, 403, 429) and (_NO_CREDIT.search(text) or (status == 429 and _USED_UP.search(text)))
    if is_used_up and wait is None and not _PASSES.search(text):
        return Fault(Action.STOP, ErrorCode.JUDGE_ERROR, f"{shown}: its quota is used up")
    if status == 429:
        return Fault(Action.SLOW, ErrorCode.JUDGE_RATE_LIMITED, shown_whole, wait)
    if status == 413 or _CONTEXT.search(text):
        return Fault(Action.ROW, ErrorCode.TRACE_TOO_LARGE, shown_whole)
    if status in (403, 451):
        if any(_NO_PERMISSION.search(_plain(c)) for c in codes):
            return Fault(Action.STOP, ErrorCode.JUDGE_ERROR, f"{shown}: it forbids the call")
        return Fault(Action.UNSURE, ErrorCode.JUDGE_REFUSED, shown_whole)
    if status in _RETRIED or status >= 500:
        return Fault(Action.RETRY, ErrorCode.JUDGE_ERROR, shown_whole, wait)
    if status in (400, 404, 422) and (other := _reshaped(text, shape)) is not None:
        return Fault(Action.RESHAPE, ErrorCode.JUDGE_ERROR, shown_whole, shape=other)
    if status == 404:
        return Fault(Action.STOP, ErrorCode.JUDGE_ERROR, f"{shown}: it has no such address or model")
    return Fault(Action.ROW, ErrorCode.JUDGE_ERROR, shown_whole)


def status_told(data: Any) -> int | None:
    """Return the status that the body of an answer with status 200 tells, or None where it tells of no error."""
    error = _error_of(data)
    if error is None:
        return None
    codes, message = _words(error)
    for code in codes:
        if code.isdecimal() and 400 <= int(code) < 600:
            return int(code)
    text = _plain(" ".join([*codes, message]))
    # What is not known may pass: asked again as after a bad gateway.
    return next((status for status, words in _STATUS_WORDS if words.search(text)), 502)


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


def _plain(text: str) -> str:
    return text.lower().replace("_", " ").replace("-", " ")


def _is_too_large(text: str) -> bool:
    """Tell a request that no pause makes fit from one that comes too soon."""
    limit, requested = _LIMIT.search(text), _REQUESTED.search(text)
    if limit and requested and _number(requested[1]) > _number(limit[1]):
        return True
    return _LARGE_FOR_RATE.search(text) is not None


def _number(digits: str) -> int:
    return int(digits.replace(",", "") or 0)


def _wait_of(headers: Mapping[str, str], body: bytes, message: str) -> float | None:
    """Return the seconds that a server asks to wait: in headers, in a field of the body, or in words."""
    seconds = retry_after(headers, datetime.now(UTC))
    if seconds is not None:
        return seconds
    if field := _WAIT_FIELD.search(body[:8_000].decode("utf-8", "replace").lower()):
        return float(field[2]) * (1e-3 if "ms" in (field[1], field[3]) else 1.0)
    if words := _WAIT_TEXT.search(message.lower()):
        return sum(float(n) * _UNITS[unit] for n, unit in _WAIT_PART.findall(words[1]))
    return None


def _reshaped(text: str, shape: Shape) -> Shape | None:
    """Return the form to fall back to when a server says that it does not take this one."""
    field = shape.limit_field
    if field is not None and _plain(field) in text and _UNSUPPORTED.search(text):
        # The longer name first: it also stands in advice to use it.
        other = next((f for f in _LIMIT_FIELDS if f != field and _plain(f) in text), None)
        return replace(shape, limit_field=other)
    if shape.structured and _FORM.search(text):
        return replace(shape, structured=False)
    return None


def _error_of(data: Any) -> Any:
    """Return what a body with status 200 says of an error: at its top, or in its first choice."""
    if isinstance(data, list) and data:
        data = data[0]
    if not isinstance(data, dict):
        return None
    if data.get("error") or data.get("errors") or "error" in (data.get("object"), data.get("type")):
        return data
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, dict) and (choice.get("error") or choice.get("finish_reason") == "error"):
        return choice
    has_answer = any(data.get(name) is not None for name in _ANSWER_FIELDS)
    says_so = any(isinstance(data.get(name), str) for name in ("error_code", "detail", "message", "msg"))
    return data if says_so and not has_answer and "choices" not in data else None


def _told(body: bytes) -> tuple[list[str], str]:
    """Return the codes of an error body, and what it says."""
    try:
        data: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body[:4_000].decode("utf-8", "replace")
        title = _TITLE.search(text)
        is_page = title is not None or text.lstrip().startswith("<")
        return [], (title[1].strip() if title else "" if is_page else text.strip())[:300]
    codes, message = _words(_error_of(data) or data)
    return codes, message[:300]


def _words(data: Any) -> tuple[list[str], str]:
    codes: list[str] = []
    said: list[str] = []
    for name, value in _fields(data, 0):
        if name in _SAYING_FIELDS and isinstance(value, str):
            said.append(value[:2_000])
        elif name in _CODE_FIELDS and type(value) in (str, int) and value not in ("", 200, "error"):
            codes.append(str(value)[:80])
    return codes[:12], (said[0] if len(said) == 1 else " ".join(dict.fromkeys(said[:4])))


def _rank(field: tuple[str, Any]) -> int:
    return _CODE_FIELDS.index(field[0]) if field[0] in _CODE_FIELDS else len(_CODE_FIELDS)


def _fields(data: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the fields of an error that may hold codes and messages, inner ones after their own level."""
    if isinstance(data, list):
        for item in data[:4]:
            yield from _fields(item, depth)
    if not isinstance(data, dict) or depth > 4:
        return
    inner = []
    for name, value in sorted(data.items(), key=_rank):
        lower = name.lower()
        if lower == "raw" and isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                value = orjson.loads(value)  # noqa: PLW2901 - an upstream's body, as text
            except orjson.JSONDecodeError:
                continue
        if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
            value = " ".join(value)  # noqa: PLW2901 - reasons, and the place of a field
        yield lower, value
        if lower in _INNER_FIELDS and isinstance(value, dict | list):
            inner.append(value)
    for value in inner:
        yield from _fields(value, depth + 1)
