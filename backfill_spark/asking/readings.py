"""Reading what came back: bytes up to a limit, the verdict in a reply, the words for a broken connection."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import aiohttp
import orjson

from backfill_spark.asking.faults import Action, Fault
from backfill_spark.asking.replies import ReplyError, parse_reply
from backfill_spark.asking.wires import Reply
from backfill_spark.models import ErrorCode, compact_json

MAX_BODY = 1 << 20
"""Bytes of an answer that are read; a larger one is no verdict."""
NO_ANSWER = "the reply holds no answer"
TOO_LONG = Fault(Action.ROW, ErrorCode.JUDGE_BAD_OUTPUT, f"the answer is longer than {MAX_BODY:,} bytes")


async def read_body(response: aiohttp.ClientResponse) -> bytes | None:
    """Read the body, or nothing of one that is too long."""
    length = response.content_length
    if length is not None and length > MAX_BODY:
        response.close()
        return None
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_BODY:
            response.close()
            return None
        parts.append(part)
    return b"".join(parts)


def decoded(body: bytes) -> Any:
    """Decode the JSON body of an answer; half a surrogate pair in it is no reason to lose the rest.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body.decode("utf-8", "replace"), strict=False)


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
        return None, None, verdict.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    except ReplyError as error:
        return ErrorCode.JUDGE_BAD_OUTPUT, str(error), None
    except RecursionError:
        return ErrorCode.JUDGE_BAD_OUTPUT, "the answer is nested too deep", None


def described(error: Exception) -> str:
    """Return what went wrong on the way, without an address or a body."""
    if isinstance(error, TimeoutError):
        return "no complete answer in time"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError | aiohttp.ClientOSError):
        return "the connection broke off"
    return f"the answer cannot be read: {type(error).__name__}"
