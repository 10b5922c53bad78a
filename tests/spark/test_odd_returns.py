"""One job over healthy traces, odd returns, exceptions and broken rows: each costs its own pair only."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delta.tables import DeltaTable
from pyspark.sql import functions as F

from backfill_spark import (
    ScorerSamplingConfig,
    backfill_scorers,
    configure,
    get_backfill,
    read_assessments,
    scorer,
)
from backfill_spark.backfill.tables import Tables
from tests.factories import NOON, Ledger, a_span, a_trace
from tests.spark.test_gsm8k import selected_ids

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings

HEALTHY = 1000
EMPTY = {"None", "[]"}
VALUES = {
    "True": "true",
    "False": "false",
    "0": "0",
    "-0.0": "-0.0",
    "'0.5'": '"0.5"',
    "'yes'": '"yes"',
    "'No'": '"No"',
    "''": '""',
    "' '": '" "',
    "'\\ud800'": '"\ufffd"',
    "'\\x00a'": '"\\u0000a"',
    "'\\u202eabc'": '"\u202eabc"',
    "'\\ufeff'": '"\ufeff"',
    "__import__('numpy').float64(0.5)": "0.5",
    "__import__('numpy').float32(0.5)": "0.5",
    "__import__('numpy').int64(5)": "5",
    "__import__('numpy').bool_(True)": "true",
    "type('X',(str,),{})('sub')": '"sub"',
    "type('Y',(float,),{})(0.5)": "0.5",
}
DOUBLES = {"true": 1.0, "false": 0.0, '"yes"': 1.0, '"No"': 0.0, "0": 0.0, "-0.0": 0.0, "0.5": 0.5, "5": 5.0}
CODES = {
    "float('nan')": "value_not_finite",
    "float('inf')": "value_not_finite",
    "-float('inf')": "value_not_finite",
    "__import__('numpy').nan": "value_not_finite",
    "10**400": "value_out_of_range",
    "'z'*70000": "value_too_long",
}
EXCEPTIONS = {
    "raise ValueError('token=sk-abcdefghij0123456789')": "scorer_error",
    "raise KeyError": "scorer_error",
    "1 / 0": "scorer_error",
    "raise SystemExit(3)": "scorer_error",
    "raise KeyboardInterrupt": "scorer_error",
    "raise GeneratorExit": "scorer_error",
    "raise StopIteration": "scorer_error",
    "def again(): return again()\nagain()": "scorer_error",
    "raise MemoryError": "memory",
    "raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})": "scorer_error",
    "raise type('Base', (BaseException,), {})('x' * 10**6)": "scorer_error",
    "raise ExceptionGroup('many', [ValueError(), OSError()])": "scorer_error",
}


def odd(path: str) -> Any:
    """Return the scorer that does what `inputs` says, and notes each call."""

    @scorer(name="odd")
    def odd(inputs: Any, trace: Any) -> Any:
        import os

        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, f"{trace.info.trace_id}\n".encode())
        os.close(handle)
        if inputs is None:
            return "no inputs"
        verb, _, code = inputs.partition(" ")
        if verb == "return":
            return eval(code, {})
        if verb == "do":
            exec(code, {"__builtins__": __builtins__})
        return len(inputs)

    return odd


@scorer
def tools(trace: Any) -> Any:
    """Count the TOOL spans."""
    return len(trace.search_spans(span_type="TOOL"))


@scorer
def length(outputs: Any) -> Any:
    return len(outputs)


@scorer
def brittle(outputs: Any) -> bool:
    return True


def a_row(trace_id: str | None, **values: Any) -> dict[str, Any]:
    """Return a trace whose spans are JSON text, as a user's table may have them."""
    spans = values.pop("spans", json.dumps([a_span(), a_span(span_id="s-2", parent_id="s-1", span_type="TOOL")]))
    return a_trace(trace_id=trace_id, **values) | {"spans": spans}


