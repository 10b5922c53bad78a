"""The JSON object in a model's words."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.asking.readings import verdict_of
from backfill_spark.asking.replies import ReplyError, parse_reply
from backfill_spark.asking.wires import Reply
from backfill_spark.models import ErrorCode

GOOD = {"rationale": 'It says "}" and {', "result": "yes"}
TEXT = orjson.dumps(GOOD).decode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"\n  {TEXT}\n",
        f"```json\n{TEXT}\n```",
        f"```\n{TEXT}\n```",
        f"Here it is:\n```json\n{TEXT}\n```\nAnything else?",
        f"Sure! {TEXT} Hope that helps.",
        f"A set {{a, b}} first. {TEXT}",
        f'<think>{{"result": "no"}}</think>{TEXT}',
        f'{TEXT}\n{{"result": "no"}}',
        "```json\n" + orjson.dumps(GOOD, option=orjson.OPT_INDENT_2).decode() + "\n```",
    ],
)
def test_the_object_is_found(text):
    assert parse_reply(text) == GOOD


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("yes", "no JSON object"),
        ('"yes"', "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ("null", "no JSON object"),
        (TEXT[:-3], "cut off"),
        ("{result: yes}", "cut off"),
        ('{"result": NaN}', "cut off"),
        ("{" * 100_000, "cut off"),
    ],
)
def test_what_holds_no_whole_object_is_refused(text, why):
    with pytest.raises(ReplyError, match=why):
        parse_reply(text)


def test_an_answer_that_nests_too_deep_is_bad_output():
    deep = {}
    for _ in range(2_000):
        deep = {"a": deep}
    code, message, verdict = verdict_of(Reply(data=deep))
    assert (ErrorCode.JUDGE_BAD_OUTPUT, "the answer is nested too deep", None) == (code, message, verdict)


@given(st.text() | st.text(alphabet='{}"\\`json\n<think/> '))
def test_any_text_is_an_object_or_an_error(text):
    try:
        assert isinstance(parse_reply(text), dict)
    except ReplyError:
        pass


@given(
    st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.booleans(), max_size=4),
    st.text(alphabet="ab \n.!"),
)
def test_an_object_with_words_around_it_is_that_object(data, words):
    """Whatever strings it holds."""
    assert data == parse_reply(f"{words}{orjson.dumps(data).decode()}{words}")
