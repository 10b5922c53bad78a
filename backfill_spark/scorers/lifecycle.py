"""The life of one scorer in the current context, as values: what `Scorer.register`, `start`, `update`, `stop` do."""

from __future__ import annotations

from dataclasses import replace

from backfill_spark.errors import ScorerLifecycleError, ScorerNotFoundError
from backfill_spark.models import ScorerSamplingConfig
from backfill_spark.scorers import validation
from backfill_spark.scorers.registered import Catalog, RegisteredScorer
from backfill_spark.scorers.registry import Registry
from backfill_spark.settings import current
from backfill_spark.storage.stores import Stores
from backfill_spark.traces.filters import compile_filter


def here(experiment_id: str | None) -> tuple[Registry, str]:
    """Return the registry of the current context, and the experiment that is meant."""
    now = current.current()
    return Registry(Stores(None, now.settings)), current.experiment(experiment_id, now.settings)[0]


def register(new: RegisteredScorer, *, name: str, experiment_id: str | None) -> RegisteredScorer:
    """Store `new` under `name`; one that is registered already is copied, without loading it.

    Raises:
        ScorerNotFoundError: the version that is to be copied is deleted.
    """
    registry, experiment = here(experiment_id)
    spec = new.spec
    if spec.version:
        new = registry.get(spec.name, experiment_id=new.experiment_id, version=spec.version)
    return registry.register(replace(new, experiment_id=experiment, spec=replace(new.spec, name=name)))


def start(
    own_name: str, digest: str, config: ScorerSamplingConfig, *, name: str | None, experiment_id: str | None
) -> RegisteredScorer:
    """Start the registered copy of an object that has not come from the registry itself.

    Raises:
        ScorerLifecycleError: nothing with its digest is registered under this name.
    """
    compile_filter(config.filter_string, current.current().settings.filters.dialect)
    registry, experiment = here(experiment_id)
    target = validation.checked_name(own_name if name is None else name)
    catalog = registry.catalog(experiment)
    newest = catalog.newest(target)
    if newest is None or newest.spec.digest != digest:
        raise ScorerLifecycleError(_not_this_one(own_name, target, digest, catalog))
    return newest.at(registry.configure(target, experiment, config.sample_rate, config.filter_string, catalog=catalog))


def change(
    known: RegisteredScorer, config: ScorerSamplingConfig, *, name: str | None, experiment_id: str | None
) -> RegisteredScorer:
    """Write rate and filter of a registered scorer, or of the one that `name` and `experiment_id` mean instead.

    Raises:
        ScorerNotFoundError: it is not there any more.
        FilterError: the filter does not parse.
    """
    compile_filter(config.filter_string, current.current().settings.filters.dialect)
    registry, experiment = here(known.experiment_id if experiment_id is None else experiment_id)
    target = known.spec.name if name is None else validation.checked_name(name)
    if (target, experiment) != (known.spec.name, known.experiment_id):
        known = registry.get(target, experiment_id=experiment)
    catalog, version = registry.catalog(experiment, name=target), known.spec.version
    if catalog.rows and (target, version) not in catalog.rows:
        raise registry.not_found(target, experiment, version, [v for _, v in catalog.rows])
    return known.at(registry.configure(target, experiment, config.sample_rate, config.filter_string, catalog=catalog))


def with_definition(known: RegisteredScorer) -> RegisteredScorer:
    """Return `known` with its pickled function, read in the current context where it is not there yet.

    Raises:
        ScorerNotFoundError: its version is not in the registry.
    """
    spec = known.spec
    if spec.definition is not None or not spec.kind.is_function:
        return known
    found = here(known.experiment_id)[0].definitions(known.experiment_id, [(spec.name, spec.version)])
    if not found:
        raise ScorerNotFoundError(
            f"Version {spec.version} of the scorer {spec.name!r} in experiment {known.experiment_id!r} is deleted."
        )
    return replace(known, spec=replace(spec, definition=found[spec.name, spec.version]))


def _not_this_one(own_name: str, target: str, digest: str, catalog: Catalog) -> str:
    latest = {name: found.spec for name in catalog.names if (found := catalog.newest(name)) is not None}
    copies = [name for name, spec in latest.items() if spec.digest == digest]
    advice = "register() and start() return a new scorer: keep it,"
    if copies:
        return (
            f"Cannot start the scorer {own_name!r}: this object is not registered as {target!r}. Its definition is "
            f"registered as {', '.join(map(repr, copies))}. {advice} {own_name} = "
            f"{own_name}.register(name={copies[0]!r}), or call start(name={copies[0]!r})."
        )
    if target in latest:
        return (
            f"Cannot start the scorer {own_name!r}: this object is not registered, and the registered copy {target!r} "
            f"(version {latest[target].version}) has another definition. {advice} {own_name} = "
            f"{own_name}.register(name={target!r}), or use get_scorer(name={target!r}).start(…)."
        )
    return (
        f"Cannot start the scorer {own_name!r}: it is not registered in experiment {catalog.experiment_id!r}. Please "
        f"call register() first. {advice} {own_name} = {own_name}.register()."
    )
