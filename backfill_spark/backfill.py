"""One epoch of a backfill job: the loop over its chunks. Reads as the table of contents of the system."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from backfill_spark import chunks, sampling
from backfill_spark import pairs as P
from backfill_spark.adoption import adopt, everything, look_again
from backfill_spark.epoch import Canceled, Epoch, TooManyErrors
from backfill_spark.errors import BackfillError
from backfill_spark.failpoints import Failpoint, failpoint
from backfill_spark.job_record import End, Event, JobRecord
from backfill_spark.models import Chunk, Counts, ScorerKind, ScorerSpec, mostly_failed
from backfill_spark.plan import Selection, experiment_filter, highest_rate, select
from backfill_spark.scoring.udfs import columns_needed, score
from backfill_spark.scoring.worker import MAX_IN_FLIGHT
from backfill_spark.session import compiled, scheduling_slots
from backfill_spark.store import error_text, is_conflict
from backfill_spark.tally import Tally, Watch, error_rows, most_frequent_errors
from backfill_spark.texts import key_text

if TYPE_CHECKING:
    from collections.abc import Sequence


logger = logging.getLogger(__name__)

MERGE_ROWS = 200_000
MERGE_SECONDS = 600.0
MERGE_ATTEMPTS = 50


def run(epoch: Epoch) -> None:
    """Score, stage and merge every pair that is still due.

    Raises:
        Canceled, TooManyErrors, LeaseLostError, SourceGoneError: why it stopped early.
    """
    selection = survey(epoch)
    adopt(epoch, selection)
    merge_when_due(epoch)
    for chunk, tasks in pieces(epoch, selection):
        epoch.check()
        look_again(epoch)
        epoch.lease.note(Event.CHUNK_PLANNED, chunk.to_json())
        stage(epoch, chunk, scored(epoch, chunk, selection, tasks))
        merge_when_due(epoch)
    if epoch.request.judges and epoch.ask_judges is not None:
        epoch.ask_judges(epoch, selection)
    look_again(epoch)
    epoch.check()
    merge(epoch)


def survey(epoch: Epoch) -> Selection:
    """Count the pairs, unless the plan has just done it: of the pinned source, and of the results as they are now.

    Another job may have scored the pairs, and emptied its staging, since this one was created.
    """
    if epoch.selection is None:
        # First staging: whoever merges and empties in between is then seen in one of them.
        epoch.staging_version = epoch.results.staging.version()
        version = epoch.results.assessments.version()
        epoch.request = replace(epoch.request, results_version=version)
        epoch.lease.note(Event.CHANGED, {"results_version": version})
        epoch.selection = select(
            epoch.request,
            epoch.source,
            epoch.results,
            choice=epoch.choice,
            job_id=epoch.job_id,
            staging_version=epoch.staging_version,
        )
        own = epoch.selection.own
        epoch.gone = {name: max(t.finished - own[name], 0) for name, t in epoch.tallies.items()}
    return epoch.selection


def collect_earlier(epoch: Epoch) -> None:
    """Take over what earlier epochs of this job have staged: its counts, and its chunks for a MERGE."""
    epoch.tallies = {s.name: Tally() for s in epoch.request.scorers}
    if epoch.lease.epoch == 1:
        return
    rows = epoch.results.staged_by(epoch.job_id).select("chunk", "trace_date").distinct().collect()
    epoch.next_chunk = max((row["chunk"] for row in rows), default=-1) + 1
    for row in rows:
        epoch.waiting[row["chunk"]] = (*epoch.waiting.get(row["chunk"], ()), row["trace_date"])
    if rows:
        epoch.count(epoch.results.tally(epoch.job_id, epoch.request.scorers))


def pieces(epoch: Epoch, selection: Selection) -> Iterator[tuple[Chunk, int | None]]:
    """Cut the due pairs into chunks of about 30 seconds, by the pace so far; with a number of tasks."""
    cutter = chunks.Cutter(selection.calls_by_hour, epoch.request.window, draw_to=highest_rate(epoch.request))
    slots = scheduling_slots(epoch.spark)
    code = [epoch.request.scorers[i] for i in epoch.request.code]
    waiting = sum(s.kind is ScorerKind.ASYNC_FUNCTION for s in code)
    full = chunks.full_task(len(code), waiting, MAX_IN_FLIGHT)
    target, pace = chunks.first_target(cutter.pairs), None
    while (chunk := cutter.next(target)) is not None:
        calls, seconds, worked = epoch.calls, epoch.call_seconds, epoch.stage_seconds
        yield numbered(epoch, chunk), chunks.tasks_for(chunk.pairs, pace, slots, full=full)
        if epoch.calls > calls or pace is None:
            # Calls that wait side by side take less of a task than their times add up to, and never more than it has.
            spent = min(epoch.call_seconds - seconds, (epoch.stage_seconds - worked) * slots)
            pace = spent / max(epoch.calls - calls, 1)
        target = max(chunks.next_target(pace, slots), full * slots)


def numbered(epoch: Epoch, chunk: Chunk) -> Chunk:
    """Give a chunk the job's next number; numbers of earlier epochs are not used again."""
    epoch.next_chunk += 1
    return replace(chunk, index=epoch.next_chunk - 1)


