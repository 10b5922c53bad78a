"""Writers: real conversations, written in each shape whose rows are spans.

By the vendor's own code where it can be had (OTLP: opentelemetry-proto), else by the published schema.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

START = datetime(2024, 5, 15, 15, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Span = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """A trace to write."""

    trace_id: str
    """32 hex digits."""
    session_id: str | None
    spans: list[Span]
    """As `factories.a_span` gives them, with ids of 16 hex digits; whole microseconds."""

    @property
    def root(self) -> Span:
        """The span without a parent, else the earliest, of those that begin together the longest."""
        return min(self.spans, key=lambda s: (s["parent_id"] is not None, s["start_time_ns"], -s["end_time_ns"]))


Writer = Callable[["SparkSession", Sequence[Conversation], Path], str]
"""Writes conversations into a folder and returns what to open."""


def hex_id(text: str, digits: int) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:digits]


def as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def conversations(shared: Path) -> list[Conversation]:
    """Return the 145 real conversations, 3 hours apart."""

    def records(name: str) -> list[dict[str, Any]]:
        with gzip.open(shared / "data" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    made = [(r, _of_tau) for r in records("tau_bench_airline_gpt4o")]
    made += [(r, _of_swe) for r in records("swe_agent_trajectories")]
    made += [(r, _of_framework) for r in records("framework_traces")]
    found = []
    for number, (record, spans_of) in enumerate(made):
        start = (START + timedelta(hours=3 * number) - _EPOCH) // timedelta(microseconds=1) * 1000
        found.append(Conversation(hex_id(record["id"], 32), record.get("session_id"), spans_of(record, start)))
    return found


def _below(record_id: str, start: int, rows: Sequence[tuple[str, str, Any, Any]]) -> list[Span]:
    """Return spans of (type, name, inputs, outputs), the first of them the root, a second apart."""
    root = hex_id(f"{record_id} 0", 16)
    return [
        {
            "span_id": hex_id(f"{record_id} {n}", 16),
            "parent_id": None if n == 0 else root,
            "name": name,
            "span_type": kind,
            "start_time_ns": start + n * 10**9,
            "end_time_ns": start + (len(rows) if n == 0 else n + 1) * 10**9,
            "status_code": "OK",
            "inputs": as_text(inputs),
            "outputs": as_text(outputs),
        }
        for n, (kind, name, inputs, outputs) in enumerate(rows)
    ]


def _of_tau(record: dict[str, Any], start: int) -> list[Span]:
    messages = record["messages"]
    rows = [("AGENT", "airline", messages, messages[-1].get("content"))]
    for message in messages:
        if message["role"] == "tool":
            rows.append(("TOOL", message["name"], message.get("tool_call_id"), message["content"]))
        elif message["role"] == "assistant":
            rows.append(("CHAT_MODEL", "gpt-4o", None, message.get("content")))
    return _below(record["id"], start, rows)


def _of_swe(record: dict[str, Any], start: int) -> list[Span]:
    steps = record["steps"]
    rows = [("AGENT", "swe", [s["action"] for s in steps], steps[-1]["observation"])]
    for step in steps:
        rows.append(("LLM", "model", step["thought"], step["response"]))
        rows.append(("TOOL", "shell", step["action"], step["observation"]))
    return _below(record["id"], start, rows)


def _of_framework(record: dict[str, Any], start: int) -> list[Span]:
    times = [datetime.fromisoformat(s["startTime"]) for s in record["spans"]]
    first = min(times)

    def moment(text: str) -> int:
        return start + (datetime.fromisoformat(text) - first) // timedelta(microseconds=1) * 1000

    return [
        {
            "span_id": hex_id(s["id"], 16),
            "parent_id": None if s.get("parentObservationId") is None else hex_id(s["parentObservationId"], 16),
            "name": s["name"],
            "span_type": {"GENERATION": "LLM", "SPAN": "CHAIN"}.get(s["type"], s["type"]),
            "start_time_ns": moment(s["startTime"]),
            "end_time_ns": moment(s["endTime"]),
            "status_code": "OK",
            "inputs": as_text(s.get("input")),
            "outputs": as_text(s.get("output")),
        }
        for s in record["spans"]
    ]


def _attributes(span: Span, session_id: str | None) -> dict[str, str]:
    """The attributes that OpenInference gives a span."""
    values = {
        "openinference.span.kind": {"CHAT_MODEL": "LLM"}.get(span["span_type"], span["span_type"]),
        "input.value": span["inputs"],
        "output.value": span["outputs"],
        "session.id": session_id,
    }
    return {key: value for key, value in values.items() if value is not None}


def _protobuf(found: Sequence[Conversation]) -> list[Any]:
    """Return an export request a conversation, as OpenTelemetry's own protobuf classes."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    requests = []
    for one in found:
        request = ExportTraceServiceRequest()
        group = request.resource_spans.add()
        service = group.resource.attributes.add(key="service.name")
        service.value.string_value = "support"
        scope = group.scope_spans.add()
        for span in one.spans:
            made = scope.spans.add(
                trace_id=bytes.fromhex(one.trace_id),
                span_id=bytes.fromhex(span["span_id"]),
                parent_span_id=bytes.fromhex(span["parent_id"] or ""),
                name=span["name"],
                start_time_unix_nano=span["start_time_ns"],
                end_time_unix_nano=span["end_time_ns"],
            )
            made.status.code = {"OK": 1, "ERROR": 2}.get(span["status_code"], 0)
            for key, value in _attributes(span, one.session_id).items():
                made.attributes.add(key=key).value.string_value = value
        requests.append(request)
    return requests


