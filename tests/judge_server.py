"""A local server that answers like a model provider, and goes wrong where a prompt says so.

    python -m tests.judge_server --port 0 --latency 0.2 --log requests.jsonl

prints its address, and answers chat completions (OpenAI, Azure, Databricks) and Anthropic's messages. What a prompt
holds decides its answer: `fault:NAME` goes wrong each time, `fault:NAMEx2` the first two times; `verdict:no` is the
verdict. Every request is counted, by the digest of its messages, in its own log. One asyncio protocol, no framework:
about 0.05 ms of CPU a request, so that a client under test is never waiting for it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import hashlib
import json
import random
import re
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

_FAULT = re.compile(rb"fault:([a-z0-9-]+?)(?:x(\d+))?(?![a-z0-9-])")
_VERDICT = re.compile(rb"verdict:([A-Za-z0-9_.]+)")
_THE_KEY = b"@key@"
_KEY = re.compile(rb"\r\n(?:authorization: bearer|x-api-key:|api-key:)\s*(\S+)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_REASONS = {200: "OK", 302: "Found", 307: "Temporary Redirect", 400: "Bad Request", 429: "Too Many Requests"}


@dataclass(frozen=True)
class Canned:
    """One answer, as it is sent."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    cut_after: int | None = None
    """Bytes of the body after which the connection is reset."""
    drip_s: float | None = None
    """Seconds between single bytes of the body."""
    hangs: bool = False
    chunked: bool = False
    """Without a Content-Length."""


@dataclass
class Log:
    """What the server saw."""

    requests: int = 0
    by_prompt: Counter[str] = field(default_factory=Counter)
    by_status: Counter[int] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)
    """Digests of prompts that got a whole answer."""
    connections: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    bodies: list[bytes] = field(default_factory=list)
    """The last 200 bodies."""
    heads: list[bytes] = field(default_factory=list)
    """The last 200 heads, keys and all."""

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "by_prompt": dict(self.by_prompt),
            "by_status": {str(k): v for k, v in self.by_status.items()},
            "answered": len(self.answered),
            "connections": self.connections,
            "most_in_flight": self.most_in_flight,
        }


class JudgeServer:
    """Answers on 127.0.0.1; all behaviour by its arguments and by what prompts hold."""

    def __init__(
        self,
        *,
        latency_s: float = 0.0,
        fills: tuple[int, int] | None = None,
        rpm: float | None = None,
        burst: float | None = None,
        tells_quota: bool = True,
        error_rate: float = 0.0,
        takes_schema: bool = True,
        redirects: str | None = None,
        key: str | None = None,
        keeps_bodies: bool = True,
        log_file: str | None = None,
    ) -> None:
        self.latency_s = latency_s
        # (window, all): nothing is answered while fewer than `window` are under way, until `all` have come.
        self.fills = fills
        self.held: deque[Callable[[], None]] = deque()
        self.rpm = rpm
        self.burst = rpm if burst is None else burst
        self.tells_quota = tells_quota
        self.error_rate = error_rate
        self.takes_schema = takes_schema
        self.redirects = redirects
        self.key = key
        self.keeps_bodies = keeps_bodies
        self.log = Log()
        self._log_file = Path(log_file).open("a", buffering=1) if log_file else None  # noqa: SIM115 - closed by stop()
        self._level = self.burst or 0.0
        self._at = time.monotonic()
        self._random = random.Random(0)
        self._server: asyncio.Server | None = None
        self.port = 0
        self.transports: set[asyncio.Transport] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self, port: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", port, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for transport in list(self.transports):
            transport.abort()
        await self._server.wait_closed()
        if self._log_file is not None:
            self._log_file.close()

    # --- what to answer

    def answer(self, path: str, head: bytes, body: bytes) -> Canned:
        if path == "/log":
            return Canned(body=json.dumps(self.log.to_json()).encode())
        prompt = json.loads(body)
        digest = hashlib.sha256(json.dumps(prompt.get("messages")).encode()).hexdigest()
        self.log.requests += 1
        self.log.by_prompt[digest] += 1
        self.log.times.append(time.monotonic())
        if self.keeps_bodies:
            self.log.bodies = [*self.log.bodies[-199:], body]
            self.log.heads = [*self.log.heads[-199:], head]
        canned = self._canned(path, head, body, prompt, self.log.by_prompt[digest])
        if _THE_KEY in canned.body:
            sent = _KEY.search(head)
            canned = replace(canned, body=canned.body.replace(_THE_KEY, sent[1] if sent else b""))
        self.log.by_status[canned.status] += 1
        if canned.status == 200 and canned.cut_after is None and not canned.hangs and canned.drip_s is None:
            self.log.answered.add(digest)
        if self._log_file is not None:
            self._log_file.write(json.dumps({"at": time.time(), "prompt": digest, "status": canned.status}) + "\n")
        return canned

    def _canned(self, path: str, head: bytes, body: bytes, prompt: dict[str, Any], seen: int) -> Canned:
        if self.redirects is not None:
            return Canned(307, b"", (("Location", self.redirects),))
        if self.key is not None and self.key.encode() not in head:
            return _error(401, "Incorrect API key provided: sk-wrong-key-1234.", "invalid_api_key")
        if self.error_rate and self._random.random() < self.error_rate:
            return _error(500, "The server had an error.", "server_error")
        told, refused = self._quota()
        if refused is not None:
            return refused
        if not self.takes_schema and "response_format" in prompt:
            return _error(400, "Unsupported parameter: response_format of type json_schema.", "unsupported_parameter")
        fault = _FAULT.search(body)
        if fault is not None and seen <= int(fault[2] or 1_000_000):
            return FAULTS[fault[1].decode()](path, prompt)
        return _reply(path, json.dumps(_verdict(prompt, body)), prompt, extra=told)

    def _quota(self) -> tuple[tuple[tuple[str, str], ...], Canned | None]:
        """Take one request from the bucket; return headers, and a refusal when it is empty."""
        if self.rpm is None or self.burst is None:
            return (), None
        now = time.monotonic()
        rate = self.rpm / 60
        self._level = min(self.burst, self._level + (now - self._at) * rate)
        self._at = now
        has_room = self._level >= 1
        if has_room:
            self._level -= 1
        told = (
            ("x-ratelimit-limit-requests", f"{self.rpm:.0f}"),
            ("x-ratelimit-remaining-requests", f"{self._level:.0f}"),
        )
        told = told if self.tells_quota else ()
        if has_room:
            return told, None
        wait = (1 - self._level) / rate
        return told, _error(429, "Rate limit reached.", "rate_limit_exceeded", (("Retry-After", f"{wait:.3f}"), *told))


