"""The files of a Delta table: which of them may hold wanted rows, and their rows as Arrow."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from datetime import date

    from deltalake import DeltaTable

    from backfill_spark.storage.small_table import Where


@dataclass(frozen=True, slots=True)
class File:
    """A file of the newest version."""

    name: str
    highest: Any
    """Greatest value of the column that rows are ordered by; None where it is not known."""
    rows: int
    """1 where nobody has counted them."""


@dataclass(frozen=True, slots=True)
class Files:
    """Files of one version of a table."""

    names: tuple[str, ...]
    rows: int
    """At most, as far as they were counted."""
    is_plain: bool
    """True where the files' rows are the table's, and each lies in the folder of its partition."""


def files_of(now: DeltaTable, where: Where, by: str, parts: tuple[str, date, date] | None = None) -> list[File]:
    """Return the files that may hold rows that are wanted, by the least and greatest value of each column.

    `parts` wants files of partitions by a column from one date to another only.
    """
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
    if parts is not None:
        column, first, last = parts
        for at, day in enumerate(known(f"partition.{column}")):
            keep[at] &= day is None or first <= day <= last
    files = zip(keep, known("path"), known(f"max.{by}"), known("num_records"), strict=True)
    return [File(unquote(path), highest, rows or 1) for is_kept, path, highest, rows in files if is_kept]


def rows_with(found: pa.Table, column: str, values: Collection[Any]) -> pa.Table:
    """Keep the rows whose column holds one of these values."""
    wanted = frozenset(values)
    return _taken(found, (at for at, value in enumerate(found[column].to_pylist()) if value in wanted))


def highest_rows(found: pa.Table, column: str, count: int) -> pa.Table:
    """Keep so many rows, those with the highest values."""
    values = found[column].to_pylist()
    return _taken(found, nlargest(count, range(len(values)), key=values.__getitem__))


def _taken(found: pa.Table, rows: Iterable[int]) -> pa.Table:
    # From a buffer: pa.array() and pa.scalar() import pandas.
    at = array("q", rows)
    return found.take(pa.Array.from_buffers(pa.int64(), len(at), [None, pa.py_buffer(at)]))


def columns_of(file: Path, schema: pa.Schema) -> pa.Table:
    """Read a file; columns of `schema` that it does not have are NULL."""
    return _fitted(_opened(file).read(), schema)


def batches_of(file: Path, schema: pa.Schema, size: int) -> Iterator[pa.Table]:
    """Read a file in batches of `size` rows at most; columns of `schema` that it does not have are NULL."""
    opened = _opened(file)
    have = [name for name in schema.names if name in opened.schema_arrow.names]
    for batch in opened.iter_batches(size, columns=have):
        yield _fitted(pa.Table.from_batches([batch]), schema)


def _opened(file: Path) -> pq.ParquetFile:
    # pyarrow.dataset would read it, and imports pandas: 0.3 s of a command that takes 0.7. Spark's moments are INT96,
    # which would overflow as nanoseconds.
    return pq.ParquetFile(file, coerce_int96_timestamp_unit="us")


def _fitted(found: pa.Table, schema: pa.Schema) -> pa.Table:
    have = set(found.column_names)
    columns = [found[f.name].cast(f.type) if f.name in have else pa.nulls(len(found), f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)
