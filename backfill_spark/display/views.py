"""How a plan, a job, a scorer and a summary look: each becomes a Sheet.

The objects are taken by their public attributes, so that this module knows neither Spark nor pandas.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from backfill_spark.display.formats import many, moment_text, number_text, percent, state_text, window_text
from backfill_spark.display.progress import in_notebook
from backfill_spark.display.render import Sheet, Table, console
from backfill_spark.display.summary import ANSWER, answer_cells, counted, summary_sheet
from backfill_spark.models import Counts, JobState

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)

_PLANNED = ("in_window", "skipped", "filtered_out", "sampled_out", "already_scored", "due")
_DONE = ("due", "scored", "empty", "errored", "left", "calls")
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
            from IPython.display import display

            sheet = plan_sheet(plan)
            display({"text/html": sheet.html(), "text/plain": sheet.text(120)}, raw=True)  # type: ignore[no-untyped-call]
        elif (terminal := console(sys.stderr)).is_terminal:
            terminal.print(plan_sheet(plan))
    except Exception:  # a closed stream or an odd terminal
        logger.debug("The plan could not be shown.", exc_info=True)


def conclude(job: Callable[[], Any]) -> None:
    """Show the answer of a job that has just ended under a notebook's cell; elsewhere nothing is read for it.

    Args:
        job: reads the job.

    Never raises: the job has ended, whatever can be shown of it.
    """
    try:
        if in_notebook():
            from IPython.display import display

            job().summary()  # kept with the job, which is read again with it
            display(job())  # type: ignore[no-untyped-call]
    except Exception:
        logger.debug("The answer of the job could not be shown.", exc_info=True)


def plan_sheet(plan: Any) -> Sheet:
    """A BackfillPlan: window, source, calls, and the counts of each scorer from in window to due."""
    counts: Mapping[str, Counts] = plan.counts
    due = sum(count.due for count in counts.values())
    adopted = due - plan.calls
    calls = f"{plan.calls:,} for {due:,} due pairs in {many(plan.chunks, 'chunk')}"
    calls += f"; {adopted:,} were scored by earlier jobs and only need merging" if adopted > 0 else ""
    return Sheet(
        "Plan",
        (
            ("experiment", str(plan.experiment_id)),
            ("window", window_text(plan.window)),
            ("source", _source(plan)),
            ("tables", getattr(plan, "tables", "")),
            ("calls", calls),
            ("cost", _cost(plan)),
        ),
        (_counts_table(plan, _PLANNED),),
        (*_notes(plan), *_why_nothing(counts, due)),
    )


def job_sheet(job: Any, *, summary: Any = None, counts: bool = False) -> Sheet:
    """A BackfillJob: window, source, progress, times, calls, and the answer of each scorer.

    Args:
        summary: the rows of `job.summary()`; default: as somebody last read them, else what the runners counted.
        counts: show what became of the due pairs, too.
    """
    known = getattr(job, "known_summary", None)
    records = known if summary is None else summary
    answer = summary_sheet(counted(job) if records is None else records)
    is_known = records is not None and records is known
    return Sheet(
        f"Backfill {job.job_id} {state_text(job)}",
        (
            ("window", window_text(job.window)),
            ("source", _source(job)),
            ("tables", getattr(job, "tables", "")),
            ("progress", percent(job.progress)),
            ("created", moment_text(job.created_at)),
            ("started", moment_text(job.started_at)),
            ("ended", _ended(job)),
            ("calls", f"{job.calls or 0:,}"),
            ("cost", _cost(job)),
            ("error", job.error or ""),
            # Later jobs may have changed the results since.
            ("results of", moment_text(job.summary_at) if is_known else ""),
        ),
        (*([_counts_table(job, _DONE)] if counts else []), *answer.tables),
        (*_notes(job), *_without_repeats(answer.notes, getattr(job, "warnings", ()))),
        style=_STYLES.get(job.state, "bold"),
    )


def jobs_sheet(jobs: Iterable[Any]) -> Sheet:
    """Return a list of jobs, a row a scorer of each: its answer as somebody last read it, else its counts."""
    rows: list[tuple[str, ...]] = []
    shown = list(jobs)
    for job in shown:
        known = getattr(job, "known_summary", None)
        before = (job.job_id, state_text(job), percent(job.progress))
        after = (_cost(job), window_text(job.window))
        for row in answer_cells(counted(job) if known is None else known):
            rows.append((*before, *row, *after))
            before, after = ("", "", ""), ("", "")
    if not rows:
        return Sheet("No backfill jobs.")
    table = Table(
        ("job", "state", "done", *ANSWER, "cost", "window"),
        tuple(rows),
        left=frozenset({"state", "scorer", "window"}),
        whole=frozenset({"job", "state", "window"}),
        left_out=("calls", "left", "window", "done", "rate", "errors", "cost", "n"),
    )
    return Sheet(many(len(shown), "backfill job"), tables=(table,))


def scorer_sheet(scorer: Any, *, with_source: bool = False) -> Sheet:
    """A Scorer: version, rate, filter and digest; its source where asked for."""
    rate, known = scorer.sample_rate, scorer.registration
    source = known.source_text if with_source and known is not None else None
    return Sheet(
        f"Scorer {scorer.name} {scorer.status}",
        (
            ("experiment", "" if known is None else known.experiment_id),
            ("version", str(scorer.scorer_version or "")),
            ("registered", "" if known is None else moment_text(known.created_at)),
            ("takes", ", ".join(scorer.signature)),
            ("sample rate", "" if rate is None else number_text(rate)),
            ("filter", scorer.filter_string or ""),
            ("description", scorer.description or ""),
            ("aggregations", ", ".join(map(str, scorer.aggregations or ()))),
            # Of one that is not registered it would have to be made, which may fail.
            ("digest", "" if known is None else scorer.digest),
        ),
        notes=(source.rstrip(),) if source else (),
    )


def scorer_html(scorer: Any, *, problem: str | None) -> str:
    """A scorer in a notebook; `problem` is why it cannot be called."""
    state = (("kind", str(scorer.kind)), ("status", str(scorer.status)))
    sheet = scorer_sheet(scorer)
    return replace(sheet, title=scorer.name, facts=(*state, *sheet.facts, ("problem", problem or ""))).html()


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
    return Sheet(title or many(len(rows), "scorer"), tables=(Table(columns, rows, left),))


def _counts_table(thing: Any, keys: Sequence[str]) -> Table:
    rows = []
    for spec in thing.scorers:
        count = thing.counts.get(spec.name, Counts())
        shown = (f"{getattr(count, key):,}" for key in keys)
        rows.append((f"{spec.name} v{spec.version}", number_text(spec.sample_rate), *shown))
    return Table(("scorer", "rate", *(key.replace("_", "\n") for key in keys)), tuple(rows))


def _cost(thing: Any) -> str:
    cost = thing.cost_usd
    return "" if cost is None else f"${cost:,.2f}" if cost >= 1 or not cost else f"${cost:.4f}"


def _without_repeats(notes: Sequence[str], warnings: Sequence[str]) -> list[str]:
    """Return what the job's runner warned of, and what its results say now of the same scorers instead."""
    told = {note.split(" failed on ", 1)[0] for note in notes}
    return [*(w for w in warnings if w.split(" failed on ", 1)[0] not in told), *notes]


