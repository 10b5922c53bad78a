"""The retry policy: what an answer that is none means, how often and how late it is asked again, and when not."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from backfill_spark.judges.llm.endpoints import Shape
from backfill_spark.judges.llm.error_body import plain, told_by, wait_of
from backfill_spark.models import ErrorCode

CONNECT_S = 10.0
FIRST_CONNECT_S = 4.0
"""While nothing is known to listen there."""
FIRST_CONNECTS = 3
BUDGET_SHARE = 0.05
"""Share of a job's budget that is held back for requests that must be repeated."""

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
_RETRIED = frozenset({408, 409, 425})
_STOPPING = {401: "its key is not accepted", 402: "it wants to be paid"}


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


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often one task asks again, and how late."""

    share: float = 0.2
    """Retries for each of its questions."""
    at_least: int = 20
    """Retries that any task may make, however few its questions are."""
    first_backoff_s: float = 0.5
    """Longest pause before the first retry; it doubles with each try."""
    longest_backoff_s: float = 30.0
    reshapes: int = 3
    """Other forms that one question is asked in."""

    def allows(self, fault: Fault, retries: int, questions: int) -> bool:
        """True when a task that has made `retries` for its `questions` may ask again after `fault`."""
        # A refused request cost nothing and is slowed down already: the retry budget is for the others.
        return fault.action is Action.SLOW or retries < max(self.at_least, self.share * questions)

    def pause(self, fault: Fault, tries: int) -> float:
        """Return the seconds to wait after the `tries`-th request for a question; what the server says wins."""
        if fault.retry_after is not None:
            return fault.retry_after
        return random.uniform(0, min(self.longest_backoff_s, self.first_backoff_s * 2 ** (tries - 1)))


def fault_of(status: int, headers: Mapping[str, str], body: bytes, shape: Shape, *, sent: int | None = None) -> Fault:
    """Classify an answer that is none.

    Args:
        status: HTTP status, or the one that an error in the body of another status tells.
        sent: HTTP status, where it is another one.
    """
    codes, message = told_by(body)
    shown = f"HTTP {sent or status}"
    if code := (codes[0] if codes else str(status) if sent else ""):
        shown += f" ({code})"
    shown_whole = f"{shown}: {message}" if message else shown
    # Only what is meant as a message: a body may repeat the prompt, which may hold any words.
    text = plain(" ".join([*codes, message]))
    wait = wait_of(headers, body, message)
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
        if any(_NO_PERMISSION.search(plain(c)) for c in codes):
            return Fault(Action.STOP, ErrorCode.JUDGE_ERROR, f"{shown}: it forbids the call")
        return Fault(Action.UNSURE, ErrorCode.JUDGE_REFUSED, shown_whole)
    if status in _RETRIED or status >= 500:
        return Fault(Action.RETRY, ErrorCode.JUDGE_ERROR, shown_whole, wait)
    if status in (400, 404, 422) and (other := _reshaped(text, shape)) is not None:
        return Fault(Action.RESHAPE, ErrorCode.JUDGE_ERROR, shown_whole, shape=other)
    if status == 404:
        return Fault(Action.STOP, ErrorCode.JUDGE_ERROR, f"{shown}: it has no such address or model")
    return Fault(Action.ROW, ErrorCode.JUDGE_ERROR, shown_whole)


def unreached(code: ErrorCode, message: str, *, tries: int, is_known: bool) -> Fault:
    """Return the fault of a request that found nobody; at an address that never answered it is soon given up."""
    is_hopeless = not is_known and (tries >= FIRST_CONNECTS or code is ErrorCode.TIMEOUT)
    return Fault(Action.ROW if is_hopeless else Action.RETRY, code, message)


def _is_too_large(text: str) -> bool:
    """True for a request above the limit itself, which no pause makes fit."""
    limit, requested = _LIMIT.search(text), _REQUESTED.search(text)
    if limit and requested and _number(requested[1]) > _number(limit[1]):
        return True
    return _LARGE_FOR_RATE.search(text) is not None


def _number(digits: str) -> int:
    return int(digits.replace(",", "") or 0)


def _reshaped(text: str, shape: Shape) -> Shape | None:
    """Return the form to fall back to when a server says that it does not take this one."""
    field = shape.limit_field
    if field is not None and plain(field) in text and _UNSUPPORTED.search(text):
        # The longer name first: it also stands in advice to use it.
        other = next((f for f in _LIMIT_FIELDS if f != field and plain(f) in text), None)
        return replace(shape, limit_field=other)
    if shape.structured and _FORM.search(text):
        return replace(shape, structured=False)
    return None
