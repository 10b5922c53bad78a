"""The registry: scorers and their configs on Delta. Reading it never loads code.

A version is claimed by an append with `txnAppId = scorer/<experiment>/<name>`, `txnVersion = version`; of two
registrations at once one takes the next number. A config is claimed likewise, so that no change is lost.
"""

from __future__ import annotations

import getpass
import json
import threading
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from backfill_spark.errors import ScorerDefinitionError, ScorerLifecycleError, ScorerNotFoundError
from backfill_spark.scorers import validation
from backfill_spark.scorers.registered import Catalog, Config, as_read, rows_of
from backfill_spark.scorers.scorer import Registration, Scorer
from backfill_spark.settings import current
from backfill_spark.traces.filters import compile_filter

if TYPE_CHECKING:
    from backfill_spark.storage.delta_table import Store, Stores, Txn

_ATTEMPTS = 40
_KEPT_WITH_VERSION = ("description", "aggregations", "timeout_s", "version_note")
AnyScorer = TypeVar("AnyScorer", bound=Scorer)

_clock = threading.Lock()
_last_moment = 0


_last_read: dict[str, tuple[str, list[Mapping[str, Any]]]] = {}
"""Table → the stamp of its newest commit, and its rows then."""


def _rows(store: Store, experiment_id: str, *, name: str | None, definitions: bool) -> list[Mapping[str, Any]]:
    """Return a table's rows of one experiment (and name); without Spark when nothing was committed meanwhile."""
    stamp = store.stamp()
    if stamp is None:
        return rows_of(store.read(), experiment_id, name=name, definitions=definitions)
    known = _last_read.get(store.location.shown)
    if known is None or known[0] != stamp:
        known = _last_read[store.location.shown] = (stamp, rows_of(store.read(), definitions=True))
    rows = [r for r in known[1] if r["experiment_id"] == experiment_id and name in (None, r["name"])]
    return rows if definitions else [{**r, "definition": None} if "definition" in r else r for r in rows]


def _append(store: Store, row: Mapping[str, Any], txn: Txn | None) -> bool:
    """Append one row, and keep it in mind when it was the only commit since the last read."""
    known = _last_read.pop(store.location.shown, None)
    if not store.append(store.frame([dict(row)]), txn=txn):
        return False
    stamp = store.stamp()
    if known is not None and stamp is not None and int(stamp[:20]) == int(known[0][:20]) + 1:
        whole = dict.fromkeys(store.table.schema.fieldNames()) | dict(row)
        _last_read[store.location.shown] = (stamp, [*known[1], as_read(whole)])
    return True


