"""What a user asks of backfills: windows, rates, listed traces, new versions, failed pairs, summaries."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backfill_spark import (
    BackfillJob,
    BackfillRefusedError,
    BackfillScorerConfig,
    Feedback,
    JobState,
    ScorerSamplingConfig,
    backfill_scorers,
    configure,
    get_backfill,
    get_scorer,
    list_backfills,
    plan_backfill,
    read_assessments,
    scorer,
    wait_for_backfill,
)
from backfill_spark.backfill.tables import Tables
from backfill_spark.models import TimeWindow
from tests.factories import NOON, Ledger, a_trace, ledger_scorer, some_traces, write_traces
from tests.spark.test_gsm8k import selected_ids

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from backfill_spark.settings.schema import Settings


def run(**arguments: Any) -> BackfillJob:
    """Run a backfill and return its job, which must have ended well and whose counts must add up."""
    job = get_backfill(backfill_scorers(**arguments))
    assert job.state is JobState.SUCCEEDED, job.error
    for c in job.counts.values():
        assert c.in_window == c.skipped + c.filtered_out + c.sampled_out + c.already_scored + c.due
        assert c.due == c.scored + c.empty + c.errored + c.left
        assert c.left == 0
    return job


def called(ledger: Ledger) -> list[str]:
    """Return the ids of the traces whose scorer was called, each as often as it was, and forget them."""
    ids = sorted(line.split("\t")[1] for line in ledger.lines())
    ledger.clear()
    return ids


def as_dicts(frame: DataFrame) -> list[dict[str, Any]]:
    return [row.asDict() for row in frame.collect()]


def test_the_window_is_half_open_and_in_the_settings_zone(
    spark: SparkSession, settings: Settings, ledger: Ledger
) -> None:
    """Start inclusive, end exclusive, to the microsecond; naive times in `timezone`; the earliest row in it counts."""
    tick = timedelta(microseconds=1)
    start, end = datetime(2024, 5, 31, 22, tzinfo=UTC), datetime(2024, 6, 29, 22, tzinfo=UTC)
    times = {"before": start - tick, "first": start, "middle": NOON, "last": end - tick, "after": end}
    rows = [a_trace(trace_id=i, request_time=t) for i, t in times.items()]
    # One trace in three rows: before the window, in it, later in it.
    rows += [
        a_trace(trace_id="twice", request_time=t, response=r)
        for t, r in ((start - timedelta(days=2), "1"), (NOON, "22"), (NOON + timedelta(days=9), "333"))
    ]
    # Of two rows at one time, one is scored.
    rows += [a_trace(trace_id="tied", request_time=NOON, response=r) for r in ("1", "22")]
    write_traces(spark, rows, settings.traces_path, files=1)
    configure(settings.model_copy(update={"timezone": "Europe/Berlin"}))
    ledger_scorer(ledger.path, on="trace").register().start()

    asked: dict[str, Any] = {"scorers": ["length"], "start_time": datetime(2024, 6, 1), "end_time": date(2024, 6, 30)}
    plan = plan_backfill(**asked)
    assert TimeWindow(start, end) == plan.window
    assert any("June 30 not included" in note for note in plan.notes)
    assert "2024-05-31 22:00:00" in str(plan)
    assert (7, 5, 5) == (plan.counts["length"].in_window, plan.counts["length"].due, plan.calls)
    assert called(ledger) == []

    job = run(**asked)
    assert called(ledger) == ["first", "last", "middle", "tied", "twice"]
    assert {"duplicate_trace_id": 2} == dict(job.counts["length"].skipped_reasons)
    by_id = {r["trace_id"]: r for r in as_dicts(read_assessments())}
    assert by_id["twice"]["value"] == "4"  # the length of the JSON text "22"
    assert by_id["first"]["trace_date"] == date(2024, 5, 31)
    row = spark.read.format("delta").load(f"{settings.tables.root}/jobs").collect()[0]
    assert (start, end) == (row["window_start"].replace(tzinfo=UTC), row["window_end"].replace(tzinfo=UTC))
    assert job.job_id == row["job_id"]
    assert "SUCCEEDED" == row["state"]
    assert job.counts["length"].to_json() == json.loads(row["counts"])["length"]


def several(folder: str) -> Any:
    """Return a scorer that does what the file `orders.json` says for each trace: feedbacks, nothing, or a failure."""

    @scorer(name="several", aggregations=["mean", "min", "max", "p90"])
    def several(trace: Any) -> Any:
        import json
        import os
        from pathlib import Path

        handle = os.open(f"{folder}/ledger.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, f"several\t{trace.info.trace_id}\n".encode())
        os.close(handle)
        order = json.loads(Path(folder, "orders.json").read_text()).get(trace.info.trace_id, 1)
        if order == "fail":
            raise ValueError("as ordered")
        if order is None:
            return None
        if isinstance(order, list):
            return [Feedback(name=f"part_{n}", value=v, rationale=f"is {v}") for n, v in enumerate(order)]
        return order

    return several


def test_pairs_are_replaced_as_a_whole(spark: SparkSession, settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    """missing, failed, all and a new version: what is due, which rows stay, and what is current."""

    def order(**what: Any) -> None:
        (tmp_path / "orders.json").write_text(json.dumps(what))

    ids = [f"tr-{n}" for n in range(6)]
    rows = some_traces(6, request_time=lambda n: NOON + timedelta(hours=5 * n))
    write_traces(spark, rows, settings.traces_path, files=2)
    configure(settings)
    several(str(tmp_path)).register().start()
    store = Tables(spark, settings).results

    def stored(version: int = 1) -> dict[tuple[str, int], str]:
        rows = store.assessments.read().where(f"scorer_version = {version}").collect()
        found = {(r["trace_id"], r["ordinal"]): f"{r['assessment_name']} {r['outcome']} {r['value']}" for r in rows}
        assert len(rows) == len(found)
        return found

    order(**{"tr-0": [1, 2, 3], "tr-1": "fail", "tr-2": None, "tr-3": [4, 5]})
    first = run(scorers=["several"])
    assert ids == called(ledger)
    c = first.counts["several"]
    assert (6, 4, 1, 1, 6) == (c.due, c.scored, c.empty, c.errored, c.calls)
    assert {
        ("tr-0", 0): "part_0 scored 1",
        ("tr-0", 1): "part_1 scored 2",
        ("tr-0", 2): "part_2 scored 3",
        ("tr-1", 0): "several error None",
        ("tr-2", 0): "several empty None",
        ("tr-3", 0): "part_0 scored 4",
        ("tr-3", 1): "part_1 scored 5",
        ("tr-4", 0): "several scored 1",
        ("tr-5", 0): "several scored 1",
    } == stored()
    for r in as_dicts(store.assessments.read()):
        key = json.dumps(["0", r["trace_id"], "several", 1, r["ordinal"]], separators=(",", ":"), ensure_ascii=False)
        assert "a-" + hashlib.sha256(key.encode()).hexdigest()[:32] == r["assessment_id"]
    summary = first.summary().to_dict("records")[0]
    assert ("part_0", 2, 2.5, 1, 4) == tuple(summary[k] for k in ("feedback", "n", "mean", "min", "max"))
    created = {r["trace_id"]: r["created_at"] for r in as_dicts(store.assessments.read())}

    # missing: errors and empty ones are not due again.
    assert run(scorers=["several"]).counts["several"].calls == 0
    assert called(ledger) == []

    # failed: the error only.
    order(**{"tr-1": [7, 8]})
    assert run(scorers=["several"], reprocess="failed").counts["several"].already_scored == 5
    assert ["tr-1"] == called(ledger)
    assert ("part_0 scored 7", "part_1 scored 8") == (stored()["tr-1", 0], stored()["tr-1", 1])

    # all: fewer feedbacks leave no old rows.
    order(**{"tr-0": [9], "tr-1": 5})
    again = run(scorers=["several"], reprocess="all", end_time=NOON + timedelta(hours=7))
    assert ["tr-0", "tr-1"] == called(ledger)
    now = stored()
    assert [("tr-0", 0), ("tr-1", 0), ("tr-2", 0)] == sorted(now)[:3]
    assert ("part_0 scored 9", "several scored 5") == (now["tr-0", 0], now["tr-1", 0])
    assert len(now) == 7
    row = next(r for r in as_dicts(store.assessments.read()) if r["trace_id"] == "tr-0")
    assert (again.job_id, created["tr-0"]) == (row["job_id"], row["created_at"])
    assert row["updated_at"] > row["created_at"]

    # What people read: the newest version, without empty rows.
    assert {"tr-0", "tr-1", "tr-3", "tr-4", "tr-5"} == {r["trace_id"] for r in as_dicts(read_assessments())}

    # A new version is due everywhere; it makes the old one history, trace by trace.
    @scorer(name="several")
    def other(outputs: Any) -> Any:
        return len(outputs) > 3

    assert other.register().scorer_version == 2
    assert get_scorer(name="several").sample_rate == 1.0
    bumped = run(scorers=["several"], start_time=NOON, end_time=NOON + timedelta(hours=11))
    assert (3, 3) == (bumped.counts["several"].due, bumped.counts["several"].scored)
    versions = {r["trace_id"]: r["scorer_version"] for r in as_dicts(read_assessments(scorers=["several"]))}
    assert {"tr-0": 2, "tr-1": 2, "tr-2": 2, "tr-3": 1, "tr-4": 1, "tr-5": 1} == versions
    assert len(stored(1)) == 7
    assert list_backfills(limit=1)[0].job_id == bumped.job_id
    assert as_dicts(read_assessments(job_id=bumped.job_id).select("trace_id").orderBy("trace_id")) == [
        {"trace_id": i} for i in ids[:3]
    ]
    assert as_dicts(read_assessments(experiment_id="9")) == []
    assert bumped.state is wait_for_backfill(bumped.job_id, timeout=0).state


def test_listed_traces_rates_and_stopped_scorers(spark: SparkSession, settings: Settings, ledger: Ledger) -> None:
    """`trace_ids` are not sampled unless a config gives a rate; a stopped scorer needs a rate of its own."""
    rows = some_traces(200, request_time=lambda n: NOON + timedelta(hours=n), tags=lambda n: {"even": str(n % 2 == 0)})
    write_traces(spark, rows, settings.traces_path, files=3)
    configure(settings)
    length = ledger_scorer(ledger.path, on="trace").register()
    length.start(sampling_config=ScorerSamplingConfig(sample_rate=0.3))
    stopped = ledger_scorer(ledger.path, name="stopped", on="trace").register().start().stop()
    ids = [r["trace_id"] for r in rows]

    # A config without a rate reads the registered one when the job is planned; its own rate beats it.
    plan = plan_backfill(scorers=[BackfillScorerConfig(length), BackfillScorerConfig(stopped, sample_rate=0.1)])
    due = {name: c.due for name, c in plan.counts.items()}
    assert {"length": len(selected_ids(ids, 0.3)), "stopped": len(selected_ids(ids, 0.1))} == due
    with pytest.raises(BackfillRefusedError, match="'stopped' is stopped") as raised:
        backfill_scorers(scorers=["stopped", "length"])
    assert "start" in str(raised.value)
    assert "sample_rate=0.5" in str(raised.value)
    assert list_backfills() == []

    listed = [*ids[:20], "gone-1", "gone-2", ids[3]]
    sampled = [BackfillScorerConfig("length", sample_rate=0.5)]
    assert len(selected_ids(ids[:20], 0.5)) == plan_backfill(scorers=sampled, trace_ids=listed).calls
    seeded = plan_backfill(scorers=sampled, trace_ids=listed, seed=7)
    assert len(selected_ids(ids[:20], 0.5, seed=7)) == seeded.calls

    job = run(scorers=["length"], trace_ids=listed, filter_string="tag.even = 'True'")
    assert sorted(ids[:20:2]) == called(ledger)
    assert ("gone-1", "gone-2") == job.trace_ids_missing
    assert (20, 10, 10) == tuple(getattr(job.counts["length"], n) for n in ("in_window", "filtered_out", "due"))
    assert 10 == job.summary().to_dict("records")[0]["n"]

    # The sample of the same scorer over the same traces pays only for what is not there.
    later = run(scorers=["length"])
    expected = selected_ids(ids, 0.3) - set(ids[:20:2])
    assert sorted(expected) == called(ledger)
    assert len(selected_ids(ids, 0.3) & set(ids[:20:2])) == later.counts["length"].already_scored


def test_spark_sampling_reads_the_same_choice_again(spark: SparkSession, settings: Settings, ledger: Ledger) -> None:
    """`sampling="spark"`: each scorer's `ids.sample(fraction=, seed=)`, kept, so that the run has what was planned."""
    rows = some_traces(
        400, request_time=lambda n: NOON + timedelta(minutes=n), state=lambda n: "OK" if n % 4 else "ERROR"
    )
    write_traces(spark, rows, settings.traces_path, files=2)
    configure(settings)
    started = ScorerSamplingConfig(sample_rate=0.25, filter_string="trace.status = 'OK'")
    ledger_scorer(ledger.path, on="trace").register().start(sampling_config=started)
    asked: dict[str, Any] = {"scorers": ["length"], "sampling": "spark", "seed": 11}
    plan = plan_backfill(**asked)
    assert any("Sampling by Spark" in note for note in plan.notes)
    # Listed traces: those that are not drawn are counted, every fourth is filtered out.
    half = {"scorers": [BackfillScorerConfig("length", sample_rate=0.5)]}
    listed = plan_backfill(**asked | half, trace_ids=[row["trace_id"] for row in rows[:40]]).counts["length"]
    assert (40, 10, 30) == (listed.in_window, listed.filtered_out, listed.sampled_out + listed.due)
    assert listed.sampled_out
    job = run(**asked)
    ids = called(ledger)
    assert len(ids) == len(set(ids)) == job.counts["length"].due == plan.calls
    assert 40 < len(ids) < 110
    assert {"OK"} == {r["state"] for r in rows if r["trace_id"] in set(ids)}
    assert (100, 300 - len(ids)) == (job.counts["length"].filtered_out, job.counts["length"].sampled_out)
    work = spark.read.format("delta").load(f"{settings.tables.root}/work")
    assert work.count() == 0


