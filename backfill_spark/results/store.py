"""Results on Delta: scored chunks become files, are adopted and merged, and what is there of them is read."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from backfill_spark import schema
from backfill_spark.errors import BackfillError, SettingsError
from backfill_spark.jobs.events import EPOCH_SHIFT
from backfill_spark.models import Chunk, Reprocess, Request, ScorerKind
from backfill_spark.results.counts import count_staged
from backfill_spark.results.rows import position_of, with_deletes, without_mended
from backfill_spark.results.staged import StagedChunk, StagedCounts, added, is_final
from backfill_spark.results.staged_files import StagedFiles
from backfill_spark.results.write import FILES_DDL, OfScorer, ResultWriter, as_they_are
from backfill_spark.selection import sampling
from backfill_spark.storage.delta_files import columns_of
from backfill_spark.storage.delta_table import Store, inserted, updated
from backfill_spark.storage.files import OBJECT_STORES, arrow_uri, filesystem_of
from backfill_spark.storage.reach import tasks_reach
from backfill_spark.storage.stores import Stores

if TYPE_CHECKING:
    from pyspark.sql import Row

    from backfill_spark.results.write import Scoring
    from backfill_spark.storage.small_table import Txn

DRIVER_PAIRS = 20_000
"""Pairs of a chunk that the driver puts into files of results itself, so that there is one a date."""


class ResultStore:
    """Owner of `assessments`, and with `waiting` of the files in which results wait for a commit to it.

    A chunk is scored once and its results are written once, as rows of `assessments`: by tasks that see its folder,
    else by Spark. Those of a large chunk are files that a commit can name as they are.
    """

    def __init__(self, tables: Stores) -> None:
        self.assessments = tables.of(schema.ASSESSMENTS)
        self.waiting = StagedFiles(self.assessments, tables.settings)
        self._settings = tables.settings

    def ensure(self) -> None:
        """Create the table when it is not there."""
        self.assessments.ensure()

    @property
    def writes_files(self) -> bool:
        """True where tasks write results: they and the driver see one folder; in an object store, Spark sees it too.

        Raises:
            SettingsError: `scoring.writer` wants them to, and in this object store they cannot.
        """
        store, writer, folder = self.assessments, self._settings.scoring.writer, self.waiting.folder
        if writer == "spark":
            return False
        if self.waiting.here is not None:
            is_here = writer == "files" or str(store.spark.conf.get("spark.master", "")).startswith("local")
            return is_here or tasks_reach(store.spark, self.waiting.table_folder)
        if not folder.startswith(OBJECT_STORES):
            return False
        is_reached = tasks_reach(store.spark, folder)
        if writer == "files" and not is_reached:
            raise SettingsError(
                f"scoring.writer is files, and tasks cannot write to {folder} by pyarrow, or what they write there is "
                "not seen by this process or by Spark; --debug says which. Give all of them the same store (keys and "
                "AWS_ENDPOINT_URL in the environment of driver and executors), or set scoring.writer to auto."
            )
        return is_reached

    # --- stage

    def stage(
        self, scored: DataFrame | Scoring, job_id: str, request: Request, chunk: Chunk, epoch: int
    ) -> StagedChunk:
        """Score a chunk and write its results; they are staged as soon as an event names them.

        Args:
            scored: columns of `schema.SCORED`, or how a task makes them.
            epoch: of the runner.

        Raises:
            SettingsError: tasks have written to another disk than this process sees.
        """
        here = self.waiting.here if self.writes_files else None
        is_large = here is not None and request.reprocess is Reprocess.MISSING and chunk.pairs > DRIVER_PAIRS
        writer = self._writer(job_id, request, by_date=is_large)
        if not self.writes_files:
            frame = scored if isinstance(scored, DataFrame) else scored.frame()
            path = self.waiting.write(frame.mapInArrow(writer.rows, schema.ASSESSMENTS.schema), job_id)
            counts, _ = count_staged(self.waiting.rows_of([path]), job_id)
            return self._chunk(job_id, request, chunk, counts, (path,))
        rows, score = (scored, as_they_are) if isinstance(scored, DataFrame) else scored.in_task()
        # What has its results already is no slow call.
        journal = None if score is as_they_are or here is None else str(here / job_id)
        writer = replace(writer, score=score, journal=journal, epoch=epoch)
        made = rows.mapInArrow(writer.write, FILES_DDL).collect()
        self._refuse_unseen(writer.folder, [file["path"] for file in made])
        told = [json.loads(file["counts"]) for file in made if file["counts"] is not None]
        counts = added({name: StagedCounts(*values) for name, values in each.items()} for each in told)
        staged = self._chunk(job_id, request, chunk, counts, tuple(file["path"] for file in made))
        return replace(staged, files=tuple(file.asDict() for file in made) if is_large else ())

    def _chunk(
        self, job_id: str, request: Request, chunk: Chunk, counts: dict[str, StagedCounts], paths: tuple[str, ...]
    ) -> StagedChunk:
        every = {s.name: counts.get(s.name, StagedCounts()) for s in request.scorers}
        return StagedChunk(job_id, chunk.index, every, paths, chunk.dates)

    def _writer(self, job_id: str, request: Request, *, by_date: bool) -> ResultWriter:
        types = {
            s.name: OfScorer(s.digest, s.sample_rate, "LLM_JUDGE" if s.kind is ScorerKind.JUDGE else "CODE")
            for s in request.scorers
        }
        shared = {
            "job_id": job_id,
            "scored_job_id": job_id,
            "experiment_id": request.experiment_id,
            "source_version": request.source_version,
            "seed": request.seed,
        }
        light = self.assessments.light
        folder = str(light.folder) if by_date and light is not None else arrow_uri(self.waiting.folder)
        columns = to_arrow_schema(schema.ASSESSMENTS.schema, timezone="UTC") if light is None else light.columns()
        return ResultWriter(folder, by_date, columns, shared, types)

    def _refuse_unseen(self, folder: str, paths: Sequence[str]) -> None:
        files, root = filesystem_of(folder)
        for found in files.get_file_info([f"{root}/{path}" for path in paths]):
            if not found.is_file:
                raise SettingsError(
                    f"A task wrote {found.path} on its own machine, where this one does not see it. Set scoring.writer "
                    "to spark, or tables.root to a folder that all machines share."
                )

    def adopt(
        self, due: DataFrame, theirs: Sequence[StagedChunk], job_id: str, request: Request, number: int
    ) -> StagedChunk:
        """Copy to this job what other jobs have staged for its due pairs, as a chunk; no scorer is called.

        Args:
            due: trace_id, trace_date, `adopt` (mask of due pairs that other jobs have staged).
        """
        names = schema.ASSESSMENTS.schema.fieldNames()
        position = position_of(request.scorers, F.col("scorer_name"), F.col("scorer_version"))
        rows = self.waiting.read(theirs).where(F.col("experiment_id") == request.experiment_id)
        rows = rows.withColumn("i", position).where("i is not null").join(due, ["trace_id", "trace_date"])
        rows = rows.where(F.expr("(adopt & shiftleft(1L, i)) != 0"))
        if request.reprocess is Reprocess.FAILED:
            pair = Window.partitionBy("job_id", "trace_id", "trace_date", "i")
            rows = rows.withColumn("bad", F.max(F.col("error_code").isNotNull()).over(pair)).where("not bad")
        first = Window.partitionBy("trace_id", "trace_date", "i").orderBy("job_id", "created_at")
        rows = rows.withColumn("k", F.dense_rank().over(first)).where("k = 1")
        # A result that was recovered may lie in two files of its runner.
        rows = rows.dropDuplicates(["trace_id", "trace_date", "i", "ordinal"])
        rates = [F.when(F.col("i") == i, F.lit(s.sample_rate)) for i, s in enumerate(request.scorers)]
        mine = {
            "job_id": F.lit(job_id),
            "sample_rate": F.coalesce(*rates),
            "draw": sampling.draw(request.seed),  # theirs may have another seed
            "seed": F.lit(request.seed).cast("bigint"),
        }
        path = self.waiting.write(rows.withColumns(mine).select(*names), job_id)
        counts, dates = count_staged(self.waiting.rows_of([path]), job_id)
        if not counts:
            self.waiting.drop(path)
        return StagedChunk(job_id, number, counts, (path,), dates)

    def staged_before(self, job_id: str, request: Request, merged: Collection[int], number: int) -> StagedChunk | None:
        """Return as one chunk what an older version of this package has staged in its table `staging`, not merged."""
        old = Store(self.assessments.spark, schema.OLD_STAGING, self._settings)
        if not old.exists():
            return None
        rows = old.read().where((F.col("job_id") == job_id) & ~F.col("chunk").isin(list(merged)))
        rows = rows.select(*schema.SCORED.fieldNames())
        writer = self._writer(job_id, request, by_date=False)
        path = self.waiting.write(rows.mapInArrow(writer.rows, schema.ASSESSMENTS.schema), job_id)
        counts, dates = count_staged(self.waiting.rows_of([path]), job_id)
        return StagedChunk(job_id, number, counts, (path,), dates)

    # --- merge

    def merge(self, job_id: str, request: Request, chunks: Sequence[StagedChunk], txn: Txn, *, is_fresh: bool) -> bool:
        """Put staged chunks into `assessments`. A pair's rows are replaced as a whole.

        Args:
            is_fresh: no earlier write can have put them there: the job's runner has called them itself.

        Returns:
            False when the fence skipped the write.

        Raises:
            BackfillError: files of a chunk are gone.
        """
        if gone := self.waiting.gone(chunks):
            raise BackfillError(
                f"Files of {len(gone):,} staged chunks are gone from {self.waiting.table_folder}: somebody has removed "
                f"them. `backfill-spark resume {job_id}` scores their pairs again."
            )
        chunks = [chunk for chunk in chunks if chunk.paths]
        if not chunks:
            return True
        if is_fresh and request.reprocess is Reprocess.MISSING and self.waiting.here is not None and self.writes_files:
            landed = self._add_files(job_id, request, chunks, txn)
            if landed is not None:
                return landed
        return self._merge(job_id, request, chunks, txn) is not None

    def _add_files(self, job_id: str, request: Request, chunks: Sequence[StagedChunk], txn: Txn) -> bool | None:
        """Commit the chunks as files, and write those that have none; None when others wrote to the same dates."""
        table, writer, here = self.assessments.light, self._writer(job_id, request, by_date=True), self.waiting.here
        assert table is not None
        assert here is not None
        files = [file for chunk in chunks for file in chunk.files]
        # What is little is put together here: its tasks would have written a file a date each.
        little = [here / path for chunk in chunks for path in chunk.paths if not is_final(path)]
        made: list[dict[str, Any]] = []
        if little:
            made = writer.files(pa.concat_tables(columns_of(file, writer.schema) for file in little), {}).to_pylist()
        after = -1 if request.results_version is None else request.results_version
        own_from = txn.version >> EPOCH_SHIFT << EPOCH_SHIFT
        landed = table.add_files([*files, *made], txn=txn, after=after, own_from=own_from)
        if landed is None:
            for file in made:
                Path(writer.folder, file["path"]).unlink(missing_ok=True)
        return landed

    def _merge(self, job_id: str, request: Request, chunks: Sequence[StagedChunk], txn: Txn) -> Row | None:
        """MERGE the staged rows; return Delta's counts, or None when the fence skipped the write."""
        dates = sorted({day for chunk in chunks for day in chunk.dates})
        replaces = request.reprocess is not Reprocess.MISSING
        days = ", ".join(f"DATE'{d.isoformat()}'" for d in dates)
        same = " AND ".join(f"t.{k} = s.{k}" for k in (schema.ROW_KEY if replaces else schema.PAIR_KEY))
        condition = f"t.trace_date IN ({days}) AND t.trace_date = s.trace_date AND {same}"

        def source(spark: SparkSession) -> DataFrame:
            puts = self.waiting.read(chunks, spark=spark)
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
