"""From the arguments of a call to a frozen Request: every refusal is made here, all problems at once."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

from backfill_spark.errors import (
    BackfillRefusedError,
    FilterError,
    ScorerNotFoundError,
    not_found_problem,
)
from backfill_spark.models import (
    MAX_SCORERS,
    Arguments,
    BackfillScorerConfig,
    Reprocess,
    Request,
    Sampling,
    ScorerKind,
    ScorerSpec,
    TimeWindow,
    parse_moment,
)
from backfill_spark.scorers import Scorer
from backfill_spark.scorers.validation import instead_of
from backfill_spark.settings.sections import parse_duration
from backfill_spark.traces.filters import compile_filter

if TYPE_CHECKING:
    from backfill_spark.jobs.job import BackfillJob
    from backfill_spark.scorers.registered import Catalog
    from backfill_spark.settings.schema import Settings
    from backfill_spark.traces.sources import TraceSource


class Problems:
    """Collects what is wrong, so that everything is told at once."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self.missing: list[str] = []

    def raise_any(self) -> None:
        """Raise when anything is wrong.

        Raises:
            ScorerNotFoundError: only scorers are missing.
            BackfillRefusedError: anything else is wrong, too.
        """
        if self.missing and not self.all:
            raise ScorerNotFoundError(self.missing)
        if self.all or self.missing:
            raise BackfillRefusedError([*self.missing, *self.all])

    def note(self, problem: str) -> None:
        """Add one problem."""
        self.all.append(problem)


def resolve(
    arguments: Arguments,
    settings: Settings,
    problems: Problems,
    *,
    experiment: tuple[str, bool],
    catalog: Catalog,
    now: datetime,
) -> Request:
    """Check the arguments; what is wrong goes to `problems`. The source is pinned by `pinned` afterwards."""
    experiment_id, given = experiment
    values, named = _values(arguments, settings, problems, now)
    found = [_scorer(g, catalog, experiment_id, problems, lists_traces=values["lists_traces"]) for g in named]
    scorers = tuple(s for s in found if s is not None)
    _for_judges_only(_bounds(arguments), scorers, problems)
    values["notes"] += [f"filter of {s.name}: {note}" for s in scorers for note in _notes_of(s.filter_string)]
    return Request(
        experiment_id=experiment_id,
        experiment_given=given,
        scorers=scorers,
        source="",
        source_version="",
        source_table_id=None,
        results_version=None,
        payload=settings.traces.payload,
        columns=settings.traces.columns,
        models=_models(scorers, settings, problems),
        **values | {"notes": tuple(values["notes"])},
    )


def refuse_values(arguments: Arguments, settings: Settings) -> None:
    """Refuse what the arguments alone show to be wrong: before Spark starts.

    Raises:
        BackfillRefusedError: with every such problem at once.
    """
    problems = Problems()
    _values(arguments, settings, problems, datetime.now(UTC))
    problems.raise_any()


def _values(
    arguments: Arguments, settings: Settings, problems: Problems, now: datetime
) -> tuple[dict[str, Any], Sequence[Any]]:
    """Return what needs neither registry nor source of a Request, and the scorers as they were named."""
    window, notes = _window(arguments, settings, problems, now)
    listed = _trace_ids(arguments.trace_ids, problems)
    named = _named(arguments.scorers, problems)
    sampling = _one_of(Sampling, "sampling", arguments.sampling, problems)
    if arguments.launch not in ("here", "queue"):
        problems.note(f"launch must be 'here' or 'queue', got {arguments.launch!r}.")
    if sampling is Sampling.SPARK:
        notes.append("Sampling by Spark: another source version or a higher rate chooses other traces.")
    whole = _filter(arguments.filter_string, problems)
    notes += [f"filter_string: {note}" for note in _notes_of(whole)]
    limit = settings.limits.max_error_rate if arguments.max_error_rate is None else arguments.max_error_rate
    return {
        "window": window,
        "filter_string": whole,
        "lists_traces": listed is not None,
        "reprocess": _one_of(Reprocess, "reprocess", arguments.reprocess, problems),
        "sampling": sampling,
        "seed": _seed(arguments.seed, problems),
        "max_error_rate": _rate("max_error_rate", limit, problems),
        "notes": notes,
        **limits_of(_bounds(arguments), (), problems),
    }, named


