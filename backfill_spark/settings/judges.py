"""What settings may say about judges: the section `judge`."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Provider(NamedTuple):
    """What holds for a provider where the settings say nothing.

    No environment variable stands beside an address: whoever sets one would direct traces and keys to another.
    """

    address: str | None = None
    key_variable: str | None = None
    version: str | None = None
    """Of its interface."""


PROVIDERS = {
    "openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "azure": Provider(version="2024-10-21"),
    "anthropic": Provider("https://api.anthropic.com", "ANTHROPIC_API_KEY", "2023-06-01"),
    "databricks": Provider(),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def variable(value: str | None) -> str | None:
    """Check the name of an environment variable."""
    if value is not None and _VARIABLE.fullmatch(value) is None:
        raise ValueError("takes the name of an environment variable, never a key itself")
    return value


def address(value: str | None) -> str | None:
    """Check the address of a server, and take the slash from its end."""
    if value is None:
        return None
    text = value.strip()
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a base_url starts with http:// or https:// and names a host")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("a base_url has no user, password, query or fragment; keys come from environment variables")
    return text.rstrip("/")


def names(value: dict[str, Any]) -> dict[str, Any]:
    """Check the names that a mapping of the settings gives to its entries."""
    for name in value:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} cannot name an entry; use letters, digits, '_', '.' and '-'")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Price(_Section):
    """Price of a model in US dollars per million tokens."""

    input: float = Field(ge=0, allow_inf_nan=False, description="USD per million prompt tokens.")
    output: float = Field(ge=0, allow_inf_nan=False, description="USD per million answer tokens.")

    def of(self, input_tokens: float, output_tokens: float) -> float:
        """Return the cost of one request in US dollars."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6


class EndpointSettings(_Section):
    """One server that judges ask, for model URIs `<name>:/<model>`."""

    provider: Literal["openai", "azure", "anthropic", "databricks"] = Field(
        "openai", description="How it is spoken to; openai fits vLLM, Ollama, gateways and most others."
    )
    base_url: str | None = Field(None, description="Address, such as http://host:8000/v1; default: the provider's own.")
    api_key_env: str | None = Field(None, description="Environment variable, on the executors, that holds the key.")
    api_key_file: str | None = Field(None, description="File, on the executors, that holds the key.")
    api_version: str | None = Field(None, description="Version of the interface (azure, anthropic).")
    rpm: float | None = Field(None, gt=0, allow_inf_nan=False, description="Requests per minute, over all tasks.")
    tpm: float | None = Field(None, gt=0, allow_inf_nan=False, description="Tokens per minute, over all tasks.")
    max_in_flight: int = Field(64, ge=1, le=10_000, description="Requests that one task has open at a time.")
    timeout_s: float = Field(120, gt=0, allow_inf_nan=False, description="Longest one answer may take, with retries.")
    prices: dict[str, Price] = Field(
        default_factory=dict, description='Model name, or "*" for all: its price. Default: known list prices.'
    )

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        checked = address(value)
        return None if checked is None else checked.removesuffix("/chat/completions")

    _key_variable = field_validator("api_key_env")(variable)

    @model_validator(mode="after")
    def _has_one_key(self) -> EndpointSettings:
        if self.api_key_env is not None and self.api_key_file is not None:
            raise ValueError("api_key_env and api_key_file are both set; keep one")
        return self


class JudgeSettings(_Section):
    """How judges ask models."""

    model: str | None = Field(None, description="Model of judges that name none, such as openai:/gpt-4o-mini.")
    cache: Literal["on", "read", "off"] = Field(
        "on", description="Use and keep answers of earlier jobs (on), only use them (read), or neither (off)."
    )
    endpoints: dict[str, EndpointSettings] = Field(default_factory=dict, description="Name: endpoint.")
    spool: str | None = Field(
        None, description="Folder, of all executors, for answers under way; needed with tables.schema on a cluster."
    )
    token_cap: int = Field(100_000, ge=100, description="Longest prompt that is sent, in estimated tokens.")
    max_output_tokens: int = Field(500, ge=16, description="Longest answer of a model, in tokens.")
    marker_key_env: str | None = Field(
        None, description="Environment variable, on the executors, that keys the markers around trace text."
    )

    _marker_variable = field_validator("marker_key_env")(variable)

    @field_validator("cache", mode="before")
    @classmethod
    def _yaml_words(cls, value: Any) -> Any:
        # YAML reads a bare on or off as a truth value.
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    _are_names = field_validator("endpoints")(names)
