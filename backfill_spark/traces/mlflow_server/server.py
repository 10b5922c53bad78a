"""What an import asks of a server, and one trace as the server has it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class Left(StrEnum):
    """Why a trace is not imported."""

    INCOMPLETE = "incomplete"
    """Fewer spans are stored than its client counted, an hour after it began."""
    NO_SPANS = "no_spans"
    """Only what was said about it is there: previews are no payload."""
    ARCHIVE_GONE = "archive_gone"
    """Its spans were moved to a file, which is not there."""
    ARCHIVE_OUT_OF_REACH = "archive_out_of_reach"
    """Its spans were moved to a place that this machine cannot read."""
    UNREADABLE = "unreadable"
    """Its spans are no JSON, or its file is damaged."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment; the time of its creation tells it from one of another server with the same id."""

    id: str
    name: str
    created_ms: int


@dataclass(slots=True)
class Recorded:
    """One trace."""

    trace_id: str
    at_ms: int
    """When it began, in milliseconds since the epoch."""
    duration_ms: int | None
    state: str
    request_preview: str | None
    response_preview: str | None
    client_request_id: str | None
    tags: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    assessments: list[dict[str, Any]] = field(default_factory=list)
    """As structs of `schema.IMPORTED_TRACES`."""
    spans: list[str] = field(default_factory=list)
    """MLflow's JSON of each; roots first, then by their start."""
    has_root: bool = True
    """False where each span has a parent: it was begun by another service."""
    left: Left | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """All traces that began in `[start, end_ms)`, in the order of their beginning."""

    traces: Sequence[Recorded]
    end_ms: int


class Server(Protocol):
    """Traces of one server. Times are milliseconds since the epoch, windows half-open."""

    def experiments(self) -> list[Experiment]:
        """All experiments that are not deleted."""

    def first(self, experiment: Experiment) -> int | None:
        """When the earliest trace began; None where there is none."""

    def count(self, experiment: Experiment, start: int, end: int) -> int | None:
        """How many traces began in a window; None where asking costs as much as reading them."""

    def window(self, experiment: Experiment, start: int, end: int, about: int) -> Window:
        """Read a window that begins at `start`, ends at `end` at the latest, and holds about so many traces."""

    def ids(self, experiment: Experiment, start: int, end: int) -> list[str]:
        """Ids of the traces of a window."""

    def traces(self, ids: Collection[str]) -> list[Recorded]:
        """Read traces by id, in the order of their beginning; those that are gone are absent."""

    def scorers(self, experiment: Experiment) -> list[dict[str, Any]]:
        """The latest version of each registered scorer: `name`, `version`, `serialized` (JSON text)."""

    def close(self) -> None:
        """Let go of connections."""
