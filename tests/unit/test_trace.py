"""Trace is lazy, has MLflow's attribute names, and reads every spelling of a span."""

from __future__ import annotations

import json
import pickle
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.errors import TraceUnreadableError
from backfill_spark.traces.assessment import Expectation, Feedback, IssueReference
from backfill_spark.traces.span import SpanLogLevel, SpanStatus, SpanStatusCode
from backfill_spark.traces.trace import Span, Trace, TraceState, decode_payload
from tests import mlflow_snippets


def a_trace(**values: Any) -> Any:
    return Trace({"trace_id": "tr-1", **values})


@pytest.mark.parametrize(
    ("text", "auto", "full"),
    [
        ('{"a": 1}', {"a": 1}, {"a": 1}),
        (" \n[1, 2]", [1, 2], [1, 2]),
        ("18", "18", 18),
        ('"yes"', '"yes"', "yes"),
        ("true", "true", True),
        ("null", "null", None),
        ("{no json", "{no json", "{no json"),
        ("plain", "plain", "plain"),
        ("", "", ""),
        ("   ", "   ", "   "),
        ("NaN", "NaN", "NaN"),
        ("-Infinity", "-Infinity", "-Infinity"),
        ("[" * 100_000, "[" * 100_000, "[" * 100_000),
        ("9" * 5_000, "9" * 5_000, "9" * 5_000),
        ("\ufeff{}", "\ufeff{}", "\ufeff{}"),
        (None, None, None),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_payload_rule(text: Any, auto: Any, full: Any) -> None:
    """`auto` decodes objects and arrays, `json` everything, `text` nothing; what does not parse stays text."""
    assert decode_payload(text, "auto") == auto
    assert decode_payload(text, "json") == full
    assert decode_payload(text, "text") == text


@given(st.text(), st.sampled_from(["auto", "json", "text"]))
def test_no_text_makes_decoding_fail(text: Any, payload: Any) -> None:
    """Any text decodes to something."""
    decode_payload(text, payload)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_json_payload_comes_back(value: Any) -> None:
    """What was written as JSON is read as the same value."""
    assert decode_payload(json.dumps(value), "json") == value


def test_inputs_are_the_request_column_even_when_it_is_null() -> None:
    """A shape that has the column never falls back to the spans."""
    spans = [{"span_id": "1", "inputs": "root in", "outputs": "root out"}]

    assert a_trace(request=None, spans=spans).inputs is None
    assert a_trace(request='{"q": 1}', spans=spans).inputs == {"q": 1}
    assert a_trace(spans=spans).inputs == "root in"
    assert a_trace(spans=spans).outputs == "root out"
    assert a_trace(spans=None).inputs is None
    assert a_trace().outputs is None


@pytest.mark.parametrize(
    ("spans", "root"),
    [
        ([("a", None, 5), ("b", "a", 1)], "a"),
        ([("b", "a", 1), ("a", "", 5)], "a"),
        ([("a", None, 5), ("b", None, 1)], "a"),
        ([("a", "0" * 16, 5)], "a"),
        ([("a", "gone", 5), ("b", "gone too", 3), ("c", "b", 1)], "b"),
        ([("a", "gone", None), ("b", "gone", 9)], "b"),
        ([("a", "b", 1), ("b", "a", 2)], None),
        ([], None),
    ],
)
def test_root_span(spans: Any, root: Any) -> None:
    """The first span without a parent, else the earliest whose parent is not in the trace."""
    trace = a_trace(spans=[{"span_id": i, "parent_id": p, "start_time_ns": t, "inputs": i} for i, p, t in spans])
    found = trace.data.root_span()

    assert root == (None if found is None else found.span_id)
    assert root == trace.inputs


@pytest.mark.parametrize("column", ["spans", "assessments", "tags", "trace_metadata"])
@pytest.mark.parametrize(
    "text", ["{broken", "", "17", '"text"', "[[1]]", "[" * 100_000], ids=lambda text: text[:12] or "empty"
)
def test_an_unreadable_column_is_told_at_access_only(column: str, text: str) -> None:
    """A trace with a broken column can be made, and everything else of it read."""
    trace = a_trace(**{column: text, "state": "OK", "request": "hi"})

    assert trace.info.state == "OK"
    assert trace.inputs == "hi"
    with pytest.raises(TraceUnreadableError, match=column):
        {
            "spans": lambda: trace.data.spans,
            "assessments": lambda: trace.expectations,
            "tags": lambda: trace.info.tags,
            "trace_metadata": lambda: trace.info.trace_metadata,
        }[column]()


def test_an_unreadable_column_does_not_show_its_text() -> None:
    """The message holds a position, never the trace's text."""
    with pytest.raises(TraceUnreadableError) as caught:
        _ = a_trace(spans="my secret text").data.spans

    assert "secret" not in str(caught.value)


def test_json_texts_and_native_values_read_the_same() -> None:
    """Maps and arrays come as JSON text, as text quoted once more, or as they are."""
    spans = [{"span_id": "1", "name": "n", "attributes": {"k": "v"}}]
    tags = {"a": "b"}
    for dress in (lambda x: x, json.dumps, lambda x: json.dumps(json.dumps(x))):
        trace = a_trace(spans=dress(spans), tags=dress(tags))
        assert trace.data.spans[0].attributes == {"k": "v"}
        assert trace.info.tags == tags
    assert a_trace(tags=[("a", "b")]).info.tags == tags
    assert a_trace(spans="null").data.spans == []


def test_info_has_mlflows_names() -> None:
    """Times are milliseconds, absent things None or empty."""
    info = Trace(
        {
            "trace_id": "tr-1",
            "request_time": 1_718_452_800_123_456,
            "execution_duration_ms": "1200",
            "state": "ERROR",
            "experiment_id": "7",
            "trace_metadata": '{"mlflow.trace.tokenUsage": "{\\"total_tokens\\": 3}"}',
        }
    ).info

    assert info.request_time == info.timestamp_ms == 1_718_452_800_123
    assert info.execution_duration == 1200
    assert (info.state, TraceState(info.state).value) == ("ERROR", "ERROR")
    assert info.token_usage == {"total_tokens": 3}
    assert (info.tags, info.assessments, info.client_request_id) == ({}, [], None)
    assert Trace({"request_time": "1718452800123456"}).info.request_time == 1_718_452_800_123
    assert Trace({"request_time": datetime(2024, 6, 15, 12, tzinfo=UTC)}).info.request_time == 1_718_452_800_000
    assert Trace({"request_time": -1}).info.request_time == -1
    assert Trace({}).info.state == "STATE_UNSPECIFIED"


MLFLOW_SPAN = {
    "span_id": "s",
    "parent_span_id": "p",
    "name": "search",
    "start_time_unix_nano": "1718452800000000000",
    "end_time_unix_nano": 1_718_452_801_000_000_000,
    "status": {"code": "STATUS_CODE_ERROR", "message": "no"},
    "attributes": {
        "mlflow.spanType": '"TOOL"',
        "mlflow.spanInputs": '{"q": 1}',
        "mlflow.spanOutputs": '"done"',
        "n": "18",
        "o": "[1]",
    },
}


def test_a_span_is_read_from_mlflows_json() -> None:
    """Other names, JSON-encoded attributes and status objects are understood."""
    span = Span(MLFLOW_SPAN)

    assert (span.parent_id, span.span_type, span.inputs, span.outputs) == ("p", "TOOL", {"q": 1}, "done")
    assert (span.start_time_ns, span.end_time_ns) == (1_718_452_800_000_000_000, 1_718_452_801_000_000_000)
    assert (span.status.status_code, span.status.description) == ("ERROR", "no")
    assert span.attributes["mlflow.spanType"] == "TOOL"
    assert (span.attributes["n"], span.get_attribute("o"), span.get_attribute("x")) == (18, [1], None)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ({"status_code": "OK"}, "OK"),
        ({"status_code": "STATUS_CODE_UNSET"}, "UNSET"),
        ({"status": {"code": 2}}, "ERROR"),
        ({"status": "OK"}, "OK"),
        ({"status_code": 1}, "OK"),
        ({"status_code": "WEIRD"}, "WEIRD"),
        ({}, "UNSET"),
    ],
)
def test_span_status_spellings(raw: Any, code: str) -> None:
    """Every spelling of a status becomes MLflow's."""
    assert Span(raw).status.status_code == code


