"""Scoring one batch of traces in a Python worker: lists in, lists out; knows nothing of Spark."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any

from backfill_spark.models import ErrorCode, ScorerKind, ScorerSpec
from backfill_spark.scoring.arguments import (
    REFUSED_FOR_KEY,
    REFUSED_FOR_SIZE,
    TOO_LARGE,
    UNREADABLE,
    Batch,
    columns_for,
)
from backfill_spark.scoring.feedback import FIELD_NAMES, ResultRow, describe, failure, failure_of, normalise
from backfill_spark.scoring.time_limit import CallTimeoutError, Watch, watching

if TYPE_CHECKING:
    from backfill_spark.scoring.async_calls import Call

MAX_IN_FLIGHT = 64
"""Calls of async scorers that are under way at once: what judges have. Spelled here because their settings need
pydantic; a test holds them equal."""
_Masks = tuple[int, int, int]
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


def load_scorers(
    specs: Iterable[ScorerSpec],
    available: Collection[str],
    *,
    load: Callable[[ScorerSpec], Callable[..., object]] | None = None,
) -> tuple[LoadedScorer, ...]:
    """Make scorers callable; one that cannot be loaded has a `problem` and costs only its own pairs."""
    if load is None:
        from backfill_spark.scorers.stored_code import pickling

        load = pickling.load
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
    batch = Batch(columns, [scorer.spec.signature for scorer in scorers], payload)
    watch = Watch()
    own_limits = [scorer.spec.timeout_s for scorer in scorers]
    limits = [(timeout_s if own is None else own) or inf for own in own_limits]
    calls = [
        _kind_of_call(scorer)(bit, scorer, batch, limit, watch)
        for bit, (scorer, limit) in enumerate(zip(scorers, limits, strict=True))
    ]
    awaited = [call for call in calls if isinstance(call, _AwaitedCall)]
    rows: list[ResultRow] = []
    none = [0] * len(due)
    # A row at a time: the masks of its due scorers, and of those for which it is too large or cannot be read.
    masks = list(zip(due, columns.get(TOO_LARGE, none), columns.get(UNREADABLE, none), strict=True))
    with watching(watch, min(limits, default=inf)):
        if awaited:
            # Only these need asyncio, which takes 50 ms to import.
            from backfill_spark.scoring.async_calls import run_all

            run_all(_calls_ahead(masks, awaited), in_flight=in_flight, watch=watch)
        lengths = _score_rows(masks, calls, rows)
    values = [list(field) for field in zip(*rows, strict=True)] if rows else [[] for _ in FIELD_NAMES]
    return Results(lengths, dict(zip(FIELD_NAMES, values, strict=True)))


def _score_rows(masks: Iterable[_Masks], calls: Sequence[_Call], rows: list[ResultRow]) -> list[int]:
    """Add the results of each row to `rows`; return how many each has."""
    plans: dict[int, list[_Call]] = {}
    lengths = []
    for row, (mask, large, torn) in enumerate(masks):
        plan = plans.get(mask)
        if plan is None:
            plan = plans[mask] = [call for call in calls if mask >> call.bit & 1]
        before = len(rows)
        is_refused = large or torn
        for call in plan:
            if is_refused and (why := _refusal(call, large, torn)):
                rows.append(call.failure(*why))
            else:
                call(row, rows)
        lengths.append(len(rows) - before)
    return lengths


def _calls_ahead(masks: Iterable[_Masks], calls: Sequence[_AwaitedCall]) -> Iterator[Call]:
    """Yield the calls of async scorers that `_score_rows` will ask for."""
    for row, (mask, large, torn) in enumerate(masks):
        for call in calls:
            if mask >> call.bit & 1 and not _refusal(call, large, torn):
                yield call.ahead(row)


def _refusal(call: _Call, large: int, torn: int) -> tuple[ErrorCode, str] | None:
    """Return why the scorer is not called on a row; None where it is. A mask that is True is for all scorers."""
    if torn is True or torn >> call.bit & 1:
        return REFUSED_FOR_KEY
    if large is True or large >> call.bit & 1:
        return REFUSED_FOR_SIZE
    return None


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

    def __init__(self, bit: int, scorer: LoadedScorer, batch: Batch, limit: float, watch: Watch) -> None:
        self.bit, self.limit, self.watch = bit, limit, watch
        self.name, self.version = scorer.spec.name, scorer.spec.version
        self.function: Any = scorer.function
        self.problem = scorer.problem or ""
        self.digests = batch.digests_of(scorer.needs)
        self.arguments = [(parameter, batch.argument(parameter)) for parameter in scorer.spec.signature]

    def __call__(self, row: int, rows: list[ResultRow]) -> None:
        """Score one row and add its results to `rows`."""
        watch, digest, started = self.watch, self.digests(row), None
        try:
            arguments = {parameter: give(row) for parameter, give in self.arguments}
            started = perf_counter()
            watch.deadline = started + self.limit
            try:
                result: Any = self.function(**arguments)
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
            rows.append(self.failure(*failure_of(error), digest, spent))
            return
        # The common kinds, without a call: 0.5 µs a pair instead of 1.5.
        kind = type(result)
        if kind is float and result - result == 0.0:
            value, double = repr(result), result
        elif kind is bool:
            value, double = ("true", 1.0) if result else ("false", 0.0)
        elif kind is int and -_SAFE_INT < result < _SAFE_INT:
            value, double = repr(result), float(result)
        else:
            rows += self.normalised(result, digest, latency)
            return
        name = self.name
        rows.append((name, self.version, 0, name, value, double, None, None, None, None, latency, digest, None))

    def given(self, row: int) -> dict[str, Any]:
        """Return the arguments of the call."""
        return {parameter: give(row) for parameter, give in self.arguments}

    def normalised(self, result: object, digest: str | None, latency_ms: float | None) -> list[ResultRow]:
        """Return the rows of what a call returned."""
        return normalise(result, scorer=self.name, version=self.version, latency_ms=latency_ms, input_digest=digest)

    def timed_out(self, digest: str | None) -> ResultRow:
        """Return the row of a call that was ended for its limit."""
        return self.failure(ErrorCode.TIMEOUT, f"The call took longer than {self.limit:g} s.", digest)

    def failure(
        self, code: ErrorCode, message: str, digest: str | None = None, latency_ms: float | None = None
    ) -> ResultRow:
        """Return the row of a pair that has no value."""
        return failure(code, message, scorer=self.name, version=self.version, tail=(latency_ms, digest))


class _AwaitedCall(_Call):
    """An async scorer bound to the columns of one batch: its calls are made ahead, and here their results taken."""

    __slots__ = ("landed",)

    def __init__(self, bit: int, scorer: LoadedScorer, batch: Batch, limit: float, watch: Watch) -> None:
        super().__init__(bit, scorer, batch, limit, watch)
        self.landed: dict[int, Call] = {}

    def ahead(self, row: int) -> Call:
        """Return the call of one row, to be made."""
        from backfill_spark.scoring.async_calls import Call

        made = self.landed[row] = Call(self.function, partial(self.given, row), self.limit)
        return made

    def __call__(self, row: int, rows: list[ResultRow]) -> None:
        """Add the results of one row to `rows`."""
        call, digest = self.landed.pop(row), self.digests(row)
        if call.is_late:
            rows.append(self.timed_out(digest))
        elif call.failure is not None:
            rows.append(self.failure(*call.failure, digest, call.latency_ms))
        else:
            rows += self.normalised(call.result, digest, call.latency_ms)


class _UnloadedCall(_Call):
    """A scorer that could not be loaded: each of its pairs says why."""

    __slots__ = ()

    def __call__(self, row: int, rows: list[ResultRow]) -> None:
        """Add the one result of the row to `rows`."""
        rows.append(self.failure(ErrorCode.LOAD_FAILED, self.problem, self.digests(row)))


def _kind_of_call(scorer: LoadedScorer) -> type[_Call]:
    if scorer.function is None:
        return _UnloadedCall
    return _AwaitedCall if scorer.spec.kind is ScorerKind.ASYNC_FUNCTION else _Call
