"""What judges are shown of a trace's spans: retrieved documents, tool calls, the tools on offer, or all of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from backfill_spark.judges.prompt import shown


def trace_text(trace: Any) -> str:
    """Return a trace as the JSON text that a judge reads: its spans in order of time, without any assessment."""
    spans = sorted(trace.data.spans, key=lambda span: span.start_time_ns or 0)
    if not spans:
        return shown({"inputs": trace.inputs, "outputs": trace.outputs})
    return shown({"state": str(trace.info.state), "spans": [_span(span) for span in spans]})


def _span(span: Any) -> dict[str, Any]:
    said = {
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "name": span.name,
        "type": span.span_type,
        "status": str(span.status.status_code),
        "inputs": span.inputs,
        "outputs": span.outputs,
    }
    return {name: value for name, value in said.items() if value is not None}


def documents_of(spans: list[Any]) -> list[str]:
    """Return the documents of the outermost RETRIEVER spans of a trace."""
    by_id = {span.span_id: span for span in spans}
    found = []
    for span in by_id.values():
        kinds = [above.span_type for above in _ways_up(span, by_id)]
        if span.span_type == "RETRIEVER" and "RETRIEVER" not in kinds:
            found += _texts_of(span.outputs)
    return found


def tool_calls_of(spans: list[Any]) -> list[dict[str, Any]]:
    """Return the calls of tools in order of time: name, arguments, and what came of them."""
    found = []
    for span in sorted(spans, key=lambda s: s.start_time_ns or 0):
        if span.span_type != "TOOL":
            continue
        inputs = span.inputs
        call = inputs.get("call") if isinstance(inputs, Mapping) else None
        name = call.get("tool_name") if isinstance(call, Mapping) else None
        error = span.status.description or "failed" if str(span.status.status_code) == "ERROR" else None
        said = {"name": name or span.name, "arguments": inputs, "outputs": span.outputs, "error": error}
        found.append({key: value for key, value in said.items() if value is not None})
    return found


def tools_of(spans: list[Any]) -> list[Any]:
    """Return the tools that the models of a trace were offered, each once."""
    found = {}
    for span in spans:
        if span.span_type in ("LLM", "CHAT_MODEL"):
            inputs = span.inputs if isinstance(span.inputs, Mapping) else {}
            for listed in (span.get_attribute("mlflow.chat.tools"), inputs.get("tools")):
                for tool in listed if isinstance(listed, list) else ():
                    found[json.dumps(tool, sort_keys=True, default=str)] = tool
    return list(found.values())


def expected_calls_in(expectations: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the expected tool calls, without arguments when one of them has none; None where they cannot be read."""
    found = expectations.get("expected_tool_calls") or []
    is_read = isinstance(found, list) and all(
        isinstance(c, Mapping) and isinstance(c.get("name"), str) and isinstance(c.get("arguments") or {}, Mapping)
        for c in found
    )
    if not is_read:
        return None
    has_arguments = all(call.get("arguments") is not None for call in found)
    return [{k: c[k] for k in ("name", "arguments")[: 1 + has_arguments]} for c in found]


def calls_apart(calls: list[dict[str, Any]], expected: list[dict[str, Any]], *, ordered: bool) -> str:
    """Return in which way tool calls are not the expected ones, letter for letter; empty where they are."""
    if len(calls) != len(expected):
        return f"{len(expected)} tool calls are expected, {len(calls)} were made."
    keys = expected[0].keys()
    made = [json.dumps({k: c.get(k, {}) for k in keys}, sort_keys=True, default=str) for c in calls]
    wanted = [json.dumps(c, sort_keys=True, default=str) for c in expected]
    if ordered:
        wrong = [f"expected {w}, found {m}" for w, m in zip(wanted, made, strict=True) if w != m]
    else:
        wrong = [f"missing {w}" for w in wanted if w not in made]
        wrong += [f"besides {m}" for m in made if m not in wanted]
    return "; ".join(dict.fromkeys(wrong))


def _ways_up(span: Any, spans: Mapping[Any, Any]) -> Iterable[Any]:
    """Walk from a span to its root; a circle ends it."""
    seen = {span.span_id}
    while (span := spans.get(span.parent_id)) is not None and span.span_id not in seen:
        seen.add(span.span_id)
        yield span


def _texts_of(outputs: Any) -> list[str]:
    """Return the texts of retrieved documents, however they were recorded."""
    if outputs is None:
        return []
    if isinstance(outputs, Mapping):
        inner = next((outputs[k] for k in ("documents", "chunks", "results") if isinstance(outputs.get(k), list)), None)
        if inner is not None:
            return _texts_of(inner)
    items = outputs if isinstance(outputs, list) else [outputs]
    return [text for text in map(_text_of, items) if text.strip()]


def _text_of(item: Any) -> str:
    if isinstance(item, Mapping):
        for key in ("page_content", "content", "text"):
            if isinstance(item.get(key), str):
                return shown(item[key])
    return shown(item)
