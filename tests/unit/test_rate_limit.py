"""The limiter on a clock of its own."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.judges.llm.error_body import retry_after
from backfill_spark.judges.llm.rate_limit import Limiter


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Bucket:
    """A server's quota: a bucket that starts full."""

    def __init__(self, clock: Clock, rpm: float, burst: float) -> None:
        self.clock, self.rate, self.burst, self.level, self.at = clock, rpm / 60, burst, burst, clock.now
        self.refused = 0

    def take(self) -> dict[str, str]:
        self.level = min(self.burst, self.level + (self.clock.now - self.at) * self.rate)
        self.at = self.clock.now
        if self.level < 1:
            self.refused += 1
            raise RuntimeError(str((1 - self.level) / self.rate))
        self.level -= 1
        return {
            "x-ratelimit-limit-requests": str(self.rate * 60),
            "x-ratelimit-remaining-requests": str(int(self.level)),
        }


def pace(limiter: Limiter) -> float:
    """Return the requests per second that a limiter lets pass, as the waits after more and more requests tell."""
    limiter = copy.deepcopy(limiter)
    waits = []
    for _ in range(2):
        for _ in range(10_000):
            limiter.sent(0)
        waits.append(limiter.delay(0))
    return 10_000 / (waits[1] - waits[0])


def run(limiter: Limiter, clock: Clock, server: Bucket, answers: int, *, tells: bool) -> float:
    """Send one request after the other until there are enough answers; return the seconds that passed."""
    start, found = clock.now, 0
    while found < answers:
        wait = limiter.delay(10)
        if wait:
            clock.now += wait
            continue
        limiter.sent(10)
        try:
            headers = server.take()
        except RuntimeError as refusal:
            limiter.refused(10, float(str(refusal)), {})
        else:
            limiter.answered(10, 10, headers if tells else {}, succeeded=True)
            found += 1
        clock.now += 0.001
    return clock.now - start


def test_a_full_bucket_that_the_server_tells_of_is_used_at_once() -> None:
    clock = Clock()
    server = Bucket(clock, 600, 600)
    taken = run(Limiter(600, clock=clock), clock, server, 900, tells=True)
    assert 0 == server.refused
    assert taken <= 1.1 * 30


def test_without_headers_the_configured_rate_is_kept() -> None:
    clock = Clock()
    server = Bucket(clock, 600, 10)
    taken = run(Limiter(600, clock=clock), clock, server, 300, tells=False)
    assert server.refused <= 3
    assert 29 <= taken <= 33


def test_a_rate_that_is_too_high_comes_down_to_what_passes() -> None:
    clock = Clock()
    server = Bucket(clock, 600, 1)
    run(Limiter(6_000, clock=clock), clock, server, 300, tells=False)
    assert server.refused <= 60


def test_several_tasks_share_one_rate() -> None:
    clock = Clock()
    limiter = Limiter(600, tasks=4, clock=clock)
    assert pytest.approx(2.5) == pace(limiter)


def test_tokens_are_charged_before_and_given_back_after() -> None:
    clock = Clock()
    limiter = Limiter(tpm=6_000, clock=clock)  # 100 a second
    limiter.sent(100)
    assert pytest.approx(0.5) == limiter.delay(50)
    limiter.answered(100, 20, {}, succeeded=True)
    assert 0 == limiter.delay(80)
    assert pytest.approx(0.2) == limiter.delay(100)


def test_a_prompt_above_the_whole_bucket_is_sent_when_it_is_full() -> None:
    clock = Clock()
    limiter = Limiter(tpm=60, clock=clock)
    assert 0 == limiter.delay(500)
    limiter.sent(500)
    assert pytest.approx(500) == limiter.delay(1)


def test_retry_after_holds_everything_back() -> None:
    clock = Clock()
    limiter = Limiter(clock=clock)
    limiter.sent(1)
    limiter.refused(1, 7.5, {})
    assert pytest.approx(7.5) == limiter.delay(1)
    clock.now += 7.5
    assert 0 == limiter.delay(1)


def test_refusals_in_one_moment_slow_down_once() -> None:
    clock = Clock()
    limiter = Limiter(600, clock=clock)
    for _ in range(5):
        limiter.sent(1)
    for _ in range(5):
        limiter.refused(1, None, {})
    assert pytest.approx(7.0) == pace(limiter)


def test_the_rate_climbs_back_to_the_configured_one_and_no_higher() -> None:
    clock = Clock()
    limiter = Limiter(600, clock=clock)
    limiter.sent(1)
    limiter.refused(1, None, {})
    for _ in range(100):
        clock.now += 1
        limiter.sent(1)
        limiter.answered(1, 1, {}, succeeded=True)
    assert pytest.approx(10) == pace(limiter)


def test_a_told_limit_lowers_the_rate_and_never_raises_it() -> None:
    clock = Clock()
    limiter = Limiter(600, clock=clock)
    for told, expected in (("6000", 10), ("300", 5), ("600", 5)):
        limiter.sent(1)
        limiter.answered(1, 1, {"x-ratelimit-limit-requests": told}, succeeded=False)
        assert pytest.approx(expected) == pace(limiter)


@given(st.dictionaries(st.sampled_from(["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"]), st.text()))
def test_headers_of_any_form_do_no_harm(headers: Any) -> None:
    """Whatever a server writes there, the next request waits a finite time."""
    clock = Clock()
    limiter = Limiter(600, 1_000, clock=clock)
    limiter.sent(1)
    limiter.answered(1, 1, headers, succeeded=True)
    assert 0 <= limiter.delay(1) < 1e9


NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "2", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Sat, 01 Jun 2024 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sat, 01 Jun 2024 11:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Mon, 01 Jan 2020 00:00:00 +99999999999999999999"}, None),
        ({"retry-after-ms": "soon", "retry-after": "3"}, 3.0),
    ],
)
def test_retry_after_is_read_in_each_of_its_forms(headers: Any, expected: Any) -> None:
    assert expected == retry_after(headers, NOW)


def test_a_date_without_a_zone_is_utc() -> None:
    text = (NOW + timedelta(seconds=5)).strftime("%a, %d %b %Y %H:%M:%S -0000")
    assert 5.0 == retry_after({"retry-after": text}, NOW)
