"""Traces x scorers → PAIRS: one row a trace, with one bit a scorer in each mask.

Everything here is a row expression on light columns (ids, times, tags), below any Python.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark.models import INCOMPLETE, Request, Sampling, ScorerKind, ScorerSpec, SkipReason
from backfill_spark.selection import sampling
from backfill_spark.traces.filters import Filter, compile_filter
from backfill_spark.traces.filters.reach import Reach, reach_of
from backfill_spark.traces.filters.related import MORE
from backfill_spark.traces.filters.tree import SESSION
from backfill_spark.traces.sources import POSITIONS
from backfill_spark.traces.texts import key_text
from backfill_spark.traces.times import utc_date

LIGHT_COLUMNS = frozenset(
    {"trace_id", "experiment_id", "request_time", "state", "session_id", "trace_metadata", "tags"}
)
_KEYS = {
    "trace_metadata": frozenset({"mlflow.sourceRun", SESSION}),
    "tags": frozenset({"mlflow.trace.sourceScorer"}),
}
"""What deciding needs of the maps among them, where no filter asks for more."""
HOUR_US = 3_600_000_000
YEAR_1_US = -62_135_596_800_000_000
YEAR_9999_US = 253_402_300_799_999_999


def bit(index: int) -> int:
    """Return the signed 64-bit integer that has only bit `index` set."""
    return 1 << index if index < 63 else -(1 << 63)


def mask_of(conditions: Sequence[Column]) -> Column:
    """Return a BIGINT whose bit i says whether `conditions[i]` is true."""
    bits = [
        F.when(c, F.lit(bit(i)).cast("bigint")).otherwise(F.lit(0).cast("bigint")) for i, c in enumerate(conditions)
    ]
    return reduce(lambda a, b: a.bitwiseOR(b), bits)


def has_bit(mask: Column, index: int) -> Column:
    """True where `mask` has bit `index`."""
    return mask.bitwiseAND(F.lit(bit(index)).cast("bigint")) != 0


def submask(mask: Column, indexes: Sequence[int]) -> Column:
    """Return a mask whose bit k is bit `indexes[k]` of `mask`."""
    return mask_of([has_bit(mask, i) for i in indexes])


def filters_of(request: Request) -> tuple[Filter, list[Filter]]:
    """Return the job's own filter and each scorer's registered one, parsed."""
    own = compile_filter(request.filter_string, request.filter_dialect)
    return own, [compile_filter(s.filter_string, s.filter_dialect) for s in request.scorers]


def assessments_asked(request: Request) -> frozenset[tuple[str, str]]:
    """Return kind and name of each assessment that a filter of the job asks for."""
    own, each = filters_of(request)
    return own.assessments.union(*(f.assessments for f in each))


def reach(request: Request, indexes: Sequence[int]) -> Reach:
    """Return where traces lie that a filter lets through to one of the scorers at `indexes`."""
    own, each = filters_of(request)
    return reach_of(own.tree) & reduce(Reach.__or__, (reach_of(each[i].tree) for i in indexes))


def experiment_filter(request: Request) -> str | None:
    """Return the experiment that traces are filtered by: only one that was given."""
    return request.experiment_id if request.experiment_given else None


def needs_expectations(spec: ScorerSpec) -> bool:
    """True for a judge that cannot be asked about a trace without expectations."""
    return spec.kind is ScorerKind.JUDGE and "expectations" in spec.signature


def light_columns(request: Request, available: frozenset[str]) -> frozenset[str]:
    """Return the columns that deciding needs; no texts unless a filter or a judge asks for them."""
    own, each = filters_of(request)
    wanted = LIGHT_COLUMNS.union(own.columns, *(f.columns for f in each))
    if any(needs_expectations(s) for s in request.scorers):
        wanted |= {"assessments"}
    return wanted & available


def light_keys(request: Request, needed: Collection[str] = ()) -> dict[str, frozenset[str]]:
    """Return of the maps that neither a filter nor `needed` asks for, the keys that deciding needs."""
    own, each = filters_of(request)
    whole = own.columns.union(*(f.columns for f in each), needed)
    return {column: keys for column, keys in _KEYS.items() if column not in whole}


def choose(traces: DataFrame, request: Request, available: frozenset[str], choice: DataFrame | None) -> DataFrame:
    """Add to `traces` what decides each pair.

    Args:
        traces: maybe with MORE, the assessments that filters see besides those of the row.
        choice: for listed traces or Spark sampling: trace_id and `chosen` (mask); else None.

    Returns:
        The same rows with trace_time, trace_date, session_id, draw, `skip` (a SkipReason or NULL), and the
        masks `matched` (filters, expectations), `unreadable` (matched because nobody can say: the trace's id, or
        what the filter compares, cannot be read), `no_expectations` and `sampled`. Ids are UTF-8. Listed traces
        drop the others.
    """
    own, each = filters_of(request)
    torn = F.coalesce(~F.is_valid_utf8("trace_id"), F.lit(False))
    traces = traces.withColumns({"is_torn": torn, "trace_id": key_text("trace_id")})
    if choice is not None:
        how = "inner" if request.lists_traces else "left"
        traces = traces.join(F.broadcast(choice), "trace_id", how)
    without = [
        needs_expectations(s) & ~_has_expectations(traces) if needs_expectations(s) else F.lit(False)
        for s in request.scorers
    ]
    schema = traces.schema if any(f.tree is not None for f in (own, *each)) else None
    matched = [own.column(schema) & f.column(schema) for f in each]
    unreadable = [F.col("is_torn") | own.undecided(schema) | f.undecided(schema) for f in each]
    if request.sampling is Sampling.SPARK:
        sampled = F.coalesce(F.col("chosen"), F.lit(0).cast("bigint"))
    else:
        sampled = mask_of([sampling.selected(s.sample_rate, request.seed) for s in request.scorers])
    out = traces.withColumn("skip", _skip(available))
    out = out.withColumns(
        {
            "no_expectations": mask_of(without),
            "matched": mask_of(matched),
            "unreadable": mask_of(unreadable),
            "sampled": sampled,
            "trace_time": F.col("request_time"),
            "trace_date": utc_date(F.col("request_time")),
            "session_id": _session(available),
            "draw": sampling.draw(request.seed),
        }
    )
    return out.drop("is_torn", "chosen", MORE)


def _skip(available: frozenset[str]) -> Column:
    # Times outside the years 1 to 9999 come from wrong units; no date can be made of them.
    micros = F.unix_micros("request_time")
    timeless = micros.isNull() | ~micros.between(F.lit(YEAR_1_US), F.lit(YEAR_9999_US))
    reasons = [(SkipReason.NO_TIME, timeless)]
    run = [
        F.col(column).getItem(key).isNotNull()
        for column, key in (("trace_metadata", "mlflow.sourceRun"), ("tags", "mlflow.trace.sourceScorer"))
        if column in available
    ]
    if run:
        reasons.append((SkipReason.EVALUATION_RUN, reduce(lambda a, b: a | b, run)))
    if "state" in available:
        reasons.append((SkipReason.IN_PROGRESS, F.col("state") == "IN_PROGRESS"))
        reasons.append((SkipReason.INCOMPLETE, F.col("state") == INCOMPLETE))
    reasons.append((SkipReason.NO_TRACE_ID, F.col("trace_id").isNull()))
    first, *others = [F.when(F.coalesce(condition, F.lit(False)), F.lit(reason.value)) for reason, condition in reasons]
    return F.coalesce(first, *others)


def _session(available: frozenset[str]) -> Column:
    candidates = [F.col("session_id")] if "session_id" in available else []
    if "trace_metadata" in available:
        candidates.append(F.col("trace_metadata").getItem(SESSION))
    return F.coalesce(*candidates) if candidates else F.lit(None).cast("string")


def _has_expectations(traces: DataFrame) -> Column:
    if "assessments" not in traces.columns:
        return F.lit(False)
    assessments = F.col("assessments")
    if isinstance(traces.schema["assessments"].dataType, T.StringType):
        assessments = F.from_json(assessments, "array<struct<expectation: string>>")
    return F.coalesce(F.exists(assessments, lambda a: a["expectation"].isNotNull()), F.lit(False))


def mark_duplicates(chosen: DataFrame) -> DataFrame:
    """Set `skip` to duplicate_trace_id on all but the earliest scorable row of each trace id; add `ties`.

    `ties` counts the scorable rows that share the earliest time. Needs the position columns.
    """
    scorable = F.col("skip").isNull()
    same = Window.partitionBy("trace_id", scorable)
    rank = F.row_number().over(same.orderBy("request_time", *POSITIONS))
    ties = F.count(F.lit(1)).over(Window.partitionBy("trace_id", scorable, "request_time"))
    marked = chosen.withColumns({"_rank": rank, "ties": ties})
    duplicate = scorable & (F.col("_rank") > 1)
    return marked.withColumn(
        "skip", F.when(duplicate, SkipReason.DUPLICATE_TRACE_ID.value).otherwise(F.col("skip"))
    ).drop("_rank")


def winners(chosen: DataFrame) -> DataFrame:
    """Return, for each trace id that has several scorable rows: trace_id, first_time and `tied`.

    `chosen` may be what `mark_duplicates` gives: what it marked is scorable otherwise.
    """
    scorable = F.col("skip").isNull() | (F.col("skip") == SkipReason.DUPLICATE_TRACE_ID.value)
    rows = chosen.where(scorable).groupBy("trace_id", "request_time").agg(F.count(F.lit(1)).alias("n"))
    first = rows.groupBy("trace_id").agg(
        F.min("request_time").alias("first_time"),
        F.min_by("n", "request_time").alias("n"),
        F.sum("n").alias("rows"),
    )
    return first.where("rows > 1").select("trace_id", "first_time", (F.col("n") > 1).alias("tied"))


def drop_duplicates(chosen: DataFrame, first: DataFrame, *, ties: bool) -> DataFrame:
    """Keep the earliest scorable row of each trace id; `first` is what `winners` gave for the whole window."""
    joined = chosen.join(F.broadcast(first), "trace_id", "left")
    kept = joined.where(F.col("first_time").isNull() | (F.col("first_time") == F.col("request_time")))
    if not ties:
        return kept.drop("first_time", "tied")
    is_tied = F.coalesce(F.col("tied"), F.lit(False))
    order = Window.partitionBy("trace_id").orderBy(*POSITIONS)
    one = kept.where(is_tied).withColumn("_rank", F.row_number().over(order)).where("_rank = 1").drop("_rank")
    return kept.where(~is_tied).unionByName(one).drop("first_time", "tied")


def counted(pairs: DataFrame, scorers: Sequence[ScorerSpec]) -> DataFrame:
    """Count rows by reason and pairs by scorer, a row an hour of trace time.

    `pairs` has skip, the masks of `choose`, and those of `results.with_done`. Columns: hour (hours since the
    epoch, NULL without a time), rows, one `skip_<reason>` each, ties, and for scorer i `unexpected_i, filtered_i,
    unsampled_i, done_i, due_i`, and of the due ones `own_i` (staged by this job) and `elsewhere_i` (by another).
    """
    # Few kinds of rows first, so that the many sums are over few.
    kinds = ["skip", "matched", "sampled", "no_expectations", "done", "own", "elsewhere"]
    hour = F.floor(F.unix_micros("request_time") / F.lit(HOUR_US)).alias("hour")
    of_kind = pairs.groupBy(hour, (F.col("ties") > 1).alias("is_tied"), *kinds).agg(F.count(F.lit(1)).alias("n"))
    conditions = {"rows": "true", "ties": "skip is null and is_tied"}
    conditions |= {f"skip_{r}": f"skip = '{r}'" for r in SkipReason if r is not SkipReason.NO_EXPECTATIONS}
    for i, _ in enumerate(scorers):
        missing, matched, sampled, done, own, elsewhere = (
            f"({mask} & shiftleft(1L, {i})) != 0"
            for mask in ("no_expectations", "matched", "sampled", "done", "own", "elsewhere")
        )
        asked = f"skip is null and not {missing}"
        due = f"{asked} and {matched} and {sampled} and not {done}"
        conditions |= {
            f"unexpected_{i}": f"skip is null and {missing}",
            f"filtered_{i}": f"{asked} and not {matched}",
            f"unsampled_{i}": f"{asked} and {matched} and not {sampled}",
            f"done_{i}": f"{asked} and {matched} and {sampled} and {done}",
            f"due_{i}": due,
            f"own_{i}": f"{due} and {own}",
            f"elsewhere_{i}": f"{due} and not {own} and {elsewhere}",
        }
    # As texts: two calls into Java each, not ten.
    return of_kind.groupBy("hour").agg(*(F.expr(f"sum(if({c}, n, 0))").alias(name) for name, c in conditions.items()))


def due_mask() -> Column:
    """Return the mask of the due pairs, staged or not."""
    chosen = F.col("matched").bitwiseAND(F.col("sampled"))
    finished = F.col("no_expectations").bitwiseOR(F.col("done"))
    due = chosen.bitwiseAND(F.bitwise_not(finished))
    return F.when(F.col("skip").isNull(), due).otherwise(F.lit(0).cast("bigint"))


def to_call_mask() -> Column:
    """Return the mask of the due pairs that no job has staged."""
    return due_mask().bitwiseAND(F.bitwise_not(F.col("own").bitwiseOR(F.col("elsewhere"))))