def test_span_texts_follow_the_payload_of_their_trace() -> None:
    """Canonical spans hold texts: objects are decoded by `auto`, everything by `json`."""
    spans = [{"span_id": "1", "inputs": '{"a": 1}', "outputs": "18"}]

    auto = Trace({"spans": spans}).data.spans[0]
    full = Trace({"spans": spans}, payload="json").data.spans[0]
    bare = Trace({"spans": spans}, payload="text").data.spans[0]

    assert (auto.inputs, auto.outputs) == ({"a": 1}, "18")
    assert (full.inputs, full.outputs) == ({"a": 1}, 18)
    assert (bare.inputs, bare.outputs) == ('{"a": 1}', "18")


def test_a_start_time_may_be_iso_text() -> None:
    """Microseconds survive: no float lies between."""
    assert Span({"start_time": "2024-06-15T12:00:00.123457Z"}).start_time_ns == 1_718_452_800_123_457_000


def an_assessment(name: Any, **fields: Any) -> Any:
    return {"assessment_name": name, "valid": "true"} | fields


def test_expectations_are_decoded_by_the_payload_rule() -> None:
    """`18` stays a text in the canonical shape; feedback is no expectation; replaced ones do not count."""
    assessments = [
        an_assessment("n", expectation={"value": "18"}),
        an_assessment("o", expectation={"value": None, "serialized_value": {"value": '{"a": 1}'}}),
        an_assessment("f", feedback={"value": "yes"}),
        an_assessment("g", feedback={"value": "yes"}, expectation={"value": None}),
        an_assessment("old", expectation={"value": "x"}, valid="false"),
        {"name": "archive", "expectation": {"value": "y"}},
    ]
    for column in (assessments, json.dumps(assessments)):
        found = Trace({"assessments": column})
        assert found.expectations == {"n": "18", "o": {"a": 1}, "archive": "y"}
        assert Trace({"assessments": column}, payload="json").expectations["n"] == 18
        assert [type(a) for a in found.info.assessments].count(Feedback) == 2
    assert a_trace(assessments=assessments[2:4]).expectations == {}
    assert a_trace(assessments=None).expectations == {}
    assert a_trace().expectations == {}


