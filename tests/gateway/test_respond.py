from __future__ import annotations

import asyncio
import socket

import orjson
import pytest
from starlette.types import Message

from proxy.errors import InvalidRequest
from proxy.gateway.client import BODY_FOLLOWS
from proxy.gateway.respond import Passthrough


async def test_what_came_goes_on_with_the_requests_id_beside_it() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    answer = Passthrough(send, "req_1")
    assert not answer.started
    await answer.start(203, [(b"x-a", b"1"), (b"x-a", b"2")])
    await answer.data(b"one")
    await answer.finish(answer.last(b"two"))
    assert sent == [
        {
            "type": "http.response.start",
            "status": 203,
            "headers": [(b"x-a", b"1"), (b"x-a", b"2"), (b"x-tollgate-request-id", b"req_1")],
            BODY_FOLLOWS: True,
        },
        {"type": "http.response.body", "body": b"one", "more_body": True},
        {"type": "http.response.body", "body": b"two", "more_body": False},
    ]


async def test_a_head_of_which_nothing_follows_yet_is_shown_alone() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    answer = Passthrough(send, "req_1")
    await answer.flush()
    assert not sent
    await answer.start(200, [])
    assert not sent
    await answer.flush()
    await answer.flush()
    assert sent == [{"type": "http.response.start", "status": 200, "headers": [(b"x-tollgate-request-id", b"req_1")]}]


async def test_a_refusal_has_openais_shape_and_a_request_id() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await Passthrough(send, "req_1").refuse(InvalidRequest("'n' must be 1.", param="n"))
    head, body = sent
    headers = dict(head["headers"])
    assert head["status"] == 400
    assert (headers[b"x-request-id"], headers[b"x-tollgate-request-id"]) == (b"req_1", b"req_1")
    assert int(headers[b"content-length"]) == len(body["body"])
    assert orjson.loads(body["body"])["error"] == {
        "message": "'n' must be 1.",
        "type": "invalid_request_error",
        "param": "n",
        "code": None,
    }


async def test_a_client_whose_socket_is_closed_already_is_no_error_of_ours() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)

        async def send(message: Message) -> None:
            transport.write(message["body"])

        transport.abort()
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="handler is closed"):  # uvloop's way; another loop's would be silence
            transport.write(b"x")
        await Passthrough(send, "req_1").data(b"one")


async def test_any_other_error_of_the_server_is_told() -> None:
    async def send(message: Message) -> None:
        raise RuntimeError("Response content longer than Content-Length")

    with pytest.raises(RuntimeError, match="longer"):
        await Passthrough(send, "req_1").data(b"one")
