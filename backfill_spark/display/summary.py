"""The answer of a job: a row a scorer with its rate, mean and errors, the same wherever it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backfill_spark.display.formats import cell, is_shown, mean_text, number_text
from backfill_spark.display.render import Sheet, Table
from backfill_spark.models import COUNT_NAMES, Counts, mostly_failed, rate_reached

_SUMMARY_KEYS = frozenset(
    {"scorer", "feedback", "version", "sample_rate", "rate_reached", "n", "mean", "ci_low", "ci_high", "population"}
    | {"results", "results_errored", "most_frequent_error"}
    | {"n_seen", "mean_seen", "results_seen", "results_errored_seen", "source_unreadable"}
)
ANSWER = ("scorer", "rate", "n", "mean\n[95 % interval]", "errors", "left", "calls")


def counted(job: Any) -> list[dict[str, Any]]:
    """Return the rows of a summary that nobody has read yet, as far as the job's counts tell: without means."""
    rows = []
    for spec in job.scorers:
        c = job.counts.get(spec.name, Counts())
        rows.append(
            {
                "scorer": spec.name,
                "version": spec.version,
                "rate_reached": rate_reached(spec, c, job.rate_reached),
                "n": c.already_scored + c.scored,
                "population": c.in_window - c.skipped - c.filtered_out,
                "results_errored": c.errored,
                "sample_rate": spec.sample_rate,
                "left": c.left,
                "calls": c.calls,
            }
        )
    return rows


def answer_cells(records: Sequence[Mapping[Any, Any]]) -> list[tuple[str, ...]]:
    """Return the cells below ANSWER, a row a record."""
    names = [r["scorer"] for r in records]
    several = {name for name in names if names.count(name) > 1}
    rows: list[tuple[str, ...]] = []
    for r in records:
        # A source that cannot be read: only what the job itself merged is seen.
        is_seen = bool(r.get("source_unreadable"))
        seen = "_seen" if is_seen else ""
        rows.append(
            (
                f"{r['scorer']} v{r['version']}" + (f" / {r['feedback']}" if r["scorer"] in several else ""),
                _rate_text(r),
                f"{cell(r.get('n_seen'))} seen" if is_seen else _n_text(r),
                mean_text(r.get(f"mean{seen}"), r.get("ci_low"), r.get("ci_high"), is_full=_is_full(r)),
                # Errors among the current results: a re-run that had nothing to do shows them too.
                cell(r.get(f"results_errored{seen}", r.get("errored"))),
                cell(r.get("left")),
                cell(r.get("calls")),
            )
        )
    return rows


def summary_sheet(records: Sequence[Mapping[Any, Any]]) -> Sheet:
    """Return the rows of `summary()` as a sheet: the answer, then the aggregations."""
    known = _SUMMARY_KEYS | set(COUNT_NAMES)
    keys = dict.fromkeys(key for record in records for key in record)
    more = [str(key) for key in keys if key not in known and any(is_shown(r.get(key)) for r in records)]
    why = next((r["source_unreadable"] for r in records if r.get("source_unreadable")), None)
    columns = tuple("mean seen,\nsource unreadable" if why and c.startswith("mean") else c for c in ANSWER)
    cells = zip(answer_cells(records), records, strict=True)
    rows = tuple((*row, *(cell(r.get(key)) for key in more)) for row, r in cells)
    notes = [
        f"The source cannot be read, so only results that this job itself merged are seen, not all it chose: {why}"
    ]
    notes = (notes if why else []) + error_notes(records)
    return Sheet("Summary", tables=(Table((*columns, *more), rows),), notes=tuple(notes))


def error_notes(records: Sequence[Mapping[Any, Any]]) -> list[str]:
    """Return a sentence for each scorer with errors: how many, and the most frequent one."""
    notes = {}
    for r in records:
        error = r.get("most_frequent_error")
        if not is_shown(error):
            continue
        seen = "_seen" if r.get("source_unreadable") else ""
        name, errored, of = r["scorer"], int(r[f"results_errored{seen}"]), int(r[f"results{seen}"])
        some = f"{name}: {errored:,} of {of:,} results are errors, most often {error}"
        notes[name] = mostly_failed(name, errored, of, error) if 2 * errored > of else some
    return list(notes.values())


def _rate_text(record: Mapping[Any, Any]) -> str:
    asked: Any = record.get("sample_rate")
    reached: Any = record.get("rate_reached")
    if not is_shown(reached) or not is_shown(asked) or reached >= asked:
        return number_text(asked)
    return f"{reached:.2g} of {number_text(asked)}"


def _is_full(record: Mapping[Any, Any]) -> bool:
    n, population = record.get("n"), record.get("population")
    return is_shown(n) and is_shown(population) and n == population and bool(n)


def _n_text(record: Mapping[Any, Any]) -> str:
    population = record.get("population")
    n = number_text(record.get("n"))
    return n if _is_full(record) or not is_shown(population) else f"{n} of {number_text(population)}"
