"""Ending: what an attempt comes to, in counts and in the state that it leaves its job in, and what is then dropped."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyspark.errors import AnalysisException

from backfill_spark.backfill.attempt import Attempt, Canceled, TooManyErrors
from backfill_spark.backfill.staging import fence_open_merge
from backfill_spark.display.progress import tell
from backfill_spark.display.render import duration
from backfill_spark.errors import BackfillError, LeaseLostError, SourceGoneError, interrupt_behind
from backfill_spark.jobs.events import End, Event, JobRecord
from backfill_spark.jobs.failpoints import Failpoint, failpoint
from backfill_spark.judges.answers import close_journal, forget_answers
from backfill_spark.models import Counts, ScorerKind, mostly_failed
from backfill_spark.results.counts import most_frequent_errors
from backfill_spark.results.due import highest_rate
from backfill_spark.results.staged import StagedCounts
from backfill_spark.selection import pairs as P
from backfill_spark.storage.capabilities import is_connect
from backfill_spark.storage.retry import error_text
from backfill_spark.traces.sources import corrupt_file, source_gone

if TYPE_CHECKING:
    from backfill_spark.backfill.tables import Tables
    from backfill_spark.models import Request, ScorerSpec

logger = logging.getLogger(__name__)


def finish(attempt: Attempt, how: End, error: str | None = None) -> JobRecord:
    """End the epoch with the job's counts; return the job, whose end another writer may have decided."""
    fence_open_merge(attempt)
    progress, counts = attempt.progress, final_counts(attempt)
    costs = [t.cost_usd for t in progress.staged.values() if t.cost_usd is not None]
    if how is End.SUCCEEDED and any(c.left for c in counts.values()):
        how, error = End.PARTIAL, progress.stopped or "Some due pairs have no result; `resume` goes on with them."
    if how is End.SUCCEEDED or (how is End.PARTIAL and progress.reached is not None):
        coverage = coverage_of(attempt.request, progress.reached)
        if coverage is not None:
            attempt.lease.record(Event.COVERED, coverage)
    paid = progress.spending.paid_usd
    payload: dict[str, Any] = {
        "counts": {n: c.to_json() for n, c in counts.items()},
        "calls": sum(c.calls for c in counts.values()),
        # Answers that no pair has yet, and failed attempts, were paid as well.
        "cost_usd": max(sum(costs), paid) if costs or paid else None,
        "rate_reached": highest_rate(attempt.request) if how is End.SUCCEEDED else progress.reached,
        "error": error,
        "warnings": [*_without_fence(attempt), *_warnings(attempt)],
    }
    record = attempt.lease.end(how, payload)
    if record.epoch != attempt.lease.epoch or record.is_released:
        attempt.fenced()
    tell_end(record, payload, counts, attempt.bar.elapsed_s)
    return record


def tell_end(record: JobRecord, payload: Mapping[str, Any], counts: Mapping[str, Counts], seconds: float) -> None:
    """Say in one line how a job ended."""
    parts = [f"{sum(c[name] for c in counts.values()):,} {name}" for name in ("scored", "empty", "errored", "left")]
    parts.append(f"{payload['calls']:,} calls")
    if payload["cost_usd"] is not None:
        parts.append(f"${payload['cost_usd']:,.2f}")
    ended = f"job {record.job_id}: {record.state} after {duration(seconds)}: {', '.join(parts)}"
    tell(f"{ended}; {payload['error']}" if payload["error"] else ended)


def coverage_of(request: Request, reached: float | None) -> dict[str, Any] | None:
    """Say how far each scorer's sample reaches: the only place where coverage is read from; None of listed traces."""
    if request.lists_traces or request.sampling != "hash":
        return None
    whole, each = P.filters_of(request)

    def reach(spec: ScorerSpec) -> float:
        is_short = spec.kind is ScorerKind.JUDGE and reached is not None
        return min(spec.sample_rate, reached or 0.0) if is_short else spec.sample_rate

    scorers = [
        {
            "scorer": s.name,
            "version": s.version,
            "filter_digest": f"{whole.digest}/{f.digest}",
            "draw": [0.0, reach(s)],
        }
        for s, f in zip(request.scorers, each, strict=True)
    ]
    return {
        "experiment_id": request.experiment_id,
        "window": request.window.to_json(),
        "seed": request.seed,
        "source_version": request.source_version,
        "scorers": scorers,
    }


