"""The story of `backfill-spark demo`: a history, three scorers, a plan, a backfill, the same again, a rate raised."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backfill_spark.api import backfill_scorers, get_backfill, plan_backfill
from backfill_spark.cli.demo.traces import demo_table, write_table
from backfill_spark.display import views
from backfill_spark.display.summary import summary_sheet
from backfill_spark.errors import SettingsError
from backfill_spark.models import BackfillScorerConfig, ScorerSamplingConfig
from backfill_spark.scorers import PIIDetection, RegexMatch, scorer
from backfill_spark.settings.current import configure
from backfill_spark.settings.schema import Settings
from backfill_spark.storage.session import get_spark
from backfill_spark.storage.start_spark import short_life

if TYPE_CHECKING:
    from rich.console import Console

    from backfill_spark.jobs.job import BackfillJob

FOLDER = "backfill_demo"
_MARKER = ".made-by-backfill-spark-demo"
_START, _END = datetime(2024, 6, 1), datetime(2024, 6, 30)


def run_demo(console: Console, *, folder: str | Path = FOLDER, traces: int = 20_000, days: int = 60) -> None:
    """Show a backfill from its traces to its results, in `folder`, which is made anew.

    Raises:
        SettingsError: `folder` is there and was not made by an earlier demo.
    """
    began = time.monotonic()
    root = _fresh(Path(folder))
    settings = _settings(root)
    configure(settings)
    try:
        with _step(console, f"A history: {traces:,} traces of a shop's support assistant over {days} days"):
            # Spark starts meanwhile: a demo is over in half a minute.
            with ThreadPoolExecutor(1) as thread, _stderr_in(root / "spark.log"), short_life():
                made = thread.submit(lambda: write_table(root / "traces", demo_table(traces=traces, days=days)))
                get_spark(settings)
            made.result()
        with _step(console, "Three scorers, registered and started as a live monitor would have them"):
            scorers = _start_scorers()
        _say(console, _CODE)
        request: dict[str, Any] = {"start_time": _START, "end_time": _END}
        with _step(console, "The plan: what a backfill would do. No scorer is called"):
            plan = plan_backfill(scorers=_configs(scorers, personal=0.8), **request)
        console.print(views.plan_sheet(plan))

        job = _backfill(console, "The backfill", _configs(scorers, personal=0.8), request)
        summary = job.summary().to_dict("records")
        console.print(summary_sheet(summary))
        _explain_errors(console, job, summary)
        again = _backfill(console, "The same again", _configs(scorers, personal=0.8), request)
        _say(console, f"{again.calls:,} calls: what has a result is never paid for again.")
        more = _backfill(console, "personal_data raised from 0.8 to 1.0", _configs(scorers, personal=1.0), request)
        before, now = job.counts["personal_data"].calls, more.counts["personal_data"].calls
        _say(
            console,
            f"{now:,} calls, not {before + now:,}: the sample at 1.0 holds the one at 0.8. The rate is exact now:",
        )
        console.print(summary_sheet(more.summary().to_dict("records")))
        _say_where_to_look(console, root, more)
    finally:
        configure()
    _say(console, f"Done in {time.monotonic() - began:.0f} s.")


def _fresh(root: Path) -> Path:
    """Remove what an earlier demo made, and nothing else."""
    if root.exists():
        if not (root / _MARKER).is_file():
            raise SettingsError(
                f"The folder {str(root)!r} was not made by the demo, so it is left alone. "
                "Move it away, or run the demo in another folder."
            )
        shutil.rmtree(root)
    root.mkdir(parents=True)
    (root / _MARKER).write_text("The demo removes this folder when it runs again.\n", encoding="utf-8")
    return root


def _settings(root: Path) -> Settings:
    return Settings.load(
        experiment_id="0",
        timezone="UTC",
        default_lookback=None,
        tables={"root": str(root), "schema": None, "prefix": ""},
        traces={"path": str(root / "traces"), "table": None, "format": "delta"},
        # Half a minute of cold code, so that Spark starts with the options of a short life, too. Measured on a busy
        # machine: 54 CPU s, and 80 with a second compiler. (A larger code cache is not swept; expressions are not
        # compiled; the young generation is not copied about; small tables have one state partition.)
        spark={
            "spark.driver.defaultJavaOptions": "-XX:ReservedCodeCacheSize=256m -Xms1g -Xmn640m",
            "spark.sql.codegen.factoryMode": "NO_CODEGEN",
            "spark.databricks.delta.snapshotPartitions": "1",
            "spark.sql.shuffle.partitions": "2",
        },
    )


@contextmanager
def _stderr_in(log: Path) -> Iterator[None]:
    """Let processes that start inside the `with` write their stderr to `log`: Spark's start is 25 lines of nothing."""
    ours = os.dup(2)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)


