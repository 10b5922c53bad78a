"""`@scorer` and `Scorer`: a plain function, and its life in the registry."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, TypedDict, Unpack, cast, overload

from backfill_spark.errors import ScorerDefinitionError, ScorerLifecycleError, ScorerLoadError
from backfill_spark.models import ScorerKind, ScorerSamplingConfig, ScorerSpec, ScorerStatus
from backfill_spark.scorers import validation
from backfill_spark.scorers.registered import OlderRegistration, RegisteredScorer
from backfill_spark.traces.assessment import DEFAULT_FEEDBACK_NAME, Feedback

if TYPE_CHECKING:
    from backfill_spark.scorers.stored_code.pickling import Definition


class ScorerOptions(TypedDict, total=False):
    """What every scorer can be given."""

    name: str | None
    description: str | None
    aggregations: Sequence[str] | None
    timeout: float | None
    version_note: str | None


class Scorer:
    """A function that judges one trace. Immutable: register, start, update and stop return a new instance.

    Callable as the plain function it is: of an `async def` function a call returns the coroutine. `description`,
    `aggregations`, `timeout` and `version_note` are kept with the registered version.
    """

    kind: ScorerKind = ScorerKind.FUNCTION
    revision: ClassVar[int] = 1
    """Of a class in the package, part of the digest: rises when its answers to the same parameters change."""

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
        self._registration: RegisteredScorer | None = None
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
            return self._registration.spec.digest
        return self.definition_digest()

    # --- what the registry says

    @property
    def status(self) -> ScorerStatus:
        """UNREGISTERED, STARTED (rate above 0) or STOPPED."""
        if self._registration is None:
            return ScorerStatus.UNREGISTERED
        return ScorerStatus.STARTED if self._registration.spec.sample_rate > 0 else ScorerStatus.STOPPED

    @property
    def sample_rate(self) -> float | None:
        """Share of traces in [0, 1]; 0.0 when stopped, None while unregistered."""
        return None if self._registration is None else self._registration.spec.sample_rate

    @property
    def filter_string(self) -> str | None:
        """MLflow filter, or None."""
        return None if self._registration is None else self._registration.spec.filter_string

    @property
    def scorer_version(self) -> int | None:
        """1, 2, …; None while unregistered."""
        return None if self._registration is None else self._registration.spec.version

    @property
    def experiment_id(self) -> str | None:
        """Experiment it is registered in."""
        return None if self._registration is None else self._registration.experiment_id

    @property
    def registration(self) -> RegisteredScorer | None:
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

    def to_mlflow(self) -> Any:
        """Return a scorer of MLflow's, for `mlflow.genai.evaluate(scorers=[ours.to_mlflow()])`.

        A function and a code built-in are called as they are, with a `Trace` of ours; a judge becomes MLflow's of the
        same name and arguments, which asks with MLflow's prompt.

        Raises:
            ScorerDefinitionError: MLflow is not installed, or lacks a judge of this kind.
        """
        from backfill_spark.scorers.to_mlflow import to_mlflow

        return to_mlflow(self)

    def captured(self) -> tuple[Any, ...]:
        """The parts that decide its answers. For digests."""
        if self._function is not None:
            return (str(self.kind), self._function)
        return (str(self.kind), self.digest if self.kind.is_function else self.definition_digest())

    # --- its life

    def register(self, *, name: str | None = None, experiment_id: str | None = None) -> Self:
        """Store the definition; returns the registered scorer, this one stays as it is.

        The same definition again makes no new version; another one makes the next and keeps rate and filter.

        Raises:
            ScorerDefinitionError: something in it cannot travel to the executors; names it.
            ScorerLifecycleError: the name cannot be used.
        """
        from backfill_spark.scorers import lifecycle

        target = validation.checked_name(self._name if name is None else name)
        known = self._registration if self._is_loaded_later else None
        new = self.to_register() if known is None else known
        return self.registered_as(lifecycle.register(new, name=target, experiment_id=experiment_id))

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
        if self._registration is not None:
            return self._changed("start", config, name, experiment_id)
        from backfill_spark.scorers import lifecycle

        return self.registered_as(
            lifecycle.start(self._name, self.digest, config, name=name, experiment_id=experiment_id)
        )

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
        return self._changed("update", config, name, experiment_id)

    def stop(self, *, name: str | None = None, experiment_id: str | None = None) -> Self:
        """Set the rate to 0; registration and filter stay. Returns the stopped scorer.

        Raises:
            ScorerLifecycleError: not registered.
        """
        return self._changed("stop", ScorerSamplingConfig(sample_rate=0.0), name, experiment_id)

    # --- inside

    def _changed(self, verb: str, config: ScorerSamplingConfig, name: str | None, experiment_id: str | None) -> Self:
        known = self._registration
        if known is None:
            raise ScorerLifecycleError(
                f"Cannot {verb} the scorer {self._name!r}: this object is not registered. register() and start() "
                f"return a new scorer: write {self._name} = {self._name}.register(), or use "
                f"get_scorer(name={self._name!r}).{verb}(…)."
            )
        from backfill_spark.scorers import lifecycle

        found = lifecycle.change(known, config, name=name, experiment_id=experiment_id)
        if (found.spec.name, found.experiment_id) == (self._name, known.experiment_id):
            return self.registered_as(found)
        return cast("Self", scorer_of(found))

    def registered_as(self, found: RegisteredScorer) -> Self:
        """Return a copy that is registered so."""
        if self._function is not None:
            found = replace(found, spec=replace(found.spec, definition=None))
        made = object.__new__(type(self))  # copy.copy would fetch the definition
        made.__dict__ |= self.__dict__ | {"_name": found.spec.name, "_registration": found}
        return made

    @property
    def _is_loaded_later(self) -> bool:
        """True for a function that comes from the registry: its stored definition is read when it is needed."""
        known = self._registration
        return self._function is None and known is not None and not known.problem and known.spec.kind.is_function

    def _with_definition(self) -> RegisteredScorer:
        from backfill_spark.scorers import lifecycle

        assert self._registration is not None
        self._registration = lifecycle.with_definition(self._registration)
        return self._registration

    def to_register(self) -> RegisteredScorer:
        """Return the definition and all that is kept with it."""
        stored = self._stored()
        spec = ScorerSpec(
            name=self._name,
            version=0,
            digest=stored.digest,
            kind=self.kind,
            parameters=self.parameters,
            definition=stored.definition,
            signature=self._signature,
            sample_rate=0.0,
            aggregations=self._aggregations or (),
            timeout_s=self._timeout,
            level="session" if self.is_session_level_scorer else "trace",
        )
        return RegisteredScorer(
            spec,
            description=self._description,
            version_note=self._version_note,
            python_version=stored.python_version,
            source_text=stored.source_text,
        )

    def _stored(self) -> Definition:
        from backfill_spark.scorers.stored_code import loading, pickling

        if self._function is not None:
            return pickling.dump(self._function, name=self._name)
        cls = type(self)
        if "class" not in self.parameters:
            raise ScorerDefinitionError(f"The scorer {self._name!r} has neither a function nor parameters to store.")
        if loading.CLASSES.get(cls.__name__) != cls.__module__:
            raise ScorerDefinitionError(
                f"The scorer {self._name!r} is of the class {cls.__qualname__!r}; only built-in classes and @scorer "
                f"functions can be registered. Built-in: {sorted(loading.CLASSES)}."
            )
        return pickling.Definition(None, None, self.definition_digest(), None)

    def __getstate__(self) -> dict[str, Any]:
        """Take the stored definition along: where this travels to, there may be no registry."""
        if self._is_loaded_later:
            self._with_definition()
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what was pickled, also by a version that kept spec and problem apart from the registration."""
        known = state["_registration"]
        if isinstance(known, OlderRegistration):
            state["_registration"] = known.as_today(state["_name"], state.pop("_spec"), state.pop("_problem"))
        self.__dict__ |= state

    def definition_digest(self) -> str:
        """Return the digest of the definition as it is now, registered or not."""
        from backfill_spark.scorers.stored_code import digest

        if self.kind.is_function:
            return digest.of_function(self._function)
        return digest.of_parameters(str(self.kind), self.parameters, self.revision)

    def _accepted(self) -> tuple[str, ...]:
        """Return the parameters that a call by hand may pass."""
        return self._signature

    def _callable(self) -> Callable[..., Any]:
        if self._function is not None:
            return self._function
        if not self._is_loaded_later:
            problem = None if self._registration is None else self._registration.problem
            raise ScorerLoadError(problem or f"The scorer {self._name!r} has no stored definition.")
        from backfill_spark.scorers.stored_code import loading

        return loading.load(self._with_definition().spec)

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
        if self._registration is not None and self._registration.problem:
            shown.append("broken")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _repr_html_(self) -> str:
        from backfill_spark.display.views import scorer_html

        return scorer_html(self, problem=None if self._registration is None else self._registration.problem)


@overload
def scorer(function: Callable[..., Any], /) -> Scorer: ...
@overload
def scorer(function: None = None, /, **options: Unpack[ScorerOptions]) -> Callable[[Callable[..., Any]], Scorer]: ...
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
    validation.refuse_unknown("@scorer", unknown, ScorerOptions.__annotations__)

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


def scorer_of(found: RegisteredScorer) -> Scorer:
    """Return a registered scorer: built-ins made again, functions not loaded; a broken one says so when called."""
    from backfill_spark.scorers.stored_code import loading

    spec = found.spec
    options = ScorerOptions(
        name=spec.name,
        description=found.description,
        version_note=found.version_note,
        aggregations=spec.aggregations or None,
        timeout=spec.timeout_s,
    )
    if not spec.kind.is_function:
        try:
            made: Scorer = loading.recreate(spec, **options)
        except ScorerLoadError as error:
            found = replace(found, problem=str(error))
        else:
            return made.registered_as(found)
    made = Scorer(None, **options, signature=spec.signature)
    made.kind = spec.kind
    return made.registered_as(found)


def _checked_text(what: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ScorerDefinitionError(f"{what} is a text, got {type(value).__name__}: {value!r:.80}.")
    return value
