"""One HTTP/1.1 connection to an upstream: an `asyncio.Protocol` over llhttp, one exchange at a time.

A connection may serve again only after a complete, well-formed answer with nothing left over; anything else closes it.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import httptools

from proxy.errors import BadAnswer, ConnectionBroken, Headers, UpstreamError, UpstreamTimeout

#: Bytes of an answer that may wait for the client before the upstream is asked to pause.
BUFFER_BYTES_MAX = 256 * 1024
HEAD_BYTES_MAX = 64 * 1024
#: Informational (1xx) answers before the final one; more are an attack.
INTERIM_MAX = 16
#: A body up to this size is joined with the head into one write.
_JOINED_BODY_BYTES_MAX = 64 * 1024

Body = bytes | AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds of silence that are borne: until the answer's head has come, then between any two reads."""

    first_byte_s: float
    between_bytes_s: float


class Stale(Exception):
    """A kept connection turned out to be dead before the request was fully sent: safe to send on another."""


class Answer:
    """An upstream's answer, its body still arriving. `close` must be called once, on every path."""

    __slots__ = ("_connection", "at_end", "headers", "status")

    def __init__(self, connection: Connection, status: int, headers: Headers) -> None:
        self._connection: Connection | None = connection
        self.status = status
        self.headers = headers
        self.at_end = False  #: what `read` returned last was the end of the body

    async def read(self) -> bytes:
        """The bytes that have come since the last read (at least one), or b"" at the end of the body.

        Raises `ConnectionBroken`, `BadAnswer` or `UpstreamTimeout` where the body ends otherwise.
        """
        assert self._connection is not None, "read after close"
        data = await self._connection.read()
        self.at_end = self._connection.at_end
        return data

    def limit(self, seconds: float) -> None:
        """Give the rest of the answer this much time, whatever comes."""
        if self._connection is not None:
            self._connection.limit(seconds)

    def close(self) -> None:
        """Hand the connection back, or close it where the answer is not complete."""
        # Forgotten at once: by the next call the connection may be another request's.
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.finish()