def pinned(request: Request, source: TraceSource, results_version: int | None) -> Request:
    """Return the request with the versions that it reads."""
    return replace(
        request,
        source=source.name,
        source_kind=source.kind,
        source_version=source.version,
        source_table_id=source.table_id,
        results_version=results_version,
    )


# --- scorers


def _named(given: Any, problems: Problems) -> Sequence[Any]:
    """Return the scorers as they were named, when each is a name or a config."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        problems.note(
            f"scorers must be a list of names or of BackfillScorerConfig objects, got {type(given).__name__}. "
            "Write scorers=[...]."
        )
        return []
    if not given:
        problems.note("scorers is empty. Name at least one registered scorer; list_scorers() shows them.")
        return []
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
                _rate(f"sample_rate of {_name_of(config)!r}", config.sample_rate, problems)
        wanted.append(config)
    if len(given) > MAX_SCORERS:
        problems.note(f"A job takes at most {MAX_SCORERS} scorers, got {len(given)}. Split them over several jobs.")
    seen: set[str] = set()
    for name in [_name_of(g) for g in given]:
        if name in seen:
            problems.note(f"The scorer {name!r} stands more than once in scorers. Name each scorer once.")
        seen.add(name)
    return wanted


def _name_of(given: Any) -> str:
    scorer = given.scorer if isinstance(given, BackfillScorerConfig) else given
    return scorer if isinstance(scorer, str) else str(getattr(scorer, "name", scorer))


def _scorer(
    given: Any, catalog: Catalog, experiment_id: str, problems: Problems, *, lists_traces: bool
) -> ScorerSpec | None:
    config = given if isinstance(given, BackfillScorerConfig) else BackfillScorerConfig(given)
    name = _name_of(given)
    rate = None if config.sample_rate is None else _number(config.sample_rate) or 0.0
    spec = _registered(config.scorer, name, catalog, experiment_id, problems)
    if spec is None:
        return None
    if spec.level == "session":
        problems.note(f"The scorer {name!r} takes `session`; scorers of whole sessions cannot be backfilled.")
    try:
        compile_filter(spec.filter_string)
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


def _models(scorers: Sequence[ScorerSpec], settings: Settings, problems: Problems) -> dict[str, str]:
    """Return the model of each judge: its own, or the setting's as it is now."""
    from backfill_spark.judges.llm.endpoints import resolve

    models: dict[str, str] = {}
    for spec in scorers:
        if spec.kind is not ScorerKind.JUDGE:
            continue
        uri = spec.parameters.get("model") or settings.judge.model
        try:
            resolve(uri, settings.judge)
        except BackfillRefusedError as error:
            for problem in error.problems:
                problems.note(f"Judge {spec.name!r}: {problem}")
        models[spec.name] = str(uri)
    return models


# --- plain values


def limits_of(given: Mapping[str, Any], scorers: Sequence[ScorerSpec], problems: Problems) -> dict[str, Any]:
    """Check `max_calls` and `max_cost_usd`, as far as they are given; numpy's numbers become Python's."""
    _for_judges_only(given, scorers, problems)
    return {name: _limit(name, value, problems, whole=name == "max_calls") for name, value in given.items()}


def _for_judges_only(given: Mapping[str, Any], scorers: Sequence[ScorerSpec], problems: Problems) -> None:
    """Refuse limits of judges in a job that has none."""
    named = [name for name, value in given.items() if value is not None]
    if named and scorers and all(s.kind is not ScorerKind.JUDGE for s in scorers):
        problems.note(
            f"{' and '.join(named)} bound what judges send, and no scorer of this job is a judge. Leave it out; "
            "a sample_rate bounds the calls of code scorers."
        )


def _bounds(arguments: Arguments) -> dict[str, Any]:
    return {"max_calls": arguments.max_calls, "max_cost_usd": arguments.max_cost_usd}


def _limit(what: str, value: Any, problems: Problems, *, whole: bool) -> Any:
    if value is None:
        return None
    number = _number(value, whole=whole)
    if number is None or not 0 <= number < math.inf:
        kind = "a whole number" if whole else "a number"
        problems.note(f"{what} must be {kind}, 0 or more, got {value!r}.")
        return None
    return number


def _rate(what: str, value: Any, problems: Problems) -> float:
    number = _number(value)
    if number is None or not 0 <= number <= 1:
        problems.note(f"{what} must be a number in [0, 1], got {value!r}. 0.25 means a quarter.")
        return 1.0
    return float(number)


