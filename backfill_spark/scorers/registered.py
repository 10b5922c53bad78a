"""What the registry holds, as plain values: one version, and the catalog of an experiment. No code is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from backfill_spark.models import ScorerKind, ScorerSpec
from backfill_spark.scorers import validation

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AS_STORED = ("experiment_id", "description", "version_note", "python_version", "source_text", "created_by")
_UNREADABLE = (
    "The stored row of the scorer {name!r} version {version} cannot be read: {error}. Register the scorer again."
)


def moment(microseconds: int) -> datetime:
    """Return microseconds since the epoch as a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


@dataclass(frozen=True, slots=True)
class Config:
    """Rate and filter of one scorer."""

    sample_rate: float = 0.0
    filter_string: str | None = None
    updated_us: int = 0
    writes: int = 0
    """How many configs were written for it so far."""
    filter_dialect: str = "mlflow"

    @property
    def of_spec(self) -> dict[str, Any]:
        """What a spec has of it."""
        return {name: getattr(self, name) for name in ("sample_rate", "filter_string", "filter_dialect")}


@dataclass(frozen=True, slots=True)
class RegisteredScorer:
    """One version of a scorer as the registry holds it, with the rate and filter of its name."""

    spec: ScorerSpec
    """What makes it callable; its version is 0 until it is registered."""
    experiment_id: str = ""
    description: str | None = None
    version_note: str | None = None
    python_version: str | None = None
    source_text: str | None = None
    """For people to read; never executed."""
    created_at: datetime | None = None
    created_by: str | None = None
    problem: str | None = None
    """Why it cannot be used; of its spec only name, version and digest are known then."""

    @property
    def described(self) -> tuple[Any, ...]:
        """What may change without a new version."""
        return (self.description, self.version_note, self.spec.aggregations, self.spec.timeout_s, self.problem)

    def at(self, config: Config, **changes: Any) -> RegisteredScorer:
        """Return it with another rate and filter, and `changes` of its spec."""
        return replace(self, spec=replace(self.spec, **config.of_spec, **changes))

    @classmethod
    def of_row(cls, row: Mapping[str, Any], config: Config) -> RegisteredScorer:
        """Read a row of `scorers`; one that is broken, or that a newer backfill_spark wrote, has a `problem`."""
        name, version, digest = row["name"], row["version"], row["digest"]
        problem = None
        blank = ScorerSpec(name, version, str(digest), ScorerKind.FUNCTION, {}, None, (), **config.of_spec)
        try:
            spec = replace(
                blank,
                kind=ScorerKind(row["kind"]),
                parameters=json.loads(row["parameters"] or "{}"),
                definition=row["definition"],
                signature=tuple(json.loads(row["signature"])),
                aggregations=tuple(json.loads(row["aggregations"] or "[]")),
                timeout_s=row["timeout_s"],
                level=row["level"] or "trace",
            )
            is_known = isinstance(spec.parameters, dict) and set(spec.signature) <= set(validation.PARAMETERS)
            if not is_known or not digest:
                raise ValueError("parameters, signature or digest")
        except (TypeError, ValueError) as error:
            spec, problem = blank, _UNREADABLE.format(name=name, version=version, error=error)
        created = None if row["created_us"] is None else moment(row["created_us"])
        return cls(spec, **{name: row[name] for name in _AS_STORED}, created_at=created, problem=problem)

    def to_row(self) -> dict[str, Any]:
        spec = self.spec
        return {
            "experiment_id": self.experiment_id,
            "name": spec.name,
            "version": spec.version,
            "digest": spec.digest,
            "kind": str(spec.kind),
            "level": spec.level,
            "parameters": json.dumps(dict(spec.parameters), ensure_ascii=False),
            "definition": spec.definition,
            "signature": json.dumps(list(spec.signature)),
            "description": self.description,
            "aggregations": json.dumps(list(spec.aggregations)) if spec.aggregations else None,
            "timeout_s": spec.timeout_s,
            "version_note": self.version_note,
            "source_text": self.source_text,
            "python_version": self.python_version,
            "created_at": self.created_at,
            "created_by": self.created_by,
        }


