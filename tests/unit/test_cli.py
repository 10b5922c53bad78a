from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from backfill_spark import schema
from backfill_spark.cli import main
from backfill_spark.cli.command import parse_values
from backfill_spark.cli.log import level_of
from backfill_spark.cli.program import Program, Terminated, exit_code_of
from backfill_spark.cli.run import parse_trace_ids
from backfill_spark.display.views import job_sheet
from backfill_spark.errors import (
    BackfillFailedError,
    BackfillInterrupted,
    BackfillRefusedError,
    DeliveryStoppedError,
    FilterError,
    JobNotFoundError,
    SchemaVersionError,
    ScorerNotFoundError,
    SessionError,
    SettingsError,
    SourceGoneError,
    TraceSourceError,
)
from backfill_spark.models import BackfillScorerConfig, JobState, ScorerSamplingConfig, ScorerStatus
from tests.unit.test_display import a_frame, a_job, a_plan

JOB_ID = "bf-20240701-080000-000000-abcdef01"


def a_registration() -> Any:
    return SimpleNamespace(experiment_id="0", created_at=None, created_by="me", source_text="def polite(outputs): ...")


@dataclass(frozen=True)
class FakeScorer:
    name: str = "polite"
    scorer_version: int | None = 3
    status: ScorerStatus = ScorerStatus.STOPPED
    sample_rate: float | None = 0.0
    filter_string: str | None = None
    description: str | None = "Says please."
    digest: str | None = "0123456789abcdef"
    aggregations: tuple[str, ...] = ("mean",)
    signature: tuple[str, ...] = ("outputs",)
    registration: Any = field(default_factory=a_registration)
    said: list[Any] = field(default_factory=list, compare=False)

    def register(self, **arguments: Any) -> FakeScorer:
        self.said.append(("register", arguments))
        return self

    def start(self, **arguments: Any) -> FakeScorer:
        self.said.append(("start", arguments))
        return replace(self, status=ScorerStatus.STARTED, sample_rate=arguments["sampling_config"].sample_rate or 1.0)

    def update(self, **arguments: Any) -> FakeScorer:
        self.said.append(("update", arguments))
        return self

    def stop(self, **arguments: Any) -> FakeScorer:
        self.said.append(("stop", arguments))
        return self


class FakeApi:
    """The functions of the package as the command line sees them; notes what it was asked."""

    def __init__(
        self,
        *,
        error: BaseException | None = None,
        state: JobState = JobState.SUCCEEDED,
        says: str = "a library that prints\n",
    ) -> None:
        self.says = says
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.error = error
        self.scorer = FakeScorer()
        self.settings: Any = None
        frame = a_frame({"n": 640, "mean": 0.389, "ci_low": 0.37, "ci_high": 0.408, "population": 800})
        self.job = a_job(state=state, summary=lambda: frame)

    def configure(self, settings: Any) -> None:
        self.settings = settings

    def _note(self, name: str, arguments: dict[str, Any]) -> None:
        self.asked.append((name, arguments))
        if self.error is not None and name != "get_backfill":
            raise self.error

    def plan_backfill(self, **arguments: Any) -> Any:
        self._note("plan_backfill", arguments)
        return a_plan()

    def backfill_scorers(self, **arguments: Any) -> str:
        from backfill_spark.display.views import announce

        self._note("backfill_scorers", arguments)
        announce(a_plan())
        print(self.says, end="")
        return JOB_ID

    def get_backfill(self, job_id: str) -> Any:
        self._note("get_backfill", {"job_id": job_id})
        if job_id != JOB_ID:
            raise JobNotFoundError.for_id(job_id)
        return self.job

    def wait_for_backfill(self, job_id: str, timeout: float | None = None) -> Any:
        self._note("wait_for_backfill", {"job_id": job_id, "timeout": timeout})
        return self.job

    def list_backfills(self, **arguments: Any) -> list[Any]:
        self._note("list_backfills", arguments)
        return [self.job]

    def work(self, *, forever: bool) -> list[Any]:
        self._note("work", {"forever": forever})
        return [self.job]

    def list_scorers(self, **arguments: Any) -> list[Any]:
        self._note("list_scorers", arguments)
        return [self.scorer]

    def get_scorer(self, **arguments: Any) -> Any:
        self._note("get_scorer", arguments)
        return self.scorer

    def list_scorer_versions(self, **arguments: Any) -> list[Any]:
        self._note("list_scorer_versions", arguments)
        return [self.scorer]

    def delete_scorer(self, **arguments: Any) -> None:
        self._note("delete_scorer", arguments)


