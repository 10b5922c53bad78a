"""Databricks: a serving endpoint in the address, named like the model."""

from __future__ import annotations

from backfill_spark.judges.llm.endpoints import Endpoint
from backfill_spark.judges.llm.providers.openai import OpenAI


class Databricks(OpenAI):
    """Chat completions of a serving endpoint, whose name the model is."""

    names_model = False

    @staticmethod
    def address(endpoint: Endpoint, model: str) -> str:
        return f"{endpoint.base_url.removesuffix('/serving-endpoints')}/serving-endpoints/{model}/invocations"
