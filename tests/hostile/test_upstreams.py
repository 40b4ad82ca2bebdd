"""Hostile upstreams, seen from the client, the ledger and the pool at once: what comes of each shape of an answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from proxy.model import Outcome, Settlement, UsageSource
from tests.gateway.test_forward import CHAT, between
from tests.hostile.shapes import NO_ANSWER, OK, PLAIN_ANSWERS, STREAMS, Seen, Shape
from tests.raw import RawClient
from tests.running import Running, wait_until
from tests.scripted import Peer, ScriptedUpstream, answer
from tests.streams import ASK, ASK_STREAM, PLAIN, USAGE

SHAPES = {"no answer": NO_ANSWER, "plain": PLAIN_ANSWERS, "streamed": STREAMS}
GOOD = answer(PLAIN, "content-type: application/json")
LAST = answer(PLAIN, "content-type: application/json", "connection: close")


def plays(peer: Peer) -> None:
    """Answers each request with the shape that its `x-shape` names."""
    while True:
        request = peer.request()
        match request.headers["x-shape"].partition("/"):
            case ("good", _, _):
                peer.send(GOOD)
            case ("last", _, _):
                peer.send(LAST)
                return peer.close()
            case (kind, _, name):
                shape = SHAPES[kind][name]
                peer.send(shape.said)
                if not shape.kept:
                    return shape.then.do(peer)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, ScriptedUpstream, str]]:
    directory = tmp_path_factory.mktemp("hostile")
    with between(directory, default=plays, TOLLGATE_UPSTREAM__CONNECTIONS_MAX="1") as (server, upstream):
        yield server, upstream, server.key()


def ask(server: Running, key: str, shape: str, body: object = ASK) -> Seen:
    with RawClient(server.port) as client:
        client.post(CHAT, key, body, f"x-shape: {shape}", "connection: close")
        return Seen(client.read_to_end())


def settled(server: Running, seen: Seen) -> Settlement:
    """The one settlement of what was seen."""
    wait_until(lambda: server.app.admission.in_flight == 0)
    request_id = dict(seen.headers)[b"x-tollgate-request-id"].decode()
    (only,) = [one for one in server.settlements() if one.id == request_id]
    return only


def cases() -> Iterator[tuple[str, str, bool]]:
    for kind, shapes in SHAPES.items():
        for name in shapes:
            if kind != "plain":
                yield kind, name, True
            if kind != "streamed":
                yield kind, name, False


@pytest.mark.parametrize("kept", [False, True], ids=["fresh", "kept"])
@pytest.mark.parametrize(("kind", "name", "streamed"), list(cases()))
def test_a_hostile_answer_ends_in_one_error_or_one_cut_and_one_settlement(
    pair: tuple[Running, ScriptedUpstream, str], kind: str, name: str, streamed: bool, kept: bool
) -> None:
    server, upstream, key = pair
    shape = SHAPES[kind][name]
    ask(server, key, "good/" if kept else "last/")
    before = len(server.settlements())

    seen = ask(server, key, f"{kind}/{name}", ASK_STREAM if streamed else ASK)
    check_answer(seen, shape)
    check_settlement(settled(server, seen), shape)

    after = ask(server, key, "good/")
    assert (after.status, after.body) == (200, PLAIN)
    first, hostile, next_one = upstream.requests[-3:]
    assert (hostile.connection == first.connection) == kept
    assert (next_one.connection == hostile.connection) == shape.kept
    assert len(server.settlements()) == before + 2
    assert server.app.gateway.draining == 0
    wait_until(lambda: upstream.counts.open <= 1)


def check_answer(seen: Seen, shape: Shape) -> None:
    """One answer that is HTTP: the error in OpenAI's shape, or the upstream's own as far as it came."""
    assert seen.answers == 1
    names = [name for name, _ in seen.headers]
    assert len(names) == len(set(names))
    assert b"set-cookie" not in names
    if not shape.code:
        assert (seen.status, seen.body, seen.whole) == (shape.status, shape.body, shape.whole)
        return
    error = orjson.loads(seen.body)["error"]
    assert (seen.status, seen.whole) == (502, True)
    assert (error["code"], error["type"], error["param"]) == (shape.code, "upstream_error", None)
    assert "upstream" in error["message"].lower()


def check_settlement(one: Settlement, shape: Shape) -> None:
    assert one.outcome is shape.outcome
    assert one.usage_source is shape.source
    assert one.status == (502 if shape.code else shape.status)
    if one.usage_source is UsageSource.REPORTED:
        assert one.usage.total_tokens == USAGE["total_tokens"]
    elif one.usage_source is UsageSource.NONE:
        assert one.usage.total_tokens == 0
    else:
        assert 0 < one.usage.total_tokens < 100


def test_whatever_byte_an_upstream_writes_into_a_header_the_client_gets_one_answer(tmp_path: Path) -> None:
    """The header arrives as it is, or the answer is refused: nothing splits it, nothing is added to it."""

    def writes(peer: Peer) -> None:
        while True:
            where, _, byte = peer.request().headers["x-shape"].partition("/")
            name, value = (bytes([int(byte)]), b"") if where == "name" else (b"", bytes([int(byte)]))
            peer.send(OK + b"x-%ba: b%bset-cookie: c\r\ncontent-length: 2\r\n\r\n{}" % (name, value))

    taken = {"name": bytearray(), "value": bytearray()}
    with between(tmp_path, default=writes) as (server, _):
        key = server.key()
        for where, bytes_taken in taken.items():
            for byte in range(256):
                seen = ask(server, key, f"{where}/{byte}")
                assert seen.answers == 1
                assert seen.whole
                assert b"set-cookie" not in dict(seen.headers)
                if seen.status == 200:
                    given = {
                        name: value for name, value in seen.headers if name.startswith(b"x-") and name[2:3] != b"t"
                    }
                    name, value = (bytes([byte]).lower(), b"") if where == "name" else (b"", bytes([byte]))
                    if byte != ord(":") and byte not in b"tT":
                        assert given == {b"x-%ba" % name: b"b%bset-cookie: c" % value}
                    bytes_taken.append(byte)
                else:
                    assert seen.status == 502
        assert {one.outcome for one in server.settlements()} == {Outcome.COMPLETED, Outcome.UPSTREAM_ERROR}
    tokens = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    assert set(taken["name"]) == {*tokens, ord(":")}
    assert not set(taken["value"]) & {*b"\x00\r\n"}
    assert {*range(0x20, 0x7F), *range(0x80, 0x100)} <= set(taken["value"])


def test_what_an_upstream_says_of_our_own_headers_and_framing_is_dropped(tmp_path: Path) -> None:
    forged = ("x-tollgate-request-id: forged", "connection: keep-alive, content-type, x-hop", "x-hop: 1", "trailer: x")

    def forges(peer: Peer) -> None:
        peer.request()
        peer.send(answer(PLAIN, "content-type: application/json", "upgrade: h2c", "proxy-authenticate: Basic", *forged))

    with between(tmp_path, forges) as (server, _):
        seen = ask(server, server.key(), "x")
    names = [name for name, _ in seen.headers]
    assert sorted(names) == [b"connection", b"content-length", b"content-type", b"x-tollgate-request-id"]
    assert dict(seen.headers)[b"x-tollgate-request-id"].startswith(b"req_")
    assert dict(seen.headers)[b"connection"] == b"close"  # as the client wished


@pytest.mark.parametrize("said", [GOOD, b"HTTP/1.1 100 Continue\r\n\r\n", b"x", OK])
def test_an_answer_before_the_request_is_nobodys(tmp_path: Path, said: bytes) -> None:
    """What comes on a new connection before anything was asked closes it, or is refused; the next request is served."""

    def too_early(peer: Peer) -> None:
        peer.send(said)
        peer.request()  # unless the proxy has closed already
        peer.close()

    with between(tmp_path, too_early, default=plays) as (server, upstream):
        key = server.key()
        seen = ask(server, key, "good/")
        if said is not GOOD:  # which, where it comes just after the request was sent, is as good as any
            assert seen.status == 502
            assert orjson.loads(seen.body)["error"]["type"] == "upstream_error"
        assert ask(server, key, "good/").body == PLAIN
        assert upstream.requests[-1].connection == 1
        assert len(server.settlements(2)) == 2


def test_an_answer_to_half_a_request_stands_and_costs_the_connection(tmp_path: Path) -> None:
    """An upstream may refuse a large body before it has read it."""
    large = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x" * 8_000_000}]}

    def refuses(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer(b'{"error":{"message":"too large"}}', status="413 Content Too Large"))
        peer.stall()

    with between(tmp_path, refuses, default=plays) as (server, upstream):
        key = server.key()
        seen = ask(server, key, "good/", large)
        assert (seen.status, seen.body) == (413, b'{"error":{"message":"too large"}}')
        one = settled(server, seen)
        assert (one.outcome, one.usage_source) == (Outcome.UPSTREAM_ERROR, UsageSource.NONE)
        assert ask(server, key, "good/").body == PLAIN
        assert upstream.requests[-1].connection == 1
