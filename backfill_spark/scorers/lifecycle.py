"""The life of one scorer in the current context: what `Scorer.register`, `start`, `update` and `stop` do."""

from __future__ import annotations

from dataclasses import replace

from backfill_spark.errors import ScorerLifecycleError, ScorerNotFoundError
from backfill_spark.models import ScorerSamplingConfig, ScorerSpec
from backfill_spark.scorers import validation
from backfill_spark.scorers.registered import Catalog
from backfill_spark.scorers.registry import AnyScorer, here
from backfill_spark.scorers.stored_code import pickling
from backfill_spark.storage.session import active_session
from backfill_spark.traces.filters import compile_filter


def register(scorer: AnyScorer, *, name: str | None = None, experiment_id: str | None = None) -> AnyScorer:
    """`Scorer.register` in the current context."""
    validation.checked_name(scorer.name if name is None else name)
    if scorer.function is not None and active_session() is None:
        pickling.dump(scorer.function, name=scorer.name)  # what cannot be stored is refused before Spark starts
    registry, experiment = here(experiment_id)
    return registry.register(scorer, name=name, experiment_id=experiment)


def start(scorer: AnyScorer, config: ScorerSamplingConfig, *, name: str | None, experiment_id: str | None) -> AnyScorer:
    """`Scorer.start` in the current context: also of the object whose registered copy was dropped."""
    if scorer.registration is not None:
        return change(scorer, config, name=name, experiment_id=experiment_id)
    compile_filter(config.filter_string)
    registry, experiment = here(experiment_id)
    target = validation.checked_name(scorer.name if name is None else name)
    catalog = registry.catalog(experiment)
    digest = scorer.digest
    newest = catalog.newest(target)
    if newest is None or newest.digest != digest:
        raise ScorerLifecycleError(_not_this_one(scorer.name, target, digest, catalog))
    written = registry.configure(target, experiment, config.sample_rate, config.filter_string, catalog=catalog)
    return scorer.registered_as(target, newest.registration(written))


def change(
    scorer: AnyScorer, config: ScorerSamplingConfig, *, name: str | None, experiment_id: str | None
) -> AnyScorer:
    """`Scorer.update`, `stop` and `start` of a registered scorer in the current context."""
    known = scorer.registration
    assert known is not None
    compile_filter(config.filter_string)
    registry, experiment = here(known.experiment_id if experiment_id is None else experiment_id)
    target = scorer.name if name is None else validation.checked_name(name)
    if (target, experiment) != (scorer.name, known.experiment_id):
        scorer = registry.get(target, experiment_id=experiment)  # type: ignore[assignment]
    catalog = registry.catalog(experiment, name=target)
    version = scorer.scorer_version
    if version is not None and catalog.rows and (target, version) not in catalog.rows:
        raise registry.not_found(target, experiment, version, [v for _, v in catalog.rows])
    written = registry.configure(target, experiment, config.sample_rate, config.filter_string, catalog=catalog)
    return scorer.with_config(written.sample_rate, written.filter_string)


def with_definition(spec: ScorerSpec, experiment_id: str) -> ScorerSpec:
    """Return `spec` with its pickled function, read in the current context."""
    found = here(experiment_id)[0].definitions(experiment_id, [(spec.name, spec.version)])
    if not found:
        raise ScorerNotFoundError(
            f"Version {spec.version} of the scorer {spec.name!r} in experiment {experiment_id!r} is deleted."
        )
    return replace(spec, definition=found[spec.name, spec.version])


def _not_this_one(own_name: str, target: str, digest: str, catalog: Catalog) -> str:
    latest = {name: row for name in catalog.names if (row := catalog.newest(name)) is not None}
    copies = [name for name, row in latest.items() if row.digest == digest]
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
