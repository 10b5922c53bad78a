"""The summary of a job: a row a scorer, over the current results of its selected pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from backfill_spark import results as R
from backfill_spark.intervals import mean_interval
from backfill_spark.models import Counts, Outcome, Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backfill_spark.results import ResultStore

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
        pairs: what `plan.chosen_pairs` gives; None (the source is gone): the rows that the job itself merged.
    """
    store = results.assessments
    rows = store.read() if store.exists() else store.frame([])
    rows = rows.where(F.col("experiment_id") == request.experiment_id)
    position = R.position_of(request.scorers, F.col("scorer_name"), F.col("scorer_version"))
    rows = rows.withColumn("i", position).where("i is not null")
    if pairs is None:
        return R.current(rows.where(F.col("job_id") == job_id))
    chosen = F.when(F.col("skip").isNull(), F.col("matched").bitwiseAND(F.col("sampled"))).otherwise(F.lit(0))
    selected = pairs.select("trace_id", "trace_date", chosen.alias("selected")).where("selected != 0")
    rows = rows.join(selected, ["trace_id", "trace_date"]).where("(selected & shiftleft(1L, i)) != 0")
    return R.current(rows)


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


def summarise(rows: DataFrame, request: Request, counts: Mapping[str, Counts]) -> list[dict[str, Any]]:
    """Return a dict a scorer; `rows` is what `selected_rows` gives.

    A scorer that gives several feedbacks a trace is summed up by its first one; `read_assessments` has the rest.
    """
    value = F.col("value_double")
    first = rows.where("ordinal = 0")
    sums = {
        r["scorer_name"]: r.asDict()
        for r in first.groupBy("scorer_name")
        .agg(
            F.count(F.when(F.col("outcome") == Outcome.SCORED.value, 1)).alias("results_scored"),
            F.count(F.when(F.col("outcome") == Outcome.EMPTY.value, 1)).alias("results_empty"),
            F.count(F.when(F.col("outcome") == Outcome.ERROR.value, 1)).alias("results_errored"),
            F.count(value).alias("n"),
            F.avg(value).alias("avg"),
            F.stddev_samp(value).alias("sd"),
            F.min(F.when(value.isNotNull(), value.isin(0.0, 1.0))).alias("binary"),
            *(made(value).alias(f"agg_{name}") for name, made in AGGREGATIONS.items()),
        )
        .collect()
    }
    out = []
    for spec in request.scorers:
        c, r = counts[spec.name], sums.get(spec.name, {})
        population = c.in_window - c.skipped - c.filtered_out
        n = int(r.get("n") or 0)
        interval = mean_interval(
            n, mean=r.get("avg"), sd=r.get("sd"), population=max(population, n), binary=bool(r.get("binary"))
        )
        row: dict[str, Any] = {
            "scorer": spec.name,
            "version": spec.version,
            "sample_rate": spec.sample_rate,
            "population": population,
            **{k: v for k, v in c.to_json().items() if k != "skipped_reasons"},
            "results": sum(int(r.get(f"results_{k}") or 0) for k in ("scored", "empty", "errored")),
            "results_errored": int(r.get("results_errored") or 0),
            "n": n,
            "mean": interval.mean,
            "ci_low": interval.low,
            "ci_high": interval.high,
        }
        for name in spec.aggregations:
            if name != "mean":
                row[name] = r.get(f"agg_{name}")
        out.append(row)
    return out
