"""Anthropic's messages. The only tool is the form of the answer: nothing that runs."""

from __future__ import annotations

from typing import Any

from backfill_spark.judges.llm.endpoints import Endpoint, Service, Shape
from backfill_spark.judges.llm.messages import Reply
from backfill_spark.judges.llm.providers.openai import FORM_NAME, OpenAI, count_of, finish_of, usage_of
from backfill_spark.models import compact_json


class Anthropic(OpenAI):
    """Messages whose answer is what the one tool is called with."""

    key_header = ("x-api-key", "{}")

    def __init__(self, service: Service, key: str | None) -> None:
        super().__init__(service, key)
        self.headers["anthropic-version"] = service.endpoint.api_version or ""

    @staticmethod
    def address(endpoint: Endpoint, model: str) -> str:
        del model
        return f"{endpoint.base_url.removesuffix('/v1')}/v1/messages"

    def fields(self, prompt: dict[str, Any], parameters: dict[str, Any], limit: int, shape: Shape) -> dict[str, Any]:
        system = "\n\n".join(m["content"] for m in prompt["messages"] if m["role"] == "system")
        fields: dict[str, Any] = {
            "model": self._service.model,
            "max_tokens": limit,
            "messages": [m for m in prompt["messages"] if m["role"] != "system"],
            **{k: v for k, v in parameters.items() if k in ("temperature", "top_p")},
        }
        if system:
            fields["system"] = system
        if shape.structured:
            tool = {"name": FORM_NAME, "description": "Give the verdict.", "input_schema": prompt["schema"]}
            fields |= {"tools": [tool], "tool_choice": {"type": "tool", "name": FORM_NAME}}
        return fields

    def read(self, body: dict[str, Any]) -> Reply:
        usage = usage_of(body)
        read = [
            count_of(usage.get(k)) for k in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        ]
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
            finish=finish_of(body.get("stop_reason")),
            input_tokens=None if read[0] is None else sum(n or 0 for n in read),
            output_tokens=count_of(usage.get("output_tokens")),
            is_empty=not blocks,
        )