_CODE = """\
personal_data = PIIDetection().register(name="personal_data")
personal_data = personal_data.start(sampling_config=ScorerSamplingConfig(sample_rate=0.5))

@scorer(aggregations=["mean", "min", "max"])
def response_length(outputs):
    return len(outputs)

apology = RegexMatch(pattern="sorry|apologi[sz]e", case_insensitive=True).register(name="apology")
apology = apology.start(sampling_config=ScorerSamplingConfig(sample_rate=0.3, filter_string="trace.status = 'OK'"))"""


def _start_scorers() -> tuple[Any, Any, Any]:
    personal_data = PIIDetection().register(name="personal_data")
    personal_data = personal_data.start(sampling_config=ScorerSamplingConfig(sample_rate=0.5))

    @scorer(aggregations=["mean", "min", "max"])
    def response_length(outputs):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        """Measure response length in characters."""
        return len(outputs)

    registered = response_length.register(name="response_length")
    registered = registered.start(sampling_config=ScorerSamplingConfig(sample_rate=0.5))
    apology = RegexMatch(pattern="sorry|apologi[sz]e", case_insensitive=True).register(name="apology")
    apology = apology.start(sampling_config=ScorerSamplingConfig(sample_rate=0.3, filter_string="trace.status = 'OK'"))
    return personal_data, registered, apology


def _configs(scorers: tuple[Any, Any, Any], *, personal: float) -> list[BackfillScorerConfig]:
    personal_data, response_length, apology = scorers
    return [
        BackfillScorerConfig(scorer=personal_data, sample_rate=personal),
        BackfillScorerConfig(scorer=response_length, sample_rate=0.9),
        BackfillScorerConfig(scorer=apology),
    ]


def _backfill(
    console: Console, title: str, configs: list[BackfillScorerConfig], request: dict[str, Any]
) -> BackfillJob:
    from rich.console import Console

    with _step(console, title), views.audience(Console(quiet=True)):
        job_id = backfill_scorers(scorers=configs, **request)
        job = get_backfill(job_id)
    _say(console, f"job {job.job_id}: {job.state}, {job.calls:,} scorer calls")
    return job


def _explain_errors(console: Console, job: BackfillJob, summary: list[dict[Any, Any]]) -> None:
    errored = sum(counts.errored for counts in job.counts.values())
    row = next((row for row in summary if row["most_frequent_error"]), None)
    if errored and row is not None:
        _say(
            console,
            f"{errored:,} answers are missing in the history. Each cost its own result only, and its row says why: "
            f"{row['scorer']}: {row['most_frequent_error']}",
        )


def _say_where_to_look(console: Console, root: Path, job: BackfillJob) -> None:
    _say(console, f"Everything is in Delta tables under {root}/. To look at them:")
    console.print(
        f"""
    export BACKFILL_SPARK_TABLES__ROOT={root}
    .venv/bin/backfill-spark list
    .venv/bin/backfill-spark status {job.job_id}
    .venv/bin/backfill-spark scorers list

    .venv/bin/python
    >>> from backfill_spark import configure, read_assessments, read_traces
    >>> configure(tables={{"root": "{root}"}})
    >>> leaks = read_assessments(scorers=["personal_data"]).where("value_double = 0")
    >>> leaks.join(read_traces(), "trace_id").select("trace_id", "rationale", "response").show()
""",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def _step(console: Console, title: str) -> Iterator[None]:
    began = time.monotonic()
    console.print()
    console.print(title, style="bold", markup=False, highlight=False)
    yield
    console.print(f"  {time.monotonic() - began:.1f} s", style="dim", highlight=False)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)
