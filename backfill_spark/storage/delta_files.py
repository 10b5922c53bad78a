"""The files of a Delta table: which of them may hold wanted rows, and their rows as Arrow."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from backfill_spark.storage.small_table import Where


@dataclass(frozen=True, slots=True)
class File:
    """A file of the newest version."""

    name: str
    highest: Any
    """Greatest value of the column that rows are ordered by; None where it is not known."""


def files_of(now: DeltaTable, where: Where, by: str) -> list[File]:
    """Return the files that may hold rows that are wanted, by the least and greatest value of each column."""
    stream: Any = now.get_add_actions(flatten=True)
    found = pa.RecordBatchReader.from_stream(stream).read_all()  # pa.table() would import pandas
    unknown = [None] * len(found)

    def known(name: str) -> list[Any]:
        return found[name].to_pylist() if name in found.column_names else unknown

    keep = [True] * len(found)
    for column, values in where.items():
        wanted = sorted(values)
        for at, (low, high) in enumerate(zip(known(f"min.{column}"), known(f"max.{column}"), strict=True)):
            if low is not None and high is not None:
                next_one = bisect_left(wanted, low)
                keep[at] &= next_one < len(wanted) and wanted[next_one] <= high
    files = zip(keep, known("path"), known(f"max.{by}"), strict=True)
    return [File(unquote(path), highest) for is_kept, path, highest in files if is_kept]


def is_one_of(column: pa.ChunkedArray, values: Collection[Any]) -> pa.ChunkedArray:
    if not values or len(values) > 50:
        return pc.is_in(column, pa.array(list(values), column.type))
    return reduce(pc.or_, (pc.equal(column, pa.scalar(value, column.type)) for value in values))


def columns_of(file: Path, schema: pa.Schema) -> pa.Table:
    """Read a file; columns of `schema` that it does not have are NULL."""
    # pyarrow.dataset would do this, and imports pandas: 0.3 s of a command that takes 0.7. Spark's moments are INT96,
    # which would overflow as nanoseconds.
    found = pq.ParquetFile(file, coerce_int96_timestamp_unit="us").read()
    have = set(found.column_names)
    columns = [found[f.name].cast(f.type) if f.name in have else pa.nulls(len(found), f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)