class OlderRegistration:
    """What older versions pickled of a registered scorer that a stored function holds."""

    def __setstate__(self, values: list[Any]) -> None:
        self.values = values

    def as_today(self, name: str, spec: ScorerSpec | None, problem: str | None) -> RegisteredScorer:
        """Return it with the spec and the problem that were pickled beside it."""
        experiment_id, version, digest, *rate, created_at, created_by, python_version, source_text = self.values
        return RegisteredScorer(
            spec or ScorerSpec(name, version, digest, ScorerKind.FUNCTION, {}, None, (), *rate),
            experiment_id,
            python_version=python_version,
            source_text=source_text,
            created_at=created_at,
            created_by=created_by,
            problem=problem,
        )


@dataclass(frozen=True)
class Catalog:
    """The registry's rows of one experiment (or of one name in it)."""

    experiment_id: str
    rows: Mapping[tuple[str, int], RegisteredScorer] = field(default_factory=dict)
    """Live versions by name and number."""
    configs: Mapping[str, Config] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    """Highest number ever used by each name, deleted ones included."""
    newest_us: int = 0
    """Latest created_at among the rows read, in microseconds."""

    @property
    def names(self) -> list[str]:
        """Names with a live version, sorted."""
        return sorted({name for name, _ in self.rows})

    def newest(self, name: str) -> RegisteredScorer | None:
        """Return the latest live version of `name`."""
        numbers = [version for known, version in self.rows if known == name]
        return self.rows[name, max(numbers)] if numbers else None

    def highest(self, name: str) -> int:
        """Return the highest number that `name` ever used, or 0."""
        return self.numbers.get(name, 0)

    def config(self, name: str) -> Config:
        """Return rate and filter of `name`; rate 0 when it was never started."""
        return self.configs.get(name, Config())

    def version(self, name: str, version: int) -> ScorerSpec | None:
        """Return the spec of one live version, or None when it is not there or cannot be read."""
        found = self.rows.get((name, version))
        return None if found is None or found.problem else found.spec

    def latest(self, name: str) -> ScorerSpec | None:
        """Return the spec of the latest live version of `name`, or None."""
        found = self.newest(name)
        return None if found is None or found.problem else found.spec

    def with_digest(self, name: str, digest: str) -> ScorerSpec | None:
        """Return the spec of the newest live version of `name` that has this digest, or None."""
        same = [version for (known, version), r in self.rows.items() if known == name and r.spec.digest == digest]
        return self.version(name, max(same)) if same else None

    @property
    def broken(self) -> dict[str, str]:
        """Names whose latest live version cannot be read, and why."""
        newest = {name: self.newest(name) for name in self.names}
        return {name: found.problem for name, found in newest.items() if found is not None and found.problem}

    @classmethod
    def of_rows(cls, experiment_id: str, rows: Sequence[Mapping[str, Any]]) -> Catalog:
        """Sort rows of both tables; those of a config have no version."""
        absent = ("definition", "deleted_us", "created_us", "updated_us", "sample_rate", "filter_string")
        blank = dict.fromkeys((*absent, "filter_dialect"))
        found: dict[tuple[str, int], list[dict[str, Any]]] = {}
        configs: dict[str, Config] = {}
        newest_us = 0
        for row in rows:
            values = blank | dict(row)
            name, version = values["name"], values.get("version")
            newest_us = max(newest_us, values["created_us"] or 0)
            if name is None:
                continue
            if version is not None:
                found.setdefault((name, version), []).append(values)
            elif values["sample_rate"] is not None:
                old = configs.get(name, Config())
                new = (values["updated_us"] or 0) >= old.updated_us
                configs[name] = Config(
                    values["sample_rate"] if new else old.sample_rate,
                    values["filter_string"] if new else old.filter_string,
                    max(values["updated_us"] or 0, old.updated_us),
                    old.writes + 1,
                    (values["filter_dialect"] or "mlflow") if new else old.filter_dialect,
                )
        live: dict[tuple[str, int], RegisteredScorer] = {}
        numbers: dict[str, int] = {}
        for (name, version), same in found.items():
            numbers[name] = max(version, numbers.get(name, 0))
            if all(row["deleted_us"] is None for row in same):
                last = max(same, key=lambda row: row["created_us"] or 0)
                live[name, version] = RegisteredScorer.of_row(last, configs.get(name, Config()))
        return cls(experiment_id, live, configs, numbers, newest_us)


def as_read(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of plain values, moments in microseconds since 1970."""
    found = dict(row)
    for moment in [name for name in found if name.endswith("_at")]:
        at = found.pop(moment)
        found[moment.replace("_at", "_us")] = None if at is None else (at - _EPOCH) // timedelta(microseconds=1)
    return found
