"""The objects that `--json` prints: plain values, times as ISO text in UTC, no NaN."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any


def plan_object(plan: Any) -> dict[str, Any]:
    return _object(plan) | {"calls": plan.calls, "cost_usd": plain(plan.cost_usd), "chunks": plan.chunks}


def job_object(job: Any, *, summary: Any = None) -> dict[str, Any]:
    """Return a BackfillJob as a JSON object; `summary` are the rows of `job.summary()`."""
    names = ("job_id", "state", "alive", "progress", "created_at", "started_at", "ended_at", "calls", "cost_usd")
    body = {name: plain(getattr(job, name)) for name in (*names, "rate_reached", "error")}
    body |= {"warnings": list(getattr(job, "warnings", ()))} | _object(job)
    if summary is not None:
        body["summary"] = [plain(record) for record in summary]
    return body


def scorer_object(scorer: Any, *, with_source: bool = False) -> dict[str, Any]:
    names = ("name", "scorer_version", "status", "sample_rate", "filter_string", "description", "digest")
    body = {name: plain(getattr(scorer, name)) for name in names}
    body["aggregations"] = [str(a) for a in scorer.aggregations or ()]
    body["signature"] = list(scorer.signature)
    known = scorer.registration
    for name in ("experiment_id", "created_at", "created_by", *(["source_text"] if with_source else [])):
        body[name] = None if known is None else plain(getattr(known, name))
    return body


def plain(value: Any) -> Any:
    """Return `value` as JSON takes it: numpy scalars as numbers, NaN and infinities as None, times as ISO text."""
    if value is None or isinstance(value, (bool, str)):
        return value if value is None or isinstance(value, bool) else str(value)
    if isinstance(value, datetime):
        if value != value:  # noqa: PLR0124 - pandas' NaT is a datetime that differs from itself
            return None
        aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return aware.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return value if isinstance(value, bool) else str(value)


def _object(thing: Any) -> dict[str, Any]:
    body = {
        "window": dict(zip(("start", "end"), thing.window.to_json(), strict=True)),
        "source": plain(thing.source),
        "source_kind": plain(getattr(thing, "source_kind", "")),
        "tables": plain(getattr(thing, "tables", "")),
        "source_version": plain(thing.source_version),
        "scorers": [_spec(spec) for spec in thing.scorers],
        "counts": {name: plain(count.to_json()) for name, count in thing.counts.items()},
        "notes": plain(tuple(thing.notes)),
        "trace_ids_missing": plain(tuple(getattr(thing, "trace_ids_missing", ()) or ())),
    }
    experiment_id = getattr(thing, "experiment_id", None)
    return body if experiment_id is None else {"experiment_id": str(experiment_id)} | body


def _spec(spec: Any) -> dict[str, Any]:
    names = ("name", "version", "digest", "sample_rate", "filter_string")
    return {name: plain(getattr(spec, name)) for name in names}
