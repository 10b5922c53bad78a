"""How each provider is spoken to: address, headers, request and reply. The only holder of a key."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import orjson

from backfill_spark.judges.llm.endpoints import Service, Shape
from backfill_spark.judges.llm.reply import Reply, ReplyError, whole_object
from backfill_spark.models import compact_json

ALLOWED_PARAMETERS = ("temperature", "top_p", "seed", "reasoning_effort", "max_tokens")
"""What a judge may say about how its model answers."""
_TOOL = "verdict"
_WITHHELD = re.compile(
    r"filter|safety|prohibited|blocklist|block_list|spii|recitation|guardrail|sensitive|refusal|moderation"
)
_NATIVE_LIMITS = {"api.openai.com": "max_completion_tokens"}


def first_shape(service: Service) -> Shape:
    """Return what an endpoint most likely takes, before it was asked."""
    if service.endpoint.provider == "openai":
        for host, field in _NATIVE_LIMITS.items():
            if f"//{host}" in service.endpoint.base_url:
                return Shape(limit_field=field)
    return Shape()


class Wire:
    """One service with its key in the headers; its repr shows neither."""

    __slots__ = ("_max_tokens", "_model", "_provider", "headers", "url")

    def __init__(self, service: Service, key: str | None) -> None:
        endpoint, model = service.endpoint, quote(service.model, safe="")
        self._provider = endpoint.provider
        self._model = service.model
        self._max_tokens = service.max_output_tokens
        self.headers = {"Content-Type": "application/json", "User-Agent": "backfill-spark"}
        if self._provider == "azure":
            version = quote(endpoint.api_version or "", safe="")
            self.url = f"{endpoint.base_url}/openai/deployments/{model}/chat/completions?api-version={version}"
            secret = ("api-key", key)
        elif self._provider == "anthropic":
            self.url = f"{endpoint.base_url.removesuffix('/v1')}/v1/messages"
            self.headers["anthropic-version"] = endpoint.api_version or ""
            secret = ("x-api-key", key)
        elif self._provider == "databricks":
            root = endpoint.base_url.removesuffix("/serving-endpoints")
            self.url = f"{root}/serving-endpoints/{model}/invocations"
            secret = ("Authorization", key and f"Bearer {key}")
        else:
            self.url = f"{endpoint.base_url}/chat/completions"
            secret = ("Authorization", key and f"Bearer {key}")
        if secret[1]:
            self.headers[secret[0]] = secret[1]

    def __repr__(self) -> str:
        return f"Wire({self._provider})"

    def body(self, prompt: dict[str, Any], shape: Shape) -> bytes:
        """Return the request for a rendered prompt (`messages`, `schema`, `parameters`)."""
        parameters = {k: v for k, v in prompt.get("parameters", {}).items() if k in ALLOWED_PARAMETERS}
        limit = parameters.pop("max_tokens", self._max_tokens)
        if self._provider == "anthropic":
            return _anthropic_body(self._model, prompt, parameters, limit, shape)
        body: dict[str, Any] = {"messages": prompt["messages"], **parameters}
        if self._provider == "openai":
            body["model"] = self._model
        if shape.limit_field is not None:
            body[shape.limit_field] = limit
        if shape.structured:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": _TOOL, "strict": True, "schema": prompt["schema"]},
            }
        return orjson.dumps(body)

    def reply(self, body: Any) -> Reply:
        """Read the decoded body of an answer with status 200."""
        if not isinstance(body, dict):
            return Reply(is_empty=True)
        return _anthropic_reply(body) if self._provider == "anthropic" else _openai_reply(body)


def _openai_reply(body: dict[str, Any]) -> Reply:
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    spent = (_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return Reply(is_empty=True, input_tokens=spent[0], output_tokens=spent[1])
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    text = _text(message.get("content")) or _beside(message)
    refusal = message.get("refusal")
    return Reply(
        text=text,
        finish=_finish(choice.get("finish_reason")),
        refusal=refusal if isinstance(refusal, str) and refusal else None,
        input_tokens=spent[0],
        output_tokens=spent[1],
        is_empty=text is None and message.get("content") is None,
    )


def _anthropic_body(model: str, prompt: dict[str, Any], parameters: dict[str, Any], limit: int, shape: Shape) -> bytes:
    # The only tool is the form of the answer: nothing that runs.
    system = "\n\n".join(m["content"] for m in prompt["messages"] if m["role"] == "system")
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": limit,
        "messages": [m for m in prompt["messages"] if m["role"] != "system"],
        **{k: v for k, v in parameters.items() if k in ("temperature", "top_p")},
    }
    if system:
        body["system"] = system
    if shape.structured:
        tool = {"name": _TOOL, "description": "Give the verdict.", "input_schema": prompt["schema"]}
        body |= {"tools": [tool], "tool_choice": {"type": "tool", "name": _TOOL}}
    return orjson.dumps(body)


def _anthropic_reply(body: dict[str, Any]) -> Reply:
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    read = [_count(usage.get(k)) for k in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")]
    content = body.get("content")
    blocks = [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []
    given = [b["input"] for b in blocks if b.get("type") == "tool_use" and isinstance(b.get("input"), dict)]
    data = given[0] if given and all(other == given[0] for other in given) else None
    texts = [b["text"] for b in blocks if b.get("type") == "text" and isinstance(b.get("text"), str)]
    if given and data is None:
        texts = [compact_json(each) for each in given]
    return Reply(
        text="".join(texts) or None,
        data=data,
        finish=_finish(body.get("stop_reason")),
        input_tokens=None if read[0] is None else sum(n or 0 for n in read),
        output_tokens=_count(usage.get("output_tokens")),
        is_empty=not blocks,
    )


def _finish(reason: Any) -> str | None:
    """Return why a model stopped, in OpenAI's words: providers have their own for a filter and for the length."""
    if not isinstance(reason, str):
        return None
    if reason.lower() in ("max_tokens", "model_length", "max_output_tokens", "model_context_window_exceeded"):
        return "length"
    return "content_filter" if _WITHHELD.search(reason.lower()) else reason.lower()


def _text(content: Any) -> str | None:
    """Return the text of a message: a string, an object, or the text parts of a list without those of thoughts."""
    if isinstance(content, dict):
        return compact_json(content)
    if isinstance(content, list):
        parts = [p for p in content if isinstance(p, dict) and p.get("type", "text") in ("text", "output_text")]
        content = "".join(p["text"] for p in parts if isinstance(p.get("text"), str))
    return content if isinstance(content, str) and content.strip() else None


def _beside(message: dict[str, Any]) -> str | None:
    """Return the answer of a message without content: what a tool is called with, or thoughts that are one object."""
    calls = message.get("tool_calls")
    calls = [c.get("function") for c in calls if isinstance(c, dict)] if isinstance(calls, list) else []
    given = [c.get("arguments") for c in (*calls, message.get("function_call")) if isinstance(c, dict)]
    if given:
        return "\n".join(a if isinstance(a, str) else compact_json(a) for a in given)
    for name in ("reasoning_content", "reasoning"):
        thoughts = message.get(name)
        if isinstance(thoughts, str) and _is_object(thoughts):
            return thoughts
    return None


def _is_object(text: str) -> bool:
    try:
        return whole_object(text) is not None
    except ReplyError:
        return False


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**53 else None
