"""The frame that is staged calls each due pair once, and both kinds of UDF give the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import functions as F

from backfill_spark import schema
from backfill_spark.errors import SettingsError
from backfill_spark.models import ScorerKind, ScorerSpec
from backfill_spark.scorers.stored_code.pickling import dump
from backfill_spark.scoring.spark import columns_needed, score
from tests.factories import Ledger, a_span, an_expectation, some_traces, traces_frame

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

KINDS = ["pandas", "arrow"]
EVERYTHING = frozenset(schema.TRACES.names)
# Times and ids of a call are the only things in which two passes may differ.
VARYING = {"latency_ms"}


def a_spec(name: Any, function: Any, **fields: Any) -> Any:
    code = function.__code__
    signature = code.co_varnames[: code.co_argcount]
    made = dump(function)
    return ScorerSpec(name, 1, made.digest, ScorerKind.FUNCTION, {}, made.definition, signature, 1.0, **fields)


def results(
    frame: Any,
    specs: Any,
    *,
    udf: str = "pandas",
    available: Any = EVERYTHING,
    trace_mb: float = 16,
    payload: str = "auto",
) -> Any:
    column = score(specs, available, udf=udf, payload=payload, trace_mb=trace_mb, timeout_s=60)
    rows = frame.select("trace_id", column.alias("results")).collect()
    return {
        row.trace_id: [
            dict(zip(schema.RESULTS.names, values, strict=True)) for values in zip(*row.results, strict=True)
        ]
        for row in rows
    }


def without_times(found: Any) -> Any:
    return {key: [{k: v for k, v in row.items() if k not in VARYING} for row in rows] for key, rows in found.items()}


def noting(path: Any, name: Any) -> Any:
    """Return a scorer that notes each of its calls in the ledger."""

    def note(trace: Any) -> Any:
        # By value into the workers: nothing of this module is there.
        import os

        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, f"{name} {trace.info.trace_id}\n".encode())
        os.close(handle)
        return len(trace.data.response)

    return note


@pytest.mark.parametrize("udf", KINDS)
def test_each_due_pair_is_called_exactly_once_when_the_frame_is_written(
    spark: SparkSession, ledger: Ledger, tmp_path: Path, udf: Any
) -> None:
    """Staging the frame as it is calls every due pair once, and no pair that is not due."""
    specs = [a_spec(name, noting(ledger.path, name)) for name in ("a", "b", "c")]
    due = {f"tr-{n}": n % 8 for n in range(40)}
    frame = traces_frame(spark, some_traces(40)).repartition(3)
    frame = frame.withColumn("due", (F.substring("trace_id", 4, 9).cast("long") % 8))
    column = score(specs, EVERYTHING, udf=udf, payload="auto", trace_mb=16, timeout_s=60)
    staged = frame.select("trace_id", F.lit("j").alias("job_id"), column.alias("results"))

    staged.write.format("delta").save(str(tmp_path / "staging"))

    expected = [f"{name} {key}" for key, mask in due.items() for bit, name in enumerate("abc") if mask >> bit & 1]
    assert sorted(expected) == sorted(ledger.lines())
    read = spark.read.format("delta").load(str(tmp_path / "staging"))
    rows = read.select("trace_id", F.inline(F.arrays_zip(*[f"results.{name}" for name in schema.RESULTS.names])))
    assert rows.count() == len(expected)
    assert [field.dataType for field in read.schema if field.name == "results"] == [schema.RESULTS]


def test_both_kinds_give_the_same(spark: SparkSession) -> None:
    """Values, digests and errors of scorers on every parameter are equal under pandas_udf and arrow_udf."""

    def on_outputs(outputs: Any) -> Any:
        return len(outputs)

    def on_both(inputs: Any, outputs: Any) -> str:
        return f"{inputs}|{outputs}"

    def on_expectations(expectations: Any) -> Any:
        return repr(expectations)

    def on_trace(trace: Any) -> Any:
        tools = trace.search_spans(span_type="TOOL")
        info = trace.info
        return repr(
            [
                info.request_time,
                info.execution_duration,
                info.state.value,
                info.tags,
                len(tools),
                tools and tools[0].inputs,
            ]
        )

    def fails(outputs: Any) -> None:
        raise ValueError("no")

    specs = [a_spec(f.__name__, f) for f in (on_outputs, on_both, on_expectations, on_trace, fails)]
    tool = a_span(span_id="2", parent_id="s-1", span_type="TOOL", inputs='{"q": "ü"}')
    rows = some_traces(
        6,
        spans=lambda n: [a_span(), tool] if n % 2 else None,
        assessments=lambda n: [an_expectation("right", "18")] if n else None,
        tags=lambda n: {"k": f'"{n}"\n'} if n else None,
        execution_duration_ms=lambda n: n or None,
    )
    frame = traces_frame(spark, rows).withColumn("due", F.lit(31))

    by_kind = [without_times(results(frame, specs, udf=udf)) for udf in KINDS]

    assert by_kind[0] == by_kind[1]
    first = [row["value_string"] or row["value"] or row["error_code"] for row in by_kind[0]["tr-1"]]
    assert first == [
        str(len("answer 1 x")),
        "Where is my parcel?|answer 1 x",
        "{'right': '18'}",
        "[1718452800000, 1, 'OK', {'k': '\"1\"\\n'}, 1, {'q': 'ü'}]",
        "scorer_error",
    ]
    assert by_kind[0]["tr-0"][2]["value_string"] == "{}"
    assert by_kind[0]["tr-0"][3]["value_string"] == "[1718452800000, None, 'OK', {}, 0, []]"


@pytest.mark.parametrize("udf", KINDS)
def test_the_odd_returns_corpus(spark: SparkSession, shared: Path, udf: Any) -> None:
    """Every odd return becomes its own row with a value, nothing, or a code, beside healthy traces."""
    expressions = json.loads((shared / "corpora" / "odd_returns.json").read_text())["returns"]
    rows = some_traces(len(expressions) * 2, response=lambda n: expressions[n // 2] if n % 2 else f"healthy {n}")

    def obeys(outputs: Any) -> Any:
        return 7 if outputs.startswith("healthy") else eval(outputs)

    frame = traces_frame(spark, rows).withColumn("due", F.lit(1))
    found = results(frame, [a_spec("obeys", obeys)], udf=udf, payload="text")
    odd = [row for n, row in enumerate(found.values()) if n % 2]
    outcomes = [row["error_code"] or ("scored" if row["value"] is not None else "empty") for (row,) in odd]

    assert [[row["value"] for row in found[f"tr-{n}"]] for n in range(0, len(rows), 2)] == [["7"]] * len(expressions)
    assert {code: outcomes.count(code) for code in set(outcomes)} == {
        "scored": 19,
        "empty": 2,
        "value_not_finite": 4,
        "value_out_of_range": 1,
        "value_too_long": 1,
        "bad_return_type": 24,
    }


@pytest.mark.parametrize("udf", KINDS)
def test_a_trace_above_the_limit_costs_only_the_scorers_that_need_its_size(spark: SparkSession, udf: Any) -> None:
    """A large request stops a scorer on inputs, not one on outputs in the same job."""

    def on_inputs(inputs: Any) -> Any:
        return len(inputs)

    def on_outputs(outputs: Any) -> Any:
        return len(outputs)

    rows = some_traces(2, request=lambda n: "x" * (2_000 if n else 10))
    frame = traces_frame(spark, rows).withColumn("due", F.lit(3))
    found = results(frame, [a_spec("i", on_inputs), a_spec("o", on_outputs)], udf=udf, trace_mb=0.001)

    assert [row["error_code"] for row in found["tr-0"]] == [None, None]
    assert [row["error_code"] for row in found["tr-1"]] == ["trace_too_large", None]
    assert found["tr-1"][1]["value"] == "10"


@pytest.mark.parametrize("udf", KINDS)
def test_spans_may_be_json_texts_and_absent_columns_are_none(spark: SparkSession, udf: Any) -> None:
    """A source whose spans are a STRING works as one with structs; a broken text is `trace_unreadable`."""

    def tools(trace: Any) -> Any:
        return len(trace.search_spans(span_type="TOOL"))

    spans = json.dumps([{"span_id": "1", "span_type": "TOOL", "name": 'a "b"\\'}])
    frame = spark.createDataFrame(
        [("tr-0", spans, 1), ("tr-1", None, 1), ("tr-2", "{", 1), ("tr-3", spans, None)],
        "trace_id STRING, spans STRING, due BIGINT",
    )
    found = results(frame, [a_spec("tools", tools)], udf=udf, available=frozenset({"trace_id", "spans"}))

    assert [row["value"] or row["error_code"] for key in sorted(found) for row in found[key]] == [
        "1",
        "0",
        "trace_unreadable",
    ]
    assert found["tr-3"] == []


@pytest.mark.parametrize("udf", KINDS)
def test_a_scorer_without_parameters_and_one_that_cannot_load(spark: SparkSession, udf: Any) -> None:
    """No column is read for the first; the second costs its own pairs."""

    def constant() -> int:
        return 1

    broken = ScorerSpec("broken", 2, "d", ScorerKind.FUNCTION, {}, "bm8=", ("outputs",), 1.0)
    frame = traces_frame(spark, some_traces(2)).withColumn("due", F.lit(3))

    alone = results(frame, [a_spec("constant", constant)], udf=udf)
    both = results(frame, [a_spec("constant", constant), broken], udf=udf)

    assert [[row["value"] for row in rows] for rows in alone.values()] == [["1"], ["1"]]
    assert [[row["error_code"] for row in rows] for rows in both.values()] == [[None, "load_failed"]] * 2


def test_only_the_needed_columns_are_read(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A scorer on outputs never makes Spark read spans."""

    def on_outputs(outputs: Any) -> int:
        return 1

    spec = a_spec("o", on_outputs)
    assert columns_needed([spec], EVERYTHING) == {"response"}
    traces_frame(spark, some_traces(2)).write.parquet(str(tmp_path / "t"))
    frame = spark.read.parquet(str(tmp_path / "t")).withColumn("due", F.lit(1))
    column = score([spec], EVERYTHING, udf="pandas", payload="auto", trace_mb=16, timeout_s=60)
    frame.select("trace_id", column.alias("results")).explain()

    assert "ReadSchema: struct<trace_id:string,response:string>" in capsys.readouterr().out


def test_a_chunk_has_1_to_64_scorers_and_a_known_kind(spark: SparkSession) -> None:
    """Wrong use is refused before any plan is made."""
    spec = a_spec("a", lambda outputs: 1)
    settings: dict[str, Any] = {"payload": "auto", "trace_mb": 16, "timeout_s": 60}

    for count in (0, 65):
        with pytest.raises(ValueError, match="1 to 64"):
            score([spec] * count, EVERYTHING, udf="pandas", **settings)
    with pytest.raises(SettingsError, match="pandas or arrow"):
        score([spec], EVERYTHING, udf="plain", **settings)


@pytest.mark.parametrize("udf", KINDS)
def test_sixty_four_scorers_share_one_column(spark: SparkSession, udf: Any) -> None:
    """Bit 63 is the sign of the mask; one Python node carries all."""

    def answer(outputs: Any) -> int:
        return 1

    frame = traces_frame(spark, some_traces(1)).withColumn("due", F.lit(-1).cast("long"))
    found = results(frame, [a_spec(f"s{n}", answer) for n in range(64)], udf=udf)

    assert [row["scorer_name"] for row in found["tr-0"]] == [f"s{n}" for n in range(64)]
