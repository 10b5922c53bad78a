"""One epoch of a backfill job: the loop over its chunks. Reads as the table of contents of the system."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from backfill_spark.backfill import chunks
from backfill_spark.backfill.attempt import Attempt, Canceled, TooManyErrors
from backfill_spark.backfill.staging import all_candidates, poll_other_jobs, reuse_staged
from backfill_spark.display.progress import tell
from backfill_spark.display.render import duration
from backfill_spark.errors import BackfillError
from backfill_spark.jobs.events import End, Event, JobRecord
from backfill_spark.jobs.failpoints import Failpoint, failpoint
from backfill_spark.models import Chunk, Counts, ScorerKind, ScorerSpec, mostly_failed
from backfill_spark.results.counts import PairCounts, StagedCounts, Watch, error_rows, most_frequent_errors
from backfill_spark.results.due import experiment_filter, highest_rate, select
from backfill_spark.scoring.spark import columns_needed, score
from backfill_spark.scoring.worker import MAX_IN_FLIGHT
from backfill_spark.selection import pairs as P
from backfill_spark.selection import sampling
from backfill_spark.storage.delta_table import error_text
from backfill_spark.storage.retry import until_alone
from backfill_spark.storage.session import compiled, scheduling_slots
from backfill_spark.traces.texts import key_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import Row

logger = logging.getLogger(__name__)

MERGE_ROWS = 200_000
MERGE_SECONDS = 600.0
MERGE_ATTEMPTS = 50


def run(attempt: Attempt) -> None:
    """Score, stage and merge every pair that is still due.

    Raises:
        Canceled, TooManyErrors, LeaseLostError, SourceGoneError: why it stopped early.
    """
    selection = count_due(attempt)
    reuse_staged(attempt, selection)
    merge_when_due(attempt)
    attempt.bar.begin(sum(selection.calls_by_hour.values()), later=sum(selection.asks_by_hour.values()))
    for chunk, tasks in next_chunks(attempt, selection):
        attempt.check()
        poll_other_jobs(attempt)
        attempt.lease.record(Event.CHUNK_PLANNED, chunk.to_json())
        stage(attempt, chunk, scored(attempt, chunk, selection, tasks))
        merge_when_due(attempt)
    if attempt.request.judges and attempt.ask_judges is not None:
        attempt.ask_judges(attempt, selection)
    poll_other_jobs(attempt)
    attempt.check()
    merge(attempt)


def count_due(attempt: Attempt) -> PairCounts:
    """Count the pairs, unless the plan has just done it: of the pinned source, and of the results as they are now.

    Another job may have scored the pairs, and emptied its staging, since this one was created.
    """
    if attempt.selection is None:
        # First staging: whoever merges and empties in between is then seen in one of them.
        attempt.staging_version = attempt.results.staging.version()
        version = attempt.results.assessments.version()
        attempt.request = replace(attempt.request, results_version=version)
        attempt.lease.change({"results_version": version})
        attempt.selection = select(
            attempt.request,
            attempt.source,
            attempt.results,
            choice=attempt.choice,
            job_id=attempt.job_id,
            staging_version=attempt.staging_version,
        )
        own = attempt.selection.own
        attempt.gone = {name: max(t.finished - own[name], 0) for name, t in attempt.tallies.items()}
    return attempt.selection


def collect_earlier(attempt: Attempt) -> None:
    """Take over what earlier epochs of this job have staged: its counts, and its chunks for a MERGE."""
    attempt.tallies = {s.name: StagedCounts() for s in attempt.request.scorers}
    if attempt.lease.epoch == 1:
        return
    rows = attempt.results.staged_by(attempt.job_id).select("chunk", "trace_date").distinct().collect()
    attempt.next_chunk = max((row["chunk"] for row in rows), default=-1) + 1
    for row in rows:
        attempt.waiting[row["chunk"]] = (*attempt.waiting.get(row["chunk"], ()), row["trace_date"])
    if rows:
        attempt.count(attempt.results.tally(attempt.job_id, attempt.request.scorers))
        attempt.bar.discount(attempt.bar.done)
        attempt.bar.tell("took over what earlier runners have staged")


def next_chunks(attempt: Attempt, selection: PairCounts) -> Iterator[tuple[Chunk, int | None]]:
    """Cut the due pairs into chunks of about 30 seconds, by the pace so far; with a number of tasks."""
    cutter = chunks.Cutter(selection.calls_by_hour, attempt.request.window, draw_to=highest_rate(attempt.request))
    slots = scheduling_slots(attempt.spark)
    code = [attempt.request.scorers[i] for i in attempt.request.code]
    waiting = sum(s.kind is ScorerKind.ASYNC_FUNCTION for s in code)
    full = chunks.full_task(len(code), waiting, MAX_IN_FLIGHT)
    target, pace = chunks.first_target(cutter.pairs), None
    while (chunk := cutter.next(target)) is not None:
        calls, seconds, worked = attempt.calls, attempt.call_seconds, attempt.stage_seconds
        yield numbered(attempt, chunk), chunks.tasks_for(chunk.pairs, pace, slots, full=full)
        if attempt.calls > calls or pace is None:
            # Calls that wait side by side take less of a task than their times add up to, and never more than it has.
            spent = min(attempt.call_seconds - seconds, (attempt.stage_seconds - worked) * slots)
            pace = spent / max(attempt.calls - calls, 1)
        target = max(chunks.next_target(pace, slots), full * slots)


def numbered(attempt: Attempt, chunk: Chunk) -> Chunk:
    """Give a chunk the job's next number; numbers of earlier epochs are not used again."""
    attempt.next_chunk += 1
    return replace(chunk, index=attempt.next_chunk - 1)


