"""One scorer bound to the columns of one batch: called, awaited, or never loaded; each call ends in result rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any

from backfill_spark.models import ErrorCode, ScorerKind, ScorerSpec
from backfill_spark.scoring.arguments import Batch
from backfill_spark.scoring.feedback import ResultRow, failure, failure_of, normalise
from backfill_spark.scoring.time_limit import CallTimeoutError, Watch

if TYPE_CHECKING:
    from backfill_spark.scoring.async_calls import Call

# An int within it is a double, and its text is below Python's limit of digits.
_SAFE_INT = 10**300


@dataclass(frozen=True, slots=True)
class LoadedScorer:
    """A scorer that is ready to be called, or says why it is not."""

    spec: ScorerSpec
    function: Callable[..., object] | None
    needs: frozenset[str]
    """Columns that it is given."""
    problem: str | None = None


class ScorerCall:
    """One scorer bound to the columns of one batch."""

    __slots__ = ("arguments", "bit", "digests", "function", "limit", "name", "problem", "version", "watch")

    def __init__(self, bit: int, scorer: LoadedScorer, batch: Batch, limit: float, watch: Watch) -> None:
        self.bit, self.limit, self.watch = bit, limit, watch
        self.name, self.version = scorer.spec.name, scorer.spec.version
        self.function: Any = scorer.function
        self.problem = scorer.problem or ""
        self.digests = batch.digests_of(scorer.needs)
        self.arguments = [(parameter, batch.argument(parameter)) for parameter in scorer.spec.signature]

    def on(self, rows: list[ResultRow]) -> Callable[[int], None]:
        """Return what scores one row and adds its results to `rows`."""
        # Local names, and one argument apart: 0.3 µs a pair less.
        function, name, version, digests = self.function, self.name, self.version, self.digests
        watch, limit, given = self.watch, self.limit, self.arguments
        only, give = given[0] if len(given) == 1 else ("", digests)

        def score(row: int) -> None:
            digest, started = digests(row), None
            try:
                arguments = {only: give(row)} if only else {parameter: give(row) for parameter, give in given}
                started = perf_counter()
                watch.deadline = started + limit
                try:
                    result: Any = function(**arguments)
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
                rows.extend(self.normalised(result, digest, latency))
                return
            rows.append((name, version, 0, name, value, double, None, None, None, None, latency, digest, None))

        return score

    def given(self, row: int) -> dict[str, Any]:
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


class AwaitedCall(ScorerCall):
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

    def on(self, rows: list[ResultRow]) -> Callable[[int], None]:
        """Return what adds the results of one row to `rows`."""

        def take(row: int) -> None:
            call, digest = self.landed.pop(row), self.digests(row)
            if call.is_late:
                rows.append(self.timed_out(digest))
            elif call.failure is not None:
                rows.append(self.failure(*call.failure, digest, call.latency_ms))
            else:
                rows.extend(self.normalised(call.result, digest, call.latency_ms))

        return take


class UnloadedCall(ScorerCall):
    """A scorer that could not be loaded: each of its pairs says why."""

    __slots__ = ()

    def on(self, rows: list[ResultRow]) -> Callable[[int], None]:
        """Return what adds the one result of a row to `rows`."""
        return lambda row: rows.append(self.failure(ErrorCode.LOAD_FAILED, self.problem, self.digests(row)))


def kind_of_call(scorer: LoadedScorer) -> type[ScorerCall]:
    """Return the way to call this scorer."""
    if scorer.function is None:
        return UnloadedCall
    return AwaitedCall if scorer.spec.kind is ScorerKind.ASYNC_FUNCTION else ScorerCall
