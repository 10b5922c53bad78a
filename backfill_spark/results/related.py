"""Assessments that the filters of a job see besides those in a trace's own row: our results, and its session's."""

from __future__ import annotations

from datetime import date
from functools import reduce
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from backfill_spark.errors import SourceGoneError
from backfill_spark.models import Outcome, Request
from backfill_spark.results.store import day_literal
from backfill_spark.selection.pairs import assessments_asked, experiment_filter
from backfill_spark.traces.filters.assessments import SEEN
from backfill_spark.traces.filters.related import MORE, of_sessions, with_more
from backfill_spark.traces.sources import source_gone
from backfill_spark.traces.times import utc_date

if TYPE_CHECKING:
    from backfill_spark.results.store import ResultStore
    from backfill_spark.traces.sources import TraceSource

_KEPT = frozenset({"trace_id", "request_time", "session_id", "trace_metadata", "assessments"})


def with_related(
    traces: DataFrame,
    request: Request,
    source: TraceSource,
    results: ResultStore,
    *,
    dates: tuple[date, date] | None = None,
) -> DataFrame:
    """Add the column MORE where a filter of the job asks for assessments that lie elsewhere; else change nothing.

    The same rows get the same, in a plan, in a chunk (of the results only `dates` are read, or those of the window) and
    after a resume: the versions are those of the job's creation.
    """
    named = assessments_asked(request)
    if not named:
        return traces
    added = []
    if request.sees_sessions:
        traces = with_more(traces, of_sessions(_of_window(source, request), named)).withColumnRenamed(MORE, "_sessions")
        added.append("_sessions")
    own = _own(request, results, [name for kind, name in named if kind == "feedback"], dates or request.window.dates)
    if own is not None:
        traces = traces.withColumn("_date", utc_date(F.col("request_time")))
        traces = traces.join(own, ["trace_id", "_date"], "left").drop("_date")
        added.append("_own")
    if not added:
        return traces
    lists = [F.coalesce(F.col(name), F.array().cast(SEEN)) for name in added]
    return traces.withColumn(MORE, reduce(F.concat, lists)).drop(*added)


def related_pins(request: Request, source: TraceSource) -> dict[str, Any]:
    """Return the fields of a request that say what `with_related` adds, at its version of the results."""
    named = assessments_asked(request)
    if not named:
        return {"feedback_version": None, "sees_sessions": False}
    sees = "assessments" in source.columns and bool(of_sessions(_of_window(source, request), named).head(1))
    return {"feedback_version": request.results_version, "sees_sessions": sees}


def _of_window(source: TraceSource, request: Request) -> DataFrame:
    columns = _KEPT & source.columns
    return source.read(columns, request.window, untimed=True, experiment_id=experiment_filter(request))


def _own(request: Request, results: ResultStore, names: list[str], dates: tuple[date, date]) -> DataFrame | None:
    """Return our own feedback of these names: trace_id, `_date`, `_own` (SEEN); None where there can be none."""
    version, experiment = request.feedback_version, request.experiment_id
    where = {"experiment_id": [experiment]}
    if version is None or not names:
        return None
    files = results.assessments.files_with(where, version, dates)
    if files is not None and not files.names:
        return None
    try:
        rows = results.assessments.read(version).where(F.col("experiment_id") == experiment)
    except Exception as error:
        if not source_gone(error):
            raise
        raise SourceGoneError(
            f"A filter of the job asks for feedback, and version {version} of assessments, which it saw, can no longer "
            "be read. `resume --repin` goes on with the newest."
        ) from error
    rows = rows.where(F.col("trace_date").between(*map(day_literal, dates)))
    pair = Window.partitionBy("trace_id", "trace_date", "scorer_name")
    rows = rows.withColumn("_newest", F.max("scorer_version").over(pair)).where("scorer_version = _newest")
    rows = rows.where(F.col("assessment_name").isin(names) & (F.col("outcome") != Outcome.EMPTY.value))
    one = F.struct(
        F.lit("feedback").alias("kind"),
        F.col("assessment_name").alias("name"),
        F.coalesce("value", F.lit("null")).alias("value"),
        F.lit(None).cast("string").alias("session"),
    )
    found = rows.groupBy("trace_id", F.col("trace_date").alias("_date"))
    return found.agg(F.collect_list(one).cast(SEEN).alias("_own"))