def test_assessments_have_mlflows_names() -> None:
    """Source, error, times and rationale are there under MLflow's names."""
    trace = a_trace(
        assessments=[
            an_assessment(
                "safe",
                source={"source_id": "anna", "source_type": "HUMAN"},
                feedback={"value": None, "error": {"error_code": "E", "error_message": "m"}},
                create_time="2024-06-15T12:00:00.000000Z",
                metadata={"a": "b"},
            ),
            an_assessment("right", expectation={"value": "x"}),
        ]
    )
    safe, right = trace.info.assessments

    assert (safe.name, safe.source.source_id, safe.error_code) == ("safe", "anna", "E")
    assert (safe.create_time_ms, safe.metadata) == (1_718_452_800_000, {"a": "b"})
    assert isinstance(right, Expectation)
    assert trace.search_assessments("safe") == [safe]
    assert trace.search_assessments(type="expectation") == [right]


def test_search_spans() -> None:
    """Type, name (text or pattern) and id narrow; all that is given must fit."""
    trace = a_trace(
        spans=[
            {"span_id": "1", "name": "agent", "span_type": "AGENT"},
            {"span_id": "2", "name": "search", "span_type": "TOOL"},
            {"span_id": "3", "name": "search web", "span_type": "TOOL"},
        ]
    )

    assert [s.span_id for s in trace.search_spans(span_type="TOOL")] == ["2", "3"]
    assert [s.span_id for s in trace.search_spans(name="search")] == ["2"]
    assert [s.span_id for s in trace.search_spans(name=re.compile("web"))] == ["3"]
    assert [s.span_id for s in trace.search_spans("TOOL", "search", "3")] == []
    assert len(trace.search_spans()) == 3


