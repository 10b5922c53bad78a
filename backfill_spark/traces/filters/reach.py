"""What a filter leaves of all traces by times and states alone: a scan of files can look at these before it reads."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import reduce

from backfill_spark.models import TimeWindow
from backfill_spark.traces.filters.tree import And, Comparison, Kind, Node, Not, Operator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Of these no text but their ASCII spellings has them as its upper case, so that a source can be asked for those.
_STATES = frozenset({"OK", "ERROR"})
_BELOW = frozenset({Operator.LT, Operator.LE, Operator.EQ})
_ABOVE = frozenset({Operator.GT, Operator.GE, Operator.EQ})


@dataclass(frozen=True, slots=True)
class Reach:
    """Where the traces lie that match: outside of it there is none, inside of it not all need match."""

    window: TimeWindow = field(default_factory=TimeWindow)
    states: frozenset[str] | None = None
    """Of upper case; None for any."""

    def __and__(self, other: Reach) -> Reach:
        """Return where both can match."""
        states = [s for s in (self.states, other.states) if s is not None]
        return Reach(self.window & other.window, frozenset.intersection(*states) if states else None)

    def __or__(self, other: Reach) -> Reach:
        """Return where one of both can match."""
        is_any = self.states is None or other.states is None
        return Reach(self.window | other.window, None if is_any else frozenset().union(self.states, other.states))  # type: ignore[arg-type]


def reach_of(node: Node | None) -> Reach:
    """Return how far a tree reaches."""
    if node is None or isinstance(node, Not):
        return Reach()
    if not isinstance(node, Comparison):
        each = [reach_of(inner) for inner in node.nodes]
        return reduce(Reach.__and__ if isinstance(node, And) else Reach.__or__, each)
    kind, how, value = node.subject.kind, node.operator, node.value
    if kind is Kind.STATUS:
        asked = value if how is Operator.IN and isinstance(value, tuple) else (value,) if how is Operator.EQ else ()
        states = frozenset(str(one) for one in asked)
        return Reach(states=states if states and states <= _STATES else None)
    if kind is not Kind.TIMESTAMP:
        return Reach()
    if how is Operator.BETWEEN and isinstance(value, tuple):
        return Reach(TimeWindow(_at(value[0]), _at(value[1], behind=1)))
    return Reach(TimeWindow(_at(value) if how in _ABOVE else None, _at(value, behind=1) if how in _BELOW else None))


def _at(value: object, *, behind: int = 0) -> datetime | None:
    """Return the instant of whole milliseconds, rounded down; None for what is no instant of Python's."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    try:
        return _EPOCH + timedelta(milliseconds=math.floor(value) + behind)
    except OverflowError:
        return None
