"""Filters in Spark against MLflow's own answers (shared/filter_cases.json) and Python's `re`."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.filters import compile_filter
from backfill_spark.schema import TRACE_ASSESSMENT, TRACES
from backfill_spark.traces.filters.regex import to_java

SCHEMA = T.StructType([f for f in TRACES.fields if f.name not in ("spans", "assessments", "trace_date")])
ISSUE = T.StructField("issue", T.StructType([T.StructField("issue_name", T.StringType())]))
LISTS = T.StructType(
    [TRACES["spans"], T.StructField("assessments", T.ArrayType(T.StructType([*TRACE_ASSESSMENT.fields, ISSUE])))]
)
TEXTS_OF_LISTS = T.StructType([T.StructField(name, T.StringType()) for name in LISTS.fieldNames()])
DECIDED = {
    "c220": "",  # `run_id =` finds traces that MLflow linked to a run: not part of a trace
    "c227": "",  # as for the prompt
    "c228": "",
    "c252": "01",  # MLflow looks for the pattern behind the name of the attribute
    "c265": "01",
    "c306": "06",  # a number equals a number, however it is written
}
"""Cases with a flag whose answer is another one here; docs/filters.md says why."""


def matches(frame: DataFrame, conditions: Mapping[str, Column]) -> dict[str, set[str]]:
    """Return the trace ids where each condition is true, read in one pass; a NULL fails the test."""
    found: dict[str, set[str]] = {}
    for some in batched(conditions.items(), 40):
        rows = frame.select("trace_id", *(condition.alias(name) for name, condition in some)).collect()
        assert {True, False} >= {value for row in rows for value in row[1:]}
        found |= {name: {row["trace_id"] for row in rows if row[name]} for name, _ in some}
    return found


def batched(items: Iterable[tuple[str, Column]], size: int) -> Iterator[list[tuple[str, Column]]]:
    rest = list(items)
    while rest:
        yield rest[:size]
        rest = rest[size:]


def frame_of(spark: SparkSession, traces: Sequence[Mapping[str, Any]], lists: T.StructType | None = None) -> DataFrame:
    schema = T.StructType([*SCHEMA.fields, *(lists or T.StructType()).fields])
    return spark.createDataFrame([tuple(trace.get(f) for f in schema.fieldNames()) for trace in traces], schema)


def columns_of(texts: Sequence[str], schema: T.StructType = SCHEMA, dialect: str = "mlflow") -> dict[str, Column]:
    return {text: compile_filter(text, dialect).column(schema) for text in texts}


def as_texts(trace: dict[str, Any]) -> dict[str, Any]:
    """A recorded trace whose spans and assessments are MLflow's own JSON."""
    info: dict[str, Any] = trace["info"]
    lists = {"spans": json.dumps(trace["data"]["spans"]), "assessments": json.dumps(info.get("assessments", []))}
    return info | {"request_time": datetime.fromisoformat(info["request_time"])} | lists


def as_lists(trace: dict[str, Any], stored: Mapping[str, str]) -> dict[str, Any]:
    """The same in the canonical shape, values as MLflow stores them."""
    info: dict[str, Any] = trace["info"]
    spans = [
        {
            "name": span["name"],
            "span_type": json.loads(span["attributes"]["mlflow.spanType"]),
            "status_code": span["status"]["code"].removeprefix("STATUS_CODE_"),
            "attributes": span["attributes"],
        }
        for span in trace["data"]["spans"]
    ]
    assessments = []
    for one in info.get("assessments", []):
        valued = {name: one[name] for name in ("feedback", "expectation") if name in one}
        for holder in valued.values():
            if holder.get("value") is not None:
                holder["value"] = stored[one["assessment_id"]]
        names = ("assessment_name", "metadata", "issue")
        plain = {name: one[name] for name in names if name in one} | {"valid": str(one["valid"]).lower()}
        assessments.append(plain | valued)
    return as_texts(trace) | {"spans": spans, "assessments": assessments}


