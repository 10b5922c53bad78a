"""One request: what is sent, and what comes back: a reply of the model, or a fault and what it may have cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

import aiohttp
import orjson

from backfill_spark.judges.llm.endpoints import Service, Shape, read_key
from backfill_spark.judges.llm.error_body import status_told
from backfill_spark.judges.llm.messages import Reply
from backfill_spark.judges.llm.providers import wire_of
from backfill_spark.judges.llm.retry import CONNECT_S, FIRST_CONNECT_S, Action, Fault, fault_of, unreached
from backfill_spark.models import ErrorCode
from backfill_spark.scoring.feedback import scrub

MAX_BODY = 1 << 20
"""Bytes of an answer that are read; a larger one is no verdict."""
SHORTEST_KEY = 12
"""Characters; shorter ones are words such as EMPTY, which servers without keys are given."""
TOO_LONG = Fault(Action.ROW, ErrorCode.JUDGE_BAD_OUTPUT, f"the answer is longer than {MAX_BODY:,} bytes")
_NO_REPLY = Reply()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one request came to: `reply` without a fault is the model's, with one it only tells what was used."""

    fault: Fault | None = None
    reply: Reply = _NO_REPLY
    headers: Mapping[str, str] | None = None
    """Of the answer; None when there was none."""
    latency_ms: float | None = None
    is_sent: bool = True
    """False when nobody was found to send it to."""
    is_billed: bool = True
    """True when it may have been paid, whatever came back."""
    cost_usd: float | None = None
    """None where unknown."""


class Sender:
    """Sends requests to one service over one session. Holds its key; its messages never do."""

    def __init__(self, service: Service) -> None:
        self._endpoint, self._price = service.endpoint, service.price
        self._key = read_key(service.endpoint)
        self._wire = wire_of(service, self._key)
        self._is_reached = service.is_probed

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._endpoint.max_in_flight, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._wire.headers,
        )

    async def close(self) -> None:
        await self._session.close()

    async def send(self, prompt: dict[str, Any], shape: Shape, *, seconds: float, tries: int) -> Outcome:
        """Send one request, and read what comes back within `seconds`; it is the `tries`-th for its question."""
        started = monotonic()
        whole = self._endpoint.timeout_s
        timeout = aiohttp.ClientTimeout(
            total=max(0.001, seconds),
            sock_connect=min(CONNECT_S if self._is_reached else FIRST_CONNECT_S, whole),
            sock_read=whole / 2,
        )
        try:
            async with self._session.post(
                self._wire.url, data=self._wire.body(prompt, shape), allow_redirects=False, timeout=timeout
            ) as response:
                status, headers = response.status, response.headers
                body = await _read(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            why = "no connection in time" if isinstance(error, TimeoutError) else _refusal(error)
            code = ErrorCode.TIMEOUT if isinstance(error, TimeoutError) else ErrorCode.JUDGE_ERROR
            message = f"the endpoint cannot be reached at {self._endpoint.base_url}: {why}"
            return Outcome(unreached(code, message, tries=tries, is_known=self._is_reached), is_sent=False)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            code = ErrorCode.TIMEOUT if isinstance(error, TimeoutError) else ErrorCode.JUDGE_ERROR
            return Outcome(Fault(Action.RETRY, code, _described(error)))
        self._is_reached = True
        latency = (monotonic() - started) * 1e3
        if body is None:
            return Outcome(TOO_LONG, headers=headers, latency_ms=latency)
        if self._key is not None and len(self._key) >= SHORTEST_KEY:
            body = body.replace(self._key.encode(), b"[key]")
        if status != 200:
            # A server that failed in the middle may bill what it did; one that refused does not.
            refused = fault_of(status, headers, body, shape)
            return Outcome(refused, headers=headers, latency_ms=latency, is_billed=status >= 500)
        data = None
        try:
            data = decoded(body)
            reply = self._wire.reply(data)
        except Exception:  # whatever stands in it: one odd answer is data
            reply = Reply(is_empty=True)
        told = status_told(data)
        fault = None if told is None else fault_of(told, headers, body, shape, sent=200)
        cost = None
        if self._price is not None and reply.input_tokens is not None and reply.output_tokens is not None:
            cost = self._price.of(reply.input_tokens, reply.output_tokens)
        return Outcome(fault, reply, headers, latency, is_billed=told is None or told >= 500, cost_usd=cost)

    def scrubbed(self, message: str) -> str:
        """Return a message on one line without keys."""
        return scrub(message.replace(self._key, "[key]") if self._key else message)


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
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


def _described(error: Exception) -> str:
    """Describe an error on the way, without an address or a body."""
    if isinstance(error, TimeoutError):
        return "no complete answer in time"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError | aiohttp.ClientOSError):
        return "the connection broke off"
    return f"the answer cannot be read: {type(error).__name__}"


def _refusal(error: Exception) -> str:
    """Describe why there was no connection: refused, an unknown name, or a certificate."""
    cause = getattr(error, "os_error", error)
    return f"{getattr(cause, 'strerror', None) or type(cause).__name__} ({type(cause).__name__})"
