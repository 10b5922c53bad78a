"""The filter grammar, without a JVM. MLflow's own answers are in shared/filter_cases.json."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from backfill_spark.errors import FilterError
from backfill_spark.traces.filters import compile_filter
from backfill_spark.traces.filters.parser import MAX_LENGTH, MAX_TERMS, as_number
from backfill_spark.traces.filters.regex import RegexRefusedError, to_java
from backfill_spark.traces.filters.tree import (
    JSON_KEYS,
    LINKED_PROMPTS,
    Comparison,
    Kind,
    Operator,
    Subject,
    Value,
)

NOT_SUPPORTED = ("spans", "the text of spans", "feedback", "expectations", "issues", "prompts")


def cases(shared: Path) -> list[dict[str, Any]]:
    data: dict[str, list[dict[str, Any]]] = json.loads((shared / "filter_cases.json").read_text(encoding="utf-8"))
    return data["cases"]


def mlflow_clause(term: Comparison) -> tuple[str, str, str, object]:
    """Write a term as MLflow's parser does."""
    kinds = {Kind.TAG: "tag", Kind.METADATA: "request_metadata"}
    subject = term.subject
    value = list(term.value) if isinstance(term.value, tuple) else term.value
    key = subject.key if subject.kind in kinds else subject.kind.value
    return kinds.get(subject.kind, "attribute"), key, term.operator.value, value


def test_terms_are_mlflows_own_clauses(shared: Path) -> None:
    """Each case that MLflow answers parses to its clauses, or is refused because it belongs to what is not built."""
    refused = 0
    for case in cases(shared):
        if case["outcome"] != "match":
            continue
        expected = [(c["type"], c["key"], c["comparator"].upper(), c["value"]) for c in case["parsed"]]
        if {kind for kind, *_ in expected} - {"attribute", "tag", "request_metadata"} or "prompt" in case["category"]:
            what = "|".join(NOT_SUPPORTED)
            with pytest.raises(FilterError, match=f"filters on ({what}) are not supported"):
                compile_filter(case["filter_string"])
            refused += 1
        else:
            found = [mlflow_clause(term) for term in compile_filter(case["filter_string"]).terms]
            assert (case["id"], expected) == (case["id"], found)
    assert refused == 72


def test_what_mlflow_refuses_is_refused(shared: Path) -> None:
    """Errors of its parser and of its execution both come before anything is read."""
    for case in cases(shared):
        if case["outcome"] == "error":
            with pytest.raises(FilterError):
                compile_filter(case["filter_string"])


def test_no_injection_is_accepted(shared: Path) -> None:
    """Every filter of the corpus is refused."""
    corpus = json.loads((shared / "corpora/filter_injections.json").read_text(encoding="utf-8"))
    for text in corpus["filters"]:
        with pytest.raises(FilterError):
            compile_filter(text)


@pytest.mark.parametrize(
    ("text", "what", "caret"),
    [
        ("status = 'OK' AND nam = 'x'", "did you mean 'name'", 18),
        ("state = 'OK'", "did you mean 'status'", 0),
        ("trace_id = 'x'", "did you mean 'request_id'", 0),
        ("info.state = 'OK'", "unknown prefix 'info'", 0),
        ("status == 'OK'", "'==' is not an operator", 7),
        ("name NOT LIKE 'x'", "'NOT LIKE' is not an operator", 5),
        ("status = OK", "compared with a text in quotes", 9),
        ("status > 'A'", "> is not supported for status", 7),
        ("tags.env IN ('a')", "IN is not supported for tags.env", 9),
        ("tags.a-b = 'x'", "backticks", 6),
        ("tags.in = 'x'", "must be written in backticks", 5),
        ("status = 'OK' OR name = 'x'", "OR is not supported", 14),
        ("status = 'OK", "quote is not closed", 9),
        ("status = 'OK';", "one expression", 13),
        ("status = 'OK' AND", "expected a comparison", 17),
        ("status = 'OK' AND AND name = 'x'", "between AND and AND", 18),
        ("name = 'x' tags.k IS NULL", "AND is missing", 11),
        ("timestamp > '2025-01-01'", "whole number of milliseconds", 12),
        ("execution_time > 99999999999999999999", "64 bits", 17),
        ("status IN (1)", "only texts in quotes", 11),
        ("status IN ()", "the list is empty", 10),
        ("length(name) > 0", "functions and parentheses", 6),
        ("span.name = 'x'", "filters on spans are not supported", 0),
        ("tags.text LIKE '%x%'", "filters on the text of spans are not supported", 0),
        ("feedback.score > 0.5", "filters on feedback are not supported", 0),
        ("name", "an operator is missing", 4),
        ("tags.x = '\ud800'", "surrogate", 10),
    ],
)
def test_a_refusal_points_at_its_place(text: str, what: str, caret: int) -> None:
    """The message says what is wrong, and the caret stands under it."""
    with pytest.raises(FilterError) as caught:
        compile_filter(text)
    first, shown, marker = str(caught.value).split("\n")
    assert what in first
    assert (shown, caret) == (f"    {text}", marker.index("^") - 4)


