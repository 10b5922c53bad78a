"""What a job has staged: chunks that are scored and paid for, each with its counts and the files of its results.

A chunk is staged from the event on that names its files. Knows no Spark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

PARTITION = "trace_date"
"""What `assessments` is partitioned by."""


@dataclass(frozen=True, slots=True)
class StagedCounts:
    """What has been staged for one scorer."""

    scored: int = 0
    empty: int = 0
    errored: int = 0
    calls: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0
    """Time in calls, added up over tasks; that of a chunk's or trace's other scorers stands with its first one."""

    def __add__(self, other: StagedCounts) -> StagedCounts:
        costs = [c for c in (self.cost_usd, other.cost_usd) if c is not None]
        return StagedCounts(
            self.scored + other.scored,
            self.empty + other.empty,
            self.errored + other.errored,
            self.calls + other.calls,
            sum(costs) if costs else None,
            self.seconds + other.seconds,
        )

    @property
    def finished(self) -> int:
        """Pairs that have a result."""
        return self.scored + self.empty + self.errored

    def to_json(self) -> list[Any]:
        """The counts as a list, for an event."""
        return [self.scored, self.empty, self.errored, self.calls, self.cost_usd, round(self.seconds, 3)]


@dataclass(frozen=True, slots=True)
class StagedChunk:
    """A chunk that a job has scored, or taken over from other jobs."""

    job_id: str
    chunk: int
    counts: Mapping[str, StagedCounts]
    """By scorer."""
    paths: tuple[str, ...]
    """Files, or folders of files: `trace_date=…` in the folder of `assessments`, all else in that of staged results."""
    dates: tuple[date, ...]
    files: tuple[Mapping[str, Any], ...] = ()
    """What a commit needs to know of those of `assessments`; known to the process that has scored the chunk."""

    @property
    def key(self) -> tuple[str, int]:
        """Tells it from every other chunk."""
        return self.job_id, self.chunk

    @property
    def pairs(self) -> int:
        """Pairs that have a result."""
        return sum(counts.finished for counts in self.counts.values())

    def apart(self) -> StagedChunk:
        """Return it without its files in the folder of `assessments`."""
        return replace(self, paths=tuple(path for path in self.paths if not is_final(path)))

    def to_json(self) -> dict[str, Any]:
        """What the event of the chunk holds."""
        return {
            "chunk": self.chunk,
            "counts": {name: counts.to_json() for name, counts in self.counts.items()},
            "files": list(self.paths),
            "dates": [day.isoformat() for day in self.dates],
        }

    @classmethod
    def from_json(cls, job_id: str, told: Mapping[str, Any]) -> StagedChunk:
        """Read what an event holds; one of an older version names no files."""
        counts = {name: StagedCounts(*values) for name, values in told.get("counts", {}).items()}
        dates = tuple(map(date.fromisoformat, told.get("dates", ())))
        return cls(job_id, told["chunk"], counts, tuple(told.get("files", ())), dates)


@dataclass(frozen=True, slots=True)
class Staged:
    """What has been staged, as it was looked at before a version of `assessments` was pinned."""

    chunks: tuple[StagedChunk, ...] = ()
    """Those whose results that version may lack."""
    merged: frozenset[tuple[str, int]] = frozenset()
    """Other chunks of jobs that had not SUCCEEDED."""
    succeeded: frozenset[str] = frozenset()
    """The newest jobs that had: all that they staged is among the results."""

    def and_mine(self, chunks: Iterable[StagedChunk]) -> Staged:
        """Return it with further chunks."""
        return replace(self, chunks=(*self.chunks, *chunks))


def is_final(path: str) -> bool:
    """True for a file that a commit can make part of `assessments` as it is."""
    return path.startswith(f"{PARTITION}=")


def added(counts: Iterable[Mapping[str, StagedCounts]]) -> dict[str, StagedCounts]:
    """Add up counts by scorer."""
    total: dict[str, StagedCounts] = {}
    for each in counts:
        for name, found in each.items():
            total[name] = total.get(name, StagedCounts()) + found
    return total


def count_rows(rows: pa.Table, traces: pa.Array) -> dict[str, StagedCounts]:
    """Count pairs by scorer, of rows of `assessments` and a number of the trace of each.

    A pair with several feedbacks is an error when one of them is, and scored when one has a value.
    """
    first = pc.equal(rows["ordinal"], 0)
    table = pa.table(
        {
            "trace": traces,
            "scorer": rows["scorer_name"],
            "failed": pc.is_valid(rows["error_code"]).cast(pa.int64()),
            "valued": pc.is_valid(rows["value"]).cast(pa.int64()),
            "calls": pc.if_else(first, rows["attempts"].cast(pa.int64()), 0),
            "cost": pc.if_else(first, rows["cost_usd"], pa.scalar(None, pa.float64())),
            "ms": pc.if_else(first, rows["latency_ms"], pa.scalar(None, pa.float64())),
        }
    )
    if not pc.all(first, min_count=0).as_py():
        # Else each row is a pair. Threads would cost more than they bring, a batch at a time.
        pairs = table.group_by(["trace", "scorer"], use_threads=False).aggregate(
            [("failed", "max"), ("valued", "max"), ("calls", "sum"), ("cost", "sum"), ("ms", "sum")]
        )
        table = pairs.rename_columns([name.rsplit("_", 1)[0] for name in pairs.column_names])
    failed = table["failed"]
    sums = pa.table(
        {
            "scorer": table["scorer"],
            "scored": pc.multiply(pc.subtract(1, failed), table["valued"]),
            "errored": failed,
            "pairs": pa.repeat(1, len(table)),
            **{name: table[name] for name in ("calls", "cost", "ms")},
        }
    )
    added_up = [(name, "sum") for name in sums.column_names if name != "scorer"]
    totals = sums.group_by("scorer", use_threads=False).aggregate(added_up)
    return {
        t["scorer"]: StagedCounts(
            t["scored_sum"],
            t["pairs_sum"] - t["scored_sum"] - t["errored_sum"],
            t["errored_sum"],
            t["calls_sum"],
            t["cost_sum"],
            (t["ms_sum"] or 0.0) / 1000,
        )
        for t in totals.to_pylist()
    }
