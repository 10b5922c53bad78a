"""One batch: each due pair is called once, and nothing a scorer does costs another pair."""

from __future__ import annotations

import copy
import gc
import pickle
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from inspect import iscoroutinefunction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.errors import ScorerLoadError
from backfill_spark.models import ScorerKind, ScorerSpec
from backfill_spark.scoring.arguments import TRACE_COLUMNS, columns_for
from backfill_spark.scoring.feedback import FIELD_NAMES
from backfill_spark.scoring.worker import load_scorers, score_batch


def a_spec(name: Any, signature: Any = ("outputs",), **fields: Any) -> Any:
    return ScorerSpec(name, 1, "d", ScorerKind.FUNCTION, {}, None, signature, 1.0, **fields)


def scored(
    columns: Any, functions: Any, due: Any = None, payload: str = "auto", timeout_s: Any = None, **spec_fields: Any
) -> Any:
    """Score a batch with plain functions; a function's parameters are its signature."""
    specs, by_name = [], {}
    for number, function in enumerate(functions):
        name = f"s{number}"
        specs.append(a_spec(name, function.__code__.co_varnames[: function.__code__.co_argcount], **spec_fields))
        by_name[name] = function
    loaded = load_scorers(specs, frozenset(columns), load=lambda spec: by_name[spec.name])
    count = len(next(iter(columns.values())))
    due = [(1 << len(functions)) - 1] * count if due is None else due
    return score_batch(columns, due, loaded, payload=payload, timeout_s=timeout_s)


def raising(error: Any) -> Any:
    def score(outputs: Any) -> None:
        raise error

    return score


def test_each_scorer_is_called_once_on_each_due_row_and_on_no_other() -> None:
    """The mask decides; results stand in row order, scorers in bit order."""
    calls = []

    def first(outputs: Any) -> int:
        calls.append(("first", outputs))
        return 1

    def second(outputs: Any) -> float:
        calls.append(("second", outputs))
        return 2.5

    found = scored({"response": ["a", "b", "c", "d"]}, [first, second], due=[3, 0, 2, 1])

    assert calls == [("first", "a"), ("second", "a"), ("second", "c"), ("first", "d")]
    assert found.lengths == [2, 0, 1, 1]
    assert found.fields["scorer_name"] == ["s0", "s1", "s1", "s0"]
    assert found.fields["value"] == ["1", "2.5", "2.5", "1"]
    assert tuple(found.fields) == FIELD_NAMES


def test_a_batch_without_due_rows_has_no_results() -> None:
    """Empty columns and lengths of zero, no failure."""
    found = scored({"response": ["a", "b"]}, [lambda outputs: 1], due=[0, 0])

    assert found.lengths == [0, 0]
    assert found.fields == {name: [] for name in FIELD_NAMES}


def test_the_64th_scorer_is_the_sign_bit() -> None:
    """A BIGINT mask is negative when scorer 63 is due."""
    found = scored({"response": ["a"]}, [lambda outputs: 1] * 64, due=[-(2**63) | 1])

    assert found.fields["scorer_name"] == ["s0", "s63"]


def test_a_scorer_gets_only_what_it_asks_for() -> None:
    """inputs, outputs, expectations and trace, decoded by the payload rule."""
    columns = {
        "trace_id": ["tr-1"],
        "request": ['{"q": 1}'],
        "response": ["18"],
        "assessments": ['[{"assessment_name": "e", "expectation": {"value": "18"}}]'],
    }
    found = scored(
        columns,
        [
            lambda inputs, outputs: f"{inputs} {outputs!r}",
            lambda expectations: f"{expectations}",
            lambda trace: trace.info.trace_id,
            lambda: "nothing",
        ],
    )

    assert found.fields["value_string"] == ["{'q': 1} '18'", "{'e': '18'}", "tr-1", "nothing"]
    assert scored(columns, [lambda outputs: outputs], payload="json").fields["value"] == ["18"]


def test_without_a_response_column_outputs_come_from_the_root_span() -> None:
    """NULL gives None, and the scorer is called."""
    spans = ['[{"span_id": "1", "outputs": "from the span"}]', None]

    assert scored({"spans": spans}, [lambda outputs: f"{outputs}"]).fields["value_string"] == ["from the span", "None"]
    assert scored({"response": [None]}, [lambda outputs: outputs is None]).fields["value"] == ["true"]


