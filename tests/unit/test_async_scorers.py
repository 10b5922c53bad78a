"""`async def` scorers: many calls under way at once, and each call's fate its own."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from dataclasses import replace
from typing import Any, cast

import pytest

from backfill_spark import Feedback, scorer
from backfill_spark.models import ScorerKind, ScorerSpec
from backfill_spark.scorers.registered import Catalog
from backfill_spark.scorers.scorer import scorer_of
from backfill_spark.scorers.stored_code import loading, pickling
from backfill_spark.scoring import async_calls
from backfill_spark.scoring.feedback import FIELD_NAMES
from backfill_spark.scoring.worker import MAX_IN_FLIGHT, load_scorers, score_batch
from backfill_spark.settings.judges import EndpointSettings

EMPTY_ROW = dict.fromkeys(
    ("level", "description", "aggregations", "timeout_s", "version_note", "created_by", "source_text", "deleted_us")
)


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_calls, "_GRACE_S", 0.05)


def scored(
    outputs: Any, functions: Any, due: Any = None, *, too_large: Any = None, own_limits: Any = None, **options: Any
) -> Any:
    """Score a batch with functions on `outputs`, some of them async."""
    specs = [
        ScorerSpec(f"s{n}", 1, "d", scorer(function).kind, {}, None, ("outputs",), 1.0)
        for n, function in enumerate(functions)
    ]
    specs = [replace(spec, timeout_s=(own_limits or {}).get(spec.name)) for spec in specs]
    loaded = load_scorers(specs, {"response"}, load=lambda spec: functions[int(spec.name[1:])])
    columns = {"response": outputs} | ({} if too_large is None else {"too_large": too_large})
    due = [(1 << len(functions)) - 1] * len(outputs) if due is None else due
    return score_batch(columns, due, loaded, payload="auto", **options)


class Tower:
    """Counts the calls that are under way."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.seen: list[Any] = []

    async def score(self, outputs: Any) -> Any:
        self.seen.append(outputs)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.1)
        self.now -= 1
        return float(outputs)


def counting(tower: Any) -> Any:
    async def score(outputs: Any) -> Any:
        return await tower.score(outputs)

    return score


@pytest.mark.parametrize(("window", "most"), [(64, 50), (10, 10), (1, 1)])
def test_calls_are_under_way_at_once_up_to_the_window(window: int, most: int) -> None:
    """Each row is called once; results stand in the order of the rows."""
    tower, count = Tower(), 50 if window > 1 else 3
    found = scored([str(n) for n in range(count)], [counting(tower)], in_flight=window)

    assert min(most, count) == tower.most
    assert [str(n) for n in range(count)] == sorted(tower.seen, key=int)
    assert [float(n) for n in range(count)] == found.fields["value_double"]
    assert [1] * count == found.lengths
    assert all(latency >= 90 for latency in found.fields["latency_ms"])


def test_the_window_is_that_of_judges() -> None:
    assert EndpointSettings().max_in_flight == MAX_IN_FLIGHT


def test_sync_and_async_scorers_share_a_batch() -> None:
    """Only due pairs are called, each once; results stand as for plain functions, digests included."""
    calls = []

    def plain(outputs: Any) -> int:
        calls.append(("plain", outputs))
        return 1

    async def asks(outputs: Any) -> Any:
        calls.append(("asks", outputs))
        await asyncio.sleep(0)
        return [Feedback(name="a", value=True), Feedback(name="b", value="yes", rationale="r")]

    async def nothing(outputs: Any) -> None:
        calls.append(("nothing", outputs))

    found = scored(["a", "b", "c", "d"], [plain, asks, nothing, plain], due=[15, 0, 2, 5], too_large=[0, 0, 0, True])

    assert sorted([("asks", "a"), ("asks", "c"), ("nothing", "a"), ("plain", "a"), ("plain", "a")]) == sorted(calls)
    assert [5, 0, 2, 2] == found.lengths
    assert ["s0", "s1", "s1", "s2", "s3", "s1", "s1", "s0", "s2"] == found.fields["scorer_name"]
    assert ["1", "true", '"yes"', None, "1", "true", '"yes"', None, None] == found.fields["value"]
    assert [None] * 7 + ["trace_too_large"] * 2 == found.fields["error_code"]
    assert 1 == len(set(found.fields["input_digest"][:5]))
    assert FIELD_NAMES == tuple(found.fields)


