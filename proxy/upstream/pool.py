"""The connections to one upstream: bounded, kept alive, handed out as `Idle` allows."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from proxy.errors import ConnectFailed, Headers, PoolExhausted
from proxy.model import Hidden
from proxy.upstream.connect import Origin, connect, reason, tls_context
from proxy.upstream.connection import Answer, Body, Connection, Stale, Timeouts
from proxy.upstream.idle import Idle

#: How often deadlines are looked at. One timer for all costs less than one per request.
_SWEEP_S = 0.1


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds. A request waits `wait_s` for a free connection, and at most `waiting_max` requests do."""

    connections_max: int
    waiting_max: int
    wait_s: float
    connect_timeout_s: float
    idle_s: float


class Pool:
    """Sends requests to one origin. A request is sent a second time only where the first surely was not processed."""

    def __init__(self, origin: Origin, limits: PoolLimits, timeouts: Timeouts, *, ca_file: str | None = None) -> None:
        self.origin = origin
        #: Host and port, as events carry them.
        self.name = origin.authority.decode()
        self._path = origin.path.encode()
        self._host = b" HTTP/1.1\r\nhost: %b\r\n" % origin.authority
        self._limits = limits
        self._timeouts = timeouts
        self._tls: ssl.SSLContext | None = tls_context(ca_file) if origin.scheme == "https" else None
        self._open: set[Connection] = set()
        self._connecting = 0
        self._idle = Idle()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._promised = 0  # requests whose turn has come but that have not run since
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(
        self,
        method: str,
        target: bytes,
        headers: Headers,
        body: Body,
        *,
        length: int | None,
        tenant: str,
        begin: Callable[[Connection], None],
    ) -> Answer:
        """Send one request and return the head of its answer; `Answer.close` must follow.

        `target` is path and query below the origin's path; `length` of None sends no `Content-Length` (no body).
        `tenant` is whose request it is: connections pass from one to another only after a rest (`Idle`).
        `begin` is called with the connection when the request is about to be sent; what it raises stops that.
        Raises `UpstreamError`, or what an iterator given as `body` raised.
        """
        assert method != "HEAD", "a body would be awaited that the answer only announces"
        head = self._head(method, target, headers, length)
        fresh = False
        while True:
            connection, reused = await self._acquire(tenant, fresh=fresh)
            connection.tenant = tenant
            try:
                begin(connection)
            except BaseException:
                self._released(connection, True)
                raise
            try:
                return await connection.exchange(head, body, length=length or 0, reused=reused)
            except Stale:
                fresh = True  # the next kept connection may be just as dead; a new one raises no `Stale`

    async def close(self) -> None:
        """Close every connection, those in use included. Requests that wait, or come later, are refused."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._next_turn()
        connections = list(self._open)
        for connection in connections:
            connection.abort()
        for connection in connections:
            await connection.lost.wait()  # the loop closes the sockets in its next turns

    @property
    def connections(self) -> int:
        """How many connections are open or being opened."""
        return len(self._open) + self._connecting

    def _head(self, method: str, target: bytes, headers: Headers, length: int | None) -> bytes:
        lines = [method.encode(), b" ", self._path, target, self._host]
        lines += [b"%b: %b\r\n" % pair for pair in headers]
        lines.append(b"\r\n" if length is None else b"content-length: %d\r\n\r\n" % length)
        return Hidden(b"".join(lines))  # the upstream's key is in it

    # Who gets which connection

    def _free(self) -> int:
        """How many more requests could have a connection now, kept or new."""
        return len(self._idle) + self._limits.connections_max - self.connections - self._promised

    async def _acquire(self, tenant: str, *, fresh: bool) -> tuple[Connection, bool]:
        """A connection and whether it was used before. `fresh` asks for one that was not."""
        if self._free() < 1 and not self._closed:
            await self._wait()
        if self._closed:
            raise PoolExhausted("The connections to the upstream are closed: this service is stopping.")
        now = asyncio.get_running_loop().time()
        while not fresh and (connection := self._idle.take(tenant, now)) is not None:
            if connection.is_alive():
                return connection, True
            self._discard(connection)
        if self.connections >= self._limits.connections_max and (oldest := self._idle.oldest()) is not None:
            self._discard(oldest)  # a kept one makes room for the new one
        return await self._connect(), False

    async def _wait(self) -> None:
        """Wait in line. Who comes to its turn finds a kept connection or the room for one: nobody gets in between."""
        if len(self._waiting) >= self._limits.waiting_max:
            raise PoolExhausted("Every connection to the upstream is busy, and so is the queue for them.")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._limits.wait_s):
                await turn
        except BaseException as error:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled():
                self._promised -= 1  # the turn came just when we gave up: the next in line has it
                self._next_turn()
            if isinstance(error, TimeoutError):
                seconds = self._limits.wait_s
                raise PoolExhausted(f"Every connection to the upstream stayed busy for {seconds:g} s.") from None
            raise
        self._promised -= 1

    def _next_turn(self) -> None:
        """A connection, or the room for one, may have become free: whoever waits longest has it."""
        while self._waiting and (self._free() > 0 or self._closed):
            turn = self._waiting.popleft()
            if not turn.done():
                self._promised += 1
                turn.set_result(None)

    async def _connect(self) -> Connection:
        self._connecting += 1
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                connection = await self._open_connection()
        except TimeoutError:
            seconds = self._limits.connect_timeout_s
            raise ConnectFailed(f"No connection to the upstream could be made within {seconds:g} s.") from None
        except OSError as error:  # also ssl.SSLError: a wrong certificate
            raise ConnectFailed(f"No connection to the upstream could be made: {reason(error)}.") from None
        else:
            self._open.add(connection)
        finally:
            self._connecting -= 1
            self._next_turn()
        if self._closed:
            self._discard(connection)
            raise PoolExhausted("The connections to the upstream are closed: this service is stopping.")
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        return connection

    async def _open_connection(self) -> Connection:
        loop = asyncio.get_running_loop()
        sock = await connect(self.origin)
        connection = Connection(sock, self._timeouts, self._released)
        try:
            wire, _ = await loop.create_connection(lambda: connection, sock=sock)
        except BaseException:
            sock.close()
            raise
        if self._tls is None:
            return connection
        try:
            if wire.is_closing():  # on which the handshake would never end
                raise ConnectionResetError
            transport = await loop.start_tls(wire, connection, self._tls, server_hostname=self.origin.host)
            if transport is None or wire.is_closing():
                raise ConnectionResetError
        except BaseException:
            connection.abort()  # uvloop does not, where the handshake has not begun
            raise
        connection.use_tls(transport)
        return connection

    def _released(self, connection: Connection, reusable: bool, /) -> None:
        if connection not in self._open:
            return
        if reusable and not self._closed:
            self._idle.put(connection, asyncio.get_running_loop().time())
        else:
            self._discard(connection)
        self._next_turn()

    def _discard(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._idle.remove(connection)
        connection.abort()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [one for one in self._open if one.deadline < now]:
            connection.expire()
        while (oldest := self._idle.oldest()) is not None and now - oldest.idle_since > self._limits.idle_s:
            self._discard(oldest)
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep) if self._open and not self._closed else None
