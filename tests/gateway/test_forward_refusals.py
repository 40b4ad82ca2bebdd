"""An upstream that refuses `stream_options`: the client gets its stream all the same."""

from __future__ import annotations

from pathlib import Path

import httpx
import orjson
import pytest

from proxy.model import Outcome
from tests.gateway.test_forward import CHAT, between, plain, streams
from tests.scripted import Peer, answer
from tests.streams import ASK_STREAM, DONE, text

REFUSAL = b'{"error":{"message":"Unknown parameter: \'stream_options\'.","param":"stream_options"}}'
STREAM = text("Hel") + text("lo") + DONE


@pytest.mark.parametrize("status", ["400 Bad Request", "422 Unprocessable Entity"])
def test_it_is_asked_once_more_without_and_then_remembered(tmp_path: Path, status: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer(REFUSAL, status=status))
        streams(STREAM)(peer)

    with between(tmp_path, script) as (server, upstream):
        body = orjson.dumps(ASK_STREAM)
        for _ in range(2):
            seen = httpx.post(server.url + CHAT, content=body, headers={"x-api-key": server.key()})
            assert (seen.status_code, seen.content) == (200, STREAM)
        assert [b"stream_options" in request.body for request in upstream.requests] == [True, False, False]
        assert upstream.requests[1].body == body
        assert [event.outcome for event in server.settlements(2)] == [Outcome.COMPLETED] * 2


@pytest.mark.parametrize("body", [b'{"error":{"message":"messages is required"}}', b"x" * 100_000, b""])
def test_any_other_refusal_comes_through_whole(tmp_path: Path, body: bytes) -> None:
    with between(tmp_path, default=plain(body, status="400 Bad Request")) as (server, upstream):
        seen = httpx.post(server.url + CHAT, json=ASK_STREAM, headers={"x-api-key": server.key()})
        assert (seen.status_code, seen.content) == (400, body)
        assert len(upstream.requests) == 1
        assert server.settlement().outcome is Outcome.UPSTREAM_ERROR


def test_a_client_that_asked_for_usage_itself_is_told(tmp_path: Path) -> None:
    asked = ASK_STREAM | {"stream_options": {"include_usage": True}}
    with between(tmp_path, default=plain(REFUSAL, status="400 Bad Request")) as (server, upstream):
        seen = httpx.post(server.url + CHAT, json=asked, headers={"x-api-key": server.key()})
        assert (seen.status_code, seen.content) == (400, REFUSAL)
        assert len(upstream.requests) == 1


def test_a_refusal_that_breaks_off_gives_its_connection_back(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer(REFUSAL, status="400 Bad Request")[:-9])
        peer.reset()

    variables = {"TOLLGATE_UPSTREAM__CONNECTIONS_MAX": "1"}
    with between(tmp_path, script, script, default=streams(STREAM), **variables) as (server, _):
        headers = {"x-api-key": server.key()}
        for status in (502, 502, 200):  # with one connection, a leaked one would leave none
            assert httpx.post(server.url + CHAT, json=ASK_STREAM, headers=headers).status_code == status
        outcomes = [event.outcome for event in server.settlements(3)]
        assert outcomes == [Outcome.UPSTREAM_ERROR, Outcome.UPSTREAM_ERROR, Outcome.COMPLETED]


def test_a_request_that_is_refused_either_way_says_nothing_of_other_requests(tmp_path: Path) -> None:
    echo = b'{"error":{"message":"Invalid role: \'stream_options\'"}}'

    def script(peer: Peer) -> None:
        for _ in range(2):
            peer.request()
            peer.send(answer(echo, status="400 Bad Request"))
        streams(STREAM)(peer)

    with between(tmp_path, script) as (server, upstream):
        for status in (400, 200):
            seen = httpx.post(server.url + CHAT, json=ASK_STREAM, headers={"x-api-key": server.key()})
            assert seen.status_code == status
        assert [b"include_usage" in request.body for request in upstream.requests] == [True, False, True]
