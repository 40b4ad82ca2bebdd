"""Both ends of the wire, raw: clients that send what a plan says, and the upstream that answers what it says."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

from proxy.errors import ProxyError
from proxy.wire.endpoints import match
from tests.fuzz.plan import Answer, Ending, Plan, tags
from tests.streams import PLAIN

#: No exchange takes longer, whatever is mutated: the sum of the server's own deadlines, and room for a busy machine.
BOUND_S = 15.0
#: How long a client waits for the answer to half a request.
PATIENCE_S = 0.02
_LATE_S = 0.01

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(PLAIN), PLAIN)


class Hung(Exception):
    """An exchange that did not end."""


@dataclass(slots=True)
class Reply:
    status: int
    request_id: bytes = b""
    coding: bytes = b""
    body: bytearray = field(default_factory=bytearray)
    is_whole: bool = False


class Client(asyncio.Protocol):
    """One connection to the server under test. Its answers must be HTTP that a strict parser takes."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._ended: asyncio.Future[None] | None = None
        self.is_open = True

    async def exchange(self, plan: Plan) -> list[Reply]:
        """Send a plan's request; the replies, the last of them maybe not whole. Raises `Hung`, or what is no HTTP."""
        self._plan = plan
        self._parser = httptools.HttpResponseParser(self)
        self.replies: list[Reply] = []
        self._ended = self._loop.create_future()
        for piece in plan.request:
            if not self.is_open:  # it has refused the first piece
                return self.replies
            self._transport.write(piece)
            await asyncio.sleep(0)
        if plan.leaves_after == 0:
            self._loop.call_soon(self.leave)
        patience = None if plan.whole and not plan.broken else self._loop.call_later(PATIENCE_S, self._give_up)
        bound = self._loop.call_later(BOUND_S, self._expire)
        try:
            await self._ended
        finally:
            bound.cancel()
            if patience is not None:
                patience.cancel()
        return self.replies

    def leave(self) -> None:
        self.is_open = False
        self._transport.abort()

    def _give_up(self) -> None:
        """What is left of the request is no whole one, so that nothing is owed for it."""
        if len([one for one in self.replies if one.is_whole]) >= self._plan.whole:
            self.leave()

    def _expire(self) -> None:
        self._end(Hung(f"no end after {BOUND_S:g} s: {self.replies}"))

    def _end(self, error: Exception | None = None) -> None:
        if self._ended is None or self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._end()

    def data_received(self, data: bytes) -> None:
        if self._ended is None or self._ended.done():
            self.leave()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._end(error)
            self.leave()
            return
        if (
            self._plan.leaves_after is not None
            and sum(len(one.body) for one in self.replies) >= self._plan.leaves_after
        ):
            self.leave()
        elif len(self.replies) >= self._plan.whole > 0 and self.replies[-1].is_whole:
            if self._plan.broken:
                self.leave()
            self._end()

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"x-tollgate-request-id":
                self._id = value
            case b"content-encoding":
                self._coding = value

    def on_message_begin(self) -> None:
        self._id = self._coding = b""

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self.replies.append(Reply(status, self._id, self._coding))

    def on_body(self, data: bytes) -> None:
        self.replies[-1].body += data

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200:
            self.replies[-1].is_whole = True


class Upstream(asyncio.Protocol):
    """One connection from the proxy. What it says is in the plan of the tag that a request carries."""

    def __init__(self, plans: dict[bytes, Plan], note: Callable[[Plan | None, bool], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._plans = plans
        self._note = note
        self._received = b""
        self._is_late = False
        self._is_speaking = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._take():
            pass

    def _take(self) -> bool:
        """Answer one request, if there is a whole one."""
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return False
        length = 0
        for line in head.split(b"\r\n")[1:]:
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        if len(rest) < length:
            return False
        # Two requests at once come only where an answer that was too late had been taken for the first one's.
        assert len(rest) == length or self._is_late, "the proxy said more than it was asked for"
        request, self._received = head + end + rest[:length], rest[length:]
        method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
        try:
            metered = match(method.decode(), target.partition(b"?")[0]).metered
        except ProxyError:
            metered = False
        plan = next((self._plans[one] for one in sorted(tags(request)) if one in self._plans), None)
        self._note(plan, metered)
        if plan is None:
            self._transport.write(_ANSWER)
            return True
        plan.met_late = plan.met_late or self._is_late or self._is_speaking
        self._is_speaking = True
        self._say(plan.answers[min(plan.seen, len(plan.answers)) - 1], 0)
        return True

    def _say(self, answer: Answer, at: int) -> None:
        if self._transport.is_closing():
            return
        if at < len(answer.pieces):
            self._transport.write(answer.pieces[at])
            self._loop.call_soon(self._say, answer, at + 1)
        elif answer.ending is Ending.KEEP:
            self._is_speaking = False
        elif answer.ending is Ending.CLOSE:
            self._transport.close()
        elif answer.ending is Ending.RESET:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        elif answer.ending is Ending.LATE:
            self._is_late = True
            again = Answer([b"".join(answer.pieces)], Ending.KEEP)
            self._loop.call_later(_LATE_S * (len(answer.pieces[0]) % 4), self._say, again, 0)