class LoggingApi(FakeApi):
    """Logs at each level when jobs are listed."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.text = text

    def list_backfills(self, **arguments: Any) -> list[Any]:
        for level in ("debug", "info", "warning", "error"):
            getattr(logging.getLogger("backfill_spark.jobs.lease"), level)("%ssaid at %s", self.text, level)
        return super().list_backfills(**arguments)


def call(*words: str, api: FakeApi | None = None) -> Result:
    return CliRunner().invoke(main, words, obj=Program(api or FakeApi()))


def the_object(result: Result) -> Any:
    """The one object that `--json` prints on stdout."""
    assert 1 == len(result.stdout.splitlines())
    return json.loads(result.stdout)


class TestPlanAndRun:
    def test_plan_prints_the_plan(self) -> None:
        result = call("plan", "--scorers", "length")
        assert 0 == result.exit_code
        assert "800 for 800 due pairs" in result.stdout

    def test_run_prints_plan_job_and_summary(self) -> None:
        result = call("run", "--scorers", "length")
        assert 0 == result.exit_code
        assert "800 for 800 due pairs" in result.stdout
        assert f"Backfill {JOB_ID} SUCCEEDED" in result.stdout
        assert "640 of 800  0.389 [0.370, 0.408]" in result.stdout

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
    def test_a_byte_order_mark_is_no_part_of_a_trace_id(self, tmp_path: Path, encoding: str) -> None:
        (tmp_path / "ids.txt").write_text("tr-1\r\ntr-2", encoding=encoding, newline="")
        assert ["tr-1", "tr-2"] == parse_trace_ids((f"@{tmp_path}/ids.txt",))

    def test_words_become_the_arguments_of_the_api(self, tmp_path: Path) -> None:
        api = FakeApi()
        ids = tmp_path / "ids.txt"
        ids.write_text("tr-1\r\n tr 2 \n\ntr,3", encoding="utf-8")
        words = ["--scorers", "a, b", "--start", "2024-06-01", "--end", "2024-06-30", "--filter", "trace.status = 'OK'"]
        words += ["--trace-ids", "x,y", "--trace-ids", f"@{ids}", "--reprocess", "failed", "--seed", "7"]
        words += ["--sampling", "spark", "--max-error-rate", "0.2", "--experiment-id", "9"]
        call("run", *words, api=api)
        expected = {
            "scorers": ["a", "b"],
            "start_time": "2024-06-01",
            "end_time": "2024-06-30",
            "filter_string": "trace.status = 'OK'",
            "trace_ids": ["x", "y", "tr-1", " tr 2 ", "tr,3"],
            "reprocess": "failed",
            "seed": 7,
            "sampling": "spark",
            "max_error_rate": 0.2,
            "experiment_id": "9",
        }
        assert ("backfill_scorers", expected) == api.asked[0]

    def test_what_is_not_said_is_left_to_the_api(self) -> None:
        api = FakeApi()
        call("plan", "--scorers", "a", api=api)
        given = {name: value for name, value in api.asked[0][1].items() if value is not None}
        assert {"scorers": ["a"], "reprocess": "missing", "seed": 0, "sampling": "hash"} == given

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["a=0.5,b=0.8"], [BackfillScorerConfig("a", 0.5), BackfillScorerConfig("b", 0.8)]),
            (["a,b=0.8"], [BackfillScorerConfig("a", None), BackfillScorerConfig("b", 0.8)]),
            (["a", "--scorers", "b"], ["a", "b"]),
            (["a=1"], [BackfillScorerConfig("a", 1.0)]),
        ],
    )
    def test_rates_make_configs(self, words: Any, expected: Any) -> None:
        """Names stay names as long as no rate is said."""
        api = FakeApi()
        call("plan", "--scorers", *words, api=api)
        assert expected == api.asked[0][1]["scorers"]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["run", "--scorers", "a", "--start", "yesterdy"], "start_time 'yesterdy' is no date or time"),
            (["plan", "--scorers", "a", "--end", "2024-13-01"], "end_time '2024-13-01' is no date or time"),
            (["run", "--scorers", "a", "--start", "2024-06-02", "--end", "2024-06-01"], "is not before end_time"),
            (["run", "--scorers", "a", "--filter", "trace.status == = 'OK'"], "'==' is not an operator"),
            (["run", "--scorers", "a=7"], "sample_rate of 'a' must be a number in [0, 1]"),
            (["run", "--scorers", "a,a"], "stands more than once"),
            (["run", "--scorers", "a", "--max-error-rate", "nan"], "max_error_rate must be a number in [0, 1]"),
            (["run", "--scorers", "a", "--max-calls", "-1"], "max_calls must be a whole number, 0 or more"),
            (["run", "--scorers", "a", "--seed", str(2**64)], "seed must be a whole number of 64 bits"),
            (["run", "--scorers", "a", "--set", "timezone=Mars"], "timezone"),
            (["scorers", "start", "a", "--rate", "2"], "sample_rate must be between 0 and 1"),
            (["scorers", "update", "a", "--filter", "tag ="], "filter_string"),
        ],
    )
    def test_what_the_arguments_alone_show_never_reaches_the_api(
        self, words: Any, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is refused with exit code 2, before Spark is imported."""
        monkeypatch.setattr("backfill_spark.storage.session.active_session", lambda: None)
        api = FakeApi()
        result = call(*words, api=api)
        assert (2, []) == (result.exit_code, api.asked)
        assert said in result.stderr

    def test_all_that_is_wrong_with_the_arguments_is_said_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("backfill_spark.storage.session.active_session", lambda: None)
        result = call("run", "--scorers", "a=7", "--start", "yesterdy", "--max-calls", "-1", api=FakeApi())
        for said in ("sample_rate of 'a'", "'yesterdy'", "max_calls"):
            assert said in result.stderr

    def test_unreadable_scorers_are_refused_all_at_once(self) -> None:
        api = FakeApi()
        result = call("run", "--scorers", "a=x,=0.5,b=,c,", api=api)
        assert 2 == result.exit_code
        for text in (
            "'a=x': the rate 'x' is no number",
            "'=0.5': the scorer's name",
            "'b=': the rate ''",
            "'': the sc",
        ):
            assert text in result.stderr
        assert [] == api.asked

    @pytest.mark.parametrize(
        "words",
        [
            ["run"],
            ["run", "--scorers", "a", "--reprocess", "some"],
            ["run", "--scorers", "a", "--sampling", "dice"],
            ["run", "--scorers", "a", "--seed", "x"],
            ["run", "--scorers", "a", "--trace-ids", "@/no/such/file"],
            ["run", "--scorers", "a", "--trace-ids", ","],
            ["run", "--scorers", "a", "--max-calls", "x"],
            ["run", "--scorers", "a", "--set", "tables"],
            ["run", "--scorers", "a", "--set", "table.root=x"],
            ["run", "--scorers", "a", "--config", "/no/such/file"],
            ["status"],
            ["nonsense"],
            ["scorers", "nonsense"],
        ],
    )
    def test_wrong_use_exits_2_and_asks_nothing(self, words: Any) -> None:
        api = FakeApi()
        result = call(*words, api=api)
        assert (2, []) == (result.exit_code, api.asked)
        assert "Traceback" not in result.stderr
        assert "" == result.stdout

    def test_a_failed_job_is_shown_and_exits_1(self) -> None:
        api = FakeApi(error=BackfillFailedError("length: 40 % errors", JOB_ID), state=JobState.FAILED)
        result = call("run", "--scorers", "a", api=api)
        assert 1 == result.exit_code
        assert "Error: length: 40 % errors" in result.stderr
        assert f"Backfill {JOB_ID} FAILED" in result.stdout

    def test_results_that_could_not_be_delivered_exit_3(self) -> None:
        """The job has ended well, and is shown."""
        api = FakeApi(error=DeliveryStoppedError("2 were rejected", JOB_ID), state=JobState.SUCCEEDED)
        result = call("run", "--scorers", "a", "--deliver-to", "mlflow", api=api)
        assert 3 == result.exit_code
        assert "Error: 2 were rejected" in result.stderr
        assert f"Backfill {JOB_ID} SUCCEEDED" in result.stdout

    def test_a_failure_without_a_job_exits_1(self) -> None:
        result = call("run", "--scorers", "a", api=FakeApi(error=BackfillFailedError("no disk")))
        assert (1, "Error: no disk") == (result.exit_code, result.stderr.strip().splitlines()[-1])

    def test_a_summary_that_fails_does_not_hide_the_end(self) -> None:
        api = FakeApi(state=JobState.PARTIAL)
        api.job.summary = lambda: 1 / 0
        result = call("run", "--scorers", "a", api=api)
        assert 3 == result.exit_code
        assert "PARTIAL" in result.stdout
        assert "could not be read: ZeroDivisionError" in result.stderr