def test_an_async_scorer_gives_what_a_plain_one_gives() -> None:
    """The same rows for the same answers, but for the time of the call."""
    answers = {"int": 1, "nan": float("nan"), "text": "yes", "none": None, "dict": {}, "list": [], "tuple": (1,)}

    def plain(outputs: Any) -> Any:
        if outputs == "raise":
            raise ValueError("no")
        return answers[outputs]

    async def asks(outputs: Any) -> Any:
        await asyncio.sleep(0)
        return plain(outputs)

    outputs = [*answers, "raise"]
    sync, awaited = scored(outputs, [plain]), scored(outputs, [asks])

    assert {**sync.fields, "latency_ms": None} == {**awaited.fields, "latency_ms": None}
    assert "bad_return_type" == awaited.fields["error_code"][4]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, asyncio.CancelledError, StopIteration])
@pytest.mark.parametrize("where", ["before", "after", "in a task"])
def test_what_a_call_raises_is_its_row(error: Any, where: str) -> None:
    """Its neighbours go on, also where the exception would end the event loop."""

    async def fails() -> None:
        raise error("x")

    async def asks(outputs: Any) -> int:
        if outputs == "bad":
            if where == "before":
                raise error("x")
            await asyncio.sleep(0.01)
            if where == "in a task":
                await asyncio.create_task(fails())
            raise error("x")
        await asyncio.sleep(0.02)
        return 1

    found = scored(["good", "bad", "good"], [asks])

    assert [None, "scorer_error", None] == found.fields["error_code"]
    assert found.fields["latency_ms"][1] >= 0


def test_a_call_that_cancels_itself_or_stops_the_loop_costs_no_other() -> None:
    async def asks(outputs: Any) -> int:
        if outputs == "cancel":
            cast("asyncio.Task[Any]", asyncio.current_task()).cancel()
        if outputs == "stop":
            asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        return 1

    found = scored(["a", "cancel", "stop", "b"], [asks])

    assert [None, "scorer_error", None, None] == found.fields["error_code"]


async def waits(outputs: Any) -> None:
    await asyncio.sleep(60)


async def blocks(outputs: Any) -> None:
    time.sleep(60)  # noqa: ASYNC251 - what must not hurt others


async def blocks_after_a_wait(outputs: Any) -> None:
    await asyncio.sleep(0)
    while True:
        pass


async def swallows_one(outputs: Any) -> int | None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return 1
    return None


async def swallows_all(outputs: Any) -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except BaseException:
            pass


async def waits_for_a_task_that_swallows_all(outputs: Any) -> None:
    await asyncio.create_task(swallows_all(outputs))


async def blocks_when_cancelled(outputs: Any) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        time.sleep(60)  # noqa: ASYNC251 - as above


@pytest.mark.parametrize(
    "hangs",
    [
        waits,
        blocks,
        blocks_after_a_wait,
        swallows_one,
        swallows_all,
        waits_for_a_task_that_swallows_all,
        blocks_when_cancelled,
    ],
)
def test_a_call_that_hangs_costs_its_own_row(hangs: Any) -> None:
    """However it hangs; rows before and after it are scored, in a window of two and in the next batch."""

    async def asks(outputs: Any) -> Any:
        await asyncio.sleep(0.01)
        return await hangs(outputs) if outputs == "hang" else 1

    found = scored(["a", "hang", "b", "c", "d"], [asks], timeout_s=0.2, in_flight=2)

    assert [None, "timeout", None, None, None] == found.fields["error_code"]
    assert "0.2 s" in found.fields["error_message"][1]
    assert [None] == scored(["e"], [asks], timeout_s=0.2).fields["error_code"]


def test_time_that_others_take_counts_for_nobody_else() -> None:
    """Calls that block the loop in turn, together past the limit, all end well."""

    async def asks(outputs: Any) -> int:
        await asyncio.sleep(0)
        until = time.perf_counter() + 0.05
        while time.perf_counter() < until:
            pass
        await asyncio.sleep(0)
        return 1

    found = scored(["a"] * 8, [asks], timeout_s=0.2)

    assert [None] * 8 == found.fields["error_code"]


def test_a_scorers_own_limit_wins() -> None:
    """0 switches the limit off, a number replaces the general one."""

    async def takes_a_while(outputs: Any) -> int:
        await asyncio.sleep(0.2)
        return 1

    limits = {"s0": 0, "s1": 0.05}
    found = scored(["a"], [takes_a_while] * 3, own_limits=limits, timeout_s=60)

    assert [None, "timeout", None] == found.fields["error_code"]


