# --- trace_identity
def look(trace):
    info = trace.info
    return [trace.trace_id == info.trace_id, info.client_request_id, info.experiment_id, info.request_id == info.trace_id]

# --- trace_state
from mlflow.entities import TraceState


def look(trace):
    return [trace.info.state, trace.info.state.value, trace.info.status, trace.info.state in (TraceState.OK, TraceState.ERROR)]

# --- trace_location
def look(trace):
    location = trace.info.trace_location
    found = [location.type, trace.info.experiment_id]
    if location.mlflow_experiment:
        found.append(location.mlflow_experiment.experiment_id)
    if location.inference_table:
        found.append(location.inference_table.full_table_name)
    return found

# --- trace_times
from datetime import datetime, timezone


def look(trace):
    started = datetime.fromtimestamp(trace.info.request_time / 1000, tz=timezone.utc)
    return [
        started.isoformat(),
        trace.info.timestamp_ms == trace.info.request_time,
        trace.info.execution_duration,
        trace.info.execution_time_ms,
    ]

# --- trace_previews
def look(trace):
    return [trace.info.request_preview, trace.info.response_preview]

# --- trace_tags_and_metadata
def look(trace):
    tags = {key: value for key, value in trace.info.tags.items() if not key.startswith("mlflow.")}
    return [tags, trace.info.tags.get("mlflow.traceName"), trace.info.trace_metadata, trace.info.request_metadata]

# --- trace_token_usage
def look(trace):
    usage = trace.info.token_usage
    if not usage:
        return "none"
    return [usage["input_tokens"], usage["output_tokens"], usage["total_tokens"], trace.info.cost]

# --- trace_request_and_response
import json


def look(trace):
    request = json.loads(trace.data.request)
    response = json.loads(trace.data.response) if trace.data.response else None
    return [request, response, trace.data.request]

# --- trace_intermediate_outputs
def look(trace):
    return trace.data.intermediate_outputs

# --- trace_spans_by_name
import re


def look(trace):
    exact = trace.search_spans(name="leaf")
    matching = trace.search_spans(name=re.compile(r"^(re|st)"))
    return [[span.name for span in exact], [span.name for span in matching]]

# --- trace_spans_by_type
from mlflow.entities import SpanType


def look(trace):
    kinds = (SpanType.LLM, SpanType.CHAT_MODEL, SpanType.TOOL, SpanType.AGENT, SpanType.CHAIN, SpanType.UNKNOWN, "PRICING")
    return {kind: [span.name for span in trace.search_spans(span_type=kind)] for kind in kinds}

# --- trace_spans_by_id
def look(trace):
    last = trace.data.spans[-1]
    found = trace.search_spans(span_id=last.span_id)
    return [len(found), found[0].name, found[0].span_id, trace.search_spans(name=last.name, span_id="none")]

# --- trace_spans_of_a_wrong_type
def look(trace):
    return trace.search_spans(span_type=5)

# --- trace_span_identity
def look(trace):
    return [
        [span.name, span.span_type, span.span_id, span.parent_id, span.trace_id == trace.info.trace_id, span.request_id]
        for span in trace.data.spans
    ]

# --- trace_span_times
def look(trace):
    return [[s.name, s.start_time_ns, s.end_time_ns, (s.end_time_ns - s.start_time_ns) / 1e6] for s in trace.data.spans]

# --- trace_span_status
from mlflow.entities import SpanStatusCode


def look(trace):
    return [
        [span.name, span.status.status_code == SpanStatusCode.ERROR, span.status.status_code, span.status.description]
        for span in trace.data.spans
    ]

# --- trace_span_payloads
def look(trace):
    return [[span.name, span.inputs, span.outputs] for span in trace.data.spans]

# --- trace_span_attributes
def look(trace):
    return [[span.attributes, span.get_attribute("tier"), span.get_attribute("absent")] for span in trace.data.spans]

# --- trace_span_model
def look(trace):
    return [[span.model_name, span.llm_cost, span.log_level, span.description] for span in trace.data.spans]

# --- trace_span_events
def look(trace):
    return [
        [event.name, event.timestamp, sorted(event.attributes), event.attributes.get("exception.message")]
        for span in trace.data.spans
        for event in span.events
    ]

# --- trace_span_links
def look(trace):
    return [[link.trace_id, link.span_id, link.attributes] for span in trace.data.spans for link in span.links]

