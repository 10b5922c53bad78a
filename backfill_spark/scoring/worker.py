"""Scoring one batch of traces in a Python worker: lists in, lists out; knows nothing of Spark."""

from __future__ import annotations

import copy
import gc
import marshal
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any

from backfill_spark.models import ErrorCode, ScorerKind, ScorerSpec
from backfill_spark.scoring.feedback import FIELD_NAMES, ResultRow, describe, failure, failure_of, normalise
from backfill_spark.scoring.time_limit import CallTimeoutError, Watch, watching
from backfill_spark.traces.decode import ATOMS, RawValues, decode_payload, text_of
from backfill_spark.traces.trace import Trace

if TYPE_CHECKING:
    from backfill_spark.scoring.async_calls import Call

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
MAX_IN_FLIGHT = 64
"""Calls of async scorers that are under way at once: what judges have. Spelled here because their settings need
pydantic; a test holds them equal."""
REFUSED_FOR_SIZE = (
    ErrorCode.TRACE_TOO_LARGE,
    "The trace is larger than the setting limits.trace_mb allows; raise it to score this trace.",
)
REFUSED_FOR_KEY = (
    ErrorCode.TRACE_UNREADABLE,
    "The trace id is no UTF-8, or the filter compares tags, metadata or a text that cannot be read.",
)
# An int within it is a double, and its text is below Python's limit of digits.
_SAFE_INT = 10**300
_is_frozen = False


@dataclass(frozen=True, slots=True)
class LoadedScorer:
    """A scorer that is ready to be called, or says why it is not."""

    spec: ScorerSpec
    function: Callable[..., object] | None
    needs: frozenset[str]
    """Columns that it is given."""
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """Results of a batch: `fields[name]` is flat over all rows, `lengths[i]` of them belong to row i."""

    lengths: list[int]
    fields: dict[str, list[Any]]


def columns_for(signature: Collection[str], available: Collection[str]) -> frozenset[str]:
    """Return which columns of a source with the columns `available` a scorer with these parameters is given."""
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


def load_scorers(
    specs: Iterable[ScorerSpec],
    available: Collection[str],
    *,
    load: Callable[[ScorerSpec], Callable[..., object]],
) -> tuple[LoadedScorer, ...]:
    """Make scorers callable by `load`; one that cannot be loaded has a `problem` and costs only its own pairs."""
    return tuple(_loaded(spec, available, load) for spec in specs)


def score_batch(
    columns: Mapping[str, Sequence[Any]],
    due: Sequence[int],
    scorers: Sequence[LoadedScorer],
    *,
    payload: str,
    timeout_s: float | None = None,
    in_flight: int = MAX_IN_FLIGHT,
) -> Results:
    """Call each scorer once on each row that is due for it, and on no other.

    Args:
        columns: TRACES column → values of the batch's rows; see `Trace` for their form. The column `too_large`
            tells where a scorer is not called for the trace's size, `unreadable` where not even its key or its
            filter can be read.
        due: A bit mask a row: bit k is scorer k. The sign bit of 64-bit integers is bit 63.
        scorers: At most 64.
        payload: How recorded texts are decoded, see `trace.decode_payload`.
        timeout_s: Longest that one call may take where its scorer does not say; None or 0 is no limit.
        in_flight: How many calls of `async def` scorers are under way at once. These are made before all others.

    Nothing that a scorer does in Python ends the batch: what it raises becomes its row. A scorer that changes
    what it was given changes nothing that another one sees.
    """
    _freeze_once()
    batch = _Batch(columns, scorers, payload)
    watch = Watch()
    limits = [_limit(scorer.spec.timeout_s, timeout_s) for scorer in scorers]
    calls = [
        _kind_of_call(scorer)(bit, scorer, batch, limit, watch)
        for bit, (scorer, limit) in enumerate(zip(scorers, limits, strict=True))
    ]
    awaited = [call for call in calls if isinstance(call, _AwaitedCall)]
    rows: list[ResultRow] = []
    none = [0] * len(due)
    refused = columns.get(TOO_LARGE, none), columns.get(UNREADABLE, none)
    with watching(watch, min(limits, default=inf)):
        if awaited:
            # Only these need asyncio, which takes 50 ms to import.
            from backfill_spark.scoring.async_calls import run_all

            run_all(_calls_ahead(due, *refused, awaited), in_flight=in_flight, watch=watch)
        lengths = _score_rows(due, *refused, calls, rows)
    values = [list(field) for field in zip(*rows, strict=True)] if rows else [[] for _ in FIELD_NAMES]
    return Results(lengths, dict(zip(FIELD_NAMES, values, strict=True)))


