"""The values that travel between the modules: frozen, of the standard library only."""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, date, datetime, time, tzinfo
from enum import StrEnum
from typing import Annotated, Any

MAX_SCORERS = 64
"""Scorers a job may have: the `due` mask of a trace is one 64-bit integer."""

INCOMPLETE = "INCOMPLETE"
"""State of a trace of which a source cannot give all spans: it is never scored."""
UNREADABLE = "backfill_spark.unreadable"
"""The one key of tags and trace_metadata that hold no JSON object in the source; its value is what they hold."""


class JobState(StrEnum):
    """State of a backfill job; the value is what the tables hold."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    CANCELING = "CANCELING"
    SUCCEEDED = "SUCCEEDED"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def is_terminal(self) -> bool:
        """True for the states that never change."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED)

    @property
    def is_at_rest(self) -> bool:
        """True when no runner works on the job: terminal, or PARTIAL."""
        return self.is_terminal or self is JobState.PARTIAL


class ScorerStatus(StrEnum):
    """Where a scorer is in its life."""

    UNREGISTERED = "UNREGISTERED"
    STARTED = "STARTED"
    STOPPED = "STOPPED"


class ScorerKind(StrEnum):
    """What recreates a scorer from its row."""

    FUNCTION = "function"
    ASYNC_FUNCTION = "async_function"
    """An `async def` function; many of its calls are under way at once."""
    BUILTIN = "builtin"
    JUDGE = "judge"

    @property
    def is_function(self) -> bool:
        """True for a user's own function, whose definition is stored."""
        return self in (ScorerKind.FUNCTION, ScorerKind.ASYNC_FUNCTION)


class Outcome(StrEnum):
    """How a pair ended."""

    SCORED = "scored"
    EMPTY = "empty"
    ERROR = "error"


class ErrorCode(StrEnum):
    """Why a pair has no value; a closed list, which readers of `assessments` know.

    CRASHED, EXITED and LOST_IN_CRASH are for scorers in a process of their own; nothing writes them yet.
    """

    SCORER_ERROR = "scorer_error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    CRASHED = "crashed"
    EXITED = "exited"
    BAD_RETURN_TYPE = "bad_return_type"
    VALUE_NOT_FINITE = "value_not_finite"
    VALUE_OUT_OF_RANGE = "value_out_of_range"
    VALUE_TOO_LONG = "value_too_long"
    LOAD_FAILED = "load_failed"
    TRACE_UNREADABLE = "trace_unreadable"
    TRACE_TOO_LARGE = "trace_too_large"
    LOST_IN_CRASH = "lost_in_crash"
    JUDGE_BAD_OUTPUT = "judge_bad_output"
    JUDGE_REFUSED = "judge_refused"
    JUDGE_RATE_LIMITED = "judge_rate_limited"
    JUDGE_ERROR = "judge_error"


class SkipReason(StrEnum):
    """Why a row of the window is never scored, in the order in which it is decided."""

    NO_TIME = "no_time"
    EVALUATION_RUN = "evaluation_run"
    IN_PROGRESS = "in_progress"
    INCOMPLETE = "incomplete"
    NO_TRACE_ID = "no_trace_id"
    DUPLICATE_TRACE_ID = "duplicate_trace_id"
    NO_EXPECTATIONS = "no_expectations"


class Reprocess(StrEnum):
    """What is due among pairs that may have results."""

    MISSING = "missing"
    FAILED = "failed"
    ALL = "all"


class Sampling(StrEnum):
    """How a rate chooses traces."""

    HASH = "hash"
    SPARK = "spark"


