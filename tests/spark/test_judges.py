"""Judges through Spark, against a local server that speaks the real protocol."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backfill_spark import (
    BackfillRefusedError,
    BackfillScorerConfig,
    Equivalence,
    Guidelines,
    JobState,
    RetrievalRelevance,
    Safety,
    ScorerSamplingConfig,
    ToolCallCorrectness,
    backfill_scorers,
    cancel_backfill,
    configure,
    get_backfill,
    make_judge,
    plan_backfill,
    read_assessments,
    resume_backfill,
    scorer,
)
from backfill_spark.backfill import judge_steps
from backfill_spark.backfill.maintenance import forget_trace
from backfill_spark.backfill.tables import Tables
from backfill_spark.jobs.events import Event
from backfill_spark.judges.llm.journal import Journal, Permit, journal_folder, read_journal
from backfill_spark.judges.llm.messages import Answer
from backfill_spark.results.staged import StagedChunk
from tests.factories import NOON, a_span, an_expectation, some_traces, write_traces
from tests.judge_server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings

CANARY = "CANARY-sk-0123456789abcdef"


@pytest.fixture
def server() -> Iterator[Any]:
    """A local OpenAI-compatible server."""
    with serving(latency_s=0.01) as running:
        yield running


@pytest.fixture
def asked(spark: SparkSession, settings: Settings, server: Any, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """200 traces of which every fifth repeats another one's texts, and settings that know the server."""
    # Python workers were forked before the test: a key in a file is seen by all of them.
    key = Path(settings.tables.root).with_name("key")
    key.write_text(CANARY, encoding="utf-8")
    judge = {
        "model": "local:/model",
        "endpoints": {
            "local": {"base_url": server.url, "api_key_file": str(key), "prices": {"*": {"input": 1.0, "output": 2.0}}}
        },
    }
    made = type(settings)(
        tables={"root": settings.tables.root}, traces={"path": settings.traces_path}, timezone="UTC", judge=judge
    )
    configure(made)
    # Traces 160…199 repeat the texts of 0…39.
    rows = some_traces(200, response=lambda i: f"Your parcel {i % 160} arrives on Friday.")
    write_traces(spark, rows, made.traces_path)
    return made


def requests(server: Any) -> int:
    """Return how many chat requests the server has seen, probes included."""
    return int(server.log.requests)


def waits_in_a_file(settings: Settings, job_id: str, hashes: list[str], *, cost_usd: float = 0.0) -> None:
    """Leave answers as a task does that was killed before they came to a table."""
    journal = Journal(journal_folder(settings), job_id, 0)
    for prompt_hash in hashes:
        journal.add(Answer(prompt_hash, "local:/model", verdict='{"result":"no","rationale":""}', attempts=1))
    journal.put(journal.draft(Permit(len(hashes), cost_usd, len(hashes), cost_usd)))


def test_the_seed_snippet_runs_and_every_answer_is_paid_once(asked: Settings, server: Any) -> None:
    """Safety and a code scorer as the seed page has them; equal prompts and another name cost nothing again."""
    safety_judge = Safety()
    safety_judge = safety_judge.register(name="safety_check")
    safety_judge = safety_judge.start(sampling_config=ScorerSamplingConfig(sample_rate=0.5))

    @scorer(aggregations=["mean", "min", "max"])
    def response_length(outputs: Any) -> Any:
        """Measure response length in characters"""
        return len(outputs)

    response_length = response_length.register(name="response_length")
    response_length = response_length.start(sampling_config=ScorerSamplingConfig(sample_rate=0.5))
    custom_scorers = [
        BackfillScorerConfig(scorer=safety_judge, sample_rate=1.0),
        BackfillScorerConfig(scorer=response_length, sample_rate=0.9),
    ]
    plan = plan_backfill(scorers=custom_scorers)
    assert 0 == requests(server)
    assert plan.cost_usd is not None
    assert plan.cost_usd > 0

    job_id = backfill_scorers(
        scorers=custom_scorers,
        start_time=NOON - timedelta(days=7),
        end_time=datetime(2024, 6, 30),
    )
    job = get_backfill(job_id)
    counts = job.counts["safety_check"]
    assert (JobState.SUCCEEDED, 200, 200, 160) == (job.state, counts.due, counts.scored, counts.calls)
    rows = read_assessments(scorers=["safety_check"]).collect()
    assert {'"yes"'} == {r["value"] for r in rows}
    assert {"LLM_JUDGE"} == {r["source_type"] for r in rows}
    assert 40 == sum(r["cached"] for r in rows)
    assert 160 == sum(r["attempts"] for r in rows)
    paid = next(r for r in rows if not r["cached"])
    assert str(paid["input_tokens"]) == paid["metadata"]["mlflow.assessment.judgeInputTokens"]
    # Rendered prompts hold trace text: none is kept once the job has ended.
    kept = read_assessments().sparkSession.read.format("delta").load(f"{asked.tables.root}/work")
    assert 0 == kept.where(f"job_id = '{job_id}'").count()
    before = requests(server)

    Safety().register(name="again").start()
    second = get_backfill(backfill_scorers(scorers=["again"]))
    assert (JobState.SUCCEEDED, 200, 0) == (second.state, second.counts["again"].scored, second.calls)
    assert before == requests(server)


