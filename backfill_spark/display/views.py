"""How a plan, a job, a scorer and a summary look: each becomes a Sheet.

The objects are taken by their public attributes, so that this module knows neither Spark nor pandas.
"""

from __future__ import annotations

import logging
import math
import numbers
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from backfill_spark.display.progress import Progress, in_notebook
from backfill_spark.display.render import Sheet, Table, clean, console
from backfill_spark.models import COUNT_NAMES, Counts, JobState, ScorerSpec, TimeWindow, mostly_failed

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Progress",
    "announce",
    "audience",
    "clean",
    "job_html",
    "job_sheet",
    "job_text",
    "jobs_sheet",
    "mean_text",
    "number_text",
    "plan_html",
    "plan_sheet",
    "plan_text",
    "scorer_sheet",
    "scorers_sheet",
    "state_text",
    "summary_sheet",
]

logger = logging.getLogger(__name__)

_PLANNED = ("in_window", "skipped", "filtered_out", "sampled_out", "already_scored", "due")
_DONE = ("due", "scored", "empty", "errored", "left", "calls")
_SUMMARY_KEYS = frozenset(
    {"scorer", "feedback", "version", "sample_rate", "n", "mean", "ci_low", "ci_high", "population", "results"}
    | {"results_errored", "most_frequent_error"}
    | {"n_seen", "mean_seen", "results_seen", "results_errored_seen", "source_unreadable"}
)
_STYLES = {JobState.SUCCEEDED: "bold green", JobState.PARTIAL: "bold yellow", JobState.FAILED: "bold red"}
_IDS_SHOWN = 10

_listener: ContextVar[Console | None] = ContextVar("backfill_spark_audience", default=None)


@contextmanager
def audience(shown_on: Console) -> Iterator[None]:
    """Let `announce` print on `shown_on` inside the `with`."""
    token = _listener.set(shown_on)
    try:
        yield
    finally:
        _listener.reset(token)


def announce(plan: Any) -> None:
    """Show a plan between planning and running: to the audience, or on a terminal's stderr, or in a notebook.

    Never raises: a plan that cannot be printed must not cost the job.
    """
    try:
        shown_on = _listener.get()
        if shown_on is not None:
            shown_on.print(plan_sheet(plan), "")
        elif in_notebook():
            sys.stdout.write(plan_sheet(plan).text(120) + "\n")
        elif (terminal := console(sys.stderr)).is_terminal:
            terminal.print(plan_sheet(plan))
    except Exception:  # a closed stream or an odd terminal
        logger.debug("The plan could not be shown.", exc_info=True)


def plan_sheet(plan: Any) -> Sheet:
    """Return what a BackfillPlan shows: window, source, a row a scorer from in window to due, calls."""
    counts: Mapping[str, Counts] = plan.counts
    due = sum(count.due for count in counts.values())
    rows = []
    for spec in plan.scorers:
        count = counts.get(spec.name, Counts())
        rows.append((_name(spec), number_text(spec.sample_rate), *(f"{getattr(count, key):,}" for key in _PLANNED)))
    adopted = due - plan.calls
    calls = f"{plan.calls:,} for {due:,} due pairs in {_many(plan.chunks, 'chunk')}"
    calls += f"; {adopted:,} were scored by earlier jobs and only need merging" if adopted > 0 else ""
    return Sheet(
        "Plan",
        (
            ("experiment", str(plan.experiment_id)),
            ("window", window_text(plan.window)),
            ("source", _source(plan)),
            ("tables", getattr(plan, "tables", "")),
            ("calls", calls),
            ("cost", "" if plan.cost_usd is None else f"${plan.cost_usd:,.2f}"),
        ),
        (Table(("scorer", "rate", *(key.replace("_", "\n") for key in _PLANNED)), tuple(rows)),),
        (*_skipped(counts), *_filters(plan.scorers), *_missing_ids(plan), *plan.notes, *_why_nothing(counts, due)),
    )


