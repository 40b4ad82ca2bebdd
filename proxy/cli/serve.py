"""`tollgate serve`: the server, its logging and its end."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import sqlite3
import sys
from importlib.util import find_spec
from types import FrameType
from typing import Annotated, NoReturn

import typer
import uvicorn

from proxy import __version__
from proxy.app import App, create_app
from proxy.cli.opening import open_store
from proxy.errors import ConfigurationError, TollgateError
from proxy.settings import Settings

_BACKLOG = 4096
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: Uvicorn says this of an answer that broke off upstream and is passed on just so. The gateway logs it with the reason.
_TRUNCATED = "ASGI callable returned without completing response."
_DEMO = """A demo tenant was made. Its key is shown only now; try it:

  curl {url}/v1/chat/completions \\
    -H 'Authorization: Bearer {key}' \\
    -H 'Content-Type: application/json' \\
    -d '{{"model": "gpt-4o-mini", "messages": [{{"role": "user", "content": "Hello"}}]}}'
"""
#: An address that this machine does not have (`localhost` is often ::1 too, where IPv6 is off): others may do.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def serve(
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Address to listen on, instead of the setting's.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on, instead of the setting's; 0: a free one.")
    ] = None,
) -> None:
    """Run the proxy."""
    settings, _ = open_store()
    given = {"host": host, "port": port}
    run(settings.model_copy(update={name: value for name, value in given.items() if value is not None}))


def run(settings: Settings) -> NoReturn:
    """Serve until SIGINT or SIGTERM, then exit with 0. Raises `TollgateError` or `OSError` where it cannot start."""
    start = _LogFilter()
    _set_up_logging(settings.log_level, start)
    for number in (signal.SIGINT, signal.SIGTERM):
        # Uvicorn stops gracefully at a signal, and then raises it once more for whoever listened before.
        signal.signal(number, _leave)
    # First of all: a start that fails for its port must not have made the demo key, which is shown only once.
    listeners = listen(settings.host, settings.port)
    app = create_app(settings)
    server = _Server(_server_config(app, settings), start, app)
    try:
        server.run(sockets=listeners)
    except SystemExit:
        if start.failure is not None:
            raise start.failure from None
        raise
    except KeyboardInterrupt:
        pass
    sys.exit(0)


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
        raise OSError(f"cannot listen on {_authority(host, port)}: {error.strerror or error}") from None
    return bound


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    def __init__(self, config: uvicorn.Config, start: _LogFilter, app: App) -> None:
        super().__init__(config)
        self._start = start
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            self._start.over = True
            url = f"http://{_authority(self.config.host, sockets[0].getsockname()[1])}"
            typer.echo(f"Tollgate {__version__} listens on {url}", err=True)
            _introduce(self._app, url)


class _LogFilter(logging.Filter):
    """Drops what is meant to happen, and keeps why a start failed, which is told in one line instead."""

    def __init__(self) -> None:
        super().__init__()
        self.over = False
        self.failure: Exception | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        # A request that outlasted the grace period is cancelled; uvicorn says so, and then shows each one's traceback.
        if record.msg == _TRUNCATED or isinstance(error, asyncio.CancelledError):
            return False
        if self.over or record.levelno < logging.ERROR:
            return True
        error = error or ConfigurationError(record.getMessage())
        if not isinstance(error, TollgateError | OSError | sqlite3.Error):
            return True  # a fault of ours: its traceback is wanted
        self.failure = self.failure or error
        return False


def _set_up_logging(level: str, start: _LogFilter) -> None:
    logging.basicConfig(stream=sys.stderr, level=level.upper(), format=_LOG_FORMAT)
    quiet = max(logging.WARNING, logging.getLogger().level)
    for name in ("uvicorn", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(quiet)
    logging.getLogger("uvicorn.error").addFilter(start)


def _introduce(app: App, url: str) -> None:
    """What a newcomer needs to know, where the sandbox answers."""
    if app.settings.uses_sandbox:
        typer.echo(
            "No upstream key is set (OPENAI_API_KEY): the embedded sandbox answers, with made-up text.", err=True
        )
    if app.demo_key:
        typer.echo(_DEMO.format(url=url, key=app.demo_key), err=True)


def _server_config(app: App, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop" if find_spec("uvloop") else "auto",
        http="httptools",
        ws="none",
        lifespan="on",
        workers=1,  # else uvicorn reads WEB_CONCURRENCY, and would fail at nonsense in it
        proxy_headers=False,  # nobody reads the client's address, and the wrapper costs a call for each request
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=settings.server.keep_alive_s,
        timeout_graceful_shutdown=settings.server.shutdown_grace_s,
        backlog=_BACKLOG,
    )


def _bind(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
