"""Settings: what a YAML file, the environment or an argument may say.

Order: argument > environment `BACKFILL_SPARK_*` (nested by `__`) > YAML file > default.
Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, cast, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableError

from backfill_spark.errors import NameRefusedError, SettingsError, nearest_first
from backfill_spark.settings.judges import JudgeSettings
from backfill_spark.settings.locations import absolute, local_file, read_text

DEFAULT_FILE = "conf/backfill.yaml"
_PATHS = ("tables.root", "traces.path", "judge.spool", "limits.path_roots", "delta_jars")
RESERVED = ("BACKFILL_SPARK_CONFIG", "BACKFILL_SPARK_FAILPOINT")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> timedelta:
    """Turn `30s`, `15m`, `24h`, `7d` or `2w` into a timedelta."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; write a number and one of s, m, h, d, w, for example 7d")
    try:
        return timedelta(**{_UNITS[match[2]]: float(match[1])})
    except OverflowError:
        return timedelta.max


def _working_directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return ""


def _paths_as_text(value: Any) -> Any:
    """Take `Path` objects where texts are due, alone or in a list."""
    if isinstance(value, list):
        return [_paths_as_text(one) for one in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TableSettings(_Section):
    """Where the tables of backfill_spark live."""

    root: str = Field("./backfill_data", description="Folder of the tables: {root}/{prefix}{table}.")
    schema_: str | None = Field(None, alias="schema", description="catalog.schema of the tables, instead of root.")
    prefix: str = Field("", description="Put before each table's name.", pattern=r"^[A-Za-z0-9_]*$")
    _take_paths = field_validator("root", mode="before")(_paths_as_text)
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class TraceSettings(_Section):
    """Where the traces are, and how their columns are read."""

    path: str | None = Field(None, description="Folder of the traces table; default {root}/traces.")
    table: str | None = Field(None, description="Name of the traces table, instead of path.")
    format: Literal["auto", "delta", "parquet"] = Field("auto", description="File format; auto looks.")
    payload: Literal["auto", "json", "text"] = Field(
        "auto", description="auto decodes JSON objects and arrays, json decodes fully, text nothing."
    )
    columns: dict[str, str] = Field(default_factory=dict, description="Canonical column: column of the source.")
    _take_paths = field_validator("path", mode="before")(_paths_as_text)


class ScoringSettings(_Section):
    """How scorers are applied."""

    udf: Literal["pandas", "arrow"] = Field("pandas", description="Kind of UDF; arrow needs Spark 4.1.")


class LimitSettings(_Section):
    """Limits on one call, one trace, one job and one runner."""

    scorer_timeout_s: float = Field(300, gt=0, description="Longest one scorer call may take, in seconds.")
    lease_s: float = Field(60, gt=0, description="A runner that did not renew for this long is dead.")
    heartbeat_s: float = Field(20, gt=0, description="A runner renews its lease this often.")
    staging_retention: str = Field("7d", description="How long staged rows of jobs that did not succeed are kept.")
    max_error_rate: float = Field(1.0, ge=0, le=1, description="A job fails when a scorer's error share passes it.")
    trace_mb: float = Field(16, gt=0, description="Largest trace that is scored, in MiB of text.")
    allow_speculation: bool = Field(False, description="Run although spark.speculation is on (it repeats calls).")
    path_roots: list[str] = Field(default_factory=list, description="Folders that paths may lie in; empty: any.")

    _take_paths = field_validator("path_roots", mode="before")(_paths_as_text)

    @field_validator("staging_retention")
    @classmethod
    def _is_duration(cls, value: str) -> str:
        parse_duration(value)
        return value


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
    scoring: ScoringSettings = Field(default_factory=ScoringSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    judge: JudgeSettings = Field(default_factory=JudgeSettings)
    spark: dict[str, str] = Field(default_factory=dict, description="Spark settings of a session that is built here.")
    delta_jars: list[str] = Field(default_factory=list, description="Local Delta archives, instead of a registry.")

    _take_paths = field_validator("delta_jars", mode="before")(_paths_as_text)

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
        problems = [_unknown_key(k, known) for k in unknown]
        problems += [_unknown_key(k, {f"BACKFILL_SPARK_{name.upper()}" for name in known}) for k in environment]
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
        for place in _PATHS:
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
        return (init_settings, env_settings, _YamlFile(settings_cls, cls._file))

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


class _YamlFile(PydanticBaseSettingsSource):
    def __init__(self, settings_cls: type[BaseSettings], file: str | os.PathLike[str] | None) -> None:
        super().__init__(settings_cls)
        self.file = os.fspath(file or os.environ.get("BACKFILL_SPARK_CONFIG") or "")

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        if not self.file and not Path(DEFAULT_FILE).exists():
            return {}
        try:
            path = local_file(self.file or DEFAULT_FILE)
            data = yaml.load(read_text(path), Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
        except NameRefusedError as error:
            raise SettingsError(f"The settings file cannot be named so. {error}") from error
        except FileNotFoundError as error:
            raise SettingsError(
                f"The settings file {self.file!r} does not exist: there is no {str(path.absolute())!r}."
            ) from error
        except IsADirectoryError as error:
            raise SettingsError(f"The settings file {str(path)!r} is a folder; name a YAML file in it.") from error
        except OSError as error:
            raise SettingsError(f"The settings file {str(path)!r} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise SettingsError(
                f"The settings file {str(path)!r} is neither UTF-8 nor UTF-16 with a byte-order mark "
                f"({error.reason} at byte {error.start}). Save it as UTF-8."
            ) from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that no calendar has
            raise SettingsError(f"The settings file {str(path)!r} is no valid YAML: {error}") from error
        if data is None:
            return {}
        if not isinstance(data, dict):
            raise SettingsError(
                f"The settings file {str(path)!r} must hold a mapping of settings, not a {type(data).__name__}."
            )
        known = set(self.settings_cls.model_fields)
        problems = [_unknown_key(str(k), known) for k in data if k not in known]
        problems += _make_absolute(data, _folder_of(path.parent.resolve() / path.name))
        if problems:
            raise SettingsError(f"In {str(path)!r}: " + "\n".join(problems))
        return cast("dict[str, Any]", data)


def _folder_of(file: Path) -> str:
    """Return the folder that relative paths of a settings file start from; of conf/backfill.yaml the one with conf."""
    is_default = file.parts[-2:] == Path(DEFAULT_FILE).parts
    return str(file.parent.parent if is_default else file.parent)


def _make_absolute(data: dict[str, Any], folder: str) -> list[str]:
    """Make the paths of a settings file absolute in place; return what is wrong with them."""
    problems = []
    for place in _PATHS:
        section, _, key = place.rpartition(".")
        values = data.get(section) if section else data
        if not isinstance(values, dict):
            continue
        value = values.get(key)
        try:
            if isinstance(value, str):
                values[key] = _from_folder(value, folder)
            elif isinstance(value, list):
                values[key] = [_from_folder(path, folder) if isinstance(path, str) else path for path in value]
        except NameRefusedError as error:
            problems.append(f"{place}: {error}")
    return problems


def _from_folder(path: str, folder: str) -> str:
    # A URI is checked here and stays as it is: its percent signs may be decoded once only.
    place = absolute(path, folder)
    return place if place.startswith("/") else path


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key that stands twice, which YAML readers otherwise take in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _unknown_key(key: str, known: set[str]) -> str:
    return f"Unknown setting {key!r}. Did you mean {nearest_first(key, known)[0]!r}?"


def _explained(root: type[BaseModel], problem: dict[str, Any]) -> str:
    path = [str(part) for part in problem["loc"]]
    where = ".".join(path)
    if problem["type"] != "extra_forbidden":
        # An endpoint's values are not shown: one of them may be a key in the wrong place.
        got = "" if "endpoints" in path or path[-1].endswith("_key_env") else f" (got {problem.get('input')!r})"
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
