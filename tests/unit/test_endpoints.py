"""Where a model URI leads, and where its key lies."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from backfill_spark.errors import BackfillRefusedError
from backfill_spark.judges.llm.endpoints import Endpoint, Service, price_of, read_key, resolve
from backfill_spark.settings.judges import JudgeSettings, Price

ADDRESS_VARIABLES = (
    "OPENAI_BASE_URL",
    "OPENAI_API_BASE",
    "OPENAI_API_HOST",
    "AZURE_OPENAI_ENDPOINT",
    "AZURE_API_BASE",
    "ANTHROPIC_BASE_URL",
    "DATABRICKS_HOST",
)


def settings(**endpoints: Any) -> JudgeSettings:
    return JudgeSettings.model_validate({"endpoints": endpoints})


@pytest.mark.parametrize(
    ("uri", "provider", "address", "key"),
    [
        ("openai:/gpt-4o-mini", "openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("anthropic:/claude-x", "anthropic", "https://api.anthropic.com", "ANTHROPIC_API_KEY"),
    ],
)
def test_a_provider_has_its_own_address_and_key(uri: str, provider: str, address: str, key: str) -> None:
    endpoint, model = resolve(uri, JudgeSettings())
    assert (provider, address, key, uri.partition(":/")[2]) == (
        endpoint.provider,
        endpoint.base_url,
        endpoint.api_key_env,
        model,
    )


@pytest.mark.parametrize("variable", ADDRESS_VARIABLES)
def test_an_address_in_the_environment_directs_no_call(monkeypatch: pytest.MonkeyPatch, variable: Any) -> None:
    before = [resolve(uri, JudgeSettings())[0].base_url for uri in ("openai:/m", "anthropic:/m")]
    monkeypatch.setenv(variable, "http://localhost:8000/v1")
    assert before == [resolve(uri, JudgeSettings())[0].base_url for uri in ("openai:/m", "anthropic:/m")]
    for uri in ("azure:/m", "databricks:/m"):
        with pytest.raises(BackfillRefusedError, match="has no address"):
            resolve(uri, JudgeSettings())


def test_a_named_endpoint_has_what_the_settings_say() -> None:
    own = settings(
        vllm={"base_url": "http://gpu:8000/v1/chat/completions", "rpm": 600, "timeout_s": 9, "max_in_flight": 7}
    )
    endpoint, model = resolve("vllm:/meta/llama-3:8b", own)
    assert ("vllm", "openai", "http://gpu:8000/v1", None) == (
        endpoint.name,
        endpoint.provider,
        endpoint.base_url,
        endpoint.api_key_env,
    )
    assert (600, 9, 7, "meta/llama-3:8b") == (endpoint.rpm, endpoint.timeout_s, endpoint.max_in_flight, model)


def test_settings_may_set_limits_for_a_provider() -> None:
    endpoint, _ = resolve("openai:/m", settings(openai={"api_key_env": "MY_KEY", "rpm": 60}))
    assert ("https://api.openai.com/v1", "MY_KEY", 60) == (endpoint.base_url, endpoint.api_key_env, endpoint.rpm)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (None, "judge.model"),
        ("", "judge.model"),
        ("gpt-4", "<endpoint>:/<model>"),
        ("openai:gpt-4", "<endpoint>:/<model>"),
        ("openai:/", "<endpoint>:/<model>"),
        ("databricks", "<endpoint>:/<model>"),
        ("opneai:/gpt-4", "'openai'"),
        ("databricks:/m", "judge.endpoints.databricks.base_url"),
    ],
)
def test_what_leads_nowhere_is_refused_with_the_next_step(uri: Any, words: str) -> None:
    with pytest.raises(BackfillRefusedError, match=words.replace("<", r"\<")):
        resolve(uri, JudgeSettings())


@pytest.mark.parametrize(
    "address",
    ["ftp://h/v1", "http://", "http://user:secret@host/v1", "http://h/v1?key=secret", "http://h/v1#x", "host"],
)
def test_an_address_that_may_hold_a_secret_or_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        settings(x={"base_url": address})


def test_two_places_for_one_key_are_refused() -> None:
    with pytest.raises(ValidationError, match="keep one"):
        settings(x={"api_key_env": "A", "api_key_file": "b"})


@pytest.mark.parametrize(("given", "expected"), [("on", "on"), (True, "on"), (False, "off"), ("read", "read")])
def test_a_bare_on_or_off_in_yaml_is_a_word(given: Any, expected: str) -> None:
    assert expected == JudgeSettings(cache=given).cache


def test_a_key_is_read_from_a_variable_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MY_KEY", " abc\n")
    (tmp_path / "key").write_text("def\n")
    assert "abc" == read_key(Endpoint(name="x", provider="openai", base_url="http://h", api_key_env="MY_KEY"))
    assert "def" == read_key(
        Endpoint(name="x", provider="openai", base_url="http://h", api_key_file=str(tmp_path / "key"))
    )
    assert read_key(Endpoint(name="x", provider="openai", base_url="http://h")) is None


@pytest.mark.parametrize(
    "how",
    [{"api_key_env": "NOT_THERE"}, {"api_key_env": "EMPTY"}, {"api_key_file": "/nowhere/key"}, {"api_key_env": "ODD"}],
)
def test_a_key_that_cannot_be_used_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, how: Any) -> None:
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("ODD", "sécret\x07")
    with pytest.raises(BackfillRefusedError, match=next(iter(how.values()))) as refused:
        read_key(Endpoint(name="x", provider="openai", base_url="http://h", **how))
    assert "cret" not in str(refused.value).replace("secret", "")


def test_what_is_shipped_holds_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-123456")
    endpoint, model = resolve("openai:/gpt-4o-mini", JudgeSettings())
    shipped = Service(endpoint, model, price=price_of(endpoint, model))
    assert b"canary" not in pickle.dumps(shipped)
    assert "canary" not in repr(shipped)


def test_a_price_is_the_settings_then_the_list_then_unknown() -> None:
    listed, _ = resolve("openai:/gpt-4o-mini", JudgeSettings())
    own, _ = resolve("x:/m", settings(x={"base_url": "http://h", "prices": {"m": {"input": 2, "output": 8}}}))
    any_model, _ = resolve("x:/m", settings(x={"base_url": "http://h", "prices": {"*": {"input": 1, "output": 1}}}))
    assert Price(input=2, output=8) == price_of(own, "m")
    assert price_of(own, "other") is None
    assert Price(input=1, output=1) == price_of(any_model, "other")
    known = price_of(listed, "gpt-4o-mini")
    assert known is not None
    assert known.of(1_000_000, 0) == pytest.approx(0.15)
    assert price_of(listed, "no-such-model") is None
