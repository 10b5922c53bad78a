"""What the calls of a batch are given: the arguments of each row, decoded once, and the digest of what they hold."""

from __future__ import annotations

import copy
import marshal
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any

from backfill_spark.models import ErrorCode
from backfill_spark.traces.decode import ATOMS, RawValues, decode_payload, text_of
from backfill_spark.traces.trace import Trace

TRACE_COLUMNS = frozenset(
    {
        "trace_id",
        "experiment_id",
        "request_time",
        "execution_duration_ms",
        "state",
        "request",
        "response",
        "request_preview",
        "response_preview",
        "client_request_id",
        "session_id",
        "trace_metadata",
        "tags",
        "spans",
        "assessments",
    }
)
"""Columns that a scorer on `trace` is given, as far as the source has them."""
TOO_LARGE = "too_large"
"""Column of bit masks like `due` (or True for all): for these scorers the trace is above the size limit."""
UNREADABLE = "unreadable"
"""Column of bit masks like `due`: for these scorers the trace's id, or what the filter compares, cannot be read."""
HAS_BYTES = "has_bytes"
"""Present where some values of the batch are bytes, for they are no text."""
FLAGS = frozenset({TOO_LARGE, UNREADABLE, HAS_BYTES})
"""What `columns` has besides columns of TRACES."""
REFUSED_FOR_SIZE = (
    ErrorCode.TRACE_TOO_LARGE,
    "The trace is larger than the setting limits.trace_mb allows; raise it to score this trace.",
)
REFUSED_FOR_KEY = (
    ErrorCode.TRACE_UNREADABLE,
    "The trace id is no UTF-8, or the filter compares tags, metadata or a text that cannot be read.",
)


def columns_for(signature: Collection[str], available: Collection[str]) -> frozenset[str]:
    """Return the columns that a scorer with these parameters is given, of a source with the columns `available`."""
    needed: set[str] = set()
    for parameter in signature:
        if parameter == "inputs":
            needed.add("request" if "request" in available else "spans")
        elif parameter == "outputs":
            needed.add("response" if "response" in available else "spans")
        elif parameter == "expectations":
            needed.add("assessments")
        elif parameter == "trace":
            needed |= TRACE_COLUMNS
    return frozenset(needed.intersection(available))


class Batch:
    """The columns of one batch, and what was made of the row at hand."""

    def __init__(
        self, columns: Mapping[str, Sequence[Any]], signatures: Collection[Collection[str]], payload: str
    ) -> None:
        self.columns = {name: values for name, values in columns.items() if name not in FLAGS}
        self.has_bytes = HAS_BYTES in columns
        self.payload = payload
        self._signatures = signatures
        self._row = -1
        self._trace: Trace | None = None
        self._given: dict[str, Callable[[int], Any]] = {}
        self._digests: dict[frozenset[str], Callable[[int], str]] = {}

    def argument(self, parameter: str) -> Callable[[int], Any]:
        """Return a function of a row's argument: an object of its own at each call, unless immutable."""
        found = self._given.get(parameter)
        if found is None:
            found = self._given[parameter] = self._giver(parameter)
        return found

    def digests_of(self, needs: frozenset[str]) -> Callable[[int], str]:
        """Return a function of the digest of a row's raw values in these columns."""
        found = self._digests.get(needs)
        if found is None:
            named = {name: self.columns[name] for name in sorted(needs) if name in self.columns}
            found = self._digests[needs] = _digests(named, self.payload)
        return found

    def _giver(self, parameter: str) -> Callable[[int], Any]:
        column = {"inputs": "request", "outputs": "response"}.get(parameter)
        if column is not None and column in self.columns:
            takers = sum(parameter in signature for signature in self._signatures)
            return _Payloads(column, self.columns[column], self.payload, is_shared=takers > 1).of
        if parameter == "trace":
            return self._trace_of
        return partial(self._trace_part, parameter)

    def _trace_part(self, parameter: str, row: int) -> Any:
        return getattr(self._trace_of(row), parameter)

    def _trace_of(self, row: int) -> Trace:
        if self._trace is None or self._row != row:
            values = {name: values[row] for name, values in self.columns.items()}
            if self.has_bytes:
                values = RawValues(values)
            self._row, self._trace = row, Trace(values, payload=self.payload)
        return self._trace.copy()


class _Payloads:
    """One payload column, decoded afresh for each taker."""

    __slots__ = ("atom", "column", "is_shared", "name", "packed", "payload", "row")

    def __init__(self, name: str, column: Sequence[Any], payload: str, *, is_shared: bool) -> None:
        self.name, self.column, self.payload, self.is_shared = name, column, payload, is_shared
        self.row, self.packed, self.atom = -1, b"", None

    def of(self, row: int) -> Any:
        if row == self.row:
            return marshal.loads(self.packed) if self.packed else self.atom  # noqa: S302 - bytes made below
        raw = self.column[row]
        if raw.__class__ is not str:
            return raw if raw.__class__ in ATOMS else copy.deepcopy(text_of(raw, self.name))
        value = decode_payload(raw, self.payload)
        if self.is_shared:
            self.row = row
            if value.__class__ in ATOMS:
                self.packed, self.atom = b"", value
            else:
                # Measured on 600 characters: json 1.9 µs, marshal.loads 0.8, marshal.dumps 0.5, deepcopy 5.2.
                self.packed = marshal.dumps(value)
        return value


def _digests(columns: Mapping[str, Sequence[Any]], payload: str) -> Callable[[int], str]:
    """Return a function that hashes a row's raw values in these columns; it keeps the last for the next scorer."""
    # The same texts decoded otherwise are another input.
    seed = blake2b(" ".join([payload, *columns]).encode(), digest_size=8)
    values_of = list(columns.values())
    last, text = -1, ""

    def digest(row: int) -> str:
        nonlocal last, text
        if row == last:
            return text
        hashed = seed.copy()
        for values in values_of:
            value = values[row]
            if value is None:
                hashed.update(b"\xff")
                continue
            raw = value if value.__class__ is str else repr(value)
            data = raw.encode("utf-8", "surrogatepass")
            # Its length keeps the end of one text apart from the start of the next.
            hashed.update(b"%d:" % len(data) + data)
        last, text = row, hashed.hexdigest()
        return text

    return digest
