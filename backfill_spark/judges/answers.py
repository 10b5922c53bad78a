"""Judgements: the answers of judges, each paid for once."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from backfill_spark import schema
from backfill_spark.judges.llm.journal import delete_journal, journal_folder, read_journal
from backfill_spark.storage.delta_table import Store
from backfill_spark.storage.stores import Stores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfill_spark.judges.llm.messages import Answer


def known(judgements: Store, job_id: str, cache: str) -> DataFrame:
    """Return the answers that this job may use, one a prompt: its own, and good ones of others unless cache is off."""
    rows = judgements.read()
    is_own = F.col("job_id") == job_id
    usable = is_own if cache == "off" else is_own | F.col("error_code").isNull()
    best = Window.partitionBy("prompt_hash").orderBy(F.col("error_code").isNotNull(), ~is_own, "answered_at")
    return rows.where(usable).withColumn("_rank", F.row_number().over(best)).where("_rank = 1").drop("_rank")


def keep(judgements: Store, job_id: str, answers: Sequence[Answer]) -> None:
    """Append answers that a job paid for, unless they are there."""
    if not answers:
        return
    have = judgements.read().where(F.col("job_id") == job_id).select("prompt_hash")
    rows = [
        asdict(a) | {"answer": a.verdict, "error_code": None if a.error_code is None else str(a.error_code)}
        for a in answers
        if a.left is None
    ]
    frame = judgements.frame([{**r, "job_id": job_id} for r in rows]).join(have, "prompt_hash", "left_anti")
    judgements.append(
        frame.withColumn("answered_at", F.current_timestamp()).select(*judgements.table.schema.fieldNames())
    )


def close_journal(tables: Stores, job_id: str) -> None:
    """Keep what stands in the files of a job that has ended, for other jobs, and delete the files."""
    folder = journal_folder(tables.settings)
    if tables.settings.judge.cache == "on":
        keep(tables.of(schema.JUDGEMENTS).ensure(), job_id, read_journal(folder, job_id).answers)
    delete_journal(folder, job_id)


def forget_answers(tables: Stores, job_id: str) -> None:
    """Drop the answers that an ended job paid for, where the cache keeps none."""
    store = tables.of(schema.JUDGEMENTS)
    if store.exists():
        store.delete({"job_id": [job_id]})
