"""The main job on real input: GSM8K solutions with a code scorer that is an exact oracle."""

from __future__ import annotations

import gzip
import json
import struct
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import xxhash

from backfill_spark import (
    BackfillScorerConfig,
    ScorerSamplingConfig,
    backfill_scorers,
    get_backfill,
    read_assessments,
    scorer,
)
from tests.factories import Ledger, a_trace, an_expectation, traces_frame

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings


def gsm8k(shared: Path) -> list[dict[str, Any]]:
    """Return the records of the data file."""
    with gzip.open(shared / "data" / "gsm8k_model_solutions.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def as_traces(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one trace a record, a minute apart over two months; the id is the record's own."""
    start = datetime(2024, 5, 1, tzinfo=UTC)
    return [
        a_trace(
            trace_id=r["id"],
            request_time=start + timedelta(minutes=27 * i),
            request=r["request"],
            response=r["response"],
            spans=[],
            assessments=[an_expectation("expected_response", r["expectations"]["expected_response"])],
        )
        for i, r in enumerate(records)
    ]


def selected_ids(ids: list[str], rate: float, seed: int = 0) -> set[str]:
    """Return what the integer rule selects, by an implementation of xxhash that is not Spark's."""
    if rate == 1:
        return set(ids)
    limit = -(2**63) + Fraction(rate) * 2**64
    chosen = set()
    for i in ids:
        first = xxhash.xxh64_intdigest(i.encode(), seed=42)
        h = xxhash.xxh64_intdigest(struct.pack("<q", seed), seed=first)
        if (h - 2**64 if h >= 2**63 else h) < limit:
            chosen.add(i)
    return chosen


def oracle(path: str) -> Any:
    """Return the scorer: the last number after `A:` equals the reference. It notes its calls."""

    @scorer(name="answer_is_right")
    def answer_is_right(outputs: Any, expectations: Any, trace: Any) -> Any:
        import os
        import re

        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, f"{trace.info.trace_id}\n".encode())
        os.close(handle)
        _, found, answer = outputs.rpartition("A:")
        numbers = re.findall(r"-?[\d,]*\.?\d+", answer if found else "")
        expected = expectations["expected_response"].replace(",", "")
        return bool(numbers) and numbers[-1].replace(",", "") == expected

    return answer_is_right


@pytest.fixture
def prepared(
    spark: SparkSession, settings: Settings, shared: Path, ledger: Ledger
) -> tuple[Settings, list[dict[str, Any]]]:
    """Traces on Delta, and the registered and started oracle."""
    import backfill_spark

    records = gsm8k(shared)
    traces_frame(spark, as_traces(records), partitions=3).write.format("delta").save(settings.traces_path)
    backfill_spark.configure(settings)
    registered = oracle(ledger.path).register()
    registered.start(sampling_config=ScorerSamplingConfig(sample_rate=1.0))
    return settings, records


def test_a_full_pass_equals_the_labels(prepared: tuple[Settings, list[dict[str, Any]]], ledger: Ledger) -> None:
    """3,249 traces: 1,264 true, and each row says what `is_correct` says."""
    _, records = prepared
    job_id = backfill_scorers(scorers=["answer_is_right"])
    rows = read_assessments(scorers=["answer_is_right"]).select("trace_id", "value", "value_double").collect()
    values = {r["trace_id"]: r["value"] for r in rows}

    assert {r["id"]: str(r["labels"]["is_correct"]).lower() for r in records} == values
    assert sum(r["value_double"] for r in rows) == 1264
    assert len(ledger.lines()) == len(set(ledger.lines())) == 3249

    summary = get_backfill(job_id).summary().to_dict("records")[0]
    assert round(summary["mean"], 4) == 0.3890
    assert summary["ci_low"] == summary["ci_high"] == summary["mean"]


def test_raising_a_rate_pays_for_the_difference_only(
    prepared: tuple[Settings, list[dict[str, Any]]], ledger: Ledger
) -> None:
    """0.3, 0.6, 0.6 again, 1.0: the integer rule's traces; calls are the first set, the rest, none, the rest."""
    _, records = prepared
    ids = [r["id"] for r in records]
    seen: set[str] = set()
    for rate in (0.3, 0.6, 0.6, 1.0):
        ledger.clear()
        expected = selected_ids(ids, rate)
        job_id = backfill_scorers(scorers=[BackfillScorerConfig(scorer="answer_is_right", sample_rate=rate)])

        assert sorted(expected - seen) == sorted(ledger.lines())
        counts = get_backfill(job_id).counts["answer_is_right"]
        assert (len(expected - seen), len(expected & seen)) == (counts.due, counts.already_scored)
        assert len(expected - seen) == counts.calls == counts.scored
        assert len(ids) - len(expected) == counts.sampled_out
        seen |= expected
        stored = {r[0] for r in read_assessments().select("trace_id").collect()}
        assert seen == stored
        if rate == 0.6:
            n = get_backfill(job_id).summary().to_dict("records")[0]["n"]
            assert len(expected) == n


@pytest.mark.parametrize("udf", ["pandas", "arrow"])
def test_layout_carrier_and_companions_change_nothing(
    spark: SparkSession, settings: Settings, shared: Path, ledger: Ledger, udf: str
) -> None:
    """Shuffled, re-partitioned, as Parquet, with another scorer beside: the same traces and values."""
    import random

    import backfill_spark

    records = gsm8k(shared)[:600]
    traces = as_traces(records)
    random.Random(7).shuffle(traces)
    layout = "parquet" if udf == "arrow" else "delta"
    traces_frame(spark, traces).repartition(7).write.format(layout).save(settings.traces_path)
    # Tasks that write files use no UDF.
    scoring = settings.scoring.model_copy(update={"udf": udf, "writer": "spark"})
    made = settings.model_copy(update={"scoring": scoring})
    backfill_spark.configure(made)
    oracle(ledger.path).register().start()

    @scorer
    def length(outputs: Any) -> Any:
        return len(outputs)

    length.register().start(sampling_config=ScorerSamplingConfig(sample_rate=0.25))
    backfill_scorers(
        scorers=[
            BackfillScorerConfig(scorer="answer_is_right", sample_rate=0.4),
            BackfillScorerConfig(scorer="length"),
        ]
    )

    ids = [r["id"] for r in records]
    by_id = {r["id"]: r for r in records}
    rows = read_assessments().select("trace_id", "scorer_name", "value").collect()
    right = {r["trace_id"]: r["value"] for r in rows if r["scorer_name"] == "answer_is_right"}
    lengths = {r["trace_id"]: r["value"] for r in rows if r["scorer_name"] == "length"}
    assert {i: str(by_id[i]["labels"]["is_correct"]).lower() for i in selected_ids(ids, 0.4)} == right
    assert {i: str(len(by_id[i]["response"])) for i in selected_ids(ids, 0.25)} == lengths
    assert sorted(selected_ids(ids, 0.4)) == sorted(ledger.lines())
