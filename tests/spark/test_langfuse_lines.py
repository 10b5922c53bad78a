"""Langfuse's exports as JSON lines, packed and plain: three traces, as the documentation of the export has them."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backfill_spark.errors import TraceSourceError
from backfill_spark.models import TimeWindow
from backfill_spark.traces.sources import open_source

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings

JUNE = TimeWindow(datetime(2024, 6, 1, tzinfo=UTC), datetime(2024, 7, 1, tzinfo=UTC))


def at(second: int) -> str:
    """A time as the text formats have it: UTC, without a zone."""
    return f"2024-06-01 10:00:{second:02d}.250000"


def observation(trace: str, name: str, start: int, end: int | None, **values: Any) -> dict[str, Any]:
    """A row of `observations_v2`; what is not set is an empty text."""
    unset = dict.fromkeys(("parent_observation_id", "user_id", "session_id", "status_message", "input", "output"), "")
    return {
        "id": f"{trace}-{name}",
        "trace_id": trace,
        "project_id": "p1",
        "type": "SPAN",
        "start_time": at(start),
        "end_time": None if end is None else at(end),
        "name": name,
        "level": "DEFAULT",
        "version": "",
        "environment": "production",
        "bookmarked": False,
        "is_root_observation": False,
        "metadata": {},
        "tags": [],
        "release": "",
        "trace_name": "support",
        "updated_at": at(end or start),
        **unset,
        **values,
    }


def observations() -> list[dict[str, Any]]:
    root = observation(
        "t1",
        "answer",
        1,
        5,
        type="AGENT",
        is_root_observation=True,
        parent_observation_id="t1-http",  # the root of an application may be below a server's
        input='{"question": "Where is my parcel?"}',
        output="first",
        session_id="s-1",
        user_id="u-1",
        metadata={"customer": "7", "nested": '{"a": 1}'},
        tags=["vip", "beta"],
    )
    return [
        observation("t1", "http", 0, 6),
        root,
        observation(
            "t1", "model", 2, 4, type="GENERATION", parent_observation_id="t1-answer", input=[{"role": "user"}]
        ),
        root | {"output": "second", "updated_at": at(9)},  # exported again, since it was updated
        observation("t2", "late", 12, 14, parent_observation_id="elsewhere", input="q2", output="r2", level="ERROR"),
        observation("t2", "later", 13, 14, parent_observation_id="t2-late"),
        observation("t3", "second", 25, 26, input="no", output="no"),
        observation("t3", "first", 20, None, input="q3"),
    ]


def score(name: str, trace: str | None, kind: str, value: Any, word: str = "", **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "timestamp": at(30),
        "project_id": "p1",
        "environment": "production",
        "trace_id": trace,
        "observation_id": "",
        "session_id": "" if trace else "s-1",
        "name": name,
        "value": value,
        "source": "API",
        "comment": "",
        "data_type": kind,
        "string_value": word,
        "created_at": at(30),
        "updated_at": at(30),
        **more,
    }


SCORES = [
    score("number", "t1", "NUMERIC", 0.5),
    score("number", "t1", "NUMERIC", 0.75, updated_at=at(31), comment="looked at again", source="ANNOTATION"),
    score("flag", "t1", "BOOLEAN", 1, observation_id="t1-model", source="EVAL"),
    score("word", "t2", "CATEGORICAL", 0, "good"),
    score("of_session", None, "NUMERIC", 1),
]


def export(folder: Path, tables: dict[str, list[dict[str, Any]]], *, ending: str = "jsonl.gz") -> str:
    """Write tables of a project, its manifest, what a failed run has left, and the notice of older exports."""
    project, window = folder / "p1", "2024-06-01T12-00-00"
    for table, rows in tables.items():
        (project / table).mkdir(parents=True)
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (project / table / f"{window}.{ending}").write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
        left = text.replace(b'"t1', b'"failed')
        failed = project / table / f"2024-06-01T13-00-00.{ending}"
        failed.write_bytes(gzip.compress(left) if ending.endswith("gz") else left)
    files = [{"key": f"bucket/p1/{table}/{window}.{ending}", "table": table, "rowCount": 1} for table in tables]
    (project / "manifests").mkdir()
    manifest = {"version": 1, "projectId": "p1", "tables": list(tables), "files": files}
    (project / "manifests" / f"{window}.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    (project / "DEPRECATION_NOTICE.txt").write_text("Move to observations_v2.\n", encoding="utf-8")
    return str(folder)


def read(spark: SparkSession, settings: Settings, path: str) -> dict[str, dict[str, Any]]:
    source = open_source(spark, settings, path)
    rows = [row.asDict(recursive=True) for row in source.read(source.columns, JUNE).collect()]
    assert len(rows) == len({row["trace_id"] for row in rows})
    return {row["trace_id"]: row for row in rows}


def values_of(trace: dict[str, Any]) -> dict[str, Any]:
    return {a["assessment_name"]: a["feedback"]["value"] for a in trace["assessments"] or ()}


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl"])
def test_observations_and_scores_are_read(spark: SparkSession, settings: Settings, tmp_path: Path, ending: str) -> None:
    """Roots, times, maps and scores of each; a trace without a root, one that never ended and has two roots."""
    found = read(
        spark, settings, export(tmp_path, {"observations_v2": observations(), "scores": SCORES}, ending=ending)
    )
    light = ("experiment_id", "state", "request", "response", "session_id", "execution_duration_ms")
    assert {key: tuple(row[name] for name in light) for key, row in found.items()} == {
        "t1": ("p1", "OK", '{"question": "Where is my parcel?"}', "second", "s-1", 4000),
        "t2": ("p1", "ERROR", "q2", "r2", None, 2000),
        "t3": ("p1", "IN_PROGRESS", "q3", None, None, None),
    }
    one = found["t1"]
    assert one["request_time"].replace(tzinfo=UTC) == datetime(2024, 6, 1, 10, 0, 1, 250_000, tzinfo=UTC)
    assert one["tags"] == {"vip": "true", "beta": "true", "environment": "production", "mlflow.traceName": "support"}
    known = {"mlflow.trace.session": "s-1", "mlflow.trace.user": "u-1"}
    assert one["trace_metadata"] == {"customer": "7", "nested": '{"a": 1}', **known}
    spans = [(s["name"], s["span_type"], s["parent_id"], s["inputs"]) for s in one["spans"]]
    assert spans == [
        ("http", "CHAIN", None, None),
        ("answer", "AGENT", "t1-http", '{"question": "Where is my parcel?"}'),
        ("model", "LLM", "t1-answer", '[{"role":"user"}]'),
    ]
    assert {key: values_of(row) for key, row in found.items()} == {
        "t1": {"number": "0.75", "flag": "true"},
        "t2": {"word": "good"},
        "t3": {},
    }
    told = {
        a["assessment_name"]: (a["source"]["source_type"], a["span_id"], a["rationale"]) for a in one["assessments"]
    }
    assert told == {"number": ("HUMAN", None, "looked at again"), "flag": ("LLM_JUDGE", "t1-model", None)}


def test_the_older_pair_is_read(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """Input and output of the trace, else of its root; beside the notice that the older export holds."""
    rows = [
        {k: v for k, v in row.items() if k != "is_root_observation"} for row in observations() if row["name"] != "http"
    ]
    rows = [row | {"parent_observation_id": ""} if row["name"] == "answer" else row for row in rows]
    base: dict[str, Any] = {
        "project_id": "p1",
        "user_id": "",
        "session_id": "",
        "release": "",
        "version": "",
        "environment": "default",
    }
    traces = [
        base | {"id": "t1", "timestamp": at(1), "name": "support", "input": {"q": 1}, "output": "of the trace",
                "metadata": {"k": "v"}, "tags": ["vip"], "session_id": "s-1", "updated_at": at(5)},
        base | {"id": "t2", "timestamp": at(12), "name": "support", "input": None, "output": None,
                "metadata": {}, "tags": [], "updated_at": at(14)},
        base | {"id": "t3", "timestamp": at(20), "name": "support", "input": "q3", "output": "",
                "metadata": {}, "tags": [], "updated_at": at(20)},
    ]  # fmt: skip
    tables = {"traces": traces, "observations": rows, "scores": SCORES}
    found = read(spark, settings, export(tmp_path, tables))
    assert {key: (row["request"], row["response"]) for key, row in found.items()} == {
        "t1": ('{"q":1}', "of the trace"),
        "t2": (None, None),  # its root is elsewhere
        "t3": ("q3", None),
    }
    assert (found["t1"]["session_id"], found["t1"]["trace_metadata"]["k"]) == ("s-1", "v")
    assert values_of(found["t1"]) == {"number": "0.75", "flag": "true"}
    assert [s["name"] for s in found["t1"]["spans"]] == ["answer", "model"]


def test_lines_without_texts_are_refused(spark: SparkSession, settings: Settings, tmp_path: Path) -> None:
    """As columns without them are: nothing could be scored."""
    rows = [{k: v for k, v in row.items() if k not in ("input", "output")} for row in observations()]
    with pytest.raises(TraceSourceError, match="field group io"):
        open_source(spark, settings, export(tmp_path, {"observations_v2": rows}))
