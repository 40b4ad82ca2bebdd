from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send

from proxy.errors import ConfigurationError
from proxy.web.server import inherited, listen
from tests.running import serve


def test_every_address_of_a_name_gets_the_same_port() -> None:
    bound = listen("localhost", 0)
    ports = {sock.getsockname()[1] for sock in bound}
    for sock in bound:
        sock.close()
    assert len(ports) == 1
    assert ports != {0}


# Sockets that are handed over


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.set_inheritable(True)
        yield made


@pytest.mark.parametrize("pid", [{}, {"LISTEN_PID": str(os.getpid())}], ids=["for anyone", "for us"])
def test_a_socket_that_was_handed_over_is_taken_and_its_variables_are_taken_away(
    listener: socket.socket, pid: dict[str, str]
) -> None:
    port = listener.getsockname()[1]
    environment = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "http", "LISTEN_PIDFDID": "7", "HOME": "/", **pid}
    (taken,) = inherited(environment, first=listener.detach())
    with taken:
        assert taken.getsockname()[1] == port
        assert not taken.get_inheritable()
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "0"},
        {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getppid())},
    ],
    ids=["nothing", "no number", "none", "for another process"],
)
def test_what_was_not_handed_to_us_is_left_alone(listener: socket.socket, variables: dict[str, str]) -> None:
    assert inherited(variables, first=listener.fileno()) == []
    assert listener.get_inheritable()
    assert not variables


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"LISTEN_FDS": "one"}, "LISTEN_FDS: 'one' is not a number"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS: '-1' is not a number"),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "me"}, "LISTEN_PID: 'me' is not a number"),
    ],
)
def test_a_value_that_is_no_number_is_named(variables: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        inherited(variables)
    assert str(raised.value) == words


def connected(listener: socket.socket) -> socket.socket:
    with socket.create_connection(listener.getsockname()):
        return listener.accept()[0]


@pytest.mark.parametrize(
    "made",
    [
        lambda _: socket.socket(type=socket.SOCK_DGRAM),
        lambda _: socket.socket(),
        lambda _: socket.socket(socket.AF_UNIX),
        connected,
    ],
    ids=["datagrams", "not listening", "unix", "connected"],
)
def test_a_descriptor_that_is_no_listening_socket_is_named(listener: socket.socket, made: object) -> None:
    assert callable(made)
    with made(listener) as other, pytest.raises(ConfigurationError) as raised:
        inherited({"LISTEN_FDS": "1"}, first=other.fileno())
    assert str(raised.value).startswith("LISTEN_FDS: descriptor ")
    assert str(raised.value).endswith(" is not a TCP socket that listens")


def test_a_descriptor_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^LISTEN_FDS: descriptor 9999: Bad file descriptor$"):
        inherited({"LISTEN_FDS": "1"}, first=9999)


# Who connects while others are answered

_TURN_S = 0.005
_COMING = 64
_GET = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"


async def slowly(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that keeps the loop busy, as hundreds of requests at once do."""
    if scope["type"] == "http":
        time.sleep(_TURN_S)  # noqa: ASYNC251 (that is the point)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
    else:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


async def test_who_connects_is_not_held_up_for_a_turn_of_the_loop_for_each_one_before() -> None:
    (listener,) = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    with serve(slowly, listener):
        busy = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for _, writer in busy:
            writer.write(_GET)
        coming = [await asyncio.open_connection("127.0.0.1", port) for _ in range(_COMING)]
        answers = 0

        async def ask_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal answers
            while True:
                await reader.readuntil(b"\r\n\r\n")
                answers += 1
                writer.write(_GET)

        async def ask_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(_GET)
            await reader.readuntil(b"\r\n\r\n")

        asking = [asyncio.create_task(ask_on(*one)) for one in busy]
        await asyncio.gather(*(ask_once(*one) for one in coming))
        for task in asking:
            task.cancel()
        for _, writer in (*busy, *coming):
            writer.close()
    # In turns of at least four answers each: without help, one of those that come in each.
    assert answers < _COMING