@pytest.mark.parametrize("dialect", ["extended", "sql", "MLFLOW", ""])
def test_an_unknown_dialect_is_refused(dialect: str) -> None:
    """There is one dialect."""
    with pytest.raises(FilterError, match="not supported; supported: mlflow"):
        compile_filter("status = 'OK'", dialect=dialect)


@pytest.mark.parametrize("text", [None, ""])
def test_no_filter_reads_no_column(text: str | None) -> None:
    """None and "" match everything; blanks are an error, as in MLflow."""
    empty = compile_filter(text)
    assert ("", (), frozenset()) == (empty.text, empty.terms, empty.columns)


def test_lengths_are_limited() -> None:
    """4,000 characters and 200 comparisons are read, no more."""
    assert len(compile_filter(" AND ".join(["name = 'x'"] * MAX_TERMS)).terms) == MAX_TERMS
    for text in (" AND ".join(["name='x'"] * (MAX_TERMS + 1)), "name = '" + "x" * MAX_LENGTH + "'"):
        with pytest.raises(FilterError, match=r"4000 are read|more than 200"):
            compile_filter(text)


@pytest.mark.parametrize("value", [5, b"name = 'x'", ["name = 'x'"]])
def test_what_is_no_text_is_refused(value: Any) -> None:
    """A filter is text."""
    with pytest.raises(FilterError, match="expected text"):
        compile_filter(value)


def test_the_digest_is_of_the_meaning() -> None:
    """Spelling, case of keywords and order do not count; values do."""
    first = compile_filter("status = 'OK' AND tags.env = 'prod'")
    same = compile_filter('trace.`status`="OK" and tag."env"  =  "prod"')
    turned = compile_filter("tags.env = 'prod' AND attributes.status = 'OK' AND tag.env = 'prod'")
    other = compile_filter("status = 'OK' AND tags.env = 'Prod'")
    assert {first.digest} == {same.digest, turned.digest}
    assert first.digest != other.digest
    assert re.fullmatch("[0-9a-f]{16}", first.digest)


def test_a_filter_says_which_columns_it_reads() -> None:
    """So that a scan reads these and no texts."""
    text = (
        "status = 'OK' AND end_time > 5 AND name = 'x' AND metadata.`mlflow.trace.session` = 's' AND request_id != 'a'"
    )
    expected = {"state", "request_time", "execution_duration_ms", "tags", "trace_metadata", "session_id", "trace_id"}
    assert expected == compile_filter(text).columns


def test_surprises_are_noted() -> None:
    """A filter that MLflow takes but that cannot mean what it says carries a note for the plan."""
    assert compile_filter("name = 'x'").notes == ()
    for text, note in (
        ("name RLIKE '['", "matches nothing"),
        ("trace.timestamp > '2025-10-09'", "milliseconds"),
        ("run_id = 'a' AND run_id = 'b'", "only the last one counts"),
    ):
        assert note in compile_filter(text).notes[0]


@given(st.text(max_size=120))
@example("timestamp > " + "9" * 5000)
@example("status IN ('\\ud800')")
@example("status IN ('\\")
@example("execution_time > 1e999")
@example("name RLIKE '" + "(" * 190 + "'")
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """Nothing but FilterError comes out."""
    try:
        compile_filter(text)
    except FilterError:
        pass


# fmt: off
WORDS = st.sampled_from([
    "status", "name", "run_id", "timestamp", "tags.a", "metadata.`k`", "span.x", "feedback.y", "trace.", "`b`",
    "`", "'x'", '"y"', "5", "-1.5", "1e3", "('a','b')", "'(a+)+'", "'[a'", "=", "!=", "<", ">=", "LIKE",
    "RLIKE", "IN", "NOT", "IS", "NULL", "AND", "OR", "(", ")", ",", ".", ";", "--",
])
# fmt: on


@given(st.lists(WORDS, max_size=12).map(" ".join))
def test_any_words_are_parsed_or_refused(text: str) -> None:
    """Nothing but FilterError comes out of the grammar's own words."""
    try:
        compile_filter(text)
    except FilterError:
        pass


def is_writable(text: str) -> bool:
    r"""False for texts that the grammar has no quotes for: both kinds of them, `\` and `''` before the end."""
    return not ({'"', "'"} <= set(text) or text.endswith("\\") or "\\'" in text or '\\"' in text or "''" in text)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(is_writable)
NAMES = ("name", "run_id", "prompt", "text", "timestamp", "execution_time", "end_time")


