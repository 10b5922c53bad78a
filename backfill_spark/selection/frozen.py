"""Choices that a job makes once and keeps in `work`: listed traces, Spark samples, frozen file lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from backfill_spark import schema
from backfill_spark.models import Request, Sampling
from backfill_spark.storage.delta_table import inserted
from backfill_spark.storage.small_table import Txn
from backfill_spark.storage.stores import Stores

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CHOICE, FILE, PROMPT = "choice", "file", "prompt"


def listed(spark: SparkSession, trace_ids: Sequence[str]) -> DataFrame:
    """Return the listed ids, each once, as a frame."""
    return spark.createDataFrame([(i,) for i in dict.fromkeys(trace_ids)], "trace_id string")


class WorkStore:
    """Owner of `work`."""

    def __init__(self, tables: Stores) -> None:
        self.store = tables.of(schema.WORK)

    def keep_choice(self, job_id: str, choice: DataFrame) -> None:
        """Write a job's choice; the mask is kept in `tokens` of its rows."""
        mask = F.col("chosen") if "chosen" in choice.columns else F.lit(None).cast("bigint")
        self._write(
            choice.select(F.lit(job_id).alias("job_id"), F.lit(CHOICE).alias("kind"), "trace_id", mask.alias("tokens"))
        )

    def keep_files(self, job_id: str, files: Sequence[str]) -> None:
        """Write the frozen file list of a Parquet source."""
        rows = [{"job_id": job_id, "kind": FILE, "trace_id": f} for f in files]
        self.store.ensure().append(self.store.frame(rows))

    def keep_prompts(self, job_id: str, prompts: DataFrame, txn: Txn) -> bool:
        """Write a job's rendered prompts; False when another runner has fenced this one off."""
        return self._write(prompts.withColumns({"job_id": F.lit(job_id), "kind": F.lit(PROMPT)}), txn)

    def prompts(self, job_id: str) -> DataFrame:
        """Return the job's rendered prompts: one row a pair of a judge."""
        return self._rows(job_id, PROMPT)

    def has_prompts(self, job_id: str) -> bool:
        """True when the job's prompts have been rendered."""
        return self.store.exists() and bool(self.prompts(job_id).select("kind").head(1))

    def choice(self, job_id: str, request: Request, *, version: int | None = None) -> DataFrame | None:
        """Return the job's choice as `listed` or `spark_samples` made it; None when it has none.

        `version` of the table is where an ended job, which has dropped its rows, still has them.
        """
        if not request.lists_traces and request.sampling is Sampling.HASH:
            return None
        rows = self._rows(job_id, CHOICE, version)
        if request.sampling is Sampling.HASH:
            return rows.select("trace_id")
        return rows.select("trace_id", F.col("tokens").alias("chosen"))

    def files(self, job_id: str, *, version: int | None = None) -> tuple[str, ...]:
        """Return the frozen file list, from `version` as in `choice`; empty for a source pinned by a version."""
        return tuple(r[0] for r in self._rows(job_id, FILE, version).select("trace_id").orderBy("trace_id").collect())

    def replace_source(self, job_id: str, files: Sequence[str], txn: Txn) -> bool:
        """Put a new file list in place of all that a job has read from its source (files, prompts), in one commit.

        Returns:
            False when another runner has fenced this one off.
        """
        read = f"t.job_id = '{job_id}' AND t.kind IN ('{FILE}', '{PROMPT}')"
        done = self.store.ensure().merge(
            lambda spark: spark.createDataFrame(
                [(job_id, FILE, file) for file in files], "job_id string, kind string, trace_id string"
            ),
            f"{read} AND t.kind = s.kind AND t.trace_id = s.trace_id",
            f"WHEN NOT MATCHED THEN {inserted(['job_id', 'kind', 'trace_id'])} "
            f"WHEN NOT MATCHED BY SOURCE AND {read} THEN DELETE",
            txn=txn,
        )
        return done is not None

    def clear(self, job_id: str) -> None:
        """Drop what a job kept."""
        if self.store.exists() and self.store.read().where(F.col("job_id") == job_id).select("job_id").head(1):
            self.store.delete({"job_id": [job_id]})

    def _rows(self, job_id: str, kind: str, version: int | None = None) -> DataFrame:
        return self.store.read(version).where((F.col("job_id") == job_id) & (F.col("kind") == kind))

    def _write(self, rows: DataFrame, txn: Txn | None = None) -> bool:
        have = set(rows.columns)
        columns = [
            (F.col(f.name) if f.name in have else F.lit(None)).cast(f.dataType).alias(f.name)
            for f in schema.WORK.schema.fields
        ]
        return self.store.ensure().append(rows.select(*columns), txn=txn)
