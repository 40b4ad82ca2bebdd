"""Batches of CloudEvents by HTTP: OpenMeter v3 (Konnect, self-hosted), or anything that takes the same body.

`Endpoint` is the call itself, which webhooks are sent with as well.

What each status means is section 1.6 of the OpenMeter contract: 2xx accepted; 408, 429, 5xx or no answer unknown;
3xx, 401, 403, 404, 405 configuration; any other 4xx the body.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from proxy import __version__
from proxy.delivery.cloudevents import MEDIA_TYPE_BATCH
from proxy.errors import ConfigurationError, SinkError, SinkMisconfigured, SinkRefused, SinkUnavailable
from proxy.wire.problem import problem, readable, retry_after_s

#: Bytes of an answer that are read. An answer to a batch is empty or a short problem report.
ANSWER_BYTES_MAX = 64 * 1024
#: Characters of the receiver's own text that are kept.
SAID_CHARS_MAX = 500
#: A shorter value of the URL's query is none.
_QUERY_SECRET_CHARS_MIN = 8

_MEND = {
    401: "the sink's token is missing, wrong or expired",
    403: "the sink's token lacks the right to ingest events (on Konnect: the role Ingest)",
    404: "nothing takes events at {url}; check the sink's URL",
    405: "nothing takes events at {url}; check the sink's URL",
}
_ENDED = httpx.ByteStream(b"")
_MEND_REDIRECT = "{url} redirects, and redirects are not followed; set the URL to where it leads"


@dataclass(frozen=True, slots=True)
class Taken:
    """A 2xx, and what else was said, in one line."""

    status: int
    said: str


class Endpoint:
    """POSTs to one URL. Redirects are not followed: they would carry credentials and content elsewhere."""

    def __init__(
        self,
        url: httpx.URL,
        headers: Mapping[str, str],
        *,
        secrets: Sequence[str],
        shown: str,
        mend: Mapping[int, str],
        timeout_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`secrets` are never repeated to anyone; `shown` stands for the URL. `mend` says what to do about a status.

        `timeout_s` bounds a whole call; `now` is unix seconds, for a Retry-After that is a date.
        """
        self._url = url
        self._secrets = secrets
        self._shown = shown
        self._mend = mend
        self._timeout_s = timeout_s
        self._now = now
        always = {
            "user-agent": f"tollgate/{__version__}",
            "accept": "application/problem+json, application/json",
            # What is not compressed cannot unfold into more than was read.
            "accept-encoding": "identity",
        }
        # No timeout of httpx's: it would bound each read, and a receiver that drips would never end.
        self._client = httpx.AsyncClient(headers=always | dict(headers), timeout=None, follow_redirects=False)  # noqa: S113

    async def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> Taken:
        """Returns when the receiver answered 2xx. Raises `SinkUnavailable`, `SinkMisconfigured`, `SinkRefused`."""
        head: httpx.Response | None = None
        answer = bytearray()
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("POST", self._url, content=body, headers=headers) as response,
            ):
                head = response
                async for chunk in response.aiter_raw():
                    answer += chunk
                    if len(answer) > ANSWER_BYTES_MAX:
                        break
        except (TimeoutError, httpx.HTTPError) as error:
            # Once the head is there the receiver has decided, however its body ends.
            if head is None:
                reached = not isinstance(error, httpx.ConnectError)
                raise SinkUnavailable(self._no_answer(error), failed=reached) from None
        assert head is not None
        # The two hold each other, and what was sent, until the garbage collector comes by.
        head.stream = _ENDED
        if not head.is_success:
            raise self._judge(head, bytes(answer))
        return Taken(head.status_code, self._said(head, bytes(answer)))

    async def close(self) -> None:
        await self._client.aclose()

    def _judge(self, head: httpx.Response, answer: bytes) -> SinkError:
        status = head.status_code
        if status in (408, 429) or status >= 500:
            words = self._words(status, "", self._said(head, answer))
            wait_s = retry_after_s(head.headers.get("retry-after", ""), self._now())
            return SinkUnavailable(words, wait_s, failed=status >= 500)
        if status < 400 or status in self._mend:
            mend = self._mend.get(status, _MEND_REDIRECT).format(url=self._shown)
            return SinkMisconfigured(self._words(status, mend, self._said(head, answer)))
        return SinkRefused(self._words(status, "", self._said(head, answer)))

    def _words(self, status: int, mend: str, said: str) -> str:
        """`401 Unauthorized: what to mend`, and on a second line what the receiver said."""
        own = f"{status} {httpx.codes.get_reason_phrase(status)}".rstrip()
        if mend:
            own += f": {mend}"
        return f"{self._without_secrets(own)}\n{said}" if said else self._without_secrets(own)

    def _said(self, head: httpx.Response, answer: bytes) -> str:
        coding = head.headers.get("content-encoding", "identity")
        if coding != "identity":
            return ""
        if len(answer) > ANSWER_BYTES_MAX:
            # The cut may go through an echoed secret, and half of it would not be recognised.
            answer = answer[: ANSWER_BYTES_MAX - max(map(len, self._secrets), default=0)]
        text = self._without_secrets(readable(problem(answer) or answer.decode("utf-8", "replace")))
        return text if len(text) <= SAID_CHARS_MAX else text[: SAID_CHARS_MAX - 1] + "…"

    def _no_answer(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout_s:g} s"
        text = self._without_secrets(readable(str(error)))[:SAID_CHARS_MAX]
        if isinstance(error, httpx.ConnectError):
            return f"no connection to {self._shown}: {text}"
        # This text can quote what the receiver sent.
        return f"the connection broke before an answer came ({type(error).__name__})\n{text}".rstrip()

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class HttpSink:
    """POSTs batches to one URL."""

    def __init__(self, url: str, *, token: str = "", timeout_s: float, now: Callable[[], float] = time.time) -> None:
        """`token` is sent as Bearer; without one, `user:password@` of the URL as Basic.

        `timeout_s` and `now` are as of `Endpoint`. Raises `ConfigurationError` for a URL that cannot be one.
        """
        try:
            given = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"the sink's URL: {error}") from None
        authorization, secrets = credential(given, token)
        headers = {"content-type": MEDIA_TYPE_BATCH}
        if authorization:
            headers["authorization"] = authorization
        # Without `user:password@`: httpx logs the URL of each request.
        plain = given.copy_with(userinfo=b"", fragment=None)
        shown = str(plain.copy_with(query=None))
        self._endpoint = Endpoint(
            plain, headers, secrets=secrets, shown=shown, mend=_MEND, timeout_s=timeout_s, now=now
        )

    async def deliver(self, events: Sequence[dict[str, Any]]) -> None:
        """Returns when the receiver answered 2xx. Raises `SinkUnavailable`, `SinkMisconfigured`, `SinkRefused`."""
        try:
            body = orjson.dumps(list(events))
        except orjson.JSONEncodeError as error:
            # Raised, it would hold up everything behind it; refused, the relay finds the culprit.
            raise SinkRefused(f"cannot be written as JSON: {error}") from None
        await self._endpoint.post(body)

    async def close(self) -> None:
        await self._endpoint.close()


def credential(url: httpx.URL, token: str) -> tuple[str, tuple[str, ...]]:
    """The authorization header, and what must never be repeated to anyone: of it, and of the URL."""
    in_query = [value for _, value in url.params.multi_items() if len(value) >= _QUERY_SECRET_CHARS_MIN]
    if token:
        return f"Bearer {token}", (token, *in_query)
    if not url.userinfo:
        return "", tuple(in_query)
    pair = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
    # Some services take a token as the user, and no password.
    return f"Basic {pair}", tuple(filter(None, (pair, url.password or url.username, *in_query)))
