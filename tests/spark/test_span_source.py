"""Traces put together from spans: which are in a window, once, and which are left out with a reason."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from backfill_spark import backfill_scorers, configure, plan_backfill, resume_backfill, scorer
from backfill_spark.models import TimeWindow
from backfill_spark.traces.sources import open_source
from tests.factories import NOON

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from backfill_spark.settings.schema import Settings
    from backfill_spark.traces.sources import TraceSource

SCHEMA = (
    "trace_id string, span_id string, parent_span_id string, name string, start_time_unix_nano bigint,"
    " end_time_unix_nano bigint, status struct<message: string, code: string>, attributes map<string,string>,"
    " resource struct<attributes: map<string,string>>"
)
DAY = TimeWindow(NOON, NOON + timedelta(days=1))
ZERO = int(NOON.timestamp())


def trace_id(number: int) -> str:
    return f"{number:032x}"


def span(
    trace: int | str, span_id: str | None, parent: str | None, start: float | None, end: float | None, **attributes: str
) -> tuple[Any, ...]:
    """Return a row; times in minutes after noon, attributes with `__` for a dot."""
    start_ns, end_ns = (None if t is None else int((ZERO + t * 60) * 10**9) for t in (start, end))
    found = {key.replace("__", "."): value for key, value in attributes.items()}
    code = found.pop("code", "STATUS_CODE_OK")
    id_of = trace if isinstance(trace, str) else trace_id(trace)
    resource = ({"service.name": "support"},)
    return id_of, span_id, parent, f"name {span_id}", start_ns, end_ns, ("", code), found, resource


def opened(spark: SparkSession, settings: Settings, rows: Iterable[tuple[Any, ...]]) -> TraceSource:
    frame: DataFrame = spark.createDataFrame(list(rows), SCHEMA)
    return open_source(spark, settings, frame)


def answers(source: TraceSource, window: TimeWindow, *columns: str, **how: Any) -> dict[str, Any]:
    """Return trace_id: the columns, of the traces in a window; each once."""
    rows = source.read({"trace_id", *columns}, window, **how).collect()
    assert len(rows) == len({row["trace_id"] for row in rows})
    return {row["trace_id"]: tuple(row[name] for name in columns) for row in rows}


def said(given: str, gave: str) -> dict[str, str]:
    return {"input__value": given, "output__value": gave}


def test_a_trace_is_in_the_window_of_its_root_with_all_its_spans(spark: SparkSession, settings: Settings) -> None:
    """Spans before the start and after the end of the window belong to it; those of others' traces do not."""
    rows = [
        span(1, "a", None, 1, 30, **said("in", "out")),
        span(1, "b", "a", -0.5, 2),  # a clock that goes before
        span(1, "c", "a", 2, 29),
        span(2, "a", None, 24 * 60 - 1, 24 * 60 + 30, **said("late", "answer")),
        span(2, "b", "a", 24 * 60 + 20, 24 * 60 + 30),
        span(3, "a", None, -1, 30),  # of the day before
        span(3, "b", "a", 5, 29),
        span(4, "a", None, 24 * 60, 24 * 60 + 1),  # of the next day
    ]
    source = opened(spark, settings, rows)
    read = source.read({"trace_id", "request", "response", "spans"}, DAY).collect()
    found = {row["trace_id"]: row for row in read}
    assert {t: [s["span_id"] for s in row["spans"]] for t, row in found.items()} == {
        trace_id(1): ["b", "a", "c"],
        trace_id(2): ["a", "b"],
    }
    assert {row["response"] for row in read} == {"out", "answer"}
    days = [TimeWindow(NOON + timedelta(days=n), NOON + timedelta(days=n + 1)) for n in (-1, 0, 1)]
    each = [sorted(answers(source, day)) for day in days]
    assert each == [[trace_id(3)], [trace_id(1), trace_id(2)], [trace_id(4)]]


def test_spans_that_arrive_twice_are_there_once(spark: SparkSession, settings: Settings) -> None:
    """Of two with one id the one that ended last counts; spans without an id all stay."""
    rows = [span(1, "a", None, 0, 1, **said("q", "r")), span(1, "b", "a", 0, 1), span(1, None, "a", 2, 3)]
    once = opened(spark, settings, [*rows, span(1, None, "a", 2.5, 3)])
    twice = opened(spark, settings, [*rows, *rows, span(1, None, "a", 2.5, 3), span(1, "b", "a", 0, 0.5)])
    expected, found = (source.read(source.columns, DAY).collect() for source in (once, twice))
    assert expected == found
    assert [s["span_id"] for s in found[0]["spans"]] == ["a", "b", None, None]


