"""A Delta table in the shape of Databricks' `<prefix>_otel_annotations`, which MLflow reads beside its traces.

Facts, from MLflow's source: a row of type FEEDBACK has the assessment's id, the plain JSON value (NULL of an error),
the rationale as its comment, and the source, span and error in its metadata, under keys that begin with `mlflow.`.
`value` and `metadata` are VARIANT; in a table that has them as STRING, JSON text is written.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.delivery.result import hex_id
from backfill_spark.errors import BackfillRefusedError
from backfill_spark.models import compact_json
from backfill_spark.settings.locations import Location
from backfill_spark.storage.commit_log import is_delta
from backfill_spark.storage.delta_table import inserted, merge_into, updated
from backfill_spark.storage.retry import until_alone

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from backfill_spark.delivery.place import Place
    from backfill_spark.delivery.result import Result
    from backfill_spark.storage.stores import Stores

_KINDS = {
    "annotation_id": "STRING",
    "target_type": "STRING",
    "target_id": "STRING",
    "annotation_type": "STRING",
    "name": "STRING",
    "value": "VARIANT",
    "comment": "STRING",
    "metadata": "VARIANT",
    "created_at": "TIMESTAMP",
    "created_by": "STRING",
    "updated_at": "TIMESTAMP",
    "updated_by": "STRING",
    "deleted_at": "TIMESTAMP",
    "deleted_by": "STRING",
    "_change_type": "STRING",
}
_VARIANTS = ("value", "metadata")
_FINGERPRINT = "$['backfill_spark.fingerprint']"


class AnnotationsTable:
    """A table of annotations, written by MERGE on `annotation_id`; made when it is not there."""

    size = 50_000
    shows = True

    def __init__(self, place: Place, stores: Stores) -> None:
        self._place = place
        self._stores = stores

    def unfit(self, result: Result) -> str | None:
        del result
        return None

    async def open(self) -> None:
        spark, location = self._stores.spark, Location.parse(self._place.address)
        self._location, named = location, location.name
        if not (spark.catalog.tableExists(named) if named else is_delta(spark, str(location.path))):
            columns = ", ".join(f"{name} {kind}" for name, kind in _KINDS.items())
            spark.sql(f"CREATE TABLE {location.quoted} ({columns}) USING delta")
        found = {field.name: field.dataType.simpleString().upper() for field in self._rows().schema}
        wrong = {
            n: k for n, k in _KINDS.items() if found.get(n) != k and not (n in _VARIANTS and found.get(n) == "STRING")
        }
        if wrong:
            raise BackfillRefusedError(
                f"The table {self._place.address!r} has not the shape of annotations: it lacks {wrong}. Name another "
                "table, or one that is not there yet."
            )
        self._texts = [name for name in _VARIANTS if found[name] == "STRING"]

    async def close(self) -> None:
        return

    async def send(self, results: Sequence[Result]) -> dict[str, str]:
        rows = self._frame([_row(r) for r in results])
        names = list(_KINDS)
        clauses = f"WHEN MATCHED THEN {updated(names)} WHEN NOT MATCHED THEN {inserted(names)}"
        until_alone(lambda: merge_into(self._location, rows, "t.annotation_id = s.annotation_id", clauses))
        return {}

    def _rows(self) -> DataFrame:
        return self._stores.spark.table(self._location.quoted)

    def _frame(self, rows: list[tuple[Any, ...]]) -> DataFrame:
        texts = _schema(_KINDS | dict.fromkeys(_VARIANTS, "STRING"))
        frame = self._stores.spark.createDataFrame(rows, texts)
        parsed = {name: F.parse_json(name) for name in _VARIANTS if name not in self._texts}
        return frame.withColumns(parsed) if parsed else frame  # Spark Connect refuses an empty dict

    async def found(self, results: Sequence[Result]) -> Collection[str]:
        ids = self._stores.spark.createDataFrame([(r.id,) for r in results], "annotation_id STRING")
        read = F.get_json_object if "metadata" in self._texts else _of_variant
        rows = self._rows().join(ids, "annotation_id", "left_semi")
        shown = rows.select("annotation_id", read("metadata", _FINGERPRINT)).toLocalIterator()
        there = {row[0]: row[1] for row in shown}
        return {r.id for r in results if there.get(r.id) == r.fingerprint}


def _of_variant(name: str, path: str) -> Any:
    return F.try_variant_get(F.col(name), path, "string")


def _schema(kinds: dict[str, str]) -> T.StructType:
    types = {"STRING": T.StringType(), "TIMESTAMP": T.TimestampType(), "VARIANT": T.VariantType()}
    return T.StructType([T.StructField(name, types[kind]) for name, kind in kinds.items()])


def _row(result: Result) -> tuple[Any, ...]:
    row = result.row
    known = {
        "mlflow.source.source_type": row["source_type"],
        "mlflow.source.source_id": row["source_id"],
        "mlflow.span_id": row["span_id"],
        "mlflow.error.error_code": row["error_code"],
        "mlflow.error.error_message": row["error_message"],
        "mlflow.assessment.scorerName": row["scorer_name"],
        "mlflow.assessment.scorerVersion": str(row["scorer_version"]),
    }
    metadata = row["metadata"] | {k: v for k, v in known.items() if v is not None} | result.facts
    made = {
        "annotation_id": result.id,
        "target_type": "TRACE",
        "target_id": hex_id(row["trace_id"], 32) or row["trace_id"],
        "annotation_type": "FEEDBACK",
        "name": row["assessment_name"],
        "value": None if result.is_error else compact_json(row["value"]),
        "comment": row["rationale"],
        "metadata": compact_json(metadata),
        "created_at": row["created_at"],
        "created_by": "backfill_spark",
        "updated_at": row["created_at"],
        "updated_by": "backfill_spark",
        "_change_type": "insert",
    }
    return tuple(made.get(name) for name in _KINDS)
