"""A table that an import has written, read by Spark, and a scorer of MLflow over it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from backfill_spark import (
    BackfillScorerConfig,
    backfill_scorers,
    configure,
    list_scorers,
    read_assessments,
    read_traces,
)
from backfill_spark.schema import IMPORTED_TRACES
from backfill_spark.settings.locations import Location
from backfill_spark.settings.schema import Settings
from backfill_spark.storage.deltalake_table import DeltalakeTable
from backfill_spark.traces.mlflow_server.assessments import assessment
from backfill_spark.traces.mlflow_server.rows import row_of
from backfill_spark.traces.mlflow_server.server import Experiment, Recorded

VALUES: dict[str, Any] = {"text": "5", "number": 5, "object": {"a": [1]}, "quoted": '{"a": 1}', "nothing": None}


class OfMlflow:
    """Stands for a function with MLflow's own decorator."""

    __module__ = "mlflow.genai.scorers.base"
    description = aggregations = timeout = sample_rate = filter_string = None

    def __init__(self, function: Callable[..., Any], name: str = "seen") -> None:
        self._original_func, self.name = function, name


def recorded(name: str, value: Any) -> Recorded:
    """A trace with an answer, a tool and an expectation."""
    trace = Recorded(name, 1_750_000_000_000, 5, "OK", "cut", "cut", None)
    for kind, parent, output in (("AGENT", None, value), ("TOOL", "AAAAAAAAAAE=", "found")):
        attributes = {"mlflow.spanOutputs": output, "mlflow.spanType": kind, "mlflow.spanInputs": {"q": name}}
        span = {
            "span_id": "AAAAAAAAAAE=" if parent is None else "AAAAAAAAAAI=",
            "parent_span_id": parent,
            "name": kind.lower(),
            "start_time_unix_nano": 1_750_000_000_000_000_000,
            "status": {"code": "STATUS_CODE_OK", "message": ""},
            "attributes": {key: json.dumps(text) for key, text in attributes.items()},
        }
        trace.spans.append(json.dumps(span))
    told = {"assessment_id": f"a-{name}", "assessment_name": "right", "valid": True}
    trace.assessments = [assessment("expectation", value, None, told, created_ms=5, updated_ms=5)]
    return trace


def test_values_are_those_that_were_recorded(spark: SparkSession, settings: Settings) -> None:
    """A text that looks like a number or an object stays a text, in outputs, expectations and spans."""
    folder = Path(settings.traces_path)
    table = DeltalakeTable(IMPORTED_TRACES, Location.of_path(str(folder)), folder)
    rows = [row_of(recorded(name, value), Experiment("0", "e", 0)) for name, value in VALUES.items()]
    table.append([row for row in rows if row is not None])
    configure(settings)

    def seen(outputs: Any, expectations: Any, trace: Any) -> str:
        tools = [span.outputs for span in trace.search_spans(span_type="TOOL")]
        return json.dumps([outputs, expectations.get("right"), trace.outputs, tools])

    given: Any = [OfMlflow(seen), BackfillScorerConfig(scorer=OfMlflow(seen, name="half"), sample_rate=0.5)]
    backfill_scorers(scorers=given, filter_string="span.type = 'TOOL'")

    said = {row["trace_id"]: json.loads(row["value_string"]) for row in read_assessments(scorers="seen").collect()}
    assert {name: [value, value, value, ["found"]] for name, value in VALUES.items()} == said
    assert [("half", 1), ("seen", 1)] == [(one.name, one.scorer_version) for one in list_scorers()]
    spans = {row["trace_id"]: [s["span_type"] for s in row["spans"]] for row in read_traces().collect()}
    assert {key: ["AGENT", "TOOL"] for key in VALUES} == spans