def test_a_copy_does_not_see_changes() -> None:
    """What one scorer changes in tags, attributes, inputs or spans, the next one does not see."""
    values: dict[str, Any] = {
        "tags": '{"a": "b"}',
        "spans": [{"span_id": "1", "inputs": {"q": [1]}, "attributes": {"k": "[1]"}}],
    }
    first = Trace(values)
    first.info.tags["x"] = "y"
    first.data.spans[0].attributes["k"].append(2)
    first.data.spans[0].inputs["q"].append(2)
    first.inputs["q"].append(3)
    first.data.spans.clear()
    second = first.copy()

    assert second.info.tags == {"a": "b"}
    assert second.data.spans[0].attributes == {"k": [1]}
    assert second.inputs == {"q": [1]}
    assert values["spans"][0]["inputs"] == {"q": [1]}


def test_to_dict_is_plain_and_pickle_keeps_everything() -> None:
    """A trace becomes JSON and travels between processes."""
    trace = a_trace(request="hi", request_time=1_718_452_800_000_000, spans=[MLFLOW_SPAN], tags={"a": "b"})
    shown = json.loads(trace.to_json())

    assert shown["info"]["trace_id"] == "tr-1"
    assert shown["info"]["request_time"] == 1_718_452_800_000
    assert shown["data"]["spans"][0]["span_type"] == "TOOL"
    assert shown["inputs"] == "hi"
    assert pickle.loads(pickle.dumps(trace)).to_dict() == trace.to_dict()
    assert repr(trace) == "Trace(trace_id='tr-1')"


def test_data_gives_json_texts() -> None:
    """`data.request` and `data.response` are JSON texts, as in MLflow."""
    assert a_trace(request='{"q": 1}').data.request == '{"q": 1}'
    assert a_trace(spans=[{"span_id": "1", "inputs": {"q": "ü"}}]).data.request == '{"q": "ü"}'
    assert a_trace(spans=[{"span_id": "1", "outputs": "o"}]).data.response == '"o"'
    assert a_trace(response="o").data.response == '"o"'
    assert a_trace().data.request is None


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ('"gold"', "gold"),
        ("150", 150),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ('"[1]"', "[1]"),
        ("bare words", "bare words"),
        (150, 150),
    ],
)
@pytest.mark.parametrize("dress", [lambda x: x, json.dumps, lambda x: list(x.items())], ids=["map", "text", "pairs"])
def test_every_attribute_of_a_span_that_mlflow_wrote_is_decoded(attribute: Any, value: Any, dress: Any) -> None:
    """One key of MLflow tells that it wrote the span, and it writes each attribute as JSON text."""
    span = Span({"attributes": dress({"mlflow.spanType": '"LLM"', "own": attribute})})

    assert span.get_attribute("own") == value
    assert type(span.get_attribute("own")) is type(value)


def test_attributes_of_other_spans_follow_the_payload() -> None:
    """Without a key of MLflow `18` stays a text under `auto`; under `text` nothing is decoded at all."""
    ours = {"n": "18", "o": "[1]"}

    assert Trace({"spans": [{"attributes": ours}]}).data.spans[0].attributes == {"n": "18", "o": [1]}
    assert Trace({"spans": [{"attributes": ours}]}, payload="json").data.spans[0].attributes == {"n": 18, "o": [1]}
    theirs = {"mlflow.spanType": '"LLM"', "n": "18"}
    assert Trace({"spans": [{"attributes": theirs}]}, payload="text").data.spans[0].attributes == theirs


