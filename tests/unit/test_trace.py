"""Trace is lazy, has MLflow's attribute names, and reads every spelling of a span."""

from __future__ import annotations

import json
import pickle
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.assessment import Expectation, Feedback
from backfill_spark.errors import TraceUnreadableError
from backfill_spark.trace import Span, Trace, decode_payload


def a_trace(**values):
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
def test_payload_rule(text, auto, full):
    """`auto` decodes objects and arrays, `json` everything, `text` nothing; what does not parse stays text."""
    assert decode_payload(text, "auto") == auto
    assert decode_payload(text, "json") == full
    assert decode_payload(text, "text") == text


@given(st.text(), st.sampled_from(["auto", "json", "text"]))
def test_no_text_makes_decoding_fail(text, payload):
    """Any text decodes to something."""
    decode_payload(text, payload)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_json_payload_comes_back(value):
    """What was written as JSON is read as the same value."""
    assert decode_payload(json.dumps(value), "json") == value


def test_inputs_are_the_request_column_even_when_it_is_null():
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
def test_root_span(spans, root):
    """The first span without a parent, else the earliest whose parent is not in the trace."""
    trace = a_trace(spans=[{"span_id": i, "parent_id": p, "start_time_ns": t, "inputs": i} for i, p, t in spans])
    found = trace.data.root_span()

    assert root == (None if found is None else found.span_id)
    assert root == trace.inputs


@pytest.mark.parametrize("column", ["spans", "assessments", "tags", "trace_metadata"])
@pytest.mark.parametrize(
    "text", ["{broken", "", "17", '"text"', "[[1]]", "[" * 100_000], ids=lambda text: text[:12] or "empty"
)
def test_an_unreadable_column_is_told_at_access_only(column, text):
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


def test_an_unreadable_column_does_not_show_its_text():
    """The message holds a position, never the trace's text."""
    with pytest.raises(TraceUnreadableError) as caught:
        _ = a_trace(spans="my secret text").data.spans

    assert "secret" not in str(caught.value)


def test_json_texts_and_native_values_read_the_same():
    """Maps and arrays come as JSON text, as text quoted once more, or as they are."""
    spans = [{"span_id": "1", "name": "n", "attributes": {"k": "v"}}]
    tags = {"a": "b"}
    for dress in (lambda x: x, json.dumps, lambda x: json.dumps(json.dumps(x))):
        trace = a_trace(spans=dress(spans), tags=dress(tags))
        assert trace.data.spans[0].attributes == {"k": "v"}
        assert trace.info.tags == tags
    assert a_trace(tags=[("a", "b")]).info.tags == tags
    assert a_trace(spans="null").data.spans == []


def test_info_has_mlflows_names():
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
    assert (info.state, info.state.value) == ("ERROR", "ERROR")
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


def test_a_span_is_read_from_mlflows_json():
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
def test_span_status_spellings(raw, code):
    """Every spelling of a status becomes MLflow's."""
    assert Span(raw).status.status_code == code


def test_span_texts_follow_the_payload_of_their_trace():
    """Canonical spans hold texts: objects are decoded by `auto`, everything by `json`."""
    spans = [{"span_id": "1", "inputs": '{"a": 1}', "outputs": "18"}]

    auto = Trace({"spans": spans}).data.spans[0]
    full = Trace({"spans": spans}, payload="json").data.spans[0]
    bare = Trace({"spans": spans}, payload="text").data.spans[0]

    assert (auto.inputs, auto.outputs) == ({"a": 1}, "18")
    assert (full.inputs, full.outputs) == ({"a": 1}, 18)
    assert (bare.inputs, bare.outputs) == ('{"a": 1}', "18")


def test_a_start_time_may_be_iso_text():
    """Microseconds survive: no float lies between."""
    assert Span({"start_time": "2024-06-15T12:00:00.123457Z"}).start_time_ns == 1_718_452_800_123_457_000


def an_assessment(name, **fields):
    return {"assessment_name": name, "valid": "true"} | fields


def test_expectations_are_decoded_by_the_payload_rule():
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


def test_assessments_have_mlflows_names():
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


def test_search_spans():
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


def test_a_copy_does_not_see_changes():
    """What one scorer changes in tags, attributes, inputs or spans, the next one does not see."""
    values = {"tags": '{"a": "b"}', "spans": [{"span_id": "1", "inputs": {"q": [1]}, "attributes": {"k": "[1]"}}]}
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


def test_to_dict_is_plain_and_pickle_keeps_everything():
    """A trace becomes JSON and travels between processes."""
    trace = a_trace(request="hi", request_time=1_718_452_800_000_000, spans=[MLFLOW_SPAN], tags={"a": "b"})
    shown = json.loads(trace.to_json())

    assert shown["info"]["trace_id"] == "tr-1"
    assert shown["info"]["request_time"] == 1_718_452_800_000
    assert shown["data"]["spans"][0]["span_type"] == "TOOL"
    assert shown["inputs"] == "hi"
    assert pickle.loads(pickle.dumps(trace)).to_dict() == trace.to_dict()
    assert repr(trace) == "Trace(trace_id='tr-1')"


def test_data_gives_json_texts():
    """`data.request` and `data.response` are JSON texts, as in MLflow."""
    assert a_trace(request='{"q": 1}').data.request == '{"q": 1}'
    assert a_trace(spans=[{"span_id": "1", "inputs": {"q": "ü"}}]).data.request == '{"q": "ü"}'
    assert a_trace(spans=[{"span_id": "1", "outputs": "o"}]).data.response == '"o"'
    assert a_trace(response="o").data.response == '"o"'
    assert a_trace().data.request is None