def job_sheet(job: Any, *, summary: Any = None, counts: bool = False) -> Sheet:
    """Return what a BackfillJob shows.

    Args:
        job: the job.
        summary: the frame of `job.summary()`: means and intervals, instead of what the runners counted.
        counts: show both.
    """
    rows = []
    for spec in job.scorers:
        count = job.counts.get(spec.name, Counts())
        rows.append((_name(spec), number_text(spec.sample_rate), *(f"{getattr(count, key):,}" for key in _DONE)))
    table = Table(("scorer", "rate", *_DONE), tuple(rows))
    answer = Sheet("") if summary is None else summary_sheet(summary)
    return Sheet(
        f"Backfill {job.job_id} {state_text(job)}",
        (
            ("window", window_text(job.window)),
            ("source", _source(job)),
            ("tables", getattr(job, "tables", "")),
            ("progress", _percent(job.progress)),
            ("created", _moment(job.created_at)),
            ("started", _moment(job.started_at)),
            ("ended", _ended(job)),
            ("calls", f"{job.calls or 0:,}"),
            ("cost", "" if job.cost_usd is None else f"{job.cost_usd:.4f} USD"),
            ("error", job.error or ""),
        ),
        (answer.tables or (table,)) if not counts else (table, *answer.tables),
        (
            *_skipped(job.counts),
            *_filters(job.scorers),
            *_missing_ids(job),
            *job.notes,
            *(answer.notes or getattr(job, "warnings", ())),
        ),
        style=_STYLES.get(job.state, "bold"),
    )


def plan_text(plan: Any) -> str:
    """Return a plan as plain text, for `__str__`."""
    return plan_sheet(plan).text()


def plan_html(plan: Any) -> str:
    """Return a plan as HTML, for `_repr_html_`."""
    return plan_sheet(plan).html()


def job_text(job: Any) -> str:
    """Return a job as plain text, for `__str__`."""
    return job_sheet(job).text()


def job_html(job: Any) -> str:
    """Return a job as HTML, for `_repr_html_`."""
    return job_sheet(job).html()


def jobs_sheet(jobs: Iterable[Any]) -> Sheet:
    """Return a list of jobs, a row a job."""
    rows = tuple(
        (
            job.job_id,
            state_text(job),
            _percent(job.progress),
            f"{job.calls or 0:,}",
            ", ".join(spec.name for spec in job.scorers),
            window_text(job.window),
        )
        for job in jobs
    )
    if not rows:
        return Sheet("No backfill jobs.")
    columns = ("job", "state", "done", "calls", "scorers", "window")
    left = frozenset({"state", "scorers", "window"})
    return Sheet(_many(len(rows), "backfill job"), tables=(Table(columns, rows, left, whole=frozenset({"job"})),))


def summary_sheet(summary: Any) -> Sheet:
    """Return the frame of `summary()` as a sheet: n, mean with its interval, errors, then the aggregations."""
    records: list[dict[str, Any]] = summary.to_dict("records")
    known = _SUMMARY_KEYS | set(COUNT_NAMES)
    more = [str(key) for key in summary.columns if key not in known and any(_is_shown(r.get(key)) for r in records)]
    names = [r["scorer"] for r in records]
    several = {name for name in names if names.count(name) > 1}
    # A source that cannot be read: only what the job itself merged is seen, and it is called so.
    why = next((r["source_unreadable"] for r in records if r.get("source_unreadable")), None)
    seen = "_seen" if why else ""
    mean = "mean seen,\nsource unreadable" if why else "mean\n[95 % interval]"
    columns = ("scorer", "rate", "n seen" if why else "n", mean, "errors", "left", "calls", *more)
    rows = tuple(
        (
            f"{r['scorer']} v{r['version']}" + (f" / {r['feedback']}" if r["scorer"] in several else ""),
            number_text(r.get("sample_rate")),
            _cell(r.get("n_seen")) if why else _n_text(r),
            mean_text(r.get(f"mean{seen}"), r.get("ci_low"), r.get("ci_high"), is_full=_is_full(r)),
            # Errors among the current results: a re-run that had nothing to do shows them too.
            _cell(r.get(f"results_errored{seen}", r.get("errored"))),
            _cell(r.get("left")),
            _cell(r.get("calls")),
            *(_cell(r.get(key)) for key in more),
        )
        for r in records
    )
    unread = [
        f"The source cannot be read, so only results that this job itself merged are seen, not all it chose: {why}"
    ]
    failing = {r["scorer"]: r for r in records if _is_shown(r.get("most_frequent_error"))}
    notes = (unread if why else []) + [
        mostly_failed(n, r[f"results_errored{seen}"], r[f"results{seen}"], r["most_frequent_error"])
        for n, r in failing.items()
    ]
    return Sheet("Summary", tables=(Table(columns, rows),), notes=tuple(notes))