@pytest.mark.parametrize(
    ("recorded", "shown"),
    [
        ("qD+0zxxjl3w=", "a83fb4cf1c63977c"),
        ("0xa83fb4cf1c63977c", "a83fb4cf1c63977c"),
        ("0x3977c", "000000000003977c"),
        ("a83fb4cf1c63977c", "a83fb4cf1c63977c"),
        ("span-7", "span-7"),
        ("no=", "no="),
        ("aGVsbG8=", "aGVsbG8="),  # base64 of five bytes
        (None, None),
    ],
)
def test_span_ids_are_hex_where_mlflow_wrote_them_otherwise(recorded: Any, shown: Any) -> None:
    """V3 has base64, V2 0x…; ids of other sources stay as they are."""
    assert Span({"span_id": recorded}).span_id == shown
    assert Span({"context": {"span_id": recorded}}).span_id == shown
    assert Span({"parent_span_id": recorded}).parent_id == shown


def test_an_assessment_of_a_span_is_found_by_the_spans_id() -> None:
    """Spans of V3 have base64 ids, assessments hex ones."""
    trace = a_trace(spans=[{"span_id": "qD+0zxxjl3w="}], assessments=[{"name": "a", "span_id": "a83fb4cf1c63977c"}])

    assert [a.name for a in trace.search_assessments(span_id=trace.data.spans[0].span_id)] == ["a"]


@pytest.mark.parametrize(
    ("column", "payload", "text"),
    [
        ("plain", "auto", '"plain"'),
        ('"quoted"', "json", '"quoted"'),
        ('"quoted"', "auto", '"\\"quoted\\""'),
        ("18", "json", "18"),
        ("18", "auto", '"18"'),
        ('{"a":  1}', "auto", '{"a":  1}'),
        ('{"a": 1}', "text", '"{\\"a\\": 1}"'),
        ([1], "auto", "[1]"),
        ("{broken", "json", '"{broken"'),
    ],
)
def test_the_response_text_says_what_outputs_are(column: Any, payload: str, text: str) -> None:
    """`json.loads(data.response)` is `outputs`, whatever the source has; JSON that was recorded stays as it is."""
    trace = Trace({"response": column}, payload=payload)

    assert trace.data.response == text
    assert json.loads(trace.data.response) == trace.outputs


@pytest.mark.parametrize(
    "event",
    [
        {"name": "exception", "time_unix_nano": 5, "attributes": {"exception.message": "no"}},
        {"name": "exception", "timestamp": 5, "attributes": '{"exception.message": "no"}'},
        {"name": "exception", "time_unix_nano": "5", "attributes": [("exception.message", "no")]},
    ],
)
def test_events_are_objects(event: Any) -> None:
    """Of V3 and V2, with attributes as a map, as text or as pairs."""
    for events in ([event], json.dumps([event])):
        (found,) = Span({"events": events}).events
        assert (found.name, found.timestamp, found.attributes) == ("exception", 5, {"exception.message": "no"})
    assert Span({"events": [{"name": "n"}]}).events[0].attributes == {}
    assert Span({}).events == []


def test_what_a_model_call_says_of_itself() -> None:
    """Model, cost, severity and links have MLflow's names."""
    span = Span(
        {
            "attributes": {
                "mlflow.llm.model": '"m"',
                "mlflow.llm.cost": '{"total_cost": 0.5}',
                "mlflow.spanLogLevel": "30",
                "mlflow.traceRequestId": '"tr-9"',
            },
            "links": [{"trace_id": "tr-2", "span_id": "qD+0zxxjl3w=", "attributes": {"why": "retry"}}],
        }
    )

    assert (span.model_name, span.llm_cost, span.log_level) == ("m", {"total_cost": 0.5}, SpanLogLevel.WARNING)
    assert span.trace_id == span.request_id == "tr-9"
    assert [link.to_dict() for link in span.links] == [
        {"trace_id": "tr-2", "span_id": "a83fb4cf1c63977c", "attributes": {"why": "retry"}}
    ]
    assert SpanStatus("OK") == SpanStatus(SpanStatusCode.OK)


