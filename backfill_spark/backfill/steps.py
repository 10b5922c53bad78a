"""One epoch of a backfill job: the loop over its chunks. Reads as the table of contents of the system."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from backfill_spark.backfill import chunks
from backfill_spark.backfill.judge_steps import ask_judges
from backfill_spark.backfill.staging import (
    merge,
    merge_when_due,
    poll_other_jobs,
    reuse_staged,
    stage,
    staged_elsewhere,
)
from backfill_spark.backfill.turns import take_turn
from backfill_spark.models import ScorerKind
from backfill_spark.results.due import highest_rate
from backfill_spark.scoring.spark import score, score_in_task
from backfill_spark.scoring.worker import MAX_IN_FLIGHT
from backfill_spark.storage.capabilities import capabilities
from backfill_spark.traces.texts import key_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyspark.sql import Column, DataFrame

    from backfill_spark.backfill.attempt import Attempt, JobProgress
    from backfill_spark.backfill.inputs import Inputs
    from backfill_spark.models import Chunk, Request, ScorerSpec
    from backfill_spark.results.write import Scored


def run(attempt: Attempt) -> None:
    """Score, stage and merge every pair that is still due.

    Raises:
        Canceled, TooManyErrors, LeaseLostError, SourceGoneError: why it stopped early.
    """
    reuse_staged(attempt)
    merge_when_due(attempt)
    while not score_chunks(attempt):
        staged = staged_elsewhere(attempt.tables, attempt.request.experiment_id, attempt.job_id)
        attempt.open(attempt.inputs.recounted(staged.and_mine(attempt.mine)))
        reuse_staged(attempt)
    ask_judges(attempt)
    poll_other_jobs(attempt)
    attempt.check()
    merge(attempt)


def score_chunks(attempt: Attempt) -> bool:
    """Score chunk after chunk; False when another job had pairs of one under way: then others are left."""
    due, slots = attempt.inputs.pairs, capabilities(attempt.tables.spark).slots
    attempt.bar.begin(sum(due.calls_by_hour.values()), later=sum(due.asks_by_hour.values()))
    for chunk, tasks in next_chunks(attempt.request, attempt.progress, due.calls_by_hour, slots):
        attempt.check()
        has_waited = take_turn(attempt, chunk.to_json())
        poll_other_jobs(attempt)
        if has_waited:
            return False
        stage(attempt, chunk, ChunkScoring(attempt.inputs, chunk, tasks))
        merge_when_due(attempt)
    return True


def next_chunks(
    request: Request, progress: JobProgress, pairs_by_hour: Mapping[int, int], slots: int
) -> Iterator[tuple[Chunk, int | None]]:
    """Cut the due pairs into chunks of 30 seconds or less, by the pace so far; with a number of tasks."""
    cutter = chunks.Cutter(pairs_by_hour, request.window, draw_to=highest_rate(request))
    code = [request.scorers[i] for i in request.code]
    waiting = sum(s.kind is ScorerKind.ASYNC_FUNCTION for s in code)
    full = chunks.full_task(len(code), waiting, MAX_IN_FLIGHT)
    pairs, pace = cutter.pairs, None
    target = chunks.first_target(pairs)
    while (chunk := cutter.next(target)) is not None:
        calls, seconds, worked = progress.calls, progress.call_seconds, progress.stage_seconds
        yield progress.numbered(chunk), chunks.tasks_for(chunk.pairs, pace, slots, full=full)
        if progress.calls > calls or pace is None:
            # Calls that wait side by side take less of a task than their times add up to, and never more than it has.
            spent = min(progress.call_seconds - seconds, (progress.stage_seconds - worked) * slots)
            pace = spent / max(progress.calls - calls, 1)
        target = max(chunks.next_target(pace, slots, pairs), full * slots)


@dataclass(frozen=True, slots=True)
class ChunkScoring:
    """A chunk's due traces, and how they are scored."""

    inputs: Inputs
    chunk: Chunk
    tasks: int | None

    def frame(self) -> DataFrame:
        due, code, options = self._due()
        results = score(
            code,
            self.inputs.source.columns,
            udf=self.inputs.tables.settings.scoring.udf,
            unreadable=F.col("unreadable"),
            **options,
        )
        return due.select(*_keys(), results.alias("results"))

    def in_task(self) -> tuple[DataFrame, Scored]:
        due, code, options = self._due()
        scorer, columns = score_in_task(code, self.inputs.source.columns, **options)
        return due.select(*_keys(), *columns), scorer.score

    def _due(self) -> tuple[DataFrame, list[ScorerSpec], dict[str, Any]]:
        request, limits = self.inputs.request, self.inputs.tables.settings.limits
        due = self.inputs.due_traces(request.code, self.chunk)
        if self.tasks is not None:
            due = due.repartition(self.tasks, "trace_id")
        options = {"payload": request.payload, "trace_mb": limits.trace_mb, "timeout_s": limits.scorer_timeout_s}
        return due, [request.scorers[i] for i in request.code], options


def _keys() -> list[Column | str]:
    return ["trace_id", "trace_time", "trace_date", key_text("session_id"), "draw"]