def test_of_two_roots_the_earlier_one_is_the_trace_s(spark: SparkSession, settings: Settings) -> None:
    """Also where it begins after a span that has a parent, and in another window than the second."""
    rows = [
        span(1, "x", "a", -1, 1, **said("child", "child")),
        span(1, "b", "", 50, 51, **said("second", "second")),
        span(1, "a", "0" * 16, 10, 11, **said("first", "first"), code="STATUS_CODE_ERROR"),
    ]
    source = opened(spark, settings, rows)
    columns = ("request", "state", "execution_duration_ms")
    assert answers(source, DAY, *columns) == {trace_id(1): ("first", "ERROR", 60_000)}
    later = TimeWindow(NOON + timedelta(minutes=40), None)
    assert answers(source, later) == {}


def test_without_a_root_the_earliest_span_is_the_head(spark: SparkSession, settings: Settings) -> None:
    """As where the root is another service's; a window in which only later spans lie does not have the trace."""
    rows = [
        span(1, "b", "remote", 5, 30, **said("q", "r"), session__id="s-1"),
        span(1, "a", "b", 5, 29, **said("inner", "inner")),
        span(1, "c", "b", 6, 29, **said("inner", "inner")),
    ]
    source = opened(spark, settings, rows)
    found = answers(source, DAY, "request", "response", "session_id", "tags")
    assert found == {trace_id(1): ("q", "r", "s-1", {"service.name": "support"})}
    assert answers(source, TimeWindow(NOON + timedelta(minutes=5, seconds=30), None)) == {}


def test_a_bare_root_has_the_texts_of_its_models(spark: SparkSession, settings: Settings) -> None:
    """Of the first model or agent the inputs, of the last the outputs; metadata say from where."""
    model = {"openinference__span__kind": "LLM"}
    rows = [
        span(1, "a", None, 0, 10, http__route="/chat"),
        span(1, "t", "a", 1, 2, **said("tool", "tool"), openinference__span__kind="TOOL"),
        span(1, "m1", "a", 3, 4, **said("first", "middle"), **model),
        span(1, "m2", "a", 5, 6, **said("second", "last"), **model),
        # Half is not bare: the other half is none.
        span(2, "a", None, 0, 10, input__value="own"),
        span(2, "m", "a", 3, 4, **said("first", "last"), **model),
    ]
    source = opened(spark, settings, rows)
    found = answers(source, DAY, "request", "response")
    assert found == {trace_id(1): ("first", "last"), trace_id(2): ("own", None)}
    metadata = answers(source, DAY, "trace_metadata")
    assert metadata[trace_id(1)] == ({"http.route": "/chat", "backfill_spark.io_from": "m1"},)
    assert "backfill_spark.io_from" not in metadata[trace_id(2)][0]


INSTRUMENTATIONS: list[tuple[dict[str, str], str | None, str | None]] = [
    ({"mlflow__spanInputs": '{"q": 1}', "mlflow__spanOutputs": '"text"'}, '{"q": 1}', "text"),
    (said("a", "b"), "a", "b"),
    ({"gen_ai__input__messages": "[1]", "gen_ai__output__messages": "[2]"}, "[1]", "[2]"),
    ({"gen_ai__tool__call__arguments": "{}", "gen_ai__tool__call__result": "7"}, "{}", "7"),
    ({"span__type": "interaction", "user_prompt": "hi"}, "hi", None),
    ({"span__type": "llm_request", "new_context": "c", "response__model_output": "o"}, "c", "o"),
    ({"user_prompt": "of nobody known"}, None, None),
    ({"span__type": "tool", "tool_input": "<REDACTED>"}, None, None),
    ({"traceloop__entity__input": "i", "traceloop__entity__output": "o"}, "i", "o"),
    ({"gcp__vertex__agent__llm_request": "i", "gcp__vertex__agent__llm_response": "o"}, "i", "o"),
    ({"ai__prompt": "i", "ai__response__text": "o"}, "i", "o"),
    ({"ai__toolCall__args": "i", "ai__toolCall__result": "o"}, "i", "o"),
    ({"lk__chat_ctx": "i", "lk__response__text": "o"}, "i", "o"),
    ({"lmnr__span__input": "i", "lmnr__span__output": "o"}, "i", "o"),
    ({"langfuse__observation__input": "i", "langfuse__observation__output": "o"}, "i", "o"),
    ({"agent__messages": "i", "output": "o"}, "i", "o"),
    ({"gen_ai__prompt": "i", "gen_ai__completion": "o"}, "i", "o"),
    (
        {
            "gen_ai__prompt__0__role": "system",
            "gen_ai__prompt__0__content": "be kind",
            "gen_ai__prompt__1__role": "user",
            "gen_ai__prompt__1__content": "hi",
            "gen_ai__completion__0__content": "hello",
        },
        '[{"role":"system","content":"be kind"},{"role":"user","content":"hi"}]',
        '[{"content":"hello"}]',
    ),
    # Never the inputs of one and the outputs of another.
    ({"input__value": "i", "traceloop__entity__output": "o"}, "i", None),
    ({"input__value": "", "traceloop__entity__input": "i"}, "i", None),
]


