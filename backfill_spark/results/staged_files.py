"""The files in which results wait for a commit to `assessments`: written, read, found again, dropped."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache, cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from backfill_spark import schema
from backfill_spark.results.journal import ask_to_stop, journals, rows_of
from backfill_spark.results.staged import StagedChunk, is_final
from backfill_spark.settings.locations import Location
from backfill_spark.storage.capabilities import is_connect
from backfill_spark.storage.files import delete_folder, folders_in
from backfill_spark.storage.reach import local_folder

if TYPE_CHECKING:
    from backfill_spark.settings.schema import Settings
    from backfill_spark.storage.delta_table import Store

RECOVERED = -1
"""Number of a chunk that was recovered, until a job takes it over."""
FOLDER = "_staged"
"""In the folder of `assessments`; Delta does not look into folders of such a name."""


class StagedFiles:
    """Files of rows of `assessments`, a folder a job, and those in the table's own folder that no commit names yet."""

    def __init__(self, table: Store, settings: Settings) -> None:
        self._table = table
        self._settings = settings

    @cached_property
    def table_folder(self) -> str:
        """Of `assessments`, as Spark names it."""
        store = self._table
        if store.location.path is not None:
            return str(store.location.path).rstrip("/")
        detail = store.spark.sql(f"DESCRIBE DETAIL {store.location.quoted}").select("location").collect()
        return str(detail[0][0]).rstrip("/")

    @property
    def folder(self) -> str:
        """Where staged results lie, a folder a job."""
        own = self._settings.tables.staged
        return f"{self.table_folder}/{FOLDER}" if own is None else self._settings.absolute(own).rstrip("/")

    @cached_property
    def here(self) -> Path | None:
        """The same folder where it is one of this machine, in which Python and Spark see the same files."""
        return None if self._table.light is None else local_folder(Location(path=self.folder), self._settings)

    def write(self, rows: DataFrame, job_id: str) -> str:
        """Write rows of `assessments` by Spark, for a job; return their folder, as an event names it."""
        path = f"{job_id}/part-{secrets.token_hex(16)}"
        rows.write.parquet(f"{self.folder}/{path}")
        return path

    def read(self, chunks: Iterable[StagedChunk], *, spark: SparkSession | None = None) -> DataFrame:
        """Return the staged rows of some chunks, as rows of `assessments`; recovered ones are no job's."""
        chunks = list(chunks)
        rows = self.rows_of([p for c in chunks if c.chunk != RECOVERED for p in c.paths], spark=spark)
        if recovered := [path for chunk in chunks if chunk.chunk == RECOVERED for path in chunk.paths]:
            rows = rows.unionByName(self.rows_of(recovered, spark=spark).withColumn("job_id", F.lit("")))
        return rows

    def rows_of(self, paths: Sequence[str], *, spark: SparkSession | None = None) -> DataFrame:
        spark, shape = spark or self._table.spark, schema.ASSESSMENTS.schema
        final = [f"{self.table_folder}/{path}" for path in paths if is_final(path)]
        other = [f"{self.folder}/{path}" for path in paths if not is_final(path)]
        # Names as they are: a bracket or star in them is no pattern.
        reader = spark.read.schema(shape).option("__globPaths__", "false")
        frames = [reader.parquet(*other)] if other else []
        if final:
            frames.append(reader.option("basePath", self.table_folder).parquet(*final).select(*shape.fieldNames()))
        return reduce(DataFrame.unionByName, frames) if frames else spark.createDataFrame([], shape)

    def gone(self, chunks: Iterable[StagedChunk]) -> list[StagedChunk]:
        """Return the chunks with a file that is not there, or with results and no file."""
        names = cache(lambda job_id: folders_in(self._table.spark, f"{self.folder}/{job_id}"))

        def is_there(path: str) -> bool:
            if (file := self._file(path)) is not None:
                return file.exists()
            job_id, _, name = path.partition("/")
            # Whether a Connect server has a file, its client cannot look.
            return is_final(path) or is_connect(self._table.spark) or name in names(job_id)

        return [c for c in chunks if (c.pairs and not c.paths) or not all(map(is_there, c.paths))]

    def _file(self, path: str) -> Path | None:
        """The file, or the folder of files, that a path of a chunk names; None where it is not of this machine."""
        light = self._table.light
        folder = self.here if not is_final(path) else None if light is None else light.folder
        return None if folder is None else folder / path

    def ask_to_stop(self, job_id: str, epoch: int) -> None:
        """Let the tasks of a job's runner end after the calls that are under way, where folders are known."""
        if self.here is not None:
            with suppress(OSError):  # a full disk: then only Spark stops them
                ask_to_stop(self.here / job_id, epoch)

    def drop_recovered(self, job_id: str, chunk: StagedChunk | None = None) -> None:
        """Delete the journals of a job, or a chunk that was recovered: what they hold is staged."""
        if self.here is not None:
            given = None if chunk is None else [self.here / path for path in chunk.paths]
            for path in journals(self.here / job_id) if given is None else given:
                path.unlink(missing_ok=True)

    def recovered(self, job_id: str, known: Iterable[StagedChunk]) -> StagedChunk | None:
        """Return what a runner that is gone had scored of a chunk that it did not come to stage, as a chunk.

        Args:
            known: what the job has staged.
        """
        if self.here is None or not (folder := self.here / job_id).is_dir():
            return None
        found = journals(folder)
        if batches := rows_of(found):
            rows = pa.Table.from_batches(batches)
            parquet.write_table(rows, folder / f"part-{secrets.token_hex(16)}.snappy.parquet", compression="snappy")
        for path in found:
            path.unlink(missing_ok=True)
        named = {path for chunk in known for path in chunk.paths}
        paths = sorted(
            f"{job_id}/{file.name}" for file in folder.glob("part-*") if f"{job_id}/{file.name}" not in named
        )
        return StagedChunk(job_id, RECOVERED, {}, tuple(paths), ()) if paths else None

    def drop(self, job_id: str) -> None:
        """Delete the folder of a job, or one in it, among staged results."""
        delete_folder(self._table.spark, f"{self.folder}/{job_id}")

    def jobs(self) -> set[str]:
        """Return the ids of the jobs that have a folder there."""
        return folders_in(self._table.spark, self.folder)

    def forget(self, trace_id: str, chunks: Sequence[StagedChunk], jobs: Iterable[str]) -> tuple[int, list[str]]:
        """Delete the rows of a trace among staged results; return their number and the prompts that they tell.

        Args:
            chunks: those that no runner works on, and `assessments` lacks. Of them a file that could be committed as it
                is, and one that lies on another file system, is deleted whole, and what it holds is scored again.
            jobs: those whose results are all in `assessments`: what they have left is dropped.
        """
        for job_id in self.jobs().intersection(jobs):
            self.drop(job_id)
        deleted, prompts = 0, []
        for path in [path for chunk in chunks for path in chunk.paths]:
            if (place := self._file(path)) is not None:
                found = [h for file in _files_of(place) for h in _forget_in(file, trace_id, whole=is_final(path))]
            else:
                rows = self.rows_of([path]).where(F.col("trace_id") == trace_id).select("prompt_hash").collect()
                found = [row[0] for row in rows]
                if found:
                    delete_folder(self._table.spark, f"{self.table_folder if is_final(path) else self.folder}/{path}")
            deleted += len(found)
            prompts += [prompt for prompt in found if prompt is not None]
        return deleted, prompts


def _files_of(path: Path) -> list[Path]:
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path]


def _forget_in(file: Path, trace_id: str, *, whole: bool) -> list[str | None]:
    """Delete the rows of a trace in a file, or with one of them the whole file; return their prompts."""
    rows = parquet.ParquetFile(file, coerce_int96_timestamp_unit="us").read()
    of_trace = pc.equal(rows["trace_id"], trace_id)
    prompts: list[str | None] = rows.filter(of_trace)["prompt_hash"].to_pylist()
    if prompts and whole:
        file.unlink()
    elif prompts:
        other = file.with_name(f".{file.name}.new")
        parquet.write_table(rows.filter(pc.invert(of_trace)), other, compression="snappy")
        file.with_name(f".{file.name}.crc").unlink(missing_ok=True)  # Hadoop's checksum of the file that was there
        other.rename(file)
    return prompts