def _verdict(prompt: dict[str, Any], body: bytes) -> dict[str, Any]:
    asked = _VERDICT.search(body)
    schema = prompt.get("response_format", {}).get("json_schema", {}).get("schema")
    schema = schema or (prompt.get("tools") or [{}])[0].get("input_schema") or {}
    result = schema.get("properties", {}).get("result", {})
    value: Any = {"boolean": True, "integer": 4, "number": 0.5}.get(result.get("type"), "yes")
    if result.get("enum"):
        value = result["enum"][0]
    if result.get("properties"):
        value = {name: each["enum"][0] for name, each in result["properties"].items()}
    if asked is not None:
        value = asked[1].decode()
    return {"rationale": "It fits what was asked for.", "result": value}


def _reply(
    path: str,
    text: str | None,
    prompt: dict[str, Any],
    *,
    finish: str = "stop",
    usage: bool = True,
    refusal: str | None = None,
    extra: tuple[tuple[str, str], ...] = (),
) -> Canned:
    read, wrote = len(json.dumps(prompt.get("messages"))) // 4, len(text or "") // 4
    data: dict[str, Any]
    if path.endswith("/messages"):
        is_tool = "tools" in prompt and finish == "stop"
        block = {"type": "tool_use", "id": "t", "name": "verdict", "input": json.loads(text or "{}")}
        data = {
            "content": [block] if is_tool else [{"type": "text", "text": text}],
            "stop_reason": "tool_use" if is_tool else {"length": "max_tokens"}.get(finish, "end_turn"),
            "usage": {"input_tokens": read, "output_tokens": wrote},
        }
    else:
        message = {"role": "assistant", "content": text, "refusal": refusal}
        data = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": prompt.get("model"),
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote},
        }
    if not usage:
        del data["usage"]
    return Canned(body=json.dumps(data).encode(), headers=extra)


def _huge(path: str, prompt: dict[str, Any]) -> bytes:
    """Return a good answer of 10 MB."""
    return _reply(path, _GOOD, prompt).body[:-1] + b', "more": "' + b"x" * 10_000_000 + b'"}'


def _error(status: int, message: str, code: str, headers: tuple[tuple[str, str], ...] = ()) -> Canned:
    body = json.dumps({"error": {"message": message, "type": code, "param": None, "code": code}}).encode()
    return Canned(status, body, headers)


def _date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


_GOOD = '{"rationale": "Fine.", "result": "yes"}'
Fault = Callable[[str, dict[str, Any]], Canned]


def _status(status: int, message: str, code: str, *headers: tuple[str, str]) -> Fault:
    return lambda _path, _prompt: _error(status, message, code, headers)


def _text(text: str | None, **how: Any) -> Fault:
    return lambda path, prompt: _reply(path, text, prompt, **how)


