"""A key is read from its environment variable where it is used, and is found nowhere else."""

from __future__ import annotations

import asyncio
import io
import logging
import pickle
import re
import secrets
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from backfill_spark.errors import BackfillRefusedError, SettingsError
from backfill_spark.judges.llm.budget import Budget
from backfill_spark.judges.llm.client import probe
from backfill_spark.judges.llm.endpoints import Endpoint, read_key, resolve
from backfill_spark.judges.llm.journal import Journal
from backfill_spark.judges.llm.pool import Pool
from backfill_spark.judges.llm.providers import wire_of
from backfill_spark.settings.schema import Settings
from tests.judge_server import FAULTS, JudgeServer, serving
from tests.unit.test_llm_client import answers_to, service
from tests.unit.test_llm_retry import row_of

if TYPE_CHECKING:
    from pathlib import Path

SLOW = ("drip", "hang")
STOPPING = ("unauthorized", "forbidden", "no-model", "quota", "slow-hour", "tells-key-401")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """A key that no other test, file or log has; of no provider's form, so that no pattern knows it."""
    made = f"canary.{secrets.token_hex(12)}"
    monkeypatch.setenv("JUDGE_KEY", made)
    return made


@pytest.fixture
def server() -> Any:
    with serving() as running:
        yield running


def assert_nowhere(key: str, *kept: object) -> None:
    """Hold that neither the key nor a part of it is in what is kept, given as texts, bytes or things with a repr."""
    for part in (key, key.removeprefix("canary.")[:10], key[-10:]):
        for thing in kept:
            text = thing.decode("utf-8", "replace") if isinstance(thing, bytes) else str(thing) + repr(thing)
            assert part not in text


@pytest.mark.parametrize("provider", ["openai", "azure", "anthropic", "databricks"])
def test_a_key_is_in_no_answer_row_log_or_spool_whatever_goes_wrong(
    server: JudgeServer,
    key: str,
    provider: str,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """Every fault of the server once, those that tell the key back among them."""
    caplog.set_level(logging.DEBUG)
    asked = service(server, provider, timeout_s=1.0)
    said = io.StringIO()
    found: list[Any] = []
    with redirect_stdout(said), redirect_stderr(said):
        # What ends the asking comes one by one, the rest together.
        texts = ["fine", *(f"fault:{name}" for name in FAULTS if name not in (*STOPPING, *SLOW))]
        for number, several in enumerate([texts, *([f"fault:{name}"] for name in (*STOPPING, *SLOW))]):
            found += answers_to(several, asked, journal=Journal(str(tmp_path), "bf-1", number)).values()
    assert re.search(rb"(?i)(?:bearer|key:) " + key.encode(), server.log.heads[0])
    assert len(FAULTS) + 1 == len(found)
    spooled = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert spooled
    rows = [row_of(a) for a in found if a.left is None]
    assert_nowhere(key, found, [asdict(a) for a in found], rows, caplog.text, said.getvalue(), *spooled)


@pytest.mark.parametrize("fault", [{}, {"key": "another"}, {"redirects": "http://127.0.0.1:9/"}, {"error_rate": 1.0}])
def test_a_key_is_in_nothing_that_is_shipped_or_shown(key: str, fault: dict[str, Any]) -> None:
    """Settings, endpoint, service, wire, desk and probe."""
    with serving(**fault) as server:
        settings = Settings(judge={"endpoints": {"local": {"base_url": server.url, "api_key_env": "JUDGE_KEY"}}})
        endpoint, _ = resolve("local:/m", settings.judge)
        asked = service(server, timeout_s=1.0)
        seen = probe(asked)
        assert server.log.requests >= 1

        async def pool() -> Pool:
            return Pool(asked, budget=Budget(1))

        things = [settings, endpoint, asked, seen, wire_of(asked, key), asyncio.run(pool())]
        shipped = [pickle.dumps(thing) for thing in (settings, endpoint, asked)]
        assert_nowhere(key, *things, *shipped, settings.model_dump_json())


def test_an_error_that_escapes_holds_no_key(key: str, server: JudgeServer, tmp_path: Path) -> None:
    """The spool's folder is a file: the asking breaks off with the disk's error."""
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    with pytest.raises(OSError, match="blocked") as raised:
        answers_to(["a", "b"], service(server), journal=Journal(str(blocked), "bf-1", 0))
    assert_nowhere(key, *traceback.format_exception(raised.value))


@pytest.mark.parametrize("odd", ["{}\x07", "{}\u00e9", "{}\nb"])
def test_a_key_that_cannot_be_used_is_refused_without_being_shown(
    key: str, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    monkeypatch.setenv("JUDGE_KEY", odd.format(key))
    with pytest.raises(BackfillRefusedError, match="JUDGE_KEY") as refused:
        read_key(Endpoint(name="x", provider="openai", base_url="http://h", api_key_env="JUDGE_KEY"))
    assert_nowhere(key, *traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": "http://me:{key}@host/v1"},
        {"base_url": "http://host/v1?key={key}"},
        {"base_url": "http://host", "api_key_env": "{key}"},
        {"base_url": "http://host", "api_key": "{key}"},
    ],
)
def test_a_key_in_the_wrong_place_of_the_settings_is_not_shown(key: str, wrong: dict[str, str]) -> None:
    values = {name: text.format(key=key) for name, text in wrong.items()}
    with pytest.raises(SettingsError) as refused:
        Settings(judge={"endpoints": {"local": values}})
    assert_nowhere(key, refused.value)
