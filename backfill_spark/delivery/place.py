"""Where results go: what `--to` names, its address, and where its key lies. Keys are looked up and never kept."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args
from urllib.parse import urlsplit

from backfill_spark.errors import BackfillRefusedError, nearest_first
from backfill_spark.settings.judges import address as checked_address
from backfill_spark.settings.locations import Location
from backfill_spark.settings.sinks import Kind, SinkSettings

if TYPE_CHECKING:
    from backfill_spark.settings.schema import Settings

KINDS: tuple[str, ...] = get_args(Kind)
DATABASES = ("sqlite", "postgresql")
"""Schemes of the databases that an MLflow server may have."""
_KEYS: dict[str, tuple[tuple[str | None, str], ...]] = {
    "mlflow": (("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), (None, "MLFLOW_TRACKING_TOKEN")),
    "phoenix": ((None, "PHOENIX_API_KEY"),),
    "langfuse": (("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"),),
    "otel": (),
}
"""Variables of user and key that each server's own clients read; the first ones that are set count."""
_NEEDS_KEY = ("langfuse",)
_ADDRESS = re.compile(r"(?P<kind>[a-z]+)\+(?P<address>[a-z]+://.*)")
_EXAMPLES = "mlflow, mlflow+http://host:5000, phoenix+http://host:6006, otel+http://host:4318 or table:NAME"


@dataclass(frozen=True, slots=True)
class Place:
    """A server or table that results go to. Holds no key."""

    kind: str
    """One of KINDS, or table."""
    address: str
    """Of the server or its database, or name or path of the table."""
    settings: SinkSettings = field(default_factory=SinkSettings)

    @property
    def destination(self) -> str:
        """What `deliveries` and people call it."""
        return f"{self.kind} {self.address}"


def place_of(to: str, settings: Settings) -> Place:
    """Return where `to` leads: a sink of the settings, `<kind>+<address>`, or `table:<name or path>`.

    Raises:
        BackfillRefusedError: it names no kind and no sink, or has no address that can be used.
        NameRefusedError: no table may have the name or path.
    """
    if to.startswith("table:") and len(to) > len("table:"):
        location = Location.parse(to.removeprefix("table:"))
        if location.path is not None:
            location = Location.of_path(settings.absolute(location.path), settings.path_roots)
        return Place("table", location.shown)
    if match := _ADDRESS.fullmatch(to):
        return _addressed(match["kind"], match["address"], settings)
    found = settings.deliver.sinks.get(to)
    kind = (None if found is None else found.kind) or to
    if kind not in KINDS:
        known = nearest_first(to, {*settings.deliver.sinks, *KINDS})
        raise BackfillRefusedError(
            f"Results cannot be delivered to {to!r}: write one of {known}, an address such as {_EXAMPLES}, or add "
            f"deliver.sinks.{to} to the settings."
            if re.fullmatch(r"[\w.-]{1,64}", to)
            else f"Results cannot be delivered to what --to names: write {_EXAMPLES}."
        )
    if found is None or found.base_url is None:
        raise BackfillRefusedError(
            f"No address of {to!r} is known. Set deliver.sinks.{to}.base_url, or write --to {kind}+http://HOST:PORT."
        )
    return Place(kind, found.base_url, found)


def _addressed(kind: str, address: str, settings: Settings) -> Place:
    if kind not in KINDS:
        raise BackfillRefusedError(
            f"Results cannot be delivered to a {kind!r}; known are {list(KINDS)} and table:NAME."
        )
    own = settings.deliver.sinks.get(kind, SinkSettings())
    scheme = urlsplit(address).scheme
    if kind == "mlflow" and scheme in DATABASES:
        if urlsplit(address).password is not None:
            raise BackfillRefusedError(
                "The address of the database holds a password, which tables and logs would show. Leave it out: "
                "PGPASSWORD or a .pgpass file has it."
            )
        return Place(kind, address, own)
    try:
        return Place(kind, str(checked_address(address)), own)
    except ValueError as error:
        raise BackfillRefusedError(f"The address after {kind}+ cannot be used: {error}.") from None


def authorization(place: Place) -> dict[str, str]:
    """Return the header that says who sends; {} where no key is set and none is needed.

    Raises:
        BackfillRefusedError: a variable that the settings name is empty, or a server that wants a key has none.
    """
    own = place.settings
    if own.key_env is not None or own.user_env is not None:
        missing = [name for name in (own.user_env, own.key_env) if name is not None and not os.environ.get(name)]
        if own.key_env is None:
            raise BackfillRefusedError(f"The sink {place.destination} has user_env and no key_env; set both.")
        if missing:
            raise BackfillRefusedError(
                f"The key of {place.destination} is missing: the environment variable {missing[0]} is empty or absent."
            )
        return _header(own.user_env, own.key_env)
    for user, key in _KEYS[place.kind]:
        if all(os.environ.get(name) for name in (user, key) if name is not None):
            return _header(user, key)
    if place.kind in _NEEDS_KEY:
        user, key = _KEYS[place.kind][0]
        raise BackfillRefusedError(
            f"{place.destination} wants a key: set {user} and {key}, or name other variables in "
            f"deliver.sinks.{place.kind}.user_env and key_env."
        )
    return {}


def _header(user_env: str | None, key_env: str) -> dict[str, str]:
    key = os.environ[key_env].strip()
    user = None if user_env is None else os.environ[user_env].strip()
    for name, value in ((key_env, key), (user_env, user)):
        if value is not None and not (value.isascii() and value.isprintable()):
            raise BackfillRefusedError(f"The environment variable {name} holds characters that no key has.")
    if user is None:
        return {"Authorization": f"Bearer {key}"}
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()}