@dataclass(frozen=True, slots=True)
class ScorerSamplingConfig:
    """How much of an experiment a scorer is applied to, as in MLflow."""

    sample_rate: float | None = None
    """Share of traces in [0, 1]; None keeps what is registered (`start`: 1.0)."""
    filter_string: str | None = None
    """MLflow filter; None keeps what is registered, "" clears it."""


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """Half-open `[start, end)` in UTC; None is no bound."""

    start: datetime | None = None
    end: datetime | None = None

    def __str__(self) -> str:
        if self.start is None and self.end is None:
            return "all time"
        first = "the beginning" if self.start is None else _shown(self.start)
        last = "no end" if self.end is None else _shown(self.end)
        return f"[{first}, {last})"

    def __and__(self, other: TimeWindow) -> TimeWindow:
        """Return what lies in both."""
        starts = [t for t in (self.start, other.start) if t is not None]
        ends = [t for t in (self.end, other.end) if t is not None]
        return TimeWindow(max(starts, default=None), min(ends, default=None))

    def __or__(self, other: TimeWindow) -> TimeWindow:
        """Return the shortest window around both."""
        return TimeWindow(
            None if self.start is None or other.start is None else min(self.start, other.start),
            None if self.end is None or other.end is None else max(self.end, other.end),
        )

    def meets(self, other: TimeWindow) -> bool:
        """True when an instant can lie in both."""
        starts_before = self.start is None or other.end is None or self.start < other.end
        return starts_before and (other.start is None or self.end is None or other.start < self.end)

    @property
    def dates(self) -> tuple[date, date]:
        """The first and the last UTC date that an instant of the window can have."""
        first = date.min if self.start is None else self.start.astimezone(UTC).date()
        return first, date.max if self.end is None else self.end.astimezone(UTC).date()

    def to_json(self) -> list[str | None]:
        """Return both bounds as ISO text."""
        return [None if t is None else t.isoformat() for t in (self.start, self.end)]

    @classmethod
    def from_json(cls, value: list[str | None]) -> TimeWindow:
        start, end = (None if t is None else datetime.fromisoformat(t) for t in value)
        return cls(start, end)


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f").removesuffix(".000000").removesuffix(" 00:00:00")


def parse_moment(value: datetime | date | str | None, timezone: tzinfo | None) -> datetime | None:
    """Turn a bound of a window into an instant in UTC.

    A date is its midnight. A naive moment is in `timezone`, or in the machine's local time when that
    is None (what `datetime.timestamp()` says).

    Raises:
        ValueError: the text is no ISO date or time, or the value is of another type.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = datetime.fromisoformat(value.strip())
    if not isinstance(value, date):
        raise ValueError(f"expected a datetime, a date or ISO text, got {type(value).__name__}")
    # A subclass such as pandas' Timestamp counts otherwise.
    value = datetime.combine(value, value.timetz() if isinstance(value, datetime) else time())
    if value.tzinfo is None and timezone is not None:
        value = value.replace(tzinfo=timezone)
    if value.tzinfo is not None:
        return value.astimezone(UTC)
    # Not `astimezone`, which takes the other side of a gap; whole seconds, which a float holds exactly.
    seconds = value.replace(microsecond=0).timestamp()
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=value.microsecond)


@dataclass(frozen=True, slots=True)
class ScorerSpec:
    """What recreates one registered scorer, and how this job uses it. Stored and shipped; holds no code."""

    name: str
    version: int
    digest: str
    kind: ScorerKind
    parameters: Mapping[str, Any]
    """Constructor arguments of a built-in or judge; {} for a function."""
    definition: str | None
    """Base64 of the pickled function; None for built-ins and judges."""
    signature: tuple[str, ...]
    """Which of inputs, outputs, expectations, trace, session the scorer takes."""
    sample_rate: float
    filter_string: str | None = None
    aggregations: tuple[str, ...] = ()
    timeout_s: float | None = None
    level: str = "trace"
    filter_dialect: str = "mlflow"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object without the definition, which stays in `scorers`."""
        data = asdict(self)
        del data["definition"]
        data["parameters"] = dict(self.parameters)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any], definition: str | None = None) -> ScorerSpec:
        return cls(
            **{
                **data,
                "kind": ScorerKind(data["kind"]),
                "signature": tuple(data["signature"]),
                "aggregations": tuple(data["aggregations"]),
                "definition": definition,
            }
        )

    def with_rate(self, rate: float) -> ScorerSpec:
        """Return the same scorer at another rate."""
        return replace(self, sample_rate=rate)


