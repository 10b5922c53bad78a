# --- scorer_bool
from mlflow.genai.scorers import scorer


@scorer
def says_something(outputs) -> bool:
    return bool(outputs)

# --- scorer_int
from mlflow.genai import scorer


@scorer
def characters(outputs):
    return len(str(outputs))

# --- scorer_float
from mlflow.genai.scorers import scorer


@scorer
def digits_share(outputs) -> float:
    text = str(outputs)
    return sum(c.isdigit() for c in text) / len(text)

# --- scorer_text
from mlflow.genai.scorers import scorer


@scorer
def is_brief(outputs) -> str:
    return "yes" if len(str(outputs)) < 30 else "no"

# --- scorer_none
from mlflow.genai.scorers import scorer


@scorer
def only_texts(outputs):
    if not isinstance(outputs, str):
        return None
    return len(outputs)

# --- scorer_exact_match
from mlflow.genai.scorers import scorer


@scorer
def matches(outputs, expectations) -> bool:
    return outputs == expectations["expected_response"]

# --- scorer_expectations_get
from mlflow.entities import Feedback
from mlflow.genai.scorers import scorer


@scorer
def within_limit(outputs, expectations):
    limit = expectations.get("max_length")
    if limit is None:
        return Feedback(value="unknown", rationale="no limit was given")
    return Feedback(value=len(str(outputs)) <= limit)

# --- scorer_expected_facts
from mlflow.genai.scorers import scorer


@scorer
def facts_found(outputs, expectations):
    facts = expectations.get("expected_facts") or []
    if not facts:
        return None
    text = str(outputs).lower()
    return sum(fact.lower() in text for fact in facts) / len(facts)

# --- scorer_feedback_with_rationale
from mlflow.entities import Feedback
from mlflow.genai.scorers import scorer


@scorer
def polite(outputs):
    words = str(outputs).lower()
    found = [word for word in ("please", "danke", "thank") if word in words]
    return Feedback(value=bool(found), rationale=f"Polite words: {', '.join(found) or 'none'}.")

# --- scorer_several_feedbacks
from mlflow.entities import Feedback
from mlflow.genai.scorers import scorer


@scorer
def shape(inputs, outputs):
    return [
        Feedback(name="has_inputs", value=inputs is not None),
        Feedback(name="has_outputs", value=outputs is not None, rationale=type(outputs).__name__),
        Feedback(name="size", value=len(str(outputs))),
    ]

# --- scorer_named
from mlflow.genai.scorers import scorer


@scorer(name="answer_length", aggregations=["mean", "max", "p90"])
def count_words(outputs):
    return len(str(outputs).split())


shown = {"name": count_words.name, "aggregations": count_words.aggregations}

# --- scorer_described
from mlflow.genai.scorers import scorer


@scorer(description="Tells whether the answer asks something back.", timeout=20)
def asks_back(outputs):
    return "?" in str(outputs)


shown = [asks_back.description, asks_back.timeout, asks_back.name]

# --- scorer_keyword_only
from typing import Any, Optional

from mlflow.entities import Feedback, Trace
from mlflow.genai.scorers import scorer


@scorer
def everything(
    *,
    inputs: Optional[dict[str, Any]],
    outputs: Optional[Any],
    expectations: Optional[dict[str, Any]],
    trace: Optional[Trace],
) -> Feedback:
    parts = [type(part).__name__ for part in (inputs, outputs, expectations, trace)]
    return Feedback(value=len(expectations), rationale=" ".join(parts))

# --- scorer_messages
from mlflow.genai.scorers import scorer


@scorer
def turns(inputs):
    return len([m for m in inputs["messages"] if m["role"] == "user"])

# --- scorer_choices
from mlflow.entities import Feedback
from mlflow.genai.scorers import scorer


@scorer
def answer_text(outputs):
    try:
        return Feedback(value=outputs["choices"][0]["message"]["content"])
    except (KeyError, TypeError) as error:
        return Feedback(error=error)

# --- scorer_error_object
from mlflow.entities import AssessmentError, Feedback
from mlflow.genai.scorers import scorer


@scorer
def needs_response(outputs):
    if not isinstance(outputs, dict):
        return Feedback(error=AssessmentError(error_code="NO_DICT", error_message="outputs is no dict"))
    return Feedback(value=sorted(outputs)[0])

