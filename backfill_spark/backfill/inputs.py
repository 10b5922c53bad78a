"""Inputs: what a job reads, and a plan that has no job yet: its request, traces and pairs, at pinned versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from backfill_spark.models import TimeWindow
from backfill_spark.results.done import with_done
from backfill_spark.results.due import candidates, count_due
from backfill_spark.results.related import with_related
from backfill_spark.schema import TIMESTAMP
from backfill_spark.scoring.spark import columns_needed
from backfill_spark.selection import pairs as P
from backfill_spark.selection import sampling
from backfill_spark.traces.filters.reach import Reach
from backfill_spark.traces.times import in_window

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from backfill_spark.backfill.tables import Tables
    from backfill_spark.judges.llm.endpoints import Service
    from backfill_spark.models import Chunk, Request
    from backfill_spark.results.counts import PairCounts
    from backfill_spark.results.staged import Staged, StagedChunk
    from backfill_spark.traces.sources import TraceSource


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is read, and what it comes to."""

    tables: Tables
    request: Request
    source: TraceSource
    choice: DataFrame | None
    """Listed traces, or Spark's samples; None where the draw alone decides."""
    services: Mapping[str, Service]
    """Model URI → the service that is asked."""
    staged: Staged
    """What other jobs have staged is not called, nor what this job has."""
    pairs: PairCounts
    job_id: str | None = None
    is_untouched: bool = False
    """True when no pair has a result or a staged one, at these versions: then no chunk need look."""

    @classmethod
    def counted(
        cls,
        tables: Tables,
        request: Request,
        source: TraceSource,
        *,
        choice: DataFrame | None,
        services: Mapping[str, Service],
        staged: Staged,
        job_id: str | None = None,
    ) -> Inputs:
        """Count the request's pairs: of the pinned source, and of the results at the request's version."""
        try:
            pairs = count_due(request, source, tables.results, choice=choice, job_id=job_id, staged=staged.chunks)
        except Exception:
            gone = {chunk.key for chunk in tables.results.waiting.gone(staged.chunks)}
            if not gone:
                raise
            # Their job has SUCCEEDED meanwhile: what it staged is among the results of now.
            return cls.counted(
                tables,
                replace(request, results_version=tables.results.assessments.version()),
                source,
                choice=choice,
                services=services,
                staged=replace(staged, chunks=tuple(c for c in staged.chunks if c.key not in gone)),
                job_id=job_id,
            )
        found = [*pairs.own.values(), *pairs.elsewhere.values(), *(c.already_scored for c in pairs.counts.values())]
        return cls(tables, request, source, choice, services, staged, pairs, job_id, not any(found))

    def recounted(self, staged: Staged) -> Inputs:
        """Count again what is left, by the results of now and by what is staged."""
        return Inputs.counted(
            self.tables,
            replace(self.request, results_version=self.tables.results.assessments.version()),
            self.source,
            choice=self.choice,
            services=self.services,
            staged=staged,
            job_id=self.job_id,
        )

    def candidates(self, staged: Sequence[StagedChunk]) -> DataFrame:
        """Return the light rows of the whole window with their masks, by what is staged."""
        return candidates(
            self.request, self.source, self.tables.results, choice=self.choice, job_id=self.job_id, staged=staged
        )

    def due_traces(self, indexes: Sequence[int], chunk: Chunk | None = None) -> DataFrame:
        """Return the traces (of a chunk) that are due for the scorers at `indexes`: columns, keys and masks."""
        request, source = self.request, self.source
        scorers = [request.scorers[i] for i in indexes]
        needed = columns_needed(scorers, source.columns)
        # Of rows that tie, one that does not match can be the one that counts.
        may_match = Reach() if self.pairs.has_ties else P.reach(request, indexes)
        traces = source.read(
            needed | P.light_columns(request, source.columns),
            may_match.window & (request.window if chunk is None else chunk.window),
            positions=self.pairs.has_duplicates,
            experiment_id=P.experiment_filter(request),
            states=may_match.states,
            keys=P.light_keys(request, needed),
        )
        dates = (chunk.dates[0], chunk.dates[-1]) if chunk is not None and chunk.dates else None
        traces = with_related(traces, request, source, self.tables.results, dates=dates)
        pairs = P.choose(traces, request, source.columns, self.choice).where("skip is null")
        if chunk is not None and (chunk.draw_from, chunk.draw_to) != (0.0, 1.0):
            inside = sampling.in_slice(chunk.draw_from, chunk.draw_to, request.seed)
            if chunk.whole_from is not None:
                later = in_window(F.col("request_time"), TIMESTAMP, TimeWindow(chunk.whole_from, None), untimed=False)
                assert later is not None
                inside |= later
            pairs = pairs.where(inside)
        if self.pairs.has_duplicates:
            winners = P.winners(self.candidates(self.staged.chunks))
            pairs = P.drop_duplicates(pairs, winners, ties=self.pairs.has_ties)
        if self.is_untouched:
            pairs = pairs.withColumns({name: F.lit(0).cast("bigint") for name in ("done", "own", "elsewhere")})
        else:
            pairs = with_done(
                self.tables.results,
                pairs,
                request,
                job_id=self.job_id,
                staged=self.staged.chunks,
                dates=dates,
            )
        unreadable = P.submask(F.col("unreadable"), indexes)
        due = P.submask(P.to_call_mask(), indexes)
        return pairs.withColumns({"due": due, "unreadable": unreadable}).where("due != 0")