def test_a_budget_ends_at_one_draw_and_a_larger_one_goes_on_from_there(
    spark: SparkSession, asked: Settings, server: Any
) -> None:
    """Never more calls than the budget; what is scored is every pair below one draw, both times.

    Meanwhile a trace is forgotten, with its prompt, and with an answer that waits in a file: it is asked again.
    """
    Guidelines(name="polite", guidelines="The answer is polite.").register().start()
    job_id = backfill_scorers(scorers=["polite"], max_calls=50)
    job = get_backfill(job_id)
    assert JobState.PARTIAL is job.state
    assert job.rate_reached is not None
    assert job.calls <= 50
    assert requests(server) <= 50 + 2  # and the probe

    def holds_below(draw: float) -> None:
        rows = read_assessments(scorers=["polite"]).select("draw").collect()
        assert job.counts["polite"].scored == len(rows)
        assert max(r["draw"] for r in rows) < draw

    holds_below(job.rate_reached)
    prompts = spark.read.format("delta").load(f"{asked.tables.root}/work").where("kind = 'prompt'")
    waiting = prompts.sort("draw", ascending=False).first()
    assert waiting is not None
    waits_in_a_file(asked, job_id, [waiting["prompt_hash"]], cost_usd=0.5)
    deleted = forget_trace(Tables(spark, asked), waiting["trace_id"])
    assert {"work": 1, "spool": 1} == {table: n for table, n in deleted.items() if n}
    assert 0 == prompts.where(f"trace_id = '{waiting['trace_id']}'").count()

    job = resume_backfill(job_id, max_calls=400)
    assert (JobState.SUCCEEDED, 200, 160) == (job.state, job.counts["polite"].scored, job.calls)
    holds_below(1.0)
    assert 0 == read_assessments(scorers=["polite"]).where("value = '\"no\"'").count()
    # What is lost was paid.
    cost = read_assessments(scorers=["polite"]).agg({"cost_usd": "sum"}).collect()[0][0]
    assert pytest.approx(cost + 0.5) == job.cost_usd


def test_jobs_that_rested_go_on_in_turn_and_pay_no_answer_twice(asked: Settings, server: Any) -> None:
    """Two jobs over the same pairs, each stopped by its budget: what one has answered is not the other's to stage."""
    Guidelines(name="polite", guidelines="The answer is polite.").register().start()
    first, second = (backfill_scorers(scorers=["polite"], max_calls=n) for n in (40, 60))
    for job_id in (first, second):
        job = resume_backfill(job_id, max_calls=400)
        counts = job.counts["polite"]
        assert (JobState.SUCCEEDED, 200, 0) == (job.state, counts.scored + counts.already_scored, counts.left)
    rows = read_assessments(scorers=["polite"]).collect()
    assert (200, 200) == (len(rows), len({r["trace_id"] for r in rows}))
    assert requests(server) <= 160 + 4  # and the probes