def otlp_protobuf_json(spark: SparkSession, found: Sequence[Conversation], folder: Path) -> str:
    """OTLP in JSON by protobuf's own printer, gzip: ids in base64, numbers as texts."""
    from google.protobuf.json_format import MessageToJson

    folder.mkdir()
    lines = [MessageToJson(request, indent=None) for request in _protobuf(found)]
    for number in range(2):
        with gzip.open(folder / f"traces-{number}.json.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(lines[number::2]) + "\n")
    return str(folder)


def otlp_collector_json(spark: SparkSession, found: Sequence[Conversation], folder: Path) -> str:
    """OTLP in JSON as the collector's file exporter writes it: ids in hex digits; a trace's spans in two files."""
    from google.protobuf.json_format import MessageToDict

    folder.mkdir()
    files: tuple[list[str], list[str]] = ([], [])
    for request in _protobuf(found):
        document = MessageToDict(request)
        scope = document["resourceSpans"][0]["scopeSpans"][0]
        spans = scope["spans"]
        for span in spans:
            for name in ("traceId", "spanId", "parentSpanId"):
                if span.get(name):
                    span[name] = base64.b64decode(span[name]).hex()
        for half, lines in zip((spans[1::2], spans[::2]), files, strict=True):
            scope["spans"] = half
            lines.append(json.dumps(document))
    for number, lines in enumerate(files):
        (folder / f"data-{number}.json").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)


def _flat(found: Sequence[Conversation]) -> list[tuple[Conversation, Span]]:
    return [(one, span) for one in found for span in one.spans]


def _parquet(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)


def clickhouse(spark: SparkSession, found: Sequence[Conversation], folder: Path) -> str:
    """`SELECT * FROM otel_traces FORMAT Parquet`: times in nanoseconds, an event's fields as lists."""
    texts = pa.map_(pa.string(), pa.string())
    schema = pa.schema(
        {
            "Timestamp": pa.timestamp("ns", "UTC"),
            **dict.fromkeys(("TraceId", "SpanId", "ParentSpanId", "TraceState", "SpanName", "SpanKind"), pa.string()),
            "ServiceName": pa.string(),
            "ResourceAttributes": texts,
            "SpanAttributes": texts,
            "Duration": pa.uint64(),
            "StatusCode": pa.string(),
            "StatusMessage": pa.string(),
            "Events.Timestamp": pa.list_(pa.timestamp("ns", "UTC")),
            "Events.Name": pa.list_(pa.string()),
            "Events.Attributes": pa.list_(texts),
        }
    )
    rows = [
        {
            "Timestamp": span["start_time_ns"],
            "TraceId": one.trace_id,
            "SpanId": span["span_id"],
            "ParentSpanId": span["parent_id"] or "",
            "TraceState": "",
            "SpanName": span["name"],
            "SpanKind": "Internal",
            "ServiceName": "support",
            "ResourceAttributes": {"service.name": "support"},
            "SpanAttributes": _attributes(span, one.session_id),
            "Duration": span["end_time_ns"] - span["start_time_ns"],
            "StatusCode": {"OK": "Ok", "ERROR": "Error"}.get(span["status_code"], "Unset"),
            "StatusMessage": "",
            "Events.Timestamp": [],
            "Events.Name": [],
            "Events.Attributes": [],
        }
        for one, span in _flat(found)
    ]
    _parquet(folder / "otel_traces.parquet", rows, schema)
    return str(folder)


