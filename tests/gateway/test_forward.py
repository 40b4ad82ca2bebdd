"""How a request ends, seen from the client, the upstream and the ledger at once: real sockets on both sides."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import orjson
import pytest

from proxy.model import Outcome, UsageSource
from tests.raw import RawClient, unchunked
from tests.running import Running, tollgate, wait_until
from tests.scripted import Peer, Script, ScriptedUpstream, answer, answers
from tests.streams import (
    ASK,
    ASK_STREAM,
    DONE,
    PLAIN,
    SSE_HEAD,
    STREAM_WITH_USAGE,
    STREAM_WITHOUT,
    USAGE_EVENT,
    chunk,
    text,
)

CHAT = "/v1/chat/completions"
UPSTREAM_KEY = "sk-upstream-key"


@contextmanager
def between(
    directory: Path, *scripts: Script, default: Script = answers, **variables: str
) -> Iterator[tuple[Running, ScriptedUpstream]]:
    """A Tollgate with a scripted upstream behind it."""
    with (
        ScriptedUpstream(*scripts, default=default) as upstream,
        tollgate(directory, OPENAI_API_KEY=UPSTREAM_KEY, OPENAI_BASE_URL=f"{upstream.url}/v1", **variables) as server,
    ):
        yield server, upstream


def streams(*parts: bytes) -> Script:
    """A script that answers each request with a stream in these parts."""

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(SSE_HEAD)
            for part in parts:
                peer.send(chunk(part))
            peer.send(chunk(b""))

    return script


def plain(body: bytes = PLAIN, *headers: str, status: str = "200 OK") -> Script:
    def script(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(answer(body, *(headers or ("content-type: application/json",)), status=status))

    return script


def all_closed(upstream: ScriptedUpstream) -> None:
    wait_until(lambda: upstream.counts.open == 0)


# What reaches whom


def test_a_stream_whose_client_asked_for_usage_is_passed_byte_for_byte(tmp_path: Path) -> None:
    with between(tmp_path, streams(STREAM_WITH_USAGE)) as (server, upstream), RawClient(server.port) as client:
        body = orjson.dumps(ASK_STREAM | {"stream_options": {"include_usage": True}})
        client.post(CHAT, server.key(), body)
        assert unchunked(client.read_until(b"0\r\n\r\n")) == STREAM_WITH_USAGE
        assert upstream.requests[0].body == body
        assert server.settlement().usage.total_tokens == 13


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"include_obfuscation": False}])
def test_a_client_that_did_not_ask_sees_the_stream_it_would_have_had(
    tmp_path: Path, options: dict[str, bool] | None
) -> None:
    with between(tmp_path, streams(STREAM_WITH_USAGE)) as (server, upstream), RawClient(server.port) as client:
        client.post(CHAT, server.key(), ASK_STREAM if options is None else ASK_STREAM | {"stream_options": options})
        assert unchunked(client.read_until(b"0\r\n\r\n")) == STREAM_WITHOUT
        sent = orjson.loads(upstream.requests[0].body)["stream_options"]
        assert sent == (options or {}) | {"include_usage": True}
        event = server.settlement()
        assert (event.usage.total_tokens, event.usage_source) == (13, UsageSource.REPORTED)
        assert (event.response_id, event.usage_path) == ("chatcmpl-1", "usage")


def test_events_reach_the_client_as_they_come(tmp_path: Path) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SSE_HEAD + chunk(text("Hel")))
        peer.wait(go_on)
        peer.send(chunk(text("lo") + DONE) + chunk(b""))

    with between(tmp_path, script) as (server, _), RawClient(server.port) as client:
        client.post(CHAT, server.key(), ASK_STREAM)
        client.read_until(text("Hel"))
        go_on.set()
        assert unchunked(client.read_until(b"0\r\n\r\n")) == text("Hel") + text("lo") + DONE


def test_neither_sides_credentials_reach_the_other(tmp_path: Path) -> None:
    with between(tmp_path, plain()) as (server, upstream), RawClient(server.port) as client:
        key = server.key()
        headers = (f"x-api-key: {key}", f"api-key: {key}", f"cookie: k={key}", "openai-organization: org-x")
        client.post(
            f"{CHAT}?a=b%20c", key, ASK, *headers, "x-custom: kept", "te: trailers", "connection: x-hop", "x-hop: 1"
        )
        seen = client.read_until(PLAIN)
        request = upstream.requests[0]
        assert key.encode() not in request.head
        assert request.target == "/v1/chat/completions?a=b%20c"
        assert request.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
        assert request.headers["x-custom"] == "kept"
        assert {"x-api-key", "api-key", "cookie", "openai-organization", "te", "x-hop"}.isdisjoint(request.headers)
        assert request.body == orjson.dumps(ASK)
        assert UPSTREAM_KEY.encode() not in seen


def test_the_upstreams_headers_come_through_once_and_framing_is_our_own(tmp_path: Path) -> None:
    headers = ("content-type: application/json", "date: Thu, 01 Jan 1970 00:00:00 GMT", "server: up", "keep-alive: 5")
    script = plain(PLAIN, *headers, "x-request-id: req_up", "set-cookie: a=1", "set-cookie: b=2")
    with between(tmp_path, script) as (server, _), RawClient(server.port) as client:
        client.post(CHAT, server.key(), ASK)
        head = client.read_until(PLAIN).partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        names = [line.partition(":")[0] for line in head]
        assert names.count("set-cookie") == 2
        for name in ("content-type", "date", "server", "content-length", "x-request-id", "x-tollgate-request-id"):
            assert names.count(name) == 1
        assert "x-request-id: req_up" in head
        assert {"keep-alive", "transfer-encoding"}.isdisjoint(names)


def test_a_models_id_stays_as_the_client_wrote_it(tmp_path: Path) -> None:
    with between(tmp_path, plain(b"{}")) as (server, upstream):
        for path in ("/v1/models/org%2Fft:x", "/v1/models/org/model", "/v1/models?limit=2"):
            assert httpx.get(server.url + path, headers={"x-api-key": server.key()}).status_code == 200
        assert [one.target for one in upstream.requests] == [
            "/v1/models/org%2Fft:x",
            "/v1/models/org/model",
            "/v1/models?limit=2",
        ]
        assert server.settlements() == []


# Endings


def test_the_last_event_waits_until_the_settlement_is_on_disk(tmp_path: Path) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SSE_HEAD + chunk(text("Hello")))
        peer.wait(go_on)
        peer.send(chunk(USAGE_EVENT + DONE))
        peer.stall()  # the end of the body does not come; [DONE] is the last word all the same

    with between(tmp_path, script) as (server, _), RawClient(server.port) as client:
        key = server.key()
        with server.app.database.transaction():  # nobody else can commit now
            client.post(CHAT, key, ASK_STREAM)
            client.read_until(text("Hello"))
            go_on.set()
            assert client.is_silent(0.2)
        client.read_until(DONE)
        assert server.settlement().outcome is Outcome.COMPLETED


def test_a_plain_answers_last_bytes_wait_as_well(tmp_path: Path) -> None:
    with between(tmp_path, plain()) as (server, _), RawClient(server.port) as client:
        key = server.key()
        with server.app.database.transaction():
            client.post(CHAT, key, ASK)
            assert client.is_silent(0.3)  # nor does its head come alone, since its body was there with it
        client.read_until(PLAIN)


def test_a_client_that_closes_at_done_has_had_its_answer(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SSE_HEAD + chunk(STREAM_WITH_USAGE))
        peer.stall()  # the end of the body does not come

    with between(tmp_path, script, TOLLGATE_UPSTREAM__DRAIN_TIMEOUT_S="0.3") as (server, upstream):
        with RawClient(server.port) as client:
            client.post(CHAT, server.key(), ASK_STREAM)
            client.read_until(b"[DONE]")
        event = server.settlement()
        assert (event.outcome, event.usage.total_tokens) == (Outcome.COMPLETED, 13)
        all_closed(upstream)


@pytest.mark.parametrize(
    ("body", "content_type", "source", "total"),
    [
        (PLAIN, "application/json", UsageSource.REPORTED, 13),
        (b"\n\n  \n" + PLAIN, "application/json", UsageSource.REPORTED, 13),
        (STREAM_WITH_USAGE.removesuffix(DONE), "text/event-stream", UsageSource.REPORTED, 13),
        (b"<html>oops</html>", "text/html", UsageSource.NONE, 0),
        (b'{"usage": 7', "application/json", UsageSource.NONE, 0),
        (b"", "application/json", UsageSource.NONE, 0),
    ],
)
def test_an_answer_of_another_kind_than_asked_for_passes_and_is_settled(
    tmp_path: Path, body: bytes, content_type: str, source: UsageSource, total: int
) -> None:
    with between(tmp_path, plain(body, f"content-type: {content_type}")) as (server, _):
        asked = ASK_STREAM | {"stream_options": {"include_usage": True}}
        seen = httpx.post(server.url + CHAT, json=asked, headers={"x-api-key": server.key()})
        assert seen.content == body
        event = server.settlement()
        assert (event.outcome, event.usage_source, event.usage.total_tokens) == (Outcome.COMPLETED, source, total)


def test_an_error_inside_a_stream_is_an_upstream_error(tmp_path: Path) -> None:
    with between(tmp_path, streams(text("Hel"), b'data: {"error":{"message":"overloaded"}}\n\n')) as (server, _):
        seen = httpx.post(server.url + CHAT, json=ASK_STREAM, headers={"x-api-key": server.key()})
        assert b"overloaded" in seen.content
        event = server.settlement()
        assert (event.outcome, event.status) == (Outcome.UPSTREAM_ERROR, 200)


def test_a_repeated_request_that_the_upstream_answers_from_its_cache_is_billed_once(tmp_path: Path) -> None:
    with between(tmp_path, default=plain()) as (server, upstream):
        key, other = server.key(), server.key("user-002")
        for secret, idempotency_key in ((key, "a"), (key, "a"), (other, "a"), (key, "")):
            headers = {"x-api-key": secret} | ({"idempotency-key": idempotency_key} if idempotency_key else {})
            assert httpx.post(server.url + CHAT, json=ASK, headers=headers).content == PLAIN
        # The same response to another tenant, and to a request that claims no repetition, is another one.
        assert [event.subject for event in server.settlements(3)] == ["user-001", "user-002", "user-001"]
        assert sum(line.requests for line in server.usage()) == 3
        sent = [request.headers.get("idempotency-key") for request in upstream.requests]
        assert sent[0] == sent[1] != sent[2]  # an upstream must not take one tenant's for another's
        assert sent[3] is None


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_breaks_off_stays_visibly_broken(tmp_path: Path, streamed: bool) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SSE_HEAD + chunk(text("Hel")) if streamed else answer(PLAIN)[:-5])
        peer.close()

    with between(tmp_path, script) as (server, _), RawClient(server.port) as client:
        client.post(CHAT, server.key(), ASK_STREAM if streamed else ASK)
        seen = client.read_to_end()
        assert seen.endswith(text("Hel") + b"\r\n" if streamed else PLAIN[:-5])
        event = server.settlement()
        assert (event.outcome, event.usage_source) == (Outcome.TRUNCATED, UsageSource.ESTIMATED)
        assert event.usage.prompt_tokens > 0
        assert event.usage.completion_tokens > 0


def test_the_last_event_counts_although_its_end_is_missing(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SSE_HEAD + chunk(text("Hel")) + chunk(USAGE_EVENT[:-1]))
        peer.close()

    with between(tmp_path, script) as (server, _), RawClient(server.port) as client:
        client.post(CHAT, server.key(), ASK_STREAM | {"stream_options": {"include_usage": True}})
        client.read_to_end()
        event = server.settlement()
    assert (event.outcome, event.usage_source) == (Outcome.TRUNCATED, UsageSource.REPORTED)
    assert event.usage.total_tokens > 0


def test_an_upstream_that_is_not_there_is_a_502_of_openais_shape(tmp_path: Path) -> None:
    with ScriptedUpstream() as gone:
        url = gone.url
    with tollgate(tmp_path, OPENAI_API_KEY=UPSTREAM_KEY, OPENAI_BASE_URL=f"{url}/v1") as server:
        seen = httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": server.key()})
        assert (seen.status_code, seen.json()["error"]["code"]) == (502, "upstream_unreachable")
        event = server.settlement()
        assert (event.status, event.outcome, event.usage.total_tokens) == (502, Outcome.UPSTREAM_ERROR, 0)


def test_an_upstream_that_hangs_up_without_an_answer_is_a_502(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.reset()

    with between(tmp_path, script) as (server, upstream):
        seen = httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": server.key()})
        assert (seen.status_code, seen.json()["error"]["code"]) == (502, "upstream_connection_broken")
        assert len(upstream.requests) == 1
        assert server.settlement().outcome is Outcome.UPSTREAM_ERROR


def test_an_upstream_that_says_nothing_is_a_504(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.stall()

    with between(tmp_path, script, TOLLGATE_UPSTREAM__FIRST_BYTE_TIMEOUT_S="0.2") as (server, upstream):
        seen = httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": server.key()})
        assert (seen.status_code, seen.json()["error"]["code"]) == (504, "upstream_timeout")
        event = server.settlement()
        assert (event.status, event.outcome) == (504, Outcome.TIMEOUT)
        all_closed(upstream)


def test_an_upstream_that_stops_in_mid_stream_times_out(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SSE_HEAD + chunk(text("Hel")))
        peer.stall()

    with between(tmp_path, script, TOLLGATE_UPSTREAM__BETWEEN_BYTES_TIMEOUT_S="0.2") as (server, upstream):
        with RawClient(server.port) as client:
            client.post(CHAT, server.key(), ASK_STREAM)
            assert not client.read_to_end().endswith(b"0\r\n\r\n")
        assert server.settlement().outcome is Outcome.TIMEOUT
        all_closed(upstream)


def test_the_upstreams_401_is_not_the_tenants(tmp_path: Path) -> None:
    body = b'{"error":{"message":"Incorrect API key provided: sk-up**key"}}'
    with between(tmp_path, plain(body, status="401 Unauthorized")) as (server, _):
        seen = httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": server.key()})
        assert (seen.status_code, seen.json()["error"]["code"]) == (502, "upstream_key_refused")
        assert b"sk-up" not in seen.content
        assert server.settlement().status == 502


@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "429 Too Many Requests", "500 No", "529 Busy"])
def test_other_refusals_of_the_upstream_come_through_as_they_are(tmp_path: Path, status: str) -> None:
    body = b'{"error":{"message":"no"},"usage":{"prompt_tokens":5,"completion_tokens":5,"total_tokens":10}}'
    with between(tmp_path, plain(body, "retry-after: 7", status=status)) as (server, _):
        seen = httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": server.key()})
        assert (seen.status_code, seen.content, seen.headers["retry-after"]) == (int(status[:3]), body, "7")
        event = server.settlement()
        assert (event.status, event.outcome) == (int(status[:3]), Outcome.UPSTREAM_ERROR)
        assert event.usage.total_tokens == 0
