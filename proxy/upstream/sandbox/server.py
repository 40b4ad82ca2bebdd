"""The sandbox as a running server, in a thread and an event loop of its own."""

from __future__ import annotations

import logging
import socket
import threading

import uvicorn
from starlette.types import ASGIApp

from proxy.upstream.sandbox.app import create_sandbox

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0


class Sandbox:
    """A fake of OpenAI's API on a loopback port. `start` and `stop` may be called in any order and repeatedly.

    `token_delay_s` is the pause after each event of a stream.
    """

    def __init__(self, token_delay_s: float = 0.0) -> None:
        self._token_delay_s = token_delay_s
        self._running: _Running | None = None

    def start(self) -> str:
        """The base URL, such as `http://127.0.0.1:41233/v1`, once the server answers there.

        RuntimeError if it does not come up.
        """
        if self._running is None:
            running = _Running(create_sandbox(self._token_delay_s))
            running.begin()
            self._running = running
        return self._running.base_url

    def stop(self) -> None:
        """Ends the server, open streams too, and waits until it has ended."""
        running, self._running = self._running, None
        if running is not None:
            running.end()


class _Running:
    """One life of the server."""

    def __init__(self, app: ASGIApp) -> None:
        # Bound here and not in the thread: the port is known, and connections queue, before the loop runs.
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._run, name="tollgate-sandbox", daemon=True)

    def begin(self) -> None:
        self._thread.start()
        if not self._server.ready.wait(START_TIMEOUT_S):
            self.end()
            raise RuntimeError("the sandbox did not start")

    def end(self) -> None:
        self._server.should_exit = True
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        # To the operator the sandbox is no second server whose start and end are news. Uvicorn has one logger for all.
        log = logging.getLogger("uvicorn.error")
        log.addFilter(self._is_news)
        try:
            with self._listener:
                self._server.run(sockets=[self._listener])
        finally:
            log.removeFilter(self._is_news)

    def _is_news(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.thread != self._thread.ident


class _Server(uvicorn.Server):
    """Says when it is ready, and does not wait for clients when it stops."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # A reader that stands still would hold the stop for the whole graceful timeout, and uvicorn logs an error then.
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await super().shutdown(sockets)
