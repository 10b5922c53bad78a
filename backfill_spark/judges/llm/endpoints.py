"""Endpoints: where a model URI leads, what it costs, and where its key lies. Keys are looked up and never kept."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backfill_spark.errors import BackfillRefusedError, nearest_first
from backfill_spark.settings.judges import PROVIDERS, EndpointSettings, JudgeSettings, Price
from backfill_spark.settings.locations import read_text

_SAMPLE = 1_000
"""Tokens that a list price is read at: below every step of the prices that rise with length."""
_URI = re.compile(r"(?P<endpoint>[A-Za-z0-9][A-Za-z0-9_.-]{0,63}):/(?P<model>[^\s/][^\s]{0,199})")


class Endpoint(EndpointSettings):
    """An endpoint of the settings under its name, with its provider's address and version where they name none.

    Holds the name of its key, never the key; it may be shipped.
    """

    name: str
    base_url: str


@dataclass(frozen=True, slots=True)
class Shape:
    """What an endpoint takes in a request; found out once and shipped with the service."""

    structured: bool = True
    """True when it takes a JSON schema for the answer."""
    limit_field: str | None = "max_tokens"
    """Name of the field that limits the answer's length, or None when it takes neither."""


@dataclass(frozen=True, slots=True)
class Service:
    """All that a task needs to ask one model. Holds no key; it may be shipped."""

    endpoint: Endpoint
    model: str
    """Name of the model at the endpoint."""
    price: Price | None = None
    shape: Shape = Shape()
    max_output_tokens: int = 500
    tasks: int = 1
    """Tasks that ask at the same time; each takes its share of the rate."""
    is_probed: bool = False
    """True when it has answered a probe."""

    @property
    def uri(self) -> str:
        """The model as `<endpoint>:/<model>`."""
        return f"{self.endpoint.name}:/{self.model}"

    def highest_cost(self, tokens: int, output_tokens: int | None = None) -> float:
        """Return the highest cost of one request, in US dollars; 0 where the price is unknown.

        Args:
            tokens: estimated, of the prompt. The estimate may be short of the truth by a third; a schema's some 50
                tokens are less than what the estimate of a judge's own English words is too high.
            output_tokens: longest answer; None takes the service's limit.
        """
        if self.price is None:
            return 0.0
        return self.price.of(int(tokens * 1.5), output_tokens or self.max_output_tokens)


def output_limit(prompt: Mapping[str, Any]) -> int | None:
    """Return a judge's own limit for the length of an answer to this prompt."""
    found: int | None = prompt.get("parameters", {}).get("max_tokens")
    return found


def resolve(model_uri: str | None, settings: JudgeSettings) -> tuple[Endpoint, str]:
    """Return the endpoint and the model name that a model URI leads to.

    Args:
        model_uri: `<endpoint or provider>:/<model>`; None takes `settings.model`.

    Raises:
        BackfillRefusedError: no model, a malformed URI, an unknown endpoint or provider, or no address.
    """
    uri = model_uri or settings.model
    if not uri:
        raise BackfillRefusedError(
            "No model to ask. Give the judge one, for example Safety(model='openai:/gpt-4o-mini'), or set judge.model "
            "(BACKFILL_SPARK_JUDGE__MODEL)."
        )
    match = _URI.fullmatch(uri)
    if match is None:
        raise BackfillRefusedError(
            f"The model {uri!r} is no model URI. Write <endpoint>:/<model>, for example openai:/gpt-4o-mini."
        )
    name = match["endpoint"]
    if name in settings.endpoints:
        own = dict(settings.endpoints[name])
    elif name in PROVIDERS:
        own = {"provider": name, "api_key_env": PROVIDERS[name].key_variable}
    else:
        known = nearest_first(name, {*settings.endpoints, *PROVIDERS})
        raise BackfillRefusedError(
            f"The model {uri!r} names the endpoint {name!r}, which is unknown. Known: {known}. Add it to the settings "
            f"as judge.endpoints.{name}."
        )
    provider = PROVIDERS[own["provider"]]
    address = own.get("base_url") or provider.address
    if address is None:
        raise BackfillRefusedError(
            f"The endpoint {name!r} ({own['provider']}) has no address. Set judge.endpoints.{name}.base_url, and "
            "api_key_env beside it."
        )
    version = own.get("api_version") or provider.version
    return Endpoint.model_validate({**own, "name": name, "base_url": address, "api_version": version}), match["model"]


def price_of(endpoint: Endpoint, model: str) -> Price | None:
    """Return the price of a model, or None where nobody says one.

    The settings' price of this model or of `*` counts first, then the list price that `genai-prices` ships for
    this provider and model name (looked up without any download).
    """
    own = endpoint.prices.get(model) or endpoint.prices.get("*")
    return own if own is not None else _list_price(endpoint.provider, model)


def _list_price(provider: str, model: str) -> Price | None:
    try:
        from genai_prices import Usage, calc_price
    except ImportError:
        return None
    try:
        paid = calc_price(Usage(input_tokens=_SAMPLE, output_tokens=_SAMPLE), model, provider_id=provider)
    except (LookupError, ValueError):
        return None
    per_million = 1e6 / _SAMPLE
    return Price(input=float(paid.input_price) * per_million, output=float(paid.output_price) * per_million)


def read_key(endpoint: Endpoint) -> str | None:
    """Read the key on this machine; None for an endpoint that needs none.

    Raises:
        BackfillRefusedError: the variable or file is missing or empty, or holds what no header may hold.
    """
    if endpoint.api_key_env is not None:
        where, key = f"environment variable {endpoint.api_key_env}", os.environ.get(endpoint.api_key_env, "")
    elif endpoint.api_key_file is not None:
        where = f"file {endpoint.api_key_file!r}"
        try:
            key = read_text(endpoint.api_key_file)
        except (OSError, ValueError) as error:
            raise BackfillRefusedError(
                f"The key of the endpoint {endpoint.name!r} cannot be read from the {where}: {type(error).__name__}."
            ) from None
    else:
        return None
    key = key.strip()
    if not key:
        raise BackfillRefusedError(
            f"The key of the endpoint {endpoint.name!r} is missing: the {where} is empty or absent on this machine. "
            "Set it on the driver and on every executor (spark.executorEnv.*)."
        )
    if not key.isascii() or not key.isprintable():
        raise BackfillRefusedError(f"The key in the {where} holds characters that no key has; write it on one line.")
    return key


def key_problem(endpoint: Endpoint) -> str | None:
    """Return the error of reading the key on this machine, or None."""
    try:
        read_key(endpoint)
    except BackfillRefusedError as error:
        return str(error)
    return None