# --- trace_span_tree
def look(trace):
    children = {}
    for span in trace.data.spans:
        children.setdefault(span.parent_id, []).append(span)

    def below(span):
        return {span.name: [below(child) for child in children.get(span.span_id, [])]}

    return [below(root) for root in children[None]]

# --- trace_root_span
def look(trace):
    roots = [span for span in trace.data.spans if span.parent_id is None]
    return [len(roots), roots[0].name, trace.data._get_root_span().span_id == roots[0].span_id]

# --- trace_chat_messages
from mlflow.entities import SpanType


def look(trace):
    found = []
    for span in trace.search_spans(span_type=SpanType.CHAT_MODEL):
        found.append(span.inputs["messages"][-1]["content"])
        found.append(span.outputs["choices"][0]["message"]["content"])
        found.append(span.get_attribute("mlflow.chat.tokenUsage"))
    return found

# --- trace_slowest_span
def look(trace):
    slowest = max(trace.data.spans, key=lambda span: (span.end_time_ns or 0) - span.start_time_ns)
    return slowest.name

# --- trace_assessments
def look(trace):
    return [
        [a.name, type(a).__name__, a.source.source_type, a.source.source_id, a.rationale, a.metadata, a.run_id]
        for a in trace.info.assessments
    ]

# --- trace_assessments_by_name
def look(trace):
    return [[a.value, a.valid] for a in trace.search_assessments("correct")]

# --- trace_assessments_of_a_type
def look(trace):
    feedback = trace.search_assessments(type="feedback")
    expectations = trace.search_assessments(type="expectation")
    return [[a.name for a in feedback], {a.name: a.value for a in expectations}]

# --- trace_assessments_replaced
def look(trace):
    everything = trace.search_assessments(name="correct", all=True)
    return [[a.value, a.overrides is not None, a.rationale] for a in everything]

# --- trace_assessments_of_a_span
def look(trace):
    return [[span.name, [a.name for a in trace.search_assessments(span_id=span.span_id)]] for span in trace.data.spans]

# --- trace_assessments_with_errors
def look(trace):
    return [
        [a.name, a.error.error_code, a.error.error_message, a.feedback.value]
        for a in trace.search_assessments(type="feedback")
        if a.error
    ]

# --- trace_expectations
from mlflow.entities import Expectation


def look(trace):
    return {a.name: a.expectation.value for a in trace.info.assessments if isinstance(a, Expectation)}

# --- trace_to_json_and_back
import json

from mlflow.entities import Trace


def look(trace):
    again = Trace.from_json(trace.to_json())
    pretty = json.loads(trace.to_json(pretty=True))
    return [again.info.trace_id, [s.span_id for s in again.data.spans], again.data.response, pretty["info"]["state"]]

# --- trace_to_dict
from mlflow.entities import Trace


def look(trace):
    shown = trace.to_dict()
    again = Trace.from_dict(shown)
    names = [span["name"] for span in shown["data"]["spans"]]
    return [shown["info"]["trace_id"], shown["info"]["tags"], names, [span.attributes for span in again.data.spans]]

# --- trace_span_dict
def look(trace):
    first = trace.data.spans[0].to_dict()
    return [first["name"], first["start_time_unix_nano"], first["status"], first["attributes"], first["events"]]

# --- trace_as_a_row
def look(trace):
    row = trace.to_pandas_dataframe_row()
    return [sorted(row), row["request"], row["response"], row["request_time"], row["execution_duration"], len(row["spans"])]

# --- trace_assessment_dict
from mlflow.entities import AssessmentSource, Expectation, Feedback


def look(trace):
    return [
        {key: value for key, value in a.to_dictionary().items() if key in ("assessment_name", "feedback", "span_id")}
        for a in trace.search_assessments(type="feedback")
    ]


source = AssessmentSource("HUMAN", "anna")
shown = [
    Expectation("e", {"a": [1]}, source).to_dictionary()["expectation"],
    Feedback(name="f", value="yes", source=source, rationale="r").to_dictionary()["rationale"],
]

# --- trace_attribute_keys
from mlflow.tracing.constant import SpanAttributeKey


def look(trace):
    return [span.get_attribute(SpanAttributeKey.CHAT_USAGE) for span in trace.data.spans]

# --- trace_status_equality
from mlflow.entities import SpanStatus, SpanStatusCode

shown = [
    SpanStatus(SpanStatusCode.OK) == SpanStatus("OK"),
    SpanStatus("ERROR", "no").description,
    SpanStatusCode("ERROR") is SpanStatusCode.ERROR,
    SpanStatusCode.UNSET.value,
]
