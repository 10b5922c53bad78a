"""F25–F33, F35, F46: the source, the results table and the scorers change meanwhile; one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.factories import an_expectation, some_traces, write_traces
from tests.faults.world import World, refusal

pytestmark = pytest.mark.faults


@pytest.fixture
def gated(make_world: Callable[..., World]) -> Any:
    """A world whose scorer waits at its 250th call, when the pilot chunk is staged."""
    return make_world(gate_at=250)


def a_run_while(world: World, change: Any) -> Any:
    """Run a job; when 250 calls were made, do `change`; return the job as it ended."""
    with world.meanwhile(world.run) as job:
        world.wait_for_calls(250)
        change()
    assert job.error is None, job.error
    return world.job(job.result)


def sql(world: World, statement: Any) -> None:
    """Run a statement on the traces; {t} is the table."""
    world.spark.sql(statement.format(t=f"delta.`{world.settings.traces_path}`")).collect()


def test_f25_traces_that_are_appended_meanwhile_are_not_scored(gated: Any) -> None:
    """The job reads its pinned version."""
    before = gated.pairs()
    job = a_run_while(gated, lambda: gated.write_traces(50, first=600, mode="append"))
    assert (job.state, job.counts["length"].in_window) == ("SUCCEEDED", 600)
    assert {tuple(line.split("\t")[:2]) for line in gated.lines()} == before
    assert gated.broken(expected=before) == []


def test_f25_a_trace_of_the_year_one_is_a_trace(world: World) -> None:
    """Zero times of other languages: scored like any other, by every way to results."""
    sql(world, "UPDATE {t} SET request_time = TIMESTAMP'0001-01-01 00:00:00' WHERE trace_id = 'tr-3'")
    for reprocess in ("missing", "all"):
        job = world.job(world.run(reprocess=reprocess))
        assert (job.state, job.error, job.counts["length"].scored) == ("SUCCEEDED", None, 600)
    rows = world.spark.read.format("delta").load(f"{world.settings.tables.root}/assessments")
    assert rows.where("trace_date = DATE'0001-01-01'").count() == 1
    assert rows.count() == 600


@pytest.mark.parametrize(
    ("fault", "statement"),
    [
        ("F26", "OPTIMIZE {t}"),
        ("F28", "DELETE FROM {t}"),
        ("F28", "RESTORE TABLE {t} TO VERSION AS OF 0"),
        ("F28", "UPDATE {t} SET response = 'other'"),
    ],
)
def test_f26_f28_the_pinned_set_is_scored_whatever_is_done_to_the_source(
    gated: Any, fault: str, statement: str
) -> None:
    """OPTIMIZE, DELETE, RESTORE, UPDATE: the same traces, the same values."""
    gated.write_traces(600)  # a second version, for RESTORE
    job = a_run_while(gated, lambda: sql(gated, statement))
    assert job.state == "SUCCEEDED"
    assert gated.broken() == []
    rows = gated.spark.read.format("delta").load(f"{gated.settings.tables.root}/assessments")
    expected = {r["trace_id"]: str(len(json.dumps(r["response"]))) for r in some_traces(600)}
    assert {r["trace_id"]: r["value"] for r in rows.collect()} == expected


def vacuum(world: World) -> None:
    """Overwrite the source and remove the files of its old versions."""
    world.write_traces(600)
    world.spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    sql(world, "VACUUM {t} RETAIN 0 HOURS")


def test_f27_a_pinned_version_that_was_vacuumed_is_named_and_repinned(world: World) -> None:
    """PARTIAL with the next step in its error; the resume pays for missing pairs only."""
    job_id = world.crash("after_stage")
    staged = len(world.lines())
    vacuum(world)
    job = world.resume(job_id)
    assert job.state == "PARTIAL"
    assert "--repin" in (job.error or "")
    assert len(world.lines()) == staged
    assert world.resume(job_id, repin=True).state == "SUCCEEDED"
    assert world.broken() == []


def test_f27_the_files_vanish_while_the_job_runs(gated: Any) -> None:
    """At most the running tasks' calls are lost; nothing is skipped in silence."""
    job = a_run_while(gated, lambda: vacuum(gated))
    if job.state == "PARTIAL":
        assert "--repin" in (job.error or "")
        job = gated.resume(job.job_id, repin=True)
    assert job.state == "SUCCEEDED"
    assert gated.broken(extra=400) == []


def test_f27_a_repin_to_a_source_that_lost_traces_counts_what_was_staged_of_them(world: World) -> None:
    """What was paid for stays: it is due and done, though the new version does not have it."""
    job_id = world.crash("after_stage")
    staged = {(name, trace_id) for name, trace_id, *_ in (line.split("\t") for line in world.lines())}
    world.write_traces(100)
    job = world.resume(job_id, repin=True)
    counts = job.counts["length"]
    both = staged | world.pairs()
    assert (job.state, counts.due, counts.scored, counts.left) == ("SUCCEEDED", len(both), len(both), 0)
    assert world.broken(expected=both) == []


def test_f28_a_replaced_table_is_told_from_the_old_one_by_its_id(world: World) -> None:
    """Same path, other table: named, not read."""
    import shutil

    job_id = world.crash("after_stage")
    called = len(world.lines())
    shutil.rmtree(world.settings.traces_path)
    world.write_traces(600)
    job = world.resume(job_id)
    assert job.state == "PARTIAL"
    assert "replaced" in (job.error or "")
    assert len(world.lines()) == called
    assert world.resume(job_id, repin=True).state == "SUCCEEDED"
    assert world.broken() == []


