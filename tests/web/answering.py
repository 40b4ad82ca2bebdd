"""An application that tells what it heard, behind the server's own protocol, and clients that look closely."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import uvicorn
from starlette.types import Receive, Scope, Send

from proxy.sections import ServerSettings
from tests.hostile.shapes import Seen
from tests.raw import RawClient
from tests.running import WAIT_S, serve, wait_until

GET = b"GET /%b HTTP/1.1\r\nhost: t\r\n\r\n"
POST = b"POST /%b HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n%b"
CHUNKED = b"POST /%b HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n"
LARGE = b"x" * 32_000_000


class Application:
    """Answers with what it was asked: `/early…` before it has read the body, `/large` at length, `/…wait` when told to.

    `/long9` is answered with as many bytes as it says, and `/listen` not at all: it waits for its client to leave.
    `heard` holds the requests in the order in which they came here.
    """

    def __init__(self) -> None:
        self.heard: list[Scope] = []
        self.gone: list[bytes] = []
        self.go_on = threading.Event()
        self.sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.heard.append(scope)
        name = scope["raw_path"][1:]
        body, more = b"", not name.startswith(b"early")
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.append(name)
                return
            body += message["body"]
            more = message["more_body"]
        if name == b"listen":
            await receive()
            self.gone.append(name)
            return
        if name.endswith(b"wait"):
            await asyncio.to_thread(self.go_on.wait, WAIT_S)
        if name == b"large":
            body = LARGE
        elif name.startswith(b"long"):
            body = LARGE[: int(name[4:])]
        said = b"%b:%b" % (name, body)
        head = [(b"content-length", b"%d" % len(said))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for at in range(0, len(said), 100_000):
            part = said[at : at + 100_000]
            await send({"type": "http.response.body", "body": part, "more_body": at + len(part) < len(said)})
            self.sent += len(part)


class Server:
    def __init__(self, app: Application, server: uvicorn.Server, port: int) -> None:
        self.app = app
        self.port = port
        self._server = server

    @property
    def connections(self) -> int:
        return len(self._server.server_state.connections)

    @property
    def tasks(self) -> int:
        return len(self._server.server_state.tasks)

    def forget(self) -> None:
        """Begin anew, when all of the last test's clients have left."""
        wait_until(lambda: self.connections == self.tasks == 0)
        self.app.heard.clear()
        self.app.gone.clear()
        self.app.go_on.clear()
        self.app.sent = 0

    def stop(self) -> None:
        self._server.should_exit = True

    def client(self) -> RawClient:
        return RawClient(self.port)

    def serves(self) -> None:
        """A good request of another client gets its answer."""
        with self.client() as client:
            client.send(POST % (b"good", 2, b"hi"))
            client.read_until(b"good:hi")


@contextmanager
def running(**settings: float) -> Iterator[Server]:
    app = Application()
    with (
        socket.create_server(("127.0.0.1", 0), backlog=128) as listener,
        serve(app, listener, settings=ServerSettings(**settings)) as server,
    ):
        try:
            yield Server(app, server, listener.getsockname()[1])
        finally:
            app.go_on.set()


def refused(received: bytes, status: int, code: str | None, *words: str) -> None:
    """One whole answer of the proxy's own making, the last of its connection."""
    seen = Seen(received)
    assert (seen.answers, seen.whole, seen.status) == (1, True, status)
    error = orjson.loads(seen.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    for word in words:
        assert word in error["message"]
    headers = dict(seen.headers)
    assert headers[b"x-tollgate-request-id"].startswith(b"req_")
    assert headers[b"x-request-id"] == headers[b"x-tollgate-request-id"]
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"connection"] == b"close"


def answers(received: bytes) -> list[bytes]:
    """The bodies of the answers that came one after another."""
    bodies = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        length = next(int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
        bodies.append(rest[:length])
        received = rest[length:]
    return bodies


def slow_client(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(WAIT_S)
    sock.connect(("127.0.0.1", port))
    return sock