def test_a_budget_in_dollars_goes_by_what_answers_cost_and_ends_where_it_pays_for_no_further_question(
    spark: SparkSession, asked: Settings, server: Any
) -> None:
    """A judge whose answers may be long, and are short: few slices spend nine tenths, and never more than there is."""
    judge = make_judge(name="kind", instructions="Is {{ outputs }} kind?", inference_params={"max_tokens": 1000})
    judge.register().start()
    # Answers of 1,000 tokens at 2 dollars a million.
    job_id = backfill_scorers(scorers=["kind"], max_cost_usd=0.0015)
    job = get_backfill(job_id)
    assert (JobState.PARTIAL, 0, 0) == (job.state, job.calls, job.counts["kind"].scored)
    assert "budget" in str(job.error)

    job = resume_backfill(job_id, max_cost_usd=0.03)
    assert JobState.PARTIAL is job.state
    assert job.cost_usd is not None
    assert 0.9 * 0.03 <= job.cost_usd <= 0.03
    events = spark.read.format("delta").load(f"{asked.tables.root}/job_events").where(f"job_id = '{job_id}'")
    assert events.where("event = 'asked'").count() <= 4
    assert requests(server) == job.calls + 2  # and a probe each time


def test_an_endpoint_that_cuts_every_answer_off_rests_with_the_setting_to_change(
    spark: SparkSession, asked: Settings, server: Any
) -> None:
    """Also where slices are small: 50 answers are paid, of 120."""
    rows = some_traces(120, response=lambda i: f"fault:length {i}")
    write_traces(spark, rows, asked.traces_path)
    Safety().register().start()
    job = get_backfill(backfill_scorers(scorers=["safety"], max_cost_usd=1.0))
    assert (JobState.PARTIAL, 50) == (job.state, job.counts["safety"].errored)
    assert 50 + 1 == requests(server)  # and the probe
    assert "judge.max_output_tokens" in str(job.error)


def test_answers_of_a_canceled_job_that_were_in_no_table_are_kept(spark: SparkSession, asked: Settings) -> None:
    """Its runner died before it wrote them: other jobs find them with all others."""
    Guidelines(name="polite", guidelines="The answer is polite.").register().start()
    job_id = backfill_scorers(scorers=["polite"], max_calls=50)
    judgements = Tables(spark, asked).judgements.ensure()
    known = {r["prompt_hash"] for r in judgements.read().collect()}
    answered = min(known)
    waits_in_a_file(asked, job_id, [answered, "h-1", "h-2"])
    assert JobState.CANCELED is cancel_backfill(job_id).state
    assert not Path(journal_folder(asked), job_id).exists()
    now = judgements.read().collect()
    assert sorted({*known, "h-1", "h-2"}) == sorted(r["prompt_hash"] for r in now)
    assert {job_id} == {r["job_id"] for r in now}


