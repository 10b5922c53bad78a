"""The scorers that a call names: which registered versions they are, and which models judges among them ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from backfill_spark.backfill import values
from backfill_spark.errors import BackfillError, BackfillRefusedError, FilterError, not_found_problem
from backfill_spark.judges.llm.endpoints import resolve
from backfill_spark.models import MAX_SCORERS, BackfillScorerConfig, ScorerKind, ScorerSpec
from backfill_spark.scorers import Scorer
from backfill_spark.scorers.of_mlflow import as_config
from backfill_spark.scorers.validation import instead_of
from backfill_spark.traces.filters import compile_filter

if TYPE_CHECKING:
    from backfill_spark.backfill.problems import Problems
    from backfill_spark.scorers.registered import Catalog
    from backfill_spark.settings.schema import Settings


ALL_STARTED = "all-started"
"""Instead of names: every scorer of the experiment that is started, at its registered rate."""


def all_started(catalog: Catalog, experiment_id: str, problems: Problems) -> tuple[list[str], list[str]]:
    """Return the names of the started scorers, and notes about those that cannot be backfilled."""
    started = [name for name in catalog.names if catalog.config(name).sample_rate]
    latest = {name: catalog.latest(name) for name in started}
    of_sessions = [name for name, spec in latest.items() if spec is not None and spec.level == "session"]
    found = [name for name in started if name not in of_sessions]
    if not found:
        others = f"It has {catalog.names}; start one of them (`start`)" if catalog.names else "It has no scorer"
        problems.note(f"No scorer of experiment {experiment_id!r} is started. {others}, or name scorers with rates.")
    if len(found) > MAX_SCORERS:
        problems.note(_too_many(len(found)))
    return found, [f"Left out, since scorers of whole sessions cannot be backfilled: {of_sessions}."] * bool(
        of_sessions
    )


def named(given: Any, problems: Problems) -> Sequence[Any]:
    """Return the scorers as they were named, when each is a name or a config; none for ALL_STARTED."""
    if given == ALL_STARTED:
        return []
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        problems.note(
            f"scorers must be a list of names or of BackfillScorerConfig objects, got {type(given).__name__}. "
            f"Write scorers=[...], or scorers={ALL_STARTED!r}."
        )
        return []
    if not given:
        problems.note("scorers is empty. Name at least one registered scorer; list_scorers() shows them.")
        return []
    given = [_of_ours(one, problems) for one in given]
    names = [isinstance(g, str) for g in given]
    configs = [isinstance(g, BackfillScorerConfig) for g in given]
    if not all(n or c for n, c in zip(names, configs, strict=True)):
        others = [g for g, n, c in zip(given, names, configs, strict=True) if not (n or c)]
        wrong = sorted({type(g).__name__ for g in others})
        foreign = next((g for g in others if not isinstance(g, Scorer)), None)
        problems.note(
            f"scorers may hold names or BackfillScorerConfig objects, got {wrong}. "
            + (
                "Wrap a scorer: BackfillScorerConfig(scorer=my_scorer, sample_rate=0.5)."
                if foreign is None
                else instead_of(foreign)
            )
        )
        return []
    if any(names) and any(configs):
        problems.note(
            "scorers mixes names and BackfillScorerConfig objects. Use one of the two: "
            "BackfillScorerConfig(scorer='name') reads the registered rate."
        )
    wanted = []
    for config in given:
        if isinstance(config, BackfillScorerConfig):
            if not isinstance(config.scorer, (str, Scorer)):
                problems.note(
                    f"BackfillScorerConfig.scorer must be a Scorer or a name, got {type(config.scorer).__name__}. "
                    f"{instead_of(config.scorer)}"
                )
                continue
            if config.sample_rate is not None:
                values.rate(f"sample_rate of {_name_of(config)!r}", config.sample_rate, problems)
        wanted.append(config)
    if len(given) > MAX_SCORERS:
        problems.note(_too_many(len(given)))
    for name, count in Counter(map(_name_of, given)).items():
        if count > 1:
            problems.note(f"The scorer {name!r} stands more than once in scorers. Name each scorer once.")
    return wanted


def _too_many(count: int) -> str:
    return f"A job takes at most {MAX_SCORERS} scorers, got {count}. Split them over several jobs."


def _of_ours(given: Any, problems: Problems) -> Any:
    """Return an object of MLflow's as a config of ours, anything else as it is."""
    try:
        return as_config(given)
    except BackfillError as error:
        problems.note(str(error))
        return BackfillScorerConfig(str(getattr(given, "name", given)))


