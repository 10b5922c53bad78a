"""Settings: argument over environment over file over default; what is unknown is refused."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from backfill_spark.errors import SettingsError
from backfill_spark.settings.schema import Settings
from backfill_spark.settings.sections import parse_duration


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
        {"traces": {"format": "xml"}},
        {"traces": {"columns": {"request": {"path": "a", "constant": 1}}}},
        {"traces": {"columns": {"request": {"path": []}}}},
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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_is_read_in_the_encodings_that_it_names(tmp_path: Path, encoding: str) -> None:
    """With Windows' line ends, too."""
    file = tmp_path / "s.yaml"
    file.write_text("experiment_id: café\r\ntimezone: UTC\r\n", encoding=encoding, newline="")
    made = Settings.load(file)
    assert (made.experiment_id, made.timezone) == ("café", "UTC")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("experiment_id: café\n".encode("latin-1"), "Save it as UTF-8"),
        ("experiment_id: caf\n".encode("utf-16-le"), "no valid YAML"),
        (b"tables:\n\troot: x\n", "no valid YAML"),
        (b"timezone: 2024-13-45\n", "no valid YAML"),
        (b"? [a]\n: b\n", "no valid YAML"),
        (b"a: 1\n---\nb: 1\n", "no valid YAML"),
        (b"tables: {root: 'file://host/x'}\n", "tables.root: .*machine 'host'"),
        (b"delta_jars: ['a/../x.jar']\n", "delta_jars: .*'..' part"),
        (b"just words\n", "not a str"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, raw: bytes, said: str) -> None:
    """As SettingsError, which exits with 2."""
    file = tmp_path / "s.yaml"
    file.write_bytes(raw)
    with pytest.raises(SettingsError, match=said) as raised:
        Settings.load(str(file))
    assert "s.yaml" in str(raised.value)


def test_a_folder_is_no_settings_file_and_an_empty_file_is_one(tmp_path: Path) -> None:
    """The folder is named."""
    with pytest.raises(SettingsError, match="is a folder"):
        Settings.load(str(tmp_path))
    (tmp_path / "empty.yaml").touch()
    assert Settings.load((tmp_path / "empty.yaml").as_uri()) == Settings()


def test_an_empty_variable_is_as_good_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedulers and shells set variables to nothing where they have nothing to say."""
    for name in ("CONFIG", "TRACES__PATH", "EXPERIMENT_ID", "TABLES__ROOT", "LIMITS__LEASE_S", "TABLES", "DELTA_JARS"):
        monkeypatch.setenv(f"BACKFILL_SPARK_{name}", "")
    assert Settings() == Settings.load()
    assert (Settings().traces.path, Settings().limits.lease_s, Settings().root) == (
        None,
        60,
        f"{tmp_path}/backfill_data",
    )


@pytest.mark.parametrize("value", ["/a.jar", "[/a.jar]", "{"])
def test_a_variable_that_is_no_json_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Where a list is due."""
    monkeypatch.setenv("BACKFILL_SPARK_DELTA_JARS", value)
    with pytest.raises(SettingsError, match=r"\['BACKFILL_SPARK_DELTA_JARS'\] is no JSON"):
        Settings()


def test_paths_of_a_file_start_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the working directory is, then and later; the file itself may be named relative to it."""
    (tmp_path / "own dir").mkdir()
    file = tmp_path / "own dir" / "s.yaml"
    file.write_text(
        "tables: {root: data}\ntraces: {path: ../traces}\njudge: {spool: ./spool}\n"
        "limits: {path_roots: [., '~/x']}\ndelta_jars: [jars/a.jar]\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("HOME", "/me")
    for given in ("own dir/s.yaml", "own dir/../own dir/s.yaml", str(file), file, file.as_uri()):
        monkeypatch.chdir(tmp_path)
        made = Settings.load(given)
        monkeypatch.chdir("/")
        assert (made.root, made.absolute(made.traces_path), made.judge.spool, made.path_roots, made.delta_jars) == (
            f"{tmp_path}/own dir/data",
            f"{tmp_path}/traces",
            f"{tmp_path}/own dir/spool",
            [f"{tmp_path}/own dir", "/me/x"],
            [f"{tmp_path}/own dir/jars/a.jar"],
        )


def test_percent_signs_of_a_uri_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file, the environment and an argument alike."""
    (tmp_path / "s.yaml").write_text("tables: {root: 'file:///a%2520b'}\n", encoding="utf-8")
    made = [Settings.load("s.yaml"), Settings(tables={"root": "file:///a%2520b"})]
    monkeypatch.setenv("BACKFILL_SPARK_TABLES__ROOT", "FILE://localhost/a%2520b/")
    assert ["file:/a%20b"] * 3 == [settings.root for settings in (*made, Settings())]


def test_the_default_file_s_paths_start_above_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that ./backfill_data is the folder of the project, from inside it and from elsewhere."""
    Path("conf").mkdir()
    Path("conf/backfill.yaml").write_text("tables: {root: ./data}\n", encoding="utf-8")
    here = Settings()
    monkeypatch.chdir("/")
    elsewhere = Settings.load(str(tmp_path / "conf/backfill.yaml"))
    assert [here.root, elsewhere.root] == [f"{tmp_path}/data"] * 2


def test_other_relative_paths_start_from_where_the_settings_were_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later change of the working directory moves no table; `Path` objects are paths, too."""
    made = Settings(tables={"root": Path("data")}, delta_jars=[Path("a.jar")])
    monkeypatch.chdir("/")
    assert (made.root, made.absolute(made.traces_path)) == (f"{tmp_path}/data", f"{tmp_path}/data/traces")
    assert made.delta_jars == ["a.jar"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tables": {"root": "file://host/x"}}, "tables.root: .*'host'"),
        ({"traces": {"path": ""}}, "traces.path: .*is empty"),
        ({"judge": {"spool": "$TMP/x"}}, "judge.spool: .*environment variable"),
        ({"limits": {"path_roots": ["/a", "c/../b"]}}, "limits.path_roots: .*'..' part"),
    ],
)
def test_a_path_that_no_table_may_have_is_refused_at_once(values: dict[str, object], said: str) -> None:
    """Before Spark starts, by the name of the setting."""
    with pytest.raises(SettingsError, match=said):
        Settings(**values)
