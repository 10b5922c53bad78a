"""The filter grammar, without a JVM. MLflow's own answers are in shared/filter_cases.json."""

import json
import os
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from backfill_spark.errors import FilterError
from backfill_spark.filters import Filter, compile_filter
from backfill_spark.models import TimeWindow
from backfill_spark.traces.filters.comparison import as_number
from backfill_spark.traces.filters.numbers import FUNCTIONS
from backfill_spark.traces.filters.parser import MAX_DEPTH, MAX_LENGTH, MAX_TERMS
from backfill_spark.traces.filters.reach import Reach, reach_of
from backfill_spark.traces.filters.regex import RegexRefusedError, to_java
from backfill_spark.traces.filters.tree import (
    JSON_KEYS,
    LINKED_PROMPTS,
    And,
    Comparison,
    Kind,
    Node,
    Not,
    Operator,
    Or,
    Subject,
    Value,
    joined,
    terms_of,
)


def cases(shared: Path) -> list[dict[str, Any]]:
    data: dict[str, list[dict[str, Any]]] = json.loads((shared / "filter_cases.json").read_text(encoding="utf-8"))
    return data["cases"]


def mlflow_clause(term: Node) -> tuple[str, str, str, object]:
    """Write a term as MLflow's parser does."""
    assert isinstance(term, Comparison)
    subject = term.subject
    value = list(term.value) if isinstance(term.value, tuple) else term.value
    kind, key = {
        Kind.TAG: ("tag", subject.key),
        Kind.METADATA: ("request_metadata", subject.key),
        Kind.PROMPT: ("tag", LINKED_PROMPTS),
        Kind.ATTRIBUTE: ("span", f"attributes.{subject.key}"),
    }.get(subject.kind, (subject.kind.value, subject.key) if subject.has_key else ("attribute", subject.kind.value))
    return kind, key, term.operator.value, value


def test_terms_are_mlflows_own_clauses(shared: Path) -> None:
    """Each case that MLflow answers parses to its clauses."""
    answered = [case for case in cases(shared) if case["outcome"] == "match"]
    for case in answered:
        expected = [(c["type"], c["key"].replace("`", ""), c["comparator"].upper(), c["value"]) for c in case["parsed"]]
        found = [mlflow_clause(term) for term in terms_of(compile_filter(case["filter_string"]).tree)]
        assert (case["id"], expected) == (case["id"], found)
    assert 262 == len(answered)


def test_a_filter_is_parsed_within_a_millisecond(shared: Path) -> None:
    """The best of five times: the machine may be busy."""
    slow = {}
    for case in cases(shared):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            try:
                compile_filter(case["filter_string"])
            except FilterError:
                pass
            times.append(time.perf_counter() - start)
        if min(times) > 0.001:
            slow[case["id"]] = min(times)
    assert {} == slow


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
        ("name NOT LIKE 'x'", "NOT LIKE needs filters.dialect: extended", 5),
        ("status = OK", "compared with a text in quotes", 9),
        ("status > 'A'", "> is not supported for status", 7),
        ("tags.env IN ('a')", "IN is not supported for tags.env", 9),
        ("tags.a-b = 'x'", "backticks", 6),
        ("spans.name = 'x'", "did you mean 'span'", 0),
        ("assessments.x = 'y'", "did you mean 'feedback'", 0),
        ("span.kind = 'LLM'", "did you mean 'type'", 0),
        ("span.attributes. = 'x'", "a key must follow the dot", 15),
        ("session_id = 's'", "did you mean 'metadata.`mlflow.trace.session`'", 0),
        ("request LIKE '%x%'", "did you mean 'trace.text'", 0),
        ("text LIKE '%x%'", "write trace.text", 0),
        ("trace.text = 'x'", "= is not supported for span.content; supported: LIKE, ILIKE", 11),
        ("feedback.score > '0.5'", "a number, without quotes", 17),
        ("feedback.score = 0.5", "a text in quotes", 17),
        ("issue.name2 = 'x'", "supported: issue.id", 0),
        ("name BETWEEN 'a' AND 'b'", "BETWEEN needs filters.dialect: extended", 5),
        ("NOT name = 'x'", "NOT needs filters.dialect: extended", 0),
        ("(name = 'x')", "a parenthesis needs filters.dialect: extended", 0),
        ("name = 'x')", "')' closes nothing", 10),
        ("tags.in = 'x'", "must be written in backticks", 5),
        ("status = 'OK' OR name = 'x'", "OR needs filters.dialect: extended", 14),
        ("status = 'OK", "quote is not closed", 9),
        ("status = 'OK';", "one expression", 13),
        ("status = 'OK' AND", "expected a comparison", 17),
        ("status = 'OK' AND AND name = 'x'", "between AND and AND", 18),
        ("name = 'x' tags.k IS NULL", "AND is missing", 11),
        ("timestamp > '2025-01-01'", "whole number of milliseconds", 12),
        ("execution_time > 99999999999999999999", "64 bits", 17),
        ("status IN (1)", "only texts in quotes", 11),
        ("status IN ()", "the list is empty", 10),
        ("length(name) > 0", "functions are not supported", 6),
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


