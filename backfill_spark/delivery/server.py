"""One server over HTTP: how fast it may be asked, what is asked again, and what ends a delivery."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from backfill_spark.delivery.place import Place, authorization
from backfill_spark.display.redaction import redacted
from backfill_spark.errors import BackfillRefusedError, DeliveryStoppedError
from backfill_spark.judges.llm.error_body import told_by, wait_of
from backfill_spark.judges.llm.rate_limit import Limiter

TRIES = 6
"""Of one request that gets no answer, or one that says that the server is not ready."""
FIRST_TRIES = 2
"""While nothing is known to be there."""
LONGEST_PAUSE_S = 20.0
NOT_READY = frozenset({408, 425, 502, 503, 504})


Params = Sequence[tuple[str, str]]
"""What stands after the `?` of an address."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    data: Any
    """Decoded JSON, or None."""
    body: str
    said: str
    """Status and message of an error, on one line, without keys."""

    @property
    def is_ok(self) -> bool:
        """True when the server did what it was asked."""
        return 200 <= self.status < 300

    def field(self, name: str) -> Any:
        """A field of the JSON object that came back; None where there is none."""
        return self.data.get(name) if isinstance(self.data, dict) else None


class Server:
    """Sends requests to one server over one session, and waits where it asks to. Holds its key; its messages do not."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._headers = authorization(place)
        self._limiter = Limiter(place.settings.rpm)
        self._slots = asyncio.Semaphore(place.settings.max_in_flight)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.place.settings.max_in_flight),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self.place.settings.timeout_s, sock_connect=10),
            headers=self._headers,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def check(self, method: str, path: str, body: Any = None, params: Params = ()) -> None:
        """Ask something that changes nothing, before any result is sent.

        Raises:
            BackfillRefusedError: nobody answers, the key is not accepted, or it is another kind of server.
        """
        try:
            answer = await self.call(method, path, body, params, most=FIRST_TRIES)
        except DeliveryStoppedError as error:
            raise BackfillRefusedError(str(error)) from None
        if not answer.is_ok or (answer.data is None and answer.body.strip()):  # a page for people is no answer
            raise BackfillRefusedError(
                f"{self.place.destination} does not answer as {self.place.kind} does: {answer.said} at {path}. "
                "Look at the address."
            )

    async def call(self, method: str, path: str, body: Any = None, params: Params = (), *, most: int = TRIES) -> Answer:
        """Send one request, again when no answer came (`most` times) or the server asks to wait; return the answer.

        Raises:
            DeliveryStoppedError: the key is not accepted, or no answer came in all tries.
        """
        tries = 0
        while True:
            tries += 1
            async with self._slots:
                answer, why, headers = await self._once(method, path, body, params)
            if answer is None or answer.status in NOT_READY:
                if tries == most:
                    raise DeliveryStoppedError(f"{self.place.destination} gave no answer in {most} tries: {why}.")
                wait = wait_of(headers, b"", "")
                await asyncio.sleep(random.uniform(0, min(LONGEST_PAUSE_S, 0.5 * 2**tries)) if wait is None else wait)
            elif answer.status in (401, 403):
                raise DeliveryStoppedError(
                    f"{self.place.destination} does not accept the key: {answer.said}. Look at the environment "
                    "variables of its user and key."
                )
            elif answer.status != 429:
                return answer

    async def _once(
        self, method: str, path: str, body: Any, params: Params
    ) -> tuple[Answer | None, str, Mapping[str, str]]:
        while (wait := self._limiter.delay(0.0)) > 0:  # noqa: ASYNC110 - another one may have been refused meanwhile
            await asyncio.sleep(wait)
        self._limiter.sent(0.0)
        assert self._session is not None
        try:
            async with self._session.request(
                method,
                self.place.address + path,
                data=None if body is None else orjson.dumps(body),
                params=list(params) or None,
                headers={} if body is None else {"Content-Type": "application/json"},
                allow_redirects=False,
            ) as response:
                status, headers = response.status, response.headers
                text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._limiter.dropped(0.0)
            return None, self._why(error), {}
        if status == 429:
            self._limiter.refused(0.0, wait_of(headers, text, ""), headers)
        else:
            self._limiter.answered(0.0, None, headers, succeeded=status < 400)
        said = f"HTTP {status}"
        if status >= 300 and (message := told_by(text)[1]):
            said += f": {redacted(message)[:200]}"
        try:
            data = orjson.loads(text)
        except orjson.JSONDecodeError:
            data = None
        return Answer(status, data, text.decode("utf-8", "replace"), said), said, headers

    def _why(self, error: Exception) -> str:
        if isinstance(error, aiohttp.ClientConnectorError):
            return f"it cannot be reached ({type(error.os_error).__name__})"
        return "no answer in time" if isinstance(error, TimeoutError) else "the connection broke off"

    async def each(self, calls: Iterable[Coroutine[Any, Any, dict[str, str]]]) -> dict[str, str]:
        """Make calls side by side, and return what they rejected. The first that stops stops all."""
        tasks = [asyncio.ensure_future(call) for call in calls]
        try:
            done = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return {key: why for rejected in done for key, why in rejected.items()}


def in_lists(items: Collection[Any], size: int) -> list[list[Any]]:
    """Cut a collection into lists of at most `size`."""
    every = list(items)
    return [every[at : at + size] for at in range(0, len(every), size)]
