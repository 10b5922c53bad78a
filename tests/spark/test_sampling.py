"""Sampling in Spark against an independent xxhash."""

import math
import struct
from collections.abc import Sequence

import pytest
import xxhash
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from backfill_spark.selection.sampling import draw, draw_hash, in_slice, selected

IDS = [f"tr-{i:05d}" for i in range(4000)]
SEEDS = (0, 7, -1, 2**63 - 1, -(2**63))


def independent_hash(trace_id: str, seed: int) -> int:
    first = xxhash.xxh64_intdigest(trace_id.encode(), seed=42)
    both = xxhash.xxh64_intdigest(struct.pack("<q", seed), seed=first)
    return both - 2**64 if both >= 2**63 else both


def frame_of(spark: SparkSession, ids: Sequence[str | None]) -> DataFrame:
    return spark.createDataFrame([(i,) for i in ids], "trace_id string")


def chosen(frame: DataFrame, rate: float, seed: int = 0) -> set[str]:
    return {row[0] for row in frame.where(selected(rate, seed)).collect()}


def test_the_vector_of_the_contract(spark: SparkSession) -> None:
    """`tr-1` with seed 0 has the hash and draw that the design states."""
    row = frame_of(spark, ["tr-1"]).select(draw_hash(0), draw(0)).collect()[0]
    assert (-7592101992952021828, pytest.approx(0.08843, abs=1e-5)) == tuple(row)


def test_hash_and_draw_equal_an_independent_implementation(spark: SparkSession) -> None:
    """Every id, text or empty, under ordinary and extreme seeds; the draw to its last bit."""
    ids = [*IDS[:200], "", "é", "日本語 trace", "a\x00b", "😀" * 20, "x" * 1000]
    frame = frame_of(spark, ids)
    columns = [c for s in SEEDS for c in (draw_hash(s), draw(s))]
    for row in frame.select("trace_id", *columns).collect():
        hashes = [independent_hash(row[0], s) for s in SEEDS]
        expected = [v for h in hashes for v in (h, min((h + 2**63) / 2**64, math.nextafter(1, 0)))]
        assert expected == list(row)[1:]


@hypothesis_settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rates=st.tuples(st.floats(0, 1), st.floats(0, 1)), seed=st.integers(-(2**63), 2**63 - 1))
def test_rates_are_nested(spark: SparkSession, rates: tuple[float, float], seed: int) -> None:
    """A higher rate adds traces, and the slice between two rates is exactly what it adds."""
    low, high = sorted(rates)
    flags = frame_of(spark, IDS[:500]).select(selected(low, seed), selected(high, seed), in_slice(low, high, seed))
    for in_low, in_high, between in flags.collect():
        assert (in_high or not in_low, in_high and not in_low) == (True, between)


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.3, 0.6, 1 - 2**-53, 1.0])
def test_the_selected_set_is_that_of_the_integer_rule(spark: SparkSession, rate: float) -> None:
    """The sample equals the one computed with integers outside Spark."""
    whole, over = rate.as_integer_ratio()
    expected = {i for i in IDS if (independent_hash(i, 0) + 2**63) * over < whole * 2**64}
    assert expected == chosen(frame_of(spark, IDS), rate)


def test_partitioning_and_order_change_nothing(spark: SparkSession) -> None:
    """Shuffled and split otherwise, the same traces are chosen."""
    frame = frame_of(spark, IDS)
    expected = chosen(frame, 0.25)
    assert expected == chosen(frame.orderBy(F.rand(1)).repartition(7), 0.25)
    assert 900 < len(expected) < 1100


def test_traces_without_an_id_are_never_selected(spark: SparkSession) -> None:
    """A NULL id has no draw and is in no sample, and the flag is false rather than NULL."""
    row = frame_of(spark, [None]).select(draw_hash(0), draw(0), selected(1, 0), selected(0.5, 0), selected(0, 0))
    assert list(row.collect()[0]) == [None, None, False, False, False]


def test_a_seed_beyond_64_bits_is_refused(spark: SparkSession) -> None:
    """No seed is cut to fit."""
    with pytest.raises(ValueError, match="64-bit"):
        draw_hash(2**63)