def _score_rows(
    due: Sequence[int],
    too_large: Sequence[int],
    unreadable: Sequence[int],
    calls: Sequence[_Call],
    rows: list[ResultRow],
) -> list[int]:
    """Add the results of each row to `rows`; return how many each has."""
    plans: dict[int, list[_Call]] = {}
    lengths = []
    for row, (mask, large, torn) in enumerate(zip(due, too_large, unreadable, strict=True)):
        plan = plans.get(mask)
        if plan is None:
            plan = plans[mask] = [call for call in calls if mask >> call.bit & 1]
        before = len(rows)
        if large or torn:
            for call in plan:
                if _is_for(torn, call):
                    rows.append(call.unreadable())
                elif _is_for(large, call):
                    rows.append(call.too_large())
                else:
                    call(row, rows)
        else:
            for call in plan:
                call(row, rows)
        lengths.append(len(rows) - before)
    return lengths


def _calls_ahead(
    due: Sequence[int], too_large: Sequence[int], unreadable: Sequence[int], calls: Sequence[_AwaitedCall]
) -> Iterator[Call]:
    """Yield the calls of async scorers that `_score_rows` will ask for."""
    for row, (mask, large, torn) in enumerate(zip(due, too_large, unreadable, strict=True)):
        for call in calls:
            if mask >> call.bit & 1 and not _is_for(large, call) and not _is_for(torn, call):
                yield call.ahead(row)


def _is_for(mask: int, call: _Call) -> bool:
    return mask is True or bool(mask >> call.bit & 1)


def _limit(own_s: float | None, general_s: float | None) -> float:
    limit = general_s if own_s is None else own_s
    return limit or inf


def _freeze_once() -> None:
    global _is_frozen
    if not _is_frozen:
        # Measured: what Spark and the scorers imported is then left out of every collection.
        gc.freeze()
        _is_frozen = True


def _loaded(
    spec: ScorerSpec, available: Collection[str], load: Callable[[ScorerSpec], Callable[..., object]]
) -> LoadedScorer:
    needs = columns_for(spec.signature, available)
    if "session" in spec.signature:
        return LoadedScorer(spec, None, needs, f"The scorer {spec.name!r} takes a session, which is not scored yet.")
    try:
        return LoadedScorer(spec, load(spec), needs)
    except BaseException as error:  # loading runs what the scorer's module does
        return LoadedScorer(spec, None, needs, describe(error))


class _Call:
    """One scorer bound to the columns of one batch."""

    __slots__ = ("arguments", "bit", "digests", "function", "limit", "name", "problem", "version", "watch")

    def __init__(self, bit: int, scorer: LoadedScorer, batch: _Batch, limit: float, watch: Watch) -> None:
        self.bit, self.limit, self.watch = bit, limit, watch
        self.name, self.version = scorer.spec.name, scorer.spec.version
        self.function, self.problem = scorer.function, scorer.problem
        self.digests = batch.digests_of(scorer.needs)
        self.arguments = [(parameter, batch.argument(parameter)) for parameter in scorer.spec.signature]

    def __call__(self, row: int, rows: list[ResultRow]) -> None:
        """Score one row and add its results to `rows`."""
        name, version, function, watch = self.name, self.version, self.function, self.watch
        digest = self.digests(row)
        if function is None:
            rows.append(self._failure(ErrorCode.LOAD_FAILED, self.problem or "", digest))
            return
        started = None
        try:
            arguments = {parameter: give(row) for parameter, give in self.arguments}
            started = perf_counter()
            watch.deadline = started + self.limit
            try:
                result = function(**arguments)
            finally:
                watch.deadline = inf
                watch.tidy()
            latency = (perf_counter() - started) * 1000.0
        except CallTimeoutError:
            watch.deadline = inf
            rows.append(self.timed_out(digest))
            return
        except BaseException as error:  # SystemExit and its kin are what a scorer raised, too
            spent = None if started is None else (perf_counter() - started) * 1000.0
            code, message = failure_of(error)
            rows.append(self._failure(code, message, digest, spent))
            return
        # The common kinds, without a call: 0.5 µs a pair instead of 1.5.
        kind = type(result)
        if kind is float and result - result == 0.0:  # type: ignore[operator]  # its type was just told
            value, double = repr(result), result
        elif kind is bool:
            value, double = ("true", 1.0) if result else ("false", 0.0)
        elif kind is int and -_SAFE_INT < result < _SAFE_INT:  # type: ignore[operator]  # as above
            value, double = repr(result), float(result)  # type: ignore[arg-type]  # as above
        else:
            rows += normalise(result, scorer=name, version=version, latency_ms=latency, input_digest=digest)
            return
        rows.append((name, version, 0, name, value, double, None, None, None, None, latency, digest, None))  # type: ignore[arg-type]  # as above

    def timed_out(self, digest: str | None) -> ResultRow:
        return self._failure(ErrorCode.TIMEOUT, f"The call took longer than {self.limit:g} s.", digest)

    def too_large(self) -> ResultRow:
        return self._failure(*REFUSED_FOR_SIZE, None)

    def unreadable(self) -> ResultRow:
        return self._failure(*REFUSED_FOR_KEY, None)

    def _failure(self, code: ErrorCode, message: str, digest: str | None, latency_ms: float | None = None) -> ResultRow:
        return failure(code, message, scorer=self.name, version=self.version, tail=(latency_ms, digest))