def test_f29_a_corrupt_file_is_named_and_nothing_is_skipped(world: World) -> None:
    """PARTIAL with the file's name; once it is restored, the resume ends SUCCEEDED."""
    job_id = world.crash("after_claim")
    file = max(Path(world.settings.traces_path).glob("*.parquet"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    (file.parent / f".{file.name}.crc").unlink(missing_ok=True)
    job = world.resume(job_id)
    assert job.state == "PARTIAL"
    assert file.name in (job.error or "")
    file.write_bytes(whole)
    assert world.resume(job_id).state == "SUCCEEDED"
    assert world.broken(extra=len(world.ids)) == []


@pytest.mark.parametrize("setting", ["ignoreMissingFiles", "ignoreCorruptFiles"])
def test_f29_settings_that_skip_files_in_silence_are_refused(world: World, setting: str) -> None:
    """Before any call, by name."""
    from backfill_spark import BackfillRefusedError

    world.spark.conf.set(f"spark.sql.files.{setting}", "true")
    with pytest.raises(BackfillRefusedError, match=setting):
        world.run()
    assert world.lines() == []


def test_f30_a_column_that_was_added_changes_nothing(world: World) -> None:
    """The resume with --repin reads the new version."""
    job_id = world.crash("after_stage")
    sql(world, "ALTER TABLE {t} ADD COLUMNS (team STRING)")
    assert world.resume(job_id, repin=True).state == "SUCCEEDED"
    assert world.broken() == []


@pytest.mark.parametrize("change", ["dropped", "retyped"])
def test_f30_a_required_column_that_was_dropped_or_retyped_is_refused(world: World, change: str) -> None:
    """By name, before any call; the job stays as it is."""
    from pyspark.sql import functions as F

    job_id = world.crash("after_stage")
    called = len(world.lines())
    path = world.settings.traces_path
    rows = world.spark.read.format("delta").load(path)
    other = rows.drop("request_time") if change == "dropped" else rows.withColumn("request_time", F.lit(True))
    other.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(path)
    refused = refusal(lambda: world.resume(job_id, repin=True))
    assert "request_time" in (refused or world.job(job_id).error or "")
    assert len(world.lines()) == called
    assert world.job(job_id).state not in {"SUCCEEDED", "FAILED", "CANCELED"}


def test_f31_a_results_table_without_a_column_is_refused_before_any_call(world: World) -> None:
    """The message names the column."""
    from backfill_spark.errors import SchemaVersionError

    world.run()
    world.write_traces(10, first=600, mode="append")
    called = len(world.lines())
    path = f"{world.settings.tables.root}/assessments"
    rows = world.spark.read.format("delta").load(path).drop("rationale")
    rows.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(path)
    with pytest.raises((SchemaVersionError, ValueError), match="rationale"):
        world.run()
    assert len(world.lines()) == called


def test_f32_late_traces_cost_only_themselves(world: World) -> None:
    """The same command again."""
    world.run()
    world.write_traces(25, first=600, mode="append")
    job = world.job(world.run())
    counts = job.counts["length"]
    assert (job.state, counts.calls, counts.already_scored) == ("SUCCEEDED", 25, 600)
    assert world.broken() == []


@pytest.mark.parametrize("change", ["edited", "deleted"])
def test_f33_the_scorer_that_runs_is_the_pinned_one(gated: Any, change: str) -> None:
    """Edited or deleted meanwhile: the job ends with the version that it was created with."""
    from backfill_spark import delete_scorer, scorer

    def edit() -> None:
        if change == "deleted":
            delete_scorer(name="length")
        else:
            scorer(name="length")(lambda outputs: -1).register()

    job = a_run_while(gated, edit)
    assert job.state == "SUCCEEDED"
    rows = gated.spark.read.format("delta").load(f"{gated.settings.tables.root}/assessments")
    assert rows.where("scorer_version != 1 OR value_double < 0").count() == 0
    assert gated.broken() == []


def test_f33_a_resume_uses_the_pinned_version(world: World) -> None:
    """Whatever the newest one is."""
    from backfill_spark import scorer

    job_id = world.crash("after_claim")
    scorer(name="length")(lambda outputs: -1).register()
    assert world.resume(job_id).state == "SUCCEEDED"
    rows = world.spark.read.format("delta").load(f"{world.settings.tables.root}/assessments")
    assert rows.where("scorer_version != 1 OR value_double < 0").count() == 0
    assert world.broken() == []


def test_f35_looking_calls_nothing(world: World) -> None:
    """Plan, list, show, wait, summary and every representation: no call, no scorer loaded."""
    from backfill_spark import get_scorer, list_backfills, list_scorers, plan_backfill, wait_for_backfill

    where: dict[str, Any] = {"spark": world.spark, "settings": world.settings}
    plan = plan_backfill(scorers=["length"], **where)
    job_id = world.run()
    called = world.lines()
    job = world.job(job_id)
    shown = [plan, job, *list_backfills(**where), *list_scorers(), get_scorer(name="length")]
    for thing in shown:
        assert str(thing)
        assert repr(thing)
        getattr(thing, "_repr_html_", str)()
    job.summary()
    plan.summary()
    wait_for_backfill(job_id, timeout=10, **where)
    plan_backfill(scorers=["length"], **where)
    assert world.lines() == called


def test_f46_a_trace_id_that_stands_twice_is_scored_once(world: World) -> None:
    """The others are counted; one row a pair."""
    rows = some_traces(40, spans=[], assessments=[an_expectation("x", "1")])
    write_traces(world.spark, [*rows, *rows[:15]], world.settings.traces_path, files=3, mode="overwrite")
    world.ids = [r["trace_id"] for r in rows]
    job = world.job(world.run())
    counts = job.counts["length"]
    assert (job.state, counts.due, counts.skipped_reasons["duplicate_trace_id"]) == ("SUCCEEDED", 40, 15)
    assert world.broken() == []
