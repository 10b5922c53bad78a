"""The JSON object in a model's words."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.errors import JudgeOutputError
from backfill_spark.judges.llm.endpoints import Endpoint, Service
from backfill_spark.judges.llm.messages import Reply
from backfill_spark.judges.llm.providers import wire_of
from backfill_spark.judges.llm.reply import ReplyError, parse_reply, verdict_of
from backfill_spark.judges.llm.sender import decoded
from backfill_spark.judges.verdict import VerdictType
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
def test_the_object_is_found(text: Any) -> None:
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
def test_what_holds_no_whole_object_is_refused(text: Any, why: str) -> None:
    with pytest.raises(ReplyError, match=why):
        parse_reply(text)


def test_an_answer_that_nests_too_deep_is_bad_output() -> None:
    deep: dict[str, Any] = {}
    for _ in range(2_000):
        deep = {"a": deep}
    code, message, verdict = verdict_of(Reply(data=deep))
    assert (ErrorCode.JUDGE_BAD_OUTPUT, "the answer is nested too deep", None) == (code, message, verdict)


@given(st.text() | st.text(alphabet='{}"\\`json\n<think/> '))
def test_any_text_is_an_object_or_an_error(text: Any) -> None:
    try:
        assert isinstance(parse_reply(text), dict)
    except ReplyError:
        pass


@given(
    st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.booleans(), max_size=4),
    st.text(alphabet="ab \n.!"),
)
def test_an_object_with_words_around_it_is_that_object(data: Any, words: Any) -> None:
    """Whatever strings it holds."""
    assert data == parse_reply(f"{words}{orjson.dumps(data).decode()}{words}")


SCHEMA = VerdictType.of(Literal["yes", "no"]).schema
YES, NO = '{"rationale": "draft", "result": "yes"}', '{"rationale": "my own", "result": "no"}'


def read(text: Any, declared: Any = Literal["yes", "no"]) -> Any:
    """Return the value of a reply as a job would store it, or the code of its error row."""
    verdict_type = VerdictType.of(declared)
    code, _, verdict = verdict_of(Reply(text=text), verdict_type.schema)
    return str(code) if verdict is None else verdict_type.read(verdict)[0]


@pytest.mark.parametrize(
    "text",
    [
        f'The text asks for {{"result": "yes"}}. {NO}',
        f'{NO} although it asks for {{"result": "yes"}}.',
        f'Format: {{"rationale": "...", "result": "..."}}\n{NO}',
        f'Format: {{"rationale": "<why>", "result": "<yes or no>"}}\n{NO}',
        f'Format: {{"rationale": "why", "result": "yes"|"no"}}\n{NO}',
        f'It quotes {{"rationale": "r", "result": "unsafe"}}. {NO}',
        f"{NO}\n{NO}",
        f'{NO}\n{{"rationale": "other words", "result": " No. "}}',
        f"[{NO}]",
        f"Result: no\n```json\n{NO}\n```",
        '{"rationale": "it says {\\"result\\": \\"yes\\"}", "result": "no"}',
        'Mine: {"rationale": "it says {\\"result\\": \\"yes\\"}", "result": "no"}',
        '{"quoted": {"rationale": "r", "result": "yes"}, "rationale": "r", "result": "no"}',
        'Here: {"quoted": {"rationale": "r", "result": "yes"}, "rationale": "r", "result": "no"}',
        'Sure! {"result": "no"}',
        'He wrote {"a": "b"}. {"result": "no"}',
    ],
)
def test_of_several_objects_the_one_that_fits_the_schema_counts(text: str) -> None:
    assert read(text) == "no"


@pytest.mark.parametrize(
    "text",
    [
        f"[{YES}, {NO}]",
        f"{YES}{NO}",
        f"{NO} or rather {YES}",
        f"```json\n{YES}\n```\nNo, wait:\n```json\n{NO}\n```",
        '{"rationale": "r", "result": "yes", "result": "no"}',
        'Here: {"result": "no", "rationale": "r", "result": "yes"}',
        'The text asks for {"result": "yes"}, so my answer is no.',
        'The text asks for {"result": "yes"}. {"rationale": "it says "fine", which is wrong", "result": "no"}',
        f"Verdict: no. The text wants {YES}",
        f"**Result:** no\n\n{YES}",
        f"{YES}\n'result': 'no'",
        f'The text wants {YES}. But {{"rationale": "it is harm',
        f"The text wants {YES}. But {{'result': nope",
        '{"verdict": {"rationale": "r", "result": "yes"}}',
        '{"quoted": {"rationale": "r", "result": "yes"}, "rationale": "cut", "result": "no"',
    ],
)
def test_a_reply_that_contradicts_itself_is_no_verdict(text: str) -> None:
    try:
        assert read(text) == "judge_bad_output"
    except JudgeOutputError:  # a nested verdict: the object has no result of its own
        pass


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<think>", "</think>"),
        ("", "</think>\n\n"),
        ("<THINK>\n", "\n</THINK>"),
        ("<thinking>", "</thinking>"),
        ('<think effort="high">', "</think >"),
        ("<reasoning>", "</reasoning>"),
        ("<thought>", "</thought>"),
        ("<seed:think>", "</seed:think>"),
        ("<scratchpad>", "</scratchpad>"),
        ("&lt;think&gt;", "&lt;/think&gt;"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|channel>thought\n", "<channel|>"),
        ("<think>a <think>b</think>", "</think>"),
        ("<think>it says </think>", "</think>"),
        ("<think>", "</thinking>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>"),
        ("analysisLet us see: ", "assistantfinal"),
    ],
)
@pytest.mark.parametrize("answer", [YES, "", "I cannot say."])
def test_an_object_in_thoughts_is_no_verdict(before: str, after: str, answer: Any) -> None:
    """A "no" in thoughts never counts: the answer after them does, and without one there is no verdict."""
    assert read(f"{before}Maybe {NO}? Hm.{after}{answer}") == ("yes" if answer == YES else "judge_bad_output")


@pytest.mark.parametrize(
    "opening", ["<think>", "<Thinking>", "<reasoning>", "[think]", "<|channel|>analysis<|message|>", "analysisWe see: "]
)
def test_thoughts_that_never_end_hold_no_verdict(opening: str) -> None:
    assert read(f"{opening}Maybe {NO}?") == "judge_bad_output"


@pytest.mark.parametrize(
    "text", [f"<think/>{NO}", '{"rationale": "it leaks <think> tags", "result": "no"}', f"```json\n{NO}```"]
)
def test_what_only_looks_like_thoughts_is_read(text: str) -> None:
    assert read(text) == "no"


@pytest.mark.parametrize(
    "text",
    [
        '{"rationale": "one\ntwo\tthree\r\n", "result": "no"}',
        '{"rationale": "bell \x07 and \x00", "result": "no"}',
        '{"rationale": "fine", "result": "no",}',
        '{"rationale": "a list", "parts": [1, 2, ], "result": "no" ,\n}',
        '{"rationale": "C:\\path \\d+ it\\\'s 5\\% \\u12", "result": "no"}',
        '{"rationale": "half \\ud83d a pair", "result": "no"}',
        '{"rationale": "half \ud83d a pair", "result": "no"}',
        'Here:\n{"rationale": "one\ntwo, \\_three, ", "result": "no",}\nDone.',
        '{"rationale": "comma, ] in a text ,}", "result": "no",}',
    ],
)
def test_a_paid_answer_in_broken_json_is_read(text: str) -> None:
    """Line breaks, control characters, trailing commas, invalid escapes and half surrogate pairs."""
    code, message, verdict = verdict_of(Reply(text=text), SCHEMA)
    assert (None, None) == (code, message)
    assert orjson.loads((verdict or "").encode())["result"] == "no"


def test_a_text_judge_that_answers_a_number_has_its_text() -> None:
    assert [read(f'{{"rationale": "r", "result": {n}}}', str) for n in ("5", "0.5", "true")] == ["5", "0.5", "true"]


def test_equal_numbers_agree_and_others_do_not() -> None:
    five = '{"rationale": "r", "result": 5}'
    assert read(f'{five} {{"rationale": "r", "result": "5"}}', int) == 5
    assert read(f'{five} {{"rationale": "r", "result": 4}}', int) == "judge_bad_output"


def message_read(message: Any) -> Any:
    wire = wire_of(Service(Endpoint(name="house", provider="openai", base_url="http://127.0.0.1:1/v1"), "m"), None)
    reply = wire.reply({"choices": [{"message": {"role": "assistant", **message}}]})
    code, _, verdict = verdict_of(reply, SCHEMA)
    return str(code) if verdict is None else orjson.loads(verdict)["result"]


def call(arguments: Any) -> Any:
    return {"type": "function", "function": {"name": "verdict", "arguments": arguments}}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": None, "reasoning_content": NO}, "no"),
        ({"content": "", "reasoning": f"```json\n{NO}\n```"}, "no"),
        ({"content": "\n\n", "tool_calls": [call(NO)]}, "no"),
        ({"content": None, "tool_calls": [call(orjson.loads(NO))]}, "no"),
        ({"content": None, "function_call": {"name": "verdict", "arguments": NO}}, "no"),
        ({"content": orjson.loads(NO)}, "no"),
        ({"content": NO, "reasoning_content": YES, "tool_calls": [call(YES)]}, "no"),
        ({"content": [{"type": "reasoning", "text": YES}, {"type": "text", "text": NO}]}, "no"),
        ({"content": None, "tool_calls": [call(NO), call(YES)]}, "judge_bad_output"),
        ({"content": None, "reasoning_content": f"Perhaps {NO}? I should look again."}, "judge_bad_output"),
        ({"content": None, "reasoning_content": '{"result": "yes", "result": "no"}'}, "judge_bad_output"),
        ({"content": None}, "judge_bad_output"),
    ],
)
def test_an_answer_beside_an_empty_content_is_read(message: Any, expected: str) -> None:
    """Thoughts count only where they are the JSON object and nothing else."""
    assert message_read(message) == expected


def test_two_tools_that_contradict_each_other_are_no_verdict() -> None:
    wire = wire_of(Service(Endpoint(name="house", provider="anthropic", base_url="http://127.0.0.1:1"), "m"), None)
    blocks = [{"type": "tool_use", "input": orjson.loads(text)} for text in (YES, NO)]
    assert verdict_of(wire.reply({"content": blocks}), SCHEMA)[0] is ErrorCode.JUDGE_BAD_OUTPUT
    assert wire.reply({"content": blocks[:1] * 2}).data == orjson.loads(YES)


def test_a_body_with_half_a_surrogate_pair_is_read() -> None:
    body = json.dumps({"text": "half \ud83d"}).encode()
    assert decoded(body) == {"text": "half \ud83d"}


@pytest.mark.parametrize(
    "text",
    [
        "```json" + " " * 300_000,
        "<" + " " * 300_000,
        '{"a":' * 60_000,
        "<think>" * 40_000,
        "</think>" * 40_000,
        '{"rationale": "' + "\\" * 300_000,
        "<|channel|>final<|message|>" * 10_000,
    ],
    ids=lambda text: text[:12],
)
def test_a_model_that_repeats_itself_holds_nobody_up(text: str) -> None:
    """The time grows with the length, not with its square: a few seconds at most, hours otherwise."""
    began = time.process_time()
    with pytest.raises(ReplyError):
        parse_reply(text)
    assert time.process_time() - began < 10
