"""How an inspection of traces looks."""

from __future__ import annotations

import json
from typing import Any

from backfill_spark.display.formats import many, moment_text
from backfill_spark.display.render import Sheet, Table

_LENGTH = 400
"""Characters that are shown of one value."""
_COUNTS = {
    "no_time": "without a time",
    "no_trace_id": "without an id",
    "duplicate_trace_id": "with the id of another",
    "no_request": "without a request",
    "no_response": "without a response",
    "in_progress": "in progress",
    "incomplete": "without some of their spans",
}


def inspection_sheet(found: Any) -> Sheet:
    """Return what was found in a source, for people."""
    counts = found.counts
    some = [f"{counts[key]:,} {words}" for key, words in _COUNTS.items() if counts.get(key)]
    between = f"{moment_text(found.first_time)} to {moment_text(found.last_time)}" if found.first_time else ""
    experiments = ", ".join(f"{name or 'none'} ({n:,})" for name, n in found.experiments.items())
    facts = (
        ("shape", f"{found.shape}: {found.title}"),
        ("told by", ", ".join(found.why)),
        ("source", f"{found.source_kind} {found.source}".strip()),
        ("version", found.source_version),
        ("traces", ", ".join([f"{counts['traces']:,}", *some])),
        ("times", between),
        ("experiments", experiments),
    )
    rows = [*found.mapping.items(), *((name, "—") for name in found.absent if name not in found.mapping)]
    mapping = Table(("column", "made of"), tuple(rows), frozenset({"made of"}))
    seen = [_sample(number, sample) for number, sample in enumerate(found.samples, 1)]
    return Sheet("Traces", facts, (mapping, *seen), tuple(found.notes))


def _sample(number: int, sample: Any) -> Table:
    shown = tuple((name, shown_value(sample[name])) for name in ("inputs", "outputs", "expectations", "trace"))
    head = f"what a scorer sees of {sample['trace_id']}"
    return Table((f"trace {number}", head), shown, frozenset({head}))


def shown_value(value: Any) -> str:
    """Return a value as Python shows it, cut."""
    text = trace_text(value) if hasattr(value, "info") else repr(value)
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 1]}… ({len(text):,} characters)"


def trace_text(trace: Any) -> str:
    """Return a line about a trace: its state, duration, spans, assessments, tags."""
    try:
        spans = [f"{span.name} ({span.span_type})" for span in trace.data.spans]
        tags = json.dumps(dict(trace.info.tags), ensure_ascii=False, default=str)
        parts = [
            f"state {trace.info.state}",
            "" if trace.info.execution_duration is None else f"{trace.info.execution_duration:,} ms",
            many(len(spans), "span") + (f": {', '.join(spans[:5])}{', …' if len(spans) > 5 else ''}" if spans else ""),
            many(len(trace.info.assessments), "assessment"),
            f"tags {tags}" if tags != "{}" else "",
        ]
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ", ".join(part for part in parts if part)
