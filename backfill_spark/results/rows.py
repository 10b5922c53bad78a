"""Rows of `assessments`: made of staged arrays, found by a job's scorers, and which of them are current."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from backfill_spark import schema
from backfill_spark.models import Outcome, Request, ScorerKind, ScorerSpec
from backfill_spark.results.counts import without_call

_PAIR = [*schema.PAIR_KEY, "trace_date"]


def current(rows: DataFrame) -> DataFrame:
    """Keep of each (experiment, trace, scorer) the rows of the newest version and of the latest trace date."""
    pair = Window.partitionBy("experiment_id", "trace_id", "scorer_name")
    rows = rows.withColumn("_version", F.max("scorer_version").over(pair)).where("scorer_version = _version")
    newest = F.max_by("trace_date", F.struct("created_at", "trace_date")).over(pair)
    return rows.withColumn("_date", newest).where("trace_date = _date").drop("_version", "_date")


def assessments(staged: DataFrame, request: Request) -> DataFrame:
    """Turn staged rows into rows of `assessments`, one a feedback."""
    names = schema.RESULTS.fieldNames()
    keys = [f.name for f in schema.STAGING.schema.fields if f.name != "results"]
    long = staged.select(*keys, F.inline(F.arrays_zip(*[f"results.{n}" for n in names])))
    extra = T.StructType(schema.EXTRA.fields)
    long = long.withColumn("extra", F.from_json("extra", extra))

    def of_scorer(value: Callable[[ScorerSpec], Any]) -> Column:
        mine = [_is(s, F.col("scorer_name"), F.col("scorer_version")) for s in request.scorers]
        return F.coalesce(*[F.when(m, F.lit(value(s))) for m, s in zip(mine, request.scorers, strict=True)])

    outcome = (
        F.when(F.col("error_code").isNotNull(), Outcome.ERROR.value)
        .when(F.col("value").isNull(), Outcome.EMPTY.value)
        .otherwise(Outcome.SCORED.value)
    )
    now = F.current_timestamp()
    own = {
        "assessment_id": assessment_id(),
        "target": F.when(F.col("extra.span_id").isNotNull(), "span").otherwise("trace"),
        "assessment_name": F.coalesce("assessment_name", "scorer_name"),
        "scorer_digest": of_scorer(lambda s: s.digest),
        "outcome": outcome,
        "source_type": F.coalesce(
            F.col("extra.source_type"), of_scorer(lambda s: "LLM_JUDGE" if s.kind is ScorerKind.JUDGE else "CODE")
        ),
        "source_id": F.coalesce(F.col("extra.source_id"), F.col("extra.model"), F.col("scorer_name")),
        "sample_rate": of_scorer(lambda s: s.sample_rate),
        "seed": F.lit(request.seed).cast("bigint"),
        "attempts": F.coalesce(F.col("extra.attempts"), F.when(without_call(), 0).otherwise(1)),
        "created_at": now,
        "updated_at": now,
    }
    inside = {f.name for f in schema.EXTRA.fields}
    columns = []
    for field in schema.ASSESSMENTS.schema.fields:
        column = own.get(field.name)
        if column is None:
            column = F.col(f"extra.{field.name}") if field.name in inside else F.col(field.name)
        columns.append(column.cast(field.dataType).alias(field.name))
    return long.select(*columns)


def assessment_id() -> Column:
    """Return `a-` + 32 hex digits of SHA-256 over the row key as a compact JSON array, in key order."""
    text = F.concat_ws(
        ",",
        *[_json_text(k) if k not in ("scorer_version", "ordinal") else F.col(k).cast("string") for k in schema.ROW_KEY],
    )
    return F.concat(F.lit("a-"), F.substring(F.sha2(F.concat(F.lit("["), text, F.lit("]")), 256), 1, 32))


def _json_text(name: str) -> Column:
    """JSON text of a string column; Jackson writes control characters in upper case, Python (and we) in lower."""
    whole = F.to_json(F.struct(F.col(name).alias("c")))
    text = F.regexp_extract(whole, r'(?s)^\{"c":(.*)\}$', 1)
    fixed = text
    for code in ("0B", "0E", "0F", "1A", "1B", "1C", "1D", "1E", "1F"):
        fixed = F.regexp_replace(fixed, rf"(?<!\\)((?:\\\\)*)\\u00{code}", rf"$1\\u00{code.lower()}")
    return F.when(F.col(name).rlike(r"[\x00-\x1f]"), fixed).otherwise(text)


def _is(spec: ScorerSpec, name: Column, version: Column) -> Column:
    return (name == spec.name) & (version == spec.version)


def position_of(scorers: Sequence[ScorerSpec], name: Column, version: Column) -> Column:
    """Index of the scorer in the job, or NULL."""
    return F.coalesce(*[F.when(_is(s, name, version), F.lit(i)) for i, s in enumerate(scorers)])


def without_mended(puts: DataFrame, old: DataFrame, job_id: str) -> DataFrame:
    """Drop pairs that another job got a result for after this one had staged an error, and rested."""
    failed = F.max(F.col("outcome") == Outcome.ERROR.value).alias("failed")
    mended = old.where(F.col("job_id") != job_id).groupBy(*_PAIR).agg(failed).where("not failed")
    return puts.join(mended, _PAIR, "left_anti")


def with_deletes(puts: DataFrame, old: DataFrame) -> DataFrame:
    """Add a `delete` for each old row of these pairs that is not put again."""
    replaced = old.join(puts.select(*_PAIR).distinct(), _PAIR, "left_semi")
    gone = replaced.join(puts.select(*_PAIR, "ordinal"), [*_PAIR, "ordinal"], "left_anti")
    return puts.withColumn("op", F.lit("put")).unionByName(gone.withColumn("op", F.lit("delete")))
