"""How each provider is spoken to, a file each. A new one: its file, its line here, its defaults in the settings."""

from __future__ import annotations

from backfill_spark.judges.llm.endpoints import Service, Shape
from backfill_spark.judges.llm.providers.anthropic import Anthropic
from backfill_spark.judges.llm.providers.azure import Azure
from backfill_spark.judges.llm.providers.databricks import Databricks
from backfill_spark.judges.llm.providers.openai import OpenAI

_WIRES = {"openai": OpenAI, "azure": Azure, "anthropic": Anthropic, "databricks": Databricks}


def wire_of(service: Service, key: str | None) -> OpenAI:
    """Return the provider's form of requests and replies, with the key in its headers."""
    return _WIRES[service.endpoint.provider](service, key)


def first_shape(service: Service) -> Shape:
    """Return the request form that an endpoint most likely takes, before it was asked."""
    return _WIRES[service.endpoint.provider].first_shape(service.endpoint)