class TestExitCodes:
    @pytest.mark.parametrize(
        ("state", "code"),
        [(JobState.SUCCEEDED, 0), (JobState.FAILED, 1), (JobState.CANCELED, 1), (JobState.PARTIAL, 3)],
    )
    def test_a_job_at_rest_decides_them(self, state: Any, code: int) -> None:
        assert code == exit_code_of(state)
        assert code == call("run", "--scorers", "a", api=FakeApi(state=state)).exit_code
        assert code == call("wait", JOB_ID, api=FakeApi(state=state)).exit_code

    @pytest.mark.parametrize("state", list(JobState))
    def test_status_exits_0_when_the_job_exists(self, state: Any) -> None:
        assert 0 == call("status", JOB_ID, api=FakeApi(state=state)).exit_code

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (BackfillRefusedError(["one", "two"]), 2),
            (ScorerNotFoundError.for_names(["x"], ["y"], "0"), 2),
            (SettingsError("s"), 2),
            (FilterError.at("a = ", 4, "expected a value"), 2),
            (TraceSourceError("t"), 2),
            (SessionError("no Java"), 2),
            (SchemaVersionError("newer"), 2),
            (SourceGoneError("gone"), 1),
            (TimeoutError("still RUNNING"), 124),
            (RuntimeError("odd"), 1),
            (KeyboardInterrupt(), 130),
            (Terminated(), 143),
        ],
    )
    def test_errors_decide_them(self, error: Any, code: int) -> None:
        result = call("run", "--scorers", "a", api=FakeApi(error=error))
        assert code == result.exit_code
        assert "" == result.stdout
        assert "Traceback" not in result.stderr
        assert result.stderr.strip()

    def test_an_interrupt_is_told_in_one_sentence(self, caplog: Any) -> None:
        """py4j logs the call that it broke, with its traceback."""

        class BrokenApi(FakeApi):
            def _note(self, *_: Any) -> None:
                logging.error("Exception while sending command.")  # noqa: LOG015
                logging.error("Something else.")  # noqa: LOG015
                raise KeyboardInterrupt

        result = call("run", "--scorers", "a", api=BrokenApi())
        assert 130 == result.exit_code
        assert ["Something else."] == [r.getMessage() for r in caplog.records]

    def test_an_unknown_job_exits_2(self) -> None:
        result = call("status", "bf-nonsense")
        assert 2 == result.exit_code
        assert "No backfill job has the id 'bf-nonsense'" in result.stderr


