"""Results on Delta: which pairs are due, stage, adopt, merge, and what is current."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from backfill_spark import schema
from backfill_spark.jobs.events import EPOCH_SHIFT
from backfill_spark.models import Chunk, Reprocess, Request, ScorerKind, ScorerSpec
from backfill_spark.results.counts import StagedChunk, StagedCounts, count_staged
from backfill_spark.results.rows import assessments, position_of, with_deletes, without_mended
from backfill_spark.results.stage import StagingWriter, as_they_are
from backfill_spark.results.write import FILES_DDL, OfScorer, ResultWriter
from backfill_spark.selection import sampling
from backfill_spark.storage.delta_table import inserted, updated
from backfill_spark.storage.small_table import Txn
from backfill_spark.storage.stores import Stores

if TYPE_CHECKING:
    from pyspark.sql import Row

    from backfill_spark.results.stage import Scored, Scoring

DRIVER_PAIRS = 20_000
"""Pairs of a chunk that the driver puts into files of results itself, so that there is one a date."""


class ResultStore:
    """Owner of `assessments` and `staging`."""

    def __init__(self, tables: Stores) -> None:
        self.assessments = tables.of(schema.ASSESSMENTS)
        self.staging = tables.of(schema.STAGING)
        self._writer = tables.settings.scoring.writer

    def ensure(self) -> None:
        """Create both tables when they are not there."""
        self.assessments.ensure()
        self.staging.ensure()

    # --- stage

    def stage(
        self, scored: DataFrame | Scoring, job_id: str, request: Request, chunk: Chunk, txn: Txn
    ) -> StagedChunk | None:
        """Append the scored traces of a chunk in one commit, and count them.

        `scored` has keys, draw and results, or says how a task scores them.

        Returns:
            None when another runner has fenced this one off: nothing was written.
        """
        shared = {
            "scored_job_id": job_id,
            "experiment_id": request.experiment_id,
            "chunk": chunk.index,
            "source_version": request.source_version,
        }
        if self.writes_files:
            rows, score = (scored, as_they_are) if isinstance(scored, DataFrame) else scored.in_task()
            is_large = request.reprocess is Reprocess.MISSING and chunk.pairs > DRIVER_PAIRS
            final = self._final_writer(job_id, request) if is_large else None
            return self._stage_files(rows, score, job_id, request, shared, final, txn)
        rows = scored if isinstance(scored, DataFrame) else scored.frame()
        rows = rows.withColumns(
            {name: F.lit(value) for name, value in shared.items()}
            | {"job_id": F.lit(job_id), "chunk": F.lit(chunk.index).cast("int"), "staged_at": F.current_timestamp()}
        )
        landed = self.staging.append_once(rows.select(*schema.STAGING.schema.fieldNames()), txn)
        return StagedChunk(self.count(job_id, request.scorers, [chunk.index])) if landed else None

    def _stage_files(
        self,
        rows: DataFrame,
        score: Scored,
        job_id: str,
        request: Request,
        shared: Mapping[str, Any],
        final: ResultWriter | None,
        txn: Txn,
    ) -> StagedChunk | None:
        """Let the tasks write what they score as files of `staging`, and with `final` of results; commit the former."""
        table = self.staging.light
        assert table is not None
        table.ensure()
        writer = StagingWriter(str(table.folder), table.columns(), job_id, shared, score, final)
        files = [row.asDict() for row in rows.mapInArrow(writer.write, FILES_DDL).collect()]
        staged = [file for file in files if file["counts"] is not None]
        if not table.add_files(staged, txn=txn):
            return None
        counts = {s.name: StagedCounts() for s in request.scorers}
        for file in staged:
            for name, found in json.loads(file["counts"]).items():
                counts[name] += StagedCounts(*found)
        results = tuple(file for file in files if file["counts"] is None)
        return StagedChunk(counts, tuple(file["path"] for file in staged), results)

    def adopt(self, due: DataFrame, job_id: str, request: Request, chunk: int, staging_version: int, txn: Txn) -> bool:
        """Copy to this job what other jobs staged for its due pairs; no scorer is called.

        Args:
            due: trace_id, trace_date, `adopt` (mask of due pairs that other jobs have staged).
        """
        others = self.staging.read(staging_version).where(
            (F.col("experiment_id") == request.experiment_id) & (F.col("job_id") != job_id)
        )
        keys = [f.name for f in schema.STAGING.schema.fields if f.name not in ("results", "job_id", "chunk")]
        names = schema.RESULTS.fieldNames()
        long = others.select(
            "job_id", *keys, F.posexplode(F.arrays_zip(*[f"results.{n}" for n in names])).alias("p", "r")
        )
        position = position_of(request.scorers, F.col("r.scorer_name"), F.col("r.scorer_version"))
        long = long.withColumn("i", position).where("i is not null").join(due, ["trace_id", "trace_date"])
        long = long.where(F.expr("(adopt & shiftleft(1L, i)) != 0"))
        if request.reprocess is Reprocess.FAILED:
            pair = Window.partitionBy("job_id", "trace_id", "trace_date", "i")
            long = long.withColumn("bad", F.max(F.col("r.error_code").isNotNull()).over(pair)).where("not bad")
        first = Window.partitionBy("trace_id", "trace_date", "i").orderBy("job_id", "staged_at")
        long = long.withColumn("k", F.dense_rank().over(first)).where("k = 1")
        rows = long.groupBy(*keys).agg(F.sort_array(F.collect_list(F.struct("p", "r"))).alias("all"))
        fields = [F.expr(f"transform(`all`, x -> x.r.`{n}`)").alias(n) for n in names]
        rows = rows.withColumn("draw", sampling.draw(request.seed))  # theirs may have another seed
        rows = rows.select(
            F.lit(job_id).alias("job_id"),
            F.lit(chunk).cast("int").alias("chunk"),
            *keys,
            F.struct(*fields).cast(schema.RESULTS).alias("results"),
        ).select(*schema.STAGING.schema.fieldNames())
        return self.staging.append(rows, txn=txn)

    def staged_by(self, job_id: str, chunks: Sequence[int] | None = None) -> DataFrame:
        """Return the staged rows of one job, or of some of its chunks."""
        rows = self.staging.read().where(F.col("job_id") == job_id)
        return rows if chunks is None else rows.where(F.col("chunk").isin(list(chunks)))

    def count(
        self, job_id: str, scorers: Sequence[ScorerSpec], chunks: Sequence[int] | None = None
    ) -> dict[str, StagedCounts]:
        """Count the staged pairs of one job by scorer and outcome."""
        return count_staged(self.staged_by(job_id, chunks), job_id, scorers)

    def clear(self, job_id: str) -> None:
        """Drop the staged rows of one job."""
        if self.staging.light is None:
            self.staging.delete({"job_id": [job_id]})
        else:
            self.staging.light.delete_part(job_id)

    # --- merge

    def merge(
        self,
        job_id: str,
        request: Request,
        chunks: Sequence[int],
        dates: Sequence[date],
        txn: Txn,
        *,
        fresh: Mapping[int, StagedChunk],
    ) -> bool:
        """Put the staged rows of `chunks`, of these trace dates, into `assessments`.

        A pair's rows are replaced as a whole.

        Args:
            fresh: Chunks that no earlier write can have put there: the job's runner has called them itself.

        Returns:
            False when the fence skipped the write.
        """
        if set(chunks) <= set(fresh) and request.reprocess is Reprocess.MISSING and self.writes_files:
            landed = self._add_files(job_id, request, [fresh[n] for n in chunks], txn)
            if landed is not None:
                return landed
        return self._merge(job_id, request, chunks, dates, txn) is not None

    @property
    def writes_files(self) -> bool:
        """True where tasks write results as files of the table: they and the driver see one folder."""
        store = self.assessments
        writer = self._writer
        if writer == "spark" or store.light is None:
            return False
        return writer == "files" or str(store.spark.conf.get("spark.master", "")).startswith("local")

    def _final_writer(self, job_id: str, request: Request) -> ResultWriter:
        table = self.assessments.light
        assert table is not None
        types = {
            s.name: OfScorer(s.digest, s.sample_rate, "LLM_JUDGE" if s.kind is ScorerKind.JUDGE else "CODE")
            for s in request.scorers
        }
        return ResultWriter(str(table.folder), table.columns(), job_id, types, request.seed)

    def _add_files(self, job_id: str, request: Request, fresh: Sequence[StagedChunk], txn: Txn) -> bool | None:
        """Commit the chunks as files, and write those that have none; None when others wrote to the same dates."""
        table, staging = self.assessments.light, self.staging.light
        assert table is not None
        assert staging is not None
        files = [file for chunk in fresh for file in chunk.results]
        # What is little is put together here: its tasks would have written a file a date each.
        little = staging.rows_of([path for chunk in fresh if not chunk.results for path in chunk.staged])
        files += [file for batch in self._final_writer(job_id, request).write(little) for file in batch.to_pylist()]
        after = -1 if request.results_version is None else request.results_version
        own_from = txn.version >> EPOCH_SHIFT << EPOCH_SHIFT
        return table.add_files(files, txn=txn, after=after, own_from=own_from)

    def _merge(
        self, job_id: str, request: Request, chunks: Sequence[int], dates: Sequence[date], txn: Txn
    ) -> Row | None:
        """MERGE the staged rows; return Delta's counts, or None when the fence skipped the write."""
        replaces = request.reprocess is not Reprocess.MISSING
        days = ", ".join(f"DATE'{d.isoformat()}'" for d in sorted(set(dates)))
        same = " AND ".join(f"t.{k} = s.{k}" for k in (schema.ROW_KEY if replaces else schema.PAIR_KEY))
        condition = f"t.trace_date IN ({days}) AND t.trace_date = s.trace_date AND {same}"

        def source(spark: SparkSession) -> DataFrame:
            staged = self.staging.read(spark=spark).where(F.col("job_id") == job_id)
            puts = assessments(staged.where(F.col("chunk").isin(list(chunks))), request)
            if not replaces:
                return puts
            old = self.assessments.read(spark=spark).where(F.col("trace_date").isin([day_literal(d) for d in dates]))
            old = old.select(*schema.ASSESSMENTS.schema.fieldNames())  # a newer version may have added columns
            kept = without_mended(puts, old, job_id) if request.reprocess is Reprocess.FAILED else puts
            return with_deletes(kept, old)

        names = schema.ASSESSMENTS.schema.fieldNames()
        clauses = f"WHEN NOT MATCHED THEN {inserted(names)}"
        if replaces:
            clauses = (
                "WHEN MATCHED AND s.op = 'delete' THEN DELETE "
                f"WHEN MATCHED THEN {updated([n for n in names if n != 'created_at'])} "
                f"WHEN NOT MATCHED AND s.op = 'put' THEN {inserted(names)}"
            )
        return self.assessments.merge(source, condition, clauses, txn=txn)


def day_literal(day: date) -> Column:
    """A date as Spark takes it: PySpark writes years before 1000 with too few digits."""
    return F.lit(day.isoformat()).cast("date")
