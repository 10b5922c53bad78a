from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.display import views
from backfill_spark.display.formats import mean_text, number_text, state_text
from backfill_spark.display.render import Listed, Sheet, Table, clean, console
from backfill_spark.display.summary import summary_sheet
from backfill_spark.display.views import (
    announce,
    audience,
    job_sheet,
    jobs_sheet,
    plan_sheet,
    scorer_sheet,
    scorers_sheet,
)
from backfill_spark.models import (
    Counts,
    JobState,
    ScorerKind,
    ScorerSpec,
    ScorerStatus,
    TimeWindow,
    rate_reached,
)

JUNE = TimeWindow(datetime(2024, 6, 1, tzinfo=UTC), datetime(2024, 6, 30, tzinfo=UTC))
STARTED = datetime(2024, 7, 1, 8, tzinfo=UTC)


def a_spec(name: str = "length", **overrides: Any) -> ScorerSpec:
    values: dict[str, Any] = {"sample_rate": 0.8, "signature": ("outputs",)} | overrides
    return ScorerSpec(name, 2, "d1", ScorerKind.FUNCTION, {}, None, **values)


def some_counts(**overrides: Any) -> Counts:
    values: dict[str, Any] = {"in_window": 1_000, "skipped": 12, "sampled_out": 188, "due": 800}
    return Counts(**values | {"skipped_reasons": {"no_time": 2, "in_progress": 10}} | overrides)


def a_plan(**overrides: Any) -> Any:
    values: dict[str, Any] = {
        "experiment_id": "7",
        "window": JUNE,
        "scorers": (a_spec(),),
        "counts": {"length": some_counts()},
        "calls": 800,
        "cost_usd": None,
        "chunks": 1,
        "source": "./data/traces",
        "source_version": "3",
        "notes": ("June 30 not included",),
        "trace_ids_missing": (),
    }
    return SimpleNamespace(**values | overrides)


def a_job(**overrides: Any) -> Any:
    values: dict[str, Any] = {
        "job_id": "bf-20240701-080000-000000-abcdef01",
        "state": JobState.SUCCEEDED,
        "alive": False,
        "counts": {"length": some_counts(scored=795, errored=5, calls=800)},
        "progress": 1.0,
        "window": JUNE,
        "scorers": (a_spec(),),
        "error": None,
        "created_at": STARTED,
        "started_at": STARTED,
        "ended_at": STARTED + timedelta(seconds=12.5),
        "calls": 800,
        "cost_usd": None,
        "rate_reached": None,
        "source": "./data/traces",
        "source_version": "3",
        "notes": (),
    }
    return SimpleNamespace(**values | overrides)


def a_frame(*records: dict[str, Any]) -> Any:
    """A summary as far as display reads frames, without pandas."""
    base = {"scorer": "length", "version": 2, "sample_rate": 0.8, "empty": 0, "errored": 5, "left": 0, "calls": 800}
    rows = [base | record for record in records]
    return SimpleNamespace(columns=list(rows[0]), to_dict=lambda _kind: rows)


def words(sheet: Sheet) -> str:
    return " ".join(sheet.text().split())


def words_of(frame: Any) -> str:
    return words(summary_sheet(frame.to_dict("records")))


class TestPlan:
    def test_says_window_source_and_each_count(self) -> None:
        shown = words(plan_sheet(a_plan()))
        for text in (
            "[2024-06-01, 2024-06-30) UTC",
            "./data/traces, version 3",
            "length v2 0.8 1,000 12 0 188 0 800",
            "800 for 800 due pairs in 1 chunk",
            "skipped: 10 in_progress, 2 no_time",
            "June 30 not included",
        ):
            assert text in shown

    def test_says_what_is_adopted(self) -> None:
        assert "300 for 800 due pairs in 1 chunk; 500 were scored by earlier jobs" in words(
            plan_sheet(a_plan(calls=300))
        )

    def test_shows_filters_and_missing_ids(self) -> None:
        plan = a_plan(scorers=(a_spec(filter_string="trace.status = 'OK'"),), trace_ids_missing=("tr-8", "tr-9"))
        shown = words(plan_sheet(plan))
        assert "filter of length: trace.status = 'OK'" in shown
        assert "2 trace ids not found: tr-8, tr-9" in shown

    def test_tells_skipped_rows_by_scorer_when_they_differ(self) -> None:
        counts = {"a": some_counts(), "b": some_counts(skipped_reasons={"no_time": 12})}
        shown = words(plan_sheet(a_plan(scorers=(a_spec("a"), a_spec("b")), counts=counts)))
        assert "skipped for a: 10 in_progress, 2 no_time skipped for b: 12 no_time" in shown

    @pytest.mark.parametrize(
        ("counts", "why"),
        [
            (Counts(in_window=9, already_scored=8, sampled_out=1), "8 pairs already have results, 1 were not sampled."),
            (Counts(in_window=4, filtered_out=3, skipped=1), "3 do not match the filters, 1 were skipped."),
            (Counts(), "the window holds no traces."),
        ],
    )
    def test_says_why_nothing_is_due(self, counts: Any, why: str) -> None:
        assert f"Nothing is due: {why}" in words(plan_sheet(a_plan(counts={"length": counts}, calls=0, chunks=0)))

    def test_shows_a_cost_only_where_it_is_known(self) -> None:
        assert "cost $1,234.50" in words(plan_sheet(a_plan(cost_usd=1234.5)))
        assert "cost" not in words(plan_sheet(a_plan()))

    def test_fits_80_columns_with_a_million_traces(self) -> None:
        counts = Counts(1_000_000, 1_200, 23_000, 200_000, 100_000, 675_800)
        lines = plan_sheet(a_plan(counts={"length": counts})).text(80).splitlines()
        assert max(map(len, lines)) <= 80
        assert any("1,000,000" in line and "675,800" in line for line in lines)