class TestMessages:
    def test_a_refusal_names_all_problems(self) -> None:
        result = call("run", "--scorers", "a", api=FakeApi(error=BackfillRefusedError(["rate 7", "no such filter"])))
        assert "Error: The backfill was refused:\n  - rate 7\n  - no such filter\n" == result.stderr

    def test_a_caret_stays_under_its_character(self) -> None:
        error = FilterError.at("trace.status ~ 'OK'", 13, "unknown operator")
        lines = call("plan", "--scorers", "a", api=FakeApi(error=error)).stderr.splitlines()
        assert lines[1].index("~") == lines[2].index("^")

    def test_an_unexpected_error_is_one_line_with_a_hint(self) -> None:
        result = call("run", "--scorers", "a", api=FakeApi(error=RuntimeError("odd\nsecond line")))
        assert "Error: Unexpected RuntimeError: odd (--debug shows the traceback)\n" == result.stderr

    def test_debug_shows_the_traceback(self) -> None:
        result = call("run", "--scorers", "a", "--debug", api=FakeApi(error=RuntimeError("odd")))
        assert "raise self.error" in result.stderr
        assert "RuntimeError: odd" in result.stderr

    def test_an_error_cannot_colour_the_terminal(self) -> None:
        result = call(
            "run", "--scorers", "a", api=FakeApi(error=SettingsError("bad \x1b[31mred\x1b]0;t\x07 \x00value"))
        )
        assert "Error: bad red value\n" == result.stderr

    def test_a_name_cannot_colour_the_terminal(self) -> None:
        api = FakeApi()
        api.scorer = replace(api.scorer, name="\x1b[31m[bold]x", description="a\x9b1mb")
        shown = call("scorers", "list", api=api).stdout
        assert "[bold]x" in shown
        assert not {"\x1b", "\x9b"} & set(shown)