def test_columns_for() -> None:
    """A column of the source is read when a parameter needs it, spans only without request or response."""
    everything = TRACE_COLUMNS | {"trace_date"}

    assert columns_for(["outputs"], everything) == {"response"}
    assert columns_for(["inputs", "outputs"], {"spans", "response"}) == {"spans", "response"}
    assert columns_for(["expectations"], everything) == {"assessments"}
    assert columns_for(["trace"], everything) == TRACE_COLUMNS
    assert columns_for(["trace"], {"trace_id", "spans", "mine"}) == {"trace_id", "spans"}
    assert columns_for(["outputs"], {"trace_id"}) == set()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
        StopIteration(),
        RecursionError(),
        BaseException(),
    ],
)
def test_whatever_a_scorer_raises_is_its_row(error: Any) -> None:
    """Other pairs go on."""
    found = scored({"response": ["a"]}, [raising(error), lambda outputs: 1])

    assert found.fields["error_code"] == ["scorer_error", None]
    assert found.fields["error_message"][0].startswith(type(error).__name__)
    assert found.fields["latency_ms"][0] >= 0


def test_running_out_of_memory_and_stack_are_rows() -> None:
    """MemoryError is `memory`; endless recursion an ordinary exception."""

    def deep(outputs: Any) -> Any:
        return deep(outputs)

    found = scored({"response": ["a"]}, [raising(MemoryError()), deep])

    assert found.fields["error_code"] == ["memory", "scorer_error"]


def test_an_unreadable_trace_costs_only_the_scorers_that_read_it() -> None:
    """Reading the broken column is `trace_unreadable`, before or inside the call."""
    columns = {"trace_id": ["tr-1"], "response": ["fine"], "assessments": ["{"], "spans": ["{"]}
    found = scored(
        columns,
        [
            lambda outputs: 1,
            lambda expectations: 1,
            lambda trace: len(trace.data.spans),
            lambda trace: trace.info.trace_id,
        ],
    )

    assert found.fields["error_code"] == [None, "trace_unreadable", "trace_unreadable", None]


def test_bytes_that_are_no_text_cost_only_the_scorers_that_look_at_them() -> None:
    """Also where the trace was pickled meanwhile; the texts beside them are read."""
    columns = {"trace_id": ["tr-1"], "response": [b"caf\xe9"], "state": ["OK"], "tags": [b"\xff"], "has_bytes": [()]}
    found = scored(
        columns,
        [
            lambda outputs: 1,
            lambda trace: trace.outputs,
            lambda trace: pickle.loads(pickle.dumps(trace)).data.response,
            lambda trace: copy.deepcopy(trace).info.tags,
            lambda trace: trace.info.state,
        ],
    )
    assert found.fields["error_code"] == ["trace_unreadable"] * 4 + [None]
    assert "The column 'response' holds bytes that are no UTF-8." in found.fields["error_message"][0]
    assert found.fields["latency_ms"][0] is None


def test_a_scorer_is_not_called_where_its_key_or_filter_cannot_be_read() -> None:
    """The mask tells for which scorers; the others are called."""
    columns = {"response": ["a", "b"], "unreadable": [2, 0], "too_large": [3, 0]}
    found = scored(columns, [lambda outputs: 1, lambda outputs: 2])
    assert found.fields["error_code"] == ["trace_too_large", "trace_unreadable", None, None]


def test_a_scorer_that_cannot_be_loaded_costs_its_own_pairs() -> None:
    """Each of its due pairs has the reason, the others their values."""

    def load(spec: Any) -> Callable[..., Any]:
        if spec.name == "broken":
            raise ScorerLoadError("made with Python 3.9")
        if spec.name == "exits":
            sys.exit(1)
        return lambda outputs: 1

    specs = [a_spec("broken"), a_spec("fine"), a_spec("exits"), a_spec("sessions", ("session",))]
    loaded = load_scorers(specs, {"response"}, load=load)
    found = score_batch({"response": ["a", "b"]}, [15, 3], loaded, payload="auto")

    codes = ["load_failed", None, "load_failed", "load_failed", "load_failed", None]
    assert found.fields["error_code"] == codes
    assert "made with Python 3.9" in found.fields["error_message"][0]


def test_too_large_traces_are_not_scored() -> None:
    """True means for all scorers, a mask for those in it; the row says which setting decides."""
    calls: list[Any] = []

    def count(outputs: Any) -> int:
        calls.append(outputs)
        return len(calls)

    found = scored({"response": ["a", None, "c"], "too_large": [0, True, 2]}, [count, count])

    assert found.fields["error_code"] == [None, None, "trace_too_large", "trace_too_large", None, "trace_too_large"]
    assert calls == ["a", "a", "c"]
    assert "limits.trace_mb" in found.fields["error_message"][2]


