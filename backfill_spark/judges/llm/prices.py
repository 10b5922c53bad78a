"""What a model costs: from the settings, else from known list prices. Unknown is None, never 0."""

from __future__ import annotations

from backfill_spark.judges.llm.endpoints import Endpoint
from backfill_spark.settings.judges import Price

_SAMPLE = 1_000
"""Tokens that a list price is read at: below every step of the prices that rise with length."""


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
