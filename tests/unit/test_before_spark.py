"""What the arguments alone show to be wrong is refused before a session is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

import backfill_spark as b
from backfill_spark import api
from backfill_spark.errors import BackfillError
from backfill_spark.storage import session

if TYPE_CHECKING:
    from collections.abc import Callable

JOB_ID = "bf-20240601-120000-000000-abcdef01"


@b.scorer
def misspelt(outputs: Any) -> Any:
    return lenn(outputs)  # type: ignore[name-defined] # noqa: F821


@b.scorer
def fine(outputs: Any) -> Any:
    return len(outputs)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: b.backfill_scorers(scorers=["a"], start_time="yesterdy"), "'yesterdy' is no date"),
        (lambda: b.plan_backfill(scorers="a"), "scorers must be a list"),
        (lambda: b.plan_backfill(scorers=[]), "scorers is empty"),
        (lambda: b.plan_backfill(scorers=["a", "a"]), "stands more than once"),
        (lambda: b.plan_backfill(scorers=cast("Any", [fine])), "Wrap a scorer"),
        (lambda: b.plan_backfill(scorers=["a"], filter_string="tag ="), "filter_string"),
        (lambda: b.plan_backfill(scorers=["a"], reprocess="some"), "reprocess must be one of"),
        (lambda: b.plan_backfill(scorers=["a"], trace_ids="tr-1"), "trace_ids must be a list"),
        (lambda: b.backfill_scorers(scorers=["a"], launch="there"), "launch must be"),  # type: ignore[arg-type]
        (lambda: b.resume_backfill(JOB_ID, max_calls=-1), "max_calls must be a whole number"),
        (lambda: b.get_backfill("my job"), "No backfill job has the id 'my job'"),
        (lambda: b.wait_for_backfill("bf-1"), "No backfill job has the id"),
        (lambda: b.cancel_backfill(JOB_ID.upper()), "No backfill job has the id"),
        (lambda: b.list_backfills(state="done"), "state must be one of"),
        (misspelt.register, "names 'lenn'"),
        (lambda: fine.register(name=" "), "cannot be empty"),
        (lambda: fine.start(sampling_config=b.ScorerSamplingConfig(filter_string="tag =")), "filter_string"),
        (lambda: fine.start(sampling_config=b.ScorerSamplingConfig(sample_rate=2)), "between 0 and 1"),
    ],
)
def test_no_session_is_started(call: Callable[[], Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a time, filter, rate, option, job id or scorer that cannot be used."""

    def start(*_: object) -> None:
        pytest.fail("a session was started")

    for room in (api, session):
        monkeypatch.setattr(room, "get_spark", start)
        monkeypatch.setattr(room, "active_session", lambda: None)
    with pytest.raises(BackfillError) as refused:
        call()
    assert said in str(refused.value)


def test_all_problems_of_the_arguments_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four mistakes are four sentences."""
    monkeypatch.setattr(api, "active_session", lambda: None)
    with pytest.raises(b.BackfillRefusedError) as refused:
        b.backfill_scorers(scorers=[], start_time="yesterdy", seed="x", max_error_rate=2)  # type: ignore[arg-type]
    assert len(refused.value.problems) == 4
