"""From the text that a model wrote to the JSON object in it that is its answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from backfill_spark.errors import JudgeOutputError, ScorerDefinitionError
from backfill_spark.judges.llm.messages import Reply
from backfill_spark.judges.verdict import VerdictType
from backfill_spark.models import ErrorCode, compact_json
from backfill_spark.traces.decode import clean

MAX_UNCLOSED = 8
"""Braces that nothing closes before a text is given up: a text of a thousand of them must stay cheap."""
_FENCE = re.compile(r"```[\w-]*+")
_START = re.compile(r'\{(?=\s*["}])')
_PART = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}]', re.DOTALL)
_FAULT = re.compile(r'"(?:[^"\\]|\\.)*+"|,(?=\s*[}\]])', re.DOTALL)
_BAD_ESCAPE = re.compile(r'\\(?:(["\\/bfnrt]|u[0-9a-fA-F]{4})|)')
# Thoughts: `<think>` and its many spellings, and the channels of gpt-oss.
_TAG = re.compile(
    r"(?:<|&lt;)\s*+\|?(?P<a>/|end_(?:of_)?)?\s*+(?:[\w-]*[:_-])?"
    r"(?:think|thought|reason|analy[sz]|scratch_?pad|reflect|monologue)\w*(?:\s[^<>]*)?(?<!/)\|?(?:>|&gt;)"
    r"|\[(?P<b>/)?think(?:ing)?\]|◁(?P<c>/)?think▷|<\|channel>|(?P<d><channel\|>)",
    re.IGNORECASE,
)
_CHANNEL = re.compile(r"<\|channel\|>|\A\s*(?:assistant)?(?:analysis|commentary)(?=\w)|assistantfinal")
_FINAL = re.compile(
    r"(?:<\|channel\|>\s*final\b.{0,60}?<\|message\|>|assistantfinal)(.*?)"
    r"(?=<\|(?:end|return|start|channel|call)\|>|assistantfinal|\Z)",
    re.DOTALL,
)
_FORM = re.compile(r"\s*(?:[.…]+|<[^<>]*>|\[[^\[\]]*\]|yes\W+(?:or\W+)?no)\s*", re.IGNORECASE)
_SAID = re.compile(
    r"""\b(?:result|verdict|answer|decision)\b["'`*_\s]*[:=]["'`*_\s]*([\w.+-]++)(?!["'`*\s]*(?:\||/|or\b))""",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")
_BROKEN = re.compile(r"""\{\s*["'](?:rationale|result)["']\s*:""")

NO_ANSWER = "the reply holds no answer"

Reader = Callable[[Any], Any]


class ReplyError(ValueError):
    """A text without one JSON object that is its answer."""


def parse_reply(text: str, schema: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the JSON object that is a model's answer.

    The text may be the object, or hold it in a code fence, in a list or among words. Of several objects, those count
    that have a rationale and a result, then those whose result fits `schema`; they must agree in it. Thoughts do not
    count. Line breaks in texts, trailing commas and invalid escapes are read.

    Raises:
        ReplyError: there is no such object, or what the text says contradicts itself.
    """
    whole = whole_object(text)
    if whole is not None:
        return whole
    answer = _without_thoughts(text)
    whole = whole_object(answer)
    if whole is not None:
        return whole
    parts = list(_parts(answer))
    found = [part for part in parts if isinstance(part, dict)]
    if found:
        words = [part for part in parts if isinstance(part, str)]
        if _BROKEN.search(words[-1]):
            raise ReplyError("the last JSON object of the answer is not complete")
        return _chosen(found, " ".join(words), _reader(schema))
    if not answer.strip():
        raise ReplyError("the answer is empty" if not text.strip() else "there is no answer after the thoughts")
    if "{" in answer:
        raise ReplyError("the answer holds no complete JSON object: it was cut off, or is no valid JSON")
    raise ReplyError("the answer holds no JSON object")


def whole_object(text: str) -> dict[str, Any] | None:
    """Return the object that the whole text is, with or without a code fence around it."""
    text = text.strip()
    fence = _FENCE.match(text)
    return _object(text[fence.end() :].removesuffix("```").strip() if fence else text)


def _without_thoughts(text: str) -> str:
    if _CHANNEL.search(text):
        text = "\n".join(_FINAL.findall(text))
    kept, position, is_inside = [], 0, False
    for tag in _TAG.finditer(text):
        if not any(tag.groups()):
            if not is_inside:
                kept.append(text[position : tag.start()])
            is_inside = True
        else:
            if not is_inside:  # a chat template has written the first tag itself
                kept.clear()
            is_inside = False
        position = tag.end()
    return "".join(kept) + ("" if is_inside else text[position:])


def _parts(text: str) -> Iterator[str | dict[str, Any]]:
    """Cut a text into its outermost JSON objects and the words around them."""
    said, position, unclosed = 0, 0, 0
    while (start := _START.search(text, position)) is not None:
        end = _end_of_object(text, start.start())
        if end is None:
            unclosed += 1
            if unclosed > MAX_UNCLOSED:
                raise ReplyError("the answer holds no complete JSON object: it was cut off, or is no valid JSON")
            position = start.end()
            continue
        found = _object(text[start.start() : end])
        if found is not None:
            yield text[said : start.start()]
            yield found
            said = end
        position = end
    yield text[said:]


def _end_of_object(text: str, start: int) -> int | None:
    """Return the place after the brace that closes the one at `start`, or None."""
    depth = 0
    for part in _PART.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(part[0], 0)
        if depth == 0:
            return part.end()
    return None


def _object(text: str) -> dict[str, Any] | None:
    if not (text.startswith("{") and text.endswith("}")):
        return None
    for mend in (False, True):
        try:
            found = json.loads(
                _FAULT.sub(_mended, text) if mend else text,
                strict=False,
                parse_constant=_no_number,
                object_pairs_hook=_unambiguous,
            )
        except ReplyError:
            raise
        except RecursionError:
            raise ReplyError("the answer is nested too deep") from None
        except ValueError:
            continue
        return found if isinstance(found, dict) else None
    return None


def _mended(part: re.Match[str]) -> str:
    """Drop a trailing comma, or read the backslash of an invalid escape as itself."""
    if part[0] == ",":
        return ""
    return _BAD_ESCAPE.sub(lambda escape: escape[0] if escape[1] else "\\\\", part[0])


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if any(key == "result" and value != made["result"] for key, value in pairs):
        raise ReplyError("the answer has two results that differ")
    return made


def _reader(schema: Mapping[str, Any] | None) -> Reader:
    """Return a function that reads a result by the schema; None where it does not fit."""
    try:
        verdict_type = VerdictType.of((schema or {})["properties"]["result"])
    except (KeyError, TypeError, ScorerDefinitionError):
        return lambda found: compact_json(_folded(found))

    def read(found: Any) -> Any:
        try:
            return _folded(verdict_type.value_of(found))
        except JudgeOutputError:
            return None

    return read


def _folded(value: Any) -> Any:
    return value.strip().casefold() if isinstance(value, str) else value


def _chosen(found: list[dict[str, Any]], words: str, read: Reader) -> dict[str, Any]:
    """Return the object that counts, when all that say a result agree."""
    objects = [o for o in found if not _is_form(o)] or found
    complete = [o for o in objects if {"result", "rationale"} <= o.keys()]
    pool = complete or [o for o in objects if "result" in o] or objects
    pool = [o for o in pool if read(o.get("result")) is not None] or pool
    first = pool[0]
    result = read(first.get("result"))
    if any(read(o.get("result")) != result or ("result" not in o and o != first) for o in pool):
        raise ReplyError("the answer holds several JSON objects that differ")
    if "result" in first:
        # A quoted verdict has no rationale; the model's own may then stand in the words around it.
        others = [m[1] for m in _SAID.finditer(words)] + ([] if complete else _WORD.findall(words))
        if any(_contradicts(word, result, read) for word in others):
            raise ReplyError("the answer says one thing in its JSON object and another around it")
    return first


def _contradicts(word: str, result: Any, read: Reader) -> bool:
    word = word.strip(".")
    said = read(word)
    # Free texts fit everything; only a plain yes or no is told apart from them.
    is_free = read("\0") is not None
    return said not in (None, result) and (not is_free or word.casefold() in ("yes", "no"))


def _is_form(answer: dict[str, Any]) -> bool:
    """True for an object that only shows the form of an answer."""
    return any(isinstance(v, str) and _FORM.fullmatch(v) for v in (answer.get("rationale"), answer.get("result")))


def verdict_of(
    reply: Reply, schema: Mapping[str, Any] | None = None
) -> tuple[ErrorCode | None, str | None, str | None]:
    """Return error code and message, or the JSON object of an answer that `schema` was given for."""
    if reply.refusal is not None:
        return ErrorCode.JUDGE_REFUSED, "the model refused to answer", None
    if reply.finish == "content_filter":
        return ErrorCode.JUDGE_REFUSED, "the provider's content filter withheld the answer", None
    if reply.finish == "length":
        return ErrorCode.JUDGE_BAD_OUTPUT, "the answer was cut off (judge.max_output_tokens)", None
    if reply.is_empty:
        return ErrorCode.JUDGE_BAD_OUTPUT, NO_ANSWER, None
    try:
        verdict = compact_json(parse_reply(reply.text or "", schema) if reply.data is None else reply.data)
        return None, None, clean(verdict)
    except ReplyError as error:
        return ErrorCode.JUDGE_BAD_OUTPUT, str(error), None
    except RecursionError:
        return ErrorCode.JUDGE_BAD_OUTPUT, "the answer is nested too deep", None
