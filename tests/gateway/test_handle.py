"""What the proxy refuses by itself, and how: a clear error of OpenAI's shape, no event, nothing sent upstream."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest

from proxy.store import commit, tenants
from tests.gateway.test_forward import CHAT, between, plain
from tests.raw import RawClient
from tests.running import Running, tollgate
from tests.scripted import ScriptedUpstream
from tests.streams import ASK, ASK_STREAM, PLAIN, chunk

Between = tuple[Running, ScriptedUpstream]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Between]:
    variables = {"TOLLGATE_SERVER__BODY_BYTES_MAX": "2048", "TOLLGATE_SERVER__BODY_TIMEOUT_S": "0.3"}
    with between(tmp_path, default=plain(), **variables) as pair:
        yield pair


def refused(answer: httpx.Response, status: int, code: str | None) -> None:
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["code"] == code
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == answer.headers["x-tollgate-request-id"]


def post(server: Running, path: str = CHAT, **given: object) -> httpx.Response:
    return httpx.post(server.url + path, **({"json": ASK} | given))  # type: ignore[arg-type] # httpx checks them


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer tg_unknown"}, {"x-api-key": "tg_unknown"}, {"authorization": "Basic eA=="}],
)
def test_no_key_or_an_unknown_one_is_401_and_reaches_no_upstream(pair: Between, headers: dict[str, str]) -> None:
    server, upstream = pair
    refused(post(server, headers=headers), 401, "invalid_api_key")
    assert (server.settlements(), upstream.requests) == ([], [])


def test_a_key_is_checked_before_the_body_is_read(pair: Between) -> None:
    server, _ = pair
    with RawClient(server.port) as client:
        client.send(b"POST %b HTTP/1.1\r\nhost: t\r\ncontent-length: 2000\r\n\r\n" % CHAT.encode())
        said = client.read_until(b"}}")
        assert said.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close" in said  # a client must not send its next request after a body that nobody reads


def test_a_revoked_key_is_refused_within_a_second(pair: Between) -> None:
    server, _ = pair
    headers = {"x-api-key": server.key()}
    assert post(server, headers=headers).status_code == 200
    with server.app.database.transaction() as connection:
        (key,) = tenants.keys(connection, "user-001")
        tenants.revoke_key(connection, key.id, now_ms=1)
    revoked = time.monotonic()
    while post(server, headers=headers).status_code != 401:
        assert time.monotonic() - revoked < 1


def test_a_disabled_tenant_is_403_within_a_second_and_may_come_back(pair: Between) -> None:
    server, _ = pair
    headers = {"x-api-key": server.key()}
    for active, status in ((False, 403), (True, 200)):
        with server.app.database.transaction() as connection:
            tenants.set_active(connection, "user-001", active=active)
        changed = time.monotonic()
        while post(server, headers=headers).status_code != status:
            assert time.monotonic() - changed < 1


def test_a_model_outside_the_keys_list_is_403(pair: Between) -> None:
    server, upstream = pair
    headers = {"x-api-key": server.key(models=("gpt-4o",))}
    answer = post(server, headers=headers)
    refused(answer, 403, "model_not_allowed")
    assert answer.json()["error"]["param"] == "model"
    assert (server.settlements(), upstream.requests) == ([], [])


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/files", 403, "route_not_allowed"),
        ("GET", "/v1/responses/resp_1", 404, None),
        ("POST", "/v1/realtime/client_secrets", 501, "not_supported"),
        ("POST", "/v1/nope", 404, "unknown_url"),
        ("POST", "/v1/chat/completions/", 400, "invalid_path"),
        ("PUT", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/gpt-4o", 403, "route_not_allowed"),
        ("GET", "/v1/models/..%2ffiles", 400, "invalid_path"),
        ("GET", "/v1/models/%2e%2e/files", 400, "invalid_path"),
        ("GET", "/v1//models", 400, "invalid_path"),
        ("GET", "/v1/chat%2fcompletions", 400, "invalid_path"),
    ],
)
def test_other_routes_are_refused_and_nothing_goes_upstream(
    pair: Between, method: str, path: str, status: int, code: str | None
) -> None:
    server, upstream = pair
    with RawClient(server.port) as client:
        client.send(f"{method} {path} HTTP/1.1\r\nhost: t\r\nx-api-key: {server.key()}\r\n\r\n".encode())
        head, _, body = client.read_until(b"}}").partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert orjson.loads(body)["error"]["code"] == code
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"", None, "invalid_json"),
        (b"{", None, "invalid_json"),
        (b"[]", None, "invalid_json"),
        (b'{"model":"\xff"}', None, "invalid_json"),
        (b"[" * 1500, None, "invalid_json"),
        (b'{"model":7}', "model", "invalid_type"),
        (b'{"model":"a","stream":"yes"}', "stream", "invalid_type"),
        (b'{"model":"a","model":"b"}', "model", "duplicate_field"),
        (b'{"model":"a","\\u006dodel":"b"}', "model", "duplicate_field"),
        (b'{"Model":"a"}', "model", "ambiguous_field"),
    ],
)
def test_a_body_that_cannot_be_metered_is_400_and_names_the_field(
    pair: Between, body: bytes, param: str | None, code: str
) -> None:
    server, upstream = pair
    answer = post(server, json=None, content=body, headers={"x-api-key": server.key()})
    refused(answer, 400, code)
    assert answer.json()["error"]["param"] == param
    assert (server.settlements(), upstream.requests) == ([], [])


def test_a_large_body_is_read_as_any_other_is(tmp_path: Path) -> None:
    words = "x" * 400_000
    with between(tmp_path, default=plain()) as (server, upstream):
        headers = {"x-api-key": server.key(), "content-type": "application/json"}
        body = orjson.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": words}]})
        assert post(server, json=None, content=body, headers=headers).status_code == 200
        assert [one.body for one in upstream.requests] == [body]
        refused(post(server, json=None, content=body[:-1], headers=headers), 400, "invalid_json")
        refused(
            post(server, json=None, content=b'{"Model":"a","x":"%b"}' % words.encode(), headers=headers),
            400,
            "ambiguous_field",
        )
        assert len(server.settlements(1)) == 1


def test_a_body_that_is_announced_too_large_is_413_before_it_is_read(pair: Between) -> None:
    server, _ = pair
    with RawClient(server.port) as client:
        client.post(CHAT, server.key(), b"", "content-length: 2049")
        # Two lengths are no request at all; this one has a single one.
    with RawClient(server.port) as client:
        key = server.key()
        client.send(f"POST {CHAT} HTTP/1.1\r\nhost: t\r\nx-api-key: {key}\r\ncontent-length: 2049\r\n\r\n".encode())
        assert client.read_to_end().startswith(b"HTTP/1.1 413 ")


def test_a_body_of_unknown_length_is_413_as_soon_as_it_is_too_large(pair: Between) -> None:
    server, upstream = pair

    with RawClient(server.port) as client:
        key = server.key()
        client.send(
            f"POST {CHAT} HTTP/1.1\r\nhost: t\r\nx-api-key: {key}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        )
        client.send(chunk(b" " * 512) * 5)  # more is to come
        assert client.read_until(b'"request_too_large"').startswith(b"HTTP/1.1 413 ")
    assert upstream.requests == []


def test_a_body_that_does_not_come_is_408(pair: Between) -> None:
    server, _ = pair
    with RawClient(server.port) as client:
        client.send(
            f"POST {CHAT} HTTP/1.1\r\nhost: t\r\nx-api-key: {server.key()}\r\ncontent-length: 9\r\n\r\n{{".encode()
        )
        assert client.read_to_end().startswith(b"HTTP/1.1 408 ")


def test_a_coded_body_is_415(pair: Between) -> None:
    server, _ = pair
    refused(
        post(server, headers={"x-api-key": server.key(), "content-encoding": "gzip"}),
        415,
        "unsupported_content_encoding",
    )


def test_a_client_that_leaves_while_it_sends_leaves_nothing_behind(pair: Between) -> None:
    server, upstream = pair
    with RawClient(server.port) as client:
        client.send(
            f"POST {CHAT} HTTP/1.1\r\nhost: t\r\nx-api-key: {server.key()}\r\ncontent-length: 9\r\n\r\n{{".encode()
        )
    assert post(server, headers={"x-api-key": server.key()}).status_code == 200
    assert len(server.settlements()) == 1
    assert len(upstream.requests) == 1


def test_a_body_in_pieces_reaches_the_upstream_whole(pair: Between) -> None:
    server, upstream = pair
    body = orjson.dumps(ASK)
    answer = post(
        server, json=None, content=iter([body[:3], body[3:40], body[40:]]), headers={"x-api-key": server.key()}
    )
    assert answer.content == PLAIN
    assert upstream.requests[0].body == body
    assert upstream.requests[0].headers["content-length"] == str(len(body))


def test_an_old_client_is_served_as_well(pair: Between) -> None:
    server, _ = pair
    body = orjson.dumps(ASK)
    with RawClient(server.port) as client:
        head = f"POST {CHAT} HTTP/1.0\r\nx-api-key: {server.key()}\r\ncontent-length: {len(body)}\r\n\r\n"
        client.send(head.encode() + body)
        assert client.read_to_end().endswith(b"\r\n\r\n" + PLAIN)


def test_a_client_that_expects_100_continue_gets_it(pair: Between) -> None:
    server, upstream = pair
    body = orjson.dumps(ASK)
    with RawClient(server.port) as client:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: t\r\nx-api-key: {server.key()}\r\nexpect: 100-continue\r\n"
        client.send(f"{head}content-length: {len(body)}\r\n\r\n".encode())
        client.read_until(b"100 Continue\r\n\r\n")
        client.send(body)
        client.read_until(PLAIN)
    assert "expect" not in upstream.requests[0].headers


def test_while_events_cannot_be_written_new_requests_are_503_and_free_ones_are_served(
    pair: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, upstream = pair
    headers = {"x-api-key": server.key()}

    def full(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(commit, "probe", full)
    server.app.commit.trouble = "disk full"
    answer = post(server, headers=headers)
    refused(answer, 503, "ledger_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert httpx.get(f"{server.url}/readyz").status_code == 503
    assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200
    assert [one.target for one in upstream.requests] == ["/v1/models"]


async def test_160_streams_at_once_start_at_once(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key(), max_retries=0)
        async with client:
            calls: Any = [client.chat.completions.create(**ASK_STREAM) for _ in range(160)]
            streams = await asyncio.gather(*calls)
            assert len(streams) == 160
            for stream in streams:
                assert [chunk async for chunk in stream]
        assert len(server.settlements(160)) == 160