@pytest.mark.parametrize("wrong", [{"span_type": 123}, {"span_type": ["TOOL"]}, {"name": 5}])
def test_a_search_that_can_find_nothing_is_refused(wrong: Any) -> None:
    """A type that is no text, or a name that is neither text nor pattern."""
    with pytest.raises(ValueError, match="search_spans takes texts"):
        a_trace(spans=[]).search_spans(**wrong)


V2 = {
    "info": {
        "request_id": "tr-2",
        "experiment_id": "7",
        "timestamp_ms": 1_718_452_800_123,
        "execution_time_ms": 12,
        "status": "OK",
        "request_metadata": {"mlflow.trace.session": "s"},
        "tags": {"a": "b"},
    },
    "data": {
        "request": '{"q": 1}',
        "response": '"done"',
        "spans": [
            {
                "name": "root",
                "context": {"span_id": "0xa83fb4cf1c63977c", "trace_id": "0x1"},
                "parent_id": None,
                "start_time": 1_718_452_800_123_000_000,
                "end_time": 1_718_452_800_135_000_000,
                "status_code": "OK",
                "status_message": "",
                "attributes": {"mlflow.spanInputs": '{"q": 1}', "mlflow.spanOutputs": '"done"', "tier": '"gold"'},
                "events": [],
            }
        ],
    },
}


def test_a_trace_of_mlflows_older_json_is_read() -> None:
    """V2 has other names in info, and other ids in spans."""
    trace = Trace.from_json(json.dumps(V2))

    assert (trace.trace_id, trace.info.experiment_id, trace.info.state) == ("tr-2", "7", "OK")
    assert (trace.info.request_time, trace.info.execution_duration) == (1_718_452_800_123, 12)
    assert (trace.info.trace_metadata, trace.info.tags) == ({"mlflow.trace.session": "s"}, {"a": "b"})
    assert (trace.inputs, trace.outputs, trace.data.response) == ({"q": 1}, "done", '"done"')
    span = trace.data.spans[0]
    assert (span.span_id, span.parent_id, span.get_attribute("tier")) == ("a83fb4cf1c63977c", None, "gold")
    assert span.start_time_ns == 1_718_452_800_123_000_000


@pytest.mark.parametrize("text", mlflow_snippets.traces(), ids=range(10))
def test_a_row_of_search_traces_has_milliseconds(text: Any) -> None:
    """Both with its column `trace` and, where that was dropped, from the others; NaN is what pandas has for nothing."""
    whole = Trace.from_json(text)
    row = whole.to_pandas_dataframe_row() | {"client_request_id": float("nan")}
    parts = {name: value for name, value in row.items() if name != "trace"}

    for shape in (row, parts):
        again = Trace(shape)
        assert again.info.request_time == whole.info.request_time
        assert again.info.execution_duration == whole.info.execution_duration
        assert (again.inputs, again.outputs, again.expectations) == (whole.inputs, whole.outputs, whole.expectations)
        assert [s.attributes for s in again.data.spans] == [s.attributes for s in whole.data.spans]
        assert again.info.state == whole.info.state
    assert Trace(parts).info.client_request_id is None


def test_mlflows_object_may_be_given_as_a_row_is() -> None:
    """`Trace(json.loads(text))` is `Trace.from_json(text)`, not a trace of nothing."""
    text = mlflow_snippets.traces()[1]

    assert Trace(json.loads(text)).to_dict() == Trace.from_json(text).to_dict()


