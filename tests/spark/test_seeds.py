"""Every call on the two pages that describe Databricks' backfills works here, changed in its import line only.

The pages lost their indentation and leave names unbound. The snippets below restore the one and a preamble binds
the others; a test holds each snippet, without indentation and import lines, equal to the page.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backfill_spark import (
    JobState,
    Scorer,
    ScorerNotFoundError,
    ScorerStatus,
    configure,
    get_backfill,
    list_scorer_versions,
    read_assessments,
)
from backfill_spark.settings.schema import Settings
from tests.factories import some_traces, write_traces
from tests.judge_server import serving
from tests.spark.test_gsm8k import selected_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

PREAMBLE = """
from backfill_spark import *
from backfill_spark import BackfillScorerConfig, ScorerSamplingConfig, backfill_scorers, scorer
YOUR_EXPERIMENT_ID = "0"
"""

RECENT = """
from datetime import datetime, timedelta
# Backfill last week's data with higher sample rates
one_week_ago = datetime.now() - timedelta(days=7)
job_id = backfill_scorers(
    scorers=[
        BackfillScorerConfig(scorer=safety_judge, sample_rate=0.8),
        BackfillScorerConfig(scorer=response_length, sample_rate=0.9)
    ],
    start_time=one_week_ago
)
"""
CUSTOM = """
from backfill_spark import backfill_scorers, BackfillScorerConfig
from datetime import datetime
from backfill_spark import scorer, ScorerSamplingConfig
safety_judge = Safety()
safety_judge = safety_judge.register(name="safety_check")
safety_judge = safety_judge.start(sampling_config=ScorerSamplingConfig(sample_rate=0.5))
@scorer(aggregations=["mean", "min", "max"])
def response_length(outputs):
    \"\"\"Measure response length in characters\"\"\"
    return len(outputs)
response_length = response_length.register(name="response_length")
response_length = response_length.start(sampling_config=ScorerSamplingConfig(sample_rate=0.5))
# Define custom sample rates for backfill
custom_scorers = [
    BackfillScorerConfig(scorer=safety_judge, sample_rate=0.8),
    BackfillScorerConfig(scorer=response_length, sample_rate=0.9)
]
job_id = backfill_scorers(
    experiment_id=YOUR_EXPERIMENT_ID,
    scorers=custom_scorers,
    start_time=datetime(2024, 6, 1),
    end_time=datetime(2024, 6, 30)
)
"""
CURRENT = """
from backfill_spark import backfill_scorers
from backfill_spark import scorer, ScorerSamplingConfig
safety_judge = Safety()
safety_judge = safety_judge.register(name="safety_check")
safety_judge = safety_judge.start(sampling_config=ScorerSamplingConfig(sample_rate=0.5))
@scorer(aggregations=["mean", "min", "max"])
def response_length(outputs):
    \"\"\"Measure response length in characters\"\"\"
    return len(outputs)
response_length = response_length.register(name="response_length")
response_length = response_length.start(sampling_config=ScorerSamplingConfig(sample_rate=0.5))
# Use existing sample rates for specified scorers
job_id = backfill_scorers(
    scorers=["safety_check", "response_length"]
)
"""
REGISTER = """
@scorer
def custom_scorer(outputs):
    return len(str(outputs.get("response", "")))

# Register the custom scorer
my_scorer = custom_scorer.register(name="response_length")
"""
START = """
from backfill_spark import ScorerSamplingConfig

# Start monitoring with sampling
active_scorer = registered_scorer.start(
    sampling_config=ScorerSamplingConfig(
        sample_rate=0.5,
        filter_string="trace.status = 'OK'"
    ),
)
"""
UPDATE = """
# Update sampling rate (returns new scorer instance)
updated_scorer = active_scorer.update(
    sampling_config=ScorerSamplingConfig(
        sample_rate=0.8,
    ),
)

# Original scorer remains unchanged
print(f"Original: {active_scorer.sample_rate}") # 0.5
print(f"Updated: {updated_scorer.sample_rate}") # 0.8
"""
STOP = """
# Stop monitoring but keep scorer registered
stopped_scorer = active_scorer.stop()
print(f"Sample rate: {stopped_scorer.sample_rate}") # 0
"""
GET = """
from backfill_spark import get_scorer

# Get existing scorer by name
existing_scorer = get_scorer(name="safety_monitor")
print(f"Current sample rate: {existing_scorer.sample_rate}")
"""
LIST = """
from backfill_spark import list_scorers

# List all registered scorers
all_scorers = list_scorers()
for scorer in all_scorers:
    print(f"Name: {scorer._server_name}")
    print(f"Sample rate: {scorer.sample_rate}")
    print(f"Filter: {scorer.filter_string}")
"""
DELETE = """
from backfill_spark import delete_scorer