FAULTS: dict[str, Fault] = {
    "truncated": _text('{"rationale": "It is fine, bec'),
    "fenced": _text(f"Here it is:\n```json\n{_GOOD}\n```\nAnything else?"),
    "wrapped": _text(f"Sure! {_GOOD} Hope that helps."),
    "thinking": _text(f'<think>Is it {{"result": "no"}}?</think>{_GOOD}'),
    "enum": _text('{"rationale": "Hm.", "result": "maybe"}'),
    "prose": _text("I think it is fine."),
    "echo": _text('{"rationale": "As [[outputs 0123456789abcdef]] says.", "result": "yes"}'),
    "no-content": _text(None),
    "empty": _text(""),
    "no-body": lambda _path, _prompt: Canned(),
    "length": _text('{"rationale": "It', finish="length"),
    "filter": _text("", finish="content_filter"),
    "refusal": _text(None, refusal="I cannot help with that."),
    "no-usage": _text(_GOOD, usage=False),
    "no-choices": lambda _path, _prompt: Canned(body=b'{"id": "x", "choices": [], "usage": {"prompt_tokens": 7}}'),
    "no-json": lambda _path, _prompt: Canned(body=b"<html>gateway</html>"),
    "list": lambda _path, _prompt: Canned(body=b"[]"),
    "context": _status(400, "This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
    "filter400": _status(400, "The response was filtered by the content management policy.", "content_filter"),
    "bad": _status(400, "Invalid value for 'messages'.", "invalid_request_error"),
    "too-large": _status(413, "Request too large.", "request_too_large"),
    "unauthorized": _status(401, "Incorrect API key provided: sk-canary-key-0123456789.", "invalid_api_key"),
    "forbidden": _status(403, "Not allowed.", "forbidden"),
    "firewall": lambda _path, _prompt: Canned(403, b"<html><title>403 Forbidden</title>Request blocked.</html>"),
    "legal": lambda _path, _prompt: Canned(451, b"Unavailable For Legal Reasons"),
    "told-overloaded": lambda _path, _prompt: Canned(body=b'{"error": {"message": "Upstream died", "code": 502}}'),
    "told-limited": lambda _path, _prompt: Canned(body=b'{"choices": [{"error": {"code": "rate_limit_exceeded"}}]}'),
    "null-choices": lambda _path, _prompt: Canned(body=b'{"choices": null, "usage": {"prompt_tokens": 7}}'),
    "stream": lambda _path, _prompt: Canned(body=b'data: {"choices": [{"delta": {"content": "{"}}]}\n\ndata: [DONE]'),
    "over-tpm": _status(429, "Request too large: Limit 30000, Requested 45000.", "rate_limit_exceeded"),
    "context-limit": _status(400, "input length and `max_tokens` exceed context limit: 199900 + 500 > 200000", "bad"),
    "takes-no-limit": _status(400, "Unrecognized request argument supplied: max_tokens", "bad"),
    "quota-minute": _status(429, "You exceeded your current quota of requests per minute.", "insufficient_quota"),
    "no-model": _status(404, "The model does not exist.", "model_not_found"),
    "quota": _status(429, "You exceeded your current quota.", "insufficient_quota"),
    "slow-seconds": _status(429, "Slow down.", "rate_limit_exceeded", ("Retry-After", "1")),
    "slow-ms": _status(429, "Slow down.", "rate_limit_exceeded", ("Retry-After", "30"), ("retry-after-ms", "150")),
    "slow-date": lambda _path, _prompt: _error(429, "Slow down.", "rate_limit_exceeded", (("Retry-After", _date(2)),)),
    "slow-hour": _status(429, "Slow down.", "rate_limit_exceeded", ("Retry-After", "3600")),
    "slow": _status(429, "Slow down.", "rate_limit_exceeded"),
    "500": _status(500, "Oops.", "server_error"),
    "503": _status(503, "Overloaded.", "overloaded"),
    "529": _status(529, "Overloaded.", "overloaded_error"),
    "408": _status(408, "Timed out.", "timeout"),
    "409": _status(409, "Conflict.", "conflict"),
    "redirect": lambda _path, _prompt: Canned(302, b"", (("Location", "http://127.0.0.1:9/"),)),
    "drip": lambda path, prompt: Canned(body=_reply(path, _GOOD, prompt).body, drip_s=0.05),
    "hang": lambda _path, _prompt: Canned(hangs=True),
    "reset": lambda path, prompt: Canned(body=_reply(path, _GOOD, prompt).body, cut_after=20),
    "drop": lambda _path, _prompt: Canned(cut_after=0),
    "tells-key": _text('{"rationale": "You are @key@.", "result": "yes"}'),
    "tells-key-as-result": _text('{"rationale": "Hm.", "result": "@key@"}'),
    "tells-key-400": _status(400, "Invalid request of @key@." + " " * 240 + "It was @key@.", "invalid_request_error"),
    "tells-key-500": _status(500, "Failed for @key@.", "server_error"),
    "tells-key-401": _status(401, "Incorrect API key provided: @key@.", "invalid_api_key"),
    "huge": lambda path, prompt: Canned(body=_huge(path, prompt)),
    "huge-stream": lambda path, prompt: Canned(body=_huge(path, prompt), chunked=True),
    "huge-zipped": lambda path, prompt: Canned(
        body=gzip.compress(_huge(path, prompt)), headers=(("Content-Encoding", "gzip"),)
    ),
    "huge-500": lambda path, prompt: Canned(500, _huge(path, prompt)),
}


class _Connection(asyncio.Protocol):
    """One connection: HTTP/1.1 with keep-alive, one request at a time."""

    def __init__(self, server: JudgeServer) -> None:
        self._server = server
        self._buffer = b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.transports.add(self._transport)
        self._server.log.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        self._server.transports.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end]
            length = _LENGTH.search(head)
            size = int(length[1]) if length else 0
            if len(self._buffer) < end + 4 + size:
                return
            body = self._buffer[end + 4 : end + 4 + size]
            self._buffer = self._buffer[end + 4 + size :]
            path = head.split(b" ", 2)[1].decode().partition("?")[0]
            log = self._server.log
            log.in_flight += 1
            log.most_in_flight = max(log.most_in_flight, log.in_flight)
            canned = self._server.answer(path, head, body)
            latency = 0.0 if path == "/log" else self._server.latency_s
            if self._server.fills is not None and path != "/log":
                self._hold(canned, *self._server.fills)
            elif latency:
                self._loop.call_later(latency, self._send, canned)
            else:
                self._send(canned)

    def _hold(self, canned: Canned, window: int, expected: int) -> None:
        """Answer the oldest request when the window is full, and all of them when no more will come."""
        held, log = self._server.held, self._server.log
        held.append(partial(self._send, canned))
        while held and (log.in_flight >= window or log.requests >= expected):
            held.popleft()()

    def _send(self, canned: Canned) -> None:
        self._server.log.in_flight -= 1
        if canned.hangs or self._transport.is_closing():
            return
        lines = [f"HTTP/1.1 {canned.status} {_REASONS.get(canned.status, 'Status')}"]
        length = "Transfer-Encoding: chunked" if canned.chunked else f"Content-Length: {len(canned.body)}"
        lines += ["Content-Type: application/json", length]
        lines += [f"{name}: {value}" for name, value in canned.headers]
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        if canned.cut_after is not None:
            if canned.cut_after:
                self._transport.write(head + canned.body[: canned.cut_after])
            self._loop.call_later(0.02, self._transport.abort)
        elif canned.drip_s is not None:
            self._transport.write(head)
            self._drip(canned.body, canned.drip_s)
        elif canned.chunked:
            self._transport.write(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(canned.body), canned.body))
        else:
            self._transport.write(head + canned.body)

    def _drip(self, left: bytes, seconds: float) -> None:
        if left and not self._transport.is_closing():
            self._transport.write(left[:1])
            self._loop.call_later(seconds, self._drip, left[1:], seconds)