@pytest.mark.parametrize("lists", [LISTS, TEXTS_OF_LISTS], ids=["arrays", "json"])
def test_answers_are_mlflows(spark: SparkSession, shared: Path, lists: T.StructType) -> None:
    """Every case selects the traces that MLflow selected, but those of DECIDED, which have a flag."""
    data = json.loads((shared / "filter_cases.json").read_text(encoding="utf-8"))
    stored = data["stored_assessment_values"]
    rows = [as_lists(t, stored) if lists is LISTS else as_texts(t) for t in data["traces"]]
    frame = frame_of(spark, rows, lists)
    # 260 conditions on 28 rows: compiling them takes a minute.
    spark.conf.set("spark.sql.codegen.wholeStage", "false")
    spark.conf.set("spark.sql.codegen.factoryMode", "NO_CODEGEN")
    # Twice as long without these two: what conditions share is looked for, and the optimizer computes all rows.
    spark.conf.set("spark.sql.subexpressionElimination.enabled", "false")
    rule = "org.apache.spark.sql.catalyst.optimizer.ConvertToLocalRelation"
    spark.conf.set("spark.sql.optimizer.excludedRules", rule)
    conditions, expected, of_sessions, matching = {}, {}, {}, list[DataFrame]()
    for case in data["cases"]:
        if case["outcome"] == "error":
            continue
        found = compile_filter(case["filter_string"])
        if lists is LISTS or found.columns.intersection(LISTS.fieldNames()):
            expected[case["id"]] = set(case["expected_trace_ids"])
            conditions[case["id"]] = found.column(frame.schema)
            if case["id"] in DECIDED:
                assert {"quirk", "storage_dependent", "needs"}.intersection(case)
                ends = DECIDED[case["id"]]
                expected[case["id"]] = {f"tr-{ends:0>32}"} if ends else set()
            if case["id"] in ("c330", "c332"):  # an assessment of another trace of the session: not in the row
                del conditions[case["id"]]
                of_sessions[case["id"]] = expected.pop(case["id"])
                matching.append(found.matching(frame).select(F.lit(case["id"]).alias("case"), "trace_id"))
    assert (260 if lists is LISTS else 68) == len(expected)
    assert expected == matches(frame, conditions)
    rows_of_sessions = reduce(DataFrame.unionByName, matching).collect()
    assert {(case, trace_id) for case, ids in of_sessions.items() for trace_id in ids} == set(
        map(tuple, rows_of_sessions)
    )


