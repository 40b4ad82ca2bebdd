"""One HTTP/1.1 connection to an upstream: an `asyncio.Protocol` over llhttp, one exchange at a time.

A connection may serve again only after a complete, well-formed answer with nothing left over; anything else closes it.
"""

from __future__ import annotations

import asyncio
import math
import select
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import httptools

from proxy.errors import BadAnswer, ConnectFailed, ConnectionBroken, Headers, UpstreamTimeout
from proxy.upstream.head import HEAD_BYTES_MAX, Head

#: Bytes of an answer that may wait for the client before the upstream is asked to pause.
BUFFER_BYTES_MAX = 64 * 1024
#: A body up to this size is joined with the head into one write.
_JOINED_BODY_BYTES_MAX = 64 * 1024
#: A larger one goes in slices: TLS would encrypt it whole, in one long turn of the loop.
_SLICE_BYTES = 256 * 1024
Body = bytes | AsyncIterator[bytes]
#: Is given what has come of a body, and returns what is left of it for `read`.
Take = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds of the upstream's silence that are borne. They count only while the next move is the upstream's."""

    first_byte_s: float  #: from the last bytes of the request that it took to the end of its answer's head
    between_bytes_s: float  #: between any two reads of the answer


class Stale(Exception):
    """A kept connection turned out to be dead before the request was fully sent: safe to send on another."""


class Answer:
    """An upstream's answer, its body still arriving. `close` must be called, on every path; more than once is fine."""

    __slots__ = ("_connection", "at_end", "headers", "status")

    def __init__(self, connection: Connection, status: int, headers: Headers) -> None:
        self._connection: Connection | None = connection
        self.status = status
        self.headers = headers
        self.at_end = False  #: what `read` returned last was the end of the body

    @property
    def has_data(self) -> bool:
        """`read` returns at once."""
        return self._connection is not None and self._connection.has_data

    async def read(self, take: Take | None = None) -> bytes:
        """The bytes that have come since the last read (at least one), or b"" at the end of the body.

        While it waits, what comes is offered to `take` at once, which spares a turn of the loop for each piece, and
        `read` returns with what that leaves. The body's last bytes are not offered.

        Raises `UpstreamError` where the body ends otherwise, or what the iterator of the request's body raised.
        """
        assert self._connection is not None, "read after close"
        data = await self._connection.read(take)
        self.at_end = self._connection.at_end
        return data

    def limit(self, seconds: float) -> None:
        """Give the rest of the answer this much time, whatever comes."""
        if self._connection is not None:
            self._connection.limit(seconds)

    def close(self) -> None:
        """Hand the connection back, or close it where the answer is not complete."""
        connection, self._connection = self._connection, None  # soon it may be another request's
        if connection is not None:
            connection.finish()


