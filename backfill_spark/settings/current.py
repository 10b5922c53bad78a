"""What calls without explicit settings use: the only module-level state of the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backfill_spark.errors import SettingsError

if TYPE_CHECKING:
    from backfill_spark.settings.schema import Settings

DEFAULT_EXPERIMENT = "0"

# Each is replaced as a whole in one assignment, so that threads need no lock.
_settings: Settings | None = None
_experiment_id: str | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """Settings and experiment of one call."""

    settings: Settings
    experiment_id: str


def current() -> Context:
    """The settings that hold now."""
    settings = _current_settings()
    return Context(settings, experiment(settings=settings)[0])


def configure(settings: Settings | None = None, **values: Any) -> None:
    """Use `settings`, or settings made of `values`, in all later calls; without both, forget them.

    Raises SettingsError when a key is unknown, a value does not fit, or both ways are mixed.
    """
    global _settings
    if settings is not None and values:
        raise SettingsError(f"configure() takes settings or values, not both; got settings and {sorted(values)}.")
    if values:
        from backfill_spark.settings.schema import Settings

        settings = Settings.load(**values)
    _settings = settings


def set_experiment(experiment_id: str | int | None) -> None:
    """Use this experiment where none is given; None forgets it."""
    global _experiment_id
    _experiment_id = None if experiment_id is None else _checked(experiment_id)


def experiment(argument: str | int | None = None, settings: Settings | None = None) -> tuple[str, bool]:
    """Return the experiment's id, and whether someone gave it (the built-in default "0" was not given).

    Order: `argument`, `set_experiment()`, the settings, "0".
    """
    for candidate in (argument, _experiment_id, (settings or _current_settings()).experiment_id):
        if candidate is not None:
            return _checked(candidate), True
    return DEFAULT_EXPERIMENT, False


def _current_settings() -> Settings:
    settings = _settings
    if settings is None:
        from backfill_spark.settings.schema import Settings

        settings = Settings.load()
    return settings


def _checked(experiment_id: str | int) -> str:
    text = str(experiment_id)
    if type(experiment_id) not in (str, int) or not text.strip():
        raise SettingsError(f"experiment_id {experiment_id!r} is no id; give a text such as '7'.")
    return text
