"""The summary of a job: a row a scorer and feedback name, over the current results of its selected pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from backfill_spark.models import Counts, Outcome, Request, ScorerSpec, rate_reached
from backfill_spark.results.counts import most_frequent_errors
from backfill_spark.results.intervals import mean_interval
from backfill_spark.results.rows import current, position_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from backfill_spark.results.store import ResultStore

AGGREGATIONS: dict[str, Callable[[Column], Column]] = {
    "min": F.min,
    "max": F.max,
    "mean": F.avg,
    "median": lambda v: F.percentile(v, 0.5),
    "variance": F.var_pop,
    "p90": lambda v: F.percentile(v, 0.9),
}
_OVER_RESULTS = frozenset({"results", "results_errored", "n", *AGGREGATIONS})


def selected_rows(results: ResultStore, request: Request, pairs: DataFrame | None, job_id: str) -> DataFrame:
    """Return the results of the selected pairs that are current among the job's scorer versions.

    Args:
        pairs: what `due.candidates` gives; None (the source is gone): the rows that the job itself merged.
    """
    store = results.assessments
    rows = store.read() if store.exists() else store.frame([])
    rows = rows.where(F.col("experiment_id") == request.experiment_id)
    position = position_of(request.scorers, F.col("scorer_name"), F.col("scorer_version"))
    rows = rows.withColumn("i", position).where("i is not null")
    if pairs is None:
        return current(rows.where(F.col("job_id") == job_id))
    chosen = F.when(F.col("skip").isNull(), F.col("matched").bitwiseAND(F.col("sampled"))).otherwise(F.lit(0))
    selected = pairs.select("trace_id", "trace_date", chosen.alias("selected")).where("selected != 0")
    rows = rows.join(selected, ["trace_id", "trace_date"]).where("(selected & shiftleft(1L, i)) != 0")
    return current(rows)


def only_seen(rows: Sequence[dict[str, Any]], why: str) -> list[dict[str, Any]]:
    """Return the rows of a job whose source cannot be read: what is over results is called `…_seen`.

    Args:
        rows: what `summarise` gives for the results that the job itself merged.
        why: for the column `source_unreadable`.
    """
    out = []
    for row in rows:
        seen = {f"{key}_seen": row[key] for key in row if key in _OVER_RESULTS}
        bare = dict.fromkeys((*seen, "ci_low", "ci_high"))
        out.append({k: None if f"{k}_seen" in seen or k in bare else v for k, v in row.items()} | seen)
        out[-1]["source_unreadable"] = why
    return out


def summarise(
    rows: DataFrame, request: Request, counts: Mapping[str, Counts], judged_to: float | None
) -> list[dict[str, Any]]:
    """Return a dict a scorer, or one a feedback name where a scorer gives several.

    Args:
        rows: of `selected_rows`.
        request: of the job, as `counts`.
        counts: scorer → counts.
        judged_to: how far in the draw its judges came.
    """
    wanted = {name for spec in request.scorers for name in spec.aggregations}
    sums = _sums(rows, wanted)
    several = sorted({r["scorer_name"] for r in sums if r["last"]})
    if several:
        # Of feedbacks with one name the trace's first one counts.
        keys = ("scorer_name", "trace_id", "trace_date", "assessment_name")
        first = [F.min_by(name, "ordinal").alias(name) for name in ("value_double", "outcome")]
        of_several = (
            rows.where(F.col("scorer_name").isin(several)).groupBy(*keys).agg(*first, F.min("ordinal").alias("ordinal"))
        )
        sums = [r for r in sums if r["scorer_name"] not in several] + _sums(of_several, wanted)
    found = {spec.name: _by_feedback([r for r in sums if r["scorer_name"] == spec.name]) for spec in request.scorers}
    failing = [name for name, each in found.items() if any(r.get("results_error") for r in each)]
    errors = most_frequent_errors(rows, failing) if failing else {}
    return [_row(spec, counts[spec.name], r, errors, judged_to) for spec in request.scorers for r in found[spec.name]]


def _sums(rows: DataFrame, wanted: Collection[str]) -> list[dict[str, Any]]:
    value = F.col("value_double")
    made = rows.groupBy("scorer_name", "assessment_name").agg(
        *(F.count(F.when(F.col("outcome") == kind.value, 1)).alias(f"results_{kind.value}") for kind in Outcome),
        F.max("ordinal").alias("last"),
        F.count(value).alias("n"),
        F.avg(value).alias("avg"),
        F.stddev_samp(value).alias("sd"),
        F.min(F.when(value.isNotNull(), value.isin(0.0, 1.0))).alias("binary"),
        *(AGGREGATIONS[name](value).alias(f"agg_{name}") for name in sorted(wanted)),
    )
    return sorted((r.asDict() for r in made.collect()), key=lambda r: r["assessment_name"])


def _by_feedback(sums: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a dict a feedback name. Where a call gave none, it failed or was empty for all names of the scorer."""
    named = [r for r in sums if r["assessment_name"] != r["scorer_name"] or r["results_scored"]]
    without = [r for r in sums if r not in named]
    if not named:
        return without or [{}]
    more = {key: sum(r[key] for r in without) for key in ("results_empty", "results_error")}
    return [r | {key: r[key] + n for key, n in more.items()} for r in named]


def _results(r: Mapping[str, Any]) -> int:
    return sum(int(r.get(f"results_{kind.value}") or 0) for kind in Outcome)


def _row(
    spec: ScorerSpec, c: Counts, r: Mapping[str, Any], errors: Mapping[str, str], judged_to: float | None
) -> dict[str, Any]:
    """Return a row of the summary, in the order in which it is read: a notebook shows the first ten columns."""
    population = c.in_window - c.skipped - c.filtered_out
    n = int(r.get("n") or 0)
    interval = mean_interval(
        n, mean=r.get("avg"), sd=r.get("sd"), population=max(population, n), binary=bool(r.get("binary"))
    )
    return {
        "scorer": spec.name,
        "feedback": r.get("assessment_name") or spec.name,
        "version": spec.version,
        "rate_reached": rate_reached(spec, c, judged_to),
        "n": n,
        "population": population,
        "mean": interval.mean,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "results_errored": int(r.get("results_error") or 0),
        "most_frequent_error": errors.get(spec.name) if r.get("results_error") else None,
        **{name: r.get(f"agg_{name}") for name in spec.aggregations if name != "mean"},
        "results": _results(r),
        "sample_rate": spec.sample_rate,
        **{k: v for k, v in c.to_json().items() if k != "skipped_reasons"},
    }
