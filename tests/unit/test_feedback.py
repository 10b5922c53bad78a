"""The normaliser turns every return value and exception into rows, and never raises."""

from __future__ import annotations

import enum
import json
import math
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.errors import ScorerLoadError, TraceUnreadableError
from backfill_spark.scoring.feedback import FIELD_NAMES, failure_of, normalise, scrub
from backfill_spark.traces.assessment import AssessmentError, AssessmentSource, Expectation, Feedback
from backfill_spark.traces.decode import clean


def rows(value: Any) -> Any:
    found = normalise(value, scorer="s", version=3, latency_ms=1.5, input_digest="d")
    for row in found:
        assert len(row) == len(FIELD_NAMES)
        assert (row[0], row[1], row[10], row[11]) == ("s", 3, 1.5, "d")
    return [dict(zip(FIELD_NAMES, row, strict=True)) for row in found]


def one(value: Any) -> Any:
    (row,) = rows(value)
    return row


class Grade(enum.Enum):
    A = 1


class Level(enum.StrEnum):
    HIGH = "yes"


class Rank(enum.IntEnum):
    TOP = 7


class OddText(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no")

    def __len__(self) -> int:
        raise RuntimeError("no")

    lower = encode = __iter__ = __repr__ = __str__  # type: ignore[assignment] # odd on purpose


class OddNumber(float):
    def __float__(self) -> float:
        raise RuntimeError("no")

    __repr__ = __str__ = __sub__ = __float__  # type: ignore[assignment] # odd on purpose


def test_field_names_are_those_of_the_table() -> None:
    """The order of a row is the order of the staged struct."""
    from backfill_spark import schema

    assert tuple(name for name, _ in schema.RESULT_FIELDS) == FIELD_NAMES


@pytest.mark.parametrize(
    ("value", "text", "double", "string"),
    [
        (True, "true", 1.0, None),
        (False, "false", 0.0, None),
        (5, "5", 5.0, None),
        (0.5, "0.5", 0.5, None),
        (-0.0, "-0.0", -0.0, None),
        (1e300, "1e+300", 1e300, None),
        (2**63 + 1, "9223372036854775809", 9.223372036854776e18, None),
        ("yes", '"yes"', 1.0, "yes"),
        ("No", '"No"', 0.0, "No"),
        ("YES", '"YES"', 1.0, "YES"),
        (" yes", '" yes"', None, " yes"),
        ("0.5", '"0.5"', None, "0.5"),
        ("", '""', None, ""),
        ('a"b\n', '"a\\"b\\n"', None, 'a"b\n'),
        ("ü", '"ü"', None, "ü"),
        ("a\x00b", '"a\\u0000b"', None, "a\x00b"),
        ("a\ud800b", '"a\ufffdb"', None, "a\ufffdb"),
        ("\ud83d\ude00", '"😀"', None, "😀"),
        (Level.HIGH, '"yes"', 1.0, "yes"),
        (Rank.TOP, "7", 7.0, None),
        pytest.param(OddText("sub"), '"sub"', None, "sub", id="odd text"),
        pytest.param(OddNumber(0.5), "0.5", 0.5, None, id="odd number"),
        pytest.param("x" * 64_000, '"' + "x" * 64_000 + '"', None, "x" * 64_000, id="longest"),
    ],
)
def test_accepted_values(value: Any, text: str, double: Any, string: Any) -> None:
    """Numbers, truth values and texts, subclasses with broken methods included, fill the three columns."""
    row = one(value)

    assert (row["value"], row["value_double"], row["value_string"]) == (text, double, string)
    assert (row["assessment_name"], row["ordinal"], row["error_code"], row["extra"]) == ("s", 0, None, None)


@pytest.mark.parametrize("value", [None, []])
def test_nothing_is_empty(value: Any) -> None:
    """None and [] give one row without value and without error."""
    row = one(value)

    assert (row["value"], row["error_code"], row["error_message"]) == (None, None, None)


class Liar:
    @property  # type: ignore[misc] # a liar
    def __class__(self) -> type:
        raise RuntimeError("no")


class Claims:
    __class__ = str  # type: ignore[assignment] # it lies


class Traps:
    def __getattr__(self, name: Any) -> None:
        raise KeyboardInterrupt

    def __bool__(self) -> None:
        raise SystemExit


class Meta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override] # it raises
        raise RuntimeError("no")