def scored(attempt: Attempt, chunk: Chunk, selection: PairCounts, tasks: int | None) -> DataFrame:
    """Return the chunk's due traces with the results of their scorers; nothing may be put above this frame."""
    limits = attempt.settings.limits
    code = [attempt.request.scorers[i] for i in attempt.request.code]
    due = due_traces(attempt, selection, attempt.request.code, chunk)
    if tasks is not None:
        due = due.repartition(tasks, "trace_id")
    results = score(
        code,
        attempt.source.columns,
        udf=attempt.settings.scoring.udf,
        payload=attempt.request.payload,
        trace_mb=limits.trace_mb,
        timeout_s=limits.scorer_timeout_s,
        unreadable=F.col("unreadable"),
    )
    return due.select("trace_id", "trace_time", "trace_date", key_text("session_id"), "draw", results.alias("results"))


def due_traces(
    attempt: Attempt, selection: PairCounts, indexes: Sequence[int], chunk: Chunk | None = None
) -> DataFrame:
    """Return the traces (of a chunk) that are due for the scorers at `indexes`: columns, keys and masks."""
    request, source = attempt.request, attempt.source
    scorers = [request.scorers[i] for i in indexes]
    wanted = columns_needed(scorers, source.columns) | P.light_columns(request, source.columns)
    traces = source.read(
        wanted,
        request.window if chunk is None else chunk.window,
        positions=selection.has_duplicates,
        experiment_id=experiment_filter(request),
    )
    pairs = P.choose(traces, request, source.columns, attempt.choice).where("skip is null")
    if chunk is not None and (chunk.draw_from, chunk.draw_to) != (0.0, 1.0):
        pairs = pairs.where(sampling.in_slice(chunk.draw_from, chunk.draw_to, request.seed))
    if selection.has_duplicates:
        pairs = P.drop_duplicates(
            pairs, P.winners(all_candidates(attempt, attempt.staging_version)), ties=selection.has_ties
        )
    pairs = attempt.results.with_done(
        pairs,
        request,
        job_id=attempt.job_id,
        staging_version=attempt.staging_version,
        dates=None if chunk is None else (chunk.dates[0], chunk.dates[-1]),
    )
    unreadable = P.submask(F.col("unreadable"), indexes)
    return pairs.withColumns({"due": P.submask(P.to_call_mask(), indexes), "unreadable": unreadable}).where("due != 0")


