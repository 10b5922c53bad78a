"""OpenAI's chat completions, which vLLM, Ollama, gateways and most others take, too."""

from __future__ import annotations

import re
from typing import Any, ClassVar
from urllib.parse import quote

import orjson

from backfill_spark.judges.llm.endpoints import Endpoint, Service, Shape
from backfill_spark.judges.llm.messages import Reply
from backfill_spark.judges.llm.reply import ReplyError, whole_object
from backfill_spark.models import compact_json

_PARAMETERS = ("temperature", "top_p", "seed", "reasoning_effort", "max_tokens")
"""What a judge may say about how its model answers."""
FORM_NAME = "verdict"
_WITHHELD = re.compile(
    r"filter|safety|prohibited|blocklist|block_list|spii|recitation|guardrail|sensitive|refusal|moderation"
)


class OpenAI:
    """One service with its key in the headers; its repr shows neither."""

    names_model: ClassVar[bool] = True
    """True when a request names the model; else its address does."""
    key_header: ClassVar[tuple[str, str]] = ("Authorization", "Bearer {}")

    def __init__(self, service: Service, key: str | None) -> None:
        self._service = service
        self.url = self.address(service.endpoint, quote(service.model, safe=""))
        self.headers = {"Content-Type": "application/json", "User-Agent": "backfill-spark"}
        if key:
            name, form = self.key_header
            self.headers[name] = form.format(key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @staticmethod
    def address(endpoint: Endpoint, model: str) -> str:
        """Return the URL of all requests; `model` is quoted."""
        del model
        return f"{endpoint.base_url}/chat/completions"

    @staticmethod
    def first_shape(endpoint: Endpoint) -> Shape:
        """Return the request form that an endpoint most likely takes, before it was asked."""
        return Shape(limit_field="max_completion_tokens") if "//api.openai.com" in endpoint.base_url else Shape()

    def body(self, prompt: dict[str, Any], shape: Shape) -> bytes:
        """Return the request for a rendered prompt (`messages`, `schema`, `parameters`)."""
        parameters = {k: v for k, v in prompt.get("parameters", {}).items() if k in _PARAMETERS}
        limit = parameters.pop("max_tokens", self._service.max_output_tokens)
        return orjson.dumps(self.fields(prompt, parameters, limit, shape))

    def fields(self, prompt: dict[str, Any], parameters: dict[str, Any], limit: int, shape: Shape) -> dict[str, Any]:
        """Return the fields of a request; `limit` is for the tokens of its answer."""
        fields: dict[str, Any] = {"messages": prompt["messages"], **parameters}
        if self.names_model:
            fields["model"] = self._service.model
        if shape.limit_field is not None:
            fields[shape.limit_field] = limit
        if shape.structured:
            fields["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": FORM_NAME, "strict": True, "schema": prompt["schema"]},
            }
        return fields

    def reply(self, body: Any) -> Reply:
        """Read the decoded body of an answer with status 200."""
        return self.read(body) if isinstance(body, dict) else Reply(is_empty=True)

    def read(self, body: dict[str, Any]) -> Reply:
        """Read the object that an answer is."""
        usage = usage_of(body)
        spent = (count_of(usage.get("prompt_tokens")), count_of(usage.get("completion_tokens")))
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
            finish=finish_of(choice.get("finish_reason")),
            refusal=refusal if isinstance(refusal, str) and refusal else None,
            input_tokens=spent[0],
            output_tokens=spent[1],
            is_empty=text is None and message.get("content") is None,
        )


def usage_of(body: dict[str, Any]) -> dict[str, Any]:
    """Return the token counts of an answer."""
    usage = body.get("usage")
    return usage if isinstance(usage, dict) else {}


def count_of(value: Any) -> int | None:
    """Return a number of tokens, or None for what is none."""
    return value if type(value) is int and 0 <= value < 2**53 else None


def finish_of(reason: Any) -> str | None:
    """Translate a provider's finish reason into OpenAI's: many have their own for a filter and for the length."""
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
