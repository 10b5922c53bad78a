"""How fast one task may ask: two token buckets (requests, tokens) whose rates follow what the server says.

A task starts with its share of the configured rate and one second's worth of burst. Headers that tell what is
left of the quota replace that guess; a 429 lowers the rate to 0.7 of what passed, and successes raise it again
by 0.5 per second or more (AIMD), never above the configured rate. `Retry-After` always wins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import inf

DECREASE = 0.7
INCREASE = 0.5
INCREASE_SHARE = 0.02
"""Of the ceiling, where that is more: a quota of 100 a second must not take a minute to climb back."""
SEARCH_SHARE = 0.2
WINDOW_S = 0.5
"""Length over which the pace of successes is measured."""
LEAST_RATE = 0.05
COOL_DOWN_S = 1.0
"""Refusals this close together are one: the calls in flight are refused for the same reason."""


class Bucket:
    """Tokens that refill at a rate per second up to a capacity; the level may be negative."""

    __slots__ = ("at", "capacity", "ceiling", "level", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.ceiling = rate
        self.capacity = max(1.0, rate)
        self.level = self.capacity
        self.at = now

    def refill(self, now: float) -> None:
        """Add what has come since the last time."""
        if now > self.at:
            self.level = min(self.capacity, self.level + (now - self.at) * self.rate)
            self.at = now

    def delay(self, amount: float) -> float:
        """Return the seconds until `amount` fits; an amount above the capacity fits a full bucket."""
        missing = min(amount, self.capacity) - self.level
        return 0.0 if missing <= 1e-9 else missing / self.rate


class Limiter:
    """Limits one task. A broker that hands out shares over a cluster may take its place: four methods.

    Args:
        rpm: Requests per minute of the endpoint, over all tasks; None: only what the server says.
        tpm: Tokens per minute of the endpoint, over all tasks.
        tasks: Tasks that share these rates.
    """

    def __init__(
        self,
        rpm: float | None = None,
        tpm: float | None = None,
        *,
        tasks: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._share = 1.0 / max(1, tasks)
        now = clock()
        self._requests = None if rpm is None else Bucket(rpm / 60 * self._share, now)
        self._tokens = None if tpm is None else Bucket(tpm / 60 * self._share, now)
        self._paused_until = now
        self._cool_until = now
        self._window = (now, 0)
        self._pace = inf
        """Successes per second in the last whole window; unknown at first."""
        self.in_flight = 0
        """Requests sent and not answered yet."""
        self._tokens_in_flight = 0.0

    def delay(self, tokens: float) -> float:
        """Return the seconds to wait before a request of `tokens` may be sent; 0 means now."""
        now = self._clock()
        wait = self._paused_until - now
        for bucket, amount in ((self._requests, 1.0), (self._tokens, tokens)):
            if bucket is not None:
                bucket.refill(now)
                wait = max(wait, bucket.delay(amount))
        return max(0.0, wait)

    def sent(self, tokens: float) -> None:
        """Charge one request and the tokens that it may use at most."""
        self.in_flight += 1
        self._tokens_in_flight += tokens
        if self._requests is not None:
            self._requests.level -= 1
        if self._tokens is not None:
            self._tokens.level -= tokens

    def answered(self, charged: float, used: float | None, headers: Mapping[str, str], *, succeeded: bool) -> None:
        """Take back what a request did not use, and learn from the headers of its answer."""
        self.dropped(charged)
        now = self._clock()
        if self._tokens is not None and used is not None:
            self._tokens.level = min(self._tokens.capacity, self._tokens.level + charged - used)
        self._learn(headers, now)
        bucket = self._requests
        if succeeded:
            self._count(now)
        if succeeded and bucket is not None and bucket.rate < bucket.ceiling:
            # A success each 1/rate seconds: the rate rises by this much per second.
            # With nothing configured the quota is unknown, and is looked for in larger steps.
            share = INCREASE_SHARE * bucket.ceiling if bucket.ceiling != inf else SEARCH_SHARE * bucket.rate
            more = max(INCREASE, share)
            bucket.refill(now)
            bucket.rate = min(bucket.ceiling, bucket.rate + more / bucket.rate)

    def refused(self, charged: float, retry_after: float | None, headers: Mapping[str, str]) -> None:
        """Slow down after a 429; `retry_after` is in seconds."""
        self.dropped(charged)
        now = self._clock()
        if self._requests is None:
            self._requests = Bucket(max(1.0, self._window[1] if self._pace == inf else self._pace), now)
            self._requests.ceiling = inf
        self._learn(headers, now)
        bucket = self._requests
        bucket.refill(now)
        if now >= self._cool_until:
            bucket.rate = max(min(bucket.rate, LEAST_RATE), DECREASE * min(bucket.rate, self._pace))
            self._cool_until = now + COOL_DOWN_S
        wait = 1.0 / bucket.rate if retry_after is None else retry_after
        self._paused_until = max(self._paused_until, now + wait)
        # The server said when one request fits again, not how many: one is there when the pause ends.
        bucket.level = min(bucket.level, 1.0 - (self._paused_until - now) * bucket.rate)

    def dropped(self, charged: float) -> None:
        """Count a request as answered, with nothing to learn from it."""
        self.in_flight -= 1
        self._tokens_in_flight -= charged

    def _count(self, now: float) -> None:
        start, count = self._window
        if now - start >= WINDOW_S:
            self._pace = count / (now - start)
            start, count = now, 0
        self._window = (start, count + 1)

    def _learn(self, headers: Mapping[str, str], now: float) -> None:
        """Follow the headers `x-ratelimit-{limit,remaining}-{requests,tokens}` and Anthropic's own."""
        for kind in ("requests", "tokens"):
            limit, remaining = _told(headers, kind)
            if limit is None or limit <= 0:
                continue
            bucket = self._requests if kind == "requests" else self._tokens
            told = limit / 60 * self._share
            if bucket is None:
                bucket = Bucket(told, now)
                if kind == "requests":
                    self._requests = bucket
                else:
                    self._tokens = bucket
            if told < bucket.ceiling:
                bucket.ceiling = told
                bucket.rate = min(bucket.rate, told)
            bucket.capacity = max(1.0, limit * self._share)
            if remaining is not None:
                # Some of what is in flight may be counted in `remaining` already: that errs on the slow side.
                away = self.in_flight if kind == "requests" else self._tokens_in_flight
                bucket.refill(now)
                bucket.level = min(bucket.capacity, remaining * self._share - away)


def _told(headers: Mapping[str, str], kind: str) -> tuple[float | None, float | None]:
    """Return the limit a minute and what is left of it, where a server tells them."""
    for form in (f"x-ratelimit-{{}}-{kind}", f"anthropic-ratelimit-{kind}-{{}}"):
        if (limit := headers.get(form.format("limit"))) is not None:
            return _number(limit), _number(headers.get(form.format("remaining")))
    return None, None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value < 1e15 else None
