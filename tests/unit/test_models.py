"""The values that travel between the modules."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.models import (
    Counts,
    JobState,
    Reprocess,
    Request,
    Sampling,
    ScorerKind,
    ScorerSpec,
    TimeWindow,
    new_job_id,
    parse_moment,
)


def test_a_date_is_its_midnight_in_the_settings_zone() -> None:
    """Dates and ISO dates are midnight there, and come back in UTC."""
    berlin = ZoneInfo("Europe/Berlin")
    midnight = datetime(2024, 5, 31, 22, tzinfo=UTC)
    assert midnight == parse_moment(date(2024, 6, 1), berlin)
    assert midnight == parse_moment("2024-06-01", berlin)
    assert midnight == parse_moment("  2024-06-01T00:00:00 ", berlin)
    assert datetime(2024, 6, 1, tzinfo=UTC) == parse_moment("2024-06-01T00:00:00Z", berlin)


@given(st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)))
def test_a_naive_time_without_zone_is_what_timestamp_says(moment: datetime) -> None:
    """`datetime.now() - timedelta(days=7)` means the same instant to us as to Python."""
    parsed = parse_moment(moment, None)
    assert parsed is not None
    assert moment.timestamp() == parsed.timestamp()
    assert parsed.tzinfo is UTC


@pytest.mark.parametrize("value", ["yesterday", "2024-13-01", "", 5, 1.5, True, [], "2024-06-31"])
def test_what_is_no_moment_is_refused(value: object) -> None:
    """Anything but a datetime, a date or ISO text raises ValueError."""
    with pytest.raises(ValueError):
        parse_moment(value, None)  # type: ignore[arg-type]


def test_no_bound_stays_none() -> None:
    """None is no bound."""
    assert parse_moment(None, None) is None
    assert str(TimeWindow()) == "all time"


def test_a_window_shows_utc_and_survives_json() -> None:
    """Bounds of any zone are shown in UTC."""
    window = TimeWindow(datetime(2024, 6, 1, 2, tzinfo=timezone(timedelta(hours=2))), None)
    assert str(window) == "[2024-06-01, no end)"
    assert window == TimeWindow.from_json(json.loads(json.dumps(window.to_json())))


@given(st.lists(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)), min_size=2, max_size=20))
def test_job_ids_sort_by_time_and_have_their_form(moments: list[datetime]) -> None:
    """`bf-[0-9a-z-]{8,40}`, in the order of the moments."""
    utc = [m.replace(tzinfo=UTC) for m in sorted(set(moments))]
    ids = [new_job_id(m) for m in utc]
    assert sorted(ids) == ids
    assert all(re.fullmatch(r"bf-[0-9a-z-]{8,40}", i) for i in ids)


def test_states_say_what_never_changes() -> None:
    """Three states are terminal; PARTIAL rests."""
    assert {s for s in JobState if s.is_terminal} == {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED}
    assert {s for s in JobState if s.is_at_rest} - {s for s in JobState if s.is_terminal} == {JobState.PARTIAL}


def test_a_request_survives_json_without_its_code() -> None:
    """The job's row holds no definition; they come back by name and version."""
    spec = ScorerSpec(
        name="length",
        version=2,
        digest="ab",
        kind=ScorerKind.FUNCTION,
        parameters={},
        definition="cGlja2xl",
        signature=("outputs", "trace"),
        sample_rate=0.5,
        filter_string="trace.status = 'OK'",
        aggregations=("mean",),
        timeout_s=3.0,
    )
    request = Request(
        experiment_id="7",
        experiment_given=True,
        scorers=(spec,),
        window=TimeWindow(datetime(2024, 6, 1, tzinfo=UTC), None),
        source="/traces",
        source_version="3",
        source_table_id="id",
        results_version=None,
        reprocess=Reprocess.FAILED,
        sampling=Sampling.SPARK,
        seed=-5,
        notes=("June 30 not included",),
    )
    text = json.dumps(request.to_json())
    assert "cGlja2xl" not in text
    assert request == Request.from_json(json.loads(text), {("length", 2): "cGlja2xl"})


def test_counts_survive_json() -> None:
    """Names as the contract has them."""
    counts = Counts(in_window=10, skipped=1, due=9, scored=8, errored=1, calls=9, skipped_reasons={"no_time": 1})
    assert counts == Counts.from_json(json.loads(json.dumps(counts.to_json())))