def is_key(text: str) -> bool:
    """False for keys that cannot be written, that mean another field, or on which other rules hold."""
    other = text.lower() in NAMES or text in (JSON_KEYS | {LINKED_PROMPTS})
    return not other and "`" not in text and text[:1] not in ("'", '"')


KEYS = TEXTS.filter(is_key)


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    kind = draw(st.sampled_from(Kind))
    subject = Subject(kind, draw(KEYS) if kind in (Kind.TAG, Kind.METADATA) else "")
    operator = draw(st.sampled_from(sorted(subject.operators)))
    values: dict[Operator, st.SearchStrategy[Value]] = {
        Operator.IS_NULL: st.none(),
        Operator.IS_NOT_NULL: st.none(),
        Operator.IN: st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1).map(tuple),
        Operator.RLIKE: st.sampled_from(["^a", "x|y", "["]),
    }
    values[Operator.NOT_IN] = values[Operator.IN]
    numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXTS
    return Comparison(subject, operator, draw(values.get(operator, numbers if subject.is_number else TEXTS)))


def written(term: Comparison) -> str:
    """Write a term as a filter; a value that holds both kinds of quotes cannot be written."""
    kind, key = term.subject.kind, term.subject.key
    left = f"{kind}.{quoted(key, '`')}" if kind in (Kind.TAG, Kind.METADATA) else f"trace.{kind}"
    if term.value is None:
        return f"{left} {term.operator}"
    if isinstance(term.value, tuple):
        right = "(" + ", ".join(python_text(item) for item in term.value) + ",)"
    elif isinstance(term.value, str):
        right = quoted(term.value, "'")
    else:
        # repr(1e22) is '1e+22', which is no number to sqlparse; 1e999 is read as infinity.
        right = repr(term.value).replace("e+", "e").replace("inf", "1e999")
    return f"{left} {term.operator} {right}"


def quoted(text: str, mark: str) -> str:
    mark = '"' if mark in text else mark
    return f"{mark}{text}{mark}"


def python_text(text: str) -> str:
    """Write an item of a list, in which MLflow reads Python's escapes."""
    return "'" + "".join(c if c.isprintable() and c not in "\\'" else f"\\U{ord(c):08x}" for c in text) + "'"


@given(st.lists(comparisons(), min_size=1, max_size=5))
def test_a_tree_comes_back_from_its_text(terms: list[Comparison]) -> None:
    """Writing and parsing are each other's inverse."""
    text = " AND ".join(map(written, terms))
    assume(len(text) <= MAX_LENGTH)
    runs = [t for t in terms if t.subject.key == "mlflow.sourceRun"]
    assume(not runs)
    assert tuple(terms) == compile_filter(text).terms


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5", 5),
        (" -5\n", -5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("+5", 5),
        ("0x10", None),
        ("1_000", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("٣", None),
        ("9" * 30, float("9" * 30)),
        ("2025-10-09", None),
    ],
)
def test_quoted_numbers_are_read_as_sqlite_does(text: str, number: float | None) -> None:
    """Blanks around are allowed; hexadecimal, underscores and other digits are text."""
    assert number == as_number(text)


# fmt: off
DANGEROUS = [
    "(a+)+$", "(a*)*", "(a|aa)+$", "(a?)*", "(a?){50}", "(\\w+\\s?)+x", "((a{1,9}){1,9}){1,9}", "(.*,){20}",
    "(a|b|ab)*c", "a*a*a*a*a*a*b", "(?:a+)+", "(?=(a+)+)", "[a-z]{0,99}" * 6, "(a)\\1", "(?P<n>a)(?P=n)",
    "a*+b", "(?>a+)b", "(?x)a b", "(?a)\\w", "(a)(?(1)b)", "x" * 201, "a{2000}",
]
# fmt: on


@pytest.mark.parametrize("pattern", DANGEROUS)
def test_a_pattern_that_could_hang_a_task_is_refused(pattern: str) -> None:
    """Nested repeats and what only exists in one engine are refused with the filter."""
    with pytest.raises(RegexRefusedError):
        to_java(pattern)
    with pytest.raises(FilterError):
        compile_filter(f'name RLIKE "{pattern}"')


@pytest.mark.parametrize("pattern", ["(", "[a", "*a", "a**", "\\", "(?P<n", "\\8", "[z-a]", "a(?i)b", "\\p{L}"])
def test_what_python_calls_no_pattern_matches_nothing(pattern: str) -> None:
    """As in MLflow's default store."""
    assert to_java(pattern) is None


@given(st.text("ab.*+?{}()[]|^$\\-,123<=!:idPs#&wW\n", max_size=30) | st.text(max_size=30))
def test_any_pattern_is_written_or_refused_at_once(pattern: str) -> None:
    """Only RegexRefusedError comes out, and soon."""
    start = time.perf_counter()
    try:
        to_java(pattern)
    except RegexRefusedError:
        pass
    assert time.perf_counter() - start < 1
