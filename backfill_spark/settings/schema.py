"""Settings: what a YAML file, the environment or an argument may say.

Order: argument > environment `BACKFILL_SPARK_*` (nested by `__`) > YAML file > default.
Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableError

from backfill_spark.errors import NameRefusedError, SettingsError, nearest_first
from backfill_spark.settings.judges import JudgeSettings
from backfill_spark.settings.locations import Location, absolute
from backfill_spark.settings.sections import (
    FilterSettings,
    LimitSettings,
    ScoringSettings,
    TableSettings,
    TraceSettings,
    parse_duration,
    paths_as_text,
)
from backfill_spark.settings.sinks import DeliverySettings
from backfill_spark.settings.yaml_file import PATHS, YamlFile, unknown_key

RESERVED = ("BACKFILL_SPARK_CONFIG", "BACKFILL_SPARK_FAILPOINT")


def _working_directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return ""


class Settings(BaseSettings):
    """All settings of backfill_spark.

    Raises:
        SettingsError: a key is unknown or a value does not fit; names all of them.
    """

    model_config = SettingsConfigDict(
        env_prefix="BACKFILL_SPARK_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
    )
    _file: ClassVar[str | os.PathLike[str] | None] = None
    _folder: str = PrivateAttr(default_factory=_working_directory)

    experiment_id: str | None = Field(None, description='Experiment when none is given; "0" when nothing says one.')
    timezone: str | None = Field(None, description="Zone of naive times; default: the driver's local time.")
    default_lookback: str | None = Field(None, description="Window when no bound is given, for example 7d.")
    tables: TableSettings = Field(default_factory=TableSettings)
    traces: TraceSettings = Field(default_factory=TraceSettings)
    filters: FilterSettings = Field(default_factory=FilterSettings)
    scoring: ScoringSettings = Field(default_factory=ScoringSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    judge: JudgeSettings = Field(default_factory=JudgeSettings)
    deliver: DeliverySettings = Field(default_factory=DeliverySettings)
    spark: dict[str, str] = Field(default_factory=dict, description="Spark settings of a session that is built here.")
    delta_jars: list[str] = Field(default_factory=list, description="Local Delta archives, instead of a registry.")

    _take_paths = field_validator("delta_jars", mode="before")(paths_as_text)

    def __init__(self, **values: Any) -> None:
        known = set(type(self).model_fields)
        unknown = [k for k in values if k not in known]
        environment = [
            k
            for k in os.environ
            if k.startswith("BACKFILL_SPARK_")
            and k not in RESERVED
            and k.removeprefix("BACKFILL_SPARK_").split("__")[0].lower() not in known
        ]
        problems = [unknown_key(k, known) for k in unknown]
        problems += [unknown_key(k, {f"BACKFILL_SPARK_{name.upper()}" for name in known}) for k in environment]
        try:
            super().__init__(**{k: v for k, v in values.items() if k in known})
        except ValidationError as error:
            problems += [_explained(type(self), dict(problem)) for problem in error.errors()]
        except UnreadableError as error:  # an environment variable that is no JSON where a list or section is due
            section = str(error).split('"')[1].upper()
            names = sorted(k for k in os.environ if k.upper().startswith(f"BACKFILL_SPARK_{section}"))
            problems.append(f"One of {names} is no JSON, which is due for lists and sections: {error.__cause__}.")
        if problems:
            raise SettingsError("\n".join(problems))
        for place in PATHS:
            section, _, key = place.rpartition(".")
            holder: BaseModel = getattr(self, section) if section else self
            value = getattr(holder, key) if key in holder.model_fields_set else None
            for path in [value] if isinstance(value, str) else value or ():
                try:
                    self.absolute(path)
                except NameRefusedError as error:
                    problems.append(f"{place}: {error}")
        if problems:
            raise SettingsError("\n".join(problems))

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ZoneInfo(value)
            except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # "America" is a folder of zones
                raise ValueError(f"{value!r} is no time zone; write one such as Europe/Berlin or UTC") from error
        return value

    @field_validator("default_lookback")
    @classmethod
    def _is_lookback(cls, value: str | None) -> str | None:
        if value is not None:
            parse_duration(value)
        return value

    @field_validator("experiment_id", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("spark", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in value.items()}

    def absolute(self, path: str) -> str:
        """Return a path of these settings as a location that means the same from everywhere.

        A relative one starts from the working directory of the moment in which the settings were made, however that
        changes later. In a settings file, paths are relative to the file: those were made absolute when it was read.

        Raises:
            NameRefusedError: no table may have the path.
        """
        return absolute(path, self._folder)

    @property
    def root(self) -> str:
        """Folder of the tables, absolute."""
        return self.absolute(self.tables.root)

    @property
    def path_roots(self) -> list[str]:
        """Folders that paths may lie in, absolute."""
        return [self.absolute(root) for root in self.limits.path_roots]

    @property
    def tables_at(self) -> str:
        """Where the tables are: the schema, or the folder."""
        return self.tables.schema_ or self.root

    @property
    def traces_path(self) -> str:
        """Folder of the traces when no table name is set, as it was given."""
        return f"{self.tables.root.rstrip('/')}/traces" if self.traces.path is None else self.traces.path

    def with_traces(self, source: str | os.PathLike[str]) -> Settings:
        """Return the same settings with other traces: a path, or the name of a table.

        Raises:
            NameRefusedError: no table may have the path or name.
        """
        place = Location.given(source, self.path_roots)
        traces = self.traces.model_copy(update={"path": place.path, "table": place.name})
        return self.model_copy(update={"traces": traces})

    @property
    def zone(self) -> ZoneInfo | None:
        """Zone of naive times, or None for local time."""
        return None if self.timezone is None else ZoneInfo(self.timezone)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the YAML file under the environment."""
        return (init_settings, env_settings, YamlFile(settings_cls, cls._file))

    @classmethod
    def load(cls, file: str | os.PathLike[str] | None = None, **values: Any) -> Settings:
        """Read the settings with `file` as the YAML file (default: `BACKFILL_SPARK_CONFIG`, then `conf/backfill.yaml`).

        Raises:
            SettingsError: the file is missing, is no YAML mapping, or holds what may not stand there.
        """
        cls._file = file
        try:
            return cls(**values)
        finally:
            cls._file = None


def _explained(root: type[BaseModel], problem: dict[str, Any]) -> str:
    path = [str(part) for part in problem["loc"]]
    where = ".".join(path)
    if problem["type"] != "extra_forbidden":
        # A server's values are not shown: one of them may be a key in the wrong place.
        is_server = {"endpoints", "sinks"} & set(path)
        got = "" if is_server or path[-1].endswith("_key_env") else f" (got {problem.get('input')!r})"
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}{got}"
    model: Any = root
    for part in path[:-1]:
        if hasattr(model, "model_fields"):
            field = model.model_fields.get(part) or next(f for f in model.model_fields.values() if f.alias == part)
            model = field.annotation
        else:
            # A mapping of a name to a section, such as judge.endpoints.
            model = get_args(model)[1]
    names = {f.alias or name for name, f in model.model_fields.items()} if hasattr(model, "model_fields") else set()
    nearest = nearest_first(path[-1], names)
    hint = f" Did you mean {'.'.join([*path[:-1], nearest[0]])!r}?" if nearest else ""
    return f"Unknown setting {where!r}.{hint}"