def scorer_sheet(scorer: Any, *, with_source: bool = False) -> Sheet:
    """Return what a Scorer shows."""
    rate, known = scorer.sample_rate, scorer.registration
    source = known.source_text if with_source and known is not None else None
    return Sheet(
        f"Scorer {scorer.name} {scorer.status}",
        (
            ("experiment", "" if known is None else known.experiment_id),
            ("version", str(scorer.scorer_version or "")),
            ("registered", "" if known is None else _moment(known.created_at)),
            ("takes", ", ".join(scorer.signature)),
            ("sample rate", "" if rate is None else number_text(rate)),
            ("filter", scorer.filter_string or ""),
            ("description", scorer.description or ""),
            ("aggregations", _aggregations(scorer)),
            ("digest", scorer.digest or ""),
        ),
        notes=(source.rstrip(),) if source else (),
    )


def scorers_sheet(scorers: Sequence[Any], *, title: str = "") -> Sheet:
    """Return registered scorers, a row a scorer (or a version)."""
    if not scorers:
        return Sheet(title or "No scorers are registered.")
    columns = ("scorer", "version", "status", "rate", "filter", "description", "digest")
    rows = tuple(
        (
            s.name,
            str(s.scorer_version or ""),
            str(s.status),
            "" if s.sample_rate is None else number_text(s.sample_rate),
            s.filter_string or "",
            (s.description or "").split("\n", 1)[0],
            (s.digest or "")[:12],
        )
        for s in scorers
    )
    left = frozenset({"status", "filter", "description", "digest"})
    return Sheet(title or _many(len(rows), "scorer"), tables=(Table(columns, rows, left),))


def state_text(job: Any) -> str:
    """Return the state, and that its runner is dead where that is so."""
    is_running = job.state in (JobState.RUNNING, JobState.CANCELING)
    return f"{job.state} (runner dead)" if is_running and not job.alive else str(job.state)


def window_text(window: TimeWindow) -> str:
    """Return the half-open window, named as UTC."""
    return str(window) if window.start is None and window.end is None else f"{window} UTC"


def mean_text(mean: Any, low: Any, high: Any, *, is_full: bool = False) -> str:
    """Return `0.389 [0.370, 0.408]`, or `0.389 (all)` when everything was measured; "-" for nothing.

    The interval decides how many decimals make sense: two digits of its half-width.
    """
    if not _is_shown(mean):
        return "-"
    if is_full or not (_is_shown(low) and _is_shown(high)):
        return number_text(mean) + (" (all)" if is_full else " [not known]")
    half = (float(high) - float(low)) / 2
    if not (math.isfinite(half) and half > 0):
        return f"{number_text(mean)} [{number_text(low)}, {number_text(high)}]"
    decimals = min(max(1 - math.floor(math.log10(half)), 0), 9)
    return f"{float(mean):,.{decimals}f} [{float(low):,.{decimals}f}, {float(high):,.{decimals}f}]"


