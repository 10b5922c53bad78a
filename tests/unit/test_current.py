"""What calls without explicit settings use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backfill_spark import Settings, configure, set_experiment
from backfill_spark.errors import SettingsError
from backfill_spark.settings import current


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    configure()
    set_experiment(None)


def test_the_default_experiment_was_not_given() -> None:
    assert current.experiment() == ("0", False)


def test_an_experiment_is_taken_from_argument_then_call_then_settings() -> None:
    configure(experiment_id="3")
    assert current.experiment() == ("3", True)
    set_experiment("2")
    assert current.experiment() == ("2", True)
    assert current.experiment("1") == ("1", True)
    assert current.current().experiment_id == "2"


def test_explicit_settings_win_over_configured_ones() -> None:
    configure(experiment_id="3")

    assert current.experiment(None, Settings(experiment_id="4")) == ("4", True)


def test_configured_settings_are_used_until_they_are_forgotten() -> None:
    settings = Settings(tables={"root": "elsewhere"})
    configure(settings)
    assert current.current().settings is settings
    configure()
    assert current.current().settings.tables.root == "./backfill_data"


@pytest.mark.parametrize("experiment_id", ["", "  ", True, 1.5, ["1"]])
def test_what_is_no_id_is_refused(experiment_id: Any) -> None:
    with pytest.raises(SettingsError, match="experiment_id"):
        set_experiment(experiment_id)


def test_settings_and_values_are_not_mixed() -> None:
    with pytest.raises(SettingsError, match="not both"):
        configure(Settings(), timezone="UTC")
