"""The OpenMeter v3 API, as Konnect and self-hosted servers speak it. Never on the request path.

The older v1 API is not spoken: its listing of events ends 32 days back, and Konnect does not have it.
"""

from __future__ import annotations

import asyncio
import logging
import random as random_module
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import orjson

from proxy import __version__
from proxy.delivery.backoff import Backoff
from proxy.delivery.sinks.http import credential
from proxy.errors import ConfigurationError, EngineError, EngineRefused, EngineUnavailable, EngineUnreadable
from proxy.sections import SinkSettings
from proxy.wire.problem import ahead_s, problem, readable, retry_after_s

log = logging.getLogger(__name__)

#: Items of a page; the API allows no more.
PAGE_ITEMS = 100
#: How often a question is asked that gets no answer.
TRIES = 5
#: The longest wait of our own choice between two of them.
WAIT_MAX_S = 8.0
#: Bytes of an answer. A page of a hundred events is some hundred thousand.
ANSWER_BYTES_MAX = 64 * 1024 * 1024

_NO_CONTENT = 204
_SAID_CHARS_MAX = 500
_NUMBERED_PAGES_MAX = 1_000
_MEND = {
    401: "the token is missing, wrong or expired",
    403: "the token may not read (on Konnect the role Ingest may only send): set one that may, in KONNECT_TOKEN for a "
    "command, in TOLLGATE_ENTITLEMENTS__TOKEN for a server",
    404: "nothing is there; check the base URL (KONNECT_API_URL)",
    405: "nothing is there; check the base URL (KONNECT_API_URL)",
}
_MEND_CHANGE = {
    403: "the token may not change this (on Konnect that takes the roles Metering Admin, Product Catalog Admin and"
    " Billing Admin): use one that may, in KONNECT_TOKEN",
}
_MEND_REDIRECT = "it redirects, and redirects are not followed; set the base URL to where it leads"

Document = dict[str, Any]
Parameters = Mapping[str, str]
Sleep = Callable[[float], Awaitable[None]]