@pytest.mark.parametrize("value", ['{"messages": ["a"]}', {"messages": ["a"]}])
def test_what_one_scorer_changes_no_other_sees(value: Any) -> None:
    """Containers are made afresh for each scorer, from texts and from native values."""

    def vandal(inputs: Any) -> int:
        inputs["messages"].append("b")
        inputs.clear()
        return 1

    def breaker(trace: Any) -> int:
        trace.info.tags["x"] = 1
        trace.inputs["messages"].append("c")
        return 1

    see = lambda inputs: f"{inputs}"
    found = scored({"request": [value], "tags": ['{"a": "b"}']}, [vandal, see, breaker, vandal, see])
    tags = scored({"tags": ['{"a": "b"}']}, [lambda trace: len(trace.info.tags)] * 2)

    assert [v for v in found.fields["value_string"] if v] == ["{'messages': ['a']}"] * 2
    assert tags.fields["value"] == ["1", "1"]


def digests(columns: Any, function: Any, payload: str = "auto") -> Any:
    return scored(columns, [function], payload=payload).fields["input_digest"]


def test_input_digest_tells_equal_input_from_changed() -> None:
    """It depends on what the scorer is given and on nothing else in the batch."""
    on_outputs = lambda outputs: 1
    both = lambda inputs, outputs: 1

    a, b, again = digests({"response": ["x", "y", "x"]}, on_outputs)
    assert a == again != b
    assert digests({"response": ["x"], "request": ["other"], "tags": ["{}"]}, on_outputs) == [a]
    assert digests({"response": ["x"]}, on_outputs, payload="json") != [a]
    assert digests({"response": [None, ""]}, on_outputs)[0] != digests({"response": [None, ""]}, on_outputs)[1]
    assert len(set(digests({"request": ["ab", "a", "ab", None], "response": ["c", "bc", None, "ab"]}, both))) == 4
    assert digests({"response": ["\ud800"]}, on_outputs) != [a]


def test_equal_input_has_one_digest_for_all_scorers() -> None:
    """Scorers that are given the same columns agree."""
    found = scored({"response": ["x"]}, [lambda outputs: 1, lambda outputs: 2])

    assert len(set(found.fields["input_digest"])) == 1


def test_latency_is_the_time_of_the_call() -> None:
    """Milliseconds, without what surrounds the call."""

    def slow(outputs: Any) -> int:
        until = time.perf_counter() + 0.01
        while time.perf_counter() < until:
            pass
        return 1

    found = scored({"response": ["a"]}, [slow, lambda outputs: 1])

    assert found.fields["latency_ms"][0] >= 10
    assert found.fields["latency_ms"][1] < found.fields["latency_ms"][0]


def test_a_call_that_takes_too_long_is_ended() -> None:
    """A loop, a wait, and a loop that catches everything end as `timeout`; the rest of the batch is scored."""

    def loops(outputs: Any) -> None:
        while True:
            pass

    def waits(outputs: Any) -> None:
        time.sleep(60)

    def catches(outputs: Any) -> None:
        while True:
            try:
                time.sleep(60)
            except Exception:
                pass

    before = signal.getsignal(signal.SIGALRM)
    found = scored({"response": ["a"]}, [loops, waits, catches, lambda outputs: 1], timeout_s=0.05)

    assert found.fields["error_code"] == ["timeout", "timeout", "timeout", None]
    assert "0.05 s" in found.fields["error_message"][0]
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def leaves_an_alarm(outputs: Any) -> int:
    def cry(*_: Any) -> None:
        raise RuntimeError("an alarm of another scorer")

    signal.signal(signal.SIGALRM, cry)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    return 1


def stops_all_timers(outputs: Any) -> int:
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(5)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return 1


def sets_an_alarm_only(outputs: Any) -> int:
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    return 1


def ignores_alarms(outputs: Any) -> int:
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    return 1


def fails_with_an_alarm(outputs: Any) -> None:
    leaves_an_alarm(outputs)
    raise ValueError


async def leaves_one_and_waits(outputs: Any) -> Any:
    return leaves_an_alarm(outputs)