class Registry:
    """Owner of `scorers` and `scorer_configs`."""

    def __init__(self, tables: Stores) -> None:
        from backfill_spark.schema import SCORER_CONFIGS, SCORERS

        self._scorers = tables.of(SCORERS)
        self._configs = tables.of(SCORER_CONFIGS)

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

    def register(self, scorer: AnyScorer, *, experiment_id: str, name: str | None = None) -> AnyScorer:
        """Store `scorer` as the next version of `name`; an equal definition makes none.

        Raises:
            ScorerDefinitionError: it cannot be stored.
            ScorerLifecycleError: the name cannot be used.
        """
        name = validation.checked_name(scorer.name if name is None else name)
        row = self._row_of(scorer, name, experiment_id)
        self._scorers.ensure()
        tried = 0
        for _ in range(_ATTEMPTS):
            catalog = self.catalog(experiment_id, name=name)
            latest = catalog.newest(name)
            if latest is not None and latest.digest == row["digest"]:
                if any(latest.fields[key] != row[key] for key in _KEPT_WITH_VERSION):
                    self._append_version(row, latest.version, catalog)  # the same version, newly described
                return scorer.registered_as(name, _registration(row, latest.version, catalog.config(name)))
            tried = max(catalog.highest(name), tried) + 1
            if self._append_version(row, tried, catalog, claim=True):
                return scorer.registered_as(name, _registration(row, tried, catalog.config(name)))
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
        compile_filter(filter_string)
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
            )
            tried = max(new.writes, tried + 1)
            if self._append_config(name, experiment_id, new, tried):
                return new
            catalog = None
        raise ScorerLifecycleError(f"The config of {name!r} could not be written: others kept coming first. Try again.")

    def get(self, name: str, *, experiment_id: str, version: int | None = None) -> Scorer:
        """Return one registered scorer, the latest version by default.

        Raises:
            ScorerNotFoundError: no such scorer, or no such version.
        """
        catalog = self.catalog(experiment_id, name=name, definitions=True)
        found = catalog.newest(name) if version is None else catalog.rows.get((name, version))
        if found is None:
            raise self.not_found(name, experiment_id, version, [v for _, v in catalog.rows])
        return found.scorer(catalog.config(name))

    def list_(self, experiment_id: str) -> list[Scorer]:
        """Return the latest version of each scorer by name, stopped and broken ones included."""
        catalog = self.catalog(experiment_id)
        newest = [catalog.newest(name) for name in catalog.names]
        return [row.scorer(catalog.config(row.name)) for row in newest if row is not None]

    def versions(self, name: str, *, experiment_id: str) -> list[Scorer]:
        """Return all versions of one scorer, ascending.

        Raises:
            ScorerNotFoundError: no such scorer.
        """
        catalog = self.catalog(experiment_id, name=name)
        if not catalog.rows:
            raise self.not_found(name, experiment_id)
        return [row.scorer(catalog.config(name)) for _, row in sorted(catalog.rows.items())]

    def delete(self, name: str, *, experiment_id: str, version: int | None = None) -> None:
        """Delete one version, or all; numbers are never used again. With the last version go rate and filter.

        Raises:
            ScorerNotFoundError: no such scorer, or no such version.
        """
        catalog = self.catalog(experiment_id, name=name)
        gone = [v for _, v in sorted(catalog.rows) if version in (None, v)]
        if not gone:
            raise self.not_found(name, experiment_id, version, [v for _, v in catalog.rows])
        stamp = _moment(_next_moment(catalog.newest_us))
        self._scorers.append(
            self._scorers.frame(
                [
                    {
                        "experiment_id": experiment_id,
                        "name": name,
                        "version": v,
                        "digest": catalog.rows[name, v].digest,
                        "kind": catalog.rows[name, v].fields["kind"],
                        "created_at": stamp,
                        "created_by": _user(),
                        "deleted_at": stamp,
                    }
                    for v in gone
                ]
            )
        )
        if len(gone) == len(catalog.rows):
            old = catalog.config(name)
            if old.sample_rate or old.filter_string:
                fresh = Config(0.0, None, _next_moment(old.updated_us))
                self._append_config(name, experiment_id, fresh, old.writes + 1)

    def _row_of(self, scorer: Scorer, name: str, experiment_id: str) -> dict[str, Any]:
        row = _definition_row(scorer) if scorer.spec is None else self._stored_row(scorer)
        return row | {
            "experiment_id": experiment_id,
            "name": name,
            "kind": str(scorer.kind),
            "level": "session" if scorer.is_session_level_scorer else "trace",
            "parameters": json.dumps(dict(scorer.parameters), ensure_ascii=False),
            "signature": json.dumps(list(scorer.signature)),
            "description": scorer.description,
            "aggregations": None if scorer.aggregations is None else json.dumps(scorer.aggregations),
            "timeout_s": scorer.timeout,
            "version_note": scorer.version_note,
            "created_by": _user(),
        }

    def _stored_row(self, scorer: Scorer) -> dict[str, Any]:
        """Copy the definition of a scorer that came from the registry, without loading it."""
        known = scorer.registration
        assert known is not None
        catalog = self.catalog(known.experiment_id, name=scorer.name, definitions=True)
        found = catalog.rows.get((scorer.name, known.version))
        if found is None:
            raise self.not_found(scorer.name, known.experiment_id, known.version, [v for _, v in catalog.rows])
        return {key: found.fields[key] for key in ("definition", "source_text", "digest", "python_version")}

    def _append_version(self, row: dict[str, Any], version: int, catalog: Catalog, *, claim: bool = False) -> bool:
        from backfill_spark.storage.delta_table import Txn

        row |= {"version": version, "created_at": _moment(_next_moment(catalog.newest_us))}
        txn = Txn(f"scorer/{row['experiment_id']}/{row['name']}", version) if claim else None
        return _append(self._scorers, row, txn)

    def _append_config(self, name: str, experiment_id: str, config: Config, number: int) -> bool:
        from backfill_spark.storage.delta_table import Txn

        self._configs.ensure()
        row = {
            "experiment_id": experiment_id,
            "name": name,
            "sample_rate": config.sample_rate,
            "filter_string": config.filter_string,
            "updated_at": _moment(config.updated_us),
        }
        return _append(self._configs, row, Txn(f"scorer_config/{experiment_id}/{name}", number))

    def not_found(
        self, name: str, experiment_id: str, version: int | None = None, versions: Collection[int] = ()
    ) -> ScorerNotFoundError:
        if versions:
            return ScorerNotFoundError(
                f"Scheduled scorer {name!r} has no version {version} in experiment {experiment_id!r}. "
                f"Its versions: {sorted(versions)}"
            )
        return ScorerNotFoundError.for_names([name], self.catalog(experiment_id).names, experiment_id)