class Connection(asyncio.Protocol):
    """`released(connection, reusable)` is called when an exchange ends and when the connection closes, maybe twice."""

    def __init__(self, sock: socket.socket, timeouts: Timeouts, released: Callable[[Connection, bool], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._timeouts = timeouts
        self._released = released
        self._wire: asyncio.Transport  # TCP; there from `connection_made` on
        self._transport: asyncio.Transport  # the one to write to: TLS where there is TLS
        self._parser = httptools.HttpResponseParser(self)
        self._drained: asyncio.Future[None] | None = None
        self.deadline = math.inf  #: loop time after which the exchange has failed; watched by the pool
        self.tenant = ""  #: whose exchange it is, or was last; the pool keeps this
        self.idle_since = 0.0  #: loop time of its last return to the pool, which keeps this too
        self.lost = asyncio.Event()  #: the socket is closed
        self._closed = False
        self._busy = False
        self._forget_exchange()

    def _forget_exchange(self) -> None:
        self._answer: asyncio.Future[Answer] | None = None
        self._reader: asyncio.Future[None] | None = None
        self._take: Take | None = None
        self._head = Head()
        self._bare_bytes = 0
        self._answered = False
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._paused = False
        self._upload: asyncio.Task[None] | None = None
        self._fetching = False
        self._unsent = False
        self._keep_alive = False
        self._error: Exception | None = None
        self._hard_deadline = math.inf
        self._body_complete = False

    # The exchange, as its user sees it

    @property
    def at_end(self) -> bool:
        return self._body_complete and not self._chunks

    @property
    def has_data(self) -> bool:
        return self._body_complete or bool(self._chunks)

    def is_alive(self) -> bool:
        """Whether an idle connection can be used: open, and with nothing to read, not even its end."""
        # The peer's close, or bytes that nobody asked for, are in the kernel before the loop reports them.
        return not (self._closed or self._wire.is_closing() or self._readable.poll(0))

    async def exchange(self, head: bytes, body: Body, *, length: int, reused: bool) -> Answer:
        """Send a request and wait for the head of its answer. `length` is the body's, as the head says.

        Raises `Stale` where the request surely was not processed (only on a reused connection), `UpstreamError`, or
        what the iterator of the body raised. On any exception, cancellation included, the connection is closed.
        """
        assert not self._busy
        self._busy = True
        self._answer = self._loop.create_future()
        try:
            if self._closed or self._wire.is_closing():
                # An upstream that closes every new connection must not be tried for ever.
                raise Stale if reused else ConnectFailed("The upstream closed the connection before the request.")
            if isinstance(body, bytes) and len(body) <= _JOINED_BODY_BYTES_MAX:
                self._transport.write(head + body)
                self._unsent = self._wire.is_closing()  # it failed on the spot
            else:
                self._transport.write(head)
                pieces = _slices(body) if isinstance(body, bytes) else body
                self._upload = self._loop.create_task(self._send(pieces, length))
                self._upload.add_done_callback(self._upload_ended)
            self._arm()
            return await self._answer
        except BaseException as error:
            broken = isinstance(error, ConnectionBroken) and isinstance(body, bytes)
            stale = broken and reused and self._unsent and not self._bare_bytes and not self._answered
            self.finish()
            if stale:
                raise Stale from None
            raise

    async def read(self, take: Take | None = None) -> bytes:
        while not (self._chunks or self._body_complete):
            if self._error is not None:
                raise self._error
            self._take = take
            self._reader = self._loop.create_future()
            await self._reader
        chunks, self._chunks, self._buffered_bytes = self._chunks, [], 0
        if self._paused and not self._closed:
            self._paused = False
            self._arm()
            self._wire.resume_reading()
        return b"".join(chunks)  # which hands back a single one as it is

    def limit(self, seconds: float) -> None:
        if self._busy and not self._body_complete:  # else the limit would fall on the next request
            self._hard_deadline = self._loop.time() + seconds
            self.deadline = min(self.deadline, self._hard_deadline)

    def finish(self) -> None:
        """End the exchange: the connection is kept where it may serve again, else closed."""
        if not self._busy:
            return
        self._busy = False
        # What is left of a body that was not fully sent would be taken for the next request.
        reusable = self._keep_alive and not (self._closed or self._paused or self._is_sending())
        if self._upload is not None:
            self._upload.cancel()
        self.deadline = math.inf
        self._forget_exchange()
        if not reusable:
            self.abort()
        self._released(self, reusable)

    def expire(self) -> None:
        """The deadline has passed."""
        if self._answered:
            self._fail(UpstreamTimeout("The upstream stopped in the middle of its answer."))
        else:
            self._fail(UpstreamTimeout(f"The upstream did not answer within {self._timeouts.first_byte_s:g} s."))

    def abort(self) -> None:
        self._closed = True
        self._wire.abort()

    async def _send(self, pieces: AsyncIterator[bytes], length: int) -> None:
        """A request's body, piece by piece, at the upstream's pace. Content-Length is in the head already."""
        left = length
        self._arm(fetching=True)
        async for piece in pieces:
            left -= len(piece)
            if left < 0:
                break
            if not self._wire.is_closing():
                self._transport.write(piece)
            if self._wire.is_closing():
                self._unsent = True  # a broken transport takes everything in silence, and drops it
                return
            if self._drained is not None:
                self._arm(fetching=False)
                await self._drained
            self._arm(fetching=True)
        self._arm(fetching=False)
        if left:
            # The upstream would take the excess for the next request, or wait for the rest.
            raise ValueError("the request's body is not as long as its Content-Length")

    def _upload_ended(self, upload: asyncio.Task[None]) -> None:
        error = None if upload.cancelled() else upload.exception()
        if upload is not self._upload:
            return
        if upload.cancelled():
            error = ConnectionBroken("The request's body could not be read to its end.")
        if isinstance(error, Exception):
            self._fail(error)  # as it is: a client that left is not the upstream's fault

    def _is_sending(self) -> bool:
        """A part of the request has not left this process."""
        if self._drained is not None or (self._upload is not None and not self._upload.done()):
            return True
        return self._wire.get_write_buffer_size() > 0 or self._transport.get_write_buffer_size() > 0

    def _arm(self, *, fetching: bool | None = None) -> None:
        """Set the deadline anew. `fetching` says, from now on, whether we wait for a piece of the request's body."""
        if fetching is not None:
            self._fetching = fetching
        if self._body_complete or self._error is not None:
            self.deadline = math.inf
        elif self._paused or self._fetching:
            self.deadline = self._hard_deadline
        else:
            wait_s = self._timeouts.between_bytes_s if self._answered else self._timeouts.first_byte_s
            self.deadline = min(self._loop.time() + wait_s, self._hard_deadline)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error  # which `read` does not look at where the answer is whole
        self._arm()
        self.abort()
        if self._upload is not None:
            self._upload.cancel()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self._wake_reader()

    def _wake_reader(self) -> None:
        self._take = None  # what comes before it runs comes after what it was woken for
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from no class of asyncio's
        # Whatever the kernel has not taken pauses the writer: so it is known what was sent when a connection breaks.
        self._wire.set_write_buffer_limits(high=0)

    def use_tls(self, transport: asyncio.Transport) -> None:
        """Write to this one, above the first. Pausing stays with the first: uvloop's TLS drops what it holds for a
        paused reader when the upstream closes."""
        self._transport = transport
        transport.set_write_buffer_limits(high=1, low=0)  # with 0, uvloop's TLS pauses at every write

    def data_received(self, data: bytes) -> None:
        if not self._busy or self._closed or self._body_complete:
            self.abort()  # an answer that nobody asked for must never meet the next request
            return
        self._bare_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            ours = error.__context__
            what = ours if isinstance(ours, BadAnswer) else f"The upstream's answer is not valid HTTP: {error}."
            self._fail(BadAnswer(str(what)))
            return
        if self._bare_bytes > HEAD_BYTES_MAX:
            self._fail(BadAnswer(f"The upstream sent {HEAD_BYTES_MAX} bytes of headers and no end of them."))
        elif self._answered:  # informational answers and half a head do not prolong the wait
            if self._take is None or self._is_left(self._take):
                self._wake_reader()
            if self._buffered_bytes > BUFFER_BYTES_MAX and not self._paused:
                self._paused = True
                self._wire.pause_reading()
            self._arm()

    def _is_left(self, take: Take) -> bool:
        """Whether something is left for `read` of what has come."""
        if not self._body_complete:
            try:
                left = take(b"".join(self._chunks))
            except Exception as error:  # noqa: BLE001 (whoever reads is told)
                left = b""
                self._fail(error)
            self._chunks = [left] if left else []
            self._buffered_bytes = len(left)
        return self.has_data or self._error is not None

    def eof_received(self) -> bool:
        # Only a stated end (a FIN, under TLS a close_notify) ends a body that has no length. A TLS connection that
        # is merely cut, or one that we abort, does not pass here.
        if self._busy and self._answered and not self._head.is_sized and self._error is None:
            self._body_complete = True
            self._arm()
        self._ended()
        self.abort()  # else uvloop would first wait for the upstream to take what is still to be written
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self._transport is self._wire:
            # An upstream that refuses a body and closes resets our next write, and uvloop leaves its 413 unread.
            with suppress(OSError):
                while not (self._closed or self._paused) and (data := self._socket.recv(65536)):
                    self.data_received(data)
        self.lost.set()
        self._ended()

    def _ended(self) -> None:
        self._closed = True
        self._unsent = self._unsent or self._is_sending()
        self.resume_writing()
        if self._busy:
            self._fail(ConnectionBroken("The upstream closed the connection before its answer was complete."))
        else:
            self._released(self, False)

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # httptools

    def on_message_begin(self) -> None:
        if self._body_complete:
            raise BadAnswer("The upstream sent more than one answer.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._answered:  # else it is a trailer
            self._head.add(name, value)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._answered = self._head.end(self._parser.get_http_version(), status)
        if self._answered and self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self, status, self._head.headers))

    def on_body(self, data: bytes) -> None:
        if not self._answered:
            raise BadAnswer("The upstream sent an informational answer with a body.")
        self._bare_bytes = 0
        self._chunks.append(data)
        self._buffered_bytes += len(data)

    def on_message_complete(self) -> None:
        if self._answered:  # else it was an informational one
            self._body_complete = True
            self._keep_alive = self._parser.should_keep_alive()


async def _slices(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _SLICE_BYTES):
        yield body[start : start + _SLICE_BYTES]
