"""What people do instead: a plain loop over pyarrow, a Spark job a scorer, a bare scan, MLflow's own evaluation."""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyspark.sql import functions as F
from pyspark.sql.pandas import functions as pandas_functions

from backfill_spark.schema import ASSESSMENTS
from benchmarks.world import PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyspark.sql import DataFrame, SparkSession

COLUMNS = ["trace_id", "request_time", "request", "response"]


def _calls(names: Sequence[str], batch: pa.RecordBatch) -> tuple[list[str], list[str], list[Any]]:
    ids, who, values = [], [], []
    rows = zip(*(batch[name].to_pylist() for name in ("trace_id", "request", "response")), strict=True)
    for trace_id, request, response in rows:
        for name in names:
            ids.append(trace_id)
            who.append(name)
            values.append(PLAIN[name](request if name == "question_words" else response))
    return ids, who, values


def _files(traces: str) -> list[str]:
    return sorted(str(path) for path in Path(traces).glob("*.parquet"))


def loop_values(traces: str, out: str, names: Sequence[str]) -> int:
    """Score in a loop, and write trace id, scorer and value as text: the least that can be called a result."""
    Path(out).mkdir()
    count = 0
    for n, batch in enumerate(ds.dataset(_files(traces)).to_batches(columns=COLUMNS)):
        ids, who, values = _calls(names, batch)
        table = pa.table({"trace_id": ids, "scorer_name": who, "value": [json.dumps(v) for v in values]})
        pq.write_table(table, f"{out}/{n}.parquet")
        count += len(ids)
    return count


def loop_rows(traces: str, out: str, names: Sequence[str], processes: int = 1) -> int:
    """Score in a loop, and write the columns of `assessments`, a file a date and batch."""
    Path(out).mkdir()
    files = _files(traces)
    parts = [(files[i::processes], f"{out}/{i}", list(names)) for i in range(processes)]
    if processes == 1:
        return _loop_part(*parts[0])
    with ProcessPoolExecutor(processes) as pool:
        return sum(pool.map(_loop_part, *zip(*parts, strict=True)))


def _loop_part(files: list[str], out: str, names: list[str]) -> int:
    from deltalake import Schema

    schema = pa.schema(Schema.from_json(ASSESSMENTS.schema.json()).to_arrow())
    count = 0
    for batch in ds.dataset(files).to_batches(columns=COLUMNS, batch_size=100_000):
        ids, who, values = _calls(names, batch)
        count += len(ids)
        times = [t for t in batch["request_time"].to_pylist() for _ in names]
        now = datetime.now(UTC)
        numbers = [float(v) for v in values]
        made: dict[str, Any] = {
            "assessment_id": [_id(trace, name) for trace, name in zip(ids, who, strict=True)],
            "trace_id": ids,
            "trace_time": times,
            "trace_date": [t.date() for t in times],
            "assessment_name": who,
            "scorer_name": who,
            "value": [json.dumps(v) for v in values],
            "value_double": numbers,
            "source_id": who,
            "draw": [int(hashlib.md5(f"0|{trace}".encode()).hexdigest()[:13], 16) / 16**13 for trace in ids],
        }
        same = {"experiment_id": "0", "target": "trace", "scorer_version": 1, "ordinal": 0, "outcome": "scored"}
        same |= {"source_type": "CODE", "sample_rate": 1.0, "seed": 0, "job_id": "loop", "scored_job_id": "loop"}
        same |= {"source_version": "0", "attempts": 1, "created_at": now, "updated_at": now, "latency_ms": 0.0}
        columns = []
        for field in schema:
            if field.name in made:
                columns.append(pa.array(made[field.name], field.type))
            elif field.name in same:
                columns.append(pa.repeat(pa.scalar(same[field.name], field.type), len(ids)))
            else:
                columns.append(pa.nulls(len(ids), field.type))
        rows = pa.Table.from_arrays(columns, schema=schema).sort_by("trace_date")
        ds.write_dataset(
            rows,
            out,
            format="parquet",
            partitioning=["trace_date"],
            partitioning_flavor="hive",
            existing_data_behavior="overwrite_or_ignore",
            basename_template=f"{secrets.token_hex(8)}-{{i}}.parquet",
        )
    return count


def _id(trace: str, name: str) -> str:
    return "a-" + hashlib.sha256(json.dumps(["0", trace, name, 1, 0]).encode()).hexdigest()[:32]


