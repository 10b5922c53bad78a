"""Services: the endpoint, model and price behind each model URI of a job; whether it has its key and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backfill_spark.errors import BackfillRefusedError
from backfill_spark.judges.llm.client import probe
from backfill_spark.judges.llm.endpoints import Service, price_of, resolve
from backfill_spark.storage.capabilities import capabilities

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.models import Request
    from backfill_spark.settings.schema import Settings


def services_of(settings: Settings, request: Request) -> dict[str, Service]:
    """Return the service of each model that the request's judges ask.

    Raises:
        BackfillRefusedError: a model URI or its endpoint cannot be used.
    """
    out = {}
    for uri in sorted(set(request.models.values())):
        endpoint, model = resolve(uri, settings.judge)
        out[uri] = Service(
            endpoint, model, price=price_of(endpoint, model), max_output_tokens=settings.judge.max_output_tokens
        )
    return out


def probed(service: Service) -> Service:
    """Ask one small question, counted and paid apart from `calls`.

    Raises:
        BackfillRefusedError: the key is not there, or the model does not answer.
    """
    found = probe(service)
    if found.problem is not None:
        raise BackfillRefusedError(found.problem)
    return found.service


def prices_missing(services: Mapping[str, Service]) -> list[str]:
    """List the problems of models without a price, for which `max_cost_usd` cannot be kept."""
    return [
        f"max_cost_usd: the price of {uri!r} is unknown. Set judge.endpoints.{service.endpoint.name}.prices, or use "
        "max_calls."
        for uri, service in services.items()
        if service.price is None
    ]


def keys_missing(spark: SparkSession, services: Mapping[str, Service]) -> list[str]:
    """List the keys that executors lack; the keys themselves stay there."""
    endpoints = [s.endpoint for s in services.values()]
    slots = min(capabilities(spark).slots, 64)

    def look(batches: Any) -> Any:
        import pyarrow as pa

        from backfill_spark.judges.llm.endpoints import key_problem

        problems = [problem for problem in map(key_problem, endpoints) if problem is not None]
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"problem": pa.array(problems, pa.string())})

    rows = spark.range(0, slots, 1, slots).mapInArrow(look, "problem string").collect()
    return sorted({row[0] for row in rows})
