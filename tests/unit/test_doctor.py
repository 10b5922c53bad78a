"""What `doctor` says about judges, before any session starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backfill_spark.cli.doctor import Finding, examine
from backfill_spark.cli.program import Program
from backfill_spark.errors import SessionError
from backfill_spark.settings.schema import Settings

KEY = "canary.0123456789abcdef"


class NoSession:
    def get_spark(self, settings: Settings) -> None:
        raise SessionError("no session here")


def findings(**judge: Any) -> dict[str, Finding]:
    program = Program()
    program.settings = Settings(judge=judge)
    program.api = NoSession()
    return {found.what: found for found in examine(program)}


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOUSE_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def house(**more: Any) -> dict[str, object]:
    return {"base_url": "http://house:8000/v1", **more}


def test_each_endpoint_of_the_settings_is_told_with_the_place_of_its_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOUSE_KEY", KEY)
    file = tmp_path / "key"
    file.write_text(KEY)
    endpoints = {"a": house(api_key_env="HOUSE_KEY"), "b": house(api_key_file=str(file)), "c": house()}
    found = findings(endpoints=endpoints)
    told = {what: (f.ok, f.said.partition(", ")[2]) for what, f in found.items() if what.startswith("judge")}
    assert {
        "judge a": (True, "its key is in the environment variable HOUSE_KEY"),
        "judge b": (True, f"its key is in {file}"),
        "judge c": (True, "without a key: neither api_key_env nor api_key_file is set"),
    } == told
    assert KEY not in repr(found)


def test_a_key_that_is_not_there_is_bad_and_its_variable_is_named() -> None:
    found = findings(endpoints={"a": house(api_key_env="HOUSE_KEY")}, model="a:/m")
    assert [False, False] == [found[what].ok for what in ("judge a", "judge.model")]
    assert "environment variable HOUSE_KEY is empty or absent" in found["judge a"].said


def test_a_model_without_an_endpoint_of_its_own_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "OPENAI_API_KEY" in findings(model="openai:/gpt-4o-mini")["judge.model"].said
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    found = findings(model="openai:/gpt-4o-mini")["judge.model"]
    assert (True, "https://api.openai.com/v1, its key is in the environment variable OPENAI_API_KEY") == (
        found.ok,
        found.said,
    )


def test_an_endpoint_that_leads_nowhere_is_bad_and_no_judges_need_nothing() -> None:
    assert "has no address" in findings(endpoints={"azure": {"provider": "azure"}})["judge azure"].said
    assert not [what for what in findings() if what.startswith("judge")]