class Nameless(metaclass=Meta):
    pass


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (math.nan, "value_not_finite"),
        (math.inf, "value_not_finite"),
        pytest.param(10**400, "value_out_of_range", id="400 digits"),
        pytest.param(-(10**5_000), "value_out_of_range", id="5000 digits"),
        pytest.param("z" * 64_001, "value_too_long", id="too long"),
        (1 + 2j, "bad_return_type"),
        ([1, 2], "bad_return_type"),
        ([Feedback(value=1), 2], "bad_return_type"),
        ([None], "bad_return_type"),
        ((), "bad_return_type"),
        ({}, "bad_return_type"),
        ({1}, "bad_return_type"),
        (b"x", "bad_return_type"),
        (Grade.A, "bad_return_type"),
        (Expectation("e", 1), "bad_return_type"),
        (Feedback, "bad_return_type"),
        (object(), "bad_return_type"),
        (NotImplemented, "bad_return_type"),
        pytest.param(Liar(), "bad_return_type", id="liar"),
        pytest.param(Claims(), "bad_return_type", id="claims"),
        pytest.param(Traps(), "bad_return_type", id="traps"),
        pytest.param(Nameless(), "bad_return_type", id="nameless"),
        ((i for i in range(3)), "bad_return_type"),
        (ValueError("returned, not raised"), "bad_return_type"),
    ],
)
def test_refused_values(value: Any, code: str) -> None:
    """What cannot be kept has one error row that says why, and no value."""
    row = one(value)

    assert row["error_code"] == code
    assert row["error_message"]
    assert (row["value"], row["value_double"], row["value_string"]) == (None, None, None)


def test_a_refusal_names_the_type_and_what_would_do() -> None:
    """The message says what was returned and what may be."""
    assert one({"a": 1})["error_message"].startswith("s returned dict; a scorer returns an int")
    assert one([1])["error_message"].startswith("s returned a list with int in it")


def test_a_coroutine_is_refused_without_a_warning() -> None:
    """The message tells to write `async def`; the coroutine is closed."""

    async def score() -> int:
        return 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = one(score())
    assert row["error_code"] == "bad_return_type"
    assert "async def" in row["error_message"]


def test_numpy_scalars_are_values_and_arrays_are_not() -> None:
    """float16 to longdouble, integers, bool_ and str_ pass; datetimes and arrays do not."""
    import numpy as np

    assert one(np.float64(0.5))["value"] == "0.5"
    assert one(np.float32(0.5))["value"] == "0.5"
    assert one(np.int64(5))["value"] == "5"
    assert one(np.uint8(5))["value_double"] == 5.0
    assert one(np.bool_(True))["value"] == "true"
    assert one(np.str_("yes"))["value_string"] == "yes"
    assert one(np.longdouble(0.5))["value"] == "0.5"
    assert one(np.float32("nan"))["error_code"] == "value_not_finite"
    for odd in (np.array(1.0), np.array([1.0]), np.datetime64("2024-06-01"), np.complex64(1), np.bytes_(b"x")):
        assert one(odd)["error_code"] == "bad_return_type"


def test_the_odd_returns_corpus(shared: Path) -> None:
    """Every expression of the corpus becomes one row with a value, nothing, or a code."""
    outcomes: Counter[str] = Counter()
    for expression in json.loads((shared / "corpora" / "odd_returns.json").read_text())["returns"]:
        row = one(eval(expression))  # the corpus is ours
        assert (row["value"] is None) or (row["error_code"] is None), expression
        outcomes[row["error_code"] or ("scored" if row["value"] is not None else "empty")] += 1
    assert outcomes == {
        "scored": 19,
        "empty": 2,
        "value_not_finite": 4,
        "value_out_of_range": 1,
        "value_too_long": 1,
        "bad_return_type": 24,
    }


def test_a_feedback_keeps_name_rationale_and_extras() -> None:
    """A name of its own stays; span, source and metadata travel in `extra`."""
    row = one(
        Feedback(
            "tone",
            "no",
            rationale="rude\ud800",
            span_id="s-1",
            source=AssessmentSource("LLM_JUDGE", "gpt"),
            metadata=cast("dict[str, Any]", {"a": 1, "b": None, "c": "\ud800", 4: {"x": True}}),
        )
    )

    assert (row["assessment_name"], row["value_double"], row["rationale"]) == ("tone", 0.0, "rude\ufffd")
    assert json.loads(row["extra"]) == {
        "span_id": "s-1",
        "source_type": "LLM_JUDGE",
        "source_id": "gpt",
        "metadata": {"a": "1", "b": None, "c": "\ufffd", "4": '{"x":true}'},
    }


def test_a_feedback_without_a_name_of_its_own_takes_the_scorers() -> None:
    """MLflow's default name counts as none."""
    names: list[Any] = ["feedback", "", None, 5]
    for name in names:
        assert one(Feedback(name, 1))["assessment_name"] == "s"
    assert one(Feedback(value=1))["extra"] is None


