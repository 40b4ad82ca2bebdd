"""A real Tollgate for tests: uvicorn on a real socket in a thread, a real SQLite file, configured by variables."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from proxy.app import App, create_app
from proxy.instants import Period
from proxy.limits import Calendar
from proxy.model import Settlement
from proxy.sections import ServerSettings
from proxy.settings import load
from proxy.store import ledger, outbox
from proxy.store.tenants import create_key, create_tenant, has_tenants, tenants
from proxy.store.usage import Group, Line, report
from proxy.web.server import Server, server_config

WAIT_S = 10.0
EVER = Period(0, 3_600_000 * 2**24)


def wait_until(condition: Callable[[], bool], *, seconds: float = WAIT_S) -> None:
    """Wait for something that happens in another thread, and fail where it does not."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.005)


class Running:
    """A server that runs, and what its operator can see and do."""

    def __init__(self, app: App, server: uvicorn.Server, port: int) -> None:
        self.app = app
        self._server = server
        self.url = f"http://127.0.0.1:{port}"
        self.port = port

    def key(self, tenant: str = "user-001", *, models: tuple[str, ...] = (), trusted: bool = False) -> str:
        """A new key of a tenant, which is made where it does not exist."""
        now_ms = time.time_ns() // 1_000_000
        with self.app.database.transaction() as connection:
            if not has_tenants(connection) or tenant not in {one.id for one in tenants(connection)}:
                create_tenant(connection, tenant, now_ms=now_ms)
            return create_key(connection, tenant, models=models, trusted=trusted, now_ms=now_ms)[1]

    def stop(self, *, grace_s: int) -> None:
        """What SIGTERM does; returns at once."""
        self._server.config.timeout_graceful_shutdown = grace_s
        self._server.should_exit = True

    def settlements(self, count: int | None = None) -> list[Settlement]:
        """The settlements in the ledger, oldest first; waits until there are `count`."""
        if count is not None:
            wait_until(lambda: len(self.settlements()) >= count)
        with closing(self.app.database.connect()) as connection:
            return [one.settlement for one in reversed(ledger.newest(connection, limit=1_000_000))]

    def settlement(self) -> Settlement:
        """The only settlement there is."""
        (only,) = self.settlements(1)
        return only

    def usage(self, *groups: Group) -> list[Line]:
        """All that the rollups have, in one line, or told apart."""
        with closing(self.app.database.connect()) as connection:
            return report(connection, EVER, Calendar(), groups).lines

    def pending(self) -> int:
        with closing(self.app.database.connect()) as connection:
            return outbox.backlog(connection).pending


@contextmanager
def tollgate(directory: Path, **variables: str) -> Iterator[Running]:
    """A Tollgate whose ledger is in `directory`. `OPENAI_BASE_URL` names its upstream; else the sandbox answers."""
    environment = {"TOLLGATE_DATABASE_URL": f"sqlite:///{directory}/tollgate.db", **variables}
    app = create_app(load(environment, directory=directory))
    with (
        socket.create_server(("127.0.0.1", 0), backlog=2048) as listener,
        serve(app, listener, settings=app.settings.server) as server,
    ):
        yield Running(app, server, listener.getsockname()[1])


@contextmanager
def serve(
    app: ASGIApp, listener: socket.socket, *, settings: ServerSettings | None = None, grace_s: int = 5
) -> Iterator[uvicorn.Server]:
    """Uvicorn as `tollgate serve` runs it, in a thread, ready when this returns."""
    config = server_config(app, (settings or ServerSettings()).model_copy(update={"shutdown_grace_s": grace_s}))
    server = Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        assert server.started
        yield server
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        assert not thread.is_alive()
