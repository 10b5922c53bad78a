"""Catalog: what the registry holds of one experiment, as read once. Plain values; no code is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from backfill_spark.errors import ScorerLoadError
from backfill_spark.models import ScorerKind, ScorerSpec
from backfill_spark.scorers import validation
from backfill_spark.scorers.scorer import Registration, Scorer
from backfill_spark.scorers.stored_code.loading import recreate

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Config:
    """Rate and filter of one scorer."""

    sample_rate: float = 0.0
    filter_string: str | None = None
    updated_us: int = 0
    writes: int = 0
    """How many configs were written for it so far."""


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One live row of `scorers`."""

    name: str
    version: int
    fields: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """64 hex digits."""
        return str(self.fields["digest"])

    def spec(self, config: Config) -> ScorerSpec:
        """Return what recreates it.

        Raises:
            ScorerLoadError: the row is broken, or a newer backfill_spark wrote it.
        """
        row = self.fields
        try:
            kind = ScorerKind(row["kind"])
            parameters = json.loads(row["parameters"] or "{}")
            signature = tuple(json.loads(row["signature"]))
            aggregations = tuple(json.loads(row["aggregations"] or "[]"))
            if (
                not isinstance(parameters, dict)
                or not set(signature) <= set(validation.PARAMETERS)
                or not row["digest"]
            ):
                raise ValueError("parameters, signature or digest")
        except (TypeError, ValueError) as error:
            raise ScorerLoadError(
                f"The stored row of the scorer {self.name!r} version {self.version} cannot be read: {error}. "
                "Register the scorer again."
            ) from error
        return ScorerSpec(
            name=self.name,
            version=self.version,
            digest=self.digest,
            kind=kind,
            parameters=parameters,
            definition=row["definition"],
            signature=signature,
            sample_rate=config.sample_rate,
            filter_string=config.filter_string,
            aggregations=aggregations,
            timeout_s=row["timeout_s"],
            level=row["level"] or "trace",
        )

    def registration(self, config: Config) -> Registration:
        """Return what a Scorer says of its registration."""
        created = self.fields["created_us"]
        return Registration(
            experiment_id=self.fields["experiment_id"],
            version=self.version,
            digest=self.digest,
            sample_rate=config.sample_rate,
            filter_string=config.filter_string,
            created_at=None if created is None else _EPOCH + timedelta(microseconds=created),
            created_by=self.fields["created_by"],
            python_version=self.fields["python_version"],
            source_text=self.fields["source_text"],
        )

    def scorer(self, config: Config) -> Scorer:
        """Return a Scorer: built-ins recreated, functions not loaded; a broken one says so when it is called."""
        registration = self.registration(config)
        spec: ScorerSpec | None = None
        problem: str | None = None
        try:
            spec = self.spec(config)
        except ScorerLoadError as error:
            problem = str(error)
        values: dict[str, Any] = {
            "name": self.name,
            "description": self.fields["description"],
            "version_note": self.fields["version_note"],
            "aggregations": None if spec is None else spec.aggregations or None,
            "timeout": None if spec is None else spec.timeout_s,
        }
        if spec is not None and not spec.kind.is_function:
            try:
                made: Scorer = recreate(spec, **values)
                return made.registered_as(self.name, registration)
            except ScorerLoadError as error:
                spec, problem = None, str(error)
        plain = Scorer(None, **values, signature=() if spec is None else spec.signature)
        return plain.registered_as(self.name, registration, spec=spec, problem=problem)


@dataclass(frozen=True)
class Catalog:
    """The registry's rows of one experiment (or of one name in it)."""

    experiment_id: str
    rows: Mapping[tuple[str, int], VersionRow] = field(default_factory=dict)
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

    def newest(self, name: str) -> VersionRow | None:
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
        row = self.rows.get((name, version))
        try:
            return None if row is None else row.spec(self.config(name))
        except ScorerLoadError:
            return None

    def latest(self, name: str) -> ScorerSpec | None:
        """Return the spec of the latest live version of `name`, or None."""
        row = self.newest(name)
        return None if row is None else self.version(name, row.version)

    def with_digest(self, name: str, digest: str) -> ScorerSpec | None:
        """Return the spec of the newest live version of `name` that has this digest, or None."""
        same = [row.version for row in self.rows.values() if row.name == name and row.digest == digest]
        return self.version(name, max(same)) if same else None

    @property
    def broken(self) -> dict[str, str]:
        """Names whose latest live version cannot be read, and why."""
        found = {}
        for name in self.names:
            row = self.newest(name)
            try:
                if row is not None:
                    row.spec(self.config(name))
            except ScorerLoadError as error:
                found[name] = str(error)
        return found

    @classmethod
    def of_rows(cls, experiment_id: str, rows: Sequence[Mapping[str, Any]]) -> Catalog:
        """Sort rows of both tables; those of a config have no version."""
        blank = dict.fromkeys(("definition", "deleted_us", "created_us", "updated_us", "sample_rate", "filter_string"))
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
                )
        live: dict[tuple[str, int], VersionRow] = {}
        numbers: dict[str, int] = {}
        for (name, version), same in found.items():
            numbers[name] = max(version, numbers.get(name, 0))
            if all(row["deleted_us"] is None for row in same):
                last = max(same, key=lambda row: row["created_us"] or 0)
                live[name, version] = VersionRow(name, version, last)
        return cls(experiment_id, live, configs, numbers, newest_us)


def rows_of(
    frame: DataFrame, experiment_id: str | None = None, *, name: str | None = None, definitions: bool = False
) -> list[Mapping[str, Any]]:
    """Read rows of `scorers` or `scorer_configs`, of all experiments and names or one; moments in microseconds."""
    from pyspark.sql import functions as F

    rows = frame
    if experiment_id is not None:
        rows = rows.where(F.col("experiment_id") == F.lit(experiment_id))
    if name is not None:
        rows = rows.where(F.col("name") == F.lit(name))
    for moment in ("created_at", "updated_at", "deleted_at"):
        if moment in frame.columns:
            # As a number: a Row's naive time is in the machine's zone, where an hour comes twice a year.
            rows = rows.withColumn(moment.replace("_at", "_us"), F.unix_micros(moment)).drop(moment)
    return [row.asDict() for row in rows.drop(*([] if definitions else ["definition"])).collect()]


def as_read(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of plain values, moments with a zone, as `rows_of` gives it."""
    found = dict(row)
    for moment in [name for name in found if name.endswith("_at")]:
        at = found.pop(moment)
        found[moment.replace("_at", "_us")] = None if at is None else (at - _EPOCH) // timedelta(microseconds=1)
    return found
