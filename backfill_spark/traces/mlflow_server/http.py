"""Requests to a server: what its answers mean, and which are asked for again."""

from __future__ import annotations

import base64
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from backfill_spark.errors import TraceImportError, TraceSourceError

logger = logging.getLogger(__name__)

_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_ATTEMPTS = 8
_ATTEMPTS_AT_500 = 2
"""MLflow answers 500 for what asking again seldom mends."""
_LONGEST_WAIT_S = 60.0
_TIMEOUT_S = 300.0


class RefusedError(TraceImportError):
    """An answer that is no success; `status` is its code."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message, status)
        self.message, self.status = message, status

    def __str__(self) -> str:
        return self.message


class Http:
    """One server's REST interface. Keys are those of MLflow's own client, out of the environment or the address.

    Raises, with each request:
        TraceSourceError: no such address, no right to read, or no MLflow behind it.
        RefusedError: another error that asking again did not mend.
    """

    def __init__(self, address: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        parts = urlsplit(address)
        host = parts.hostname or ""
        netloc = (f"[{host}]" if ":" in host else host) + (f":{parts.port}" if parts.port else "")
        self.shown = urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))
        """The address without a password."""
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"} | _keys(
            parts.username, parts.password
        )
        self._sleep = sleep
        self._has_answered = False

    def get(self, path: str) -> Any:
        return self._asked("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._asked("POST", path, json.dumps(body).encode())

    def _asked(self, method: str, path: str, body: bytes | None) -> Any:
        request = urllib.request.Request(f"{self.shown}{path}", body, self._headers, method=method)  # noqa: S310
        for attempt in range(1, _ATTEMPTS + 1):
            wait = min(2.0 ** (attempt - 1), _LONGEST_WAIT_S)
            try:
                with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                    data = answer.read()
                self._has_answered = True
                return self._decoded(data)
            except urllib.error.HTTPError as error:
                self._has_answered = True
                said = _said(error)
                if error.code in (401, 403):
                    raise TraceSourceError(self._unauthorized(error.code)) from None
                most = _ATTEMPTS_AT_500 if error.code == 500 else _ATTEMPTS
                if error.code not in _TRANSIENT or attempt >= most:
                    raise RefusedError(self._refusal(error.code, path, said), error.code) from None
                wait = max(wait, _retry_after(error.headers.get("Retry-After")))
                if wait > _TIMEOUT_S:
                    raise RefusedError(
                        f"{self.shown} asks to wait {wait:,.0f} s. Import again then.", error.code
                    ) from None
                what = f"answers {error.code}"
            except (urllib.error.URLError, OSError, ValueError) as error:
                reason = getattr(error, "reason", error)
                # What has never answered is no server that rests for a moment.
                if attempt == _ATTEMPTS or isinstance(error, ValueError) or not self._has_answered:
                    raise TraceSourceError(f"{self.shown} does not answer: {reason}. Is the address right?") from error
                what = f"does not answer ({reason})"
            logger.warning("%s %s; asked again in %.0f s.", self.shown, what, wait)
            self._sleep(wait)
        raise AssertionError("unreachable")

    def _decoded(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            raise TraceSourceError(
                f"{self.shown} answers no JSON: it is no MLflow server, or a page to log in stands before it. "
                "Set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
            ) from None

    def _unauthorized(self, code: int) -> str:
        return (
            f"{self.shown} answers {code}: the key is missing or may not read. Set MLFLOW_TRACKING_TOKEN, or "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )

    def _refusal(self, code: int, path: str, said: str) -> str:
        if code == 404 and not said:
            return f"{self.shown} answers 404 to {path.partition('?')[0]}: there is no MLflow 3 server at this address."
        return f"{self.shown} answers {code} to {path.partition('?')[0]}{': ' if said else ''}{said}"


def _keys(user: str | None, password: str | None) -> dict[str, str]:
    user = user or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = password or os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _said(error: urllib.error.HTTPError) -> str:
    """The message of MLflow's own error; "" where another program answers."""
    try:
        return str(json.loads(error.read()).get("message") or "")[:300]
    except (ValueError, OSError, AttributeError):
        return ""


def _retry_after(value: str | None) -> float:
    """Seconds that a header asks to wait: a number, or a date."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