# --- scorer_error_text
from mlflow.entities import Feedback
from mlflow.genai.scorers import scorer

failed = Feedback(error="the service was away")
shown = [failed.error.error_code, failed.error.error_message, failed.error_message, failed.value]

# --- scorer_error_exception
from mlflow.entities import Feedback

try:
    int("three")
except ValueError as error:
    failed = Feedback(name="number", error=error)
shown = [failed.error.error_code, failed.error.error_message, failed.error_code, failed.feedback.error.error_code]

# --- scorer_raises
from mlflow.genai.scorers import scorer


@scorer
def strict(outputs):
    if outputs is None:
        raise ValueError("nothing to score")
    return True

# --- scorer_chat_latency
from mlflow.entities import Feedback, SpanType, Trace
from mlflow.genai.scorers import scorer


@scorer
def model_is_quick(trace: Trace) -> Feedback:
    call = trace.search_spans(span_type=SpanType.CHAT_MODEL)[0]
    seconds = (call.end_time_ns - call.start_time_ns) / 1e9
    return Feedback(value="yes" if seconds <= 5 else "no", rationale=f"{seconds:.6f} s")

# --- scorer_tools_used
from mlflow.entities import Feedback, SpanType
from mlflow.genai.scorers import scorer


@scorer
def tools(trace):
    names = [span.name for span in trace.search_spans(span_type=SpanType.TOOL)]
    return Feedback(value=len(names), rationale=", ".join(names))

# --- scorer_tool_errors
from mlflow.entities import SpanStatusCode, SpanType
from mlflow.genai.scorers import scorer


@scorer
def tool_error_rate(trace):
    calls = trace.search_spans(span_type=SpanType.TOOL)
    if not calls:
        return 0.0
    return sum(call.status.status_code == SpanStatusCode.ERROR for call in calls) / len(calls)

# --- scorer_exception_of_a_tool
from mlflow.entities import Feedback
from mlflow.genai.scorers import scorer


@scorer
def first_exception(trace):
    for span in trace.data.spans:
        for event in span.events:
            if event.name == "exception":
                kind = event.attributes["exception.type"]
                return Feedback(value=False, rationale=f"{kind}: {event.attributes['exception.message']}")
    return Feedback(value=True)

# --- scorer_expected_tools
from mlflow.entities import SpanType
from mlflow.genai.scorers import scorer


@scorer
def right_tools(trace, expectations):
    wanted = expectations.get("expected_tools", {}).get("names")
    if wanted is None:
        return None
    used = {span.name for span in trace.search_spans(span_type=SpanType.TOOL)}
    return set(wanted) <= used

# --- scorer_retrieved_documents
from mlflow.entities import Feedback, SpanType
from mlflow.genai.scorers import scorer


@scorer
def retrieval(trace):
    steps = trace.search_spans(span_type=SpanType.RETRIEVER)
    documents = [document for step in steps for document in step.outputs]
    scores = [document["metadata"].get("score", 0) for document in documents]
    return [
        Feedback(name="documents", value=len(documents)),
        Feedback(name="best_score", value=max(scores, default=0)),
        Feedback(name="first_text", value=documents[0]["page_content"] if documents else ""),
    ]

# --- scorer_documents_made
from mlflow.entities import Document

document = Document(page_content="Delta tables are versioned.", metadata={"doc_uri": "a.md"}, id="d1")
shown = [document.to_dict(), document.page_content, Document("x").metadata, Document("x").id]

# --- scorer_trace_state
from mlflow.entities import TraceState
from mlflow.genai.scorers import scorer


@scorer
def went_well(trace):
    return trace.info.state == TraceState.OK and trace.info.status == "OK"

# --- scorer_token_budget
from mlflow.genai.scorers import scorer


@scorer
def tokens(trace):
    usage = trace.info.token_usage
    return None if usage is None else usage["total_tokens"]

# --- scorer_cost
from mlflow.entities import Feedback
from mlflow.genai.scorers import scorer


@scorer
def cheap(trace):
    cost = (trace.info.cost or {}).get("total_cost", 0.0)
    return Feedback(value=cost < 0.01, rationale=f"{cost:.4f} USD")

# --- scorer_duration
from mlflow.genai.scorers import scorer