def rows_of(returns: list[str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return all traces, and how many of them are skipped for which reason."""
    rows = [
        a_row(
            f"tr-{n}",
            request=f"question {n}",
            request_time=NOON + timedelta(minutes=7 * n),
            tags={"kind": "healthy"},
        )
        for n in range(HEALTHY)
    ]
    rows += [a_row(f"return-{n}", request=f"return {code}") for n, code in enumerate(returns)]
    rows += [a_row(f"raise-{n}", request=f"do {code}") for n, code in enumerate(EXCEPTIONS)]
    rows += [
        a_row("no-spans", spans=None),
        a_row("no-root", spans=json.dumps([a_span(parent_id="gone")])),
        a_row("bad-spans", spans="[{"),
        a_row("not-spans", spans='"text"'),
        a_row("no-texts", request=None, response=None),
        a_row("large", response="x" * 20_000_000),
    ]
    skipped = [
        a_row(None),
        a_row(None),
        a_row("no-time", request_time=None),
        a_row("tr-5", request_time=NOON + timedelta(days=3), request="a later row of the same trace"),
        a_row("running", state="IN_PROGRESS"),
        a_row("eval-1", trace_metadata={"mlflow.sourceRun": "run"}),
        a_row("eval-2", tags={"mlflow.trace.sourceScorer": "s"}),
    ]
    reasons = {"no_trace_id": 2, "no_time": 1, "duplicate_trace_id": 1, "in_progress": 1, "evaluation_run": 2}
    return rows + skipped, reasons


def test_one_job_gives_each_pair_its_outcome(
    spark: SparkSession, settings: Settings, shared: Path, ledger: Ledger
) -> None:
    """One row a pair with the outcome of the contract; every healthy value right; counts add up."""
    returns = json.loads((shared / "corpora" / "odd_returns.json").read_text(encoding="utf-8"))["returns"]
    assert len(returns) == 51
    assert VALUES.keys() | CODES.keys() | EMPTY <= set(returns)
    rows, reasons = rows_of(returns)
    from backfill_spark import schema

    shape = schema.TRACES
    fields = [f.name + " " + ("string" if f.name == "spans" else f.dataType.simpleString()) for f in shape.fields]
    frame = spark.createDataFrame([tuple(r[n] for n in shape.names) for r in rows], ", ".join(fields))
    frame.write.format("delta").save(settings.traces_path)
    configure(settings)

    odd(ledger.path).register().start()
    tools.register().start()
    length.register().start(sampling_config=ScorerSamplingConfig(sample_rate=0.5, filter_string="tag.kind = 'healthy'"))
    brittle.register().start(sampling_config=ScorerSamplingConfig(sample_rate=0.01))
    path = f"{settings.tables.root}/scorers"
    spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES (delta.appendOnly = false)")
    stored = DeltaTable.forPath(spark, path)
    stored.update("name = 'brittle'", {"definition": F.lit("gASVBQAAAAAAAACMAWGULg==")})
    job = get_backfill(backfill_scorers(scorers=["odd", "tools", "length", "brittle"]))

    # Counts add up, for each scorer, and in the job's row.
    total, skipped = len(rows), sum(reasons.values())
    ids = [r["trace_id"] for r in rows[: total - skipped]]
    for name, counts in job.counts.items():
        assert total == counts.in_window
        assert reasons == dict(counts.skipped_reasons), name
        decided = counts.skipped + counts.filtered_out + counts.sampled_out + counts.already_scored + counts.due
        assert counts.in_window == decided
        assert counts.due == counts.scored + counts.empty + counts.errored + counts.left
        assert counts.left == 0
    chosen = selected_ids(ids[:HEALTHY], 0.5)
    brittle_ids = selected_ids(ids, 0.01)
    c = job.counts
    assert (c["length"].filtered_out, c["length"].sampled_out) == (len(ids) - HEALTHY, HEALTHY - len(chosen))
    assert (c["odd"].calls, c["odd"].empty) == (len(ids) - 1, len(EMPTY))  # `large` needs no call
    assert (c["brittle"].calls, c["brittle"].errored) == (0, len(brittle_ids))
    assert sorted(ledger.lines()) == sorted(set(ids) - {"large"})

    # One row a pair.
    kept = Tables(spark, settings).results.assessments.read().collect()
    found = {(r["scorer_name"], r["trace_id"]): r for r in kept}
    assert len(kept) == len(found)
    expected = {("odd", i) for i in ids} | {("tools", i) for i in ids}
    assert expected | {("length", i) for i in chosen} | {("brittle", i) for i in brittle_ids} == set(found)

    # Healthy traces.
    for n in range(HEALTHY):
        row = found["odd", f"tr-{n}"]
        assert (row["outcome"], row["value"]) == ("scored", str(len(f"question {n}")))
        assert found["tools", f"tr-{n}"]["value"] == "1"
    assert all(found["length", i]["value_double"] == len("It arrives on Friday.") for i in chosen)

    # Odd returns.
    for n, code in enumerate(returns):
        row = found["odd", f"return-{n}"]
        if code in VALUES:
            assert ("scored", VALUES[code], None) == (row["outcome"], row["value"], row["error_code"]), code
            assert DOUBLES.get(VALUES[code]) == row["value_double"], code
            text = json.loads(VALUES[code])
            assert (text if isinstance(text, str) else None) == row["value_string"], code
        elif code in EMPTY:
            assert ("empty", None, None) == (row["outcome"], row["value"], row["error_code"]), code
        else:
            wanted = CODES.get(code, "bad_return_type")
            assert ("error", None, wanted) == (row["outcome"], row["value"], row["error_code"]), code
    # Exceptions.
    for n, (code, wanted) in enumerate(EXCEPTIONS.items()):
        row = found["odd", f"raise-{n}"]
        assert ("error", wanted) == (row["outcome"], row["error_code"]), code
        assert len(row["error_message"]) <= 500
        assert "sk-abc" not in row["error_message"]
    # Broken rows cost their own pairs only.
    assert found["tools", "no-spans"]["value"] == "0"
    assert found["tools", "no-root"]["value"] == "0"
    for i in ("bad-spans", "not-spans"):
        assert ("error", "trace_unreadable") == (found["tools", i]["outcome"], found["tools", i]["error_code"]), i
        assert found["odd", i]["outcome"] == "scored"
    assert found["odd", "no-texts"]["value"] == '"no inputs"'
    for name in ("odd", "tools"):
        assert (found[name, "large"]["error_code"], found[name, "large"]["attempts"]) == ("trace_too_large", 0)
    assert {found["brittle", i]["error_code"] for i in brittle_ids} == {"load_failed"}

    # What people read: no `empty` rows, and the earliest row of a trace that stands twice.
    read = read_assessments(scorers=["odd"])
    assert read.where("outcome = 'empty'").count() == 0
    assert found["odd", "tr-5"]["trace_time"].replace(tzinfo=NOON.tzinfo) == NOON + timedelta(minutes=35)
