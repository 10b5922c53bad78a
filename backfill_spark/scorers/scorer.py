"""`@scorer` and `Scorer`: a plain function, and its life in the registry."""

from __future__ import annotations

import copy
import html
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NoReturn, Self, cast, overload

from backfill_spark.errors import ScorerDefinitionError, ScorerLifecycleError, ScorerLoadError
from backfill_spark.models import ScorerKind, ScorerSamplingConfig, ScorerSpec, ScorerStatus
from backfill_spark.scorers import validation
from backfill_spark.traces.assessment import DEFAULT_FEEDBACK_NAME, Feedback


@dataclass(frozen=True, slots=True)
class Registration:
    """What the registry says of one scorer version when it was read."""

    experiment_id: str
    version: int
    digest: str
    sample_rate: float
    filter_string: str | None = None
    created_at: datetime | None = None
    created_by: str | None = None
    python_version: str | None = None
    source_text: str | None = None


class Scorer:
    """A function that judges one trace. Immutable: each checks call returns a new instance.

    Callable as the plain function it is: of an `async def` function a call returns the coroutine. `description`,
    `aggregations`, `timeout` and `version_note` are kept with the registered version.
    """

    kind: ScorerKind = ScorerKind.FUNCTION

    def __init_subclass__(cls, **given: Any) -> None:
        """Refuse classes of users, which executors could not make again."""
        super().__init_subclass__(**given)
        if cls.__module__.partition(".")[0] != __name__.partition(".")[0]:
            base = next(b.__name__ for b in cls.__mro__[1:] if issubclass(b, Scorer))
            raise ScorerDefinitionError(
                f"{cls.__name__} derives from {base}, and a class of yours cannot be registered: executors could not "
                "make it again. Write its __call__ as a function with @scorer above it; what its fields hold becomes a "
                f"default: `@scorer` over `def {cls.__name__.lower()}(outputs, limit=10): ...`."
            )

    def __init__(
        self,
        function: Callable[..., Any] | None,
        *,
        name: str | None = None,
        description: str | None = None,
        aggregations: Sequence[str] | None = None,
        timeout: float | None = None,
        version_note: str | None = None,
        signature: tuple[str, ...] = (),
    ) -> None:
        self._name = validation.checked_name(getattr(function, "__name__", None) if name is None else name)
        self._description = _checked_text("description", description)
        self._version_note = _checked_text("version_note", version_note)
        self._aggregations = validation.checked_aggregations(aggregations)
        self._timeout = validation.checked_timeout(timeout)
        self._function = function
        self._registration: Registration | None = None
        self._spec: ScorerSpec | None = None
        self._problem: str | None = None
        self._signature = signature
        if function is not None:
            self._signature = validation.parameters_of(function, self._name)
            if inspect.iscoroutinefunction(inspect.unwrap(function)):
                self.kind = ScorerKind.ASYNC_FUNCTION
            for attribute in ("__module__", "__name__", "__qualname__", "__doc__"):
                setattr(self, attribute, getattr(function, attribute, None))
            self.__wrapped__ = function

    # --- what it is

    @property
    def name(self) -> str:
        """Registered name, or the name it would get."""
        return self._name

    @property
    def _server_name(self) -> str | None:
        """Registered name; None while unregistered."""
        return None if self._registration is None else self._name

    @property
    def description(self) -> str | None:
        """What the author wrote about it."""
        return self._description

    @property
    def version_note(self) -> str | None:
        """What the author wrote about this version."""
        return self._version_note

    @property
    def aggregations(self) -> list[str] | None:
        """Names out of min, max, mean, median, variance, p90; None when not chosen (then mean)."""
        return None if self._aggregations is None else list(self._aggregations)

    @property
    def timeout(self) -> float | None:
        """Limit of one call in seconds; 0 for none, None for the setting."""
        return self._timeout

    @property
    def signature(self) -> tuple[str, ...]:
        """Which of inputs, outputs, expectations, trace, session a backfill passes to it."""
        return self._signature

    @property
    def is_async(self) -> bool:
        """True for an `async def` function."""
        return self.kind is ScorerKind.ASYNC_FUNCTION

    @property
    def is_session_level_scorer(self) -> bool:
        """True when it takes a whole session."""
        return "session" in self._signature

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Constructor arguments of a built-in or judge with its "class"; {} for a function."""
        return {}

    @property
    def digest(self) -> str:
        """64 hex digits over everything that decides its answers; of the stored version when registered."""
        if self._registration is not None:
            return self._registration.digest
        return self.definition_digest()

    # --- what the registry says

    @property
    def status(self) -> ScorerStatus:
        """UNREGISTERED, STARTED (rate above 0) or STOPPED."""
        if self._registration is None:
            return ScorerStatus.UNREGISTERED
        return ScorerStatus.STARTED if self._registration.sample_rate > 0 else ScorerStatus.STOPPED

    @property
    def sample_rate(self) -> float | None:
        """Share of traces in [0, 1]; 0.0 when stopped, None while unregistered."""
        return None if self._registration is None else self._registration.sample_rate

    @property
    def filter_string(self) -> str | None:
        """MLflow filter, or None."""
        return None if self._registration is None else self._registration.filter_string

    @property
    def scorer_version(self) -> int | None:
        """1, 2, …; None while unregistered."""
        return None if self._registration is None else self._registration.version

    @property
    def experiment_id(self) -> str | None:
        """Experiment it is registered in."""
        return None if self._registration is None else self._registration.experiment_id

    @property
    def registration(self) -> Registration | None:
        """All that the registry says, as it was when this instance was made."""
        return self._registration

    @property
    def source_text(self) -> str | None:
        """The source that was stored for people to read; None while unregistered, or where there was none."""
        return None if self._registration is None else self._registration.source_text

    @property
    def function(self) -> Callable[..., Any] | None:
        """The decorated function; None for built-ins and for scorers that come from the registry."""
        return self._function

    @property
    def spec(self) -> ScorerSpec | None:
        """What recreates a scorer that comes from the registry; None for others."""
        return self._spec

    # --- calling it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; one that comes from the registry is loaded now.

        Raises:
            ScorerLoadError: the stored definition cannot be made callable here.
        """
        return self._callable()(*args, **kwargs)

    def run(
        self,
        *,
        inputs: Any = None,
        outputs: Any = None,
        expectations: Any = None,
        trace: Any = None,
        session: Any = None,
    ) -> Any:
        """Call it with those of the arguments that it takes, as MLflow does; feedback without a name gets its."""
        given = {"inputs": inputs, "outputs": outputs, "expectations": expectations, "trace": trace, "session": session}
        result = self(**{name: given[name] for name in self._accepted()})
        if isinstance(result, Feedback) and result.name == DEFAULT_FEEDBACK_NAME:
            result.name = self._name
        return result

    def captured(self) -> tuple[Any, ...]:
        """Return what decides its answers: kind and function. For digests."""
        return (str(self.kind), self._function if self._function is not None else self.digest)

    # --- its life

    def register(self, *, name: str | None = None, experiment_id: str | None = None) -> Self:
        """Store the definition; returns the registered scorer, this one stays as it is.

        The same definition again makes no new version; another one makes the next and keeps rate and filter.

        Raises:
            ScorerDefinitionError: something in it cannot travel to the executors; names it.
            ScorerLifecycleError: the name cannot be used.
        """
        return cast("Self", _lifecycle().register(self, name=name, experiment_id=experiment_id))

    def start(
        self,
        *,
        name: str | None = None,
        experiment_id: str | None = None,
        sampling_config: ScorerSamplingConfig | None = None,
    ) -> Self:
        """Set its rate (default 1.0) and, where one is given, its filter; returns the started scorer.

        Raises:
            ScorerLifecycleError: not registered, rate 0, or a rate that is no number in [0, 1].
            FilterError: the filter does not parse.
        """
        config = validation.checked_start(sampling_config)
        return cast("Self", _lifecycle().start(self, config, name=name, experiment_id=experiment_id))

    def update(
        self,
        *,
        name: str | None = None,
        experiment_id: str | None = None,
        sampling_config: ScorerSamplingConfig | None = None,
    ) -> Self:
        """Change rate or filter; what is None stays, filter "" clears. Returns the updated scorer.

        Raises:
            ScorerLifecycleError: not registered, or a rate that is no number in [0, 1].
            FilterError: the filter does not parse.
        """
        config = validation.checked_config(sampling_config)
        self._refuse_unregistered("update")
        return cast("Self", _lifecycle().change(self, config, name=name, experiment_id=experiment_id))

    def stop(self, *, name: str | None = None, experiment_id: str | None = None) -> Self:
        """Set the rate to 0; registration and filter stay. Returns the stopped scorer.

        Raises:
            ScorerLifecycleError: not registered.
        """
        self._refuse_unregistered("stop")
        return cast(
            "Self",
            _lifecycle().change(self, ScorerSamplingConfig(sample_rate=0.0), name=name, experiment_id=experiment_id),
        )

    # --- inside

    def _refuse_unregistered(self, verb: str) -> None:
        if self._registration is None:
            raise ScorerLifecycleError(
                f"Cannot {verb} the scorer {self._name!r}: this object is not registered. register() and start() "
                f"return a new scorer: write {self._name} = {self._name}.register(), or use "
                f"get_scorer(name={self._name!r}).{verb}(…)."
            )

    def registered_as(
        self, name: str, registration: Registration, *, spec: ScorerSpec | None = None, problem: str | None = None
    ) -> Self:
        """Return a copy that is registered so; with `spec` its code is loaded from there when it is first called."""
        made = copy.copy(self)
        made.__dict__ |= {"_name": name, "_registration": registration}
        if spec is not None or problem is not None:
            made.__dict__ |= {"_spec": spec, "_problem": problem}
        if spec is not None:
            made.kind = spec.kind
        return made

    def with_config(self, sample_rate: float, filter_string: str | None) -> Self:
        """Return a copy with another rate and filter."""
        assert self._registration is not None
        return self.registered_as(
            self._name, replace(self._registration, sample_rate=sample_rate, filter_string=filter_string)
        )

    def __getstate__(self) -> dict[str, Any]:
        """Take the stored definition along: where this travels to, there may be no registry."""
        if self._spec is not None and self._spec.kind.is_function:
            self._fetch_definition()
        return dict(self.__dict__)

    def definition_digest(self) -> str:
        """Return the digest of the definition as it is now, registered or not."""
        from backfill_spark.scorers.stored_code import digest

        return digest.of_function(self._function)

    def _accepted(self) -> tuple[str, ...]:
        """Return the parameters that a call by hand may pass."""
        return self._signature

    def _callable(self) -> Callable[..., Any]:
        if self._function is not None:
            return self._function
        if self._spec is None:
            raise ScorerLoadError(self._problem or f"The scorer {self._name!r} has no stored definition.")
        from backfill_spark.scorers.stored_code import loading

        spec = self._spec
        if spec.definition is None and self._registration is not None:
            spec = self._spec = _lifecycle().with_definition(spec, self._registration.experiment_id)
        return loading.load(spec)

    def _fetch_definition(self) -> ScorerSpec:
        assert self._spec is not None
        if self._spec.definition is None and self._registration is not None:
            self._spec = _lifecycle().with_definition(self._spec, self._registration.experiment_id)
        return self._spec

    def __iter__(self) -> NoReturn:
        raise TypeError(
            "A scorer is no pair: list_scorer_versions gives scorers here, where MLflow gives (scorer, version). "
            "Write `for s in list_scorer_versions(name=…)` and take s.scorer_version."
        )

    def __repr__(self) -> str:
        shown = [f"name={self._name!r}", f"status={self.status}"]
        if self._registration is not None:
            shown += [f"version={self.scorer_version}", f"sample_rate={self.sample_rate}"]
            shown += [f"filter_string={self.filter_string!r}"] if self.filter_string else []
        if self._problem:
            shown.append("broken")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _repr_html_(self) -> str:
        rows = {
            "kind": str(self.kind),
            "status": str(self.status),
            "version": self.scorer_version,
            "sample rate": self.sample_rate,
            "filter": self.filter_string,
            "experiment": self.experiment_id,
            "takes": ", ".join(self._signature),
            "aggregations": ", ".join(self._aggregations or ()),
            "description": self._description,
            "problem": self._problem,
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{key}</th><td style='text-align:left'>{html.escape(str(value))}</td></tr>"
            for key, value in rows.items()
            if value not in (None, "")
        )
        return f"<table><caption>Scorer <b>{html.escape(self._name)}</b></caption>{cells}</table>"


