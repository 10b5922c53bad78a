"""Real conversations in each shape whose rows are spans: the scorers say what they say of the records.

The same conversations and scorers as in test_row_shapes.py.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backfill_spark import backfill_scorers, configure, read_assessments
from backfill_spark.traces.sources import open_source
from tests.shape_writers import WRITERS, Conversation, conversations
from tests.spark.test_row_shapes import answered, asked, seen, tools

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings

OPEN_TELEMETRY = ("otlp_json", "clickhouse_otel", "databricks_otel_v1", "databricks_otel_v2")
"""Shapes in which a root without texts has those of its models: docs/span-shapes.md."""


def texts_of(one: Conversation, *, by_models: bool) -> tuple[str | None, str | None]:
    """Return inputs and outputs of a trace as the records have them."""
    given, gave = one.root["inputs"], one.root["outputs"]
    if not by_models or given is not None or gave is not None:
        return given, gave
    models = [s for s in one.spans if s["span_type"] in ("LLM", "CHAT_MODEL", "AGENT")]
    order = {s["span_id"]: (s["start_time_ns"], -s["end_time_ns"], s["span_id"]) for s in models}
    first = sorted((order[s["span_id"]], 0, s["inputs"]) for s in models if s["inputs"] is not None)
    last = sorted((s["end_time_ns"], s["span_id"], s["outputs"]) for s in models if s["outputs"] is not None)
    return first[0][2] if first else None, last[-1][2] if last else None


def whole(text: str) -> int | float:
    """Return a number as VARIANT keeps it: 1.0 is 1."""
    return int(float(text)) if float(text).is_integer() else float(text)


def expected(found: list[Conversation], *, by_models: bool, in_variant: bool = False) -> dict[tuple[str, str], Any]:
    """Return what the scorers say, without the package."""

    def digest(text: str | None) -> int:
        try:
            value = (
                json.loads(text, parse_float=whole if in_variant else float)
                if text is not None and text.lstrip()[:1] in ("{", "[")
                else text
            )
        except ValueError:
            value = text
        return zlib.crc32(json.dumps(value, sort_keys=True).encode())

    values: dict[tuple[str, str], Any] = {}
    for one in found:
        given, gave = texts_of(one, by_models=by_models)
        count = sum(s["span_type"] == "TOOL" for s in one.spans)
        values[one.trace_id, "asked"] = digest(given)
        values[one.trace_id, "answered"] = digest(gave)
        values[one.trace_id, "tools"] = f"{count} of {len(one.spans)}"
    return {key: json.dumps(value) for key, value in values.items()}


@pytest.mark.parametrize("name", WRITERS)
def test_conversations_score_the_same_in_each_shape(
    spark: SparkSession, settings: Settings, shared: Path, tmp_path: Path, name: str
) -> None:
    """145 agent runs of three sources and eleven frameworks."""
    real, shape = conversations(shared), name.split(",", maxsplit=1)[0]
    assert len(real) == 145
    source = open_source(spark, settings, WRITERS[name](spark, real, tmp_path / "written"))
    assert source.shape == shape
    want = expected(real, by_models=shape in OPEN_TELEMETRY, in_variant=shape == "databricks_otel_v2")
    found = seen(source)
    assert {key: (want.get(key), value) for key, value in found.items() if want.get(key) != value} == {}
    assert want.keys() == found.keys()


def test_a_job_scores_them_the_same(spark: SparkSession, settings: Settings, shared: Path, tmp_path: Path) -> None:
    """Named by its path, which is all that a call needs."""
    real = conversations(shared)[-30:]
    path = WRITERS["databricks_otel_v2"](spark, real, tmp_path / "written")
    configure(settings)
    for one in (asked, answered, tools):
        one.register().start()
    job_id = backfill_scorers(scorers=["asked", "answered", "tools"], traces=path)
    rows = read_assessments(job_id=job_id).collect()
    assert {(r["trace_id"], r["scorer_name"]): r["value"] for r in rows} == expected(
        real, by_models=True, in_variant=True
    )


def test_only_bare_roots_differ_between_shapes(shared: Path) -> None:
    """Five frameworks, whose root observation has neither inputs nor outputs: the table in docs/span-shapes.md."""
    real = conversations(shared)
    differ = [one for one in real if texts_of(one, by_models=True) != texts_of(one, by_models=False)]
    assert len(differ) == 5
    assert all((one.root["inputs"], one.root["outputs"]) == (None, None) for one in differ)