def stage(attempt: Attempt, chunk: Chunk, frame: DataFrame) -> None:
    """Append the scored chunk in one commit, and count it."""
    failpoint(Failpoint.BEFORE_STAGE)
    results, job_id, request, watch = attempt.results, attempt.job_id, attempt.request, Watch(attempt.request.scorers)
    began = time.monotonic()
    with compiled(attempt.spark, rows=chunk.pairs):
        rows = results.stage(frame, job_id, request, chunk.index, attempt.lease.next_txn(), watch)
        if rows is None:
            attempt.fenced()
        attempt.stage_seconds += time.monotonic() - began
        failpoint(Failpoint.AFTER_STAGE)
        attempt.waiting[chunk.index] = chunk.dates
        tallies = watch.tallies(rows) or results.tally(job_id, request.scorers, [chunk.index])
    attempt.staged(chunk.index, tallies)
    pairs = sum(t.finished for t in tallies.values())
    attempt.bar.tell(f"chunk {chunk.index} of {chunk.window}: {pairs:,} pairs in {duration(time.monotonic() - began)}")


def merge(attempt: Attempt) -> None:
    """MERGE every waiting chunk into `assessments`; conflicts with other jobs are tried again."""
    if not attempt.waiting:
        return
    failpoint(Failpoint.BEFORE_MERGE)
    numbers = sorted(attempt.waiting)
    dates = sorted({d for days in attempt.waiting.values() for d in days})
    began = time.monotonic()

    def once() -> Row | None:
        attempt.check()
        try:
            with attempt.bar.merging(attempt.rows_waiting), compiled(attempt.spark, rows=attempt.rows_waiting):
                return attempt.results.merge(attempt.job_id, attempt.request, numbers, dates, attempt.lease.next_txn())
        except Exception as error:
            # What Spark refuses to plan was never sent.
            attempt.is_merge_open = not isinstance(error, AnalysisException)
            raise

    def note(tried: int) -> None:
        attempt.lease.record(Event.CONFLICT, {"chunks": numbers, "attempt": tried})
        attempt.bar.tell(f"conflict with another writer at MERGE, tried again (attempt {tried})")
        attempt.lease.flush()

    if until_alone(once, attempts=MERGE_ATTEMPTS, between=note) is None:
        attempt.fenced()
    attempt.is_merge_open = False
    failpoint(Failpoint.AFTER_MERGE)
    attempt.lease.record(Event.CHUNK_MERGED, {"chunks": numbers})
    took = duration(time.monotonic() - began)
    attempt.bar.tell(f"MERGE of {attempt.rows_waiting:,} pairs from {len(numbers):,} chunks in {took}")
    attempt.waiting.clear()
    attempt.rows_waiting = 0
    attempt.merged_at = time.monotonic()


def merge_when_due(attempt: Attempt) -> None:
    """MERGE when enough rows wait, or when the last one was long ago."""
    if attempt.rows_waiting >= MERGE_ROWS or time.monotonic() - attempt.merged_at >= MERGE_SECONDS:
        merge(attempt)


def fence_open_merge(attempt: Attempt) -> None:
    """Shut out a MERGE that may still land: after this write, one with a lower number fails or is skipped."""
    if not attempt.is_merge_open:
        return
    store = attempt.results.assessments
    if not store.append(store.frame([]), txn=attempt.lease.next_txn()):
        attempt.fenced()
    attempt.is_merge_open = False


def record_coverage(attempt: Attempt) -> None:
    """Tell how far each scorer's sample reaches: the only place where coverage is read from."""
    request = attempt.request
    if request.lists_traces or request.sampling != "hash":
        return
    whole, each = P.filters_of(request)

    def reach(spec: ScorerSpec) -> float:
        is_short = spec.kind is ScorerKind.JUDGE and attempt.reached is not None
        return min(spec.sample_rate, attempt.reached or 0.0) if is_short else spec.sample_rate

    scorers = [
        {
            "scorer": s.name,
            "version": s.version,
            "filter_digest": f"{whole.digest}/{f.digest}",
            "draw": [0.0, reach(s)],
        }
        for s, f in zip(request.scorers, each, strict=True)
    ]
    attempt.lease.record(
        Event.COVERED,
        {
            "experiment_id": request.experiment_id,
            "window": request.window.to_json(),
            "seed": request.seed,
            "source_version": request.source_version,
            "scorers": scorers,
        },
    )