def _name_of(given: Any) -> str:
    scorer = given.scorer if isinstance(given, BackfillScorerConfig) else given
    return scorer if isinstance(scorer, str) else str(getattr(scorer, "name", scorer))


def spec_of(
    given: Any, catalog: Catalog, experiment_id: str, problems: Problems, *, lists_traces: bool
) -> ScorerSpec | None:
    config = given if isinstance(given, BackfillScorerConfig) else BackfillScorerConfig(given)
    name = _name_of(given)
    rate = None if config.sample_rate is None else values.number(config.sample_rate) or 0.0
    spec = _registered(config.scorer, name, catalog, experiment_id, problems)
    if spec is None:
        return None
    if spec.level == "session":
        problems.note(f"The scorer {name!r} takes `session`; scorers of whole sessions cannot be backfilled.")
    try:
        compile_filter(spec.filter_string, spec.filter_dialect)
    except FilterError as error:
        problems.note(f"The registered filter of {name!r} does not parse: {error}")
    if rate is None:
        if not spec.sample_rate:
            problems.note(
                f"The scorer {name!r} is stopped: its registered sample rate is 0, so no trace would be scored. "
                f"Start it (`start`), or give it a rate here: BackfillScorerConfig(scorer={name!r}, sample_rate=0.5)."
            )
        rate = 1.0 if lists_traces else spec.sample_rate
    return spec.with_rate(float(rate))


def _registered(scorer: Any, name: str, catalog: Catalog, experiment_id: str, problems: Problems) -> ScorerSpec | None:
    latest = catalog.latest(name)
    if latest is None:
        broken = catalog.broken.get(name)
        if broken is not None:
            problems.note(f"The scorer {name!r} cannot be read from the registry: {broken}")
        else:
            problems.missing.append(not_found_problem(name, catalog.names, experiment_id))
        return None
    if isinstance(scorer, str):
        return latest
    if scorer.scorer_version is not None:
        pinned_spec = catalog.version(name, scorer.scorer_version)
        if pinned_spec is None:
            problems.note(
                f"Version {scorer.scorer_version} of {name!r} is deleted; the latest is {latest.version}. "
                f"Get it with get_scorer(name={name!r})."
            )
            return None
        if pinned_spec.digest == scorer.digest:
            return pinned_spec
        # Registered elsewhere: this experiment's version of that number is another scorer.
    same = catalog.with_digest(name, scorer.digest)
    if same is None:
        problems.note(
            f"This {name!r} differs from the registered version {latest.version}. Register it "
            f"({name} = {name}.register()) and use what register() returns, or get_scorer(name={name!r})."
        )
    return same


def models_of(scorers: Sequence[ScorerSpec], settings: Settings, problems: Problems) -> dict[str, str]:
    """Return the model of each judge: its own, or the setting's as it is now."""
    models: dict[str, str] = {}
    for spec in scorers:
        if spec.kind is not ScorerKind.JUDGE:
            continue
        uri = spec.parameters.get("model") or settings.judge.model
        try:
            resolve(uri, settings.judge)
        except BackfillRefusedError as error:
            problems.note(*(f"Judge {spec.name!r}: {problem}" for problem in error.problems))
        models[spec.name] = str(uri)
    return models