def _without_fence(attempt: Attempt) -> list[str]:
    """Say where a MERGE of an older runner would not be skipped: Spark Connect has no session for a transaction."""
    if not is_connect(attempt.tables.spark):
        return []
    return ["on Spark Connect the fence holds for appends, not for a MERGE: an older runner's could still land"]


def _warnings(attempt: Attempt) -> list[str]:
    """Name the scorers that failed on more than half of their pairs, and their error; in the log, too."""
    failing = {name: t for name, t in attempt.progress.staged.items() if 2 * t.errored > t.finished}
    if not failing:
        return []
    errors: dict[str, str] = {}
    try:
        errors = most_frequent_errors(attempt.tables.results.waiting.read(attempt.mine), list(failing))
    except Exception as error:  # the job ends all the same
        logger.warning("job %s: its errors could not be counted: %s", attempt.job_id, error_text(error))
    said = [mostly_failed(name, t.errored, t.finished, errors.get(name)) for name, t in failing.items()]
    for text in said:
        logger.warning("job %s: %s", attempt.job_id, text)
    return said


def final_counts(attempt: Attempt) -> dict[str, Counts]:
    """Return the counts of the plan with what has been staged."""
    progress, out = attempt.progress, {}
    for name, counts in progress.planned.items():
        t = progress.staged.get(name, StagedCounts())
        # Before it is counted again nobody knows what a resume with --repin has added.
        gone = max(t.finished - counts.due, 0) if progress.gone is None else progress.gone.get(name, 0)
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
    if judges and (more := progress.spending.attempts - sum(out[name].calls for name in judges)) > 0:
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


def explained(attempt: Attempt, error: Exception) -> Exception:
    """Name a lost or corrupt file of the source, and a cancel, behind a Spark error."""
    if attempt.lease.is_canceled:
        return Canceled(f"Job {attempt.job_id} was canceled.")
    if isinstance(error, SourceGoneError):
        return error
    if source_gone(error):
        return SourceGoneError(
            f"Version {attempt.request.source_version} of {attempt.request.source!r} can no longer be read in full: "
            f"its files were removed. `backfill-spark resume {attempt.job_id} --repin` goes on from the newest version."
        )
    if (file := corrupt_file(error)) is not None:
        return SourceGoneError(
            f"The source file {file} is corrupt. Restore it and `backfill-spark resume {attempt.job_id}`, or repair "
            "the table and resume with --repin."
        )
    return error


def close(tables: Tables, record: JobRecord, *, has_staged: bool = True) -> None:
    """Bring the job's row up to date and drop what an ended job no longer needs; its end stands already."""
    with logged(f"job {record.job_id} is {record.state}; its tables are tidied later", {}):
        tables.jobs.show(record)
        if record.state.is_terminal:
            _clean_up(tables, record, has_staged=has_staged)
    if record.state.is_terminal:
        failpoint(Failpoint.AFTER_CLEANUP)


def _clean_up(tables: Tables, record: JobRecord, *, has_staged: bool) -> None:
    job_id, request = record.job_id, record.created["request"]
    tables.jobs.heartbeat.clear(job_id)
    has_work = request["lists_traces"] or request["sampling"] != "hash" or request["models"]
    if has_work or record.created.get("has_files"):
        tables.work.clear(job_id)
    if has_staged and record.state == End.SUCCEEDED.value and not tables.jobs.others(request["experiment_id"], job_id):
        # Nobody reads them; what another job may still adopt is left to `maintain`.
        tables.results.waiting.drop(job_id)
    if request["models"]:
        close_journal(tables, job_id)
        if tables.settings.judge.cache != "on":
            forget_answers(tables, job_id)


@contextmanager
def logged(what: str, trouble: dict[str, Exception]) -> Iterator[None]:
    """Log what goes wrong in the block and keep it in `trouble`; forget it when it goes well."""
    try:
        yield
    except LeaseLostError as error:
        logger.warning("%s", error)
    except Exception as error:
        if interrupt_behind(error) is not None:
            raise
        said = str(error) if isinstance(error, BackfillError) else f"{type(error).__name__}: {error_text(error)}"
        logger.warning("%s: %s", what, said)
        trouble[what] = error
    else:
        trouble.pop(what, None)
