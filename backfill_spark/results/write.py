"""Results as rows of `assessments`, written by a task: made of the arrays that scoring gives, a column at a time.

Knows no Spark. A file is staged from the event on that names it, and a result from the commit that names it
(`results/store.py`). Measured with 500,000 results: 1.3 µs of CPU each, where Spark's writer, a row at a time, takes
20 besides 13 for columns.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from backfill_spark.models import ErrorCode, Outcome
from backfill_spark.results.journal import Journal, uninterrupted
from backfill_spark.results.staged import PARTITION, StagedCounts, added, count_rows
from backfill_spark.storage.files import filesystem_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Scored = Callable[[Iterable[pa.RecordBatch]], Iterator[tuple[pa.Table, pa.StructArray]]]
"""Scores the batches of a task: rows beside their results."""
ROWS_AT_ONCE = 250_000
"""Results that a task holds before it writes them: a file each time, or a file a date."""
_DISTINCT = frozenset({"assessment_id", "trace_time", "draw", "latency_ms", "input_digest"})
"""Columns whose values mostly do not come again: a dictionary of them would be made in vain."""
MANY_RUNS = 1_000
"""Runs of rows of one date from which on they are sorted, which costs 1 µs a row; traces mostly lie in their order."""
_ROW_KEY = ("experiment_id", "trace_id", "scorer_name", "scorer_version", "ordinal")
"""`schema.ROW_KEY`, spelled here because that module needs Spark; a test holds them equal."""
_WITH_BOUNDS = (*_ROW_KEY, "trace_time", "assessment_name", "outcome", "draw", "job_id", "created_at")
"""Columns whose least and greatest value are kept, so that readers skip files."""
_LONGEST_BOUND = 32
_LATEST = datetime.max.replace(microsecond=0, tzinfo=UTC)
_NO_CALL = (ErrorCode.TRACE_TOO_LARGE.value, ErrorCode.LOAD_FAILED.value)


@dataclass(frozen=True, slots=True)
class OfScorer:
    """What all results of one scorer share."""

    digest: str
    sample_rate: float
    source_type: str


class Scoring(Protocol):
    """Traces that are due, and how they are scored."""

    def frame(self) -> DataFrame:
        """The traces with their results, by a UDF; nothing may be put above it that calls a scorer again."""

    def in_task(self) -> tuple[DataFrame, Scored]:
        """The traces with what their scorers need, and what scores them in a task."""


def as_they_are(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[pa.Table, pa.StructArray]]:
    """Give rows that have their results already: the column `results`."""
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        yield rows.drop_columns(["results"]), rows["results"].combine_chunks()


@dataclass(frozen=True, slots=True)
class ResultWriter:
    """Scores the rows that a task is given, and writes the results. Plain data, which travels to the workers."""

    folder: str
    """Where files go: a path, or a URI that pyarrow knows."""
    by_date: bool
    """True for files that a commit can make part of `assessments`, one a date; else they hold all dates."""
    schema: pa.Schema
    """Columns of `assessments`."""
    shared: Mapping[str, Any]
    """What all rows have: job_id, scored_job_id, experiment_id, source_version, seed."""
    scorers: Mapping[str, OfScorer]
    """By name."""
    score: Scored = as_they_are
    journal: str | None = None
    """Folder for results that no file has yet."""
    epoch: int = 0
    """Of the runner whose task it is."""

    def write(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Score the rows of `batches` and write what comes of it; give batches that name the files: FILES."""
        if self.journal is None:
            yield from self._written(batches, None)
            return
        with uninterrupted():
            journal = Journal(Path(self.journal), self.epoch)
            try:
                yield from self._written(batches, journal)
            finally:
                journal.close()

    def _written(self, batches: Iterable[pa.RecordBatch], journal: Journal | None) -> Iterator[pa.RecordBatch]:
        waiting: list[pa.Table] = []
        counts: list[dict[str, StagedCounts]] = []
        for keys, results in self.score(batches):
            rows, traces = self.results(keys, results)
            if journal is not None:
                journal.add(rows)
            waiting.append(rows)
            counts.append(count_rows(rows, traces))
            if sum(map(len, waiting)) >= ROWS_AT_ONCE:
                yield self.files(pa.concat_tables(waiting), added(counts))
                waiting, counts = [], []
        if any(map(len, waiting)):
            yield self.files(pa.concat_tables(waiting), added(counts))

    def rows(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Score the rows of `batches`; give the rows of `assessments`."""
        for keys, results in self.score(batches):
            yield from self.results(keys, results)[0].to_batches()

    def results(self, keys: pa.Table, results: pa.StructArray) -> tuple[pa.Table, pa.Array]:
        """Return the rows of `assessments` that scored traces come to, one a feedback, and the trace of each.

        Args:
            keys: the columns of `schema.SCORED` but for the results.
            results: typed `schema.RESULTS`.
        """
        lists = {name: results.field(name) for name in results.type.names}
        parents = pc.list_parent_indices(lists["scorer_name"])
        found: dict[str, Any] = {name: pc.list_flatten(values) for name, values in lists.items()}
        extra = [None if text is None else json.loads(text) for text in found.pop("extra").to_pylist()]
        has_extra = any(extra)
        for name in keys.column_names:
            found[name] = keys[name].combine_chunks().take(parents)
        count = len(parents)
        for name, value in self.shared.items():
            found[name] = pa.repeat(pa.scalar(value, self.schema.field(name).type), count)

        def of_extra(name: str, default: pa.Array | None = None) -> pa.Array:
            kind = self.schema.field(name).type
            if not has_extra:
                return pa.nulls(count, kind) if default is None else default
            values = pa.array([None if one is None else one.get(name) for one in extra], kind)
            return values if default is None else pc.coalesce(values, default.cast(kind))

        def of_scorer(value: Callable[[OfScorer], Any], kind: pa.DataType) -> pa.Array:
            names = list(self.scorers)
            each = pa.array([value(self.scorers[name]) for name in names], kind)
            return each.take(pc.index_in(found["scorer_name"], pa.array(names)))

        failed = pc.is_valid(found["error_code"])
        without_value = pc.is_null(found["value"])
        outcome = pc.if_else(failed, Outcome.ERROR.value, pc.if_else(without_value, "empty", "scored"))
        now = pa.scalar(datetime.now(UTC), self.schema.field("created_at").type)
        span = of_extra("span_id")
        found |= {
            "assessment_id": _ids(self.shared["experiment_id"], keys["trace_id"], parents, found),
            "span_id": span,
            "target": pc.if_else(pc.is_valid(span), "span", "trace"),
            "assessment_name": pc.coalesce(found["assessment_name"], found["scorer_name"]),
            "scorer_digest": of_scorer(lambda s: s.digest, pa.string()),
            "outcome": outcome,
            "source_type": of_extra("source_type", of_scorer(lambda s: s.source_type, pa.string())),
            "source_id": pc.coalesce(of_extra("source_id"), of_extra("model"), found["scorer_name"]),
            "sample_rate": of_scorer(lambda s: s.sample_rate, pa.float64()),
            "attempts": of_extra("attempts", _calls(found)),
            "created_at": pa.repeat(now, count),
            "updated_at": pa.repeat(now, count),
        }
        if has_extra:
            found["metadata"] = _maps([None if one is None else one.get("metadata") for one in extra], self.schema)
        columns = [found[f.name].cast(f.type) if f.name in found else of_extra(f.name) for f in self.schema]
        return pa.Table.from_arrays(columns, schema=self.schema), parents

    def files(self, rows: pa.Table, counts: Mapping[str, StagedCounts]) -> pa.RecordBatch:
        """Write rows of `assessments`; name the files, the first one with what they come to."""
        files: list[dict[str, Any]] = []
        if self.by_date:
            for day, of_day in _by_date(rows).items():
                files.append(self._file_of_date(day, of_day.drop_columns([PARTITION])))
        else:
            files.append({"path": self._file(self.shared["job_id"], rows)})
        files[0]["counts"] = json.dumps({name: found.to_json() for name, found in counts.items()})
        return pa.RecordBatch.from_pylist(files, schema=FILES)

    def _file_of_date(self, day: date, rows: pa.Table) -> dict[str, Any]:
        name = self._file(f"{PARTITION}={day.isoformat()}", rows)
        size = Path(self.folder, name).stat().st_size
        return {"path": name, "part": day.isoformat(), "size": size, "stats": _statistics(rows)}

    def _file(self, folder: str, rows: pa.Table) -> str:
        name = f"{folder}/part-{secrets.token_hex(16)}.snappy.parquet"
        files, root = filesystem_of(self.folder)
        if files.type_name == "local":  # an object needs no folder
            files.create_dir(f"{root}/{folder}")
        repeating = [column for column in rows.column_names if column not in _DISTINCT]
        pq.write_table(rows, f"{root}/{name}", filesystem=files, compression="snappy", use_dictionary=repeating)
        return name


def _by_date(rows: pa.Table) -> dict[date, pa.Table]:
    """Return the rows of each date."""
    runs = pc.run_end_encode(rows[PARTITION].combine_chunks())
    if len(runs.values) > MANY_RUNS:
        rows = rows.combine_chunks().sort_by(PARTITION)
        runs = pc.run_end_encode(rows[PARTITION].combine_chunks())
    parts: dict[date, list[pa.Table]] = {}
    start = 0
    for day, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        parts.setdefault(day, []).append(rows.slice(start, end - start))
        start = end
    return {day: pa.concat_tables(of_day) for day, of_day in sorted(parts.items())}


def _calls(rows: Mapping[str, pa.Array]) -> pa.Array:
    """Calls that a result took where nothing else is known: none where the trace was refused before."""
    unread = pc.and_kleene(pc.equal(rows["error_code"], "trace_unreadable"), pc.is_null(rows["latency_ms"]))
    uncalled = pc.or_kleene(pc.is_in(rows["error_code"], pa.array(_NO_CALL)), unread)
    return pc.if_else(pc.fill_null(uncalled, False), pa.scalar(0, pa.int64()), pa.scalar(1, pa.int64()))


FILES = pa.schema(
    [(name, pa.int64() if name == "size" else pa.string()) for name in ("path", "part", "size", "stats", "counts")]
)
"""What is told of each file: its path in the folder; the first of several with their counts by scorer, as JSON; and of
one of `assessments` the value of the partition, bytes and Delta's statistics."""
FILES_DDL = "path string, part string, size long, stats string, counts string"


def _ids(experiment: str, traces: pa.ChunkedArray, parents: pa.Array, found: Mapping[str, pa.Array]) -> pa.Array:
    """The ids of results: SHA-256 over the row key as a compact JSON array."""
    encode, sha256 = json.encoder.encode_basestring, hashlib.sha256
    start = f"[{encode(experiment)},"
    heads = [f"{start}{encode(trace)},".encode() for trace in traces.to_pylist()]
    tails = _Tails()
    of = zip(*(found[name].to_pylist() for name in ("scorer_name", "scorer_version", "ordinal")), strict=True)
    hashes = [sha256(heads[at] + tails[key]).digest() for at, key in zip(parents.to_pylist(), of, strict=True)]
    # `a-` and the first 32 hexadecimal digits of each, 0.15 µs a result less than a text at a time.
    made = np.empty((len(hashes), 34), np.uint8)
    made[:, :2] = np.frombuffer(b"a-", np.uint8)
    made[:, 2:] = np.frombuffer(b"".join(hashes).hex().encode(), np.uint8).reshape(-1, 64)[:, :32]
    ends = np.arange(0, made.size + 1, 34, dtype=np.int32)
    return pa.StringArray.from_buffers(len(made), pa.py_buffer(ends), pa.py_buffer(made))


class _Tails(dict[tuple[str, int, int], bytes]):
    """The part of a row key that is the same for each trace."""

    def __missing__(self, key: tuple[str, int, int]) -> bytes:
        scorer, version, ordinal = key
        made = self[key] = f"{json.encoder.encode_basestring(scorer)},{version},{ordinal}]".encode()
        return made


def _maps(values: list[Any], schema: pa.Schema) -> pa.Array:
    pairs = [None if value is None else list(value.items()) for value in values]
    return pa.array(pairs, schema.field("metadata").type)


def _statistics(rows: pa.Table) -> str:
    """Delta's statistics of a file: rows, and where they help, bounds and numbers of NULLs."""
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for name in _WITH_BOUNDS:
        column = rows[name]
        nulls[name] = column.null_count
        bounds = pc.min_max(column)
        least, greatest = bounds["min"].as_py(), bounds["max"].as_py()
        if least is None:
            continue
        if isinstance(least, datetime):
            low[name], high[name] = _millis(least), _millis(min(greatest, _LATEST) + timedelta(microseconds=999))
        elif not isinstance(least, str) or max(len(least), len(greatest)) <= _LONGEST_BOUND:
            low[name], high[name] = least, greatest
    body = {"numRecords": len(rows), "minValues": low, "maxValues": high, "nullCount": nulls}
    return json.dumps(body, ensure_ascii=False)


def _millis(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
