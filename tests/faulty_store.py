"""A storage that loses replies, invents conflicts, is away or holds a write back, as a plan says.

    plan = FaultPlan(Fault("staged", Operation.APPEND, Kind.LOSE_REPLY, nth=2))
    with faulty(plan):
        backfill_scorers(…)

Below the package's own reading back: what `Store` and `DeltalakeTable` do about the fault is what is tested.
"""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from delta.exceptions.base import ConcurrentAppendException

from backfill_spark.storage.delta_table import Store
from backfill_spark.storage.deltalake_table import DeltalakeTable

HOLD_S = 300.0
CONFLICT = "[DELTA_CONCURRENT_APPEND.WITH_PARTITION_HINT] ConcurrentAppendException: invented by a test"
T = TypeVar("T")


class Operation(StrEnum):
    """What is done to a table."""

    APPEND = "append"
    MERGE = "merge"


class Kind(StrEnum):
    """What happens to it."""

    LOSE_REPLY = "the write lands, the writer gets an error"
    CONFLICT = "the write does not land, since another one did"
    AWAY = "the write does not land; the storage does not answer"
    FULL = "the write does not land; the disk is full"
    HOLD = "the write waits until the plan lets it go"
    HOLD_REPLY = "the write lands, its writer waits until the plan lets it go"


class StorageError(OSError):
    """The storage did not answer."""


@dataclass(frozen=True)
class Fault:
    """`kind` happens to the nth and the following `times - 1` operations on `table`.

    `staged` stands for those commits of events that stage a chunk.
    """

    table: str
    operation: Operation
    kind: Kind
    nth: int = 1
    times: int = 1

    def hits(self, table: str, operation: Operation, count: int) -> bool:
        """True when this fault is for the `count`-th such operation."""
        return (self.table, self.operation) == (table, operation) and self.nth <= count < self.nth + self.times


class FaultPlan:
    """Faults in the order in which they are looked at, and what came of them."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults
        self.happened: list[str] = []
        self.held = threading.Event()
        """Set when a write is being held."""
        self.go = threading.Event()
        """Lets held writes go."""
        self._counts: Counter[tuple[str, Operation]] = Counter()
        self._lock = threading.Lock()

    def around(self, table: str, operation: Operation, write: Callable[[], T]) -> T:
        """Do `write`, or what the plan says instead."""
        with self._lock:
            self._counts[table, operation] += 1
            count = self._counts[table, operation]
            fault = next((f for f in self.faults if f.hits(table, operation, count)), None)
            if fault is not None:
                self.happened.append(f"{operation} {count} on {table}: {fault.kind}")
        match fault.kind if fault is not None else None:
            case Kind.AWAY:
                raise StorageError(f"{table} does not answer")
            case Kind.FULL:
                raise OSError(errno.ENOSPC, "No space left on device", table)
            case Kind.CONFLICT:
                raise ConcurrentAppendException(CONFLICT)
            case Kind.HOLD:
                self._hold()
        done = write()
        match fault.kind if fault is not None else None:
            case Kind.LOSE_REPLY:
                raise StorageError(f"the reply of {table} was lost")
            case Kind.HOLD_REPLY:
                self._hold()
        return done

    def _hold(self) -> None:
        self.held.set()
        if not self.go.wait(HOLD_S):
            raise TimeoutError("the test did not let the write go")


class FaultyStore(Store):
    """A Store whose storage follows a plan; `plan` is set on a subclass."""

    plan: FaultPlan

    def _save(self, writer: Any) -> None:
        save = super()._save
        self.plan.around(self.table.name, Operation.APPEND, lambda: save(writer))

    def merge(self, *args: Any, **options: Any) -> Any:
        """MERGE once, as the plan says."""
        merge = super().merge
        return self.plan.around(self.table.name, Operation.MERGE, lambda: merge(*args, **options))


class FaultyDeltalakeTable(DeltalakeTable):
    """A DeltalakeTable whose storage follows a plan; `plan` is set on a subclass."""

    plan: FaultPlan

    def _save(self, now: Any, batch: Any, *how: Any, **mode: Any) -> None:
        save = super()._save
        operation = Operation.APPEND if mode["mode"] == "append" else Operation.MERGE
        stages = "event" in batch.column_names and "chunk_staged" in batch["event"].to_pylist()
        self.plan.around("staged" if stages else self.table.name, operation, lambda: save(now, batch, *how, **mode))

    def _commit(self, *args: Any) -> None:
        commit = super()._commit
        operation = Operation.MERGE if self.table.name == "assessments" else Operation.APPEND
        self.plan.around(self.table.name, operation, lambda: commit(*args))


@contextmanager
def faulty(plan: FaultPlan) -> Iterator[FaultPlan]:
    """Make every table of the package one whose storage follows `plan`."""
    planned = {
        Store: type("PlannedStore", (FaultyStore,), {"plan": plan}),
        DeltalakeTable: type("PlannedDeltalakeTable", (FaultyDeltalakeTable,), {"plan": plan}),
    }
    places = [(m, kind) for m in _modules() for kind in planned if getattr(m, kind.__name__, None) is kind]
    for module, kind in places:
        setattr(module, kind.__name__, planned[kind])
    try:
        yield plan
    finally:
        plan.go.set()
        for module, kind in places:
            setattr(module, kind.__name__, kind)


def _modules() -> list[Any]:
    import sys

    import backfill_spark.api
    import backfill_spark.backfill.runner  # noqa: F401 - the modules that have a store are loaded by these

    return [m for name, m in list(sys.modules.items()) if name.startswith("backfill_spark.") and m is not None]
