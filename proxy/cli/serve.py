"""`tollgate serve`: the server, its logging and its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated, NoReturn

import typer
import uvicorn

from proxy import __version__
from proxy.app import App, create_app
from proxy.cli.opening import open_store
from proxy.cli.workers import READY, Post, has_terminal, leave, supervise
from proxy.errors import ConfigurationError, TollgateError
from proxy.settings import Settings
from proxy.store.database import Database
from proxy.web.files import raise_limit
from proxy.web.server import Server, authority, inherited, listen, listen_apart, server_config

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: Uvicorn says this of an answer that broke off upstream and is passed on just so. The gateway logs it with the reason.
_TRUNCATED = "ASGI callable returned without completing response."
#: New containers until the garbage collector runs: some dozens of requests, and a few megabytes at most.
_COLLECT_AFTER = 10_000
_DEMO = """A demo tenant was made. Its key is shown only now; try it:

  curl {url}/v1/chat/completions \\
    -H 'Authorization: Bearer {key}' \\
    -H 'Content-Type: application/json' \\
    -d '{{"model": "gpt-4o-mini", "messages": [{{"role": "user", "content": "Hello"}}]}}'
"""


def serve(
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Address to listen on, instead of the setting's.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on, instead of the setting's; 0: a free one.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=32, help="Processes that serve, instead of the setting's.")
    ] = None,
) -> None:
    """Run the proxy."""
    settings, _ = open_store()
    given = {"host": host, "port": port, "workers": workers}
    run(settings.model_copy(update={name: value for name, value in given.items() if value is not None}))


def run(settings: Settings) -> NoReturn:
    """Serve until SIGINT or SIGTERM, then exit with 0. Raises `TollgateError` or `OSError` where it cannot start."""
    start = _LogFilter()
    _set_up_logging(settings.log_level, start)
    raise_limit()
    for number in _SIGNALS:
        signal.signal(number, leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something that could be read again
    # First of all: a start that fails for its port must not have made the demo key, which is shown only once.
    handed_over = inherited(os.environ)
    host = str(handed_over[0].getsockname()[0]) if handed_over else settings.host
    is_shared = bool(handed_over)
    if settings.workers == 1:
        _serve(settings, start, handed_over or listen(settings.host, settings.port), host, is_shared=is_shared)
    count = settings.workers
    listeners = [handed_over] * count if handed_over else listen_apart(settings.host, settings.port, count)
    post = supervise(Database(settings.database_url), listeners)
    _serve(settings, start, post.listeners, host, is_shared=is_shared, post=post)


def _serve(
    settings: Settings,
    start: _LogFilter,
    listeners: list[socket.socket],
    host: str,
    *,
    is_shared: bool,
    post: Post | None = None,
) -> NoReturn:
    """In this process, as the only one or in a worker's `post`."""
    app = create_app(settings, None if post is None else post.seat)
    server = _Server(server_config(app, settings.server), start, app, host, is_shared=is_shared, post=post)
    try:
        server.run(sockets=listeners)
    except SystemExit:
        if start.failure is not None:
            raise start.failure from None
        raise
    finally:
        if post is not None:
            post.control.close()
    sys.exit(0)


class _Server(Server):
    """Says where it listens, once it does, and stops at a signal."""

    def __init__(
        self, config: uvicorn.Config, start: _LogFilter, app: App, host: str, *, is_shared: bool, post: Post | None
    ) -> None:
        super().__init__(config, is_shared=is_shared)
        self._post = post
        self._start = start
        self._app = app
        self._host = host
        self._had_terminal = has_terminal()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in _SIGNALS:
            signal.signal(number, self.handle_exit)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        if self._post is not None:
            loop.add_reader(self._post.control, self._obey, self._post.control)
        yield

    def handle_exit(self, _signal: int, _frame: FrameType | None) -> None:
        """Stop. A second signal ends the process where it stands, whatever it hangs in.

        That loses nothing, as `kill -9` does not: what is in flight has left its traces on disk (`proxy.store.holds`).
        """
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self.should_exit = True

    def _obey(self, control: socket.socket) -> None:
        """The supervisor says that it is over, or is over itself. A signal that comes as well is the first one still:
        who stops a service often sends it to all of its processes.
        """
        asyncio.get_running_loop().remove_reader(control)
        self.should_exit = True

    def _reload(self) -> None:
        """Read the file of the settings again. A terminal that was closed says the same, and stops its server."""
        if self._had_terminal and not has_terminal():
            self.handle_exit(signal.SIGHUP, None)
        elif self._app.reload is None:
            log.info("there is nothing to read again: TOLLGATE_CONFIG names no file")
        else:
            self._app.reload.soon()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            self._start.over = True
            _collect_rarely()
            if self._post is not None:
                with suppress(OSError):  # the supervisor is gone, which is noticed in a moment
                    self._post.control.send(READY)
                if not self._post.first:
                    return
            url = f"http://{authority(self._host, sockets[0].getsockname()[1])}"
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


def _collect_rarely() -> None:
    """What the start has made stays: the garbage collector need not walk it again and again, nor run as often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)