@dataclass(frozen=True, slots=True, eq=False)
class Counts(Mapping[str, Any]):
    """Counts of one scorer in one job.

    `in_window = skipped + filtered_out + sampled_out + already_scored + due` and
    `due = scored + empty + errored + left`.
    """

    in_window: int = 0
    skipped: int = 0
    filtered_out: int = 0
    sampled_out: int = 0
    already_scored: int = 0
    due: int = 0
    scored: int = 0
    empty: int = 0
    errored: int = 0
    left: int = 0
    calls: int = 0
    skipped_reasons: Mapping[str, int] = field(default_factory=Counter)
    """Reason → rows; a reason that is not there counts 0."""

    def __getitem__(self, name: str) -> Any:
        """Return a count by its name: `counts["due"]` is `counts.due`."""
        if name not in _COUNT_KEYS:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(_COUNT_KEYS)

    def __len__(self) -> int:
        return len(_COUNT_KEYS)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as the job row keeps them."""
        return {**self, "skipped_reasons": dict(self.skipped_reasons)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Counts:
        return cls(**{**data, "skipped_reasons": Counter(data.get("skipped_reasons", {}))})


_COUNT_KEYS = tuple(one.name for one in fields(Counts))
COUNT_NAMES = tuple(name for name in _COUNT_KEYS if name != "skipped_reasons")


@dataclass(frozen=True, slots=True)
class Chunk:
    """The unit that is scored and staged: a window times a slice `[draw_from, draw_to)` of the draw."""

    index: int
    window: TimeWindow
    draw_from: float
    draw_to: float
    pairs: int
    """Due pairs expected in it."""
    dates: tuple[date, ...] = ()
    """UTC dates of its traces."""
    whole_from: datetime | None = None
    """From then on all draws are in it: the slice is what an earlier chunk has left of its first hour."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object for the job's events."""
        return {
            "chunk": self.index,
            "window": self.window.to_json(),
            "draw": [self.draw_from if self.whole_from is None else 0.0, self.draw_to],
            "pairs": self.pairs,
        }


def new_job_id(now: datetime) -> str:
    """Return an id that matches `bf-[0-9a-z-]{8,40}` and sorts by time."""
    return f"bf-{now.astimezone(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(4)}"


def rate_reached(spec: ScorerSpec, counts: Counts, judged_to: float | None) -> float:
    """Return the rate that a scorer's results come up to: its sampling rate, or less in a job that stopped before.

    Args:
        spec: the scorer, with the rate that was asked for.
        counts: of the job.
        judged_to: how far in the draw the job's judges came, of `BackfillJob.rate_reached`.
    """
    if spec.kind is ScorerKind.JUDGE and judged_to is not None:
        return min(spec.sample_rate, judged_to)
    chosen = counts.already_scored + counts.due
    return spec.sample_rate * (chosen - counts.left) / chosen if counts.left and chosen else spec.sample_rate


def mostly_failed(name: str, errored: int, of: int, error: str | None) -> str:
    """Return the sentence about a scorer that failed on more than half of its pairs."""
    said = f" Most frequent error: {error}" if error else " Its error rows in assessments say why."
    return f"Scorer {name!r} failed on {errored:,} of {of:,} pairs.{said}"


def is_job_id(value: object) -> bool:
    """True for a text that may be a job's id."""
    return isinstance(value, str) and re.fullmatch(r"bf-[0-9a-z-]{8,40}", value) is not None


def compact_json(value: Any) -> str:
    """Return compact UTF-8 JSON text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of `backfill_scorers` and `plan_backfill` as they came.

    Annotated ones are options of `plan` and `run` under their own names, with what click is to be told.
    """

    scorers: Any
    start_time: Any = None
    end_time: Any = None
    window: Annotated[
        Any,
        {"metavar": "hour|day|week|month", "help": "The last complete one, instead of --start and --end."},
    ] = None
    filter_string: Any = None
    trace_ids: Any = None
    reprocess: Any = "missing"
    sampling: Any = "hash"
    seed: Annotated[Any, {"type": int, "default": 0, "show_default": True, "help": "Seed of the draw."}] = 0
    max_error_rate: Annotated[
        Any, {"type": float, "metavar": "SHARE", "help": "The job fails above this share of errors."}
    ] = None
    max_calls: Annotated[Any, {"type": int, "metavar": "N", "help": "Most requests that judges may send."}] = None
    max_cost_usd: Annotated[Any, {"type": float, "metavar": "USD", "help": "Most that judges may spend."}] = None
    exclusive: Annotated[bool, {"is_flag": True, "help": "Refuse when a live job covers a scorer in the window."}] = (
        False
    )
    launch: Any = "here"
    traces: Annotated[Any, {"metavar": "PATH|TABLE", "help": "These traces, instead of those of the settings."}] = None

    def __post_init__(self) -> None:
        if isinstance(self.trace_ids, Iterator):  # can be read once, and is read twice
            object.__setattr__(self, "trace_ids", list(self.trace_ids))


