"""Shape: a way in which people store traces; how it is told, and how its columns become TRACES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backfill_spark.traces.sources.mapping import Columns
    from backfill_spark.traces.sources.pinned import Pinned
    from backfill_spark.traces.sources.trace_source import TraceSource


@dataclass(frozen=True, slots=True)
class Match:
    """How far stored data look like a shape."""

    has: tuple[str, ...]
    """Marks of the shape that are there: names of columns, or words."""
    lacks: tuple[str, ...] = ()
    """Marks that are not."""

    @property
    def fits(self) -> bool:
        """True when all marks are there."""
        return bool(self.has) and not self.lacks

    @property
    def nearness(self) -> float:
        """Share of the marks that are there."""
        return len(self.has) / max(1, len(self.has) + len(self.lacks))


@dataclass(frozen=True, slots=True)
class Shape:
    """A way in which traces are stored."""

    name: str
    """As the setting `traces.shape` has it, and a job's request."""
    title: str
    tells: Callable[[Pinned], Match]
    """Looks at names of files and columns, never at rows."""
    open: Callable[[Pinned, Columns], TraceSource]
    """Gives the traces, by the setting `traces.columns` where the shape has a row a trace."""


def by_columns(pinned: Pinned, *needed: str) -> Match:
    """Return how far the columns, or the top keys of JSON, are there."""
    have = pinned.columns
    return Match(tuple(n for n in needed if n in have), tuple(n for n in needed if n not in have))