def number_text(value: Any) -> str:
    """Return a number with four digits, whole numbers in full; "-" for none."""
    if not _is_shown(value):
        return "-"
    number = float(value)
    if number.is_integer() and abs(number) < 1e15:
        return f"{int(number):,}"
    return f"{number:,.0f}" if 1e4 <= abs(number) < 1e15 else f"{number:.4g}"


def _is_shown(value: Any) -> bool:
    return value is not None and not (isinstance(value, numbers.Real) and math.isnan(value))


def _cell(value: Any) -> str:
    if isinstance(value, numbers.Real) or not _is_shown(value):
        return number_text(value)
    return str(value)


def _is_full(record: Mapping[str, Any]) -> bool:
    n, population = record.get("n"), record.get("population")
    return _is_shown(n) and _is_shown(population) and n == population and bool(n)


def _n_text(record: Mapping[str, Any]) -> str:
    population = record.get("population")
    n = number_text(record.get("n"))
    return n if _is_full(record) or not _is_shown(population) else f"{n} of {number_text(population)}"


def _name(spec: ScorerSpec) -> str:
    return f"{spec.name} v{spec.version}"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _percent(share: float) -> str:
    # Rounded up, 99.6 % would read as finished.
    return f"{math.floor(share * 100)}%"


def _source(thing: Any) -> str:
    version = thing.source_version
    kind = getattr(thing, "source_kind", "")
    text = f"{kind} {thing.source}" if kind else str(thing.source or "")
    return f"{text}, version {version}" if version not in (None, "") else text


def _moment(moment: datetime | None) -> str:
    if moment is None:
        return ""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return f"{aware.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _ended(job: Any) -> str:
    if job.ended_at is None:
        return ""
    if job.started_at is None:
        return _moment(job.ended_at)
    took: timedelta = job.ended_at - job.started_at
    return f"{_moment(job.ended_at)}, after {took.total_seconds():,.1f} s"


def _aggregations(scorer: Any) -> str:
    return ", ".join(str(a) for a in scorer.aggregations or ())


def _skipped(counts: Mapping[str, Counts]) -> list[str]:
    """Say why rows were skipped: once when all scorers skip the same, else a line a scorer."""
    reasons = {name: dict(sorted(count.skipped_reasons.items())) for name, count in counts.items()}
    texts = {name: ", ".join(f"{n:,} {why}" for why, n in each.items() if n) for name, each in reasons.items()}
    if len(set(texts.values())) == 1:
        text = next(iter(texts.values()))
        return [f"skipped: {text}"] if text else []
    return [f"skipped for {name}: {text}" for name, text in texts.items() if text]


def _filters(scorers: Iterable[ScorerSpec]) -> list[str]:
    return [f"filter of {spec.name}: {spec.filter_string}" for spec in scorers if spec.filter_string]


def _missing_ids(thing: Any) -> list[str]:
    ids = tuple(getattr(thing, "trace_ids_missing", ()) or ())
    if not ids:
        return []
    shown = ", ".join(str(i) for i in ids[:_IDS_SHOWN]) + (", …" if len(ids) > _IDS_SHOWN else "")
    return [f"{_many(len(ids), 'trace id')} not found: {shown}"]


def _why_nothing(counts: Mapping[str, Counts], due: int) -> list[str]:
    """Zero due pairs read as broken unless the reason is said."""
    if due:
        return []
    total = {key: sum(getattr(count, key) for count in counts.values()) for key in _PLANNED}
    if not total["in_window"]:
        return ["Nothing is due: the window holds no traces."]
    why = [
        f"{total[key]:,} {said}"
        for key, said in (
            ("already_scored", "pairs already have results"),
            ("sampled_out", "were not sampled"),
            ("filtered_out", "do not match the filters"),
            ("skipped", "were skipped"),
        )
        if total[key]
    ]
    return [f"Nothing is due: {', '.join(why)}."]