@pytest.mark.parametrize("dialect", ["sql", "MLFLOW", ""])
def test_an_unknown_dialect_is_refused(dialect: str) -> None:
    """There are two."""
    with pytest.raises(FilterError, match="not supported; supported: mlflow, extended"):
        compile_filter("status = 'OK'", dialect=dialect)


@pytest.mark.parametrize("text", [None, ""])
def test_no_filter_reads_no_column(text: str | None) -> None:
    """None and "" match everything; blanks are an error, as in MLflow."""
    empty = compile_filter(text)
    assert ("", None, frozenset(), "") == (empty.text, empty.tree, empty.columns, str(empty))


def test_lengths_are_limited() -> None:
    """4,000 characters and 200 comparisons are read, no more."""
    assert len(terms_of(compile_filter(" AND ".join(["name = 'x'"] * MAX_TERMS)).tree)) == MAX_TERMS
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
    assert {"spans"} == compile_filter("span.name = 'x' AND span.attributes.model = 'y'").columns
    assert {"spans", "request", "response"} == compile_filter("trace.text LIKE '%x%'").columns
    assert {"assessments", "tags"} == compile_filter("feedback.x = 'no' OR NOT tags.a = 'b'", "extended").columns


def test_the_extended_dialect_adds_to_mlflows(shared: Path) -> None:
    """What MLflow takes means the same in both."""
    for case in cases(shared):
        if case["outcome"] == "match":
            text = case["filter_string"]
            assert compile_filter(text).tree == compile_filter(text, dialect="extended").tree


def one(text: str) -> Node:
    tree = compile_filter(text, "extended").tree
    assert tree is not None
    return tree


def test_and_binds_closer_than_or_and_not_closest() -> None:
    """Parentheses say otherwise; what they only repeat is no part of the tree."""
    a, b, c = (one(f"name = '{x}'") for x in "abc")
    assert Or((a, And((b, c)))) == one("name = 'a' OR name = 'b' AND name = 'c'")
    assert And((Or((a, b)), c)) == one("(name = 'a' OR name = 'b') AND name = 'c'")
    assert And((Not(a), b)) == one("NOT name = 'a' AND name = 'b'")
    assert Not(And((a, b))) == one("not (name = 'a' and name = 'b')")
    assert And((a, b, c)) == one("((name = 'a') AND (name = 'b' AND name = 'c'))")
    assert Not(one("name LIKE 'x'")) == one("name NOT LIKE 'x'")
    between = Comparison(Subject(Kind.FEEDBACK, "s"), Operator.BETWEEN, (0.5, 1))
    assert And((between, a)) == one("feedback.s BETWEEN 0.5 AND 1 AND name = 'a'")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("(name = 'x'", "the parenthesis is not closed"),
        ("name = 'x')", "')' closes nothing"),
        ("()", "expected a field"),
        ("name = 'x' OR", "expected a comparison"),
        ("OR name = 'x'", "a comparison must stand on both sides of OR"),
        ("NOT", "expected a comparison"),
        ("feedback.s BETWEEN 1", "BETWEEN takes two numbers"),
        ("timestamp BETWEEN 1 OR 2", "BETWEEN takes two numbers"),
        ("tags.a BETWEEN 'a' AND 'b'", "BETWEEN is not supported for tags.a"),
        ("NOT " * (MAX_DEPTH + 1) + "name = 'x'", "within each other"),
        ("(" * (MAX_DEPTH + 1) + "name = 'x'" + ")" * (MAX_DEPTH + 1), "within each other"),
    ],
)
def test_an_extended_filter_that_does_not_fit_is_refused(text: str, what: str) -> None:
    """With a sentence, and never with an error of Python's own."""
    with pytest.raises(FilterError, match=re.escape(what)):
        compile_filter(text, dialect="extended")


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
    "RLIKE", "IN", "NOT", "IS", "NULL", "AND", "OR", "(", ")", ",", ".", ";", "--", "BETWEEN", "trace.text",
    "span.name", "span.attributes.m", "expectation.z", "issue.id", "prompt", "'%x%'", "'a/1'", "feedback.`a b` > 1",
])
# fmt: on
EXAMPLES = int(os.environ.get("FILTER_EXAMPLES", "1000"))
DIALECTS = st.sampled_from(["mlflow", "extended"])