def test_cleanup_runs_when_a_call_is_ended() -> None:
    """A `finally` may wait."""
    cleaned = []

    async def asks(outputs: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned.append(outputs)

    assert ["timeout"] == scored(["a"], [asks], timeout_s=0.05).fields["error_code"]
    assert ["a"] == cleaned


def test_limits_of_the_scorer_itself_work() -> None:
    """`asyncio.timeout`, `wait_for` and task groups behave as anywhere."""

    async def asks(outputs: Any) -> Any:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            pass
        try:
            await asyncio.wait_for(asyncio.sleep(60), 0.01)
        except TimeoutError:
            pass
        async with asyncio.TaskGroup() as group:
            parts = [group.create_task(asyncio.sleep(0, n)) for n in range(3)]
        return sum(part.result() for part in parts)

    assert ["3", "3"] == scored(["a", "b"], [asks], timeout_s=60).fields["value"]


def test_calls_share_neither_context_variables_nor_arguments() -> None:
    variable = contextvars.ContextVar("variable", default="none")

    async def asks(outputs: Any) -> str:
        before = variable.get()
        variable.set("set")
        outputs.append(1)
        await asyncio.sleep(0)
        return f"{before} {len(outputs)}"

    found = scored(["[]"] * 2, [asks, asks])

    assert ["none 1"] * 4 == found.fields["value_string"]


def test_batches_of_a_process_share_a_loop_and_other_threads_have_their_own() -> None:
    """What a scorer keeps between batches, such as a client, belongs to a loop that is still there."""
    loops = []

    async def asks(outputs: Any) -> None:
        loops.append(asyncio.get_running_loop())

    scored(["a"], [asks])
    scored(["b"], [asks])
    thread = threading.Thread(target=scored, args=(["c"], [asks]), kwargs={"timeout_s": 1.0})
    thread.start()
    thread.join()

    assert loops[0] is loops[1] is not loops[2]
    assert (False, True) == (loops[0].is_closed(), loops[2].is_closed())


def test_a_scorer_that_cannot_be_loaded_or_given_its_input_costs_its_own_rows() -> None:
    async def asks(trace: Any) -> Any:
        return len(trace.data.spans)

    specs = [
        ScorerSpec(name, 1, "d", ScorerKind.ASYNC_FUNCTION, {}, None, ("trace",), 1.0) for name in ("broken", "fine")
    ]

    def load(spec: Any) -> Any:
        if spec.name == "broken":
            raise ImportError("no")
        return asks

    columns = {"trace_id": ["1", "2"], "spans": ["[]", "{"]}
    found = score_batch(columns, [3, 3], load_scorers(specs, columns, load=load), payload="auto")

    assert ["load_failed", None, "load_failed", "trace_unreadable"] == found.fields["error_code"]


LIMIT = 3


async def helper(outputs: Any) -> Any:
    await asyncio.sleep(0)
    return len(outputs)


@scorer
async def longer(outputs):  # type: ignore[no-untyped-def] # as people write it
    """Says whether it is longer."""
    return await helper(outputs) > LIMIT


def test_a_call_by_hand_returns_the_coroutine() -> None:
    assert True is asyncio.run(longer(outputs="abcd"))
    assert False is asyncio.run(longer.run(outputs="abc", inputs="i"))


def test_an_async_function_is_stored_by_value_with_its_helpers() -> None:
    """Another process calls it as this one does; `async` is part of its digest."""

    def plain(outputs: Any) -> int:
        return 1

    async def asks(outputs: Any) -> int:
        return 1

    assert longer.function is not None
    made = pickling.dump(longer.function)
    spec = ScorerSpec("longer", 1, made.digest, longer.kind, {}, made.definition, ("outputs",), 1.0)
    found = score_batch(
        {"response": ["abcd", "a"]}, [1, 1], load_scorers([spec], {"response"}, load=loading.load), payload="auto"
    )

    assert ["true", "false"] == found.fields["value"]
    assert str(made.source_text).startswith("@scorer\nasync def longer(outputs):")
    assert scorer(plain).digest != scorer(asks).digest


def test_the_registry_tells_an_async_function_without_loading_it() -> None:
    row = EMPTY_ROW | {
        "experiment_id": "0",
        "name": "asks",
        "version": 1,
        "kind": "async_function",
        "parameters": "{}",
        "signature": '["outputs"]',
        "digest": "d",
        "definition": "no definition",
        "python_version": "3.11",
        "created_us": 1,
    }
    catalog = Catalog.of_rows("0", [row])
    newest, latest = catalog.newest("asks"), catalog.latest("asks")
    assert newest is not None
    assert latest is not None
    found = scorer_of(newest)

    assert ScorerKind.ASYNC_FUNCTION is latest.kind
    assert (True, "async_function") == (found.is_async, found.kind)


def test_a_wrapped_async_function_is_one() -> None:
    """A decorator that keeps `__wrapped__`, and a partial."""

    def decorated(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs) if kwargs["outputs"] else 0

        return wrapper

    @decorated
    async def asks(outputs: Any) -> int:
        return 1

    assert ScorerKind.ASYNC_FUNCTION is scorer(asks).kind
    assert ["1", "0"] == scored(["a", ""], [asks]).fields["value"]
    assert ScorerKind.ASYNC_FUNCTION is scorer(name="p")(functools.partial(helper)).kind
