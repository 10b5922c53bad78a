"""Azure OpenAI: a deployment in the address, and a header of its own for the key."""

from __future__ import annotations

from urllib.parse import quote

from backfill_spark.judges.llm.endpoints import Endpoint
from backfill_spark.judges.llm.providers.openai import OpenAI


class Azure(OpenAI):
    """Chat completions of a deployment, whose name the model is."""

    names_model = False
    key_header = ("api-key", "{}")

    @staticmethod
    def address(endpoint: Endpoint, model: str) -> str:
        version = quote(endpoint.api_version or "", safe="")
        return f"{endpoint.base_url}/openai/deployments/{model}/chat/completions?api-version={version}"