def _seed(value: Any, problems: Problems) -> int:
    number = _number(value, whole=True)
    if number is None or not -(2**63) <= number < 2**63:
        problems.note(f"seed must be a whole number of 64 bits, got {value!r}.")
        return 0
    return int(number)


def _number(value: Any, *, whole: bool = False) -> int | float | None:
    """Python's own number for a number of any kind; None for anything else."""
    kind: Any = numbers.Integral if whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        return None
    try:
        return int(value) if whole else float(value)
    except OverflowError:
        return None


def _one_of(kind: Any, what: str, value: Any, problems: Problems) -> Any:
    values = [str(k) for k in kind]
    if isinstance(value, str) and value in values:
        return kind(value)
    problems.note(f"{what} must be one of {values}, got {value!r}.")
    return next(iter(kind))


def _filter(value: Any, problems: Problems) -> str | None:
    if value is not None and not isinstance(value, str):
        problems.note(f"filter_string must be text, got {type(value).__name__}.")
        return None
    try:
        compile_filter(value)
    except FilterError as error:
        problems.note(str(error))
    return value or None


def _notes_of(text: str | None) -> tuple[str, ...]:
    try:
        return compile_filter(text).notes
    except FilterError:  # a problem, and told as one
        return ()


def _trace_ids(value: Any, problems: Problems) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        problems.note(f"trace_ids must be a list of trace ids, got {type(value).__name__}.")
        return None
    ids = list(value)
    if not ids:
        problems.note("trace_ids is empty. Leave it out to choose traces by window and rate.")
    if wrong := [i for i in ids if not isinstance(i, str)]:
        problems.note(f"trace_ids must be texts, got {wrong[:3]!r}.")
    return [i for i in ids if isinstance(i, str)]


def _window(
    arguments: Arguments, settings: Settings, problems: Problems, now: datetime
) -> tuple[TimeWindow, list[str]]:
    bounds: list[datetime | None] = []
    notes = []
    for what, value in (("start_time", arguments.start_time), ("end_time", arguments.end_time)):
        try:
            bounds.append(parse_moment(value, settings.zone))
        except (ValueError, TypeError, OverflowError, OSError):
            problems.note(
                f"{what} {value!r} is no date or time. Give a datetime, a date, or ISO text such as "
                "2024-06-01 or 2024-06-01T12:00:00+00:00."
            )
            bounds.append(None)
    start, end = bounds
    if start is not None and end is not None and start >= end:
        problems.note(
            f"start_time {start:%Y-%m-%d %H:%M:%S%z} is not before end_time {end:%Y-%m-%d %H:%M:%S%z} "
            "(the end is not included). Exchange them, or move the end."
        )
    if end is not None and _is_date(arguments.end_time):
        day = _day(arguments.end_time)
        notes.append(f"{day:%B} {day.day} not included: the window ends at its midnight.")
    if start is None and end is None and settings.default_lookback is not None:
        try:
            start = now.astimezone(UTC) - parse_duration(settings.default_lookback)
        except OverflowError:  # longer ago than there are dates
            start = datetime.min.replace(tzinfo=UTC)
        notes.append(
            f"No bound was given: the setting default_lookback narrows the window to {settings.default_lookback}."
        )
    return TimeWindow(start, end), notes


def _is_date(value: Any) -> bool:
    try:
        moment = _day(value)
    except ValueError:
        return False
    return not isinstance(moment, datetime) or moment.time() == time()


def _day(value: Any) -> date:
    return datetime.fromisoformat(value.strip()) if isinstance(value, str) else value


def overlapping(request: Request, jobs: Sequence[BackfillJob]) -> list[str]:
    """Return a problem for each live job that covers one of the request's scorers in its window."""
    names = {s.name for s in request.scorers}
    problems = []
    for job in jobs:
        shared = sorted(names & {s.name for s in job.scorers})
        if shared and _meet(request.window, job.window):
            problems.append(
                f"exclusive: job {job.job_id} ({job.state}) covers {shared} in {job.window}. Wait for it "
                f"(`backfill-spark wait {job.job_id}`), cancel it, or leave exclusive out: results stay right."
            )
    return problems


def _meet(one: TimeWindow, other: TimeWindow) -> bool:
    starts_before = one.start is None or other.end is None or one.start < other.end
    return starts_before and (other.start is None or one.end is None or other.start < one.end)
