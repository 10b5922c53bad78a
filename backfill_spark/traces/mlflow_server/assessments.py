"""Assessments of a server as structs of `schema.IMPORTED_TRACES`: values are JSON text, as the server stores them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from backfill_spark.traces.decode import decode_payload, instant

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(milliseconds: int | None) -> datetime | None:
    """Return an instant of milliseconds since the epoch."""
    return None if milliseconds is None else _EPOCH + timedelta(milliseconds=milliseconds)


def assessment(
    kind: str,
    value: Any,
    error: Mapping[str, Any] | None,
    told: Mapping[str, Any],
    *,
    created_ms: int | None,
    updated_ms: int | None,
) -> dict[str, Any]:
    """Return a struct.

    Args:
        kind: feedback, expectation or issue.
        value: decoded; of an issue the object that holds its name.
        error: of a feedback without a value.
        told: the other fields, `metadata` as an object.
    """
    metadata = told.get("metadata")
    text = None if value is None else json.dumps(value, ensure_ascii=False)
    held: dict[str, Any] = {"feedback": None, "expectation": None, "issue": None}
    if kind == "feedback":
        held["feedback"] = {"value": text, "error": None if error is None else dict(error)}
    elif kind == "expectation":
        held["expectation"] = {"value": text, "serialized_value": None}
    else:
        held["issue"] = {"issue_name": value.get("issue_name") if isinstance(value, Mapping) else None}
    return {
        **told,
        **held,
        "metadata": None if metadata is None else [(str(k), text_of(v)) for k, v in metadata.items()],
        "valid": "false" if told.get("valid") is False else "true",
        "create_time": moment(created_ms),
        "last_update_time": moment(updated_ms),
    }


def assessment_of_json(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the struct of an assessment in MLflow's JSON."""
    kind = next((k for k in ("feedback", "expectation", "issue") if isinstance(document.get(k), Mapping)), "feedback")
    held = document.get(kind) or {}
    value = held.get("value")
    serialized = held.get("serialized_value")
    if kind == "issue":
        value = held
    elif value is None and isinstance(serialized, Mapping):
        value = decode_payload(serialized.get("value"), "json")
    names = ("assessment_id", "trace_id", "assessment_name", "source", "rationale", "metadata", "span_id", "overrides")
    told: dict[str, Any] = {name: document.get(name) for name in names}
    return assessment(
        kind,
        value,
        held.get("error"),
        told | {"valid": document.get("valid")},
        created_ms=instant(document.get("create_time"), 1000),
        updated_ms=instant(document.get("last_update_time"), 1000),
    )


def as_object(text: str | None) -> dict[str, Any] | None:
    """Return the object of a JSON text; None where it is none."""
    found = decode_payload(text)
    return found if isinstance(found, dict) else None


def text_of(value: Any) -> str | None:
    """Return a value of a map as text: what is no text is its JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
