"""docs/your-traces.md, as a reader would follow it, and `sources inspect`."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from pyspark.sql import functions as F

from backfill_spark import configure, get_backfill, inspect_traces, read_assessments
from backfill_spark.cli import main
from tests.factories import a_trace, an_expectation, traces_frame

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "your-traces.md").read_text(encoding="utf-8")


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The reader's folder; the example configures the package for all later calls."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    configure()


def invoke(*words: str) -> str:
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.usefixtures("spark")
def test_the_page_gives_a_result(folder: Path) -> None:
    """Its Python from a file, then its five commands over the same answers as CSV."""
    (example,) = examples("python")
    (folder / "example.py").write_text(example, encoding="utf-8")
    left = runpy.run_path(str(folder / "example.py"), run_name="__main__")
    (row,) = get_backfill(left["job_id"]).summary().to_dict("records")
    assert (row["n"], row["mean"]) == (3, pytest.approx(1 / 3))
    left["frame"].to_csv("answers.csv", index=False)

    scorer = example[example.index("@scorer") : example.index("says_sorry.register")]
    (folder / "my_scorers.py").write_text(f"from backfill_spark import scorer\n\n\n{scorer}", encoding="utf-8")
    (commands,) = examples("sh")
    said = [invoke(*line.split()[1:], "--set", "timezone=UTC") for line in commands.splitlines()]
    assert len(said) <= 5
    assert "canonical" in said[0]
    configure(timezone="UTC")
    assert sorted(r["value"] for r in read_assessments().collect()) == ["false", "false", "true"]


def test_an_inspection_tells_what_a_scorer_sees(spark: SparkSession, settings: Settings) -> None:
    """Shape and marks, mapping, counts, times, experiments, and three traces as scorers are given them."""
    rows = [
        a_trace(
            trace_id=f"tr-{n}",
            experiment_id="7" if n else None,
            request='{"q": 1}',
            response=None if n == 1 else "18",
            state="IN_PROGRESS" if n == 2 else "OK",
            assessments=[an_expectation("expected_response", '"18"')],
        )
        for n in range(4)
    ] + [a_trace(trace_id="tr-3", request_time=None)]
    frame = traces_frame(spark, rows)
    frame.drop("tags", "session_id").write.format("delta").save(settings.traces_path)
    found = inspect_traces(settings=settings)
    assert (found.shape, found.source_kind, found.source_version) == ("canonical", "delta path", "0")
    assert found.why == ("trace_id", "request_time")
    assert {"tags", "session_id"} == set(found.absent)
    assert found.mapping["request"] == "request"
    assert found.counts == {
        "traces": 5,
        "no_time": 1,
        "no_trace_id": 0,
        "duplicate_trace_id": 1,
        "no_request": 0,
        "no_response": 1,
        "in_progress": 1,
        "incomplete": 0,
    }
    assert found.experiments == {"7": 3, "": 1, "0": 1}
    assert len(found.samples) == 3
    first: dict[str, Any] = next(s for s in found.samples if s["trace_id"] == "tr-0")
    assert (first["inputs"], first["outputs"]) == ({"q": 1}, "18")
    assert first["expectations"] == {"expected_response": "18"}
    assert "no_response" not in str(found)
    assert "1 without a response" in str(found)

    data = json.loads(invoke("sources", "inspect", settings.traces_path, "--json"))
    assert (data["counts"], data["experiments"]) == (found.counts, found.experiments)
    assert [s["inputs"] for s in data["samples"]] == [{"q": 1}] * 3
    frame.select("trace_id", "request").write.format("delta").save(f"{settings.traces_path}-else")
    refused = CliRunner().invoke(main, ["sources", "inspect", f"{settings.traces_path}-else"])
    assert refused.exit_code == 2
    assert "The nearest is canonical" in refused.stderr
    other = frame.select("trace_id", "request_time", "response", F.col("request").alias("question"))
    other.write.format("delta").save(f"{settings.traces_path}-other")
    (note,) = inspect_traces(f"{settings.traces_path}-other", settings=settings).notes
    assert note == (
        "There is no request. Name it with the setting traces.columns (--set traces.columns.request=NAME): "
        "they also have 'question'."
    )
