"""The registry: scorers and their configs on Delta. Reading it never loads code.

A version is claimed by an append with `txnAppId = scorer/<experiment>/<name>`, `txnVersion = version`; of two
registrations at once one takes the next number. A config is claimed likewise, so that no change is lost.
"""

from __future__ import annotations

import getpass
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backfill_spark.errors import ScorerLifecycleError, ScorerNotFoundError
from backfill_spark.scorers.registered import Catalog, Config, RegisteredScorer, as_read, moment
from backfill_spark.storage.small_table import Txn
from backfill_spark.traces.filters import compile_filter

if TYPE_CHECKING:
    from backfill_spark.storage.small_table import SmallTable
    from backfill_spark.storage.stores import Stores

_ATTEMPTS = 40
_OF_A_DELETED = ("experiment_id", "name", "version", "digest", "kind")

_clock = threading.Lock()
_last_moment = 0
_last_read: dict[str, tuple[str, list[Mapping[str, Any]]]] = {}
"""Table → the stamp of its newest commit, and its rows then."""


def _rows(table: SmallTable, experiment_id: str, *, name: str | None, definitions: bool) -> list[Mapping[str, Any]]:
    """Return a table's rows of one experiment (and name); read again only when something was committed meanwhile."""
    stamp = table.stamp()
    known = _last_read.get(table.location.shown)
    if known is None or known[0] != stamp or stamp is None:
        known = _last_read[table.location.shown] = (stamp or "", [as_read(row) for row in table.read()])
    rows = [r for r in known[1] if r["experiment_id"] == experiment_id and name in (None, r["name"])]
    return rows if definitions else [{**r, "definition": None} if "definition" in r else r for r in rows]