# Delete existing scorer by name
delete_scorer(name="safety_monitor")
"""
RATE = """
print(f"Sampling {scorer.sample_rate * 100}% of traces")
"""
FILTER = """
print(f"Filter: {scorer.filter_string}")
"""
CONFIG = """
from backfill_spark import ScorerSamplingConfig

config = ScorerSamplingConfig(
    sample_rate=0.5,
    filter_string="trace.status = 'OK'"
)
"""
BACKFILL = """
from backfill_spark import backfill_scorers, BackfillScorerConfig

job_id = backfill_scorers(
    experiment_id="your-experiment-id",
    scorers=[
        BackfillScorerConfig(scorer=safety_scorer, sample_rate=0.8),
        BackfillScorerConfig(scorer=response_length, sample_rate=0.9)
    ],
    start_time=datetime(2024, 1, 1),
    end_time=datetime(2024, 1, 31)
)
"""
GUIDE = (RECENT, CUSTOM, CURRENT)
REFERENCE = (REGISTER, START, UPDATE, STOP, GET, LIST, DELETE, RATE, FILTER, CONFIG, BACKFILL)


def code_lines(text: str) -> str:
    """Return the lines without indentation, blank lines and import lines."""
    lines = [line.strip() for line in text.splitlines()]
    return "\n".join(line for line in lines if line and not line.startswith(("from ", "import ")))


@pytest.mark.parametrize(
    ("page", "snippets"), [("backfill_guide.txt", GUIDE), ("scorer_lifecycle_reference.txt", REFERENCE)]
)
def test_the_snippets_are_the_pages_own(shared: Path, page: str, snippets: tuple[str, ...]) -> None:
    """Line by line, and none of the page's snippets is missing."""
    text = code_lines((shared / "seeds" / page).read_text(encoding="utf-8"))
    for snippet in snippets:
        assert code_lines(snippet) in text
    for call in (
        "backfill_scorers(\n",
        ".register(name=",
        ".start(\n",
        ".update(\n",
        "_scorer.stop()",
        "= list_scorers()",
        "= get_scorer(",
    ):
        assert text.count(call) <= sum(code_lines(s).count(call) for s in snippets), call


@pytest.fixture
def asked(settings: Settings) -> Iterator[Settings]:
    """Settings whose judges ask a local OpenAI-compatible server."""
    key = Path(settings.tables.root).with_name("key")
    key.write_text("no secret", encoding="utf-8")
    with serving(latency_s=0.01) as server:
        made = Settings(
            tables={"root": settings.tables.root},
            traces={"path": settings.traces_path},
            judge={
                "model": "local:/model",
                "endpoints": {"local": {"base_url": server.url, "api_key_file": str(key)}},
            },
        )
        configure(made)
        yield made


def traces() -> list[dict[str, Any]]:
    """Return a trace every 12 hours of January and June 2024, and of the last ten days."""
    half = timedelta(hours=12)
    days = [datetime(2024, 1, 1, tzinfo=UTC) + n * half for n in range(62)]
    days += [datetime(2024, 6, 1, tzinfo=UTC) + n * half for n in range(60)]
    now = datetime.now(UTC)
    days += [now - timedelta(hours=1) - n * half for n in range(20)]
    return some_traces(len(days), request_time=lambda n: days[n])


def run(names: dict[str, Any], *snippets: str) -> None:
    for snippet in snippets:
        exec(compile(snippet, "<cell>", "exec"), names)


def scored(job_id: str) -> dict[str, set[str]]:
    assert get_backfill(job_id).state is JobState.SUCCEEDED
    rows = read_assessments(job_id=job_id).select("scorer_name", "trace_id").collect()
    return {name: {r["trace_id"] for r in rows if r["scorer_name"] == name} for name in {r[0] for r in rows}}