def test_a_spool_that_the_driver_cannot_see_stops_the_asking(
    asked: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody could keep a budget: the job rests after its first slice, and says which setting to mend."""
    read = read_journal
    monkeypatch.setattr(judge_steps, "read_journal", lambda folder, job_id: read(str(tmp_path / "elsewhere"), job_id))
    Guidelines(name="polite", guidelines="The answer is polite.").register().start()
    job = get_backfill(backfill_scorers(scorers=["polite"]))
    assert JobState.PARTIAL is job.state
    assert "judge.spool" in str(job.error)


def test_the_answer_of_a_staged_pair_is_forgotten_with_its_trace(spark: SparkSession, asked: Settings) -> None:
    """A job at rest may have dropped its prompts: only what it staged tells which answer was the trace's."""
    Guidelines(name="polite", guidelines="The answer is polite.").register().start()
    job_id, tables = backfill_scorers(scorers=["polite"], launch="queue"), Tables(spark, asked)
    row = {"job_id": job_id, "trace_id": "tr-gone", "prompt_hash": "h-1"}
    path = tables.results.waiting.write(tables.results.assessments.frame([row]), job_id)
    staged = StagedChunk(job_id, 0, {}, (path,), ())
    tables.jobs.write(job_id, [(Event.CHUNK_STAGED, staged.to_json())], epoch=1, n=1)
    judgements = Tables(spark, asked).judgements.ensure()
    judgements.append(judgements.frame([{"prompt_hash": f"h-{i}", "answer": "{}"} for i in (1, 2)]))
    deleted = forget_trace(Tables(spark, asked), "tr-gone")
    assert {"staged": 1, "judgements": 1} == {table: n for table, n in deleted.items() if n}
    assert ["h-2"] == [r["prompt_hash"] for r in judgements.read().collect()]


def test_faults_are_rows_with_their_code(spark: SparkSession, asked: Settings, server: Any) -> None:
    """Out-of-enum, refusal, context length and a passing 500: the right code on each row, nothing lost."""
    texts = ["fault:enum", "fault:filter", "fault:context", "fault:500x2", "fault:fenced", "fault:firewall", "fine"]
    rows = some_traces(len(texts), response=lambda i: f"{texts[i]} {i}")
    write_traces(spark, rows, asked.traces_path)
    Safety().register().start()
    job = get_backfill(backfill_scorers(scorers=["safety"]))
    found = {r["trace_id"]: r["error_code"] or r["value"] for r in read_assessments(scorers=["safety"]).collect()}
    expected = {
        "fault:enum": "judge_bad_output",
        "fault:filter": "judge_refused",
        "fault:context": "trace_too_large",
        "fault:firewall": "judge_refused",
    }
    assert {f"tr-{i}": expected.get(t, '"yes"') for i, t in enumerate(texts)} == found
    assert JobState.SUCCEEDED is job.state
    assert JobState.SUCCEEDED is resume_backfill(job.job_id).state


def test_judges_of_spans_and_expectations_share_a_job(spark: SparkSession, asked: Settings, server: Any) -> None:
    """A verdict without a call is scored at 0 calls; a share of documents has its own name and the answer for each."""
    calls = [{"name": "search", "arguments": {"query": "parcel"}}]
    spans = [
        a_span(),
        a_span(span_id="t", parent_id="s-1", name="search", span_type="TOOL", inputs='{"query": "parcel"}'),
        a_span(span_id="r", parent_id="s-1", span_type="RETRIEVER", outputs='[{"content": "one"}, {"content": "two"}]'),
    ]
    expected = [an_expectation("expected_tool_calls", json.dumps(calls)), an_expectation("expected_response", "Friday")]
    rows = some_traces(2, spans=spans, assessments=lambda i: expected if i == 0 else None)
    write_traces(spark, rows, asked.traces_path)
    made = [ToolCallCorrectness(should_exact_match=True, name="exact"), RetrievalRelevance(), Equivalence()]
    names = [judge.register().start().name for judge in made]
    job = get_backfill(backfill_scorers(scorers=names))
    found = {(r["trace_id"], r["assessment_name"]): r for r in read_assessments().collect()}
    assert JobState.SUCCEEDED is job.state
    assert {key: r["value"] or r["error_message"] for key, r in found.items()} == {
        ("tr-0", "exact"): '"yes"',
        (
            "tr-1",
            "exact",
        ): "JudgeInputError: The judge 'exact' needs the expectation 'expected_tool_calls', which this trace "
        "does not have.",
        ("tr-0", "retrieval_relevance/precision"): "1.0",
        ("tr-1", "retrieval_relevance/precision"): "1.0",
        ("tr-0", "equivalence"): '"yes"',
    }
    settled = found["tr-0", "exact"]
    assert (settled["source_type"], settled["source_id"], settled["attempts"]) == ("CODE", "exact", 0)
    marks = json.loads(found["tr-0", "retrieval_relevance/precision"]["metadata"]["backfill_spark.documents"])
    assert marks == {"document_1": "yes", "document_2": "yes"}
    assert [job.counts[n]["calls"] for n in names] == [0, 1, 1]
    assert job.counts["equivalence"]["skipped_reasons"] == {"no_expectations": 1}


def test_what_cannot_be_asked_is_refused_before_any_call(asked: Settings, server: Any) -> None:
    """No model, an unknown endpoint, no key, an unknown price: all told, no job left behind."""
    from backfill_spark import list_backfills

    Safety().register().start()
    wrong = {
        "model": {"model": None},
        "endpoint": {"model": "nowhere:/m"},
        "key": {"model": "openai:/gpt-4o-mini", "endpoints": {"openai": {"api_key_env": "NO_SUCH_KEY_HERE"}}},
    }
    for judge in wrong.values():
        configure(type(asked)(tables={"root": asked.tables.root}, traces={"path": asked.traces_path}, judge=judge))
        with pytest.raises(BackfillRefusedError):
            backfill_scorers(scorers=["safety"])
    assert [] == list_backfills()
    assert 0 == requests(server)