class Connection(asyncio.Protocol):
    """`released(connection, reusable)` is called when an exchange ends and when the connection closes, maybe twice."""

    def __init__(self, timeouts: Timeouts, released: Callable[[Connection, bool], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeouts = timeouts
        self._released = released
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._drained: asyncio.Future[None] | None = None
        self.deadline = math.inf  #: loop time after which the exchange has failed; watched by the pool
        self.idle_since = 0.0
        self._closed = False
        self._busy = False
        self._end_exchange()

    def _end_exchange(self) -> None:
        self._head: asyncio.Future[Answer] | None = None
        self._reader: asyncio.Future[None] | None = None
        self._headers: Headers = []
        self._head_bytes = 0
        self._interim_count = 0
        self._interim = False
        self._status = 0
        self._sized = False
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._paused = False
        self._upload: asyncio.Task[None] | None = None
        self._begun = False
        self._unsent = False
        self._keep_alive = False
        self._error: UpstreamError | None = None
        self._hard_deadline = math.inf
        self._body_complete = False

    # The exchange, as its user sees it

    @property
    def at_end(self) -> bool:
        """The whole body has come and was read."""
        return self._body_complete and not self._chunks

    def use_socket(self, sock: socket.socket) -> None:
        """The socket under the transport, so that a peer's close can be seen before the loop reports it."""
        self._socket = sock

    def is_alive(self) -> bool:
        """Whether an idle connection can be used: open, and with nothing to read, not even its end."""
        if self._closed or self._transport is None or self._transport.is_closing():
            return False
        if self._socket is not None:
            try:
                self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:
                return False
            return False  # end of stream, or bytes that nobody asked for
        return True

    async def exchange(self, head: bytes, body: Body, *, reused: bool) -> Answer:
        """Send a request and wait for the head of its answer.

        Raises `Stale` where the request surely was not processed, else `ConnectionBroken`, `BadAnswer` or
        `UpstreamTimeout`. On any exception, cancellation included, the connection is closed.
        """
        assert self._transport is not None
        assert not self._busy
        self._busy = True
        self._head = self._loop.create_future()
        self.deadline = self._loop.time() + self._timeouts.first_byte_s
        try:
            if self._closed:
                raise Stale
            if not isinstance(body, bytes):
                self._transport.write(head)
                self._upload = self._loop.create_task(self._send(body))
                self._upload.add_done_callback(self._upload_ended)
            elif len(body) <= _JOINED_BODY_BYTES_MAX:
                self._transport.write(head + body)
            else:
                self._transport.writelines([head, body])
            return await self._head
        except ConnectionBroken:
            stale = reused and self._unsent and not self._begun and isinstance(body, bytes)
            self.finish()
            if stale:
                raise Stale from None
            raise
        except BaseException:
            self.finish()
            raise

    async def read(self) -> bytes:
        while not self._chunks:
            if self._body_complete:
                return b""
            if self._error is not None:
                raise self._error
            self._reader = self._loop.create_future()
            await self._reader
        chunks, self._chunks, self._buffered_bytes = self._chunks, [], 0
        if self._paused and self._transport is not None and not self._closed:
            self._paused = False
            self._touch()
            self._transport.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def limit(self, seconds: float) -> None:
        self._hard_deadline = self._loop.time() + seconds
        self.deadline = min(self.deadline, self._hard_deadline)

    def finish(self) -> None:
        """End the exchange: the connection is kept where it may serve again, else closed."""
        if not self._busy:
            return
        self._busy = False
        reusable = self._body_complete and self._keep_alive and not self._closed and self._error is None
        if self._upload is not None and not self._upload.done():
            self._upload.cancel()
            reusable = False  # the upstream would take the rest of this body for the next request
        self.deadline = math.inf
        self.idle_since = self._loop.time()
        self._end_exchange()
        if not reusable:
            self.abort()
        self._released(self, reusable)

    def expire(self) -> None:
        """The deadline has passed."""
        if self._head is not None and not self._head.done():
            self._fail(UpstreamTimeout(f"The upstream did not answer within {self._timeouts.first_byte_s:g} s."))
        else:
            self._fail(UpstreamTimeout("The upstream stopped in the middle of its answer."))

    def abort(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.abort()

    async def _send(self, body: AsyncIterator[bytes]) -> None:
        """A request's body, chunk by chunk, at the upstream's pace. Content-Length is in the head already."""
        assert self._transport is not None
        async for chunk in body:
            if self._closed:
                return
            self._transport.write(chunk)
            if self._drained is not None:
                await self._drained
            self._touch(self._timeouts.first_byte_s)

    def _upload_ended(self, upload: asyncio.Task[None]) -> None:
        if not upload.cancelled() and upload.exception() is not None and upload is self._upload:
            self._fail(ConnectionBroken("The request's body could not be read to its end."))

    def _touch(self, seconds: float | None = None) -> None:
        wait_s = self._timeouts.between_bytes_s if seconds is None else seconds
        self.deadline = min(self._loop.time() + wait_s, self._hard_deadline)

    def _fail(self, error: UpstreamError) -> None:
        if self._error is None:
            self._error = error
        self.abort()
        if self._head is not None and not self._head.done():
            self._head.set_exception(self._error)
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if not self._busy or self._closed or self._error is not None:
            self.abort()  # an answer that nobody asked for must never meet the next request
            return
        in_head = self._head is not None and not self._head.done()
        self._begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(BadAnswer("The upstream switched protocols without being asked to."))
            return
        except httptools.HttpParserError as error:
            cause = error.__context__
            message = cause if isinstance(cause, BadAnswer) else f"The upstream's answer is not valid HTTP: {error}."
            if self._body_complete:
                self._keep_alive = False  # bytes after the answer: it stands, the connection goes
                self._wake_reader()
            else:
                self._fail(BadAnswer(str(message)))
            return
        if in_head and self._head is not None and not self._head.done():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._fail(BadAnswer(f"The head of the upstream's answer is larger than {HEAD_BYTES_MAX} bytes."))
            return
        if self._buffered_bytes > BUFFER_BYTES_MAX and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
            self.deadline = self._hard_deadline  # the silence is ours now
        elif not self._paused:
            self._touch()
        if self._chunks or self._body_complete:
            self._wake_reader()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self.resume_writing()
        if not self._busy:
            self._released(self, False)
            return
        if self._body_complete:
            return
        if exc is None and self._status and not self._interim and not self._sized:
            self._body_complete = True  # a body without a length ends with the connection
            self._keep_alive = False
            self._wake_reader()
        else:
            self._unsent = self._transport is not None and self._transport.get_write_buffer_size() > 0
            self._fail(ConnectionBroken("The upstream closed the connection before its answer was complete."))

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
        if self._head is None or self._head.done():
            return  # a trailer
        name = name.lower()
        if name == b"content-length":
            self._sized = True
        elif name == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                raise BadAnswer("The upstream's answer has a transfer coding other than chunked.")
            self._sized = True
        self._headers.append((name, value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if not 100 <= status <= 599 or status == 101:
            raise BadAnswer(f"The upstream answered with status {status}.")
        if status < 200:
            self._interim = True
            self._interim_count += 1
            self._headers = []
            self._sized = False
            if self._interim_count > INTERIM_MAX:
                raise BadAnswer("The upstream sent too many informational answers.")
            return
        self._status = status
        if status in (204, 304):
            self._sized = True
        if self._head is not None and not self._head.done():
            self._head.set_result(Answer(self, status, self._headers))

    def on_body(self, data: bytes) -> None:
        self._chunks.append(data)
        self._buffered_bytes += len(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        self._body_complete = True
        self._keep_alive = self._parser.should_keep_alive()
        self.deadline = math.inf
