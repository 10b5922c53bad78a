"""Scoring one batch of traces in a Python worker: lists in, lists out; knows nothing of Spark."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from backfill_spark.models import ErrorCode, ScorerSpec
from backfill_spark.scoring.arguments import (
    REFUSED_FOR_KEY,
    REFUSED_FOR_SIZE,
    TOO_LARGE,
    UNREADABLE,
    Batch,
    columns_for,
)
from backfill_spark.scoring.calls import AwaitedCall, LoadedScorer, ScorerCall, kind_of_call
from backfill_spark.scoring.feedback import FIELD_NAMES, ResultRow, describe
from backfill_spark.scoring.time_limit import Watch, watching

if TYPE_CHECKING:
    from backfill_spark.scoring.async_calls import Call

MAX_IN_FLIGHT = 64
"""Calls of async scorers that are under way at once: what judges have. Spelled here because their settings need
pydantic; a test holds them equal."""
_Masks = tuple[int, int, int]
_is_frozen = False


@dataclass(frozen=True, slots=True)
class Results:
    """Results of a batch: `fields[name]` is flat over all rows, `lengths[i]` of them belong to row i."""

    lengths: list[int]
    fields: dict[str, list[Any]]


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
    batch = Batch(columns, [scorer.spec.signature for scorer in scorers], payload)
    watch = Watch()
    own_limits = [scorer.spec.timeout_s for scorer in scorers]
    limits = [(timeout_s if own is None else own) or inf for own in own_limits]
    calls = [
        kind_of_call(scorer)(bit, scorer, batch, limit, watch)
        for bit, (scorer, limit) in enumerate(zip(scorers, limits, strict=True))
    ]
    awaited = [call for call in calls if isinstance(call, AwaitedCall)]
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


def _score_rows(masks: Iterable[_Masks], calls: Sequence[ScorerCall], rows: list[ResultRow]) -> list[int]:
    """Add the results of each row to `rows`; return how many each has."""
    each = [(call, call.on(rows)) for call in calls]
    plans: dict[int, list[tuple[ScorerCall, Callable[[int], None]]]] = {}
    lengths = []
    for row, (mask, large, torn) in enumerate(masks):
        plan = plans.get(mask)
        if plan is None:
            plan = plans[mask] = [(call, score) for call, score in each if mask >> call.bit & 1]
        before = len(rows)
        is_refused = large or torn
        for call, score in plan:
            if is_refused and (why := _refusal(call, large, torn)):
                rows.append(call.failure(*why))
            else:
                score(row)
        lengths.append(len(rows) - before)
    return lengths


def _calls_ahead(masks: Iterable[_Masks], calls: Sequence[AwaitedCall]) -> Iterator[Call]:
    """Yield the calls of async scorers that `_score_rows` will ask for."""
    for row, (mask, large, torn) in enumerate(masks):
        for call in calls:
            if mask >> call.bit & 1 and not _refusal(call, large, torn):
                yield call.ahead(row)


def _refusal(call: ScorerCall, large: int, torn: int) -> tuple[ErrorCode, str] | None:
    """Return code and message of a row that the scorer is not called on, or None. A mask that is True is for all."""
    if torn is True or torn >> call.bit & 1:
        return REFUSED_FOR_KEY
    if large is True or large >> call.bit & 1:
        return REFUSED_FOR_SIZE
    return None


def _freeze_once() -> None:
    global _is_frozen
    if not _is_frozen:
        # Measured: what Spark and the scorers imported is then left out of every collection. A batch makes some 10,000
        # rows of texts and numbers, in which there is nothing to find: 0.15 µs a pair.
        gc.freeze()
        gc.set_threshold(50_000)
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
