"""One result as sinks send it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import orjson

from backfill_spark.errors import BackfillRefusedError
from backfill_spark.models import Outcome, compact_json

if TYPE_CHECKING:
    from backfill_spark.storage.small_table import Row, SmallTable

COLUMNS = (
    "assessment_id",
    "experiment_id",
    "trace_id",
    "trace_time",
    "session_id",
    "span_id",
    "assessment_name",
    "scorer_name",
    "scorer_version",
    "scorer_digest",
    "ordinal",
    "outcome",
    "source_type",
    "source_id",
    "value",
    "value_double",
    "value_string",
    "rationale",
    "error_code",
    "error_message",
    "metadata",
    "job_id",
    "model",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "created_at",
)
"""Of `assessments`: what a sink may send."""
_HEX = re.compile(r"[0-9a-f]+")


class Versions(StrEnum):
    """What a new version of a scorer does to what an older one delivered."""

    KEEP = "keep"
    """Both stay: the version is part of a result's id."""
    REPLACE = "replace"
    """The new one takes the place of the old one: the version is no part of the id."""

    @classmethod
    def of(cls, text: str) -> Versions:
        """Return the word that `text` is.

        Raises:
            BackfillRefusedError: it is another one.
        """
        try:
            return cls(text)
        except ValueError:
            raise BackfillRefusedError(f"versions must be one of {[str(v) for v in cls]}, got {text!r}.") from None


@dataclass(frozen=True, slots=True)
class Result:
    """One row of `assessments`, under the id that it has at the sink."""

    id: str
    row: Row = field(compare=False)
    """The columns of COLUMNS; `value` decoded, `metadata` a dict."""
    fingerprint: str
    """Hash of all that the row holds: another one is sent again."""

    @property
    def is_error(self) -> bool:
        """True when the scorer failed: there is no value."""
        return bool(self.row["outcome"] == Outcome.ERROR)

    @property
    def age(self) -> tuple[int, int]:
        """Its scorer's version, and when it was made in microseconds: a higher one is newer."""
        made: datetime = self.row["created_at"]
        return self.row["scorer_version"], int(made.timestamp()) * 1_000_000 + made.microsecond

    @property
    def facts(self) -> dict[str, str]:
        """Where the result comes from, as texts, for the metadata of a sink that knows no better place."""
        row = self.row
        known = {
            "backfill_spark.job_id": row["job_id"],
            "backfill_spark.assessment_id": row["assessment_id"],
            "backfill_spark.fingerprint": self.fingerprint,
            "backfill_spark.scorer": row["scorer_name"],
            "backfill_spark.scorer_version": row["scorer_version"],
            "backfill_spark.scorer_digest": row["scorer_digest"],
        }
        return {name: str(value) for name, value in known.items() if value is not None}


def result_of(row: Row, versions: Versions) -> Result:
    """Return a row of `assessments` as a result."""
    value = None if row["value"] is None else orjson.loads(row["value"])
    row = {**row, "value": value, "metadata": dict(row["metadata"] or {}), "source_type": row["source_type"] or "CODE"}
    held = hashlib.sha256(compact_json([str(row[name]) for name in COLUMNS]).encode("utf-8", "replace"))
    if versions is Versions.KEEP:
        return Result(row["assessment_id"], row, held.hexdigest()[:16])
    key = compact_json([row["experiment_id"], row["trace_id"], row["scorer_name"], row["ordinal"]])
    return Result(f"a-{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()[:32]}", row, held.hexdigest()[:16])


def results_of(
    table: SmallTable, job_id: str, versions: Versions, *, version: int, size: int
) -> Iterator[list[Result]]:
    """Yield the results that a job has merged, as they are in a version of `assessments`, `size` at a time."""
    for rows in table.pieces({"job_id": [job_id]}, COLUMNS, size, version):
        yield [result_of(row, versions) for row in rows]


def moment_text(moment: datetime | None) -> str | None:
    """Return an instant as RFC 3339 text in UTC."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat().replace("+00:00", "Z")


def hex_id(text: str | None, digits: int) -> str | None:
    """Return an id as OpenTelemetry spells it: hex digits alone, without MLflow's `tr-` or the name of a table."""
    bare = (text or "").rpartition("/")[2].removeprefix("tr-").lower()
    return bare if len(bare) == digits and _HEX.fullmatch(bare) else None


def label_of(value: Any) -> str | None:
    """Return what a sink shows that knows numbers and labels: of a number nothing, else the value as text."""
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return None
    return value if isinstance(value, str) else compact_json(value)