class TestJson:
    @pytest.mark.parametrize(
        ("words", "keys"),
        [
            (["plan", "--scorers", "a"], {"experiment_id", "window", "source_version", "counts", "calls", "chunks"}),
            (["run", "--scorers", "a"], {"job_id", "state", "alive", "counts", "summary", "window", "progress"}),
            (["status", JOB_ID], {"job_id", "state", "alive", "counts", "notes", "error"}),
            (["wait", JOB_ID], {"job_id", "state", "summary"}),
            (["list"], {"jobs"}),
            (["scorers", "list"], {"scorers"}),
            (["scorers", "show", "polite"], {"name", "sample_rate", "source_text"}),
            (["scorers", "versions", "polite"], {"name", "versions"}),
            (["scorers", "start", "polite"], {"name", "status"}),
            (["scorers", "delete", "polite"], {"deleted", "version"}),
        ],
    )
    def test_is_one_object_on_stdout(self, words: Any, keys: Any) -> None:
        result = call(*words, "--json")
        assert 0 == result.exit_code
        assert keys <= the_object(result).keys()

    def test_everything_else_goes_to_stderr(self) -> None:
        result = call("run", "--json", "--scorers", "a")
        assert "a library that prints" in result.stderr
        assert "800 for 800 due pairs" in result.stderr
        assert "SUCCEEDED" == the_object(result)["state"]

    def test_holds_the_window_and_counts(self) -> None:
        body = the_object(call("plan", "--scorers", "a", "--json"))
        assert {"start": "2024-06-01T00:00:00+00:00", "end": "2024-06-30T00:00:00+00:00"} == body["window"]
        assert (1_000, 800) == (body["counts"]["length"]["in_window"], body["counts"]["length"]["due"])

    def test_has_no_nan(self) -> None:
        api = FakeApi()
        api.job.summary = lambda: a_frame({"n": 0, "mean": float("nan"), "ci_low": float("inf")})
        assert (None, None) == (
            (record := the_object(call("wait", JOB_ID, "--json", api=api))["summary"][0])["mean"],
            record["ci_low"],
        )

    def test_an_error_is_the_object(self) -> None:
        error = BackfillRefusedError(["one", "two"])
        result = call("run", "--scorers", "a", "--json", api=FakeApi(error=error))
        assert (2, ["one", "two"]) == (result.exit_code, the_object(result)["error"]["problems"])

    def test_a_failed_job_is_the_object(self) -> None:
        api = FakeApi(error=BackfillFailedError("too many errors", JOB_ID), state=JobState.FAILED)
        result = call("run", "--scorers", "a", "--json", api=api)
        assert (1, "FAILED") == (result.exit_code, the_object(result)["state"])

    def test_wrong_use_is_the_object_too(self) -> None:
        result = call("run", "--json", "--scorers", "a", "--seed", "x")
        assert (2, "BadParameter") == (result.exit_code, the_object(result)["error"]["type"])


class TestJobs:
    def test_a_dead_runner_is_shown(self) -> None:
        assert "RUNNING (runner dead)" in call("status", JOB_ID, api=FakeApi(state=JobState.RUNNING)).stdout

    def test_status_has_the_counts_and_once_the_job_rests_the_answer(self) -> None:
        said = " ".join(call("status", JOB_ID).stdout.split())
        assert "length v2 0.8 800 795 0 5 0 800" in said
        assert "0.389 [0.370, 0.408]" in said
        assert "0.389" not in call("status", JOB_ID, api=FakeApi(state=JobState.RUNNING)).stdout

    def test_list_hands_its_filters_over(self) -> None:
        api = FakeApi()
        call("list", "--state", "running", "--limit", "3", "--experiment-id", "9", api=api)
        assert [("list_backfills", {"experiment_id": "9", "state": JobState.RUNNING, "limit": 3})] == api.asked

    def test_wait_hands_its_timeout_over(self) -> None:
        api = FakeApi()
        call("wait", JOB_ID, "--timeout", "2.5", api=api)
        assert ("wait_for_backfill", {"job_id": JOB_ID, "timeout": 2.5}) == api.asked[0]


