"""The client's side of HTTP/1.1: uvicorn's protocol, made proof against clients that are slow, endless or malformed.

What uvicorn lacks: deadlines (looked at by one sweep for all connections, `expire`), bounds, answers in OpenAI's shape
to what is no HTTP, and an end of a connection that loses neither an answer which the client has yet to read
(`_part`) nor a request which has reached us (`shutdown`).
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import re
import socket
import sys
import termios
from contextlib import suppress
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from proxy.errors import (
    HeadTimeout,
    HeadTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    ProxyError,
    TooManyConnections,
    error_answer,
)
from proxy.gateway.call import Arrival
from proxy.gateway.client import DEPARTURE, OUTPUT
from proxy.sections import ServerSettings
from proxy.web.cycle import Cycle
from proxy.web.files import connections_room

#: Requests that may wait on one connection for the answer to the one before.
_PIPELINED_MAX = 8
#: How long a connection stays open for what may be under way, once the server stops.
LINGER_S = 0.5
#: How long a client that was answered before it had sent everything may go on sending, and how many clients may.
_PART_S = 30.0
_PARTING_MAX = 1024
_SWEEP_S = 0.5
#: What the system takes of an answer beyond what it can send. Else it takes megabytes from the upstream for each client
#: that does not read, and the meter keeps the text of what it took.
_SYSTEM_BYTES_MAX = 128 * 1024

#: A target with a path of its own, which this service looks at; whatever else it says, the upstream is not its choice.
_TARGET = re.compile(rb"/|https?://[^/?#@]+/|\*$", re.IGNORECASE)
_HOST = re.compile(rb"(?:[\w.~%!$&'()*+,;=-]*|\[[0-9a-fA-F:.]+\])(?::[0-9]*)?")
_HEADER_FRAME_BYTES = len(b": \r\n")


class Watch:
    """What all connections of one server share: the settings, one sweep, and whether the server stops."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.connections_max = min(settings.connections_max, connections_room())
        #: Every answer is now the last of its connection.
        self.is_stopping = False
        #: Connections whose clients have had their last answer, and may still be sending.
        self.parting = 0
        self._sweeper: asyncio.TimerHandle | None = None

    def begin(self, loop: asyncio.AbstractEventLoop, connections: set[Any]) -> None:
        """There is a connection to look after."""
        if self._sweeper is None:
            self._sweeper = loop.call_later(_SWEEP_S, self._sweep, loop, connections)

    def _sweep(self, loop: asyncio.AbstractEventLoop, connections: set[Any]) -> None:
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep, loop, connections) if connections else None
        for connection in list(connections):
            connection.expire(loop.time())


