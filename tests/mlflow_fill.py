"""Fill an MLflow store with traces of many kinds; run by the Python of the `mlflow` environment, over its own client.

    python tests/mlflow_fill.py fill DATABASE ARCHIVE_FOLDER
    python tests/mlflow_fill.py archive DATABASE ARCHIVE_FOLDER COUNT

`fill` prints the id of the experiment. Of its 25 traces half have a session, some failed, their answers are of every
kind, one has more spans. `archive` moves the spans of COUNT traces to files, and takes one of the files away.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"

import mlflow
from mlflow.entities import AssessmentError, AssessmentSource, SpanType
from mlflow.tracking._tracking_service.utils import _get_store

FIRST_NS = 1_750_000_000_000_000_000
"""2025-06-15 15:06:40 UTC."""
MINUTE_NS = 60 * 10**9
ANSWERS = (
    "It arrives on Friday.",
    {"answer": 42},
    '{"a": 1}',
    5,
    "5",
    None,
    ["x", {"y": "é東京"}],
    0.5,
    True,
    "",
    'no\n\t"q"',
    "ü" * 1500,
)


def record(number: int, *, many: int = 0) -> str:
    """Record one trace with an agent, a retriever, a model and a tool; return its id."""
    start = FIRST_NS + number * MINUTE_NS
    session = {"mlflow.trace.session": f"s-{number % 3}", "mlflow.trace.user": "ann"} if number % 2 else {}
    root = mlflow.start_span_no_context(
        f"agent-{number % 4}", SpanType.AGENT, inputs={"question": f"Where is parcel {number}?", "n": number},
        start_time_ns=start, metadata=session, tags={"team": "support", "number": str(number)},
    )  # fmt: skip
    kinds = (("find", SpanType.RETRIEVER), ("ask", SpanType.LLM), ("track", SpanType.TOOL))
    for order, (name, kind) in enumerate(kinds):
        at = start + (order + 1) * 10**7
        child = mlflow.start_span_no_context(name, kind, parent_span=root, inputs={"q": number}, start_time_ns=at)
        if kind == SpanType.LLM:
            child.set_attribute("mlflow.chat.tokenUsage", {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10})
        child.set_outputs(
            [{"page_content": "Parcels", "metadata": {}}] if kind == SpanType.RETRIEVER else f"<{number}>"
        )
        child.set_status("ERROR" if number % 12 == 7 and name == "track" else "OK")
        child.end(end_time_ns=at + 10**6)
    for order in range(many):
        at = start + 10**8 + order
        mlflow.start_span_no_context(f"step {order}", parent_span=root, inputs=order, start_time_ns=at).end(
            outputs=order, end_time_ns=at + 1
        )
    if number % 12 == 7:
        root.record_exception(ValueError("no such parcel"))
        root.set_status("ERROR")
    root.end(outputs=ANSWERS[number % 12], end_time_ns=start + 10**9)
    return str(root.trace_id)


def assess(trace_id: str, number: int) -> None:
    """Put feedback and expectations of every kind of value on a trace."""
    human = AssessmentSource(source_type="HUMAN", source_id="ann@example.org")
    values = (True, 0.5, 3, "yes", ["a", 1], {"k": None}, "5")
    mlflow.log_feedback(
        trace_id=trace_id, name="quality", value=values[number % 7], rationale="said é", source=human,
        metadata={"m": "1"},
    )  # fmt: skip
    mlflow.log_expectation(trace_id=trace_id, name="expected", value=values[(number + 1) % 7], source=human)
    if number % 3 == 0:
        mlflow.log_feedback(trace_id=trace_id, name="broken", error=AssessmentError("TIMEOUT", "too slow"))
    if number % 4 == 0:
        first = mlflow.log_feedback(trace_id=trace_id, name="tone", value="no")
        mlflow.override_feedback(trace_id=trace_id, assessment_id=first.assessment_id, value="yes", rationale="seen")


def fill(where: str, archive: str) -> None:
    mlflow.set_tracking_uri(where)
    place = str(Path(archive) / "artifacts")
    experiment = mlflow.create_experiment("parcels", artifact_location=place)
    mlflow.set_experiment(experiment_id=experiment)
    ids = [record(number) for number in range(24)]
    for number, trace_id in enumerate(ids):
        if number % 5 != 4:
            assess(trace_id, number)
    record(24, many=30)
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("other", artifact_location=place))
    record(3)
    print(experiment)


def archive(where: str, folder: str, count: str) -> None:
    mlflow.set_tracking_uri(where)
    store = _get_store()
    place = Path(folder)
    store.archive_traces(
        resolved_trace_archival_location=place.as_uri(), broader_retention="1d", max_traces_per_pass=int(count)
    )
    shutil.rmtree(min(place.glob("*/traces/*"), key=str))


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        fill(*sys.argv[2:])
    else:
        archive(*sys.argv[2:])