def _source(thing: Any) -> str:
    text = f"{getattr(thing, 'source_kind', '')} {thing.source or ''}".strip()
    return f"{text}, version {thing.source_version}" if thing.source_version else text


def _ended(job: Any) -> str:
    ended = moment_text(job.ended_at)
    if job.ended_at is None or job.started_at is None:
        return ended
    took: timedelta = job.ended_at - job.started_at
    return f"{ended}, after {took.total_seconds():,.1f} s"


def _skipped(counts: Mapping[str, Counts]) -> list[str]:
    """Count skipped rows by reason: once when all scorers skip the same, else a line a scorer."""
    reasons = {name: dict(sorted(count.skipped_reasons.items())) for name, count in counts.items()}
    texts = {name: ", ".join(f"{n:,} {why}" for why, n in each.items() if n) for name, each in reasons.items()}
    if len(set(texts.values())) == 1:
        text = next(iter(texts.values()))
        return [f"skipped: {text}"] if text else []
    return [f"skipped for {name}: {text}" for name, text in texts.items() if text]


def _notes(thing: Any) -> list[str]:
    filters = [f"filter of {spec.name}: {spec.filter_string}" for spec in thing.scorers if spec.filter_string]
    return [*_skipped(thing.counts), *filters, *_missing_ids(thing), *thing.notes]


def _missing_ids(thing: Any) -> list[str]:
    ids = tuple(getattr(thing, "trace_ids_missing", ()) or ())
    if not ids:
        return []
    shown = ", ".join(str(i) for i in ids[:_IDS_SHOWN]) + (", …" if len(ids) > _IDS_SHOWN else "")
    return [f"{many(len(ids), 'trace id')} not found: {shown}"]


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