class Registry:
    """Owner of `scorers` and `scorer_configs`."""

    def __init__(self, tables: Stores) -> None:
        from backfill_spark.schema import SCORER_CONFIGS, SCORERS

        self._scorers = tables.small(SCORERS)
        self._configs = tables.small(SCORER_CONFIGS)
        self._dialect = tables.settings.filters.dialect

    def catalog(self, experiment_id: str, *, name: str | None = None, definitions: bool = False) -> Catalog:
        """Return what is registered, of all names or one, in one Spark read: all that a plan needs.

        `definitions` takes the pickled functions along, which only a run needs.
        """
        stores = [store for store in (self._scorers, self._configs) if store.exists()]
        for store in stores:
            store.ensure()
        rows: list[Mapping[str, Any]] = []
        for store in stores:
            rows += _rows(store, experiment_id, name=name, definitions=definitions)
        return Catalog.of_rows(experiment_id, rows)

    def definitions(self, experiment_id: str, pinned: Collection[tuple[str, int]]) -> dict[tuple[str, int], str | None]:
        """Return the pickled functions of `pinned` (name, version) pairs, in one read; of deleted versions, too."""
        if not pinned or not self._scorers.exists():
            return {}
        names = {name for name, _ in pinned}
        one = names.pop() if len(names) == 1 else None
        rows = _rows(self._scorers.ensure(), experiment_id, name=one, definitions=True)
        found: dict[tuple[str, int], str | None] = {}
        for row in rows:  # the row that says that a version is deleted has no definition
            key = (row["name"], row["version"])
            found[key] = found.get(key) or row["definition"]
        return {key: found[key] for key in pinned if key in found}

    def register(self, new: RegisteredScorer) -> RegisteredScorer:
        """Store `new` as the next version of its name in its experiment; an equal definition makes none.

        Raises:
            ScorerLifecycleError: others kept coming first.
        """
        name, tried = new.spec.name, 0
        new = replace(new, created_by=_user())
        self._scorers.ensure()
        for _ in range(_ATTEMPTS):
            catalog = self.catalog(new.experiment_id, name=name)
            latest, config = catalog.newest(name), catalog.config(name)
            new = replace(new, created_at=moment(_next_moment(catalog.newest_us)))
            if latest is not None and latest.spec.digest == new.spec.digest:
                if latest.described == new.described:
                    return latest
                again = new.at(config, version=latest.spec.version)  # the same version, newly described
                self._scorers.append([again.to_row()])
                return again
            tried = max(catalog.highest(name), tried) + 1
            next_one = new.at(config, version=tried)
            if self._scorers.append([next_one.to_row()], txn=Txn(f"scorer/{new.experiment_id}/{name}", tried)):
                return next_one
        raise ScorerLifecycleError(
            f"The scorer {name!r} could not be registered: other registrations came first {_ATTEMPTS} times. Try again."
        )

    def configure(
        self,
        name: str,
        experiment_id: str,
        sample_rate: float | None,
        filter_string: str | None,
        *,
        catalog: Catalog | None = None,
    ) -> Config:
        """Write rate and filter of `name`; None keeps, filter "" clears. `catalog` may be a fresh read.

        Raises:
            ScorerNotFoundError: no such scorer.
            FilterError: the filter does not parse; nothing is written.
        """
        compile_filter(filter_string, self._dialect)
        tried = 0
        for _ in range(_ATTEMPTS):
            catalog = catalog or self.catalog(experiment_id, name=name)
            if catalog.newest(name) is None:
                raise self.not_found(name, experiment_id)
            old = catalog.config(name)
            new = Config(
                old.sample_rate if sample_rate is None else sample_rate,
                old.filter_string if filter_string is None else filter_string or None,
                _next_moment(old.updated_us),
                old.writes + 1,
                old.filter_dialect if filter_string is None else self._dialect,
            )
            tried = max(new.writes, tried + 1)
            if self._append_config(name, experiment_id, new, tried):
                return new
            catalog = None
        raise ScorerLifecycleError(f"The config of {name!r} could not be written: others kept coming first. Try again.")

    def get(self, name: str, *, experiment_id: str, version: int | None = None) -> RegisteredScorer:
        """Return one registered scorer with its definition, the latest version by default.

        Raises:
            ScorerNotFoundError: no such scorer, or no such version.
        """
        catalog = self.catalog(experiment_id, name=name, definitions=True)
        found = catalog.newest(name) if version is None else catalog.rows.get((name, version))
        if found is None:
            raise self.not_found(name, experiment_id, version, [v for _, v in catalog.rows])
        return found

    def latest(self, experiment_id: str) -> list[RegisteredScorer]:
        """Return the latest version of each scorer by name, stopped and broken ones included."""
        catalog = self.catalog(experiment_id)
        return [found for name in catalog.names if (found := catalog.newest(name)) is not None]

    def versions(self, name: str, *, experiment_id: str) -> list[RegisteredScorer]:
        """Return all versions of one scorer, ascending.

        Raises:
            ScorerNotFoundError: no such scorer.
        """
        catalog = self.catalog(experiment_id, name=name)
        if not catalog.rows:
            raise self.not_found(name, experiment_id)
        return [found for _, found in sorted(catalog.rows.items())]

    def delete(self, name: str, *, experiment_id: str, version: int | None = None) -> None:
        """Delete one version, or all; numbers are never used again. With the last version go rate and filter.

        Raises:
            ScorerNotFoundError: no such scorer, or no such version.
        """
        catalog = self.catalog(experiment_id, name=name)
        gone = [v for _, v in sorted(catalog.rows) if version in (None, v)]
        if not gone:
            raise self.not_found(name, experiment_id, version, [v for _, v in catalog.rows])
        stamp = moment(_next_moment(catalog.newest_us))
        ended = {"created_at": stamp, "created_by": _user(), "deleted_at": stamp}
        rows = [{k: catalog.rows[name, v].to_row()[k] for k in _OF_A_DELETED} | ended for v in gone]
        self._scorers.append(rows)
        if len(gone) == len(catalog.rows):
            old = catalog.config(name)
            if old.sample_rate or old.filter_string:
                fresh = Config(0.0, None, _next_moment(old.updated_us))
                self._append_config(name, experiment_id, fresh, old.writes + 1)

    def _append_config(self, name: str, experiment_id: str, config: Config, number: int) -> bool:
        self._configs.ensure()
        row = {
            "experiment_id": experiment_id,
            "name": name,
            "sample_rate": config.sample_rate,
            "filter_string": config.filter_string,
            "updated_at": moment(config.updated_us),
            "filter_dialect": config.filter_dialect,
        }
        return self._configs.append([row], txn=Txn(f"scorer_config/{experiment_id}/{name}", number))

    def not_found(
        self, name: str, experiment_id: str, version: int | None = None, versions: Collection[int] = ()
    ) -> ScorerNotFoundError:
        if versions:
            return ScorerNotFoundError(
                f"Scheduled scorer {name!r} has no version {version} in experiment {experiment_id!r}. "
                f"Its versions: {sorted(versions)}"
            )
        return ScorerNotFoundError.for_names([name], self.catalog(experiment_id).names, experiment_id)


def _next_moment(after: int) -> int:
    """Return microseconds since the epoch: now, but later than `after` and than any given before."""
    global _last_moment
    with _clock:
        _last_moment = max(time.time_ns() // 1000, _last_moment + 1, after + 1)
        return _last_moment


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None
