"""Registered scorers by name, as `Scorer` objects: get, list, list versions, delete."""

from __future__ import annotations

from collections.abc import Iterable

from backfill_spark.display.render import Listed
from backfill_spark.errors import ScorerLifecycleError
from backfill_spark.scorers.lifecycle import here
from backfill_spark.scorers.registered import RegisteredScorer
from backfill_spark.scorers.scorer import Scorer, scorer_of


def get_scorer(*, name: str, version: int | None = None, experiment_id: str | None = None) -> Scorer:
    """Return a registered scorer, the latest version by default.

    Raises:
        ScorerNotFoundError: no such scorer or version.
    """
    registry, experiment = here(experiment_id)
    return scorer_of(registry.get(name, version=version, experiment_id=experiment))


def list_scorers(*, experiment_id: str | None = None) -> list[Scorer]:
    """Return the latest version of each registered scorer, stopped ones included, by name."""
    registry, experiment = here(experiment_id)
    return _listed(registry.latest(experiment))


def list_scorer_versions(*, name: str, experiment_id: str | None = None) -> list[Scorer]:
    """Return all versions of a scorer, ascending.

    Raises:
        ScorerNotFoundError: no such scorer.
    """
    registry, experiment = here(experiment_id)
    return _listed(registry.versions(name, experiment_id=experiment))


def _listed(found: Iterable[RegisteredScorer]) -> list[Scorer]:
    from backfill_spark.display.views import scorers_sheet

    return Listed(map(scorer_of, found), scorers_sheet)


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