@pytest.mark.parametrize("limit_s", [1.0, 0])
@pytest.mark.parametrize(
    "meddler",
    [
        leaves_an_alarm,
        stops_all_timers,
        sets_an_alarm_only,
        ignores_alarms,
        fails_with_an_alarm,
        leaves_one_and_waits,
    ],
)
def test_a_scorers_alarms_change_no_other_scorers_limit(meddler: Any, limit_s: float) -> None:
    """What one leaves behind ends with its call; the next one is still ended at its own limit, and no sooner."""

    def takes_a_while(outputs: Any) -> int:
        until = time.perf_counter() + 0.05
        while time.perf_counter() < until:
            pass
        return 2

    def loops(outputs: Any) -> None:
        while True:
            pass

    specs = [a_spec(name, timeout_s=limit_s) for name in ("meddler", "next")]
    specs[0] = replace(specs[0], kind=ScorerKind.ASYNC_FUNCTION if iscoroutinefunction(meddler) else specs[0].kind)
    specs.append(a_spec("loops", timeout_s=0.1))
    functions = {"meddler": meddler, "next": takes_a_while, "loops": loops}
    loaded = load_scorers(specs, {"response"}, load=lambda spec: functions[spec.name])
    due = [3, 3, 7] if limit_s else [3, 3]
    before = signal.getsignal(signal.SIGALRM)
    found = score_batch({"response": ["a"] * len(due)}, due, loaded[: 3 if limit_s else 2], payload="auto")

    of_next = [v for v, n in zip(found.fields["value"], found.fields["scorer_name"], strict=True) if n == "next"]
    assert of_next == ["2"] * len(due)
    assert found.fields["error_code"].count("timeout") == (1 if limit_s else 0)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_scorers_own_alarm_works_in_its_call() -> None:
    """A limit that a scorer sets itself ends its wait."""

    def limits_itself(outputs: Any) -> None:
        def cry(*_: Any) -> None:
            raise TimeoutError("mine")

        signal.signal(signal.SIGALRM, cry)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        time.sleep(60)

    found = scored({"response": ["a"]}, [limits_itself], timeout_s=30)
    assert found.fields["error_message"] == ["TimeoutError: mine"]


def test_a_scorers_own_limit_wins() -> None:
    """0 switches the limit off, a number replaces the general one."""

    def takes_a_while(outputs: Any) -> int:
        until = time.perf_counter() + 0.3
        while time.perf_counter() < until:
            pass
        return 1

    specs = [a_spec("free", timeout_s=0), a_spec("bound", timeout_s=0.03), a_spec("general")]
    loaded = load_scorers(specs, {"response"}, load=lambda spec: takes_a_while)
    found = score_batch({"response": ["a"]}, [7], loaded, payload="auto", timeout_s=60)

    assert found.fields["error_code"] == [None, "timeout", None]


def test_collections_leave_out_what_was_there_before() -> None:
    """The worker freezes what was imported, once."""
    scored({"response": ["a"]}, [lambda outputs: 1])

    assert gc.get_freeze_count() > 0


@given(st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["v", None, "raise", "list"]))))
def test_lengths_and_results_agree(batch: Any) -> None:
    """For any masks and returns: one call a due pair, lengths that add up, one row or more a due pair."""
    from backfill_spark.traces.assessment import Feedback

    calls = []

    def score(outputs: Any) -> Any:
        calls.append(outputs)
        if outputs == "raise":
            raise ValueError
        return [Feedback(value=1), Feedback(value=2)] if outputs == "list" else outputs

    columns = {"response": [text for _, text in batch]}
    if not batch:
        return
    found = scored(columns, [score, score, score], due=[mask for mask, _ in batch])
    pairs = [mask.bit_count() for mask, _ in batch]

    assert len(calls) == sum(pairs)
    assert found.lengths == [n * (2 if text == "list" else 1) for n, (_, text) in zip(pairs, batch, strict=True)]
    assert all(len(values) == sum(found.lengths) for values in found.fields.values())


def test_scorers_that_share_a_column_see_the_text_of_their_row() -> None:
    """JSON that is decoded for each of them, and plain text that is handed on, in turn."""
    texts, seen = ['{"a": 1}', "plain", "[2]", "5", None, '{"b": 3}'], []

    def first(outputs: Any) -> None:
        seen.append(outputs)

    def second(outputs: Any) -> None:
        seen.append(outputs)

    scored({"response": texts}, [first, second])
    assert seen == [value for value in ({"a": 1}, "plain", [2], "5", None, {"b": 3}) for _ in range(2)]
