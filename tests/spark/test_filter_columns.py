"""Filters in Spark against MLflow's own answers (shared/filter_cases.json) and Python's `re`."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from backfill_spark.errors import FilterError
from backfill_spark.traces.filters import compile_filter
from backfill_spark.traces.filters.regex import to_java

SCHEMA = (
    "trace_id string, request_time timestamp, execution_duration_ms bigint, state string, client_request_id string, "
    "session_id string, tags map<string,string>, trace_metadata map<string,string>"
)
COLUMNS = frozenset(column.split(" ")[0] for column in SCHEMA.split(", "))
NEEDS_LINKS = "c220"  # `run_id =` finds traces that MLflow linked to a run: not part of a trace


def matches(frame: DataFrame, conditions: Mapping[str, Column]) -> dict[str, set[str]]:
    """Return the trace ids where each condition is true, read in one pass; a NULL fails the test."""
    flags = [F.when(c.isNull(), "null").when(c, "yes").otherwise("no").alias(name) for name, c in conditions.items()]
    rows = frame.select("trace_id", *flags).collect()
    assert "null" not in {value for row in rows for value in row[1:]}
    return {name: {row["trace_id"] for row in rows if row[name] == "yes"} for name in conditions}


def frame_of(spark: SparkSession, traces: Sequence[Mapping[str, Any]]) -> DataFrame:
    fields = [column.split(" ")[0] for column in SCHEMA.split(", ")]
    return spark.createDataFrame([tuple(trace.get(field) for field in fields) for trace in traces], SCHEMA)


def columns_of(texts: Sequence[str], columns: frozenset[str] = COLUMNS) -> dict[str, Column]:
    return {text: compile_filter(text).column(columns) for text in texts}


def test_answers_are_mlflows(spark: SparkSession, shared: Path) -> None:
    """Every case that the grammar takes selects the traces that MLflow selected."""
    data = json.loads((shared / "filter_cases.json").read_text(encoding="utf-8"))
    traces = [t["info"] | {"request_time": datetime.fromisoformat(t["info"]["request_time"])} for t in data["traces"]]
    conditions, expected = {}, {}
    for case in data["cases"]:
        if case["outcome"] == "match" and case["id"] != NEEDS_LINKS:
            try:
                conditions[case["id"]] = compile_filter(case["filter_string"]).column(COLUMNS)
            except FilterError:
                continue
            expected[case["id"]] = set(case["expected_trace_ids"])
    assert len(expected) == 189
    assert expected == matches(frame_of(spark, traces), conditions)


BASE = datetime(2025, 10, 9, tzinfo=UTC)
MS = int(BASE.timestamp()) * 1000
TRACES = (
    {"trace_id": "a", "request_time": BASE, "execution_duration_ms": 100, "state": "OK", "tags": {"k": "a\\b%_"}},
    {
        "trace_id": "b",
        "request_time": BASE + timedelta(microseconds=999),
        "tags": {"k": None, "Ä": "ÄÖ"},
        "state": "ok",
    },
    {"trace_id": "c", "request_time": BASE + timedelta(milliseconds=1), "execution_duration_ms": 0, "session_id": "s1"},
    {"trace_id": "d", "trace_metadata": {"mlflow.trace.session": "s2"}, "session_id": "s1", "tags": {"k": "x\ny"}},
)
ANSWERS = {
    f"timestamp = {MS}": "ab",
    f"timestamp > {MS}": "c",
    f"trace.timestamp >= {MS}.5": "c",
    f"trace.timestamp < {MS}.5": "ab",
    f"trace.timestamp = {MS}.5": "",
    f"trace.timestamp != {MS}.5": "abc",
    f"trace.timestamp != '{MS}'": "c",
    "trace.timestamp < 1e999": "abc",
    "trace.timestamp > -1e999": "abc",
    "trace.timestamp > 1e30": "",
    "trace.timestamp < 'next week'": "abc",
    "trace.timestamp > 'last week'": "",
    f"end_time = {MS + 100}": "a",
    f"end_time <= {MS + 1}": "bc",
    "execution_time >= 0": "ac",
    "execution_time != 0.0": "a",
    "execution_time >= '1e2'": "a",
    "status = 'OK'": "ab",
    "status = 'ok'": "",
    "status != 'ERROR'": "ab",
    "client_request_id != 'x'": "",
    "client_request_id NOT IN ('x')": "",
    "request_id IN ('a', 'd')": "ad",
    "tags.k IS NULL": "bc",
    "tags.k != 'x'": "ad",
    "tags.k LIKE 'a\\b%'": "a",
    "tags.k LIKE 'x_y'": "d",
    "tags.k LIKE '%\\%\\%\\%'": "",
    "tags.k LIKE '%a%b%_%'": "a",
    "tags.k LIKE '%%%y%'": "d",
    "tags.k LIKE '%y%x%%'": "",
    "tags.k ILIKE '%A\\B%'": "a",
    "tags.`Ä` ILIKE 'äö'": "b",
    "metadata.`mlflow.trace.session` = 's1'": "c",
    "metadata.`mlflow.trace.session` = 's2'": "d",
    "run_id IS NULL": "abcd",
    "name IS NOT NULL": "",
}


def test_edges_of_times_nulls_and_wildcards(spark: SparkSession) -> None:
    """Times are compared in whole milliseconds, NULL never matches, nothing escapes a wildcard."""
    expected = {text: set(ids) for text, ids in ANSWERS.items()}
    assert expected == matches(frame_of(spark, TRACES), columns_of(list(ANSWERS)))


@pytest.mark.parametrize("present", [frozenset(), frozenset({"request_time"})])
def test_an_absent_column_matches_only_is_null(spark: SparkSession, present: frozenset[str]) -> None:
    """A source without tags has traces without tags; no comparison on them holds, and none fails."""
    on_times = ("timestamp", "trace.timestamp", "end_", "request_")
    expected: dict[str, set[str]] = {text: set() for text in ANSWERS if not text.startswith(on_times)}
    expected |= {"tags.k IS NULL": set("abcd"), "run_id IS NULL": set("abcd")}
    frame = frame_of(spark, TRACES).select("trace_id", "request_time")
    assert expected == matches(frame, columns_of(list(expected), present))


def test_a_long_pattern_with_many_wildcards_ends_soon(spark: SparkSession) -> None:
    """Ten wildcards over 20,000 characters that almost match: no way is tried twice."""
    frame = frame_of(spark, [{"trace_id": "a", "tags": {"k": "ab" * 10_000}}])
    pattern = "%" + "a%b%" * 5 + "c"
    assert {pattern: set()} == matches(frame, {pattern: compile_filter(f"tags.k LIKE '{pattern}'").column(COLUMNS)})


# fmt: off
PATTERNS = [
    "a", "^a$", "a.c", "(?s)a.c", "(?i)ÄÖ", "(?m)^b", "[a&&b]", "[[a]", "[]a]", "[^]a]", "[a-]", "[\\w-]+$",
    "\\d+$", "^\\w+$", "\\s", "^\\S+$", "\\W", "[^\\W\\d]", "a{,2}c", "a{2}", "a{", "{a}", "a{1,x}", "x{2,3}?$",
    "\\Aa", "c\\Z", "\\bb\\b", "(?P<n>a)(?:b|c)", "^(?!a)", "(?<=a)b", "(?<!a)b", "\\x61", "\\u00e4", "\\141",
    "[\\b]", "\\.", "\\-", "#", " ", "^(OK|ERROR)$", "^(\\d{1,3}\\.){3}\\d{1,3}$", "(?i:A)b", "[a-c]+d", "a$",
    ".$", "^$", "|", "a|", "\\t", "&&", "[\\]]", "[\\\\]", "[^a]", "[a^]", "[.]", "a?b", "(a)(b)?", "~", "\\/",
    "é", "🙂", "[🙂]", ".🙂", "[\\s]", "[^\\s]",
]
TEXTS = [
    "", "a", "b", "ab", "abc", "aac", "a\nc", "a\rc", "a\u2028c", "a\n", "a\r\n", "b\na", "äö", "ÄÖ", "&", "[",
    "]", "-", "٣", "12", "1.2.3.4", "x.y", "OK", "xx", "xxx", "a{", "{a}", "a{1,x}", "日本語", "é b", "a b",
    "\x1c", "\t", "\b", "\\", "^", "~", "/", "#", "🙂", "x🙂", "abcd", "Ab", "a\u0301", "_", "a1", "\xa0",
]
# fmt: on


def test_patterns_mean_in_java_what_they_mean_in_python(spark: SparkSession) -> None:
    """A pattern finds the same texts in Spark as `re.search` does in MLflow."""
    frame = frame_of(spark, [{"trace_id": text, "tags": {"k": text}} for text in TEXTS])
    written = {pattern: to_java(pattern) for pattern in PATTERNS}
    expected, conditions = {}, {}
    for pattern, java in written.items():
        if java is not None:
            expected[pattern] = {text for text in TEXTS if re.search(pattern, text)}
            conditions[pattern] = F.coalesce(F.try_element_at("tags", F.lit("k")).rlike(java), F.lit(False))
    assert len(PATTERNS) == len(expected)
    assert expected == matches(frame, conditions)


def test_a_repeat_over_a_long_text_does_not_overflow_the_stack(spark: SparkSession) -> None:
    """Java repeats by recursion where it cannot tell how long a group is; no pattern that is let through does."""
    texts = {"ab" * 50_000: "a", "ab" * 50_000 + "c": "b"}
    frame = frame_of(spark, [{"trace_id": name, "tags": {"k": text}} for text, name in texts.items()])
    patterns = [
        "^(ab)*$",
        "^(?:a[bc])+$",
        "^.*b$",
        "^[ab]+?$",
        "^(?:(?=a)ab)*$",
        "^(?:(?:a)b)*?$",
        "^(?:a\\w)*$",
        "^(?:ab){1,}$",
    ]
    conditions = {p: compile_filter(f"tags.k RLIKE '{p}'").column(COLUMNS) for p in patterns}
    assert {p: {"a"} for p in patterns} == matches(frame, conditions)
