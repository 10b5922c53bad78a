"""All scorers of a chunk as one column: the thin carriers between Spark and `scoring.worker`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from backfill_spark import schema
from backfill_spark.errors import SettingsError
from backfill_spark.models import MAX_SCORERS, ScorerSpec
from backfill_spark.scoring.arguments import columns_for
from backfill_spark.scoring.columns import worker_inputs
from backfill_spark.scoring.feedback import FIELD_NAMES
from backfill_spark.scoring.task import GIVEN, JOINED_CHARACTERS, JOINED_ROWS, BatchScorer, TaskScorer, struct_of

if TYPE_CHECKING:
    from pyspark.sql import Column

DUE = "due"
"""Column with the bit mask of the scorers that are due for a trace."""
_Lists = tuple[list[int], list[int], list[int], list[list[bytes | None]]]
"""What `score` takes of a batch: `due`, `too_large` and the columns."""


def columns_needed(specs: Collection[ScorerSpec], available: frozenset[str]) -> frozenset[str]:
    """Return the TRACES columns that these scorers are given, of a source with the columns `available`."""
    return frozenset().union(*(columns_for(spec.signature, available) for spec in specs))


def score(
    specs: Sequence[ScorerSpec],
    available: frozenset[str],
    *,
    udf: str,
    payload: str,
    trace_mb: float,
    timeout_s: float,
    unreadable: Column | None = None,
) -> Column:
    """Return the results of all `specs` for each trace, as one column typed `schema.RESULTS`.

    Reads the columns `columns_needed` names and `due` BIGINT (bit k: scorer k is due; NULL: none is) of a TRACES
    frame. Each due pair is called exactly once as long as the frame is `select(keys…, score(…).alias("results"))`
    and is written as it is: anything above it that filters, explodes, sorts or counts may call scorers again.

    Args:
        specs: 1 to 64 scorers; definitions travel with the column and are loaded in the workers.
        udf: `pandas`, or `arrow` (Spark 4.1 or newer).
        payload: How recorded texts are decoded: `auto`, `json` or `text`.
        trace_mb: A trace with more MiB of text in the columns that a scorer needs is `trace_too_large` for it.
        timeout_s: Longest that one call may take where the scorer does not say. It ends Python code and waits,
            not a call into C.
        unreadable: Mask of the scorers that are not called, for the trace's id or their filter cannot be read.

    Raises:
        SettingsError: `udf` is of no known kind, or this Spark does not have it.
        ValueError: no scorer, or more than 64.
    """
    batch, columns = _batch(specs, available, payload=payload, trace_mb=trace_mb, timeout_s=timeout_s)
    masks = columns(F.lit(0).cast("long") if unreadable is None else unreadable)
    return _carrier(udf, batch)(*masks)


def score_in_task(
    specs: Sequence[ScorerSpec], available: frozenset[str], *, payload: str, trace_mb: float, timeout_s: float
) -> tuple[TaskScorer, list[Column]]:
    """Return what scores Arrow batches in a task (`mapInArrow`), and the columns that its batches need.

    As `score`, with the column `unreadable`; what the task does with the results is the caller's.
    """
    batch, columns = _batch(specs, available, payload=payload, trace_mb=trace_mb, timeout_s=timeout_s)
    given = [column.alias(name) for name, column in zip(GIVEN, columns(F.col("unreadable")), strict=False)]
    return TaskScorer(batch), given


def _batch(
    specs: Sequence[ScorerSpec], available: frozenset[str], *, payload: str, trace_mb: float, timeout_s: float
) -> tuple[BatchScorer, Callable[[Column], list[Column]]]:
    if not 1 <= len(specs) <= MAX_SCORERS:
        raise ValueError(f"A chunk has 1 to {MAX_SCORERS} scorers, not {len(specs)}: make more chunks.")
    names, large, given = worker_inputs(specs, available, trace_mb=trace_mb)
    due = F.coalesce(F.col(DUE), F.lit(0)).cast("long")

    def columns(unreadable: Column) -> list[Column]:
        return [due, large, unreadable, *([] if given is None else [given])]

    return BatchScorer(tuple(specs), available, tuple(names), payload, timeout_s), columns


def _joined(batches: Iterable[_Lists]) -> Iterator[_Lists]:
    """Join batches until their calls fill a task's places many times over, or their texts are many.

    How many rows Spark hands over at once is a setting of the session; each batch ends with waiting for its last call.
    """
    joined: _Lists | None = None
    characters = 0
    for batch in batches:
        if joined is None:
            joined = batch
        else:
            for values, more in zip(joined[:3], batch[:3], strict=True):
                values.extend(more)
            for texts, more_texts in zip(joined[3], batch[3], strict=True):
                texts.extend(more_texts)
        characters += sum(len(text) for texts in batch[3] for text in texts if text)
        if len(joined[0]) >= JOINED_ROWS or characters >= JOINED_CHARACTERS:
            yield joined
            joined, characters = None, 0
    if joined is not None:
        yield joined


class _ArrowLists(pd.arrays.ArrowExtensionArray):
    """Arrow lists that PySpark takes as they are.

    For an array column PySpark maps `list` over the series, a Python object an element: 3 µs a result of 13
    fields, measured, and no use here.
    """

    def map(self, mapper: Any, na_action: Any = None) -> _ArrowLists:  # noqa: ARG002 - pandas' signature
        return self


def _carrier(kind: str, batch: BatchScorer) -> Callable[..., Column]:
    is_async = batch.waits
    if kind == "pandas":

        def lists_of(columns: Sequence[Any]) -> _Lists:
            due, large, unreadable, *given = columns  # a struct comes as a DataFrame
            texts = [given[0][name].tolist() for name in batch.names] if given else []
            return due.tolist(), large.tolist(), unreadable.tolist(), texts

        def frame_of(lists: _Lists) -> pd.DataFrame:
            arrays = zip(FIELD_NAMES, batch.score(*lists), strict=True)
            return pd.DataFrame({name: _ArrowLists(array) for name, array in arrays})

        def score_pandas(*columns: pd.Series) -> pd.DataFrame:
            return frame_of(lists_of(columns))

        def score_batches(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.DataFrame]:
            return map(frame_of, _joined(map(lists_of, batches)))

        # PySpark's stub wants functionType, and PySpark itself warns where it is given.
        made = pandas_udf(score_batches if is_async else score_pandas, schema.RESULTS)  # type: ignore[call-overload]
        return cast("Callable[..., Column]", made)
    if kind == "arrow":
        arrow_udf = getattr(F, "arrow_udf", None)
        if arrow_udf is None:
            import pyspark

            raise SettingsError(
                f"scoring.udf is arrow, which needs Spark 4.1 or newer; this is {pyspark.__version__}. "
                "Set it to pandas."
            )

        def lists_of_arrow(columns: Sequence[Any]) -> _Lists:
            due, large, unreadable, *given = columns
            # flatten(), unlike field(), gives NULLs where the whole struct is one.
            texts = [column.to_pylist() for column in given[0].flatten()] if given else []
            return due.to_pylist(), large.to_pylist(), unreadable.to_pylist(), texts

        def array_of(lists: _Lists) -> pa.Array:
            return struct_of(batch.score(*lists))

        def score_arrow(*columns: pa.Array) -> pa.Array:
            return array_of(lists_of_arrow(columns))

        def score_arrow_batches(batches: Iterator[tuple[pa.Array, ...]]) -> Iterator[pa.Array]:
            return map(array_of, _joined(map(lists_of_arrow, batches)))

        return cast(
            "Callable[..., Column]", arrow_udf(score_arrow_batches if is_async else score_arrow, schema.RESULTS)
        )
    raise SettingsError(f"scoring.udf is {kind!r}; it can be pandas or arrow.")
