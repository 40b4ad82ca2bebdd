"""A scripted upstream: a raw server on loopback whose every byte, pause and hang-up a test decides.

    def hangs_up(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\\r\\ncontent-length: 5\\r\\n\\r\\nhel")
        peer.reset()

    with ScriptedUpstream(hangs_up) as upstream:
        ...  # the first connection to upstream.url meets `hangs_up`, all later ones `answers`

A script is a function that holds one connection, in a thread of its own, and reads like the conversation. When it
returns, the connection stays open until the other side closes it, so that `until` can tell that it was closed. An
error in a script fails the test at the end of the `with` block; the other side's hanging up is no error.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

#: No wait of a script or a test outlives this.
BOUND_S = 10.0


class HungUp(Exception):
    """The other side closed the connection while the script waited for it."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came. `head` is its bytes up to and with the empty line; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    head: bytes
    body: bytes
    connection: int  #: which connection it came on, counted from 0


Script = Callable[["Peer"], None]


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """The bytes of an answer with a content-length."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def answers(peer: Peer) -> None:
    """The default script: answers every request with JSON that tells it apart, and keeps the connection."""
    while True:
        request = peer.request()
        tag = {"target": request.target, "connection": request.connection, "body": request.body.decode("latin-1")}
        peer.send(answer(json.dumps(tag).encode(), "content-type: application/json"))


def says(*pieces: bytes) -> Script:
    """A script that answers each request with the next of these pieces, then falls silent."""

    def script(peer: Peer) -> None:
        for piece in pieces:
            peer.request()
            peer.send(piece)

    return script


class Peer:
    """One accepted connection, in the hands of its script."""

    def __init__(self, upstream: ScriptedUpstream, sock: socket.socket, index: int) -> None:
        self.upstream = upstream
        self.index = index
        self.sent = 0  #: bytes that the kernel has taken
        self.protocol: str | None = None  #: what ALPN agreed on
        self._sock = sock
        self._received = bytearray()

    # Listening

    def request(self) -> Request:
        """Read one request to its end, and record it."""
        return self.read_body(self.read_head())

    def read_head(self) -> bytes:
        while b"\r\n\r\n" not in self._received:
            self._receive()
        return self._take(self._received.index(b"\r\n\r\n") + 4)

    def read_body(self, head: bytes) -> Request:
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = self._chunked()
        else:
            body = self.read(int(headers.get("content-length", "0")))
        request = Request(method, target, headers, head, body, self.index)
        with self.upstream.changed:
            self.upstream.requests.append(request)
        return request

    def read(self, size: int) -> bytes:
        while len(self._received) < size:
            self._receive()
        return self._take(size)

    def _take(self, size: int) -> bytes:
        data = bytes(memoryview(self._received)[:size])
        del self._received[:size]
        return data

    def _chunked(self) -> bytes:
        body = b""
        while True:
            while b"\r\n" not in self._received:
                self._receive()
            line = self._take(self._received.index(b"\r\n") + 2)
            chunk = self.read(int(line.split(b";")[0], 16) + 2)[:-2]
            body += chunk
            if not chunk:
                return body

    def _receive(self) -> None:
        data = self._sock.recv(1 << 20)
        if not data:
            raise HungUp
        self._received += data

    # Talking

    def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            count = self._sock.send(left)
            self.sent += count
            left = left[count:]

    def drip(self, data: bytes) -> None:
        """Byte by byte, each in a packet of its own."""
        for at in range(len(data)):
            self.send(data[at : at + 1])

    # Waiting

    def wait(self, event: threading.Event) -> None:
        """Do nothing, until the test sets the event."""
        deadline = time.monotonic() + BOUND_S
        while not event.wait(0.01):
            if self.upstream.stopping.is_set():
                raise HungUp
            assert time.monotonic() < deadline, "the script waited too long"

    def stall(self) -> None:
        """Neither read nor write, until the other side closes."""
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        while not poll.poll(10):
            if self.upstream.stopping.is_set():
                raise HungUp

    def hold(self) -> None:
        """Neither read nor write, until the end of the test, whatever the other side does."""
        self.upstream.stopping.wait(BOUND_S)
        raise HungUp

    def wait_closed(self) -> None:
        """Read and forget, until the other side closes."""
        with suppress(OSError):
            while self._sock.recv(1 << 20):
                pass

    # Hanging up, and rising to TLS

    def start_tls(self, tls: ssl.SSLContext) -> None:
        """Go on under TLS: what a CONNECT proxy does when it has answered."""
        self._sock = tls.wrap_socket(self._sock, server_side=True, suppress_ragged_eofs=False)
        self.protocol = self._sock.selected_alpn_protocol()

    def half_close(self) -> None:
        """End what this side says (under TLS without a goodbye) and keep listening."""
        self._sock.shutdown(socket.SHUT_WR)

    def close(self, *, notify: bool = True) -> None:
        """Close; under TLS with a close_notify, unless `notify` is off."""
        if notify and isinstance(self._sock, ssl.SSLSocket):
            with suppress(OSError):
                self._sock.unwrap()
        self._sock.close()

    def reset(self) -> None:
        """Close with a RST, as a process that died or a firewall does."""
        with suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()


@dataclass(slots=True)
class Counts:
    accepted: int = 0
    open: int = 0
    handshakes_failed: int = 0


@dataclass(slots=True)
class _Threads:
    all: list[threading.Thread] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)


class ScriptedUpstream:
    """The server. The nth connection is served by the nth script, those beyond by `default`."""

    def __init__(
        self,
        *scripts: Script,
        default: Script = answers,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        receive_bytes: int | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self.peers: list[Peer] = []
        self.counts = Counts()
        self.changed = threading.Condition()  #: guards the three above
        self.stopping = threading.Event()
        self._scripts = list(scripts)
        self._default = default
        self._tls = tls
        self._threads = _Threads()
        self._host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_bytes is not None:  # a small buffer fills soon: for uploads that shall get stuck
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._listener.bind((host, 0))
        self._listener.listen(1024)
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http{'s' if self._tls else ''}://{host}:{self.port}"

    async def until(self, condition: Callable[[ScriptedUpstream], bool], bound_s: float = BOUND_S) -> None:
        """Wait, without blocking the loop, until this upstream has come to a state."""
        deadline = time.monotonic() + bound_s
        while not condition(self):
            assert time.monotonic() < deadline, f"not in {bound_s} s: {self.counts}, {len(self.requests)} requests"
            await asyncio.sleep(0.002)

    async def until_all_closed(self, accepted: int | None = None) -> None:
        """Every connection (of `accepted` that came) has been closed by one side or the other."""
        await self.until(lambda up: up.counts.open == 0 and (accepted is None or up.counts.accepted == accepted))

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
        for peer in self.peers:
            with suppress(OSError):
                peer._sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads.all:
            thread.join(BOUND_S)
        self._listener.close()
        if error is None and self._threads.errors:
            raise self._threads.errors[0]

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.all.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(BOUND_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.changed:
                script = self._scripts.pop(0) if self._scripts else self._default
                peer = Peer(self, sock, self.counts.accepted)
                self.peers.append(peer)
                self.counts.accepted += 1
                self.counts.open += 1
            self._start(self._serve, peer, script)

    def _serve(self, peer: Peer, script: Script) -> None:
        try:
            if self._tls is None or self._greet(peer, self._tls):
                script(peer)
                peer.wait_closed()
        except (HungUp, OSError):
            pass
        except Exception as error:  # noqa: BLE001 # raised again where the test can see it
            self._threads.errors.append(error)
        finally:
            peer._sock.close()
            with self.changed:
                self.counts.open -= 1

    def _greet(self, peer: Peer, tls: ssl.SSLContext) -> bool:
        try:
            peer.start_tls(tls)
        except OSError:
            with self.changed:
                self.counts.handshakes_failed += 1
            return False
        return True
