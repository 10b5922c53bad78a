"""Sinks: the places that results can be delivered to, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfill_spark.delivery.place import DATABASES

if TYPE_CHECKING:
    from backfill_spark.delivery.place import Place
    from backfill_spark.delivery.result import Versions
    from backfill_spark.delivery.sinks.sink import Sink
    from backfill_spark.storage.stores import Stores


def sink_of(place: Place, versions: Versions, stores: Stores) -> Sink:
    """Return the sink of a place; nothing is asked yet.

    Raises:
        BackfillRefusedError: its key is missing, or what it needs is not installed.
    """
    if place.kind == "table":
        from backfill_spark.delivery.sinks.annotations_table import AnnotationsTable

        return AnnotationsTable(place, stores)
    if place.kind == "mlflow" and place.address.startswith(DATABASES):
        from backfill_spark.delivery.sinks.mlflow_database import MlflowDatabase

        return MlflowDatabase(place)
    if place.kind == "mlflow":
        from backfill_spark.delivery.sinks.mlflow import Mlflow

        return Mlflow(place)
    if place.kind == "phoenix":
        from backfill_spark.delivery.sinks.phoenix import Phoenix

        return Phoenix(place, versions)
    if place.kind == "langfuse":
        from backfill_spark.delivery.sinks.langfuse import Langfuse

        return Langfuse(place)
    from backfill_spark.delivery.sinks.otel import Otel

    return Otel(place)