def test_each_instrumentation_is_read_by_its_keys(spark: SparkSession, settings: Settings) -> None:
    """The first library that has either is taken."""
    rows = [span(n, "a", None, 0, 1, **attributes) for n, (attributes, _, _) in enumerate(INSTRUMENTATIONS, start=1)]
    found = answers(opened(spark, settings, rows), DAY, "request", "response")
    assert found == {trace_id(n): (given, gave) for n, (_, given, gave) in enumerate(INSTRUMENTATIONS, start=1)}


@scorer
def anything(outputs: Any) -> Any:
    """Any scorer."""
    return outputs is not None


def test_what_cannot_be_scored_is_counted(spark: SparkSession, settings: Settings) -> None:
    """The sums of a plan hold: each trace has one reason."""
    rows = [
        span(1, "a", None, 0, 1, **said("q", "r")),
        span(2, "a", None, 0, None),  # never ends
        span(3, "a", None, 0, 61),  # longer than the slack
        span("abc", "a", None, 0, 1),  # no trace id
        span("abc", "b", "a", 0, 1),
        span("0" * 32, "a", None, 0, 1),
        span(4, "a", None, None, None),  # no time
        span(5, "a", None, 0, 1, **said("q", "r"), mlflow__sourceRun="run-1"),
    ]
    spark.createDataFrame(rows, SCHEMA).write.format("delta").save(settings.traces_path)
    configure(settings)
    anything.register().start()
    counts = plan_backfill(scorers=["anything"]).counts["anything"]
    reasons = {"in_progress": 1, "incomplete": 1, "no_trace_id": 2, "no_time": 1, "evaluation_run": 1}
    assert (counts.in_window, counts.due, counts.skipped_reasons) == (7, 1, reasons)


def test_a_longer_slack_takes_longer_traces(spark: SparkSession, settings: Settings) -> None:
    """The setting is the length of a trace, and how far beyond the window is read."""
    rows = [span(1, "a", None, 24 * 60 - 1, 24 * 60 + 90), span(1, "b", "a", 24 * 60 + 80, 24 * 60 + 90)]
    longer = settings.model_copy(update={"traces": settings.traces.model_copy(update={"slack": "2h"})})
    found = []
    for chosen in (settings, longer):
        read = opened(spark, chosen, rows).read({"state", "spans"}, DAY).collect()
        found += [(row["state"], len(row["spans"])) for row in read]
    assert found == [("INCOMPLETE", 1), ("OK", 2)]


def test_a_job_keeps_the_slack_that_it_was_created_with(spark: SparkSession, settings: Settings) -> None:
    """A resume reads the same traces, whatever the setting is by then."""
    rows = [span(1, "a", None, 0, 90, **said("q", "r")), span(2, "a", None, 0, 1, **said("q", "r"))]
    spark.createDataFrame(rows, SCHEMA).write.format("delta").save(settings.traces_path)
    configure(settings.model_copy(update={"traces": settings.traces.model_copy(update={"slack": "2h"})}))
    anything.register().start()
    job_id = backfill_scorers(scorers=["anything"], launch="queue")
    configure(settings)
    counts = resume_backfill(job_id).counts["anything"]
    assert (counts.in_window, counts.due, counts.scored) == (2, 2, 2)
