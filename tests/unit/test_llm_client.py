"""The client against a real server on this machine that goes wrong on request."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from backfill_spark.errors import BackfillRefusedError
from backfill_spark.judges.llm import budget as permits
from backfill_spark.judges.llm import client
from backfill_spark.judges.llm.budget import Budget
from backfill_spark.judges.llm.client import ask, probe
from backfill_spark.judges.llm.endpoints import Endpoint, Service, Shape
from backfill_spark.judges.llm.journal import Draft, Journal, Permit, read_journal
from backfill_spark.judges.llm.messages import Answer, Question
from backfill_spark.judges.llm.pool import Pool
from backfill_spark.judges.llm.rate_limit import Limiter
from backfill_spark.judges.llm.retry import RetryPolicy
from backfill_spark.models import ErrorCode
from backfill_spark.settings.judges import Price
from tests.judge_server import JudgeServer, serving
from tests.unit.test_rate_limit import pace

KEY = "canary-key-5d41402abc4b2a76"
SCHEMA = {
    "type": "object",
    "properties": {"rationale": {"type": "string"}, "result": {"type": "string", "enum": ["yes", "no"]}},
    "required": ["rationale", "result"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)


def question(text: str, tokens: int = 20) -> Question:
    prompt = {"messages": [{"role": "user", "content": text}], "schema": SCHEMA, "parameters": {}}
    return Question(f"hash of {text}", orjson.dumps(prompt).decode(), tokens)


def service(server: JudgeServer, provider: str = "openai", price: Price | None = None, **how: Any) -> Service:
    how = {"timeout_s": 5.0, "api_key_env": "JUDGE_KEY", **how}
    base_url = server.url if provider == "openai" else server.url.removesuffix("/v1")
    version = {"azure": "2024-10-21", "anthropic": "2023-06-01"}.get(provider)
    return Service(
        Endpoint(name="local", provider=provider, base_url=base_url, api_version=version, **how), "tiny", price=price
    )


def answers_to(texts: list[str], asked: Service, **how: Any) -> dict[str, Answer]:
    """Ask; return answers by text, and hold that each question came back once."""
    found = [answer for batch in ask([[question(t) for t in texts]], asked, **how) for answer in batch]
    assert sorted(f"hash of {t}" for t in texts) == sorted(a.prompt_hash for a in found)
    return {a.prompt_hash.removeprefix("hash of "): a for a in found}


async def asked_of(make: Callable[[], Pool], texts: list[str]) -> list[Answer]:
    """Ask in a coroutine; a pool is made within its loop."""
    pool = make()
    await pool.open()
    found = await pool.feed([question(t) for t in texts])
    while pool.is_busy:
        found += await pool.next_answers()
    await pool.close()
    return found


def one(text: str, asked: Service, **how: Any) -> Answer:
    return answers_to([text], asked, **how)[text]


@pytest.fixture
def server() -> Iterator[Any]:
    with serving() as running:
        yield running


def test_an_answer_holds_the_verdict_tokens_latency_and_cost(server: Any) -> None:
    found = one("hello", service(server, price=Price(input=1, output=2)))
    assert {"rationale": "It fits what was asked for.", "result": "yes"} == orjson.loads(found.verdict or "")
    assert ("local:/tiny", 1, None, None) == (found.model, found.attempts, found.error_code, found.left)
    assert found.input_tokens
    assert found.output_tokens
    assert found.input_tokens * 1e-6 + found.output_tokens * 2e-6 == pytest.approx(found.cost_usd)
    assert (found.latency_ms or 0) > 0


@pytest.mark.parametrize("provider", ["openai", "azure", "anthropic", "databricks"])
def test_each_provider_is_spoken_to_in_its_own_way(server: Any, provider: str) -> None:
    found = one("hello verdict:no", service(server, provider))
    head, body = server.log.heads[-1], orjson.loads(server.log.bodies[-1])
    assert "no" == orjson.loads(found.verdict or "")["result"]
    assert (found.input_tokens or 0) > 0
    path, key, holds_model = {
        "openai": ("/v1/chat/completions", f"Authorization: Bearer {KEY}", True),
        "azure": ("/openai/deployments/tiny/chat/completions?api-version=2024-10-21", f"api-key: {KEY}", False),
        "anthropic": ("/v1/messages", f"x-api-key: {KEY}", True),
        "databricks": ("/serving-endpoints/tiny/invocations", f"Authorization: Bearer {KEY}", False),
    }[provider]
    assert f"POST {path} HTTP/1.1".encode() == head.splitlines()[0]
    assert key.encode() in head
    assert holds_model is ("model" in body)


@pytest.mark.parametrize(
    ("fault", "least", "most"), [("slow-seconds", 1.0, 1.9), ("slow-ms", 0.15, 0.9), ("slow-date", 0.9, 2.9)]
)
def test_retry_after_wins_over_backoff_in_every_form(server: Any, fault: str, least: float, most: float) -> None:
    found = one(f"fault:{fault}x1", service(server))
    waited = server.log.times[1] - server.log.times[0]
    assert (2, 2) == (found.attempts, server.log.requests)
    assert least <= waited <= most


def test_nothing_hangs_past_its_deadline(server: Any) -> None:
    started = time.monotonic()
    found = answers_to(["fault:drip", "fault:hang", "fault:slow-seconds", "fine"], service(server, timeout_s=1.2))
    assert time.monotonic() - started < 2.5
    assert {
        "fault:drip": ErrorCode.TIMEOUT,
        "fault:hang": ErrorCode.TIMEOUT,
        "fault:slow-seconds": ErrorCode.JUDGE_RATE_LIMITED,
        "fine": None,
    } == {text: a.error_code for text, a in found.items()}


def test_an_endpoint_that_is_not_there_costs_a_row_with_the_reason() -> None:
    found = one(
        "hello",
        Service(Endpoint(name="gone", provider="openai", base_url="http://127.0.0.1:9/v1", timeout_s=1.0), "tiny"),
    )
    assert (ErrorCode.JUDGE_ERROR, None) == (found.error_code, found.cost_usd)
    assert "cannot be reached" in (found.error_message or "")


@pytest.mark.parametrize("fault", ["unauthorized", "no-model", "quota"])
def test_a_refused_key_model_or_quota_ends_the_asking_and_the_rest_stays_due(server: Any, fault: str) -> None:
    texts = [f"fault:{fault}"] + [f"fine {n}" for n in range(50)]
    found = answers_to(texts, service(server, max_in_flight=1))
    assert 1 == server.log.requests
    assert {1: 1, 0: 50} == {n: sum(a.attempts == n for a in found.values()) for n in (0, 1)}
    reasons = {a.left for a in found.values()}
    assert 1 == len(reasons)
    assert "'local' refused: HTTP 4" in (reasons.pop() or "")


@pytest.mark.parametrize("fault", ["firewall", "legal", "forbidden"])
def test_one_prompt_that_is_forbidden_is_a_row_where_others_are_answered(server: Any, fault: str) -> None:
    found = answers_to([f"fault:{fault}"] + [f"fine {n}" for n in range(50)], service(server, max_in_flight=1))
    assert 51 == server.log.requests
    assert {ErrorCode.JUDGE_REFUSED: 1, None: 50} == Counter(a.error_code for a in found.values())


@pytest.mark.parametrize("texts", [["fine"], []])
def test_an_endpoint_that_forbids_everything_is_left_alone_and_all_stays_due(server: Any, texts: Any) -> None:
    texts = [*texts, *(f"fault:firewall {n}" for n in range(200))]
    found = answers_to(texts, service(server, max_in_flight=8))
    assert server.log.requests <= 51
    assert {None} == {a.error_code for a in found.values()}
    assert {"the endpoint 'local' refused: HTTP 403: it forbids the call", None} >= {a.left for a in found.values()}


def test_a_forbidden_prompt_that_is_left_alone_is_a_row_after_a_probe(server: Any) -> None:
    probed = probe(service(server)).service
    assert ErrorCode.JUDGE_REFUSED is one("fault:firewall", probed).error_code


@pytest.mark.parametrize("fault", ["length", "empty", "prose", "no-choices", "no-json", "stream"])
def test_an_endpoint_that_never_gives_a_verdict_is_not_paid_for_everything(server: Any, fault: str) -> None:
    texts = [f"fault:{fault} {n}" for n in range(200)]
    found = answers_to(texts, service(server))
    assert 50 == server.log.requests
    assert "judge.max_output_tokens" in next(a.left for a in found.values() if a.left)


def test_tasks_share_the_failures_that_end_the_asking(server: Any) -> None:
    answers_to([f"fault:length {n}" for n in range(200)], replace(service(server), tasks=2))
    assert 25 == server.log.requests


def test_a_prompt_that_is_too_long_changes_nothing_for_the_others(server: Any) -> None:
    asked = replace(service(server, price=Price(input=1000, output=1000), max_in_flight=1), max_output_tokens=100)
    budget = Budget(max_cost_usd=1.0)
    found = answers_to(["fault:context-limit"] + [f"q{n}" for n in range(20)], asked, budget=budget)
    assert ErrorCode.TRACE_TOO_LARGE is found["fault:context-limit"].error_code
    assert {100} == {orjson.loads(body).get("max_tokens") for body in server.log.bodies}
    assert budget.cost_usd <= 1.0


def test_one_prompt_whose_form_is_not_taken_changes_no_other_form(server: Any) -> None:
    answers_to(["a", "fault:takes-no-limitx1", "b"], service(server, max_in_flight=1))
    assert [True, True, False, True] == [b"max_tokens" in body for body in server.log.bodies]


def test_a_budget_in_dollars_asks_nothing_where_answers_have_no_limit(server: Any) -> None:
    asked = service(server, price=Price(input=1, output=1), max_in_flight=1)
    found = answers_to([f"fault:takes-no-limit {n}" for n in range(9)], asked, budget=Budget(max_cost_usd=1.0))
    assert 1 == server.log.requests
    assert all("takes no limit" in (a.left or "") for a in found.values())


def test_a_prompt_above_the_quota_does_not_slow_the_others(server: Any) -> None:
    limiter = Limiter(6_000)
    answers_to(["fault:over-tpm"] + [f"q{n}" for n in range(20)], service(server, max_in_flight=1), limiter=limiter)
    assert pytest.approx(100, rel=0.01) == pace(limiter)


def test_an_address_where_nobody_listens_is_told_as_that_and_no_request_counts() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        started = time.monotonic()
        found = probe(
            Service(Endpoint(name="gone", provider="openai", base_url=address), "tiny", price=Price(input=1, output=1))
        )
    assert time.monotonic() - started < 4
    assert f"cannot be reached at {address}: Connect" in (found.problem or "")
    assert "budget" not in (found.problem or "")
    assert (0, 0.0) == (found.requests, found.cost_usd)


def test_a_name_that_nobody_knows_is_told_as_that() -> None:
    found = probe(Service(Endpoint(name="gone", provider="openai", base_url="http://no-such-host.invalid/v1"), "tiny"))
    assert "cannot be reached at http://no-such-host.invalid/v1" in (found.problem or "")


def test_a_wait_longer_than_the_deadline_ends_the_asking(server: Any) -> None:
    found = answers_to(["fault:slow-hour", "a", "b"], service(server, max_in_flight=1))
    assert {"the endpoint 'local' asks to wait 3600 s"} == {a.left for a in found.values()}


def test_a_retry_that_others_hold_back_past_its_deadline_is_not_sent(server: Any) -> None:
    texts = [f"fault:slow-seconds {n}" for n in range(6)]
    found = answers_to(texts, service(server, timeout_s=1.5, max_in_flight=6))
    assert {ErrorCode.JUDGE_RATE_LIMITED} == {a.error_code for a in found.values()}
    # After the pause one request fits, and is refused again: the others' deadlines pass in the second pause.
    assert server.log.requests == sum(a.attempts for a in found.values()) < 12


def test_questions_that_come_after_the_end_stay_due(server: Any) -> None:
    asked = service(server, max_in_flight=1)
    batches = [[question("fault:unauthorized")], [question("later")], [question("latest")]]
    found = [a for batch in ask(batches, asked) for a in batch]
    assert 3 == len(found)
    assert all(a.left for a in found)
    assert 1 == server.log.requests


def test_an_endpoint_that_only_fails_is_left_alone_after_fifty_questions(server: Any) -> None:
    texts = [f"fault:bad {n}" for n in range(200)]
    found = answers_to(texts, service(server, max_in_flight=4))
    assert server.log.requests <= 54
    assert "50 questions in a row" in next(a.left for a in found.values() if a.left)


def test_an_endpoint_without_schemas_is_asked_without_from_then_on() -> None:
    with serving(takes_schema=False) as server:
        found = answers_to(["a", "b", "c"], service(server, max_in_flight=1))
        assert [2, 1, 1] == [found[t].attempts for t in "abc"]
        assert [True, False, False, False] == [b"response_format" in body for body in server.log.bodies]


def test_a_probe_finds_the_form_once() -> None:
    with serving(takes_schema=False) as server:
        found = probe(service(server))
        assert (Shape(structured=False), None, 2) == (found.service.shape, found.problem, found.requests)
        answers_to(["a", "b"], found.service)
        assert 4 == server.log.requests


def test_a_probe_says_that_the_key_is_not_accepted() -> None:
    with serving(key="another") as server:
        found = probe(service(server))
        assert (1, True) == (found.requests, "key is not accepted" in (found.problem or ""))


@pytest.mark.parametrize(
    ("fault", "is_model"),
    [
        *((fault, False) for fault in ("no-json", "list", "no-body", "stream", "null-choices", "no-content")),
        *((fault, True) for fault in ("prose", "length", "empty")),
    ],
)
def test_a_probe_tells_a_web_page_from_a_model(
    server: Any, monkeypatch: pytest.MonkeyPatch, fault: Any, is_model: Any
) -> None:
    """Both answer with status 200; only a model has an answer in its message."""
    monkeypatch.setattr(client, "_PROBE", question(f"fault:{fault}"))
    problem = probe(service(server)).problem
    assert (problem is None) is is_model
    assert is_model or "does not answer" in (problem or "")


def test_an_address_that_redirects_is_refused_by_the_probe_and_nothing_is_sent_on() -> None:
    with serving() as elsewhere, serving(redirects=elsewhere.url) as server:
        found = probe(service(server))
        assert (
            "The endpoint 'local' does not answer for 'local:/tiny': HTTP 307: the endpoint redirects, which is not "
            "followed. Set its base_url to the final address."
        ) == found.problem
        answers_to(["a", "b"], service(server))
        assert (3, 0) == (server.log.requests, elsewhere.log.connections)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "OPENAI_BASE_URL"])
def test_no_variable_sends_a_request_elsewhere(server: Any, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    with serving() as elsewhere:
        monkeypatch.setenv(variable, elsewhere.url)
        assert one("hello", service(server)).verdict is not None
        assert (1, 0) == (server.log.requests, elsewhere.log.connections)


def test_retries_have_a_budget(server: Any) -> None:
    texts = [f"fault:500 {n}" for n in range(40)]
    asked = service(server, max_in_flight=8, timeout_s=60)

    found = asyncio.run(asked_of(lambda: Pool(asked, policy=RetryPolicy(first_backoff_s=0.01)), texts))
    assert 60 == server.log.requests == sum(a.attempts for a in found)
    assert {ErrorCode.JUDGE_ERROR} == {a.error_code for a in found}


@pytest.mark.parametrize("texts", [[f"q{n}" for n in range(100)], [f"fault:500x1 {n}" for n in range(100)]])
def test_never_more_requests_than_the_budget_with_retries_counted(server: Any, texts: Any) -> None:
    budget = Budget(max_requests=30)
    found = answers_to(texts, service(server, max_in_flight=8), budget=budget)
    assert server.log.requests == budget.requests <= 30
    assert sum(a.attempts for a in found.values()) == server.log.requests
    assert {"budget"} == {a.left for a in found.values() if a.left is not None}
    assert 30 == budget.requests


def test_a_budget_is_spent_in_order(server: Any) -> None:
    texts = [f"q{n:03d}" for n in range(100)]
    found = answers_to(texts, service(server, max_in_flight=8), budget=Budget(max_requests=30))
    assert texts[:30] == sorted(t for t, a in found.items() if a.verdict is not None)


def test_what_is_repeated_keeps_its_place_in_the_budget(server: Any) -> None:
    """The first five fail once: five questions fewer are asked, and none of the first has a hole."""
    texts = [f"fault:500x1 q{n:03d}" for n in range(5)] + [f"fine q{n:03d}" for n in range(5, 100)]
    found = answers_to(texts, service(server, max_in_flight=8), budget=Budget(max_requests=30))
    assert set(texts[:25]) == {t for t, a in found.items() if a.verdict is not None}


def test_the_cost_never_passes_its_budget(server: Any) -> None:
    price = Price(input=1000, output=1000)
    asked = replace(service(server, price=price, max_in_flight=4), max_output_tokens=100)
    budget = Budget(max_cost_usd=1.0)
    found = answers_to([f"q{n}" for n in range(100)], asked, budget=budget)
    paid = sum(a.cost_usd or 0 for a in found.values())
    assert budget.cost_usd == pytest.approx(paid)
    assert 0.7 < paid <= 1.0
    assert any(a.left == "budget" for a in found.values())


def test_the_window_stays_full_and_never_overflows() -> None:
    # The server answers only while 40 are under way: who drains at a batch's end waits for ever.
    with serving(fills=(40, 400)) as server:
        texts = [f"q{n}" for n in range(400)]
        batches = [[question(t) for t in texts[i : i + 50]] for i in range(0, 400, 50)]
        found = [a for batch in ask(batches, service(server, max_in_flight=40, timeout_s=20)) for a in batch]
    assert 400 == sum(a.verdict is not None for a in found)
    assert 400 == server.log.requests
    assert 40 == server.log.most_in_flight
    assert server.log.connections <= 40


def test_a_quota_is_used_to_the_full_and_hardly_passed() -> None:
    # The figures at ten times the pace: 6,000 a minute, 5 % of requests fail.
    def unlimited() -> float:
        """Seconds that this machine takes for as many requests without a quota."""
        with serving(latency_s=0.02) as server:
            started = time.monotonic()
            answers_to([f"q{n}" for n in range(900)], service(server, timeout_s=60))
            return time.monotonic() - started

    def lag() -> float:
        """Seconds beyond a tenth more than the quota allows."""
        with serving(rpm=6_000, burst=600, error_rate=0.05, latency_s=0.02) as server:
            asked = service(server, rpm=6_000, timeout_s=60)
            limiter = Limiter(6_000)
            started = time.monotonic()
            found = answers_to([f"q{n}" for n in range(900)], asked, limiter=limiter)
            taken = time.monotonic() - started
        assert 900 == sum(a.verdict is not None for a in found.values())
        failed = server.log.by_status[500]
        assert server.log.requests <= 900 + failed + 9
        return taken - 1.1 * (server.log.requests - failed - 600) / 100

    # A machine that is busy with something else is slow without a quota, too.
    assert any(lag() <= 0.5 + unlimited() for _ in range(3))


def test_a_quota_that_the_server_does_not_tell_is_found_out() -> None:
    with serving(rpm=6_000, burst=20, tells_quota=False, latency_s=0.01) as server:
        found = answers_to([f"q{n}" for n in range(300)], service(server, rpm=60_000, max_in_flight=16, timeout_s=60))
        assert 300 == sum(a.verdict is not None for a in found.values())
        # Ten times too much was configured: the first second finds out, and the rest keeps to it.
        late = [t for t in server.log.times if t > server.log.times[0] + 1.5]
        assert len(late) / (late[-1] - late[0]) < 150


def test_answers_lie_in_the_spool_before_the_end(server: Any, tmp_path: Path) -> None:
    async def run() -> None:
        journal = Journal(str(tmp_path), "bf-1", 0, every_s=0.05)
        pool = Pool(service(server), journal=journal)
        await pool.open()
        await pool.feed([question(f"q{n}") for n in range(20)] + [question("fault:hang")])
        for _ in range(250):
            if len(read_journal(str(tmp_path), "bf-1").answers) == 20:
                break
            await asyncio.sleep(0.02)
        # As after a kill: nothing more is written.
        found = read_journal(str(tmp_path), "bf-1")
        assert 20 == len(found.answers)
        assert server.log.requests <= found.requests <= 21 + 64 + 21
        await pool.close()

    asyncio.run(run())
    assert 21 == read_journal(str(tmp_path), "bf-1").requests


def test_no_request_is_sent_that_the_spool_did_not_permit(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(str(tmp_path), "bf-1", 0, every_s=0.01)
    seen: list[Any] = []
    put = journal.put

    def noted(draft: Draft) -> None:
        put(draft)
        seen.append((draft.permit, server.log.requests))

    monkeypatch.setattr(journal, "put", noted)
    answers_to([f"q{n}" for n in range(300)], service(server, max_in_flight=8), journal=journal)
    for (permit, _), (_, requests_later) in pairwise(seen):
        assert requests_later <= permit.max_requests
    assert (300, 300) == (read_journal(str(tmp_path), "bf-1").requests, server.log.requests)


def test_a_repeated_task_takes_what_the_first_attempt_left_and_only_the_rest_of_its_budget(
    server: Any, tmp_path: Path
) -> None:
    first = Journal(str(tmp_path), "bf-1", 3)
    for n in range(10):
        first.add(Answer(f"hash of q{n}", "local:/tiny", verdict='{"result":"no"}', attempts=1))
    # A killed writer: what its last permit allowed counts as sent.
    first.put(first.draft(Permit(10, 0.0, 14, None)))
    another = Journal(str(tmp_path), "bf-1", 4)
    another.put(another.draft(Permit(0, 0.0, 64, None)))

    asked = ask(
        [[question(f"q{n}") for n in range(30)]],
        service(server, max_in_flight=4),
        budget=Budget(20),
        journal=Journal(str(tmp_path), "bf-1", 3),
    )
    answers = {a.prompt_hash: a for batch in asked for a in batch}

    assert {f"hash of q{n}" for n in range(30)} == set(answers)
    assert 20 - 14 == server.log.requests
    assert 10 == sum(a.verdict == '{"result":"no"}' for a in answers.values())
    assert 14 == sum(a.left is not None for a in answers.values())


def test_a_process_that_stood_still_for_too_long_sends_nothing_more(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = ask(
        [[question(f"q{n}")] for n in range(50)],
        service(server, max_in_flight=4),
        journal=Journal(str(tmp_path), "bf-1", 0),
        still_s=40,
    )
    next(asking)
    sent = server.log.requests
    monkeypatch.setattr(permits, "monotonic", lambda: time.monotonic() + 41)
    with pytest.raises(permits.StoodStillError, match="stood still for 4"):
        list(asking)
    assert server.log.requests <= sent + 4


def test_whoever_stops_reading_leaves_an_exact_account(server: Any, tmp_path: Path) -> None:
    asking = ask(
        [[question(f"q{n}")] for n in range(50)],
        service(server, max_in_flight=4),
        journal=Journal(str(tmp_path), "bf-1", 0),
    )
    next(asking)
    cast("Generator[Any]", asking).close()
    found = read_journal(str(tmp_path), "bf-1")
    assert len(found.answers) <= server.log.requests <= found.requests <= len(found.answers) + 4


def test_answers_that_are_being_written_are_on_disk_when_the_pool_is_closed(server: Any, tmp_path: Path) -> None:
    async def stopped() -> None:
        loop, is_drafted, may_write = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))
        drafts: list[Draft] = []

        class BusyDisk(Journal):
            def draft(self, permit: Permit) -> Draft:
                if self.has_answers and not drafts:
                    loop.run_in_executor(None, may_write.wait)
                    drafts.append(super().draft(permit))
                    is_drafted.set()
                    return drafts[0]
                return super().draft(permit)

        pool = Pool(service(server, max_in_flight=4), journal=BusyDisk(str(tmp_path), "bf-1", 0))
        await pool.open()
        await pool.feed([question(f"q{n}") for n in range(9)])
        await is_drafted.wait()
        loop.call_later(0.1, may_write.set)
        await pool.close()
        assert may_write.is_set()
        assert (tmp_path / "bf-1" / drafts[0].name).exists()

    asyncio.run(stopped())


@pytest.mark.parametrize("value", ["", "   ", "a\nb"])
def test_a_key_that_is_missing_is_refused_before_any_request(
    server: Any, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(BackfillRefusedError, match="key"):
        answers_to(["a"], service(server))
    assert 0 == server.log.requests


def test_a_coroutine_hands_out_each_answer_once(server: Any) -> None:
    budget = Budget()
    found = asyncio.run(asked_of(lambda: Pool(service(server), budget=budget), [f"q{n}" for n in range(10)]))
    assert (10, 10, 10) == (len(found), len({a.prompt_hash for a in found}), budget.requests)


def test_a_budget_that_is_used_up_while_a_permit_is_written_asks_nothing_more(tmp_path: Path) -> None:
    budget = Budget(max_cost_usd=1.0)

    class Dear(Journal):
        def put(self, draft: Any) -> None:
            super().put(draft)
            # Another answer cost more than was held for it.
            budget.settle(0.0, 0.9)

    writer = permits.Permits(Dear(str(tmp_path), "bf-1", 0), budget, window=4, has_price=True)
    budget.hold(0.5)
    asyncio.run(asyncio.wait_for(writer.cover(0.5), 20))
    assert not budget.fits(0.5)