def get_scorer(*, name: str, version: int | None = None, experiment_id: str | None = None) -> Scorer:
    """Return a registered scorer, the latest version by default.

    Raises:
        ScorerNotFoundError: no such scorer or version.
    """
    registry, experiment = here(experiment_id)
    return registry.get(name, version=version, experiment_id=experiment)


def list_scorers(*, experiment_id: str | None = None) -> list[Scorer]:
    """Return the latest version of each registered scorer, stopped ones included, by name."""
    registry, experiment = here(experiment_id)
    return registry.list_(experiment)


def list_scorer_versions(*, name: str, experiment_id: str | None = None) -> list[Scorer]:
    """Return all versions of a scorer, ascending.

    Raises:
        ScorerNotFoundError: no such scorer.
    """
    registry, experiment = here(experiment_id)
    return registry.versions(name, experiment_id=experiment)


def delete_scorer(*, name: str, version: int | str | None = None, experiment_id: str | None = None) -> None:
    """Delete one version of a scorer, or all of them (None or "all"). Results stay; numbers are never used again.

    Raises:
        ScorerLifecycleError: the version is neither a number nor "all".
        ScorerNotFoundError: no such scorer or version.
    """
    if version == "all":
        version = None
    elif isinstance(version, bool | str):
        raise ScorerLifecycleError(f'version is a number, or "all" or None for all of them; got {version!r:.80}.')
    registry, experiment = here(experiment_id)
    registry.delete(name, version=version, experiment_id=experiment)


def here(experiment_id: str | None) -> tuple[Registry, str]:
    """Return the registry of the current context, and the experiment that is meant."""
    now = current.current()
    from backfill_spark.storage.delta_table import Stores
    from backfill_spark.storage.session import get_spark

    return Registry(Stores(get_spark(now.settings), now.settings)), current.experiment(experiment_id, now.settings)[0]


def _definition_row(scorer: Scorer) -> dict[str, Any]:
    if scorer.function is None:
        if "class" not in scorer.parameters:
            raise ScorerDefinitionError(f"The scorer {scorer.name!r} has neither a function nor parameters to store.")
        _refuse_unknown_class(scorer)
        return {"definition": None, "source_text": None, "digest": scorer.definition_digest(), "python_version": None}
    from backfill_spark.scorers.stored_code import pickling

    dumped = pickling.dump(scorer.function, name=scorer.name)
    return {
        "definition": dumped.definition,
        "source_text": dumped.source_text,
        "digest": dumped.digest,
        "python_version": dumped.python_version,
    }


def _refuse_unknown_class(scorer: Scorer) -> None:
    from backfill_spark.scorers.stored_code.pickling import CLASSES

    cls = type(scorer)
    if CLASSES.get(cls.__name__) != cls.__module__:
        raise ScorerDefinitionError(
            f"The scorer {scorer.name!r} is of the class {cls.__qualname__!r}; only built-in classes and @scorer "
            f"functions can be registered. Built-in: {sorted(CLASSES)}."
        )


def _registration(row: dict[str, Any], version: int, config: Config) -> Registration:
    return Registration(
        experiment_id=row["experiment_id"],
        version=version,
        digest=row["digest"],
        sample_rate=config.sample_rate,
        filter_string=config.filter_string,
        created_at=row.get("created_at"),
        created_by=row["created_by"],
        python_version=row["python_version"],
        source_text=row["source_text"],
    )


def _next_moment(after: int) -> int:
    """Return microseconds since the epoch: now, but later than `after` and than any given before."""
    global _last_moment
    with _clock:
        _last_moment = max(time.time_ns() // 1000, _last_moment + 1, after + 1)
        return _last_moment


def _moment(microseconds: int) -> datetime:
    seconds, rest = divmod(microseconds, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None
