"""The settings file: YAML in which no key stands twice, and whose relative paths start from the file's folder."""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from backfill_spark.errors import NameRefusedError, SettingsError, nearest_first
from backfill_spark.settings.locations import absolute, local_file, read_text

DEFAULT_FILE = "conf/backfill.yaml"
PATHS = ("tables.root", "traces.path", "judge.spool", "limits.path_roots", "delta_jars")
"""Settings that are paths."""


class YamlFile(PydanticBaseSettingsSource):
    """The settings that a file holds, named or found; empty when there is none."""

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
        problems = [unknown_key(str(k), known) for k in data if k not in known]
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
    for place in PATHS:
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


def unknown_key(key: str, known: set[str]) -> str:
    """Return the sentence about a key that there is not."""
    return f"Unknown setting {key!r}. Did you mean {nearest_first(key, known)[0]!r}?"