class TestJob:
    def test_shows_its_counts(self) -> None:
        shown = words(job_sheet(a_job()))
        assert "Backfill bf-20240701-080000-000000-abcdef01 SUCCEEDED" in shown
        assert "length v2 0.8 795 of 988 - 5 0 800" in shown
        assert "length v2 0.8 800 795 0 5 0 800" in words(job_sheet(a_job(), counts=True))
        assert "2024-07-01 08:00:12 UTC, after 12.5 s" in shown

    @pytest.mark.parametrize("state", [JobState.RUNNING, JobState.CANCELING])
    def test_shows_a_dead_runner(self, state: Any) -> None:
        assert f"{state} (runner dead)" == state_text(a_job(state=state, alive=False))

    @pytest.mark.parametrize(
        ("state", "alive"), [(JobState.RUNNING, True), (JobState.SUCCEEDED, False), (JobState.PENDING, False)]
    )
    def test_shows_other_states_as_they_are(self, state: Any, alive: bool) -> None:
        assert state == state_text(a_job(state=state, alive=alive))

    def test_almost_done_is_not_shown_as_done(self) -> None:
        assert "99%" in words(job_sheet(a_job(progress=0.999)))

    def test_shows_an_error_in_all_its_lines(self) -> None:
        assert "error boom at once" in words(job_sheet(a_job(error="boom\nat once")))

    def test_a_pending_job_has_no_start(self) -> None:
        shown = words(job_sheet(a_job(state=JobState.PENDING, started_at=None, ended_at=None, calls=None)))
        assert "started" not in shown

    def test_naive_times_are_taken_as_utc(self) -> None:
        moment = datetime(2024, 7, 1, 8)
        assert "started 2024-07-01 08:00:00 UTC" in words(job_sheet(a_job(started_at=moment, ended_at=None)))

    def test_a_list_keeps_job_ids_whole(self) -> None:
        assert "bf-20240701-080000-000000-abcdef01" in jobs_sheet([a_job()]).text(80)

    def test_a_list_tells_the_answer_and_the_cost(self) -> None:
        """As it was read last, else without a mean; a narrow terminal leaves columns out, never digits."""
        known = [
            {"scorer": "length", "version": 2, "sample_rate": 1.0, "rate_reached": 0.37, "n": 300, "population": 3_249}
            | {"mean": 0.389, "ci_low": 0.37, "ci_high": 0.408, "results_errored": 5, "left": 9, "calls": 800}
        ]
        sheet = jobs_sheet([a_job(known_summary=known, cost_usd=0.0123), a_job(state=JobState.RUNNING, alive=True)])
        wide = " ".join(sheet.text(200).split())
        assert "length v2 0.37 of 1 300 of 3,249 0.389 [0.370, 0.408] 5 9 800 $0.0123" in wide
        assert "length v2 0.8 795 of 988 - 5 0 800" in wide
        narrow = sheet.text(80)
        assert max(map(len, narrow.splitlines())) <= 80
        assert "SUCCEEDED  length v2  0.389 [0.370, 0.408]" in narrow
        assert "300 of" not in narrow

    def test_a_list_is_a_table_in_a_notebook(self) -> None:
        """And a list for all else."""
        jobs = Listed([a_job()], jobs_sheet)
        assert jobs == [a_job()]
        assert jobs_sheet(jobs).html() == jobs._repr_html_()

    def test_a_job_that_stopped_at_37_percent_says_so(self) -> None:
        """A judge by the draw that it came to, a function by its share of the pairs."""
        counts = Counts(in_window=100, due=100, scored=37, left=63)
        assert rate_reached(a_spec(sample_rate=1.0), counts, None) == 0.37
        assert rate_reached(replace(a_spec(sample_rate=1.0), kind=ScorerKind.JUDGE), counts, 0.25) == 0.25
        assert rate_reached(a_spec(sample_rate=0.8), Counts(due=5, scored=5), 0.25) == 0.8
        job = a_job(scorers=(a_spec(sample_rate=1.0),), counts={"length": counts}, state=JobState.PARTIAL)
        assert "length v2 0.37 of 1" in words(job_sheet(job))

    def test_no_jobs_are_said_to_be_none(self) -> None:
        assert "No backfill jobs." == jobs_sheet([]).text()


