"""The connections to one upstream: bounded, kept alive, handed out last in first out."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass

from proxy.errors import ConnectFailed, Headers, PoolExhausted
from proxy.upstream.connect import Origin, connect, tls_context
from proxy.upstream.connection import Answer, Body, Connection, Stale, Timeouts

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
        self._limits = limits
        self._timeouts = timeouts
        self._tls: ssl.SSLContext | None = tls_context(ca_file) if origin.scheme == "https" else None
        self._open: set[Connection] = set()
        self._connecting = 0
        self._idle: list[Connection] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(self, method: str, target: bytes, headers: Headers, body: Body, *, length: int | None) -> Answer:
        """Send one request and return the head of its answer; `Answer.close` must follow.

        `target` is path and query below the origin's path; `length` of None sends no `Content-Length` (no body).
        Raises `UpstreamError`.
        """
        head = self._head(method, target, headers, length)
        while True:
            connection, reused = await self._acquire()
            try:
                return await connection.exchange(head, body, reused=reused)
            except Stale:
                continue  # each round uses up a kept connection, so this ends with a new one

    async def close(self) -> None:
        """Close every connection, those in use included."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)  # let the transports say goodbye

    @property
    def connections(self) -> int:
        """How many connections are open or being opened."""
        return len(self._open) + self._connecting

    def _head(self, method: str, target: bytes, headers: Headers, length: int | None) -> bytes:
        line = b"%b %b%b HTTP/1.1\r\nhost: %b\r\n" % (
            method.encode(),
            self.origin.path.encode(),
            target,
            self.origin.authority,
        )
        fields = b"".join([b"%b: %b\r\n" % pair for pair in headers])
        size = b"" if length is None else b"content-length: %d\r\n" % length
        return line + fields + size + b"\r\n"

    async def _acquire(self) -> tuple[Connection, bool]:
        """A connection and whether it was used before. Who comes while others wait stands in line behind them."""
        waited = False
        until = asyncio.get_running_loop().time() + self._limits.wait_s
        while True:
            if waited or not self._waiting:
                while self._idle:
                    connection = self._idle.pop()
                    if connection.is_alive():
                        return connection, True
                    self._discard(connection)
                if self.connections < self._limits.connections_max:
                    return await self._connect(), False
            await self._wait(until, first=waited)
            waited = True

    async def _wait(self, until: float, *, first: bool) -> None:
        if len(self._waiting) >= self._limits.waiting_max:
            raise PoolExhausted("Every connection to the upstream is busy, and so is the queue for them.")
        turn = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        try:
            async with asyncio.timeout_at(until):
                await turn
        except BaseException as error:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled():
                self._next_turn()  # it had come just when we gave up: the next in line has it
            if isinstance(error, TimeoutError):
                seconds = self._limits.wait_s
                raise PoolExhausted(f"Every connection to the upstream stayed busy for {seconds:g} s.") from None
            raise

    async def _connect(self) -> Connection:
        self._connecting += 1
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                connection = await self._open_connection()
        except BaseException as error:
            self._connecting -= 1
            self._next_turn()
            if isinstance(error, TimeoutError):
                seconds = self._limits.connect_timeout_s
                raise ConnectFailed(f"No connection to the upstream could be made within {seconds:g} s.") from None
            if isinstance(error, OSError):  # also ssl.SSLError: a wrong certificate
                raise ConnectFailed(f"No connection to the upstream could be made: {error}.") from None
            raise
        self._connecting -= 1
        self._open.add(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        return connection

    async def _open_connection(self) -> Connection:
        sock = await connect(self.origin)
        connection = Connection(self._timeouts, self._released)
        hostname = self.origin.host if self._tls is not None else None
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: connection, sock=sock, ssl=self._tls, server_hostname=hostname
            )
        except BaseException:
            sock.close()
            raise
        connection.use_socket(sock)
        return connection

    def _released(self, connection: Connection, reusable: bool) -> None:
        if connection not in self._open:
            return
        if reusable and not self._closed:
            self._idle.append(connection)
        else:
            self._discard(connection)
        self._next_turn()

    def _discard(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        connection.abort()

    def _next_turn(self) -> None:
        """A connection, or the room for one, has become free: whoever waits longest may try."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [one for one in self._open if one.deadline < now]:
            connection.expire()
        # The longest idle are at the front.
        while self._idle and now - self._idle[0].idle_since > self._limits.idle_s:
            self._discard(self._idle[0])
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep) if self._open and not self._closed else None
