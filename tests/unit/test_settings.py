"""Settings: argument over environment over file over default; what is unknown is refused."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from backfill_spark.errors import SettingsError
from backfill_spark.settings import Settings, parse_duration


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No conf/backfill.yaml of the repository is in reach."""
    monkeypatch.chdir(tmp_path)


def test_the_defaults_are_those_of_the_contract() -> None:
    """Names and values that outside checks rely on."""
    made = Settings()
    assert (made.experiment_id, made.timezone, made.default_lookback) == (None, None, None)
    assert (made.tables.root, made.tables.prefix, made.traces_path) == ("./backfill_data", "", "./backfill_data/traces")
    assert (made.traces.format, made.traces.payload, made.scoring.udf) == ("auto", "auto", "pandas")
    limits = made.limits
    assert (limits.scorer_timeout_s, limits.lease_s, limits.heartbeat_s, limits.trace_mb) == (300, 60, 20, 16)
    assert (limits.staging_retention, limits.max_error_rate, limits.path_roots) == ("7d", 1.0, [])


def test_an_argument_beats_the_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also inside one section, value by value."""
    Path("conf").mkdir()
    Path("conf/backfill.yaml").write_text(
        "timezone: Europe/Berlin\nlimits: {lease_s: 10, heartbeat_s: 3, trace_mb: 2}\n", encoding="utf-8"
    )
    monkeypatch.setenv("BACKFILL_SPARK_LIMITS__HEARTBEAT_S", "4")
    monkeypatch.setenv("BACKFILL_SPARK_TIMEZONE", "UTC")
    made = Settings.load(limits={"trace_mb": 5})
    assert ("UTC", 10, 4, 5) == (made.timezone, made.limits.lease_s, made.limits.heartbeat_s, made.limits.trace_mb)


def test_a_named_file_is_read_and_a_missing_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By argument or by BACKFILL_SPARK_CONFIG."""
    file = tmp_path / "own.yaml"
    file.write_text("experiment_id: 12\n", encoding="utf-8")
    assert Settings.load(str(file)).experiment_id == "12"
    monkeypatch.setenv("BACKFILL_SPARK_CONFIG", str(file))
    assert Settings().experiment_id == "12"
    with pytest.raises(SettingsError, match="does not exist"):
        Settings.load(str(tmp_path / "none.yaml"))


def test_unknown_keys_are_refused_with_the_nearest_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everywhere, all at once: argument, section, environment."""
    monkeypatch.setenv("BACKFILL_SPARK_TIMEZON", "UTC")
    with pytest.raises(SettingsError) as raised:
        Settings(limit={}, limits={"leese_s": 5}, traces={"formaat": "delta"})
    text = str(raised.value)
    assert "'limit'. Did you mean 'limits'?" in text
    assert "Did you mean 'limits.lease_s'?" in text
    assert "Did you mean 'traces.format'?" in text
    assert "Did you mean 'BACKFILL_SPARK_TIMEZONE'?" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limts: {}\n", "Did you mean 'limits'?"),
        ("- a\n", "must hold a mapping"),
        ("timezone: [\n", "no valid YAML"),
        ("timezone: UTC\ntimezone: Europe/Berlin\n", "stands twice"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """The message says what is wrong and in which file."""
    file = tmp_path / "s.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=said.replace("?", r"\?")):
        Settings.load(str(file))


@pytest.mark.parametrize(
    "values",
    [
        {"timezone": "Mars/Olympus"},
        {"default_lookback": "a week"},
        {"limits": {"lease_s": 0}},
        {"limits": {"max_error_rate": 1.5}},
        {"limits": {"staging_retention": "7 days"}},
        {"traces": {"format": "csv"}},
        {"scoring": {"udf": "scala"}},
        {"tables": {"prefix": "a b"}},
    ],
)
def test_a_value_that_does_not_fit_is_refused(values: dict[str, object]) -> None:
    """With the key and the value."""
    with pytest.raises(SettingsError):
        Settings(**values)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("15m", 900), ("24h", 86400), ("7d", 604800), ("2w", 1209600), ("1.5h", 5400)]
)
def test_durations(text: str, seconds: int) -> None:
    """A number and a unit."""
    assert timedelta(seconds=seconds) == parse_duration(text)