def _mlflow_values(span: Span, session_id: str | None) -> dict[str, str]:
    """Return the attributes that MLflow gives a span, each as JSON text."""

    def encoded(text: str | None) -> str | None:
        if text is None:
            return None
        return text if text[:1] in ("{", "[") and _is_json(text) else json.dumps(text)

    values = {
        "mlflow.spanType": json.dumps(span["span_type"]),
        "mlflow.spanInputs": encoded(span["inputs"]),
        "mlflow.spanOutputs": encoded(span["outputs"]),
        "session.id": None if session_id is None else json.dumps(session_id),
    }
    return {key: value for key, value in values.items() if value is not None}


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


_SPAN_V1 = (
    "trace_id string, span_id string, trace_state string, parent_span_id string, flags int, name string, kind string,"
    " start_time_unix_nano bigint, end_time_unix_nano bigint, attributes map<string,string>,"
    " events array<struct<time_unix_nano: bigint, name: string, attributes: map<string,string>>>,"
    " status struct<message: string, code: string>, resource struct<attributes: map<string,string>>"
)


def _uc_rows(found: Sequence[Conversation]) -> list[tuple[Any, ...]]:
    return [
        (
            one.trace_id,
            span["span_id"],
            "",
            span["parent_id"],
            0,
            span["name"],
            "SPAN_KIND_INTERNAL",
            span["start_time_ns"],
            span["end_time_ns"],
            _mlflow_values(span, one.session_id),
            [],
            ("", f"STATUS_CODE_{span['status_code']}"),
            ({"service.name": "support"},),
        )
        for one, span in _flat(found)
    ]


def databricks_v1(spark: SparkSession, found: Sequence[Conversation], folder: Path) -> str:
    """`_otel_spans` of version 1: attributes as maps of JSON texts; no table of logs beside it."""
    path = folder / "support_otel_spans"
    spark.createDataFrame(_uc_rows(found), _SPAN_V1).coalesce(1).write.format("delta").save(str(path))
    return str(path)


def databricks_v2(spark: SparkSession, found: Sequence[Conversation], folder: Path) -> str:
    """`_otel_spans` of version 2, with VARIANT, and `_otel_annotations` with a tag for each trace."""
    from pyspark.sql import functions as F

    documents = [
        (*row[:9], "{" + ",".join(f"{json.dumps(k)}:{v}" for k, v in row[9].items()) + "}", row[11], row[12][0])
        for row in _uc_rows(found)
    ]
    schema = (
        "trace_id string, span_id string, trace_state string, parent_span_id string, flags int, name string, kind"
        " string, start_time_unix_nano bigint, end_time_unix_nano bigint, attributes string, status struct<message:"
        " string, code: string>, resource map<string,string>"
    )
    rows = spark.createDataFrame(documents, schema).coalesce(1)
    resource = F.parse_json(F.to_json("resource"))
    rows = rows.withColumns(
        {
            "record_id": F.expr("uuid()"),
            "time": F.timestamp_micros(F.expr("start_time_unix_nano div 1000")),
            "service_name": F.lit("support"),
            "attributes": F.parse_json("attributes"),
            "resource": F.struct(resource.alias("attributes")),
            "events": F.expr(
                "cast(array() as array<struct<time_unix_nano: bigint, name: string, attributes: variant>>)"
            ),
        }
    )
    path = folder / "support_otel_spans"
    rows.write.format("delta").save(str(path))
    tags = [(f"tag {one.trace_id}", one.trace_id, f'"{n}"') for n, one in enumerate(found)]
    annotations = spark.createDataFrame(tags, "annotation_id string, target_id string, value string").coalesce(1)
    moment = F.lit(START.replace(tzinfo=None).isoformat(sep=" ")).cast("timestamp")
    annotations.select(
        "annotation_id",
        F.lit("TRACE").alias("target_type"),
        "target_id",
        F.lit("TAG").alias("annotation_type"),
        F.lit("number").alias("name"),
        F.parse_json("value").alias("value"),
        F.lit(None).cast("string").alias("comment"),
        F.parse_json(F.lit("{}")).alias("metadata"),
        (moment + F.expr("INTERVAL 30 DAYS")).alias("created_at"),
        F.lit(None).cast("timestamp").alias("updated_at"),
        F.lit(None).cast("timestamp").alias("deleted_at"),
    ).write.format("delta").save(str(folder / "support_otel_annotations"))
    return str(path)


