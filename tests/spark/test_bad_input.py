"""Bad input is refused before any scorer call: all problems at once, exit code 2, no job, nothing half-written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from click.testing import CliRunner
from pyspark.sql import functions as F

from backfill_spark import (
    BackfillError,
    BackfillRefusedError,
    BackfillScorerConfig,
    ScorerNotFoundError,
    backfill_scorers,
    configure,
    list_backfills,
    plan_backfill,
    read_traces,
    scorer,
)
from backfill_spark.cli import main
from tests.factories import Ledger, ledger_scorer, some_traces, write_traces

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings

OWN_TABLES = {"scorers", "scorer_configs"}


@pytest.fixture
def world(spark: SparkSession, settings: Settings, ledger: Ledger) -> Settings:
    """Traces, a started scorer `length`, a stopped one, and one on sessions."""
    write_traces(spark, some_traces(20), settings.traces_path)
    configure(settings)
    ledger_scorer(ledger.path).register().start()
    ledger_scorer(ledger.path, name="stopped").register()

    @scorer
    def whole(session: Any) -> int:
        return 1

    whole.register().start()
    return settings


@pytest.fixture
def refused(world: Settings, ledger: Ledger) -> Callable[..., list[str]]:
    """Return a function that asks for a backfill, and gives the problems with which it is refused."""

    def ask(**arguments: Any) -> list[str]:
        arguments = {"scorers": ["length"]} | arguments
        with pytest.raises(BackfillRefusedError) as raised:
            backfill_scorers(**arguments)
        assert ledger.lines() == []
        assert {p.name for p in Path(world.tables.root).iterdir()} <= OWN_TABLES
        return raised.value.problems

    return ask


def test_all_problems_are_named_at_once(refused: Callable[..., list[str]], tmp_path: Path, world: Settings) -> None:
    """Scorers, rates, times, filter, words, numbers and the source, in one answer."""
    problems = refused(
        settings=world.model_copy(update={"traces": world.traces.model_copy(update={"path": str(tmp_path / "none")})}),
        scorers=[
            BackfillScorerConfig("lenght"),
            BackfillScorerConfig("length", sample_rate=1.5),
            BackfillScorerConfig("length", sample_rate=math.nan),
            BackfillScorerConfig("stopped"),
            BackfillScorerConfig("whole", sample_rate=cast("Any", "0.5")),
            BackfillScorerConfig(5),
        ],
        start_time=datetime(2024, 6, 2),
        end_time="2024-06-02",
        filter_string="trace.status == 'OK'",
        trace_ids=[],
        reprocess="everything",
        sampling="random",
        seed=1.5,
        max_error_rate=True,
    )
    text = "\n".join(problems)
    for said in (
        "Scheduled scorer 'lenght' not found in experiment '0'. Available scorers: ['length', ",
        "sample_rate of 'length' must be a number in [0, 1], got 1.5",
        "sample_rate of 'length' must be a number in [0, 1], got nan",
        "sample_rate of 'whole' must be a number in [0, 1], got '0.5'",
        "The scorer 'length' stands more than once",
        "The scorer 'stopped' is stopped",
        "The scorer 'whole' takes `session`",
        "BackfillScorerConfig.scorer must be a Scorer or a name, got int",
        "start_time 2024-06-02 00:00:00+0000 is not before end_time",
        "filter_string: ",
        "trace_ids is empty",
        "reprocess must be one of",
        "sampling must be one of",
        "seed must be a whole number",
        "max_error_rate must be a number in [0, 1], got True",
        "There are no traces at",
    ):
        assert said in text
    assert "    trace.status == 'OK'\n" in text
    assert any(line.strip() == "^" for line in text.splitlines())
    assert len(problems) == len(set(problems))


UNFIT_SCORERS = [
    ([], "scorers is empty"),
    ("length", "scorers must be a list"),
    (None, "scorers must be a list"),
    ([len], "may hold names or BackfillScorerConfig objects, got ['builtin_function_or_method']"),
    (["length", BackfillScorerConfig("length")], "scorers mixes names and BackfillScorerConfig objects"),
    (["length", "length"], "stands more than once"),
    ([BackfillScorerConfig("length", sample_rate=True)], "got True"),
    ([BackfillScorerConfig("length", sample_rate=-0.1)], "got -0.1"),
]


def test_words_that_do_not_fit(refused: Callable[..., list[str]], world: Settings) -> None:
    """Scorer lists, rates and times that are none, and arguments that are not built yet, refused by name."""
    for scorers, said in UNFIT_SCORERS:
        assert said in "\n".join(refused(scorers=scorers))
    assert "start_time 'yesteryear' is no date or time" in refused(start_time="yesteryear")[0]
    assert "end_time '2024-02-30' is no date or time" in refused(end_time="2024-02-30")[0]
    assert "filter_string must be text" in refused(filter_string=5)[0]
    assert "trace_ids must be texts" in refused(trace_ids=["tr-1", 5])[0]
    assert "trace_ids must be a list" in refused(trace_ids="tr-1")[0]
    assert "launch must be" in refused(launch="later")[0]
    with pytest.raises(ScorerNotFoundError) as raised:
        backfill_scorers(scorers=["nobody", "lenght"])
    assert len(raised.value.problems) == 2
    with pytest.raises(TypeError, match="no_such_argument"):
        backfill_scorers(scorers=["length"], no_such_argument=1)  # type: ignore[call-arg]
    assert list_backfills() == []
    # Nothing else was wrong: the same request is accepted once its words fit.
    assert 20 == plan_backfill(scorers=["length"], start_time=datetime(2024, 6, 1, tzinfo=UTC)).calls


def test_a_scorer_that_was_registered_elsewhere_is_not_taken_for_the_version_of_its_number(
    refused: Callable[..., list[str]], ledger: Ledger
) -> None:
    """Version 1 of another experiment is another function; the same function is the same scorer."""
    other = ledger_scorer(ledger.path, on="trace").register(experiment_id="7")
    same = ledger_scorer(ledger.path).register(experiment_id="8")
    assert [1, 1] == [other.scorer_version, same.scorer_version]
    assert "differs from the registered version 1" in refused(scorers=[BackfillScorerConfig(other)])[0]
    assert 20 == plan_backfill(scorers=[BackfillScorerConfig(same)]).calls


def test_a_filter_that_can_match_nothing_is_noted_in_the_plan(world: Settings) -> None:
    """As MLflow takes it, so it is no problem; the plan says it, as data and as text."""
    plan = plan_backfill(scorers=["length"], filter_string="name RLIKE '['")
    assert 0 == plan.calls
    assert ["filter_string" in note and "matches nothing" in note for note in plan.notes] == [True]
    assert "matches nothing" in str(plan)


def test_a_traces_table_that_cannot_be_read(
    spark: SparkSession, refused: Callable[..., list[str]], world: Settings, tmp_path: Path
) -> None:
    """Without the columns that a scorer takes, of no known kind, or of types that cannot be read."""

    def at(path: Path, **more: Any) -> Settings:
        return world.model_copy(update={"traces": world.traces.model_copy(update={"path": str(path), **more})})

    (text := tmp_path / "text").mkdir()
    (text / "part.csv").write_text("trace_id,request_time,answer\ntr-1,2024-06-01,yes\n")
    said = refused(settings=at(text))[0]
    assert "have neither response nor spans" in said
    assert "(--set traces.columns.response=NAME): they also have 'answer'." in said
    (text / "part.csv").rename(text / "part.txt")
    assert refused(settings=at(text))
    spark.range(3).withColumn("request_tiem", F.current_timestamp()).write.format("delta").save(str(tmp_path / "odd"))
    lacking = refused(settings=at(tmp_path / "odd"))[0]
    assert "are of no known shape: they have 'id', 'request_tiem'" in lacking
    assert "at least trace_id and request_time" in lacking
    mapped = at(tmp_path / "odd", columns={"trace_id": "id", "request_time": "request_time"})
    assert "'request_time' is not there; the nearest are ['request_tiem'" in refused(settings=mapped)[0]
    spark.range(3).selectExpr("id trace_id", "true request_time").write.parquet(str(tmp_path / "typed"))
    assert "request_time is BOOLEAN, expected TIMESTAMP" in refused(settings=at(tmp_path / "typed"))[0]


def test_names_that_no_table_may_have(
    refused: Callable[..., list[str]], world: Settings, shared: Path, spark: SparkSession
) -> None:
    """Each is refused where a name is taken, and none reaches SQL."""
    names = json.loads((shared / "corpora" / "name_injections.json").read_text(encoding="utf-8"))["names"]
    for name in names:
        traces = world.traces.model_copy(update={"table": name, "path": None})
        assert refused(settings=world.model_copy(update={"traces": traces})), name
        with pytest.raises(BackfillError):
            read_traces(name)
        tables = world.tables.model_copy(update={"schema_": name})
        with pytest.raises(BackfillError):
            list_backfills(settings=world.model_copy(update={"tables": tables}))


def test_the_command_line_exits_with_2(world: Settings, ledger: Ledger) -> None:
    """Refusals, unknown settings and unknown jobs; on stderr, with nothing on stdout."""

    def call(*words: str, **sets: str) -> tuple[int, str]:
        given = {"tables.root": world.tables.root, "traces.path": world.traces_path, **sets}
        options = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
        result = CliRunner().invoke(main, [*words, *options], catch_exceptions=False)
        assert "" == result.stdout
        assert "Traceback" not in result.stderr
        return result.exit_code, result.stderr

    code, said = call("run", "--scorers", "length=2,lenght", "--start", "2024-06-30", "--end", "2024-06-01")
    assert code == 2
    for part in ("got 2.0", "'lenght' not found", "is not before"):
        assert part in said
    code, said = call("plan", "--scorers", "length", "--filter", "trace.status = OK")
    assert (code, "^" in said) == (2, True)
    code, said = call("run", "--scorers", "length", **{"traces.formt": "delta"})
    assert (code, "Did you mean 'traces.format'?" in said) == (2, True)
    code, said = call("status", "bf-20240701-000000-000000-00000000")
    assert (code, "No backfill job has the id" in said) == (2, True)
    assert call("run", "--scorers", "length", "--no-such-option")[0] == 2
    assert ledger.lines() == []
    assert {p.name for p in Path(world.tables.root).iterdir()} <= OWN_TABLES
