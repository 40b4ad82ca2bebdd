"""Answers as they stand on the wire, of small applications behind the server's own protocol."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from proxy.gateway.client import BODY_FOLLOWS, DEPARTURE, OUTPUT
from tests.raw import RawClient
from tests.running import serve, wait_until

Answering = Callable[[Scope, Receive, Send], Awaitable[None]]


def application(answer: Answering) -> Answering:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await receive()
            await answer(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return app


def asked(answer: Answering, request: bytes = b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n") -> bytes:
    """All that a client gets that says that this is its last request."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        serve(application(answer), listener),
        RawClient(listener.getsockname()[1]) as client,
    ):
        client.send(request)
        return client.read_to_end()


def said(status: int, headers: list[tuple[bytes, bytes]], *parts: bytes, **more: Any) -> Answering:
    async def answer(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers} | more)
        for number, part in enumerate(parts, 1):
            await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})

    return answer


def test_who_speaks_http_1_0_gets_no_chunks() -> None:
    request = b"GET / HTTP/1.0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\n%bconnection: close\r\n\r\n"
    assert asked(said(200, [], b"one", b"two", b""), request) == head % b"" + b"onetwo"
    assert asked(said(200, [], b"x" * 300_000, b""), request) == head % b"" + b"x" * 300_000
    sized = said(200, [(b"content-length", b"3")], b"one")
    assert asked(sized, request) == head % b"content-length: 3\r\n" + b"one"


@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize("size", [2, 300_000])
def test_head_and_body_are_the_same_written_together_or_not(size: int, follows: bool) -> None:
    body = b"x" * size
    sized = said(200, [(b"content-length", b"%d" % size)], body, **{BODY_FOLLOWS: follows})
    head = b"HTTP/1.1 200 OK\r\n%bconnection: close\r\n%b\r\n"
    assert asked(sized) == head % (b"content-length: %d\r\n" % size, b"") + body
    chunked = said(200, [], body, b"", **{BODY_FOLLOWS: follows})
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
    assert asked(chunked) == head % (b"", b"transfer-encoding: chunked\r\n") + framed


@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize(
    ("request_line", "status", "body"), [(b"HEAD", 200, b"more"), (b"GET", 204, b""), (b"GET", 304, b"")]
)
def test_what_has_no_body_has_none(request_line: bytes, status: int, body: bytes, follows: bool) -> None:
    request = request_line + b" / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"
    received = asked(said(status, [], body, **{BODY_FOLLOWS: follows}), request)
    assert received.endswith(b"\r\n\r\n")
    assert received.count(b"\r\n\r\n") == 1
    assert b"chunked" not in received


@pytest.mark.parametrize("parts", [(b"123",), (b"12", b"345")])
def test_an_answer_that_is_not_as_long_as_it_says_breaks_off(parts: tuple[bytes, ...]) -> None:
    received = asked(said(200, [(b"content-length", b"4")], *parts))
    assert len(received.partition(b"\r\n\r\n")[2]) < 4


@pytest.mark.parametrize("value", [b"a\r\nx: b", b"a\nb", b"a\rb", b"\x00", b"\x7f"])
def test_a_header_with_more_than_one_line_in_it_is_never_sent(value: bytes) -> None:
    received = asked(said(200, [(b"x-a", value)], b"body"))
    assert value not in received
    assert b"body" not in received


def test_what_an_application_says_out_of_turn_is_its_error() -> None:
    async def answer(_: Scope, __: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError, match=r"http\.response\.body"):
            await send({"type": "http.response.body", "body": b"early"})
        await said(200, [(b"content-length", b"2")], b"ok")(_, __, send)
        with pytest.raises(RuntimeError, match=r"http\.response\.start"):
            await send({"type": "http.response.start", "status": 200, "headers": []})

    assert asked(answer).endswith(b"\r\n\r\nok")


def test_the_middle_of_a_body_may_go_the_shorter_way() -> None:
    async def answer(scope: Scope, _: Receive, send: Send) -> None:
        output = scope["extensions"][OUTPUT]
        assert not output._head
        await send({"type": "http.response.start", "status": 200, "headers": [], BODY_FOLLOWS: True})
        assert not output.is_ready  # its head is still to go out
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        assert output.is_ready
        output.write_data(b"two")
        await send({"type": "http.response.body", "body": b"three", "more_body": False})

    assert asked(answer).endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n")


def test_a_client_that_leaves_is_told_of_once_and_also_to_who_asks_late() -> None:
    told: list[str] = []

    async def answer(scope: Scope, receive: Receive, _: Send) -> None:
        when_gone = scope["extensions"][DEPARTURE]
        when_gone(lambda: told.append("first"))
        when_gone(lambda: told.append("instead"))
        assert (await receive())["type"] == "http.disconnect"
        when_gone(lambda: told.append("late"))
        assert not scope["extensions"][OUTPUT].is_ready

    with socket.create_server(("127.0.0.1", 0)) as listener, serve(application(answer), listener):
        with RawClient(listener.getsockname()[1]) as client:
            client.send(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n")
            wait_until(lambda: not told)
        wait_until(lambda: told == ["instead", "late"])