@scorer
def milliseconds(trace):
    return trace.info.execution_duration

# --- scorer_session
from mlflow.genai.scorers import scorer


@scorer
def user_of_session(trace):
    metadata = trace.info.trace_metadata
    return f"{metadata.get('mlflow.trace.session')}/{metadata.get('mlflow.trace.user')}"

# --- scorer_tags
from mlflow.genai.scorers import scorer


@scorer
def from_production(trace):
    return trace.info.tags.get("env") == "prod"

# --- scorer_custom_attributes
from mlflow.genai.scorers import scorer


@scorer
def gold_tokens(trace):
    total = 0
    for span in trace.data.spans:
        if span.get_attribute("tier") == "gold" and span.get_attribute("fresh"):
            total += span.get_attribute("tokens")
    return total

# --- scorer_list_value
from mlflow.entities import Feedback
from mlflow.genai.scorers import scorer


@scorer
def span_names(trace):
    return Feedback(value=[span.name for span in trace.data.spans])

# --- scorer_dict_value
from mlflow.entities import Feedback
from mlflow.genai.scorers import scorer


@scorer
def spans_by_kind(trace):
    kinds = sorted({span.span_type for span in trace.data.spans})
    return Feedback(value={kind: len(trace.search_spans(span_type=kind)) for kind in kinds}, rationale="counted")

# --- scorer_rating
from mlflow.entities import Feedback
from mlflow.genai.judges import CategoricalRating
from mlflow.genai.scorers import scorer


@scorer
def rated(outputs):
    if outputs is None:
        return Feedback(value=CategoricalRating.UNKNOWN)
    return Feedback(value=CategoricalRating.YES if len(str(outputs)) > 5 else CategoricalRating.NO)


shown = [CategoricalRating("YES"), CategoricalRating("perhaps"), CategoricalRating.NO == "no"]

# --- scorer_source
from mlflow.entities import AssessmentSource, AssessmentSourceType, Feedback
from mlflow.genai.scorers import scorer


@scorer
def by_hand(outputs):
    source = AssessmentSource(source_type=AssessmentSourceType.HUMAN, source_id="anna@example.com")
    return Feedback(value=outputs is not None, source=source, metadata={"round": "2"})


made = by_hand(outputs="x")
shown = [
    made.source.source_type,
    made.source.source_id,
    made.metadata,
    AssessmentSource("human").source_type,
    AssessmentSource("CODE").source_id,
    AssessmentSource(source_type=AssessmentSourceType.LLM_JUDGE, source_id="m").source_type,
]

# --- scorer_called_by_hand
from mlflow.entities import Feedback
from mlflow.genai.scorers import scorer


@scorer
def twice(outputs):
    return Feedback(value=2 * outputs)


shown = [twice(outputs=4).value, twice.run(outputs=4).value, twice.run(outputs=4, inputs="unused").name]

# --- scorer_imports_inside
from mlflow.genai.scorers import scorer


@scorer
def mentions_a_year(outputs):
    import re

    from mlflow.entities import Feedback

    found = re.findall(r"\b(?:19|20)\d\d\b", str(outputs))
    return Feedback(value=bool(found), rationale=str(found))

# --- scorer_json_output
import json

from mlflow.entities import Feedback
from mlflow.genai.scorers import scorer


@scorer
def parses(trace):
    try:
        value = json.loads(trace.data.response)
    except (TypeError, ValueError) as error:
        return Feedback(error=error)
    return Feedback(value=type(value).__name__)

# --- scorer_builtin_regex
from mlflow.genai.scorers import RegexMatch

about_paris = RegexMatch(name="about_paris", pattern="paris", case_insensitive=True)

# --- scorer_builtin_length
from mlflow.genai.scorers import ResponseLength

short_enough = ResponseLength(name="short_enough", min_length=3, max_length=60)

# --- scorer_builtin_pii
from mlflow.genai.scorers import PIIDetection

private = PIIDetection(name="private")

# --- scorer_class
from mlflow.entities import Feedback
from mlflow.genai.scorers import Scorer


class Longer(Scorer):
    name: str = "longer"
    than: int = 10

    def __call__(self, outputs):
        return Feedback(value=len(str(outputs)) > self.than)


longer = Longer()