def test_a_row_with_a_trace_object_is_refused() -> None:
    """The column `trace` of MLflow's frame is JSON text; an object in it is told, with what to give."""
    with pytest.raises(TraceUnreadableError, match=r"trace\.to_json"):
        Trace({"trace": object()})


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"info": {}}', '{"info": [], "data": {}}', "5"])
def test_what_is_no_trace_is_refused(text: str) -> None:
    """`from_json` says what a trace is."""
    with pytest.raises(TraceUnreadableError):
        Trace.from_json(text)


@pytest.mark.parametrize("text", mlflow_snippets.traces(), ids=range(10))
def test_a_trace_comes_back_from_its_json(text: Any) -> None:
    """`from_json(to_json())` loses nothing."""
    once = Trace.from_json(text)
    again = Trace.from_json(once.to_json(pretty=True))

    assert again.to_dict() == once.to_dict()
    assert pickle.loads(pickle.dumps(again)).to_dict() == once.to_dict()


def test_places_of_a_trace() -> None:
    """An experiment; or a place of Unity Catalog, where the JSON names one."""
    found = a_trace(experiment_id="7").info.trace_location
    assert (found.type, found.mlflow_experiment.experiment_id) == ("MLFLOW_EXPERIMENT", "7")
    place = {"type": "UC_SCHEMA", "uc_schema": {"catalog_name": "main", "schema_name": "traces"}}
    info = Trace.from_dict({"info": {"trace_id": "t", "trace_location": place}, "data": {}}).info
    assert info.trace_location.uc_schema is not None
    assert (info.trace_location.uc_schema.catalog_name, info.trace_location.mlflow_experiment) == ("main", None)
    assert (info.experiment_id, info.trace_location.to_dict()) == (None, place)


def test_an_issue_is_neither_feedback_nor_expectation() -> None:
    """It is found without a type, and by its own attributes."""
    trace = a_trace(assessments=[{"assessment_name": "is-1", "issue": {"issue_name": "slow"}, "expectation": None}])
    (found,) = trace.search_assessments()

    assert (type(found), found.issue_id, found.issue.issue_name) == (IssueReference, "is-1", "slow")
    assert (found.feedback, found.expectation, trace.expectations) == (None, None, {})
    assert trace.search_assessments(type="feedback") == trace.search_assessments(type="expectation") == []


def test_a_serialised_expectation_is_decoded() -> None:
    """MLflow writes containers so; only under `text` nothing is decoded."""
    kept = {"serialization_format": "JSON_FORMAT", "value": '"[1]"'}
    found = [
        Trace(
            {"assessments": [an_assessment("e", expectation={"serialized_value": kept})]}, payload=payload
        ).expectations
        for payload in ("auto", "json", "text")
    ]

    assert found == [{"e": "[1]"}, {"e": "[1]"}, {"e": '"[1]"'}]


def test_intermediate_outputs_are_those_below_the_root() -> None:
    """Spans of one name are numbered; a single span has none."""
    spans = [
        {"span_id": "a", "name": "root", "outputs": "r"},
        {"span_id": "b", "name": "step", "parent_id": "a", "outputs": "1"},
        {"span_id": "c", "name": "step", "parent_id": "a", "outputs": "2"},
        {"span_id": "d", "name": "none", "parent_id": "a"},
    ]

    assert a_trace(spans=spans).data.intermediate_outputs == {"step_1": "1", "step_2": "2"}
    assert a_trace(spans=spans[:1]).data.intermediate_outputs is None


@pytest.mark.parametrize("name", ["to_proto", "from_proto", "from_dict_v2", "to_otel_proto"])
def test_names_that_only_mlflow_has_are_refused_with_a_sentence(name: str) -> None:
    """`hasattr` is False, and the error says what to use."""
    trace = a_trace(spans=[{}])
    for thing in (trace, trace.info, trace.data, trace.data.spans[0], Feedback(value=1)):
        assert not hasattr(thing, name)
        with pytest.raises(AttributeError, match=r"use to_dict\(\)|from_dict\(\)"):
            getattr(thing, name)
