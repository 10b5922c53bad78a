"""A request that a job has asked before: its counts, where every result of that job still stands."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backfill_spark.jobs.row import record_of, scorers_text
from backfill_spark.models import Counts, JobState, Reprocess, Sampling, compact_json
from backfill_spark.results.counts import PairCounts
from backfill_spark.selection import pairs as P

if TYPE_CHECKING:
    from backfill_spark.backfill.tables import Tables
    from backfill_spark.models import Request

NEWEST = 5
"""Jobs of the same scorers and source that are looked at."""
_OTHERWISE = ("results_version", "notes", "max_calls", "max_cost_usd", "max_error_rate")
"""What may differ between two requests for the same pairs."""


def counts_of_repeated(tables: Tables, request: Request) -> PairCounts | None:
    """Return what the request comes to without a look at a trace; None when that has to be counted.

    An earlier job has scored each pair of the same request, and no commit to `assessments` since has taken a row away.
    Without this a nightly job that runs again reads ids of its window and of its results, 2 to 4 s.
    """
    results = tables.results.assessments.light
    is_plain = request.reprocess is Reprocess.MISSING and request.sampling is Sampling.HASH and not request.lists_traces
    whole, each = P.filters_of(request)
    reads_results = any("assessments" in f.columns for f in (whole, *each))
    if results is None or not is_plain or reads_results or not request.source_version or not results.exists():
        return None
    wanted = _pairs_of(request.to_json())
    where = {
        "experiment_id": [request.experiment_id],
        "state": [JobState.SUCCEEDED.value],
        "source_version": [request.source_version],
        "scorers": [scorers_text(request.to_json())],
    }
    for row in tables.jobs.jobs.read(where, newest=("job_id", NEWEST)):
        record = record_of(row)
        asked = record.created["request"]
        if json.loads(row["request"])["source_version"] != request.source_version or _pairs_of(asked) != wanted:
            continue
        if results.only_added(after=asked["results_version"], since=record.created["created_at"]):
            return _all_done({name: Counts.from_json(counts) for name, counts in record.end["counts"].items()})
    return None


def _pairs_of(request: dict[str, Any]) -> Any:
    """What decides which pairs a request asks for."""
    return json.loads(compact_json({name: value for name, value in request.items() if name not in _OTHERWISE}))


def _all_done(counts: dict[str, Counts]) -> PairCounts:
    none = dict.fromkeys(counts, 0)
    done = {
        name: replace(c, already_scored=c.already_scored + c.due, due=0, scored=0, empty=0, errored=0, left=0, calls=0)
        for name, c in counts.items()
    }
    return PairCounts(done, none, none, {}, {}, has_duplicates=False, has_ties=False)