@dataclass(frozen=True, slots=True)
class Request:
    """What a job was asked to do, with everything pinned; frozen when the job is created."""

    experiment_id: str
    experiment_given: bool
    """True when the experiment was named, and not just the built-in default."""
    scorers: tuple[ScorerSpec, ...]
    window: TimeWindow
    source: str
    """Absolute path, URI or table name of the traces."""
    source_version: str
    source_table_id: str | None
    results_version: int | None
    """Version of `assessments` that decides what has a result; None when there was no table."""
    filter_string: str | None = None
    filter_dialect: str = "mlflow"
    lists_traces: bool = False
    """True when the traces were listed (`trace_ids`); the ids are in `work`."""
    reprocess: Reprocess = Reprocess.MISSING
    sampling: Sampling = Sampling.HASH
    seed: int = 0
    max_calls: int | None = None
    max_cost_usd: float | None = None
    max_error_rate: float = 1.0
    payload: str = "auto"
    models: Mapping[str, str] = field(default_factory=dict)
    """Judge → URI of the model that it asks."""
    source_kind: str = ""
    """`delta path` and the like, or `table`; "" in jobs of versions that did not tell a path from a name."""
    source_shape: str = "canonical"
    """How the traces were read (`traces.shape`)."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The setting `traces.columns` of the moment in which the job was planned."""
    slack: str | None = None
    """The setting `traces.slack` of that moment; None in jobs of versions that did not keep it."""
    notes: tuple[str, ...] = ()
    feedback_version: int | None = None
    """Version of `assessments` that filters see; None where no filter asks for feedback, or there was no table."""
    sees_sessions: bool = False
    """True when filters ask for assessments that traces have by their session."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; definitions of scorers are not in it."""
        return asdict(self) | {
            "scorers": [s.to_json() for s in self.scorers],
            "window": self.window.to_json(),
            "notes": list(self.notes),
            "models": dict(self.models),
            "columns": dict(self.columns),
        }

    @property
    def code(self) -> list[int]:
        """Positions of the scorers that are called in the worker."""
        return [i for i, s in enumerate(self.scorers) if s.kind is not ScorerKind.JUDGE]

    @property
    def judges(self) -> list[int]:
        """Positions of the scorers that ask a model."""
        return [i for i, s in enumerate(self.scorers) if s.kind is ScorerKind.JUDGE]

    @classmethod
    def from_json(cls, data: Mapping[str, Any], definitions: Mapping[tuple[str, int], str | None]) -> Request:
        """Rebuild a request; `definitions` has the pickled functions by name and version."""
        scorers = tuple(ScorerSpec.from_json(s, definitions.get((s["name"], s["version"]))) for s in data["scorers"])
        return cls(
            **{
                **data,
                "scorers": scorers,
                "window": TimeWindow.from_json(data["window"]),
                "reprocess": Reprocess(data["reprocess"]),
                "sampling": Sampling(data["sampling"]),
                "notes": tuple(data["notes"]),
            }
        )


@dataclass(frozen=True, slots=True)
class BackfillScorerConfig:
    """One scorer of a backfill, at a rate of its own."""

    scorer: Any
    """A `Scorer` (pins its version), or the name of a registered one (means the latest)."""
    sample_rate: float | None = None
    """Share of traces in [0, 1]; None reads the registered rate when the job is planned."""
