"""Agent runs with spans, from three real sources: what a scorer on `trace` sees is what the records say."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backfill_spark import backfill_scorers, configure, get_backfill, read_assessments, scorer
from tests.factories import a_span, a_trace, traces_frame

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings

FRAMEWORK_TYPES = {"GENERATION": "CHAT_MODEL", "SPAN": "UNKNOWN"}


def records(shared: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(shared / "data" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def nanoseconds(text: str | None) -> int | None:
    return None if text is None else int(datetime.fromisoformat(text).timestamp() * 1_000_000) * 1000


def as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def children(rows: list[tuple[str, str, Any, Any]]) -> list[dict[str, Any]]:
    """Return spans below the root `s-1`, a second apart, of (type, name, inputs, outputs)."""
    start = a_span()["start_time_ns"]
    return [
        a_span(
            span_id=f"s-{n}",
            parent_id="s-1",
            span_type=kind,
            name=name,
            inputs=as_text(inputs),
            outputs=as_text(outputs),
            start_time_ns=start + n * 10**9,
            end_time_ns=start + (n + 1) * 10**9,
        )
        for n, (kind, name, inputs, outputs) in enumerate(rows, start=2)
    ]


def of_tau(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a root with the conversation, and a span for each answer and each tool's reply."""
    messages = record["messages"]
    below = [
        ("TOOL", m["name"], m.get("tool_call_id"), m["content"])
        if m["role"] == "tool"
        else ("CHAT_MODEL", "gpt-4o", None, m.get("content"))
        for m in messages
        if m["role"] in ("assistant", "tool")
    ]
    return [a_span(inputs=json.dumps(messages), outputs=as_text(messages[-1].get("content"))), *children(below)]


def of_swe(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a root, and for each step a span of the model and one of the shell."""
    below = []
    for step in record["steps"]:
        below.append(("LLM", "model", step["thought"], step["response"]))
        below.append(("TOOL", "shell", step["action"], step["observation"]))
    steps = record["steps"]
    return [a_span(inputs=json.dumps([s["action"] for s in steps]), outputs=steps[-1]["observation"]), *children(below)]


def of_framework(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the record's own observations."""
    return [
        a_span(
            span_id=s["id"],
            parent_id=s.get("parentObservationId"),
            name=s["name"],
            span_type=FRAMEWORK_TYPES.get(s["type"], s["type"]),
            start_time_ns=nanoseconds(s["startTime"]),
            end_time_ns=nanoseconds(s.get("endTime")),
            inputs=as_text(s.get("input")),
            outputs=as_text(s.get("output")),
        )
        for s in record["spans"]
    ]


@scorer(aggregations=["mean", "max"])
def tools(trace: Any) -> Any:
    """Count the TOOL spans."""
    return len(trace.search_spans(span_type="TOOL"))


@scorer
def tool_names(trace: Any) -> Any:
    """Name the tools in the order of their calls."""
    spans = sorted(trace.search_spans(span_type="TOOL"), key=lambda s: s.start_time_ns)
    return ",".join(s.name for s in spans)


@scorer
def turns(inputs: Any) -> Any:
    """Count what the root span was given: the table has no column `request`."""
    return len(inputs) if isinstance(inputs, list) else None


def test_tool_spans_are_counted_as_the_records_have_them(spark: SparkSession, settings: Settings, shared: Path) -> None:
    """Counts and names of tools, and inputs of root spans, equal those made without the package."""
    tau, swe, framework = (
        records(shared, f) for f in ("tau_bench_airline_gpt4o", "swe_agent_trajectories", "framework_traces")
    )
    start = datetime(2024, 5, 15, 15, tzinfo=UTC)
    spans = [(r, of_tau(r)) for r in tau] + [(r, of_swe(r)) for r in swe] + [(r, of_framework(r)) for r in framework]
    rows = [
        a_trace(
            trace_id=r["id"], session_id=r.get("session_id"), request_time=start + timedelta(hours=3 * n), spans=found
        )
        for n, (r, found) in enumerate(spans)
    ]
    frame = traces_frame(spark, rows, partitions=2).drop("request", "response")
    frame.write.format("delta").save(settings.traces_path)
    configure(settings)
    for one in (tools, tool_names, turns):
        one.register().start()
    job = get_backfill(backfill_scorers(scorers=["tools", "tool_names", "turns"]))

    expected = {r["id"]: sum(m["role"] == "tool" for m in r["messages"]) for r in tau}
    expected |= {r["id"]: len(r["steps"]) for r in swe}
    expected |= {r["id"]: sum(s["type"] == "TOOL" for s in r["spans"]) for r in framework}
    assert (768, len(tau) + len(swe) + len(framework)) == (sum(expected[r["id"]] for r in tau), len(expected))
    found = read_assessments().collect()
    by_scorer = {name: {r["trace_id"]: r for r in found if r["scorer_name"] == name} for name in job.counts}
    assert expected == {i: int(r["value"]) for i, r in by_scorer["tools"].items()}
    names = {r["id"]: ",".join(m["name"] for m in r["messages"] if m["role"] == "tool") for r in tau}
    assert names == {i: by_scorer["tool_names"][i]["value_string"] for i in names}
    assert {r["id"]: len(r["messages"]) for r in tau} | {r["id"]: len(r["steps"]) for r in swe} == {
        i: int(r["value"]) for i, r in by_scorer["turns"].items() if not i.startswith("framework:")
    }
    assert {r["session_id"] for r in tau} <= {r["session_id"] for r in by_scorer["tools"].values()}
    summary = job.summary().set_index("scorer").loc["tools"]
    assert (max(expected.values()), len(expected)) == (summary["max"], summary["n"])
    assert abs(sum(expected.values()) / len(expected) - summary["mean"]) < 1e-9
