"""The import: window after window is read from a server and appended to a Delta table.

One commit holds the rows of a window and, as the version of a transaction, the instant up to which everything is in:
whoever is killed has written a window whole or not at all, and the next import goes on from there. Traces that arrive
later than that with an earlier start are looked for in the last hours.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from backfill_spark.errors import TraceImportError, TraceSourceError
from backfill_spark.storage.small_table import Txn
from backfill_spark.traces.mlflow_server.rows import is_unfinished, reason_left, row_of
from backfill_spark.traces.mlflow_server.server import Left

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backfill_spark.storage.deltalake_table import DeltalakeTable
    from backfill_spark.traces.mlflow_server.server import Experiment, Recorded, Server

logger = logging.getLogger(__name__)

LAG = timedelta(minutes=5)
"""How far back the end of an import lies: clients send a trace when it ends, and some of them later."""
LOOK_BACK = timedelta(hours=2)
"""How long after its start a trace may arrive and still be found by the next import."""
FIRST_TRACES, MOST_TRACES = 500, 5_000
CHUNK_BYTES = 64 * 2**20
"""Of spans in a commit, about; one trace may have more."""
_PLACES = 1_000_000
"""Commits at one instant: an instant, and a number below this, make the version of a transaction."""


@dataclass(slots=True)
class Imported:
    """What one import did."""

    experiment: Experiment
    traces: int = 0
    """Rows written."""
    late: int = 0
    """Those of them that began before the end of the last import, and arrived after it."""
    left: Counter[str] = field(default_factory=Counter)
    """Reason → traces that were not imported for it."""
    unfinished: bool = False
    """True where it ended before a trace that is not finished."""
    until: datetime | None = None
    """Everything that began before this instant is in."""
    seconds: float = 0.0


class Import:
    """Copies one experiment into one table."""

    def __init__(
        self,
        server: Server,
        experiment: Experiment,
        table: DeltalakeTable,
        *,
        lag: timedelta = LAG,
        look_back: timedelta = LOOK_BACK,
        chunk: int = FIRST_TRACES,
        now: Callable[[], float] = time.time,
        tell: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._server, self.experiment, self._table = server, experiment, table
        self._look_back_ms = look_back // timedelta(milliseconds=1)
        self._now_ms = int(now() * 1000)
        self.end_ms = self._now_ms - lag // timedelta(milliseconds=1)
        self._chunk = chunk
        self.tell = tell
        self._app = f"mlflow/{experiment.id}/{experiment.created_ms}"
        done = table.ensure().transaction(self._app)
        self._version = done
        self.position_ms = None if done is None else done // _PLACES
        """Everything that began before it is in; None before the first import."""

    def run(self, start: datetime | None = None) -> Imported:
        """Copy what is new.

        Args:
            start: of the first import; default: the earliest trace.

        Raises:
            TraceSourceError: `start` lies before that of the import which began the table.
            TraceImportError: another import of the same experiment was first; its rows are in.
        """
        began, done = time.monotonic(), Imported(self.experiment)
        if self.position_ms is None:
            first = self._server.first(self.experiment) if start is None else int(start.timestamp() * 1000)
            self.position_ms = self.end_ms if first is None else first
        else:
            if start is not None:
                raise TraceSourceError(
                    f"{self._table.folder} has traces of this experiment up to {_shown(self.position_ms)}, and the "
                    "import goes on from there. Leave --start out, or name another folder with --to."
                )
            self._late(done)
        while self.position_ms < self.end_ms and not done.unfinished:
            self._next(done)
        done.until = datetime.fromtimestamp(self.position_ms / 1000, UTC)
        done.seconds = time.monotonic() - began
        return done

    def _next(self, done: Imported) -> None:
        assert self.position_ms is not None
        window = self._server.window(self.experiment, self.position_ms, self.end_ms, self._chunk)
        until, traces = window.end_ms, window.traces
        waiting = next((trace for trace in traces if is_unfinished(trace, self._now_ms)), None)
        if waiting is not None:
            until, done.unfinished = waiting.at_ms, True
            traces = [trace for trace in traces if trace.at_ms < until]
        self._write(traces, until, done)

    def _late(self, done: Imported) -> None:
        """Take traces that began before the position and were not there when it was reached."""
        assert self.position_ms is not None
        start = self.position_ms - self._look_back_ms
        known = self._table.texts_since("trace_id", "request_time", datetime.fromtimestamp(start / 1000, UTC))
        ids = [one for one in self._server.ids(self.experiment, start, self.position_ms) if one not in known]
        found = self._server.traces(ids) if ids else []
        # Those that were left out are left out again, and counted then.
        late = [t for t in found if reason_left(t) is None and not is_unfinished(t, self._now_ms)]
        if late:
            self._write(late, self.position_ms, done)
            done.late = len(late)

    def _write(self, traces: Sequence[Recorded], until: int, done: Imported) -> None:
        left, rows = Counter[str](), list[dict[str, Any]]()
        for trace in traces:
            made = row_of(trace, self.experiment) if reason_left(trace) is None else None
            if made is not None:
                rows.append(made)
            else:
                left[str(reason_left(trace) or Left.UNREADABLE)] += 1
        version = max(until * _PLACES, (self._version or 0) + 1)
        if rows or until > (self.position_ms or 0):
            if not self._table.append(rows, txn=Txn(self._app, version)):
                raise TraceImportError(
                    f"Another import of experiment {self.experiment.id} into {self._table.folder} was first. Its "
                    "traces are in; the same command goes on from there."
                )
            self._version = version
        self.position_ms = until
        done.traces += len(rows)
        done.left += left
        size = sum(len(row["spans"]) for row in rows)
        if rows:
            self._chunk = max(1, min(MOST_TRACES, 2 * self._chunk, CHUNK_BYTES * len(rows) // max(size, 1)))
        logger.info("imported %s traces of experiment %s, up to %s", done.traces, self.experiment.id, _shown(until))
        self.tell(len(traces))


def _shown(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
