"""How the rows of `summary()` look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backfill_spark.display.formats import cell, is_shown, mean_text, number_text
from backfill_spark.display.render import Sheet, Table
from backfill_spark.models import COUNT_NAMES, mostly_failed

_SUMMARY_KEYS = frozenset(
    {"scorer", "feedback", "version", "sample_rate", "n", "mean", "ci_low", "ci_high", "population", "results"}
    | {"results_errored", "most_frequent_error"}
    | {"n_seen", "mean_seen", "results_seen", "results_errored_seen", "source_unreadable"}
)


def summary_sheet(records: Sequence[Mapping[Any, Any]]) -> Sheet:
    """Return the rows of `summary()` as a sheet: n, mean with its interval, errors, then the aggregations."""
    known = _SUMMARY_KEYS | set(COUNT_NAMES)
    keys = dict.fromkeys(key for record in records for key in record)
    more = [str(key) for key in keys if key not in known and any(is_shown(r.get(key)) for r in records)]
    names = [r["scorer"] for r in records]
    several = {name for name in names if names.count(name) > 1}
    # A source that cannot be read: only what the job itself merged is seen, and it is called so.
    why = next((r["source_unreadable"] for r in records if r.get("source_unreadable")), None)
    seen = "_seen" if why else ""
    mean = "mean seen,\nsource unreadable" if why else "mean\n[95 % interval]"
    columns = ("scorer", "rate", "n seen" if why else "n", mean, "errors", "left", "calls", *more)
    rows = tuple(
        (
            f"{r['scorer']} v{r['version']}" + (f" / {r['feedback']}" if r["scorer"] in several else ""),
            number_text(r.get("sample_rate")),
            cell(r.get("n_seen")) if why else _n_text(r),
            mean_text(r.get(f"mean{seen}"), r.get("ci_low"), r.get("ci_high"), is_full=_is_full(r)),
            # Errors among the current results: a re-run that had nothing to do shows them too.
            cell(r.get(f"results_errored{seen}", r.get("errored"))),
            cell(r.get("left")),
            cell(r.get("calls")),
            *(cell(r.get(key)) for key in more),
        )
        for r in records
    )
    unread = [
        f"The source cannot be read, so only results that this job itself merged are seen, not all it chose: {why}"
    ]
    failing = {r["scorer"]: r for r in records if is_shown(r.get("most_frequent_error"))}
    notes = (unread if why else []) + [
        mostly_failed(n, r[f"results_errored{seen}"], r[f"results{seen}"], r["most_frequent_error"])
        for n, r in failing.items()
    ]
    return Sheet("Summary", tables=(Table(columns, rows),), notes=tuple(notes))


def _is_full(record: Mapping[Any, Any]) -> bool:
    n, population = record.get("n"), record.get("population")
    return is_shown(n) and is_shown(population) and n == population and bool(n)


def _n_text(record: Mapping[Any, Any]) -> str:
    population = record.get("population")
    n = number_text(record.get("n"))
    return n if _is_full(record) or not is_shown(population) else f"{n} of {number_text(population)}"