class _Output:
    """The transport as uvicorn's cycles know it, but that closing it is the protocol's affair."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, protocol: Protocol) -> None:
        self.write = protocol.transport.write
        self.is_closing = protocol.is_ending
        self.close = protocol.end


class Protocol(HttpToolsProtocol):
    """One client's connection."""

    watch: Watch  #: bound by `protocol_for`

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._serving: Cycle | None = None
        #: Nothing more is read from this connection; if it is for an error, it is told after the answers before it.
        self._broken = False
        self._refusal: ProxyError | None = None
        self._parts_at = math.inf
        self._in_head = False
        self._head_deadline = math.inf
        #: Of a client that asks nothing more.
        self._idle_deadline = math.inf
        #: Of the request that is served, if it is not whole yet.
        self._body_deadline = math.inf
        #: Bytes of the head, or of what surrounds the body (chunk extensions, trailers) since the body's last.
        self._bare_bytes = 0
        self._unsent_bytes = 0
        self._unsent_since = math.inf

    # What the sweep sees

    def expire(self, now: float) -> None:
        """Called now and then: end the connection if its client has been silent, or deaf, for too long."""
        if now > self._head_deadline:
            if self._in_head:
                seconds = self.watch.settings.head_timeout_s
                self._refuse(HeadTimeout(f"The head of your request did not arrive within {seconds:g} s."))
            else:
                self.transport.close()
        if now > self._parts_at or now > self._idle_deadline:
            self.transport.close()
        if now > self._body_deadline and self._serving is not None:
            self._body_deadline = math.inf
            self._serving.give_up()
        if not (self.flow.write_paused or self.transport.is_closing()):
            self._unsent_since = math.inf
            return
        unsent_bytes = self.transport.get_write_buffer_size() + self._unacknowledged_bytes()
        if self._unsent_since == math.inf or unsent_bytes < self._unsent_bytes:
            self._unsent_since = now
        elif now - self._unsent_since > self.watch.settings.write_timeout_s:
            self.transport.abort()
        self._unsent_bytes = unsent_bytes

    def _unacknowledged_bytes(self) -> int:
        """What the system still has to send. It holds megabytes: of a slow reader's progress, only this tells."""
        try:
            size = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except (OSError, ValueError):  # it is closed, or the system does not say
            return 0
        return int.from_bytes(size, sys.byteorder)

    def shutdown(self) -> None:
        """The server stops: what has come is served, and an idle connection stays for a moment."""
        self.watch.is_stopping = True
        if not self._is_busy():
            self.loop.call_later(LINGER_S, self._close_if_idle)
        elif not self._last().response_started:  # else its head has told the client to go on
            self._last().keep_alive = False

    def _close_if_idle(self) -> None:
        if self._is_busy() or self.transport.is_closing():
            return
        if self._in_head and not self._broken:  # it is read to its end, for which it has a deadline
            self.loop.call_later(LINGER_S, self._close_if_idle)
        else:
            self.transport.close()

    def _is_busy(self) -> bool:
        return self._serving is not None and not self._serving.response_complete

    def _is_parting(self) -> bool:
        return self._parts_at != math.inf

    def is_ending(self) -> bool:
        """Whether nothing more can be written."""
        return self._is_parting() or self.transport.is_closing()

    def _last(self) -> Cycle:
        """Of the requests that are served or wait for it, the last."""
        assert self._serving is not None
        return self.pipeline[0][0] if self.pipeline else self._serving  # type: ignore[return-value] # as we made it

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        with suppress(OSError):  # some systems refuse it where the client has left already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _SYSTEM_BYTES_MAX)
        self._output = _Output(self)
        self.watch.begin(self.loop, self.connections)
        self._head_deadline = self.loop.time() + self.watch.settings.head_timeout_s
        if len(self.connections) - self.watch.parting > self.watch.connections_max:
            self._refuse(TooManyConnections("This service has too many open connections. Try again soon."))

    def connection_lost(self, exc: Exception | None) -> None:
        for cycle in [self._serving, *(waiting for waiting, _ in self.pipeline)]:
            if cycle is not None and not cycle.response_complete:
                cycle.leave()  # type: ignore[attr-defined] # it is one of ours
        self.pipeline.clear()
        self.watch.parting -= self._is_parting()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        self._unsent_since = math.inf  # between two sweeps as much may be taken as comes anew
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._broken:
            return
        self._bare_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            # Declined by staying with HTTP/1.1. The parser has skipped the body, so the request is read anew, without
            # the offer: Java's own client makes it with each first request, and `curl --http2` as well.
            head = self._without_offer()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.data_received(head + data[offer.args[0] :])
        except httptools.HttpParserError as error:
            ours = error.__context__
            self._refuse(
                ours if isinstance(ours, ProxyError) else InvalidRequest(f"Your request is not valid HTTP: {error}.")
            )
        else:
            if self._bare_bytes > self.watch.settings.head_bytes_max:
                self._refuse(self._too_large())

    def _without_offer(self) -> bytes:
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        return line + b"".join([b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]) + b"\r\n"

    # llhttp's callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._idle_deadline = math.inf  # here and not with any byte: empty lines would keep a connection for ever
        self._in_head = True
        self._bare_bytes = 0
        self._head_deadline = self.loop.time() + self.watch.settings.head_timeout_s

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_deadline = math.inf
        self._check_head()
        try:
            super().on_headers_complete()
        except httptools.HttpParserInvalidURLError:
            raise InvalidRequest("The target of your request is not a valid URL.") from None
        if self.parser.should_upgrade():
            return
        self.headers = []  # what comes now are trailers: no headers, whatever they are called
        self.cycle.transport = self._output  # type: ignore[assignment] # all that a cycle asks of it
        self.cycle.__class__ = Cycle  # uvicorn makes them itself, of one class
        self.scope["extensions"] = {DEPARTURE: self.cycle.when_gone, OUTPUT: self.cycle}  # type: ignore[attr-defined, dict-item]
        if self.watch.is_stopping:
            self.cycle.keep_alive = False

    def _should_upgrade(self) -> bool:
        return True  # uvicorn's way to leave the rest to `data_received`

    def _check_head(self) -> None:
        """What the parser lets pass, but others read otherwise. Raises `ProxyError`."""
        head_bytes = len(self.url)
        hosts = []
        codings = []
        for name, value in self.headers:
            head_bytes += len(name) + len(value) + _HEADER_FRAME_BYTES
            if name == b"host":
                hosts.append(value)
            elif name == b"transfer-encoding":
                codings.append(value.lower())
        if head_bytes > self.watch.settings.head_bytes_max:
            raise self._too_large()
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise InvalidRequest("Your request is of another version of HTTP; this service speaks HTTP/1.1.")
        if codings and (codings != [b"chunked"] or version == "1.0"):
            raise InvalidRequest("Send 'Transfer-Encoding: chunked', over HTTP/1.1, or a Content-Length.")
        if len(hosts) != 1 and (hosts or version == "1.1"):
            raise InvalidRequest("Send exactly one Host header.")
        if hosts and not _HOST.fullmatch(hosts[0]):
            raise InvalidRequest("The Host header of your request is not a host.")
        if self.parser.should_upgrade() and self.parser.get_method() == b"CONNECT":
            raise MethodNotAllowed("CONNECT is not served: this service is no tunnel.", "GET, POST, DELETE")
        if not _TARGET.match(self.url):
            raise InvalidRequest("The target of your request is not a path, nor an http:// URL that has one.")
        if len(self.pipeline) >= _PIPELINED_MAX:
            raise InvalidRequest("Wait for an answer before you send more requests on the same connection.")

    def on_body(self, body: bytes) -> None:
        self._bare_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._body_deadline = math.inf
        super().on_message_complete()

    def on_response_complete(self) -> None:
        assert self._serving is not None
        if self.is_ending():
            return
        if self._serving.more_body:
            self._part()
        elif self._refusal is not None and not self.pipeline:
            self._tell(self._refusal)
        else:
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            elif not self._in_head:  # of the next request, which has its own deadline
                self._idle_deadline = self.loop.time() + self.watch.settings.keep_alive_s
            if self.watch.is_stopping:
                self.loop.call_later(LINGER_S, self._close_if_idle)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._serving = cycle
        if cycle.more_body:
            self._body_deadline = self.loop.time() + self.watch.settings.body_timeout_s
        super()._start_asgi_task(cycle, app)

    # Refusals, and other ends

    def _too_large(self) -> HeadTooLarge:
        bytes_max = self.watch.settings.head_bytes_max
        return HeadTooLarge(f"The headers or trailers of your request are larger than {bytes_max} bytes.")

    def _refuse(self, error: ProxyError) -> None:
        """What came is no request that can be served. It is told in its turn, if there is something to be told."""
        self._broken = True
        self._head_deadline = math.inf
        if not self._is_busy():
            self._tell(error)
            return
        last = self._last()
        if not last.more_body:
            self._refusal = error  # it was the next one
        elif last is not self._serving:
            self.pipeline.popleft()
            self._refusal = error
        elif not last.response_started:  # its body is what cannot be read
            last.leave()
            self._tell(error)

    def _tell(self, error: ProxyError) -> None:
        if self.is_ending():
            return
        status, headers, body = error_answer(error)
        request_id = Arrival().id.encode()
        headers += [(b"x-request-id", request_id), (b"x-tollgate-request-id", request_id), (b"connection", b"close")]
        self.transport.write(
            STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % pair for pair in headers]) + b"\r\n" + body
        )
        self._part()

    def end(self) -> None:
        """The last answer of this connection was given, or breaks off."""
        assert self._serving is not None
        if self._serving.more_body and self._serving.response_complete:
            self._part()
        else:
            self.transport.close()

    def _part(self) -> None:
        """Say no more, and let the client finish: it reads the answer when it has sent all, or finds the end of ours.

        Were the connection closed with unread bytes in it, the client's system would throw the answer away.
        """
        self._broken = True
        self._idle_deadline = math.inf
        if self.watch.parting >= _PARTING_MAX:
            self.transport.close()
        elif not self._is_parting():
            self.watch.parting += 1
            self._parts_at = self.loop.time() + (LINGER_S if self.watch.is_stopping else _PART_S)
            self.flow.resume_reading()
            self.transport.write_eof()


def protocol_for(settings: ServerSettings) -> type[Protocol]:
    """The protocol with its settings, for which uvicorn's configuration has no room. For one server each."""
    return type("Protocol", (Protocol,), {"watch": Watch(settings)})
