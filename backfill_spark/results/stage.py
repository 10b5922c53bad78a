"""Chunks that a task scores and writes as files of `staging`, and what they come to. Knows no Spark."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from backfill_spark.results.write import FILES, ResultWriter, calls_of, joined

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Scored = Callable[[Iterable[pa.RecordBatch]], Iterator[tuple[pa.Table, pa.StructArray]]]
"""Scores the batches of a task: rows beside their results."""


class Scoring(Protocol):
    """Traces that are due, and how they are scored."""

    def frame(self) -> DataFrame:
        """The traces with their results, by a UDF; nothing may be put above it that calls a scorer again."""

    def in_task(self) -> tuple[DataFrame, Scored]:
        """The traces with what their scorers need, and what scores them in a task."""


@dataclass(frozen=True, slots=True)
class StagingWriter:
    """Scores the rows that a task is given and writes them as rows of `staging`, with what they come to."""

    folder: str
    """Of the table `staging`."""
    schema: pa.Schema
    """Columns of the table, `job_id` included."""
    job_id: str
    shared: Mapping[str, Any]
    """What all rows of the chunk have: scored_job_id, experiment_id, chunk, source_version."""
    score: Scored
    final: ResultWriter | None = None
    """Writes the same rows as files of `assessments`, too: a large chunk need not be read again for that."""

    def write(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Score and write; give batches that name the files, as `ResultWriter.write` does, those staged with counts."""
        made = (
            (self._staged(keys, results), len(pc.list_flatten(results.field("scorer_name"))))
            for keys, results in self.score(batches)
        )
        for rows in joined(made):
            yield self._file(rows)
            if self.final is not None:
                yield self.final.files(self.final.results(rows))

    def _staged(self, keys: pa.Table, results: pa.StructArray) -> pa.Table:
        now = datetime.now(UTC)
        found = {name: keys[name].combine_chunks() for name in keys.column_names} | {"results": results}
        for name, value in {**self.shared, "staged_at": now}.items():
            found[name] = pa.repeat(pa.scalar(value, self.schema.field(name).type), len(keys))
        fields = [field for field in self.schema if field.name != "job_id"]
        return pa.Table.from_arrays([found[f.name].cast(f.type) for f in fields], schema=pa.schema(fields))

    def _file(self, rows: pa.Table) -> pa.RecordBatch:
        name = f"job_id={self.job_id}/part-{secrets.token_hex(16)}.snappy.parquet"
        path = Path(self.folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path, compression="snappy")
        file = {
            "path": name,
            "part": self.job_id,
            "size": path.stat().st_size,
            "stats": json.dumps({"numRecords": len(rows)}),
            "counts": json.dumps(count_results(rows["results"].combine_chunks())),
        }
        return pa.RecordBatch.from_pylist([file], schema=FILES)


def as_they_are(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[pa.Table, pa.StructArray]]:
    """Give rows that have their results already: the column `results`."""
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        yield rows.drop_columns(["results"]), rows["results"].combine_chunks()


def count_results(results: pa.StructArray) -> dict[str, list[Any]]:
    """Count pairs by scorer: scored, empty, errored, calls, cost in US dollars or None, seconds of calls.

    A pair with several feedbacks is an error when one of them is, and scored when one has a value.
    """
    names = ("scorer_name", "ordinal", "value", "error_code", "latency_ms", "extra")
    lists = {name: results.field(name) for name in names}
    rows = {name: pc.list_flatten(values) for name, values in lists.items()}
    extra = [None if text is None else json.loads(text) for text in rows["extra"].to_pylist()]
    calls, cost = calls_of(rows), pa.nulls(len(extra), pa.float64())
    if any(extra):
        calls = pc.coalesce(pa.array([None if e is None else e.get("attempts") for e in extra], pa.int64()), calls)
        cost = pa.array([None if e is None else e.get("cost_usd") for e in extra], pa.float64())
    first = pc.equal(rows["ordinal"], 0)
    nothing = pa.scalar(None, pa.float64())
    table = pa.table(
        {
            "pair": pc.list_parent_indices(lists["scorer_name"]),
            "scorer": rows["scorer_name"],
            "failed": pc.is_valid(rows["error_code"]).cast(pa.int8()),
            "valued": pc.is_valid(rows["value"]).cast(pa.int8()),
            "calls": pc.if_else(first, calls, 0),
            "cost": pc.if_else(first, cost, nothing),
            "ms": pc.if_else(first, rows["latency_ms"], nothing),
        }
    )
    pairs = table.group_by(["pair", "scorer"]).aggregate(
        [("failed", "max"), ("valued", "max"), ("calls", "sum"), ("cost", "sum"), ("ms", "sum")]
    )
    failed, valued = pairs["failed_max"], pairs["valued_max"]
    ones = {
        "scored": pc.multiply(pc.subtract(pa.scalar(1, pa.int8()), failed), valued),
        "errored": failed,
        "pairs": pa.repeat(pa.scalar(1, pa.int8()), len(pairs)),
    }
    sums = pa.table(
        {name: pairs[name] for name in ("scorer", "calls_sum", "cost_sum", "ms_sum")}
        | {name: pc.cast(values, pa.int64()) for name, values in ones.items()}
    )
    totals = sums.group_by("scorer").aggregate([(n, "sum") for n in sums.column_names if n != "scorer"]).to_pylist()
    return {
        t["scorer"]: [
            t["scored_sum"],
            t["pairs_sum"] - t["scored_sum"] - t["errored_sum"],
            t["errored_sum"],
            t["calls_sum_sum"],
            t["cost_sum_sum"],
            (t["ms_sum_sum"] or 0.0) / 1000,
        ]
        for t in totals
    }