class TestSourceGone:
    @pytest.mark.parametrize("command", ["run", "wait", "status", "resume"])
    def test_the_answer_says_so_under_other_names(self, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the table, in the text below it, and in the object."""
        api = FakeApi()
        names = ("n", "mean", "ci_low", "ci_high", "median", "results", "results_errored")
        seen = {"n_seen": 7, "mean_seen": 0.578, "median_seen": 0.5, "results_errored_seen": 3}
        frame = a_frame(dict.fromkeys(names) | seen | {"population": 400, "source_unreadable": "no such version"})
        api.job = a_job(summary=lambda: frame)
        monkeypatch.setattr(api, "resume_backfill", lambda job_id, **_: api.job, raising=False)
        words = [command, "--scorers", "a"] if command == "run" else [command, JOB_ID]
        said = " ".join(call(*words, api=api).stdout.split())
        for part in ("source unreadable", "7 seen 0.578 [not known] 3 0 800 0.5", "no such version"):
            assert part in said
        assert "(all)" not in said
        assert "no such version" in job_sheet(api.job, summary=frame.to_dict("records")).html()
        assert "no such version" == the_object(call(*words, "--json", api=api))["summary"][0]["source_unreadable"]


class TestScorers:
    def test_start_gives_rate_and_filter(self) -> None:
        api = FakeApi()
        words = ["--sample-rate", "0.5", "--filter", "trace.status = 'OK'", "--experiment-id", "9"]
        result = call("scorers", "start", "polite", *words, api=api)
        config = ScorerSamplingConfig(0.5, "trace.status = 'OK'")
        assert ("get_scorer", {"name": "polite", "experiment_id": "9"}) == api.asked[0]
        assert [("start", {"experiment_id": "9", "sampling_config": config})] == api.scorer.said
        assert "STARTED" in result.stdout

    def test_update_can_clear_a_filter(self) -> None:
        api = FakeApi()
        call("scorers", "update", "polite", "--filter", "", api=api)
        assert ScorerSamplingConfig(None, "") == api.scorer.said[0][1]["sampling_config"]

    def test_update_without_a_change_is_wrong_use(self) -> None:
        assert 2 == call("scorers", "update", "polite").exit_code

    def test_stop_and_delete_reach_the_api(self) -> None:
        api = FakeApi()
        call("scorers", "stop", "polite", api=api)
        call("scorers", "delete", "polite", "--version", "2", api=api)
        assert ["stop"] == [verb for verb, _ in api.scorer.said]
        assert ("delete_scorer", {"name": "polite", "version": 2, "experiment_id": None}) == api.asked[-1]

    def test_show_prints_the_source(self) -> None:
        assert "def polite(outputs): ..." in call("scorers", "show", "polite", "--version", "1").stdout


class TestRegister:
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        before = set(sys.modules)
        body = (
            "from tests.unit.test_cli import FakeScorer\npolite = FakeScorer()\nnumber = 7\nclass Kind(FakeScorer): ..."
        )
        Path("here_scorers.py").write_text(body, encoding="utf-8")
        Path("bad_scorers.py").write_text("raise RuntimeError('no\\x1b[31m key')", encoding="utf-8")
        Path("wide_scorers.py").write_text(body, encoding="utf-16")
        for taken in ("json.py", "sys.py"):
            Path(taken).write_text(body, encoding="utf-8")
        Path("my dir").mkdir()
        Path("my dir/dir_scorers.py").write_bytes(b"# -*- coding: latin-1 -*-\r\nname = '\xe9'\r\n" + body.encode())
        Path("my dir/mark_scorers.py").write_text(body, encoding="utf-8-sig")
        yield
        for name in set(sys.modules) - before:
            del sys.modules[name]

    def test_a_module_of_the_current_folder_is_found(self) -> None:
        result = call("scorers", "register", "here_scorers:polite", "--name", "kind", "--experiment-id", "9")
        assert 0 == result.exit_code
        assert [("register", {"name": "kind", "experiment_id": "9"})] == sys.modules["here_scorers"].polite.said

    @pytest.mark.parametrize(
        "place", ["my dir/../my dir/dir_scorers.py", "./my dir/mark_scorers.py", "file:{}/here_scorers.py"]
    )
    def test_a_file_is_found(self, place: str) -> None:
        """In any encoding that Python reads, by a path or a URI."""
        result = call("scorers", "register", f"{place.format(Path.cwd())}:polite")
        assert (0, "") == (result.exit_code, result.stderr)

    def test_a_class_is_made_without_arguments(self) -> None:
        assert 0 == call("scorers", "register", "here_scorers:Kind").exit_code

    @pytest.mark.parametrize(
        ("place", "said"),
        [
            ("here_scorers", "write MODULE:NAME"),
            ("./none.py:polite", "there is no Python file"),
            ("sub/here_scorers:polite", "write FILE.py:NAME"),
            ("json.py:polite", "is another module"),
            ("sys.py:polite", "is another module, None"),
            ("wide_scorers:x", "does not import"),
            ("here_scorers:", "write MODULE:NAME"),
            ("no_such_module:x", "ModuleNotFoundError"),
            ("bad_scorers:x", "RuntimeError: no key"),
            ("here_scorers:rude", "It has the scorers ['polite']"),
            ("here_scorers:number", "is no scorer but a int"),
        ],
    )
    def test_what_is_no_scorer_is_refused(self, place: str, said: str) -> None:
        result = call("scorers", "register", place)
        assert 2 == result.exit_code
        assert said in result.stderr
        assert "Traceback" not in result.stderr


class TestSettings:
    def test_reach_the_api(self, tmp_path: Path) -> None:
        api = FakeApi()
        file = tmp_path / "own.yaml"
        file.write_text("tables: {root: /from/file, prefix: p_}", encoding="utf-8")
        call("list", "--config", str(file), "--set", "tables.root=/from/word", "--set", "limits.trace_mb=4", api=api)
        tables = api.settings.tables
        assert ("/from/word", "p_", 4.0) == (tables.root, tables.prefix, api.settings.limits.trace_mb)

    @pytest.mark.parametrize(
        ("texts", "expected"),
        [
            (("a=1",), {"a": "1"}),
            (("a.b=x=y", "a.c=2"), {"a": {"b": "x=y", "c": "2"}}),
            (("spark.driver.memory=2g",), {"spark": {"spark.driver.memory": "2g"}}),
            (("spark.spark.driver.memory=2g",), {"spark": {"spark.driver.memory": "2g"}}),
            (("delta_jars=[a.jar, b.jar]",), {"delta_jars": ["a.jar", "b.jar"]}),
            (("traces.columns={trace_id: id}",), {"traces": {"columns": {"trace_id": "id"}}}),
            (("experiment_id=007",), {"experiment_id": "007"}),
        ],
    )
    def test_words_become_nested_values(self, texts: Any, expected: Any) -> None:
        assert expected == parse_values(texts)

    @pytest.mark.parametrize("texts", [("a",), ("=1",), ("a..b=1",), ("a=1", "a.b=2"), ("a=[1",)])
    def test_words_that_say_nothing_are_refused(self, texts: Any) -> None:
        assert 2 == call("list", *(word for text in texts for word in ("--set", text))).exit_code


def test_help_starts_quickly_and_without_spark() -> None:
    """`--help` of every command imports neither pyspark, pandas, pydantic nor rich."""
    code = (
        "import sys\nfrom backfill_spark.cli import main\n"
        "main(['run', '--help'], standalone_mode=False)\n"
        "heavy = {'pyspark', 'pandas', 'pyarrow', 'pydantic', 'rich', 'delta'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_sigterm_exits_143(tmp_path: Path) -> None:
    """A terminated command ends the way an interrupted one does, with the shell's own number."""
    code = (
        "import os, signal, sys\nfrom backfill_spark.cli import main\nfrom backfill_spark.cli.program import Program\n"
        "from tests.unit.test_cli import FakeApi\n"
        "class Api(FakeApi):\n"
        "    def plan_backfill(self, **_):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        signal.pause()\n"
        "main(['plan', '--scorers', 'a'], obj=Program(Api()))\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=60, cwd=root)
    assert (143, b"") == (ended.returncode, ended.stdout)
    assert b"Interrupted." in ended.stderr


def test_an_interrupted_job_is_named_with_the_way_on() -> None:
    result = call(
        "run", "--scorers", "a", "--json", api=FakeApi(error=BackfillInterrupted.of_job(JOB_ID, "3 of 9 pairs"))
    )
    assert 130 == result.exit_code
    assert f"`backfill-spark resume {JOB_ID}`" in result.stderr
    assert JOB_ID == the_object(result)["error"]["job_id"]


def test_status_follows_where_asked() -> None:
    api = FakeApi()
    assert 0 == call("status", JOB_ID, "--follow", api=api).exit_code
    assert ["wait_for_backfill", "get_backfill"] == [name for name, _ in api.asked]


class TestInit:
    def test_makes_the_tables_that_are_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a folder of this machine, where no JVM is needed."""
        monkeypatch.setenv("BACKFILL_SPARK_TABLES__ROOT", str(tmp_path))

        def init() -> Any:
            return the_object(CliRunner().invoke(main, ["init", "--json"], obj=Program(FakeApi())))["tables"]

        made = {"table": "jobs", "location": f"{tmp_path}/jobs", "made": True}
        assert made in init()
        assert [one["made"] for one in init()] == [False] * len(schema.ALL_TABLES)


class TestDoctor:
    def test_names_what_is_bad_and_exits_2(self) -> None:
        """No session starts, so the parts that need one are not looked at."""

        class NoSession(FakeApi):
            def get_spark(self, _settings: Any) -> None:
                raise SessionError("Spark did not start: no registry.\nName local archives in delta_jars.")

        result = call("doctor", api=NoSession())
        assert 2 == result.exit_code
        assert "ok   Python" in result.stdout
        assert "bad  Spark               Spark did not start: no registry.\n" in result.stdout
        assert "Not ready: " in result.stderr
        assert "Delta" not in [line.split()[1] for line in result.stdout.splitlines() if line[:3] in ("ok ", "bad")]

    def test_is_one_object_with_json(self) -> None:
        body = the_object(call("doctor", "--json", api=FakeApi()))
        assert not body["ok"]
        assert {"what", "ok", "said", "advice"} == body["findings"][0].keys()

    def test_reports_settings_that_cannot_be_read(self) -> None:
        result = call("doctor", "--set", "nonsense=1")
        assert 2 == result.exit_code
        assert "Unknown setting 'nonsense'" in result.stdout


class TestLog:
    """Lines of the log on stderr, where no terminal shows a bar."""

    @pytest.mark.parametrize(
        ("words", "seen"),
        [
            ([], "info warning error"),
            (["--log-level", "debug"], "debug info warning error"),
            (["--log-level", "WARNING"], "warning error"),
            (["--quiet"], "error"),
            (["--quiet", "--log-level", "warning"], "warning error"),
        ],
    )
    def test_has_the_levels_that_are_asked_for(self, words: Any, seen: Any) -> None:
        lines = call("list", *words, api=LoggingApi()).stderr.splitlines()
        assert seen.split() == [line.split("said at ")[1] for line in lines]

    def test_on_a_terminal_only_warnings_are_written_beside_the_bar(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("backfill_spark.cli.log.sys.stderr", SimpleNamespace(isatty=lambda: True))
        assert "warning" == level_of(None, quiet=False)

    def test_has_a_time_in_utc_and_a_level(self) -> None:
        line = call("list", api=LoggingApi()).stderr.splitlines()[0]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO said at info", line)

    def test_has_no_line_of_more_than_300_characters(self) -> None:
        api = LoggingApi(text="a text\nof a scorer \x1b[31m" + 1_000 * "x")
        lines = call("list", "--log-level", "error", api=api).stderr.splitlines()
        assert 1 == len(lines)
        assert 300 == len(lines[0])
        assert "\x1b" not in lines[0]

    def test_leaves_nothing_behind(self) -> None:
        ours = logging.getLogger("backfill_spark")
        before = (list(ours.handlers), ours.level)
        call("list", api=LoggingApi())
        assert before == (ours.handlers, ours.level)

    def test_quiet_shows_no_plan_beside_an_object(self) -> None:
        assert "" == call("run", "--scorers", "a", "--json", "--quiet", api=FakeApi(says="")).stderr
        assert "800 due pairs" in call("run", "--scorers", "a", "--json", api=FakeApi()).stderr

    def test_an_unknown_level_is_wrong_use(self) -> None:
        assert 2 == call("list", "--log-level", "loud").exit_code


def test_importing_the_package_leaves_logging_alone() -> None:
    code = (
        "import logging, backfill_spark.api; print(logging.getLogger('backfill_spark').handlers, logging.root.handlers)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[] []" == done.stdout.strip()


@pytest.mark.parametrize(("words", "said"), [([], ""), (["--log-level", "warning"], f"{JOB_ID}  SUCCEEDED\n")])
def test_work_names_each_job_once(words: Any, said: Any) -> None:
    """From info on the log has its end."""
    assert said == call("work", *words).stderr