def scan(spark: SparkSession, traces: str) -> None:
    """Read the columns that the scorers need, and do nothing with them."""
    spark.read.format("delta").load(traces).select(*COLUMNS).write.format("noop").mode("overwrite").save()


def _udf(function: Callable[..., Any]) -> Any:
    make: Any = pandas_functions.pandas_udf
    return make(function, "string")


def pruned_jobs(spark: SparkSession, traces: str, out: str, names: Sequence[str], *, whole: bool = False) -> None:
    """Run one Spark job a scorer, a pandas UDF over the one column it needs, appended to a Delta table.

    Args:
        whole: write rows with all columns of `assessments`; else trace id, time, name and value.
    """
    for name in names:
        column, call = _column(name), PLAIN[name]
        udf = _udf(lambda texts, call=call: texts.map(lambda text: json.dumps(call(text))))
        rows = spark.read.format("delta").load(traces).select("trace_id", "request_time", udf(column).alias("value"))
        _append(rows, name, out, whole=whole)


def struct_jobs(spark: SparkSession, traces: str, out: str, names: Sequence[str], *, whole: bool = False) -> None:
    """Run one Spark job a scorer, each given the whole trace as a struct: the obvious way."""
    for name in names:
        column, call = _column(name), PLAIN[name]
        udf = _udf(lambda frame, call=call, c=column: frame[c].map(lambda text: json.dumps(call(text))))
        rows = spark.read.format("delta").load(traces)
        rows = rows.select("trace_id", "request_time", udf(F.struct(*rows.columns)).alias("value"))
        _append(rows, name, out, whole=whole)


def _column(name: str) -> str:
    return "request" if name == "question_words" else "response"


def _append(rows: DataFrame, name: str, out: str, *, whole: bool) -> None:
    rows = rows.withColumns({"scorer_name": F.lit(name), "trace_date": F.to_date("request_time")})
    if whole:
        key = F.concat(F.lit('["0","'), "trace_id", F.lit(f'","{name}",1,0]'))
        made = {
            "assessment_id": F.concat(F.lit("a-"), F.substring(F.sha2(key, 256), 1, 32)),
            "experiment_id": F.lit("0"),
            "trace_time": F.col("request_time"),
            "target": F.lit("trace"),
            "assessment_name": F.lit(name),
            "scorer_version": F.lit(1),
            "scorer_digest": F.lit("0" * 64),
            "ordinal": F.lit(0),
            "outcome": F.lit("scored"),
            "source_type": F.lit("CODE"),
            "source_id": F.lit(name),
            "value_double": F.expr("try_cast(value AS double)"),
            "sample_rate": F.lit(1.0),
            "draw": (F.xxhash64("trace_id", F.lit(0).cast("bigint")) + F.lit(2.0**63)) / F.lit(2.0**64),
            "seed": F.lit(0),
            "job_id": F.lit("bf-20240101-loop"),
            "scored_job_id": F.lit("bf-20240101-loop"),
            "source_version": F.lit("0"),
            "attempts": F.lit(1),
            "latency_ms": F.lit(0.0),
            "created_at": F.current_timestamp(),
            "updated_at": F.current_timestamp(),
        }
        columns = {f.name: made.get(f.name, F.lit(None)) for f in ASSESSMENTS.schema if f.name not in rows.columns}
        rows = rows.withColumns(columns)
        rows = rows.select(*(F.col(f.name).cast(f.dataType).alias(f.name) for f in ASSESSMENTS.schema))
    rows.write.format("delta").mode("append").partitionBy("trace_date").save(out)


def mlflow_evaluate(python: str, folder: Path, traces: str, count: int) -> float:
    """Score `count` traces with `mlflow.genai.evaluate` in another environment, as a whole command.

    Returns:
        Wall seconds of the evaluation alone, without starting Python and importing MLflow.
    """
    rows = ds.dataset(_files(traces)).head(count, columns=["request", "response"]).to_pylist()
    data = folder / "mlflow-traces.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    code = Path(__file__).with_name("mlflow_evaluate.py")
    done = subprocess.run(
        [str(Path(python).absolute()), str(code), str(data), str(folder / "mlflow.db")],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,  # it leaves an empty mlruns behind
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return float(done.stdout.strip().splitlines()[-1])
