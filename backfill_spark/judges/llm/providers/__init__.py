"""How each provider is spoken to, a file each. A new one: its file, its line here, its defaults in the settings."""

from __future__ import annotations

from backfill_spark.judges.llm.endpoints import Service, Shape
from backfill_spark.judges.llm.providers.anthropic import Anthropic
from backfill_spark.judges.llm.providers.azure import Azure
from backfill_spark.judges.llm.providers.databricks import Databricks
from backfill_spark.judges.llm.providers.openai import OpenAI

_WIRES = {"openai": OpenAI, "azure": Azure, "anthropic": Anthropic, "databricks": Databricks}


def wire_of(service: Service, key: str | None) -> OpenAI:
    """Return how a service is spoken to, with its key in the headers."""
    return _WIRES[service.endpoint.provider](service, key)


def first_shape(service: Service) -> Shape:
    """Return what an endpoint most likely takes, before it was asked."""
    return _WIRES[service.endpoint.provider].first_shape(service.endpoint)
