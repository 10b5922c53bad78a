"""Every way in which an endpoint goes wrong: what its row says, and how many requests that costs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from backfill_spark.judges import Safety
from backfill_spark.judges.worker import LoadedJudge, fan_out
from backfill_spark.models import ErrorCode, ScorerKind, ScorerSpec
from backfill_spark.scoring.feedback import FIELD_NAMES
from backfill_spark.settings.judges import Price
from tests.judge_server import FAULTS, serving
from tests.unit.test_llm_client import KEY, one, service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backfill_spark.judges.llm.messages import Answer
    from tests.judge_server import JudgeServer

BAD, REFUSED, LARGE = ErrorCode.JUDGE_BAD_OUTPUT, ErrorCode.JUDGE_REFUSED, ErrorCode.TRACE_TOO_LARGE
ERROR, LIMITED, LATE = ErrorCode.JUDGE_ERROR, ErrorCode.JUDGE_RATE_LIMITED, ErrorCode.TIMEOUT
YES, DUE = "yes", "due"
SPEC = ScorerSpec("safety", 1, "0" * 16, ScorerKind.JUDGE, {}, None, ("outputs",), 1.0)
SAFETY = LoadedJudge(SPEC, "local:/tiny", Safety(model="local:/tiny"))


@dataclass(frozen=True)
class Case:
    """`fault` is one of judge_server.FAULTS; `x2` after it means: the first two times."""

    fault: str
    outcome: str
    """The verdict, the row's error code, or `due`: no row, the question stays."""
    requests: int
    timeout_s: float = 5.0


CASES = [
    # Odd forms of an answer.
    Case("fenced", YES, 1),
    Case("wrapped", YES, 1),
    Case("thinking", YES, 1),
    Case("no-usage", YES, 1),
    # What is no answer would be none again: a row at once.
    Case("truncated", BAD, 1),
    Case("enum", BAD, 1),
    Case("prose", BAD, 1),
    Case("empty", BAD, 1),
    Case("no-content", BAD, 1),
    Case("no-body", BAD, 1),
    Case("no-choices", BAD, 1),
    Case("no-json", BAD, 1),
    Case("list", BAD, 1),
    Case("length", BAD, 1),
    Case("huge", BAD, 1),
    Case("huge-stream", BAD, 1),
    Case("huge-zipped", BAD, 1),
    Case("huge-500", BAD, 1),
    Case("filter", REFUSED, 1),
    Case("filter400", REFUSED, 1),
    Case("refusal", REFUSED, 1),
    Case("null-choices", BAD, 1),
    Case("stream", BAD, 1),
    Case("over-tpm", LARGE, 1),
    Case("context-limit", LARGE, 1),
    Case("context", LARGE, 1),
    Case("too-large", LARGE, 1),
    Case("bad", ERROR, 1),
    Case("redirect", ERROR, 1),
    # What ends the asking: nothing is repeated, nothing has a row.
    Case("unauthorized", DUE, 1),
    Case("forbidden", DUE, 1),
    Case("firewall", DUE, 1),
    Case("legal", DUE, 1),
    Case("no-model", DUE, 1),
    Case("quota", DUE, 1),
    Case("slow-hour", DUE, 1),
    # What may pass: repeated until it does, or until the deadline.
    Case("slowx2", YES, 3),
    Case("quota-minutex1", YES, 2),
    Case("told-limitedx1", YES, 2),
    Case("told-overloadedx2", YES, 3),
    Case("takes-no-limitx1", YES, 2),
    Case("slow-secondsx1", YES, 2),
    Case("slow-msx1", YES, 2),
    Case("slow-datex1", YES, 2),
    Case("slow-seconds", LIMITED, 2, timeout_s=1.5),
    Case("408x2", YES, 3),
    Case("409x2", YES, 3),
    Case("500x2", YES, 3),
    Case("503x2", YES, 3),
    Case("529x2", YES, 3),
    Case("500", ERROR, 3, timeout_s=1.5),
    Case("resetx2", YES, 3),
    Case("dropx2", YES, 3),
    Case("reset", ERROR, 3, timeout_s=1.5),
    Case("hangx1", YES, 2, timeout_s=2.0),
    Case("hang", LATE, 2, timeout_s=2.0),
    Case("drip", LATE, 1, timeout_s=1.5),
]


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, and pauses of half their longest: 0.25, 0.5, 1 second."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setattr("backfill_spark.judges.llm.retry.random.uniform", lambda low, high: (low + high) / 2)


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    """One for all cases: what it saw is counted by prompt."""
    with serving() as running:
        yield running


def row_of(answer: Answer) -> dict[str, object]:
    """Return the result row that a judge makes of an answer."""
    judgement = {"answer": answer.verdict, "error_code": answer.error_code, "error_message": answer.error_message}
    row = fan_out(SAFETY, prompt=None, prompt_hash="h", input_digest=None, judgement=judgement, cached=False)
    return dict(zip(FIELD_NAMES, row, strict=True))


@pytest.mark.parametrize("case", CASES, ids=[c.fault for c in CASES])
def test_each_fault_has_its_row_its_requests_and_an_end(server: JudgeServer, case: Case) -> None:
    """The server's own log says what was sent; the clock says that nothing hung."""
    before, started = server.log.requests, time.monotonic()
    answer = one(f"fault:{case.fault}", service(server, timeout_s=case.timeout_s))
    taken, sent = time.monotonic() - started, server.log.requests - before
    if answer.left is not None:
        found: object = DUE
    else:
        row = row_of(answer)
        found = row["error_code"] or row["value"].strip('"')  # type: ignore[attr-defined]
    assert case.outcome == found
    assert case.requests == sent == answer.attempts
    assert taken < case.timeout_s + 0.5


def test_every_fault_of_the_server_is_in_the_table() -> None:
    """But for an echo, which the judge flags, and for the server that tells keys: see the tests of secrets."""
    others = {"echo"} | {name for name in FAULTS if name.startswith("tells-key")}
    assert FAULTS.keys() - others == {c.fault.split("x1")[0].split("x2")[0] for c in CASES}


def test_an_answer_without_usage_has_no_tokens_and_an_unknown_cost(server: JudgeServer) -> None:
    """Unknown, never 0."""
    found = one("fault:no-usage priced", service(server, price=Price(input=1, output=1)))
    assert (None, None, None) == (found.input_tokens, found.output_tokens, found.cost_usd)
    assert found.verdict is not None
