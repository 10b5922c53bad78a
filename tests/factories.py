"""Valid values by default; a test names only what it is about."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

NOON = datetime(2024, 6, 15, 12, tzinfo=UTC)
"""When a trace starts unless a test says otherwise."""


def a_trace(**overrides: Any) -> dict[str, Any]:
    """Return one row of TRACES; `trace_date` follows `request_time` unless it is given."""
    row: dict[str, Any] = {
        "trace_id": "tr-1",
        "experiment_id": "0",
        "request_time": NOON,
        "execution_duration_ms": 1200,
        "state": "OK",
        "request": "Where is my parcel?",
        "response": "It arrives on Friday.",
        "request_preview": "Where is my parcel?",
        "response_preview": "It arrives on Friday.",
        "client_request_id": None,
        "session_id": None,
        "trace_metadata": {},
        "tags": {"mlflow.traceName": "support"},
        "spans": [a_span()],
        "assessments": [],
    }
    unknown = overrides.keys() - row.keys() - {"trace_date"}
    if unknown:
        raise TypeError(f"TRACES has no columns {sorted(unknown)}")
    row |= overrides
    row.setdefault("trace_date", _utc_date(row["request_time"]))
    return row


def _utc_date(moment: datetime | None) -> date | None:
    return None if moment is None else moment.astimezone(UTC).date()


def some_traces(count: int, **overrides: Any) -> list[dict[str, Any]]:
    """Return `count` traces tr-0, tr-1, … with responses of different lengths.

    An override that is a function is called with the trace's number.
    """
    rows = []
    for number in range(count):
        values: dict[str, Any] = {"trace_id": f"tr-{number}", "response": f"answer {number} " + "x" * (number % 7)}
        values |= {key: value(number) if callable(value) else value for key, value in overrides.items()}
        rows.append(a_trace(**values))
    return rows


def a_span(**overrides: Any) -> dict[str, Any]:
    """Return one span; a root span of type AGENT unless overridden."""
    return {
        "span_id": "s-1",
        "parent_id": None,
        "name": "support",
        "span_type": "AGENT",
        "start_time_ns": int(NOON.timestamp()) * 1_000_000_000,
        "end_time_ns": int(NOON.timestamp()) * 1_000_000_000 + 1_200_000_000,
        "status_code": "OK",
        "inputs": "Where is my parcel?",
        "outputs": "It arrives on Friday.",
        "attributes": {},
    } | overrides


def an_expectation(name: str, value: str | None, **overrides: Any) -> dict[str, Any]:
    """Return one entry of a trace's `assessments` that holds an expectation."""
    return _source_assessment(name, expectation={"value": value, "serialized_value": None}, **overrides)


def a_source_feedback(name: str, value: str | None, **overrides: Any) -> dict[str, Any]:
    """Return one entry of a trace's `assessments` that holds a feedback."""
    return _source_assessment(name, feedback={"value": value, "error": None}, **overrides)


def _source_assessment(name: str, **overrides: Any) -> dict[str, Any]:
    return {
        "assessment_id": f"a-{name}",
        "trace_id": "tr-1",
        "assessment_name": name,
        "source": {"source_id": "someone", "source_type": "HUMAN"},
        "create_time": NOON,
        "last_update_time": NOON,
        "expectation": None,
        "feedback": None,
        "rationale": None,
        "metadata": None,
        "span_id": None,
        "overrides": None,
        "valid": "true",
    } | overrides


def traces_frame(spark: SparkSession, rows: Iterable[Mapping[str, Any]], *, partitions: int = 1) -> DataFrame:
    """Return `rows` (of `a_trace`) as a frame of shape TRACES."""
    from backfill_spark import schema

    return spark.createDataFrame([dict(row) for row in rows], schema.TRACES).coalesce(partitions)


def write_traces(
    spark: SparkSession,
    rows: Iterable[Mapping[str, Any]],
    path: str | Path,
    *,
    format: str = "delta",
    mode: str = "overwrite",
    files: int = 1,
) -> str:
    """Write `rows` (of `a_trace`) as a table of `files` files; return its path."""
    traces_frame(spark, rows, partitions=files).write.format(format).mode(mode).save(str(path))
    return str(path)


def kept(frame: DataFrame) -> DataFrame:
    """The rows of now, which later writes do not change."""
    return frame.sparkSession.createDataFrame(frame.collect(), frame.schema)


@dataclass(frozen=True)
class Ledger:
    """An append-only file with a line for each scorer call."""

    path: str

    def lines(self) -> list[str]:
        """Return the lines, in the order of the calls."""
        try:
            return Path(self.path).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def clear(self) -> None:
        """Forget all calls."""
        Path(self.path).unlink(missing_ok=True)


def ledger_line(path: str, text: str) -> None:
    """Append `text` as one line in one write, so that lines of several processes never mix."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, (" ".join(text.splitlines()) + "\n").encode("utf-8", "replace"))
    finally:
        os.close(handle)


def id_function(path: str, *, name: str = "length") -> Callable[..., Any]:
    """Return a function on `trace` that notes `name<TAB>trace id` and gives the length of the outputs."""

    def score(trace: Any) -> Any:
        # By value into the workers: nothing of this module is there.
        import os

        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, f"{name}\t{trace.info.trace_id}\n".encode())
        os.close(handle)
        return len(str(trace.data.response or ""))

    score.__name__ = name
    return score


def outputs_function(path: str, *, name: str = "length") -> Callable[..., Any]:
    """Return a function on `outputs` that notes `name<TAB>outputs` and gives the length of the outputs."""

    def score(outputs: Any) -> Any:
        import os

        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, f"{name}\t{' '.join(str(outputs).splitlines())}\n".encode())
        os.close(handle)
        return len(str(outputs or ""))

    score.__name__ = name
    return score


def ledger_scorer(path: str, *, name: str = "length", on: str = "outputs") -> Any:
    """Return an unregistered Scorer that notes each call in the ledger; `on` is outputs or trace."""
    from backfill_spark import scorer

    function = outputs_function(path, name=name) if on == "outputs" else id_function(path, name=name)
    return scorer(name=name)(function)