class TestSummary:
    def test_shows_the_mean_with_its_interval(self) -> None:
        frame = a_frame({"n": 300, "mean": 0.389, "ci_low": 0.370, "ci_high": 0.408, "population": 3_249})
        assert "length v2 0.8 300 of 3,249 0.389 [0.370, 0.408] 5 0 800" in words(
            summary_sheet(frame.to_dict("records"))
        )

    def test_a_full_pass_says_all(self) -> None:
        frame = a_frame({"n": 3_249, "mean": 0.389, "ci_low": 0.389, "ci_high": 0.389, "population": 3_249})
        assert "3,249 0.389 (all)" in words_of(frame)

    def test_errors_are_those_of_the_current_results(self) -> None:
        """A re-run with 0 calls made no errors, and its selected pairs still have some."""
        frame = a_frame({"n": 3, "mean": 1.0, "population": 9, "errored": 0, "results_errored": 4, "calls": 0})
        assert "1 [not known] 4 0 0" in words_of(frame)

    def test_shows_aggregations_that_have_a_value(self) -> None:
        frame = a_frame({"n": 2, "mean": 1.5, "population": 9, "max": 2.0, "p90": float("nan")})
        shown = words_of(frame)
        assert "calls max" in shown
        assert "p90" not in shown

    def test_takes_a_pandas_frame(self) -> None:
        import pandas as pd

        frame = a_frame({"n": 0, "mean": None, "ci_low": None, "ci_high": None, "population": 12})
        assert "0 of 12 -" in words_of(pd.DataFrame(frame.to_dict("records")))

    def test_names_the_feedbacks_of_a_scorer_that_gives_several(self) -> None:
        frame = a_frame({"feedback": "words", "n": 1, "population": 9}, {"feedback": "long", "n": 2, "population": 9})
        shown = words_of(frame)
        assert "length v2 / words 0.8 1 of 9" in shown
        assert "length v2 / long 0.8 2 of 9" in shown

    def test_some_errors_are_told_with_the_most_frequent_one(self) -> None:
        frame = a_frame(
            {"n": 7, "population": 9, "results": 9, "results_errored": 2, "most_frequent_error": "timeout: It took"}
        )
        assert "length: 2 of 9 results are errors, most often timeout: It took" in words_of(frame)

    def test_what_mostly_failed_is_the_last_line(self) -> None:
        frame = a_frame(
            {
                "n": 1,
                "population": 9,
                "results": 9,
                "results_errored": 8,
                "most_frequent_error": "timeout: It took long",
            }
        )
        said = "Scorer 'length' failed on 8 of 9 pairs. Most frequent error: timeout: It took long"
        assert said == job_sheet(a_job(), summary=frame.to_dict("records")).text().strip().splitlines()[-1]
        assert said == job_sheet(a_job(warnings=(said,))).text().strip().splitlines()[-1]

    def test_stands_in_a_job_in_place_of_the_counts(self) -> None:
        frame = a_frame({"n": 2, "mean": 0.5, "ci_low": 0.1, "ci_high": 0.9, "population": 9})
        assert "0.50 [0.10, 0.90]" in words(job_sheet(a_job(), summary=frame.to_dict("records")))


@pytest.mark.parametrize(
    ("mean", "low", "high", "expected"),
    [
        (0.389, 0.370, 0.408, "0.389 [0.370, 0.408]"),
        (0.0021, 0.0008, 0.0052, "0.0021 [0.0008, 0.0052]"),
        (523.4567, 510.2, 536.6, "523 [510, 537]"),
        (1234567.0, 1230000.0, 1240000.0, "1,234,567 [1,230,000, 1,240,000]"),
        (0.5, None, None, "0.5 [not known]"),
        (5.0, 5.0, 5.0, "5 [5, 5]"),
        (None, None, None, "-"),
        (float("nan"), None, None, "-"),
        (float("inf"), float("-inf"), float("inf"), "inf [-inf, inf]"),
    ],
)
def test_an_interval_decides_the_decimals(mean: Any, low: Any, high: Any, expected: str) -> None:
    assert expected == mean_text(mean, low, high)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.8, "0.8"), (1, "1"), (1e6, "1,000,000"), (0.38899, "0.389"), (12345.6, "12,346"), (None, "-"), (1e20, "1e+20")],
)
def test_numbers_have_four_digits(value: Any, expected: str) -> None:
    assert expected == number_text(value)