def scored(epoch: Epoch, chunk: Chunk, selection: Selection, tasks: int | None) -> DataFrame:
    """Return the chunk's due traces with the results of their scorers; nothing may be put above this frame."""
    limits = epoch.settings.limits
    code = [epoch.request.scorers[i] for i in epoch.request.code]
    due = due_traces(epoch, selection, epoch.request.code, chunk)
    if tasks is not None:
        due = due.repartition(tasks, "trace_id")
    results = score(
        code,
        epoch.source.columns,
        udf=epoch.settings.scoring.udf,
        payload=epoch.request.payload,
        trace_mb=limits.trace_mb,
        timeout_s=limits.scorer_timeout_s,
        unreadable=F.col("unreadable"),
    )
    return due.select("trace_id", "trace_time", "trace_date", key_text("session_id"), "draw", results.alias("results"))


def due_traces(epoch: Epoch, selection: Selection, indexes: Sequence[int], chunk: Chunk | None = None) -> DataFrame:
    """Return the traces (of a chunk) that are due for the scorers at `indexes`: columns, keys and masks."""
    request, source = epoch.request, epoch.source
    scorers = [request.scorers[i] for i in indexes]
    wanted = columns_needed(scorers, source.columns) | P.light_columns(request, source.columns)
    traces = source.read(
        wanted,
        request.window if chunk is None else chunk.window,
        positions=selection.has_duplicates,
        experiment_id=experiment_filter(request),
    )
    pairs = P.choose(traces, request, source.columns, epoch.choice).where("skip is null")
    if chunk is not None and (chunk.draw_from, chunk.draw_to) != (0.0, 1.0):
        pairs = pairs.where(sampling.in_slice(chunk.draw_from, chunk.draw_to, request.seed))
    if selection.has_duplicates:
        pairs = P.drop_duplicates(pairs, P.winners(everything(epoch, epoch.staging_version)), ties=selection.has_ties)
    pairs = epoch.results.with_done(
        pairs,
        request,
        job_id=epoch.job_id,
        staging_version=epoch.staging_version,
        dates=None if chunk is None else (chunk.dates[0], chunk.dates[-1]),
    )
    unreadable = P.submask(F.col("unreadable"), indexes)
    return pairs.withColumns({"due": P.submask(P.to_call_mask(), indexes), "unreadable": unreadable}).where("due != 0")


def stage(epoch: Epoch, chunk: Chunk, frame: DataFrame) -> None:
    """Append the scored chunk in one commit, and count it."""
    failpoint(Failpoint.BEFORE_STAGE)
    results, job_id, request, watch = epoch.results, epoch.job_id, epoch.request, Watch(epoch.request.scorers)
    began = time.monotonic()
    with compiled(epoch.spark, rows=chunk.pairs):
        rows = results.stage(frame, job_id, request, chunk.index, epoch.lease.next_txn(), watch)
        if rows is None:
            epoch.fenced()
        epoch.stage_seconds += time.monotonic() - began
        failpoint(Failpoint.AFTER_STAGE)
        epoch.waiting[chunk.index] = chunk.dates
        tallies = watch.tallies(rows) or results.tally(job_id, request.scorers, [chunk.index])
    epoch.staged(chunk.index, tallies)


def merge(epoch: Epoch) -> None:
    """MERGE every waiting chunk into `assessments`; conflicts with other jobs are tried again."""
    import random

    if not epoch.waiting:
        return
    failpoint(Failpoint.BEFORE_MERGE)
    numbers = sorted(epoch.waiting)
    dates = sorted({d for days in epoch.waiting.values() for d in days})
    for attempt in range(MERGE_ATTEMPTS):
        epoch.check()
        try:
            with compiled(epoch.spark, rows=epoch.rows_waiting):
                done = epoch.results.merge(epoch.job_id, epoch.request, numbers, dates, epoch.lease.next_txn())
        except Exception as error:
            if not is_conflict(error) or attempt == MERGE_ATTEMPTS - 1:
                # What Spark refuses to plan was never sent.
                epoch.is_merge_open = not isinstance(error, AnalysisException)
                raise
            epoch.lease.note(Event.CONFLICT, {"chunks": numbers, "attempt": attempt + 1})
            epoch.lease.tell()
            time.sleep(min(0.2 * 2**attempt, 10.0) * random.uniform(0.5, 1.5))
        else:
            break
    if done is None:
        epoch.fenced()
    failpoint(Failpoint.AFTER_MERGE)
    epoch.lease.note(Event.CHUNK_MERGED, {"chunks": numbers})
    epoch.waiting.clear()
    epoch.rows_waiting = 0
    epoch.merged_at = time.monotonic()


