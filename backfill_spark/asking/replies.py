"""From the text that a model wrote to the JSON object in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

MAX_TRIES = 32
"""Places in a text where an object is looked for: a text of a thousand braces must stay cheap."""
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"```[A-Za-z0-9_-]*[ \t]*\r?\n(.*?)```", re.DOTALL)


class ReplyError(ValueError):
    """A text without one JSON object in it."""


def parse_reply(text: str) -> dict[str, Any]:
    """Return the JSON object that a model's text is or holds.

    Accepted are the bare object, an object in a code fence, and one object with words around it. Thoughts
    between `<think>` tags are not looked at.

    Raises:
        ReplyError: there is no complete object; a list, a number or a text is none.
    """
    bare = text.strip()
    found = _object(bare)
    if found is not None:
        return found
    bare = _THOUGHTS.sub("", bare).strip()
    for candidate in _candidates(bare):
        found = _object(candidate)
        if found is not None:
            return found
    if not bare:
        raise ReplyError("the answer is empty")
    if "{" in bare:
        raise ReplyError("the answer holds no complete JSON object: it was cut off, or is no valid JSON")
    raise ReplyError("the answer holds no JSON object")


def _candidates(text: str) -> Iterator[str]:
    yield text
    for match in _FENCE.finditer(text):
        yield match[1].strip()
    start = text.find("{")
    for _ in range(MAX_TRIES):
        if start < 0:
            return
        end = _end_of_object(text, start)
        if end is None:
            start = text.find("{", start + 1)
        else:
            yield text[start:end]
            start = text.find("{", end)


def _end_of_object(text: str, start: int) -> int | None:
    """Return the place after the brace that closes the one at `start`, or None."""
    depth, position, inside, size = 0, start, False, len(text)
    while position < size:
        character = text[position]
        if inside:
            if character == "\\":
                position += 1
            elif character == '"':
                inside = False
        elif character == '"':
            inside = True
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    return None


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