_MICROS = pa.timestamp("us", "UTC")


def _observations(found: Sequence[Conversation], *, is_legacy: bool) -> tuple[list[dict[str, Any]], pa.Schema]:
    texts = ["id", "trace_id", "project_id", "parent_observation_id", "type", "name", "level", "status_message"]
    texts += ["environment", "user_id", "session_id", "input", "output", "trace_name"]
    schema = pa.schema(
        {
            **dict.fromkeys(texts, pa.string()),
            **dict.fromkeys(("start_time", "end_time", "updated_at"), _MICROS),
            "metadata": pa.map_(pa.string(), pa.string()),
            "tags": pa.list_(pa.string()),
            "is_root_observation": pa.bool_(),
        }
    )
    kinds = {"LLM": "GENERATION", "CHAT_MODEL": "GENERATION", "CHAIN": "SPAN"}
    rows = [
        {
            "id": span["span_id"],
            "trace_id": one.trace_id,
            "project_id": "p1",
            "parent_observation_id": span["parent_id"] or "",
            "type": kinds.get(span["span_type"], span["span_type"]),
            "name": span["name"],
            "level": "ERROR" if span["status_code"] == "ERROR" else "DEFAULT",
            "status_message": "",
            "environment": "production",
            "user_id": "",
            "session_id": one.session_id or "",
            "input": span["inputs"] or "",
            "output": span["outputs"] or "",
            "trace_name": one.root["name"],
            "start_time": span["start_time_ns"] // 1000,
            "end_time": span["end_time_ns"] // 1000,
            "updated_at": span["end_time_ns"] // 1000,
            "metadata": {},
            "tags": ["support"],
            "is_root_observation": span is one.root,
        }
        for one, span in _flat(found)
    ]
    if is_legacy:
        schema = pa.schema(
            [f for f in schema if f.name not in ("is_root_observation", "session_id", "tags", "trace_name")]
        )
        rows = [{name: row[name] for name in schema.names} for row in rows]
    return rows, schema


def langfuse(spark: SparkSession, found: Sequence[Conversation], folder: Path) -> str:
    """`observations_v2` in two windows that share an edge, so that rows are twice there; an unlisted file."""
    rows, schema = _observations(found, is_legacy=False)
    half = len(rows) // 2
    project = folder / "p1"
    for name, part in (("2024-06-01T00-00-00", rows[: half + 5]), ("2024-07-01T00-00-00", rows[half:])):
        _parquet(project / "observations_v2" / f"{name}.parquet", part, schema)
        _manifest(project, name, ["observations_v2"])
    # A failed run leaves files that no manifest names.
    _parquet(project / "observations_v2" / "2024-08-01T00-00-00.parquet", [{**rows[0], "trace_id": "ff" * 16}], schema)
    return str(folder)


def langfuse_legacy(spark: SparkSession, found: Sequence[Conversation], folder: Path) -> str:
    """The older `traces` and `observations`."""
    rows, schema = _observations(found, is_legacy=True)
    project, name = folder / "p1", "2024-06-01T00-00-00"
    _parquet(project / "observations" / f"{name}.parquet", rows, schema)
    texts = (
        "id",
        "project_id",
        "name",
        "user_id",
        "session_id",
        "release",
        "version",
        "environment",
        "input",
        "output",
    )
    kinds = {**dict.fromkeys(texts, pa.string()), "timestamp": _MICROS, "metadata": pa.map_(pa.string(), pa.string())}
    traces = [
        {
            **dict.fromkeys(texts, ""),
            "id": one.trace_id,
            "project_id": "p1",
            "name": one.root["name"],
            "session_id": one.session_id or "",
            "input": one.root["inputs"] or "",
            "output": one.root["outputs"] or "",
            "timestamp": one.root["start_time_ns"] // 1000,
            "metadata": {},
        }
        for one in found
    ]
    _parquet(project / "traces" / f"{name}.parquet", traces, pa.schema(kinds))
    _manifest(project, name, ["observations", "traces"])
    return str(folder)