class TestScorer:
    scorer = SimpleNamespace(
        name="polite",
        status=ScorerStatus.STARTED,
        scorer_version=3,
        sample_rate=0.5,
        filter_string=None,
        description="Says please.\nAlways.",
        aggregations=["mean", "p90"],
        digest="0123456789abcdef",
        signature=("outputs",),
        registration=SimpleNamespace(
            experiment_id="7", created_at=STARTED, source_text="def polite(outputs):\n    return 'please' in outputs\n"
        ),
    )

    def test_shows_its_state(self) -> None:
        shown = words(scorer_sheet(self.scorer))
        assert "Scorer polite STARTED experiment 7 version 3" in shown
        assert "takes outputs sample rate 0.5" in shown
        assert "aggregations mean, p90" in shown

    def test_shows_its_source_when_asked(self) -> None:
        assert "    return 'please' in outputs" in scorer_sheet(self.scorer, with_source=True).text()
        assert "return" not in scorer_sheet(self.scorer).text()

    def test_lists_a_row_a_scorer(self) -> None:
        assert "polite 3 STARTED 0.5 Says please. 0123456789ab" in words(scorers_sheet([self.scorer]))

    def test_no_scorers_are_said_to_be_none(self) -> None:
        assert "No scorers are registered." == scorers_sheet([]).text()


class TestCleaning:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07after", "after"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("a\x00b\x08c\x7fd\x9b31me", "abcde"),
            ("one\r\ntwo\tthree", "one two three"),
            ("left\u202eright", "leftright"),
            ("lone \ud800 surrogate", "lone ? surrogate"),
            ("[bold]kept[/bold] 你好 é", "[bold]kept[/bold] 你好 é"),
        ],
    )
    def test_takes_out_what_moves_or_colours(self, text: str, expected: str) -> None:
        assert expected == clean(text)

    def test_keeps_lines_when_asked(self) -> None:
        assert "one\ntwo\nthree" == clean("one\rtwo\u2028three", lines=True)

    @given(st.text())
    def test_leaves_no_control_character(self, text: Any) -> None:
        assert not [c for c in clean(text) if ord(c) < 32 or 127 <= ord(c) < 160]

    @given(st.text())
    def test_is_the_same_twice(self, text: Any) -> None:
        assert clean(text) == clean(clean(text))

    @pytest.mark.parametrize("poison", ["[red]x[/red]", "[/]", "[link=http://x]y", ":smile:"])
    def test_markup_in_names_is_shown_as_it_is(self, poison: str) -> None:
        sheet = Sheet(poison, facts=((poison, poison),), tables=(Table((poison,), ((poison,),)),), notes=(poison,))
        assert 6 == sheet.text().count(poison)

    def test_markup_in_html_is_escaped(self) -> None:
        poison = "<script>alert('\x1b[31m')</script>"
        sheet = Sheet(poison, facts=((poison, poison),), tables=(Table((poison,), ((poison,),)),), notes=(poison,))
        assert "<script" not in sheet.html()
        assert 6 == sheet.html().count("&lt;script&gt;alert(&#x27;&#x27;)&lt;/script&gt;")


class TestNotebook:
    def test_a_plan_is_a_table(self) -> None:
        page = views.plan_sheet(a_plan()).html()
        assert '<td style="text-align:right;white-space:pre">1,000</td>' in page
        assert '<th style="text-align:right;white-space:pre">in window</th>' in page

    def test_a_job_has_html_and_text(self) -> None:
        assert "SUCCEEDED" in views.job_sheet(a_job()).html()
        assert "SUCCEEDED" in views.job_sheet(a_job()).text()


class TestAnnouncing:
    def test_prints_the_plan_to_the_audience(self) -> None:
        stream = io.StringIO()
        with audience(console(stream)):
            announce(a_plan())
        assert "800 for 800 due pairs" in stream.getvalue()

    def test_is_silent_without_an_audience_or_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        announce(a_plan())
        assert ("", "") == capsys.readouterr()

    def test_never_raises(self) -> None:
        """A plan that cannot be shown must not cost the job."""
        with audience(console(io.StringIO())):
            announce(object())


def test_a_notebook_leaves_a_sheet_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """rich takes a shell of this name for a cell to draw in, and ipykernel asks every program for colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr("builtins.get_ipython", lambda: shell, raising=False)
    text = plan_sheet(a_plan()).text(120)
    assert "800 for 800 due pairs" in text
    assert "\x1b" not in text
