"""Answers to the client, over ASGI."""

from __future__ import annotations

from email.utils import formatdate
from typing import Protocol

from starlette.types import Message, Send

from proxy.errors import Headers, ProxyError, error_answer


class Responder(Protocol):
    """How an answer is shown to the client: as it came (`Passthrough`), or reshaped (the agent layer's)."""

    started: bool  #: the client has seen the head of an answer

    async def start(self, status: int, headers: Headers) -> None:
        """The upstream's head has come; `headers` are the ones that may go on."""

    async def data(self, data: bytes) -> None:
        """Bytes of the body have come; there will be more."""

    def last(self, data: bytes) -> bytes:
        """The last bytes to send, where these (if any) end the upstream's body. May raise `BadAnswer`."""

    async def finish(self, data: bytes) -> None:
        """Send what `last` returned; the call is settled."""

    async def refuse(self, error: ProxyError) -> None:
        """There is no upstream answer to show; only called before `start`."""


class Passthrough:
    """The upstream's answer as it comes. Every answer also says which request it is for."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.started = False
        self._to_client = send
        self._request_id = request_id.encode()

    async def start(self, status: int, headers: Headers) -> None:
        self.started = True
        own = (b"x-tollgate-request-id", self._request_id)
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, own]})

    async def data(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    def last(self, data: bytes) -> bytes:
        return data

    async def finish(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def _send(self, message: Message) -> None:
        try:
            await self._to_client(message)
        except RuntimeError as error:
            # uvloop closes the socket of a client that has left a moment before it tells so, and writing to it then
            # is an error (uvloop's issue 506). Elsewhere such bytes just vanish, as here.
            if "handler is closed" not in str(error):
                raise

    async def refuse(self, error: ProxyError) -> None:
        status, headers, body = error_answer(error)
        headers += [(b"date", formatdate(usegmt=True).encode()), (b"x-request-id", self._request_id)]
        await self.start(status, headers)
        await self.finish(body)
