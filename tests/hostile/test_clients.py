"""Hostile clients, seen from the client, the upstream, the ledger and another tenant at once."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest

from proxy.model import Outcome
from proxy.web import protocol
from tests.gateway.test_forward import CHAT, UPSTREAM_KEY, between, plain
from tests.hostile import attacks
from tests.hostile.attacks import BODIES, BODY, FRAMES, HEADS, ODD_BODIES, PATHS, SMUGGLED, TRICKS, Attack, post
from tests.hostile.shapes import Seen
from tests.raw import RawClient
from tests.running import Running, wait_until
from tests.scripted import Peer, ScriptedUpstream, answer
from tests.streams import ASK, PLAIN, chunk

TABLES = {"frame": FRAMES, "head": HEADS, "path": PATHS, "body": BODIES}
ATTACKS = {f"{kind}: {name}": one for kind, table in TABLES.items() for name, one in table.items()}


class Gate:
    """A Tollgate, its upstream, an attacker with a key, and another tenant."""

    def __init__(self, server: Running, upstream: ScriptedUpstream) -> None:
        self.server = server
        self.upstream = upstream
        self.key = server.key("attacker").encode()
        self._other = server.key("other")

    def client(self) -> RawClient:
        return RawClient(self.server.port)

    def said(self, template: bytes) -> bytes:
        return template.replace(b"KEY", self.key)

    def ask(self, template: bytes, until: bytes) -> Seen:
        """The answer to a request, read up to these bytes, or to the end where the server closes."""
        with self.client() as client:
            client.send(self.said(template))
            if b"connection: close" in client.read_until(until):
                client.read_to_end()
            return Seen(client.received)

    def check_others(self) -> None:
        """Nothing is left over, and another tenant's request is served."""
        wait_until(lambda: self.server.app.admission.in_flight == 0)
        wait_until(lambda: not self.server._server.server_state.connections)
        with self.client() as client:
            client.post(CHAT, self._other, ASK, "connection: close")
            assert Seen(client.read_to_end()).body == PLAIN


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    variables = {
        "TOLLGATE_SERVER__BODY_BYTES_MAX": str(attacks.BODY_BYTES_MAX),
        "TOLLGATE_SERVER__BODY_TIMEOUT_S": "0.5",
        "TOLLGATE_SERVER__HEAD_TIMEOUT_S": "0.5",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "_SWEEP_S", 0.05)
        with between(tmp_path_factory.mktemp("hostile"), default=plain(), **variables) as (server, upstream):
            yield Gate(server, upstream)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_with_its_reason_and_reaches_nobody(gate: Gate, name: str) -> None:
    attack = ATTACKS[name]
    requests, settlements = len(gate.upstream.requests), len(gate.server.settlements())

    check_refusal(gate.ask(attack.said, b"}}"), attack)
    gate.check_others()

    (good,) = gate.upstream.requests[requests:]
    assert good.body == orjson.dumps(ASK)
    assert [one.subject for one in gate.server.settlements()[settlements:]] == ["other"]


def check_refusal(seen: Seen, attack: Attack) -> None:
    assert (seen.answers, seen.whole, seen.status) == (1, True, attack.status), seen.body
    error = orjson.loads(seen.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", attack.code)
    assert attack.word in error["message"]
    headers = dict(seen.headers)
    assert len(headers) == len(seen.headers)
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-tollgate-request-id"].startswith(b"req_")


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_is_served_as_the_request_that_it_is(gate: Gate, name: str) -> None:
    trick = TRICKS[name]
    requests, settlements = len(gate.upstream.requests), len(gate.server.settlements())

    seen = gate.ask(trick.said, PLAIN)
    assert (seen.answers, seen.status, seen.body) == (1, 200, PLAIN)
    gate.check_others()

    (seen_upstream, _) = gate.upstream.requests[requests:]
    assert (seen_upstream.method, seen_upstream.target, seen_upstream.body) == ("POST", trick.target, trick.body)
    assert seen_upstream.headers == trick.fields | {
        "host": f"127.0.0.1:{gate.upstream.port}",
        "accept-encoding": "identity",
        "authorization": f"Bearer {UPSTREAM_KEY}",
        "content-length": str(len(trick.body)),
    }
    assert seen_upstream.head.count(b"\r\n") == len(seen_upstream.headers) + 2
    assert gate.key not in seen_upstream.head
    first, _ = gate.server.settlements()[settlements:]
    assert (first.subject, first.requested_model, first.outcome) == ("attacker", "gpt-4o-mini", Outcome.COMPLETED)


@pytest.mark.parametrize("name", ODD_BODIES)
def test_what_is_metered_is_what_every_reader_sees(gate: Gate, name: str) -> None:
    body = ODD_BODIES[name]
    settlements = len(gate.server.settlements())
    assert gate.ask(attacks.sized(body), PLAIN).status == 200
    (one,) = gate.server.settlements()[settlements:]
    sent = gate.upstream.requests[-1].body
    assert sent == body
    for read in (json.loads, first_wins, without_case):
        assert read(sent)["model"] == one.requested_model == "gpt-4o-mini"


def first_wins(document: bytes) -> dict[str, object]:
    return json.loads(document, object_pairs_hook=lambda pairs: dict(reversed(pairs)))  # type: ignore[no-any-return] # one


def without_case(document: bytes) -> dict[str, object]:
    def folded(pairs: list[tuple[str, object]]) -> dict[str, object]:
        return {name.casefold(): value for name, value in pairs}

    return json.loads(document, object_pairs_hook=folded)  # type: ignore[no-any-return] # an object


def test_a_body_that_would_take_gigabytes_to_read_is_413(tmp_path: Path) -> None:
    with between(tmp_path, default=plain()) as (server, upstream):
        heavy = b'{"model":"m","messages":[%b[]]}' % (b"[]," * 5_000_000)
        check_refusal(
            Gate(server, upstream).ask(attacks.sized(heavy), b"}}"), Attack(b"", 413, "request_too_large", "too many")
        )
        assert upstream.requests == []


# Slow ones


def trickle(client: RawClient, data: bytes) -> None:
    """A byte now and then, until the server has had enough."""
    for at in range(len(data)):
        if not client.is_silent(0.02):
            return
        client.send(data[at : at + 1])


@pytest.mark.parametrize("whole", ["head", "body"])
def test_what_trickles_in_is_408(gate: Gate, whole: str) -> None:
    said = gate.said(attacks.sized(b" " * 1_000))
    at_once = len(said) - 1_000 if whole == "body" else 0
    with gate.client() as client:
        client.send(said[:at_once])
        trickle(client, said[at_once:])
        check_refusal(Seen(client.read_to_end()), Attack(b"", 408, "request_timeout", "0.5 s"))
    gate.check_others()


def test_half_open_connections_keep_nobody_else_from_being_served(gate: Gate) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(gate.client()) for _ in range(300)]
        for number, client in enumerate(clients):
            client.send(gate.said(attacks.sized(BODY))[: number % 150])
        with gate.client() as client:
            client.post(CHAT, gate.key.decode(), ASK)
            client.read_until(PLAIN)
        for number, client in enumerate(clients):
            assert (b"HTTP/1.1 408 " in client.read_to_end()) == (number % 150 > 0)
    gate.check_others()


