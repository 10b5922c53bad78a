"""The Spark side of a judge's three steps: render prompts, ask them, and fan answers out to result rows.

All three are `mapInArrow`, an operator that Spark never evaluates twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from backfill_spark import schema
from backfill_spark.judges.worker import fan_out, load_judges, render_batch
from backfill_spark.models import ScorerSpec
from backfill_spark.scorers.stored_code import loading
from backfill_spark.scoring.arguments import TOO_LARGE, UNREADABLE
from backfill_spark.scoring.columns import worker_columns, worker_inputs
from backfill_spark.traces.texts import key_text

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from backfill_spark.judges.llm.endpoints import Service

KEYS = ("trace_id", "trace_time", "trace_date", "session_id", "draw")
PROMPTS = T.StructType([f for f in schema.WORK.schema.fields if f.name not in ("job_id", "kind")])
"""A rendered prompt: WORK without what the job adds."""
ANSWERS = T.StructType(
    [
        *(f for f in schema.JUDGEMENTS.schema.fields if f.name not in ("job_id", "answered_at")),
        T.StructField("left", schema.STRING),
    ]
)
"""What asking gives: JUDGEMENTS, and why a question was left."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a worker needs to render: plain data."""

    specs: tuple[ScorerSpec, ...]
    models: Mapping[str, str]
    payload: str
    token_cap: int
    marker_key_env: str | None


def render(traces: DataFrame, rendering: Rendering, available: frozenset[str], *, trace_mb: float) -> DataFrame:
    """Return the prompt of each due pair, typed PROMPTS. `traces` has KEYS, `due`, `unreadable`, texts."""
    names, large, given = worker_inputs(rendering.specs, available, trace_mb=trace_mb)
    texts = [] if given is None else [given.alias("given")]
    keys = [key_text(k) if k == "session_id" else F.col(k) for k in KEYS]
    chosen = traces.select(*keys, "due", "unreadable", large.alias("large"), *texts)
    has_texts = given is not None  # a Column cannot travel

    def carry(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from backfill_spark.judges.prompt import read_secret

        judges = load_judges(rendering.specs, rendering.models, load=loading.load)
        secret = read_secret(rendering.marker_key_env)
        for batch in batches:
            columns = [c.to_pylist() for c in batch.column("given").flatten()] if has_texts else []
            values = worker_columns(names, columns)
            values[TOO_LARGE] = batch.column("large").to_pylist()
            values[UNREADABLE] = batch.column("unreadable").to_pylist()
            found = render_batch(
                values,
                batch.column("due").to_pylist(),
                judges,
                payload=rendering.payload,
                token_cap=rendering.token_cap,
                secret=secret,
            )
            keys = batch.select(list(KEYS)).take(pa.array([r.row for r in found], pa.int64()))
            made = {name: keys.column(name) for name in KEYS}
            made |= {
                name: pa.array([getattr(r, name) for r in found])
                for name in ("scorer_name", "scorer_version", "prompt", "prompt_hash", "input_digest", "tokens")
            }
            yield _typed(made, PROMPTS)

    return chosen.mapInArrow(carry, PROMPTS)


@dataclass(frozen=True, slots=True)
class Asking:
    """What a worker needs to ask: plain data; keys are read by name in the worker."""

    service: Service
    journal_folder: str
    job_id: str
    slice: int
    """Number that no other asking of the job has."""
    requests_each: float | None
    """Requests that each question brings to its task's budget; None is no limit."""
    cost_each: float | None
    still_s: float
    """Longest time that a worker may have been stopped; another runner may then be at the job."""


def ask(questions: DataFrame, asking: Asking) -> DataFrame:
    """Ask each question (prompt_hash, prompt, tokens) once, in the order of each partition; typed ANSWERS."""

    def carry(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        from backfill_spark.judges.llm.budget import Budget
        from backfill_spark.judges.llm.client import ask as ask_all
        from backfill_spark.judges.llm.journal import Journal
        from backfill_spark.judges.llm.messages import Question

        context = TaskContext.get()
        task = context.partitionId() if context is not None else 0
        budget = Budget(None if asking.requests_each is None else 0, None if asking.cost_each is None else 0.0)
        journal = Journal(asking.journal_folder, asking.job_id, asking.slice * 100_000 + task)
        seen = 0

        def questions_of(batch: pa.RecordBatch) -> list[Question]:
            nonlocal seen
            seen += batch.num_rows
            if asking.requests_each is not None:
                budget.max_requests = int(seen * asking.requests_each + 1e-6)
            if asking.cost_each is not None:
                budget.max_cost_usd = seen * asking.cost_each
            columns = (batch.column(name).to_pylist() for name in ("prompt_hash", "prompt", "tokens"))
            return [Question(h, p, t) for h, p, t in zip(*columns, strict=True)]

        asked = ask_all(
            (questions_of(b) for b in batches), asking.service, budget=budget, journal=journal, still_s=asking.still_s
        )
        for answers in asked:
            rows = [asdict(a) for a in answers]
            made = {n: [r.get("verdict" if n == "answer" else n) for r in rows] for n in ANSWERS.fieldNames()}
            made["error_code"] = [None if c is None else str(c) for c in made["error_code"]]
            yield _typed({n: pa.array(v, pa_type(ANSWERS, n)) for n, v in made.items()}, ANSWERS)

    return questions.mapInArrow(carry, ANSWERS)


def fan(rows: DataFrame, specs: Sequence[ScorerSpec], models: Mapping[str, str]) -> DataFrame:
    """Turn pairs with their judgement into scored rows, typed SCORED.

    `rows` has KEYS, scorer_name, scorer_version, prompt, prompt_hash, input_digest, `judgement` (a struct of
    JUDGEMENTS columns, or NULL) and `cached`.
    """
    shipped, uris = tuple(specs), dict(models)

    def carry(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        judges = {(j.spec.name, j.spec.version): j for j in load_judges(shipped, uris, load=loading.load)}
        names = ["scorer_name", "scorer_version", "prompt", "prompt_hash", "input_digest", "judgement", "cached"]
        for batch in batches:
            pairs = batch.select(names).to_pylist()
            results = [fan_out(judges[p.pop("scorer_name"), p.pop("scorer_version")], **p) for p in pairs]
            made: dict[str, Any] = {name: batch.column(name) for name in KEYS}
            kind = pa_type(schema.SCORED, "results")
            fields = [pa.array([[row[i]] for row in results], kind.field(i).type) for i in range(kind.num_fields)]
            made["results"] = pa.StructArray.from_arrays(fields, fields=[kind.field(i) for i in range(kind.num_fields)])
            yield _typed(made, schema.SCORED)

    return rows.mapInArrow(carry, schema.SCORED)


def pa_type(schema: T.StructType, name: str) -> pa.DataType:
    """Return the Arrow type of one column, as Spark writes it."""
    return _arrow_schema(schema).field(name).type


def _arrow_schema(schema: T.StructType) -> pa.Schema:
    # Older than PySpark 4.2 it takes no zone: times are in UTC there.
    zone: dict[str, Any] = {"timezone": "UTC"} if "timezone" in signature(to_arrow_schema).parameters else {}
    return to_arrow_schema(schema, **zone)


def _typed(columns: Mapping[str, Any], schema: T.StructType) -> pa.RecordBatch:
    arrow = _arrow_schema(schema)
    arrays = []
    for field in arrow:
        column = columns[field.name]
        arrays.append(column if column.type == field.type else column.cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, names=arrow.names)
