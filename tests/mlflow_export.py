"""Run in MLflow's own environment: writes traces into a store and saves them in each way that people save them.

usage: mlflow_export.py ROWS.jsonl FOLDER

Not saved to Parquet whole: pyarrow refuses the mixed types of `request` and `response`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mlflow
from mlflow.tracing.constant import TraceMetadataKey


def write(row: dict[str, Any]) -> str:
    """Log a row of TRACES as a trace of MLflow; return its id there."""
    root, *others = row["spans"]
    made = {
        root["span_id"]: mlflow.start_span_no_context(
            root["name"],
            span_type=root["span_type"],
            inputs=decoded(row["request"]),
            start_time_ns=root["start_time_ns"],
            tags=row["tags"],
            metadata={TraceMetadataKey.TRACE_SESSION: row["session_id"]} if row["session_id"] else None,
        )
    }
    for span in others:
        made[span["span_id"]] = mlflow.start_span_no_context(
            span["name"],
            span_type=span["span_type"],
            parent_span=made.get(span["parent_id"], made[root["span_id"]]),
            inputs=decoded(span["inputs"]),
            start_time_ns=span["start_time_ns"],
        )
    for span in reversed(others):
        made[span["span_id"]].end(outputs=decoded(span["outputs"]), end_time_ns=span["end_time_ns"])
    made[root["span_id"]].end(outputs=decoded(row["response"]), end_time_ns=root["end_time_ns"])
    return str(made[root["span_id"]].trace_id)


def decoded(text: str | None) -> Any:
    """JSON objects and lists as such, other texts as they are."""
    if text is None or text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def main(rows: Path, folder: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    # Else traces leave files in the working directory.
    place = mlflow.create_experiment("export", artifact_location=str(folder / "artifacts"))
    mlflow.set_experiment(experiment_id=place)
    ids = {}
    for line in rows.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        ids[row["trace_id"]] = write(row)
    mlflow.flush_trace_async_logging()
    for trace_id in list(ids.values())[:5]:
        mlflow.log_expectation(trace_id=trace_id, name="expected_response", value="18")
    frame = mlflow.search_traces(max_results=1000, include_spans=True)
    assert len(frame) == len(ids), len(frame)
    traces = [mlflow.entities.Trace.from_json(text) for text in frame["trace"]]
    documents = [trace.to_json() for trace in traces]
    (folder / "documents.jsonl").write_text("".join(f"{d}\n" for d in documents), encoding="utf-8")
    frame.to_json(folder / "frame.jsonl", orient="records", lines=True)
    frame.to_csv(folder / "frame.csv", index=False)
    frame[["trace_id", "trace"]].to_parquet(folder / "frame.parquet")
    frame.drop(columns="trace").to_json(folder / "bare.jsonl", orient="records", lines=True)
    frame.drop(columns="trace").to_csv(folder / "bare.csv", index=False)
    print(json.dumps({theirs: ours for ours, theirs in ids.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