def test_many_that_send_endless_bodies_keep_nobody_else_from_being_served(gate: Gate) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(gate.client()) for _ in range(50)]
        for client in clients:
            client.send(gate.said(post(b"transfer-encoding: chunked", body=b"")))
        for client in clients:
            client.send(chunk(b" " * 200_000))
        with gate.client() as client:
            client.post(CHAT, gate.key.decode(), ASK)
            client.read_until(PLAIN)
        for client in clients:
            client.send(chunk(b" " * 200_000))
            assert client.read_to_end().startswith(b"HTTP/1.1 4")  # 413; or 408, where that was sooner
    gate.check_others()


# Those that leave


@pytest.mark.parametrize("abruptly", [False, True])
@pytest.mark.parametrize("part", [1, 60, len(attacks.sized(BODY)) - 5])
def test_one_that_leaves_while_it_sends_leaves_no_settlement(gate: Gate, part: int, abruptly: bool) -> None:
    requests, settlements = len(gate.upstream.requests), len(gate.server.settlements())
    with gate.client() as client:
        client.send(gate.said(attacks.sized(BODY))[:part])
        if abruptly:
            client.reset()
    gate.check_others()
    assert len(gate.upstream.requests) == requests + 1
    assert [one.subject for one in gate.server.settlements()[settlements:]] == ["other"]


def test_one_that_closes_its_half_of_the_connection_has_left(tmp_path: Path) -> None:
    go_on = threading.Event()

    def waits(peer: Peer) -> None:
        peer.request()
        peer.wait(go_on)
        peer.send(answer(PLAIN, "content-type: application/json"))

    with between(tmp_path, waits, default=plain()) as (server, upstream):
        gate = Gate(server, upstream)
        with gate.client() as client:
            client.send(gate.said(attacks.sized(BODY)))
            wait_until(lambda: len(upstream.requests) == 1)
            client._sock.shutdown(socket.SHUT_WR)
            wait_until(lambda: server.app.gateway.draining == 1)
            go_on.set()
            assert client.read_to_end() == b""
        assert server.settlement().outcome is Outcome.CLIENT_DISCONNECTED
        gate.check_others()


# Those that are in a hurry


def test_requests_of_two_tenants_on_one_connection_are_answered_in_order_each_on_its_account(tmp_path: Path) -> None:
    """What a proxy in front does, that sends the requests of all its users over a few connections."""

    def echoes(peer: Peer) -> None:
        while True:
            body = orjson.loads(peer.request().body)
            peer.send(answer(PLAIN.replace(b"chatcmpl-1", body["model"].encode()), "content-type: application/json"))

    with between(tmp_path, default=echoes) as (server, _):
        keys = {name: server.key(name) for name in ("first", "second")} | {"nobody": "tg_x"}
        order = ["first", "second", "nobody", "second", "first"]
        with RawClient(server.port) as client:
            for name in order:
                asked = attacks.sized(orjson.dumps(ASK | {"model": name}))
                client.send(asked.replace(b"KEY", keys[name].encode()))
            client.send(SMUGGLED + b"BAD \r\n\r\n")
            received = client.read_to_end()
        statuses = re.findall(rb"HTTP/1.1 (\d+) ", received)
        assert statuses == [b"200", b"200", b"401", b"200", b"200", b"401", b"400"]
        told = [one for one in received.replace(b'"', b" ").split() if one in (b"first", b"second")]
        assert told == [name.encode() for name in order if name != "nobody"]
        settled = [(one.subject, one.requested_model) for one in server.settlements(4)]
        assert settled == [(name, name) for name in order if name != "nobody"]


def test_a_flood_of_requests_on_one_connection_is_served_up_to_a_bound(gate: Gate) -> None:
    settlements = len(gate.server.settlements())
    with gate.client() as client:
        client.send(gate.said(attacks.sized(BODY)) * 500)
        received = client.read_to_end()
    served = received.count(b"HTTP/1.1 200 OK")
    assert 1 <= served < 500
    assert received.count(b"HTTP/1.1 ") == served + 1
    assert b"Wait for an answer" in received
    gate.check_others()
    assert len(gate.server.settlements()) == settlements + served + 1
