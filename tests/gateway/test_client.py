"""How the gateway learns that a client has left: from the server it runs on, and from any other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Message

from proxy.gateway.client import DEPARTURE, OUTPUT, output_of, watch_of


class Client:
    """What it says, when it is told to."""

    def __init__(self) -> None:
        self.says: asyncio.Queue[Message] = asyncio.Queue()
        self.departures = 0

    async def receive(self) -> Message:
        return await self.says.get()

    def departed(self) -> None:
        self.departures += 1


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_where_the_server_tells_it_is_asked_and_nothing_is_received() -> None:
    client = Client()
    registered: list[Callable[[], None] | None] = []
    watch = watch_of({"extensions": {DEPARTURE: registered.append}}, client.receive)
    unwatch = watch(client.departed)
    assert registered == [client.departed]
    unwatch()
    assert registered == [client.departed, None]


async def test_elsewhere_what_the_client_says_is_read_until_it_leaves() -> None:
    client = Client()
    watch_of({}, client.receive)(client.departed)
    client.says.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    await turns()
    assert client.departures == 0
    client.says.put_nowait({"type": "http.disconnect"})
    await turns()
    assert client.departures == 1


async def test_who_does_not_watch_any_more_is_not_told() -> None:
    client = Client()
    unwatch = watch_of({"extensions": {}}, client.receive)(client.departed)
    await turns()
    unwatch()
    client.says.put_nowait({"type": "http.disconnect"})
    await turns()
    assert client.departures == 0


def test_the_shorter_way_out_is_the_servers_or_none() -> None:
    output = object()
    assert output_of({"extensions": {OUTPUT: output}}) is output
    assert output_of({"extensions": {}}) is None
    assert output_of({}) is None