@contextlib.contextmanager
def serving(**how: Any) -> Iterator[JudgeServer]:
    """Run a server in a thread of this process for the length of a test."""
    server = JudgeServer(**how)
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(server.start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(server.stop())
        loop.close()

    thread = threading.Thread(target=run, name="judge server")
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _main(arguments: argparse.Namespace) -> None:
    server = JudgeServer(
        latency_s=arguments.latency,
        rpm=arguments.rpm,
        burst=arguments.burst,
        tells_quota=not arguments.silent_quota,
        error_rate=arguments.error_rate,
        takes_schema=not arguments.no_schema,
        redirects=arguments.redirects,
        key=arguments.key,
        keeps_bodies=False,
        log_file=arguments.log,
    )
    await server.start(arguments.port)
    print(server.url, flush=True)
    stopped = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopped.set)
    await stopped.wait()
    await server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; the address is printed")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--rpm", type=float, help="requests per minute, a bucket that starts full")
    parser.add_argument("--burst", type=float, help="size of that bucket; default: rpm")
    parser.add_argument("--silent-quota", action="store_true", help="no x-ratelimit headers")
    parser.add_argument("--error-rate", type=float, default=0.0, help="share of requests answered 500")
    parser.add_argument("--no-schema", action="store_true", help="400 on response_format")
    parser.add_argument("--redirects", metavar="ADDRESS", help="307 to this address, on everything")
    parser.add_argument("--key", help="the only key that is accepted")
    parser.add_argument("--log", help="file that gets a line for each request")
    loop_factory = None
    with contextlib.suppress(ImportError):
        import uvloop

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_main(parser.parse_args()))