def test_an_experiment_is_filtered_by_only_when_it_was_given(
    spark: SparkSession, settings: Settings, ledger: Ledger
) -> None:
    """Rows without experiment belong to whoever asks; results carry the job's experiment."""
    rows = some_traces(9, experiment_id=lambda n: ("1", "2", None)[n % 3])
    write_traces(spark, rows, settings.traces_path)
    configure(settings)
    ledger_scorer(ledger.path, on="trace").register(experiment_id="1").start(experiment_id="1")
    ledger_scorer(ledger.path, name="free", on="trace").register().start()
    assert 9 == plan_backfill(scorers=["free"]).calls
    plan = plan_backfill(scorers=["length"], experiment_id="1")
    assert (6, 6) == (plan.counts["length"].in_window, plan.calls)
    job = run(scorers=["length"], experiment_id="1")
    assert ["tr-0", "tr-2", "tr-3", "tr-5", "tr-6", "tr-8"] == called(ledger)
    assert "1" == job.experiment_id
    assert 6 == read_assessments(experiment_id="1").count()
    assert 0 == read_assessments(experiment_id="0").count()


def test_naive_times_are_the_drivers_local_time(spark: SparkSession, settings: Settings) -> None:
    """Without `timezone`, `datetime.now()` means what `timestamp()` says."""
    write_traces(spark, some_traces(2), settings.traces_path)
    configure(settings.model_copy(update={"timezone": None, "default_lookback": "7d"}))
    ledger_scorer(os.devnull).register().start()
    moment = datetime(2024, 6, 1, 10, 30)
    plan = plan_backfill(scorers=["length"], start_time=moment)
    assert plan.window.start is not None
    assert moment.timestamp() == plan.window.start.timestamp()
    # The default lookback narrows only what has no bound at all.
    narrowed = plan_backfill(scorers=["length"])
    assert narrowed.window.start is not None
    assert timedelta(days=7) - (datetime.now(UTC) - narrowed.window.start) < timedelta(minutes=2)
    assert 0 == narrowed.calls