def test_the_guide_runs_as_written(spark: SparkSession, asked: Settings) -> None:
    """Custom rates over June, last week's data, current rates over everything."""
    rows = traces()
    write_traces(spark, rows, asked.traces_path, files=2)
    names: dict[str, Any] = {"__name__": "__main__"}
    run(names, PREAMBLE, CUSTOM)

    def within(start: datetime, end: datetime | None = None) -> list[str]:
        return [r["trace_id"] for r in rows if start <= r["request_time"] and (end is None or r["request_time"] < end)]

    june = within(datetime(2024, 6, 1, tzinfo=UTC), datetime(2024, 6, 30, tzinfo=UTC))
    assert len(june) == 58
    custom = names["job_id"]
    expected = {"safety_check": selected_ids(june, 0.8), "response_length": selected_ids(june, 0.9)}
    assert expected == scored(custom)
    assert (ScorerStatus.STARTED, 0.5) == (names["safety_judge"].status, names["safety_judge"].sample_rate)
    summary = get_backfill(custom).summary().set_index("scorer")
    assert {"mean", "min", "max"} <= set(summary.columns)
    lengths = [len(r["response"]) for r in rows if r["trace_id"] in expected["response_length"]]
    assert (min(lengths), max(lengths)) == tuple(summary.loc["response_length", ["min", "max"]])

    week_ago = datetime.now(UTC) - timedelta(days=7)
    run(names, RECENT)
    recent = within(week_ago)
    assert {("LLM_JUDGE", '"yes"')} == {
        (r["source_type"], r["value"]) for r in read_assessments(scorers=["safety_check"]).collect()
    }
    assert {"safety_check": selected_ids(recent, 0.8), "response_length": selected_ids(recent, 0.9)} == scored(
        names["job_id"]
    )

    # The same definitions again are the same versions; their rate is the registered one, over all time.
    run(names, CURRENT)
    assert 1 == len(list_scorer_versions(name="response_length"))
    everything = [r["trace_id"] for r in rows]
    for name, rate in (("safety_check", 0.8), ("response_length", 0.9)):
        earlier = selected_ids(june, rate) | selected_ids(recent, rate)
        assert selected_ids(everything, 0.5) - earlier == scored(names["job_id"])[name]
        counts = get_backfill(names["job_id"]).counts[name]
        assert len(selected_ids(everything, 0.5) & earlier) == counts.already_scored


def test_the_lifecycle_reference_runs_as_written(
    spark: SparkSession, asked: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Register, start, update, stop, get, list, delete, properties, and the backfill of January."""
    rows = traces()
    write_traces(spark, rows, asked.traces_path, files=2)
    names: dict[str, Any] = {"__name__": "__main__"}
    run(names, PREAMBLE, "from datetime import datetime", REGISTER)
    my_scorer = names["my_scorer"]
    assert isinstance(my_scorer, Scorer)
    assert ("response_length", ScorerStatus.STOPPED, 1) == (
        my_scorer._server_name,
        my_scorer.status,
        my_scorer.scorer_version,
    )
    assert (ScorerStatus.UNREGISTERED, None) == (names["custom_scorer"].status, names["custom_scorer"].sample_rate)

    names["registered_scorer"] = my_scorer
    run(names, START)
    assert ("trace.status = 'OK'", 0.5) == (names["active_scorer"].filter_string, names["active_scorer"].sample_rate)
    capsys.readouterr()
    run(names, UPDATE)
    assert "Original: 0.5\nUpdated: 0.8\n" == capsys.readouterr().out
    assert "trace.status = 'OK'" == names["updated_scorer"].filter_string
    run(names, STOP)
    assert float(capsys.readouterr().out.removeprefix("Sample rate: ")) == 0
    assert (ScorerStatus.STOPPED, "trace.status = 'OK'") == (
        names["stopped_scorer"].status,
        names["stopped_scorer"].filter_string,
    )

    run(names, "Safety().register(name='safety_monitor').start()")
    run(names, GET)
    assert "Current sample rate: 1.0\n" == capsys.readouterr().out
    run(names, LIST)
    printed = capsys.readouterr().out.splitlines()
    assert ["Name: response_length", "Sample rate: 0.0", "Filter: trace.status = 'OK'"] == printed[:3]
    assert ["Name: safety_monitor", "Sample rate: 1.0", "Filter: None"] == printed[3:]
    run(names, RATE, FILTER)
    assert "Sampling 100.0% of traces\nFilter: None\n" == capsys.readouterr().out
    run(names, DELETE)
    with pytest.raises(ScorerNotFoundError, match=r"Scheduled scorer 'safety_monitor' not found in experiment '0'"):
        run(names, GET)
    run(names, CONFIG)
    assert (0.5, "trace.status = 'OK'") == (names["config"].sample_rate, names["config"].filter_string)

    run(names, "from backfill_spark import scorer")
    run(names, "safety_scorer = Safety().register(experiment_id='your-experiment-id')")
    run(
        names,
        "@scorer\ndef response_length(outputs):\n    return len(outputs)\n"
        "response_length = response_length.register(experiment_id='your-experiment-id')",
    )
    # The table's traces belong to experiment 0: those of the one that is named are none, as the plan says.
    run(names, BACKFILL)
    assert {0} == {c.in_window for c in get_backfill(names["job_id"]).counts.values()}
    write_traces(spark, [r | {"experiment_id": None} for r in rows], asked.traces_path, files=2)
    run(names, BACKFILL)
    january = [r["trace_id"] for r in rows if r["request_time"] < datetime(2024, 1, 31, tzinfo=UTC)]
    assert len(january) == 60
    assert {"safety": selected_ids(january, 0.8), "response_length": selected_ids(january, 0.9)} == scored(
        names["job_id"]
    )