@hypothesis.settings(max_examples=EXAMPLES)
@given(st.lists(WORDS, max_size=14).map(" ".join) | st.text("().,'\"`=<>!AND ORTS\\%5", max_size=40), DIALECTS)
def test_any_words_are_a_tree_or_refused(text: str, dialect: str) -> None:
    """Nothing but FilterError comes out of the grammar's own words; a tree is printed and parsed again."""
    try:
        found = compile_filter(text, dialect=dialect)
    except FilterError:
        return
    assert found.tree == compile_filter(str(found), dialect=dialect).tree


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
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    kind = draw(st.sampled_from(Kind))
    keys = {Kind.SPAN: st.sampled_from(["name", "type", "status", "content"]), Kind.ISSUE: st.just("id")}
    keys |= dict.fromkeys((Kind.ATTRIBUTE, Kind.FEEDBACK, Kind.EXPECTATION), KEYS.filter(bool))
    subject = Subject(kind, "")
    if subject.has_key:
        subject = Subject(kind, draw(keys.get(kind, KEYS)))
    operator = draw(st.sampled_from(sorted(subject.operators)))
    values: dict[Operator, st.SearchStrategy[Value]] = {
        Operator.IS_NULL: st.none(),
        Operator.IS_NOT_NULL: st.none(),
        Operator.IN: st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1).map(tuple),
        Operator.RLIKE: st.sampled_from(["^a", "x|y", "["]),
        Operator.BETWEEN: st.tuples(NUMBERS, NUMBERS),
    }
    values[Operator.NOT_IN] = values[Operator.IN]
    if subject.is_assessment:
        values |= dict.fromkeys((Operator.LT, Operator.LE, Operator.GT, Operator.GE), NUMBERS)
    plain = NUMBERS | TEXTS if subject.is_number else TEXTS
    if kind is Kind.PROMPT:
        plain = st.just("qa/1")
    return Comparison(subject, operator, draw(values.get(operator, plain)))


