"""What stands in the body of an error: its codes, its message, and how long to wait. Decides nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

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
_CODE_FIELDS = ("code", "type", "error_code", "__type", "status", "param", "loc", "reason", "reasons", "quotaid")
_SAYING_FIELDS = ("message", "msg", "error_msg", "error_message", "detail", "title", "error", "raw")
_INNER_FIELDS = ("error", "errors", "detail", "details", "innererror", "inner_error", "metadata", "raw", "violations")
_ANSWER_FIELDS = ("choices", "content", "output", "candidates")


def status_told(data: Any) -> int | None:
    """Return the status that the body of an answer with status 200 tells, or None where it tells of no error."""
    error = _error_of(data)
    if error is None:
        return None
    codes, message = _words(error)
    for code in codes:
        if code.isdecimal() and 400 <= int(code) < 600:
            return int(code)
    text = plain(" ".join([*codes, message]))
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


def plain(text: str) -> str:
    """Return a text as the patterns of words expect it: in lower case, with spaces for `_` and `-`."""
    return text.lower().replace("_", " ").replace("-", " ")


def wait_of(headers: Mapping[str, str], body: bytes, message: str) -> float | None:
    """Return the seconds that a server asks to wait: in headers, in a field of the body, or in words."""
    seconds = retry_after(headers, datetime.now(UTC))
    if seconds is not None:
        return seconds
    if field := _WAIT_FIELD.search(body[:8_000].decode("utf-8", "replace").lower()):
        return float(field[2]) * (1e-3 if "ms" in (field[1], field[3]) else 1.0)
    if words := _WAIT_TEXT.search(message.lower()):
        return sum(float(n) * _UNITS[unit] for n, unit in _WAIT_PART.findall(words[1]))
    return None


def _error_of(data: Any) -> Any:
    """Return the error in a body with status 200: at its top, or in its first choice."""
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


def told_by(body: bytes) -> tuple[list[str], str]:
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