@overload
def scorer(function: Callable[..., Any], /) -> Scorer: ...
@overload
def scorer(
    function: None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    aggregations: Sequence[str] | None = None,
    timeout: float | None = None,
    version_note: str | None = None,
    **unknown: Any,
) -> Callable[[Callable[..., Any]], Scorer]: ...
def scorer(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    aggregations: Sequence[str] | None = None,
    timeout: float | None = None,
    version_note: str | None = None,
    **unknown: Any,
) -> Scorer | Callable[[Callable[..., Any]], Scorer]:
    """Make a scorer of a function that takes any of inputs, outputs, expectations, trace, session.

    Bare, or with a name (default: the function's), a description, aggregations, a timeout in seconds (0 for none)
    and a note about this version. It returns int, float, bool, str, None, a Feedback or a list of Feedback.

    Of an `async def` function many calls are under way at once in each task, 64 at most: for scorers that wait for
    other services. Its limit ends waits, and code that blocks the event loop; but not blocking code in tasks that it
    starts itself (`asyncio.gather`, `create_task`).

    Raises:
        ScorerDefinitionError: another parameter without a default, `session` beside others, an unknown argument or
            aggregation, or a bad timeout.
    """
    validation.refuse_unknown("@scorer", unknown, ("name", "description", "aggregations", "timeout", "version_note"))

    def decorate(function: Callable[..., Any]) -> Scorer:
        if validation.is_of_mlflow(function):
            raise ScorerDefinitionError(validation.instead_of(function))
        if isinstance(function, (Scorer, type)) or not callable(function):
            raise ScorerDefinitionError(f"@scorer decorates a function, got {function!r:.120}.")
        return Scorer(
            function,
            name=name,
            description=description,
            aggregations=aggregations,
            timeout=timeout,
            version_note=version_note,
        )

    return decorate if function is None else decorate(function)


def _lifecycle() -> Any:
    """What registers and starts scorers; it imports this module."""
    from backfill_spark.scorers import lifecycle

    return lifecycle


def _checked_text(what: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ScorerDefinitionError(f"{what} is a text, got {type(value).__name__}: {value!r:.80}.")
    return value
