"""Answers to the client, over ASGI."""

from __future__ import annotations

from email.utils import formatdate
from typing import Protocol

from starlette.types import Message, Send

from proxy.errors import Headers, ProxyError, error_answer
from proxy.gateway.client import BODY_FOLLOWS, Output


class Responder(Protocol):
    """How an answer is shown to the client: as it came (`Passthrough`), or reshaped (the agent layer's)."""

    started: bool  #: the client has seen the head of an answer
    output: Output | None  #: a shorter way than `data` for the middle of a body, where there is one

    async def start(self, status: int, headers: Headers) -> None:
        """The upstream's head has come; `headers` are the ones that may go on. It may be held until `flush`."""

    async def flush(self) -> None:
        """Nothing more has come yet: show what is held."""

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

    def __init__(self, send: Send, request_id: str, output: Output | None = None) -> None:
        """`output` is a shorter way than `send`, where the server has one."""
        self.started = False
        self.output = output
        self._head: Message | None = None
        self._to_client = send
        self._request_id = request_id.encode()

    async def start(self, status: int, headers: Headers) -> None:
        self.started = True
        own = (b"x-tollgate-request-id", self._request_id)
        self._head = {"type": "http.response.start", "status": status, "headers": [*headers, own], BODY_FOLLOWS: True}

    async def flush(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            del head[BODY_FOLLOWS]
            await self._send(head)

    async def data(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    def last(self, data: bytes) -> bytes:
        return data

    async def finish(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def _send(self, message: Message) -> None:
        try:
            if self._head is not None:
                head, self._head = self._head, None
                await self._to_client(head)
            await self._to_client(message)
        except RuntimeError as error:
            ignore_gone(error)

    async def refuse(self, error: ProxyError) -> None:
        status, headers, body = error_answer(error)
        headers += [(b"date", formatdate(usegmt=True).encode()), (b"x-request-id", self._request_id)]
        await self.start(status, headers)
        await self.finish(body)


def ignore_gone(error: RuntimeError) -> None:
    """uvloop closes the socket of a client that has left a moment before it tells so, and writing to it then is an
    error (uvloop's issue 506). Elsewhere such bytes just vanish, as here. Raises any other error."""
    if "handler is closed" not in str(error):
        raise error