def merge_when_due(epoch: Epoch) -> None:
    """MERGE when enough rows wait, or when the last one was long ago."""
    if epoch.rows_waiting >= MERGE_ROWS or time.monotonic() - epoch.merged_at >= MERGE_SECONDS:
        merge(epoch)


def seal(epoch: Epoch) -> None:
    """Shut out a MERGE that may still land: after this write, one with a lower number fails or is skipped."""
    if not epoch.is_merge_open:
        return
    store = epoch.results.assessments
    if not store.append(store.frame([]), txn=epoch.lease.next_txn()):
        epoch.fenced()
    epoch.is_merge_open = False


def cover(epoch: Epoch) -> None:
    """Tell how far each scorer's sample reaches: the only place where coverage is read from."""
    request = epoch.request
    if request.lists_traces or request.sampling != "hash":
        return
    whole, each = P.filters_of(request)

    def reach(spec: ScorerSpec) -> float:
        is_short = spec.kind is ScorerKind.JUDGE and epoch.reached is not None
        return min(spec.sample_rate, epoch.reached or 0.0) if is_short else spec.sample_rate

    scorers = [
        {
            "scorer": s.name,
            "version": s.version,
            "filter_digest": f"{whole.digest}/{f.digest}",
            "draw": [0.0, reach(s)],
        }
        for s, f in zip(request.scorers, each, strict=True)
    ]
    epoch.lease.note(
        Event.COVERED,
        {
            "experiment_id": request.experiment_id,
            "window": request.window.to_json(),
            "seed": request.seed,
            "source_version": request.source_version,
            "scorers": scorers,
        },
    )


def finish(epoch: Epoch, how: End, error: str | None = None) -> JobRecord:
    """End the epoch with the job's counts; return the job, whose end another writer may have decided."""
    seal(epoch)
    counts = final_counts(epoch)
    costs = [t.cost_usd for t in epoch.tallies.values() if t.cost_usd is not None]
    if how is End.SUCCEEDED and any(c.left for c in counts.values()):
        how, error = End.PARTIAL, epoch.stopped or "Some due pairs have no result; `resume` goes on with them."
    if how is End.SUCCEEDED or (how is End.PARTIAL and epoch.reached is not None):
        cover(epoch)
    payload: dict[str, Any] = {
        "counts": {n: c.to_json() for n, c in counts.items()},
        "calls": sum(c.calls for c in counts.values()),
        # Answers that no pair has yet, and failed attempts, were paid as well.
        "cost_usd": max(sum(costs), epoch.spent_usd) if costs or epoch.spent_usd else None,
        "rate_reached": highest_rate(epoch.request) if how is End.SUCCEEDED else epoch.reached,
        "error": error,
        "warnings": _warnings(epoch),
    }
    record = epoch.lease.end(how, payload)
    if record.epoch != epoch.lease.epoch or record.is_released:
        epoch.fenced()
    return record


def _warnings(epoch: Epoch) -> list[str]:
    """Say which scorers failed on more than half of their pairs, and with which error; in the log, too."""
    failing = {name: t for name, t in epoch.tallies.items() if 2 * t.errored > t.finished}
    if not failing:
        return []
    errors: dict[str, str] = {}
    try:
        errors = most_frequent_errors(error_rows(epoch.results.staged_by(epoch.job_id)), list(failing))
    except Exception as error:  # the job ends all the same
        logger.warning("job %s: its errors could not be counted: %s", epoch.job_id, error_text(error))
    said = [mostly_failed(name, t.errored, t.finished, errors.get(name)) for name, t in failing.items()]
    for text in said:
        logger.warning("job %s: %s", epoch.job_id, text)
    return said


def final_counts(epoch: Epoch) -> dict[str, Counts]:
    """Return the counts of the plan with what has been staged."""
    planned = epoch.selection.counts if epoch.selection is not None else epoch.planned
    out = {}
    for name, counts in planned.items():
        t = epoch.tallies.get(name, Tally())
        # Before a survey nobody knows what a resume with --repin has added.
        gone = epoch.gone.get(name, 0) if epoch.selection is not None else max(t.finished - counts.due, 0)
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
    judges = [epoch.request.scorers[i].name for i in epoch.request.judges]
    if judges and (more := epoch.asked - sum(out[name].calls for name in judges)) > 0:
        out[judges[0]] = replace(out[judges[0]], calls=out[judges[0]].calls + more)
    return out


def how_it_ends(error: BaseException) -> tuple[End, str]:
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