def parents(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(inner, min_size=2, max_size=4)
    return several.map(lambda n: joined(And, n)) | several.map(lambda n: joined(Or, n)) | inner.map(Not)


TREES: st.SearchStrategy[Node] = st.recursive(comparisons(), parents, max_leaves=8)


@hypothesis.settings(max_examples=max(200, EXAMPLES // 20))
@given(TREES)
def test_a_tree_comes_back_from_its_text(tree: Node) -> None:
    """Printing and parsing are each other's inverse."""
    text = str(Filter("", tree))
    assume(len(text) <= MAX_LENGTH)
    assert tree == compile_filter(text, dialect="extended").tree


def test_a_printed_filter_is_read_as_it_was(shared: Path) -> None:
    """Also where a quote is closed only because no other follows."""
    texts = [case["filter_string"] for case in cases(shared) if case["outcome"] == "match"]
    for text in [*texts, "name = 'a\\' AND tags.x = \"b\\", 'tags.x = "it\'s" AND tags."a`b" = \'c\\\'']:
        try:
            found = compile_filter(text)
        except FilterError:
            continue
        assert found.tree == compile_filter(str(found)).tree


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


def test_only_a_filter_on_feedback_looks_elsewhere() -> None:
    """Any other leaves the traces as they are: no table is asked, which would fail here."""
    from backfill_spark.models import Request, TimeWindow
    from backfill_spark.results.related import related_pins, with_related

    traces, nothing = object(), object()
    for text in ("tags.feedback = 'x' AND span.name = 'y'", "issue.id = 'i'", None):
        request = Request("0", False, (), TimeWindow(), "traces", "1", None, 7, filter_string=text)
        assert traces is with_related(traces, request, nothing, nothing)  # type: ignore[arg-type]
        assert {"feedback_version": None, "sees_sessions": False} == related_pins(request, nothing)  # type: ignore[arg-type]


MOMENTS = st.sampled_from([-1.5, -1, 0, 0.5, 1, 2, 2.5, 3, 1e300, 2**62])
STATES = st.sampled_from(["OK", "ERROR", "IN_PROGRESS"])
TIMED_OR_STATED: st.SearchStrategy[Node] = st.recursive(
    st.builds(lambda how, v: Comparison(Subject(Kind.TIMESTAMP), how, v), st.sampled_from(sorted(FUNCTIONS)), MOMENTS)
    | st.builds(lambda v: Comparison(Subject(Kind.TIMESTAMP), Operator.BETWEEN, v), st.tuples(MOMENTS, MOMENTS))
    | st.builds(
        lambda how, v: Comparison(Subject(Kind.STATUS), how, v), st.sampled_from([Operator.EQ, Operator.NE]), STATES
    )
    | st.builds(
        lambda how, v: Comparison(Subject(Kind.STATUS), how, tuple(v)),
        st.sampled_from([Operator.IN, Operator.NOT_IN]),
        st.lists(STATES, min_size=1),
    ),
    parents,
    max_leaves=6,
)


def holds(node: Node, moment: int, state: str) -> bool:
    """What a filter on times and states says of a trace that began `moment` milliseconds after the epoch."""
    if isinstance(node, Not):
        return not holds(node.node, moment, state)
    if not isinstance(node, Comparison):
        return (all if isinstance(node, And) else any)(holds(one, moment, state) for one in node.nodes)
    mine: Any = moment if node.subject.kind is Kind.TIMESTAMP else state
    value: Any = node.value
    if node.operator is Operator.BETWEEN:
        return bool(value[0] <= mine <= value[1])
    if node.operator in (Operator.IN, Operator.NOT_IN):
        return (mine in value) is (node.operator is Operator.IN)
    return bool(FUNCTIONS[node.operator](mine, value))


@given(TIMED_OR_STATED, st.integers(-3, 4), st.integers(0, 999), STATES)
def test_a_trace_that_matches_is_where_its_filter_reaches(tree: Node, moment: int, micros: int, state: str) -> None:
    """No scan that is told the reach leaves out a match."""
    assume(holds(tree, moment, state))
    reach = reach_of(tree)
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment, microseconds=micros)
    assert reach.window.meets(TimeWindow(at, at + timedelta(microseconds=1)))
    assert reach.states is None or state in reach.states


def test_how_far_a_filter_reaches() -> None:
    """Times and states of all that is joined by AND; of OR what is around both; nothing else."""
    day = datetime(2024, 6, 1, tzinfo=UTC)
    ms = int(day.timestamp() * 1000)
    narrow = compile_filter(f"timestamp_ms >= {ms} AND timestamp_ms < {ms + 5} AND status = 'ERROR' AND tags.a = 'b'")
    assert Reach(TimeWindow(day, day + timedelta(milliseconds=6)), frozenset({"ERROR"})) == reach_of(narrow.tree)
    either = compile_filter("(status = 'OK' OR status = 'ERROR') AND NOT timestamp_ms < 5", dialect="extended")
    assert Reach(TimeWindow(), frozenset({"OK", "ERROR"})) == reach_of(either.tree)
    for text in ("tags.a = 'b'", "status != 'OK'", "status = 'IN_PROGRESS'", "timestamp_ms > 1e300", ""):
        assert Reach() == reach_of(compile_filter(text).tree)