def test_a_list_of_feedback_is_a_row_each() -> None:
    """Ordinals count from 0; a bad or empty one costs its own row only."""
    found = rows(
        [Feedback("a", 1), Feedback("b", error="no"), Feedback("c", (1,)), Feedback("d"), Feedback("e", math.nan)]
    )

    assert [row["ordinal"] for row in found] == [0, 1, 2, 3, 4]
    assert [row["assessment_name"] for row in found] == list("abcde")
    assert [row["error_code"] for row in found] == [None, "scorer_error", "bad_return_type", None, "value_not_finite"]
    assert [row["value"] for row in found] == ["1", None, None, None, None]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("bad"), "ValueError: bad"),
        ("plain", "plain"),
        (AssessmentError("RATE", "slow down"), "RATE: slow down"),
        (AssessmentError("RATE"), "RATE"),
    ],
)
def test_a_feedback_with_an_error_is_a_scorer_error(error: Any, message: str) -> None:
    """The error wins over a value, and keeps its message."""
    row = one(Feedback(value=1, error=error))

    assert (row["error_code"], row["error_message"], row["value"]) == ("scorer_error", message, None)


def test_mlflows_feedback_is_known_by_its_shape() -> None:
    """No class of ours is needed, only the attributes."""

    class MlflowFeedback:
        name, rationale, metadata, span_id, error = "feedback", "why", {"k": "v"}, None, None
        source = AssessmentSource("CODE", "default")
        expectation = None
        value = 0.25

    row = one(MlflowFeedback())
    assert (row["value"], row["rationale"], row["assessment_name"]) == ("0.25", "why", "s")
    assert json.loads(row["extra"]) == {"metadata": {"k": "v"}}
    assert len(rows([MlflowFeedback(), Feedback("b", 1)])) == 2

    class Broken(MlflowFeedback):
        @property
        def value(self) -> float:  # type: ignore[override] # it raises
            raise SystemExit(3)

    assert one(Broken())["error_code"] == "bad_return_type"


def test_long_rationales_are_cut() -> None:
    """A rationale has at most 64,000 characters; the value is kept."""
    row = one(Feedback(value=1, rationale="r" * 70_000))

    assert (row["value"], len(row["rationale"])) == ("1", 64_000)


class BadTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("bad"), "scorer_error", "ValueError: bad"),
        (KeyError("k"), "scorer_error", "KeyError: 'k'"),
        (SystemExit(3), "scorer_error", "SystemExit: 3"),
        (KeyboardInterrupt(), "scorer_error", "KeyboardInterrupt"),
        (StopIteration(), "scorer_error", "StopIteration"),
        (RecursionError("deep"), "scorer_error", "RecursionError: deep"),
        (MemoryError(), "memory", "MemoryError"),
        (TraceUnreadableError("x"), "trace_unreadable", "TraceUnreadableError: x"),
        (ScorerLoadError("x"), "load_failed", "ScorerLoadError: x"),
        (BadTextError(), "scorer_error", "BadTextError: <str failed>"),
        (ValueError("a\nb\x1b[31m\u202ec\ud800"), "scorer_error", "ValueError: a b [31m c\ufffd"),
    ],
)
def test_exceptions_have_a_code_and_one_line(error: Any, code: str, message: str) -> None:
    """Type and message, without control characters, also where str() fails."""
    assert failure_of(error) == (code, message)


def test_a_missing_mlflow_is_told_with_the_import_to_write() -> None:
    """MLflow's own pages advise imports in the function; executors need not have it."""
    code, message = failure_of(ModuleNotFoundError("No module named 'mlflow'", name="mlflow.entities"))
    assert code == "scorer_error"
    assert message.startswith("ModuleNotFoundError: No module named 'mlflow'. ")
    assert "`from backfill_spark import Feedback`" in message


@pytest.mark.parametrize(
    "secret",
    [
        "sk-abcdef1234567890",
        "sk-proj-AbCdEf_123-xyz",
        "Bearer abc.def.ghi",
        "ghp_0123456789abcdefABCDEF0123456789abcd",
        "AKIAIOSFODNN7EXAMPLE",
        "dapi0123456789abcdef",
        "d41d8cd98f00b204e9800998ecf8427e",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "xoxb-123456789012-abcdef",
    ],
)
def test_what_looks_like_a_key_is_scrubbed(secret: str) -> None:
    """Keys and tokens are taken out wherever they stand, the words around them stay."""
    for text in (f"call failed: {secret}", f"{secret} refused", "x" * 480 + f" {secret} end"):
        found = scrub(text)
        assert secret.removeprefix("Bearer ") not in found
        assert len(found) <= 500
    assert scrub(f"call failed: {secret} end").startswith("call failed")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("password=hunter2 wrong", "password=[redacted] wrong"),
        ('{"api_key": "abc"}', '{"api_key": "[redacted]"}'),
        ("Authorization: Bearer abcdefgh", "Authorization: Bearer [redacted]"),
        ("http://me:pw@host/x", "http://[redacted]@host/x"),
        ("/usr/lib/python3/site-packages/some/module/name/of_length.py", None),
        ("word" * 15, None),
        ("list index out of range", None),
    ],
)
def test_scrubbing_keeps_ordinary_text(text: str, shown: Any) -> None:
    """Names of settings, paths and sentences stay readable."""
    assert scrub(text) == (text if shown is None else shown)