BASE = datetime(2025, 10, 9, tzinfo=UTC)
MS = int(BASE.timestamp()) * 1000
ROWS = (
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
    assert expected == matches(frame_of(spark, ROWS), columns_of(list(ANSWERS)))


@pytest.mark.parametrize("present", [("trace_id",), ("trace_id", "request_time")])
def test_an_absent_column_matches_only_is_null(spark: SparkSession, present: tuple[str, ...]) -> None:
    """A source without tags has traces without tags; no comparison on them holds, and none fails."""
    there = ("timestamp", "trace.timestamp", "end_", "request_") if "request_time" in present else ("request_",)
    expected: dict[str, set[str]] = {text: set() for text in ANSWERS if not text.startswith(there)}
    for text in ("span.name = 'x'", "trace.text LIKE '%'", "feedback.x = '1'", "issue.id = 'x'"):
        expected[text] = set()
    for text in ("tags.k IS NULL", "run_id IS NULL", "feedback.x IS NULL", "expectation.x IS NULL"):
        expected[text] = set("abcd")
    frame = frame_of(spark, ROWS).select(*present)
    assert expected == matches(frame, columns_of(list(expected), frame.schema))


SPANS = (
    {
        "trace_id": "a",
        "spans": [
            {"name": "retrieve", "span_type": "RETRIEVER", "status_code": "ok", "attributes": {"k": "3", "n": "null"}},
            {"name": "generate", "span_type": '"LLM"', "status_code": "2", "attributes": {"model": '"gpt-4o"'}},
        ],
        "tags": {"mlflow.linkedPrompts": '[{"name": "qa", "version": "1"}]'},
    },
    {"trace_id": "b", "spans": [{"name": "root", "attributes": {"mlflow.spanType": '"TOOL"', "k": "it's 30"}}]},
    {"trace_id": "c", "spans": [], "request": "a question about Paris", "response": "42"},
    {"trace_id": "d", "request": "nothing", "response": None, "tags": {"mlflow.linkedPrompts": "not json"}},
)
SPAN_ANSWERS = {
    "span.name = 'retrieve' AND span.type = 'LLM'": "",
    "span.name = 'generate' AND span.type = 'LLM' AND span.status = 'ERROR'": "a",
    "span.name = 'retrieve' AND span.status = 'OK'": "a",
    "span.type = 'TOOL' AND span.status = 'UNSET'": "b",
    "span.attributes.k = '3'": "a",
    "span.attributes.k != '3'": "b",
    "span.attributes.k LIKE 'it%'": "b",
    "span.attributes.model RLIKE '^gpt-4o$'": "a",
    "span.attributes.n = 'null'": "a",
    "span.attributes.absent != 'x'": "",
    "trace.text LIKE '%Paris%'": "c",
    "trace.text ILIKE '%PARIS%' AND trace.text LIKE '%42%'": "c",
    "trace.text LIKE '%Paris%' AND span.name = 'root'": "",
    "trace.text LIKE '%retrieve%'": "a",
    "trace.text LIKE '%retrieve%' AND trace.text LIKE '%generate%'": "",
    "prompt = 'qa/1'": "a",
    "prompt = 'qa/2'": "",
}
EXTENDED_ANSWERS = {
    "span.name = 'root' OR trace.text LIKE '%Paris%'": "bc",
    "span.name = 'generate' AND (span.type = 'LLM' OR span.type = 'TOOL')": "a",
    "span.name = 'retrieve' AND (span.type = 'LLM' OR span.type = 'TOOL')": "",
    "NOT span.name = 'root'": "acd",
    "span.type = 'LLM' AND NOT span.name = 'retrieve'": "",
    "NOT (request_id = 'a' OR request_id = 'b')": "cd",
    "request_id NOT LIKE 'a' AND NOT NOT request_id != 'd'": "bc",
    "NOT execution_time BETWEEN 0 AND 5": "abcd",
    "request_id = 'a' OR request_id = 'b' AND span.name = 'none'": "a",
    "NOT tags.x = 'y'": "abcd",
}


def test_what_spans_are_asked(spark: SparkSession) -> None:
    """All that one filter asks of spans holds on one span; a trace without spans is searched as it came and went."""
    frame = frame_of(spark, SPANS, LISTS)
    expected = {text: set(ids) for text, ids in (SPAN_ANSWERS | EXTENDED_ANSWERS).items()}
    columns = columns_of(list(SPAN_ANSWERS), frame.schema) | columns_of(
        list(EXTENDED_ANSWERS), frame.schema, "extended"
    )
    assert expected == matches(frame, columns)


FEEDBACK = (
    {"trace_id": "a", "assessments": [("score", "0.2"), ("score", "0.9"), ("tone", "polite"), ("tone", '"Rude"')]},
    {"trace_id": "b", "assessments": [("score", "0.5"), ("ok", "true"), ("tone", None)]},
    {"trace_id": "c", "assessments": [("score", "NaN"), ("score", "5.0"), ("ok", '"true"'), ("list", '["a", "b"]')]},
    {"trace_id": "d", "assessments": None},
)
FEEDBACK_ANSWERS = {
    "feedback.score > 0.5": "ac",
    "feedback.score > 0.8 AND feedback.score < 0.3": "a",
    "feedback.score BETWEEN 0.3 AND 0.6": "b",
    "feedback.score = '5'": "c",
    "feedback.score = '5.00'": "c",
    "feedback.score != '5'": "abc",
    "feedback.ok = 'true'": "bc",
    "feedback.ok > 0": "",
    "feedback.tone = 'polite'": "a",
    "feedback.tone = '\"Rude\"'": "a",
    "feedback.tone != 'polite'": "ab",
    "feedback.tone ILIKE '%rude%'": "a",
    "feedback.tone LIKE 'polite'": "",
    "feedback.tone IS NOT NULL": "ab",
    "feedback.tone IS NULL": "cd",
    "feedback.list LIKE '%b%'": "c",
    "NOT feedback.ok = 'true'": "ad",
    "expectation.score IS NOT NULL": "",
}


def test_what_feedback_is_asked(spark: SparkSession) -> None:
    """Each comparison may be met by another assessment; text is JSON text, a number is a number."""
    rows = [
        row | {"assessments": [{"assessment_name": n, "feedback": {"value": v}} for n, v in row["assessments"] or ()]}
        for row in FEEDBACK
    ]
    frame = frame_of(spark, rows, LISTS)
    expected = {text: set(ids) for text, ids in FEEDBACK_ANSWERS.items()}
    assert expected == matches(frame, columns_of(list(expected), frame.schema, "extended"))
    # The same where nobody says what the frame has.
    some = ["feedback.score > 0.5", "feedback.ok > 0", "feedback.tone = 'polite'", "feedback.tone IS NULL"]
    assert {t: expected[t] for t in some} == matches(frame, {t: compile_filter(t).column() for t in some})


def test_lists_that_cannot_be_read_are_undecided(spark: SparkSession) -> None:
    """They match, so that the row says what is wrong; a comparison beside them may still say no."""
    rows = [
        {"trace_id": "a", "spans": "[{", "assessments": "no"},
        {"trace_id": "b", "spans": "null", "assessments": "null"},
        {"trace_id": "c"},
    ]
    frame = frame_of(spark, rows, TEXTS_OF_LISTS)
    unknown = ["span.name = 'x'", "feedback.x = 'y'", "trace.text LIKE '%x%'", "NOT span.name = 'x'", "issue.id = 'i'"]
    decided = ["span.name = 'x' AND status = 'OK'", "NOT (span.name = 'x' OR request_id = 'a')"]
    filters = {text: compile_filter(text, "extended") for text in (*unknown, *decided)}
    matching = matches(frame, {text: f.column(frame.schema) for text, f in filters.items()})
    assert {text: set("abc" if text.startswith("NOT") else "a") for text in unknown} == {
        text: matching[text] for text in unknown
    }
    assert ([set(), set("bc")], {True}) == (
        [matching[text] for text in decided],
        {
            ids == (set("a") if text in unknown else set())
            for text, ids in matches(frame, {t: f.undecided(frame.schema) for t, f in filters.items()}).items()
        },
    )


def test_times_and_status_reach_the_scan_and_tags_read_no_spans(spark: SparkSession, tmp_path: Path) -> None:
    """What the file scan is given, and which columns it reads."""
    traces = spark.read.schema(frame_of(spark, [], LISTS).schema).parquet(str(tmp_path))
    spark.conf.set("spark.sql.maxMetadataStringLength", "10000")

    def scan(text: str) -> tuple[str, str]:
        selected = traces.where(compile_filter(text).column()).select("trace_id")
        plan = selected._jdf.queryExecution().toString()
        pushed, read = re.search(r"PushedFilters: \[(.*?)\], ", plan), re.search(r"ReadSchema: struct<(.*)>", plan)
        assert pushed is not None
        assert read is not None
        return pushed[1], read[1]

    pushed, read = scan(f"status = 'OK' AND timestamp_ms >= {MS} AND trace.execution_time > 100 AND tags.env = 'prod'")
    for predicate in (
        "GreaterThanOrEqual(state,OK)",
        "LessThanOrEqual(state,ok)",
        "GreaterThanOrEqual(request_time,2025-10-09",
        "GreaterThan(execution_duration_ms,100)",
    ):
        assert predicate in pushed
    assert "spans" not in read
    assert "assessments" not in read
    assert "spans" not in scan("tags.env = 'prod' AND feedback.x = 'no'")[1]


def test_a_long_pattern_with_many_wildcards_ends_soon(spark: SparkSession) -> None:
    """Ten wildcards over 20,000 characters that almost match: no way is tried twice."""
    frame = frame_of(spark, [{"trace_id": "a", "tags": {"k": "ab" * 10_000}}])
    pattern = "%" + "a%b%" * 5 + "c"
    assert {pattern: set()} == matches(frame, {pattern: compile_filter(f"tags.k LIKE '{pattern}'").column(SCHEMA)})


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
    conditions = {p: compile_filter(f"tags.k RLIKE '{p}'").column(SCHEMA) for p in patterns}
    assert {p: {"a"} for p in patterns} == matches(frame, conditions)


PAGE = Path(__file__).parents[2] / "docs/filters.md"
OF_THE_PAGE = (
    {
        "trace_id": "t1",
        "state": "OK",
        "request_time": BASE,
        "execution_duration_ms": 1500,
        "client_request_id": "req-1",
        "session_id": "s1",
        "tags": {"mlflow.traceName": "chat", "env": "prod", "my key": "1"},
        "trace_metadata": {"mlflow.trace.session": "s1", "mlflow.trace.user": "ann"},
        "spans": [
            {"name": "call_llm", "span_type": "LLM", "attributes": {"model": '"gpt-4o"'}},
            {"name": "lookup", "span_type": "TOOL"},
        ],
        "assessments": [
            {"assessment_name": "safety", "feedback": {"value": "no"}},
            {"assessment_name": "score", "feedback": {"value": "0.9"}},
            {"assessment_name": "answer", "expectation": {"value": "42"}},
        ],
    },
    {
        "trace_id": "t2",
        "state": "ERROR",
        "request_time": BASE + timedelta(seconds=1),
        "execution_duration_ms": 20,
        "tags": {"mlflow.traceName": "search", "env": "dev"},
        "trace_metadata": {"mlflow.sourceRun": "r7"},
        "spans": [
            {"name": "lookup", "span_type": "TOOL", "status_code": "ERROR", "outputs": "no weather in Paris"},
        ],
        "assessments": [
            {"assessment_name": "safety", "feedback": {"value": "yes"}},
            {"assessment_name": "score", "feedback": {"value": "0.2"}},
        ],
    },
)


def test_examples_of_the_page_match_what_it_says(spark: SparkSession) -> None:
    """Every row of docs/filters.md that has a filter and the traces it matches."""
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`+)(?! )(.+?)\1 \| (t1, t2|t1|t2|) ?\|$", page, re.MULTILINE)
    frame = frame_of(spark, OF_THE_PAGE, LISTS)
    expected = {text: set(ids.split(", ")) - {""} for _, text, ids in rows}
    assert 35 == len(expected)
    assert expected == matches(frame, columns_of(list(expected), frame.schema, "extended"))
