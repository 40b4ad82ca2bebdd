"""What the gateway asks of the server it runs on, beyond ASGI: by names of its own, without which it also works."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

from starlette.types import Receive, Scope

#: The whole body of a request, of so many bytes at most (`proxy.gateway.handle`). Raises `ProxyError`.
ReadBody = Callable[[Scope, Receive, int], Awaitable[bytes]]
Departed = Callable[[], None]
#: Has the first called when the client leaves; returns what ends that.
Watch = Callable[[Departed], Callable[[], object]]

#: Among a scope's `extensions`: the answer's `Output`.
OUTPUT = "tollgate.output"
#: Among a scope's `extensions`: takes what is to be called when the client has left, or None.
DEPARTURE = "tollgate.departure"
#: In `http.response.start`: a body follows at once, so that both can be written together.
BODY_FOLLOWS = "tollgate.body_follows"
#: In `http.disconnect`: the client is there, but its body did not come in time.
TOO_LATE = "tollgate.too_late"
_NONE: Mapping[str, Any] = MappingProxyType({})


class Output(Protocol):
    """Where an answer's body goes, piece by piece, without a call of `send` for each."""

    @property
    def is_ready(self) -> bool:
        """The head is out, and the client takes more at once."""

    def write_data(self, data: bytes) -> None:
        """Bytes of the body; more will follow, by this or by `send`."""


def output_of(scope: Scope) -> Output | None:
    output: Output | None = scope.get("extensions", _NONE).get(OUTPUT)
    return output


def watch_of(scope: Scope, receive: Receive) -> Watch:
    """How to be told that the client of a request has left, whose body was read from `receive` already."""
    when_gone = scope.get("extensions", _NONE).get(DEPARTURE)
    return partial(_ask, receive) if when_gone is None else partial(_register, when_gone)


def _register(when_gone: Callable[[Departed | None], None], departed: Departed) -> Callable[[], object]:
    when_gone(departed)
    return partial(when_gone, None)


def _ask(receive: Receive, departed: Departed) -> Callable[[], object]:
    """On another server, where only waiting tells: in a task for each request."""
    return asyncio.get_running_loop().create_task(_wait(receive, departed)).cancel


async def _wait(receive: Receive, departed: Departed) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    departed()