def test_every_job_tells_a_summary(spark: SparkSession, settings: Settings) -> None:
    """Of a re-run with 0 calls, of listed traces, of a Parquet source, from a list, and of a job that waits."""
    write_traces(spark, some_traces(40), settings.traces_path, format="parquet", files=2)
    configure(settings)
    ledger_scorer(os.devnull).register().start()
    waiting = backfill_scorers(scorers=["length"], launch="queue")
    assert [0] == list(get_backfill(waiting).summary()["n"])
    assert JobState.PENDING is get_backfill(waiting).state

    listed = {"scorers": ["length"], "trace_ids": [f"tr-{n}" for n in range(10)]}
    for calls in (10, 0):
        job = run(**listed)
        summary = list_backfills(limit=1)[0].summary().to_dict("records")[0]
        assert (calls, 10, 10, 10) == (job.calls, summary["n"], summary["results"], summary["population"])
        assert summary["ci_low"] == summary["mean"] == summary["ci_high"]
    # A new file is none of those that were pinned.
    write_traces(spark, some_traces(50)[40:], settings.traces_path, format="parquet", mode="append")
    assert [10, 10] == [j.summary()["n"][0] for j in list_backfills(limit=2)]


def test_what_a_pilot_leaves_of_an_hour_goes_with_the_hours_behind(
    spark: SparkSession, settings: Settings, ledger: Ledger
) -> None:
    """Of the first hour what has not been called, of the others all: each pair once."""
    hours = [NOON] * 500 + [NOON + timedelta(hours=1)] * 60 + [NOON + timedelta(hours=3)] * 40
    write_traces(spark, some_traces(600, request_time=lambda n: hours[n]), settings.traces_path)
    configure(settings)
    ledger_scorer(ledger.path, on="trace").register().start()
    job = run(scorers=["length"])
    calls = called(ledger)
    assert (len(calls), len(set(calls)), job.counts["length"].scored) == (600, 600, 600)