class _AwaitedCall(_Call):
    """An async scorer bound to the columns of one batch: its calls are made ahead, and here their results taken."""

    __slots__ = ("landed",)

    def __init__(self, bit: int, scorer: LoadedScorer, batch: _Batch, limit: float, watch: Watch) -> None:
        super().__init__(bit, scorer, batch, limit, watch)
        self.landed: dict[int, Call] = {}

    def ahead(self, row: int) -> Call:
        """Return the call of one row, to be made."""
        from backfill_spark.scoring.async_calls import Call

        assert self.function is not None
        made = self.landed[row] = Call(self.function, partial(self._given, row), self.limit)
        return made

    def __call__(self, row: int, rows: list[ResultRow]) -> None:
        """Add the results of one row to `rows`."""
        call, digest = self.landed.pop(row), self.digests(row)
        if call.is_late:
            rows.append(self.timed_out(digest))
        elif call.failure is not None:
            rows.append(self._failure(*call.failure, digest, call.latency_ms))
        else:
            rows += normalise(
                call.result,
                scorer=self.name,
                version=self.version,
                latency_ms=call.latency_ms,
                input_digest=digest,
            )

    def _given(self, row: int) -> dict[str, Any]:
        return {parameter: give(row) for parameter, give in self.arguments}


def _kind_of_call(scorer: LoadedScorer) -> type[_Call]:
    is_awaited = scorer.spec.kind is ScorerKind.ASYNC_FUNCTION and scorer.function is not None
    return _AwaitedCall if is_awaited else _Call


class _Batch:
    """The columns of one batch, and what was made of the row at hand."""

    def __init__(self, columns: Mapping[str, Sequence[Any]], scorers: Sequence[LoadedScorer], payload: str) -> None:
        self.columns = {name: values for name, values in columns.items() if name not in FLAGS}
        self.has_bytes = HAS_BYTES in columns
        self.payload = payload
        self._scorers = scorers
        self._row = -1
        self._trace: Trace | None = None
        self._given: dict[str, Callable[[int], Any]] = {}
        self._digests: dict[frozenset[str], Callable[[int], str]] = {}

    def argument(self, parameter: str) -> Callable[[int], Any]:
        """Return what gives the argument of a row: an object of its own at each call, unless immutable."""
        found = self._given.get(parameter)
        if found is None:
            found = self._given[parameter] = self._giver(parameter)
        return found

    def digests_of(self, needs: frozenset[str]) -> Callable[[int], str]:
        """Return what gives the digest of a row's raw values in these columns."""
        found = self._digests.get(needs)
        if found is None:
            named = [(name, self.columns[name]) for name in sorted(needs) if name in self.columns]
            found = self._digests[needs] = _Digests(named, self.payload).of
        return found

    def _giver(self, parameter: str) -> Callable[[int], Any]:
        column = {"inputs": "request", "outputs": "response"}.get(parameter)
        if column is not None and column in self.columns:
            takers = sum(parameter in scorer.spec.signature for scorer in self._scorers)
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

    __slots__ = ("column", "is_shared", "name", "packed", "payload", "row")

    def __init__(self, name: str, column: Sequence[Any], payload: str, *, is_shared: bool) -> None:
        self.name, self.column, self.payload, self.is_shared = name, column, payload, is_shared
        self.row, self.packed = -1, b""

    def of(self, row: int) -> Any:
        if row == self.row:
            return marshal.loads(self.packed)  # noqa: S302 - bytes made two lines below
        raw = self.column[row]
        if raw.__class__ is not str:
            return raw if raw.__class__ in ATOMS else copy.deepcopy(text_of(raw, self.name))
        value = decode_payload(raw, self.payload)
        if self.is_shared and value.__class__ not in ATOMS:
            # Measured on 600 characters: json 1.9 µs, marshal.loads 0.8, marshal.dumps 0.5, deepcopy 5.2.
            self.row, self.packed = row, marshal.dumps(value)
        return value


class _Digests:
    """Hashes of raw values, one a row and set of columns."""

    __slots__ = ("columns", "digest", "row", "seed")

    def __init__(self, columns: Sequence[tuple[str, Sequence[Any]]], payload: str) -> None:
        self.columns = [values for _, values in columns]
        # The same texts decoded otherwise are another input.
        self.seed = blake2b(" ".join([payload, *(name for name, _ in columns)]).encode(), digest_size=8)
        self.row, self.digest = -1, ""

    def of(self, row: int) -> str:
        if row != self.row:
            hashed = self.seed.copy()
            for column in self.columns:
                value = column[row]
                if value is None:
                    hashed.update(b"\xff")
                    continue
                text = value if value.__class__ is str else repr(value)
                data = text.encode("utf-8", "surrogatepass")
                # Its length keeps the end of one text apart from the start of the next.
                hashed.update(b"%d:" % len(data) + data)
            self.row, self.digest = row, hashed.hexdigest()
        return self.digest