def _manifest(project: Path, name: str, tables: Sequence[str]) -> None:
    (project / "manifests").mkdir(exist_ok=True)
    files = [{"key": f"export/{project.name}/{table}/{name}.parquet", "table": table} for table in tables]
    manifest = {"version": 1, "projectId": project.name, "tables": tables, "files": files}
    (project / "manifests" / f"{name}.json").write_text(json.dumps(manifest), encoding="utf-8")


def langsmith(spark: SparkSession, found: Sequence[Conversation], folder: Path) -> str:
    """A bulk export: inputs and outputs are objects; the project is a column and a folder."""
    texts = ["id", "tenant_id", "session_id", "trace_id", "parent_run_id", "reference_example_id", "name", "run_type"]
    texts += ["status", "dotted_order", "inputs", "outputs", "error", "extra"]
    schema = pa.schema(
        {
            **dict.fromkeys(texts, pa.string()),
            "start_time": _MICROS,
            "end_time": _MICROS,
            "is_root": pa.bool_(),
            "tags": pa.list_(pa.string()),
        }
    )
    kinds = {"CHAT_MODEL": "llm", "AGENT": "chain"}

    def wrapped(text: str | None, key: str) -> str | None:
        value = json.loads(text) if text and _is_json(text) and text[0] in "{[" else text
        return None if value is None else json.dumps(value if isinstance(value, dict) else {key: value})

    rows = [
        {
            "id": span["span_id"],
            "tenant_id": "t",
            "session_id": "p1",
            "trace_id": one.trace_id,
            "parent_run_id": span["parent_id"],
            "name": span["name"],
            "run_type": kinds.get(span["span_type"], span["span_type"].lower()),
            "status": "error" if span["status_code"] == "ERROR" else "success",
            "dotted_order": f"{span['start_time_ns']}Z{span['span_id']}",
            "inputs": wrapped(span["inputs"], "input"),
            "outputs": wrapped(span["outputs"], "output"),
            "extra": json.dumps({"metadata": {"session_id": one.session_id} if one.session_id else {}}),
            "start_time": span["start_time_ns"] // 1000,
            "end_time": span["end_time_ns"] // 1000,
            "is_root": span["parent_id"] is None,
            "tags": ["support"],
        }
        for one, span in _flat(found)
    ]
    place = folder / "export_id=e1" / "tenant_id=t" / "session_id=p1" / "runs" / "year=2024" / "month=5" / "day=15"
    _parquet(place / "part.parquet", rows, schema)
    return str(folder)


def phoenix(spark: SparkSession, found: Sequence[Conversation], folder: Path) -> str:
    """`get_spans_dataframe().to_parquet()`: nanoseconds, the span id as the frame's index."""
    import pandas as pd

    rows = [
        {
            "context.span_id": span["span_id"],
            "context.trace_id": one.trace_id,
            "name": span["name"],
            "span_kind": {"CHAT_MODEL": "LLM"}.get(span["span_type"], span["span_type"]),
            "parent_id": span["parent_id"],
            "start_time": pd.Timestamp(span["start_time_ns"], tz="UTC"),
            "end_time": pd.Timestamp(span["end_time_ns"], tz="UTC"),
            "status_code": span["status_code"],
            "status_message": "",
            "events": [],
            "attributes.input.value": span["inputs"],
            "attributes.output.value": span["outputs"],
            "attributes.session.id": one.session_id,
            "attributes.llm.token_count.total": 7.0,
        }
        for one, span in _flat(found)
    ]
    folder.mkdir()
    pd.DataFrame(rows).set_index("context.span_id").to_parquet(folder / "trace_dataset-1.parquet")
    return str(folder)


WRITERS: dict[str, Writer] = {
    "otlp_json, by protobuf": otlp_protobuf_json,
    "otlp_json, by the collector": otlp_collector_json,
    "clickhouse_otel": clickhouse,
    "databricks_otel_v2": databricks_v2,
    "databricks_otel_v1": databricks_v1,
    "langfuse": langfuse,
    "langfuse_legacy": langfuse_legacy,
    "langsmith": langsmith,
    "phoenix": phoenix,
}
"""Shape, and who wrote it where that differs: its writer."""
