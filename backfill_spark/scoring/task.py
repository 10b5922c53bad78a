"""What scores the batches of a task: Arrow arrays around `scoring.worker`, in a UDF or in a task that writes itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark.sql import types as T

from backfill_spark import schema
from backfill_spark.models import ScorerKind, ScorerSpec
from backfill_spark.scorers.stored_code import loading
from backfill_spark.scoring.arguments import TOO_LARGE, UNREADABLE
from backfill_spark.scoring.columns import worker_columns
from backfill_spark.scoring.feedback import FIELD_NAMES
from backfill_spark.scoring.worker import load_scorers, score_batch

GIVEN = ("_due", "_large", "_unreadable", "_given")
"""Columns that a `TaskScorer` takes: three masks, and a struct of texts where scorers need some."""
PIECE_S = 0.05
"""Seconds that scoring a piece of a batch may take."""
MOST_ROWS = 100_000
"""Traces of a piece."""
JOINED_ROWS = 2_000
JOINED_CHARACTERS = 64_000_000
_ARROW_TYPES: dict[T.DataType, pa.DataType] = {
    schema.STRING: pa.string(),
    schema.INT: pa.int32(),
    schema.DOUBLE: pa.float64(),
}


@dataclass
class BatchScorer:
    """What a worker needs to score batches: plain data, until the scorers are loaded once a task."""

    specs: tuple[ScorerSpec, ...]
    available: frozenset[str]
    names: tuple[str, ...]
    payload: str
    timeout_s: float

    @property
    def waits(self) -> bool:
        """True when some calls are async: many of them wait at once, and a batch ends with the last one."""
        return any(spec.kind is ScorerKind.ASYNC_FUNCTION for spec in self.specs)

    def score(
        self, due: list[int], too_large: list[int], unreadable: list[int], columns: Sequence[list[bytes | None]]
    ) -> list[pa.Array]:
        """Return one array of lists for each field of `schema.RESULTS`."""
        scorers = self.__dict__.get("_scorers")
        if scorers is None:
            scorers = self.__dict__["_scorers"] = load_scorers(self.specs, self.available, load=loading.load)
        given = worker_columns(self.names, columns)
        given |= {TOO_LARGE: too_large, UNREADABLE: unreadable}
        results = score_batch(given, due, scorers, payload=self.payload, timeout_s=self.timeout_s)
        offsets = [0]
        for length in results.lengths:
            offsets.append(offsets[-1] + length)
        shared = pa.array(offsets, pa.int32())
        return [
            pa.ListArray.from_arrays(shared, _flat_array(results.fields[name], _ARROW_TYPES[kind]))
            for name, kind in schema.RESULT_FIELDS
        ]


def _flat_array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if values and values[0] is None and values.count(None) == len(values):
        return pa.nulls(len(values), kind)
    return pa.array(values, kind)


@dataclass
class TaskScorer:
    """Scores the batches of a task: columns of `score_in_task` beside any others."""

    batch: BatchScorer

    def score(self, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[pa.Table, pa.StructArray]]:
        """Give rows beside their results, typed `schema.RESULTS`: batches joined, or pieces of them."""
        for rows in _joined_rows(batches) if self.batch.waits else self._pieces(batches):
            due, large, unreadable = (rows[name].to_pylist() for name in GIVEN[:3])
            texts = []
            if GIVEN[3] in rows.column_names:
                # flatten(), unlike field(), gives NULLs where the whole struct is one.
                texts = [column.to_pylist() for column in rows[GIVEN[3]].combine_chunks().flatten()]
            arrays = self.batch.score(due, large, unreadable, texts)
            yield rows.drop_columns([n for n in GIVEN if n in rows.column_names]), struct_of(arrays)

    def _pieces(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
        """Cut batches, by the time that the piece before took: what is scored of one can be kept before its end."""
        size = 1
        for batch in batches:
            start = 0
            while start < len(batch):
                began = time.monotonic()
                piece = batch.slice(start, size)
                yield pa.Table.from_batches([piece])
                start += len(piece)
                took = max(time.monotonic() - began, 1e-6)
                size = max(1, min(int(len(piece) * PIECE_S / took), 4 * size, MOST_ROWS))


def struct_of(arrays: list[pa.Array]) -> pa.StructArray:
    return pa.StructArray.from_arrays(arrays, FIELD_NAMES)


def _joined_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Join batches as `_joined` does."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= JOINED_ROWS or sum(b.nbytes for b in waiting) >= JOINED_CHARACTERS:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)