def test_a_message_of_megabytes_is_cut_early() -> None:
    """Its end is never looked at, and half a key at the cut does not stay."""
    assert len(scrub("x " * 2_500_000)) == 500
    assert "sk-abc" not in scrub("- " * 1_995 + "sk-abcdefghijklmnopqrstuvwxyz" * 10 + " " * 5_000_000)


any_value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.text(st.characters(categories=["Cs", "Cc", "Cf", "Lu"]))
    | st.complex_numbers()
    | st.binary()
    | st.builds(object)
    | st.builds(Traps)
    | st.builds(Liar),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.dictionaries(st.text(), inner)
        | st.builds(Feedback, name=inner, value=inner, error=inner, source=inner, rationale=inner, metadata=inner)
    ),
)


@given(any_value)
def test_the_normaliser_is_total(value: Any) -> None:
    """Whatever is returned, there are rows, each with a value, an error or nothing, and UTF-8 can hold them."""
    found = rows(value)

    assert [row["ordinal"] for row in found] == list(range(len(found)))
    for row in found:
        assert row["value"] is None or row["error_code"] is None
        for text in row.values():
            if isinstance(text, str):
                text.encode()
        if row["value"] is not None:
            json.loads(row["value"])
            assert len(row["value_string"] or "") <= 64_000
        assert row["value_double"] is None or math.isfinite(row["value_double"])
        assert len(row["error_message"] or "") <= 500


@given(st.text())
def test_cleaning_changes_only_lone_surrogates(text: Any) -> None:
    """Text that UTF-8 can hold stays as it is."""
    assert clean(text) == text


@given(st.text(st.characters(categories=["L", "N", "P", "Z", "C"])))
def test_scrubbed_messages_are_one_short_line(text: Any) -> None:
    """No control character and no line break is left."""
    found = scrub(text)

    assert len(found) <= 500
    assert found.splitlines() in ([], [found])


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ([1, 2.5, "é", True, None], '[1,2.5,"é",true,null]'),
        ({"a": {"b": [1]}}, '{"a":{"b":[1]}}'),
        ([], "[]"),
        ({}, "{}"),
        (["\ud800"], '["\ufffd"]'),
        ([np.int64(3), np.float32(0.5)], "[3,0.5]"),
    ],
    ids=repr,
)
def test_a_feedback_may_hold_a_list_or_a_dict(value: Any, stored: str) -> None:
    """It is stored as compact JSON, and has no number."""
    row = one(Feedback("a", value))

    assert (row["value"], row["value_double"], row["value_string"], row["error_code"]) == (stored, None, None, None)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ([math.nan], "value_not_finite"),
        ({"a": {"b": math.inf}}, "value_not_finite"),
        ({1: "a"}, "bad_return_type"),
        ([(1,)], "bad_return_type"),
        ([len], "bad_return_type"),
        ([10**309], "value_out_of_range"),
        (["x" * 40_000, "y" * 40_000], "value_too_long"),
        (["x" * 70_000], "value_too_long"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_container_that_json_cannot_hold_has_a_code(value: Any, code: str) -> None:
    """The code of what is wrong in it; never a row that is no JSON."""
    row = one(Feedback("a", value))

    assert (row["value"], row["error_code"]) == (None, code)


def test_a_container_within_itself_has_a_code() -> None:
    """No end of it is looked for."""
    loop: list[object] = []
    loop.append(loop)

    assert one(Feedback("a", loop))["error_code"] == "bad_return_type"


def test_a_bare_container_is_still_no_return_value() -> None:
    """As in MLflow: a scorer returns it within a Feedback."""
    assert one({"a": 1})["error_code"] == one([1])["error_code"] == "bad_return_type"


@pytest.mark.parametrize("kind", ["HUMAN", "human"])
def test_a_human_source_is_kept(kind: str) -> None:
    """Who said it is stored as it was given."""
    row = one(Feedback("a", 1, source=AssessmentSource(kind, "anna")))

    assert json.loads(row["extra"]) == {"source_type": "HUMAN", "source_id": "anna"}
