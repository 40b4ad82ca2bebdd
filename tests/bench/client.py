"""Clients that cost little: plain requests one after the other on kept connections, and streams that are timed."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

_WORDS = "Please say what the quick brown fox does. "
_LENGTH = re.compile(rb"content-length: ?(\d+)", re.IGNORECASE)
_END = b"0\r\n\r\n"
#: Servers that do one thing at a time accept hardly anybody while they answer others: what a connection may take.
_ACCEPTED_S = 0.0002
#: An answer that takes longer is given up, and counted as failed.
_BOUND_S = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and as whom."""

    port: int
    key: str = "unused"
    model: str = "{}"  #: how this system calls a model of the upstream's

    def request(self, *, stream: tuple[int, int] | None = None, body_bytes: int = 0) -> bytes:
        """The bytes of a chat completion of about 1 KB; `stream` is its number of events and their pace in ms.

        With `body_bytes` its body is so large, from 100 on.
        """
        events, pace_ms = stream or (0, 0)
        body: dict[str, object] = {
            "model": self.model.format(f"m-{events}-{pace_ms}"),
            "messages": [{"role": "user", "content": "" if body_bytes else _WORDS * 20}],
            "max_tokens": 200,
        }
        if stream is not None:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        payload = json.dumps(body).encode()
        if body_bytes:
            missing = body_bytes - len(payload)
            text = (_WORDS * (missing // len(_WORDS) + 1))[:missing]
            payload = payload.replace(b'"content": ""', b'"content": "%b"' % text.encode())
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nauthorization: Bearer {self.key}\r\n"
            f"user-agent: OpenAI/Python 2.0\r\naccept: application/json\r\ncontent-type: application/json\r\n"
            f"content-length: {len(payload)}\r\n\r\n"
        )
        return head.encode() + payload

    def question(self, path: str) -> bytes:
        """The bytes of a GET."""
        return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nx-api-key: {self.key}\r\n\r\n".encode()


@dataclass(slots=True)
class Seen:
    """What clients have seen. Times are seconds."""

    clients: int = 0  #: that were answered at least once
    answers: int = 0
    failed: int = 0
    events: int = 0
    latencies: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)  #: until the first event of a stream
    gaps: list[float] = field(default_factory=list)  #: between two pieces of a stream
    words: str = ""  #: of the first failure


class _Client(asyncio.Protocol):
    """One connection. `goes_on` says whether another request follows, `request` is what it asks."""

    def __init__(self, request: Callable[[], bytes], seen: Seen, goes_on: Callable[[], bool]) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._request = request
        self._seen = seen
        self._goes_on = goes_on
        self._head = b""
        self._missing: int | None = None  # bytes of the body that are still to come; None: it is chunked
        self._tail = b""
        self._in_body = self._was_answered = False
        self._began_s = self._last_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from no class of asyncio's

    def ask(self) -> None:
        self._head, self._tail, self._in_body = b"", b"", False
        self._began_s = self._last_s = time.perf_counter()
        self._transport.write(self._request())

    def data_received(self, data: bytes) -> None:
        if not self._in_body:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self._head.startswith(b"HTTP/1.1 200"):
                self._fail(self._head)
                return
            found = _LENGTH.search(self._head, 0, end + 2)
            self._missing = int(found[1]) if found else None
            self._in_body = True
            data = self._head[end + 4 :]
            if not data:
                return
        if self._missing is None:
            self._piece(data)
            self._tail = (self._tail + data)[-len(_END) :]
            if self._tail == _END:
                self._whole()
        else:
            self._missing -= len(data)
            if self._missing <= 0:
                self._whole()

    def _piece(self, data: bytes) -> None:
        now = time.perf_counter()
        events = (self._tail[-1:] + data).count(b"\n\n")
        if events:
            (self._seen.gaps if self._last_s > self._began_s else self._seen.firsts).append(now - self._last_s)
            self._seen.events += events
            self._last_s = now

    def _whole(self) -> None:
        now = time.perf_counter()
        self._seen.answers += 1
        self._seen.clients += not self._was_answered
        self._was_answered = True
        self._seen.latencies.append(now - self._began_s)
        if self._goes_on():
            self.ask()
        else:
            self._transport.abort()

    def _fail(self, words: bytes) -> None:
        self._seen.failed += 1
        self._seen.words = self._seen.words or words[:500].decode(errors="replace")
        self._transport.abort()
        self._in_body = False

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def ask(target: Target, request: bytes, *, clients: int, seconds: float) -> Seen:
    """`clients` connections, each asking again as soon as it was answered, until the time is over; at least once."""
    seen = Seen()
    until_s = time.perf_counter() + seconds
    running = await _connect(
        target, clients, lambda: _Client(lambda: request, seen, lambda: time.perf_counter() < until_s)
    )
    _, late = await asyncio.wait(running, timeout=seconds + _BOUND_S)
    seen.failed += len(late)
    return seen


@asynccontextmanager
async def asking(target: Target, request: Callable[[], bytes], *, clients: int) -> AsyncIterator[Seen]:
    """The same without an end: while the block lasts, and what it sees goes on being added to."""
    seen = Seen()
    ends = asyncio.Event()
    running = await _connect(target, clients, lambda: _Client(request, seen, lambda: not ends.is_set()))
    try:
        yield seen
    finally:
        ends.set()
        _, late = await asyncio.wait(running, timeout=_BOUND_S)
        seen.failed += len(late)


async def _connect(target: Target, clients: int, client: Callable[[], _Client]) -> list[asyncio.Future[None]]:
    """Clients that have begun to ask, all at once; each is done when its connection has ended."""
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(client, "127.0.0.1", target.port) for _ in range(clients)]
    await asyncio.sleep(clients * _ACCEPTED_S)
    for _, one in made:
        one.ask()
    return [one.ended for _, one in made]