def finish(attempt: Attempt, how: End, error: str | None = None) -> JobRecord:
    """End the epoch with the job's counts; return the job, whose end another writer may have decided."""
    fence_open_merge(attempt)
    counts = final_counts(attempt)
    costs = [t.cost_usd for t in attempt.tallies.values() if t.cost_usd is not None]
    if how is End.SUCCEEDED and any(c.left for c in counts.values()):
        how, error = End.PARTIAL, attempt.stopped or "Some due pairs have no result; `resume` goes on with them."
    if how is End.SUCCEEDED or (how is End.PARTIAL and attempt.reached is not None):
        record_coverage(attempt)
    payload: dict[str, Any] = {
        "counts": {n: c.to_json() for n, c in counts.items()},
        "calls": sum(c.calls for c in counts.values()),
        # Answers that no pair has yet, and failed attempts, were paid as well.
        "cost_usd": max(sum(costs), attempt.spent_usd) if costs or attempt.spent_usd else None,
        "rate_reached": highest_rate(attempt.request) if how is End.SUCCEEDED else attempt.reached,
        "error": error,
        "warnings": _warnings(attempt),
    }
    record = attempt.lease.end(how, payload)
    if record.epoch != attempt.lease.epoch or record.is_released:
        attempt.fenced()
    _tell_end(attempt, record, counts, payload)
    return record


def _tell_end(attempt: Attempt, record: JobRecord, counts: Mapping[str, Counts], payload: Mapping[str, Any]) -> None:
    parts = [f"{sum(c[name] for c in counts.values()):,} {name}" for name in ("scored", "empty", "errored", "left")]
    parts.append(f"{payload['calls']:,} calls")
    if payload["cost_usd"] is not None:
        parts.append(f"${payload['cost_usd']:,.2f}")
    ended = f"job {attempt.job_id}: {record.state} after {duration(attempt.bar.elapsed_s)}: {', '.join(parts)}"
    tell(f"{ended}; {payload['error']}" if payload["error"] else ended)


def _warnings(attempt: Attempt) -> list[str]:
    """Say which scorers failed on more than half of their pairs, and with which error; in the log, too."""
    failing = {name: t for name, t in attempt.tallies.items() if 2 * t.errored > t.finished}
    if not failing:
        return []
    errors: dict[str, str] = {}
    try:
        errors = most_frequent_errors(error_rows(attempt.results.staged_by(attempt.job_id)), list(failing))
    except Exception as error:  # the job ends all the same
        logger.warning("job %s: its errors could not be counted: %s", attempt.job_id, error_text(error))
    said = [mostly_failed(name, t.errored, t.finished, errors.get(name)) for name, t in failing.items()]
    for text in said:
        logger.warning("job %s: %s", attempt.job_id, text)
    return said


def final_counts(attempt: Attempt) -> dict[str, Counts]:
    """Return the counts of the plan with what has been staged."""
    planned = attempt.selection.counts if attempt.selection is not None else attempt.planned
    out = {}
    for name, counts in planned.items():
        t = attempt.tallies.get(name, StagedCounts())
        # Before a survey nobody knows what a resume with --repin has added.
        gone = attempt.gone.get(name, 0) if attempt.selection is not None else max(t.finished - counts.due, 0)
        due = counts.due + gone
        out[name] = replace(
            counts,
            in_window=counts.in_window + gone,
            due=due,
            scored=t.scored,
            empty=t.empty,
            errored=t.errored,
            calls=t.calls,
            left=due - t.finished,
        )
    # Requests for what no pair has yet were sent as well; which of the judges they were for is not kept.
    judges = [attempt.request.scorers[i].name for i in attempt.request.judges]
    if judges and (more := attempt.asked - sum(out[name].calls for name in judges)) > 0:
        out[judges[0]] = replace(out[judges[0]], calls=out[judges[0]].calls + more)
    return out


def end_for(error: BaseException) -> tuple[End, str]:
    """Map what stopped an epoch to its end: what a resume can mend is PARTIAL."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    if isinstance(error, Canceled):
        return End.CANCELED, str(error)
    if isinstance(error, TooManyErrors):
        return End.FAILED, str(error)
    if isinstance(error, BackfillError):
        return End.PARTIAL, str(error)
    if isinstance(error, (PySparkException, Py4JError, OSError)) and not isinstance(error, AnalysisException):
        return End.PARTIAL, f"{error_text(error)}. `resume` goes on with what is left."
    return End.FAILED, f"{type(error).__name__}: {error_text(error)}"
