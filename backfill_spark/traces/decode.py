"""Recorded values: what a source says about one trace, decoded on demand."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from backfill_spark.errors import TraceUnreadableError
from backfill_spark.models import UNREADABLE

_decode_json = json.JSONDecoder().decode
ATOMS = frozenset({str, int, float, bool, type(None)})
"""Types whose values nobody can change."""
MLFLOW_JSON = "mlflow-json"
"""Payload rule of a trace in MLflow's own JSON: the attributes of its spans are JSON texts, and nothing else is."""
_AS_IT_IS = frozenset({"text", MLFLOW_JSON})


def decode_payload(text: Any, payload: str = "auto") -> Any:
    """Decode a request, a response or another recorded value.

    Args:
        text: A text, or a value that is decoded already and comes back as it is.
        payload: `auto` decodes JSON objects and arrays, `json` any JSON value, `text` nothing.

    Text that does not parse is the text itself, and so are a bare `NaN` and `Infinity`, which are no JSON.
    """
    if text.__class__ is not str or not text or payload in _AS_IT_IS:
        return text
    if payload == "auto":
        first = text[0]
        if first in " \t\n\r":
            first = text.lstrip(" \t\n\r")[:1]
        if first not in {"{", "["}:
            return text
    try:
        value = _decode_json(text)
    except (ValueError, RecursionError):
        return text
    return text if value.__class__ is float and not math.isfinite(value) else value


def clean(text: str) -> str:
    """Return `text` as UTF-8 can hold it: lone surrogates become U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class RawValues(dict[str, Any]):
    """Raw values of a trace, some of which are bytes that are no text: they cannot be looked at."""

    def __getitem__(self, column: str) -> Any:
        return text_of(super().__getitem__(column), column)

    def get(self, column: str, default: Any = None) -> Any:
        return text_of(super().get(column, default), column)


def text_of(value: Any, column: str) -> Any:
    """Return a raw value that is no bytes.

    Raises:
        TraceUnreadableError: the value is bytes.
    """
    if value.__class__ is bytes:
        raise TraceUnreadableError(f"The column {column!r} holds bytes that are no UTF-8.")
    return value


class RecordedTrace:
    """The raw values of one trace, and the containers parsed from them so far; shared by its wrappers."""

    __slots__ = ("parsed", "payload", "values")

    def __init__(self, values: Mapping[str, Any], payload: str) -> None:
        self.values = values
        self.payload = payload
        self.parsed: dict[str, Any] = {}

    def texts(self, column: str) -> dict[str, Any]:
        """Return a MAP column; {} when it is NULL or absent."""
        found = self.parsed.get(column)
        if found is None:
            found = as_dict(self._decoded(column), column)
            if UNREADABLE in found:
                raise TraceUnreadableError(f"The column {column!r} holds no JSON object.")
            self.parsed[column] = found
        return cast("dict[str, Any]", found)

    def items(self, column: str) -> list[dict[str, Any]]:
        """Return an ARRAY<STRUCT> column as dicts; [] when it is NULL or absent."""
        found = self.parsed.get(column)
        if found is None:
            value = self._decoded(column)
            if value is None:
                value = ()
            elif hasattr(value, "tolist"):
                value = value.tolist()
            if not isinstance(value, Sequence) or isinstance(value, str):
                raise TraceUnreadableError(f"The column {column!r} holds no list but a {type(value).__name__}.")
            found = self.parsed[column] = [as_dict(item, column) for item in value]
        return cast("list[dict[str, Any]]", found)

    def _decoded(self, column: str) -> Any:
        value = self.values.get(column)
        # Twice: a source that keeps JSON in a STRING column may have quoted it once more on its way.
        for _ in range(2):
            if not isinstance(value, str):
                break
            try:
                value = _decode_json(value)
            except (ValueError, RecursionError) as error:
                what = "nests too deeply" if isinstance(error, RecursionError) else str(error)
                raise TraceUnreadableError(f"The column {column!r} holds no JSON: {what}.") from None
        return value


def as_dict(value: Any, column: str) -> dict[str, Any]:
    if value.__class__ is dict:
        return cast("dict[str, Any]", value)
    if value is None:
        return {}
    if hasattr(value, "asDict"):
        return cast("dict[str, Any]", value.asDict(recursive=True))
    if isinstance(value, (Mapping, list)):
        try:
            return dict(value)
        except (TypeError, ValueError):
            pass
    raise TraceUnreadableError(f"The column {column!r} holds a {type(value).__name__} where an object must be.")


def own(value: Any) -> Any:
    """Return `value` so that its holder may change it without changing what was parsed."""
    return value if value.__class__ in ATOMS else copy.deepcopy(value)


def own_payload(value: Any, payload: str) -> Any:
    # What was just decoded from a text belongs to nobody else.
    return decode_payload(value, payload) if value.__class__ is str else own(value)


def integer(value: Any) -> int | None:
    if value is None or value.__class__ is int:
        return value
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def instant(value: Any, per_second: int) -> int | None:
    """Turn an integer, a datetime or ISO text into units since the epoch, without passing through a float."""
    if isinstance(value, str) and not value.strip().lstrip("-").isdigit():
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if isinstance(value, datetime):
        aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        since = aware - datetime(1970, 1, 1, tzinfo=UTC)
        micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
        return micros * per_second // 1_000_000
    return integer(value)
