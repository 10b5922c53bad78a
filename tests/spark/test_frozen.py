"""What a job keeps in `work`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfill_spark.backfill.tables import Tables
from backfill_spark.selection.frozen import listed
from backfill_spark.storage.small_table import Txn

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings


def test_a_source_that_is_pinned_anew_replaces_what_was_read_of_the_old_one(
    spark: SparkSession, settings: Settings
) -> None:
    """Files and prompts, not the choice and no other job's; and nothing where another runner came first."""
    work = Tables(spark, settings).work
    prompt = spark.createDataFrame([("tr-1", "polite")], "trace_id string, scorer_name string")
    for job_id in ("bf-1", "bf-2"):
        work.keep_choice(job_id, listed(spark, ["tr-1"]))
        work.keep_files(job_id, ["a.parquet", "b.parquet"])
        work.keep_prompts(job_id, prompt, Txn(job_id, 1))

    assert work.replace_source("bf-1", ["b.parquet", "c.parquet"], Txn("bf-1", 9))
    assert not work.replace_source("bf-1", ["z.parquet"], Txn("bf-1", 8))

    assert (work.files("bf-1"), work.has_prompts("bf-1")) == (("b.parquet", "c.parquet"), False)
    assert (work.files("bf-2"), work.has_prompts("bf-2")) == (("a.parquet", "b.parquet"), True)
    choices = work.store.read().where("kind = 'choice'").select("job_id").collect()
    assert sorted(r["job_id"] for r in choices) == ["bf-1", "bf-2"]
