"""The server: the sockets it listens on, and uvicorn as Tollgate runs it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from importlib.util import find_spec

import uvicorn
from starlette.types import ASGIApp

from proxy.errors import ConfigurationError
from proxy.sections import ServerSettings
from proxy.web.protocol import protocol_for

_BACKLOG = 4096
#: How many are accepted in a turn of the loop. uvloop takes one of each descriptor, so each socket has several: under
#: load a turn answers hundreds of requests, and whoever connects would wait for a turn for each one before it.
_ACCEPTED_AT_ONCE = 16
#: An address that this machine does not have (`localhost` is often ::1 too, where IPv6 is off): others may do.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
#: Of systemd's convention for sockets that are handed over, sd_listen_fds(3).
_FIRST_DESCRIPTOR = 3
_CONVENTION = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class Server(uvicorn.Server):
    """Uvicorn's server, with an end that leaves nobody behind who has connected.

    `is_shared`: others have its listening sockets too, and whoever waits in their queues is served by them.
    """

    def __init__(self, config: uvicorn.Config, *, is_shared: bool = False) -> None:
        super().__init__(config)
        self._is_shared = is_shared

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for sock in sockets or []:
            # Or a copy would make it wait for clients: in other processes as well, that have it and serve already.
            sock.setblocking(False)
        more = [sock.dup() for sock in sockets or [] for _ in range(_ACCEPTED_AT_ONCE - 1)]
        await super().startup(None if sockets is None else [*sockets, *more])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        queues = [] if self._is_shared else [sock.dup() for sock in sockets or []]
        for server in self.servers:
            server.close()
        await self._accept_all(queues)
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # its client outlasts us; uvloop may never end with such a one open
        await _turns()

    async def _accept_all(self, queues: Sequence[socket.socket]) -> None:
        """Take those along who wait to be accepted: closing the last descriptor of a queue resets them."""
        loop = asyncio.get_running_loop()
        for queue in queues:
            queue.setblocking(False)
            with queue, suppress(OSError):  # none is left
                for _ in range(_BACKLOG):
                    client, _ = queue.accept()
                    await loop.connect_accepted_socket(self._new_connection, client)
        await _turns()  # who was accepted in this very one is a connection soon

    def _new_connection(self) -> asyncio.Protocol:
        new: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return new(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


async def _turns() -> None:
    """A few turns of the loop."""
    for _ in range(3):
        await asyncio.sleep(0)


def server_config(app: ASGIApp, settings: ServerSettings) -> uvicorn.Config:
    """Uvicorn's configuration. Where it listens is decided by the sockets that it is given."""
    return uvicorn.Config(
        app,
        loop="uvloop" if find_spec("uvloop") else "auto",
        http=protocol_for(settings),
        ws="none",
        lifespan="on",
        workers=1,  # else uvicorn reads WEB_CONCURRENCY, and would fail at nonsense in it
        proxy_headers=False,  # nobody reads the client's address, and the wrapper costs a call for each request
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
        backlog=_BACKLOG,
    )


def inherited(environment: MutableMapping[str, str], first: int = _FIRST_DESCRIPTOR) -> list[socket.socket]:
    """The listening sockets that whoever started this process has handed over, by systemd's convention.

    There are `LISTEN_FDS` of them, from descriptor 3 on. They are for the process that `LISTEN_PID` names, and where
    that is another one, a parent has left its own variables in place. They are taken away here, so that no child of
    this process finds them. Raises `ConfigurationError`.

    So a port outlives the servers on it. Sockets of their own with SO_REUSEPORT would not do: each has its own queue,
    and who waits in that of the server that ends is reset.
    """
    count, pid, *_ = [environment.pop(name, "") for name in _CONVENTION]
    if not count or (pid and _number("LISTEN_PID", pid) != os.getpid()):
        return []
    return [_inherited(descriptor) for descriptor in range(first, first + _number("LISTEN_FDS", count))]


def _inherited(descriptor: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigurationError(f"LISTEN_FDS: descriptor {descriptor}: {error.strerror}") from None
    if (
        sock.family not in (socket.AF_INET, socket.AF_INET6)
        or sock.type != socket.SOCK_STREAM
        or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        sock.detach()
        raise ConfigurationError(f"LISTEN_FDS: descriptor {descriptor} is not a TCP socket that listens")
    sock.set_inheritable(False)
    return sock


def _number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ConfigurationError(f"{name}: {value!r} is not a number")
    return int(value)


def listen(host: str, port: int) -> list[socket.socket]:
    """A bound socket for each address of `host`, all with the same port. Raises `OSError`, worded for the user.

    Uvicorn would bind only after the application has started, and log what fails.
    """
    bound: list[socket.socket] = []
    missing: OSError | None = None
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            same_port = bound[0].getsockname()[1] if bound else port
            try:
                bound.append(_bind(family, (address[0], same_port, *address[2:])))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
        if missing is not None and not bound:
            raise missing
    except OSError as error:
        for sock in bound:
            sock.close()
        raise OSError(f"cannot listen on {authority(host, port)}: {error.strerror or error}") from None
    return bound


def listen_apart(host: str, port: int, count: int) -> list[list[socket.socket]]:
    """The same for each of several workers, with a queue of its own where the system shares out among such.

    Raises `OSError` as `listen`, also where anybody has the port: the first sockets are bound as one that is alone.
    """
    first = listen(host, port)
    if sys.platform != "linux":
        return [first] * count
    for sock in first:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return [first, *([_bind(sock.family, sock.getsockname(), apart=True) for sock in first] for _ in range(count - 1))]


def authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(family: int, address: tuple[object, ...], *, apart: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if apart:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
