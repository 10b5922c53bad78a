"""Tables: the owners of our tables, made once and handed down."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from backfill_spark import schema
from backfill_spark.jobs.store import JobStore
from backfill_spark.scorers.registry import Registry
from backfill_spark.storage.stores import Stores

if TYPE_CHECKING:
    from backfill_spark.results.store import ResultStore
    from backfill_spark.selection.frozen import WorkStore
    from backfill_spark.storage.delta_table import Store


class Tables(Stores):
    """Session, settings and tables of a call. An owner is made when it is first asked for, and may be set by a test.

    Those of jobs and scorers need no Spark where the tables lie in a folder of this machine.
    """

    @cached_property
    def jobs(self) -> JobStore:
        """Owner of `job_events` and `jobs`."""
        return JobStore(self)

    @cached_property
    def registry(self) -> Registry:
        """Owner of `scorers` and `scorer_configs`."""
        return Registry(self)

    @cached_property
    def results(self) -> ResultStore:
        """Owner of `assessments` and of staged results."""
        from backfill_spark.results.store import ResultStore

        return ResultStore(self)

    @cached_property
    def work(self) -> WorkStore:
        """Owner of `work`."""
        from backfill_spark.selection.frozen import WorkStore

        return WorkStore(self)

    @property
    def judgements(self) -> Store:
        """The answers of judges; perhaps not there yet."""
        return self.of(schema.JUDGEMENTS)