class OpenMeter:
    """One metering engine. Every method may raise `EngineUnavailable`, `EngineRefused` and `EngineUnreadable`."""

    def __init__(
        self,
        base_url: str,
        *,
        token: str = "",
        timeout_s: float = 60.0,
        tries: int = TRIES,
        sleep: Sleep = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`base_url` as `sink.konnect_api_url` has it. `token` is sent as Bearer; without one, `user:password@` of the
        URL as Basic. `timeout_s` bounds each of the `tries`; `now` is unix seconds, for a Retry-After that is a date.

        Raises `ConfigurationError` for a URL that cannot be one.
        """
        try:
            given = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"sink.konnect_api_url: {error}") from None
        headers = {"user-agent": f"tollgate/{__version__}", "accept": "application/json, application/problem+json"}
        authorization, self._secrets = credential(given, token)
        if authorization:
            headers["authorization"] = authorization
        #: Where it is, without anything secret.
        self.url = str(given.copy_with(userinfo=b"", query=None, fragment=None)).rstrip("/")
        #: By how many seconds the engine's clock was ahead of ours at the last answer; None: it did not say.
        self.ahead_s: float | None = None
        self._timeout_s = timeout_s
        self._tries = tries
        self._sleep = sleep
        self._random = random
        self._now = now
        # No timeout of httpx's: it would bound each read, and a server that drips would never end.
        self._client = httpx.AsyncClient(headers=headers, timeout=None, follow_redirects=False)  # noqa: S113

    async def close(self) -> None:
        await self._client.aclose()

    async def get(self, path: str, parameters: Parameters | None = None) -> Document:
        """The document at `path` (`/events`)."""
        return await self._ask("GET", path, parameters, None)

    async def query(self, path: str, question: Document) -> Document:
        """The answer to a POST that changes nothing, and is therefore asked again as a GET is."""
        return await self._ask("POST", path, None, question)

    async def change(self, method: str, path: str, body: Document | None = None) -> Document:
        """Change something, once: the answer, or {} where that has no body.

        `EngineUnavailable` says that it may have been done. Look before it is tried again.
        """
        return await self._try(method, path, None, body, _MEND | _MEND_CHANGE)

    def hide(self, secret: str) -> None:
        """Never repeat this, whatever the engine says."""
        self._secrets = (*self._secrets, secret)

    async def by_cursor(self, path: str, parameters: Parameters) -> AsyncIterator[Document]:
        """The items of a listing that has cursors, page after page."""
        after: str | None = None
        while True:
            page = {"page[size]": str(PAGE_ITEMS)} | ({} if after is None else {"page[after]": after})
            answer = await self.get(path, {**parameters, **page})
            for item in self.items(answer):
                yield item
            following = _cursor(answer)
            if following is None:
                return
            if following == after:
                raise EngineUnreadable(f"{self.url}{path}: its pages do not end: one names itself as the next")
            after = following

    async def by_number(self, path: str, parameters: Parameters | None = None) -> AsyncIterator[Document]:
        """The items of a listing that has numbered pages."""
        for number in range(1, _NUMBERED_PAGES_MAX + 1):
            page = {"page[size]": str(PAGE_ITEMS), "page[number]": str(number)}
            items = self.items(await self.get(path, {**(parameters or {}), **page}))
            for item in items:
                yield item
            if len(items) < PAGE_ITEMS:
                return
        raise EngineUnreadable(f"{self.url}{path}: its pages do not end")

    def items(self, answer: Document) -> list[Document]:
        """What a listing lists."""
        data = answer.get("data")
        if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
            raise EngineUnreadable(f"{self.url}: an answer has no list of items under data")
        return data

    # One question

    async def _ask(self, method: str, path: str, parameters: Parameters | None, body: Document | None) -> Document:
        backoff = Backoff(WAIT_MAX_S, self._random)
        for left in reversed(range(self._tries)):
            try:
                return await self._try(method, path, parameters, body)
            except EngineUnavailable as error:
                if not left:
                    raise
                wait_s = backoff.next_s(error.retry_after_s)
                log.warning("asked again in %.1f s: %s", wait_s, error)
                await self._sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    async def _try(
        self,
        method: str,
        path: str,
        parameters: Parameters | None,
        body: Document | None,
        mend: Mapping[int, str] = _MEND,
    ) -> Document:
        url = f"{self.url}{path}"
        content = None if body is None else orjson.dumps(body)
        headers = None if body is None else {"content-type": "application/json"}
        answer = bytearray()
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream(method, url, params=parameters, content=content, headers=headers) as response,
            ):
                async for chunk in response.aiter_bytes():
                    answer += chunk
                    if len(answer) > ANSWER_BYTES_MAX:
                        raise EngineUnreadable(f"{url}: an answer of more than {ANSWER_BYTES_MAX} bytes")
        except TimeoutError:
            raise EngineUnavailable(f"{url}: no answer within {self._timeout_s:g} s") from None
        except httpx.HTTPError as error:
            words = self._without_secrets(readable(str(error)))[:_SAID_CHARS_MAX]
            raise EngineUnavailable(f"{url}: {words or type(error).__name__}") from None
        self.ahead_s = ahead_s(response.headers.get("date", ""), self._now())
        if not response.is_success:
            raise self._judge(url, response, bytes(answer), mend)
        return {} if response.status_code == _NO_CONTENT else self._read(url, bytes(answer))

    def _read(self, url: str, answer: bytes) -> Document:
        try:
            document = orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            raise EngineUnreadable(f"{url}: its answer is no JSON: {error}") from None
        if not isinstance(document, dict):
            raise EngineUnreadable(
                f"{url}: its answer is no JSON object: is it the base URL of a v3 API (…/v3/openmeter)?"
            )
        return document

    def _judge(self, url: str, response: httpx.Response, answer: bytes, mends: Mapping[int, str]) -> EngineError:
        status = response.status_code
        parts = [f"{url}: {status} {response.reason_phrase}".rstrip()]
        mend = _MEND_REDIRECT if status < 400 else mends.get(status, "")
        said = self._without_secrets(readable(problem(answer)))[:_SAID_CHARS_MAX]
        words = ": ".join(filter(None, [*parts, mend, said and f"it said {said!r}"]))
        if status in (408, 429) or status >= 500:
            return EngineUnavailable(words, retry_after_s(response.headers.get("retry-after", ""), self._now()))
        return EngineRefused(words, status)

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def engine_of(sink: SinkSettings, *, tries: int = TRIES) -> OpenMeter | None:
    """The engine that events go to; None where that is not set."""
    token = sink.konnect_token
    if sink.konnect_api_url is None:
        return None
    return OpenMeter(sink.konnect_api_url, token="" if token is None else token.get_secret_value(), tries=tries)


def _cursor(answer: Document) -> str | None:
    """The cursor of the next page. The API is described as giving a URI there, and gives the bare cursor."""
    meta = answer.get("meta")
    page = meta.get("page") if isinstance(meta, dict) else None
    following = page.get("next") if isinstance(page, dict) else None
    if following is None:
        return None
    if not isinstance(following, str) or not following:
        raise EngineUnreadable("a page names no cursor as the next")
    named = parse_qs(urlsplit(following).query).get("page[after]")
    return named[0] if named else following
