"""Large answers: read in a thread, heavy ones only as far as is needed, and settled once whatever happens meanwhile."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.gateway.meter import PlainMeter
from proxy.gateway.reading import Reading
from proxy.model import NO_USAGE, Outcome, Usage, UsageSource
from proxy.wire.coding import Identity
from proxy.wire.document import json_object
from proxy.wire.endpoints import ENDPOINTS, Endpoint
from proxy.wire.members import outline
from tests.gateway.test_forward import between
from tests.raw import RawClient
from tests.running import WAIT_S, wait_until
from tests.scripted import Peer, answer
from tests.streams import ASK, PLAIN

CHAT, EMBEDDINGS, IMAGES = (
    next(one for one in ENDPOINTS if one.name == name)
    for name in ("/v1/chat/completions", "/v1/embeddings", "/v1/images/generations")
)
NUMBERS = b"[%b0]" % (b"0.125," * 450_000)
TOLD = b'"model":"e-1","id":"x","usage":{"prompt_tokens":8,"total_tokens":8}'
HEAVY = b'{"data":[{"embedding":%b}],%b}' % (NUMBERS, TOLD)


def read(raw: bytes, endpoint: Endpoint = EMBEDDINGS, shown: list[str] | None = None) -> tuple[Reading, PlainMeter]:
    meter = PlainMeter(Identity(), endpoint, {}, shown=shown)
    for at in range(0, len(raw), 65_536):
        meter.feed(raw[at : at + 65_536])
    meter.finish()
    return meter.reading(), meter


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the documents that were parsed whole."""
    sizes: list[int] = []
    real = json_object

    def counted(data: bytes) -> dict[str, Any] | None:
        sizes.append(len(data))
        return real(data)

    monkeypatch.setattr("proxy.gateway.meter.json_object", counted)
    return sizes


def test_a_heavy_answer_is_read_without_its_lists(parsed: list[int]) -> None:
    reading, _ = read(HEAVY)
    assert (reading.usage, reading.usage_source) == (Usage(uncached_input=8), UsageSource.REPORTED)
    assert (reading.model, reading.response_id) == ("e-1", "x")
    assert parsed == []


@pytest.mark.parametrize(
    ("raw", "endpoint", "shown"),
    [
        (HEAVY[:-1], EMBEDDINGS, None),  # cut short
        (b'{"data":%b}' % NUMBERS, EMBEDDINGS, None),  # it reports nothing
        (HEAVY, IMAGES, None),  # which are counted
        (HEAVY, CHAT, []),  # ids of what it shows are to be remembered
        (b'{"data":["%b"],%b}' % (b"0" * len(NUMBERS), TOLD), EMBEDDINGS, None),  # it is large, and not heavy
    ],
)
def test_it_is_parsed_whole_where_that_is_needed(
    raw: bytes, endpoint: Endpoint, shown: list[str] | None, parsed: list[int]
) -> None:
    read(raw, endpoint, shown)
    assert parsed == [len(raw)]


def test_it_is_large_until_it_was_read(parsed: list[int]) -> None:
    meter = PlainMeter(Identity(), EMBEDDINGS, {})
    meter.feed(PLAIN)
    assert not meter.is_large
    meter.feed(b" " * 1_100_000)
    assert [meter.is_large, meter.reading() is meter.reading(), meter.is_large] == [True, True, False]
    assert parsed == [len(PLAIN) + 1_100_000]


class Held:
    """Reading a heavy answer, held until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.goes_on = threading.Event(), threading.Event()
        self._real = outline
        monkeypatch.setattr("proxy.gateway.meter.outline", self._hold)

    def _hold(self, data: bytes) -> dict[str, Any] | None:
        self.begun.set()
        assert self.goes_on.wait(WAIT_S)
        return self._real(data)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


def heavy(peer: Peer) -> None:
    peer.request()
    peer.send(answer(HEAVY, "content-type: application/json"))
    peer.stall()


def ask(client: RawClient, key: str, held: Held) -> None:
    """Read the answer, all of it but what waits until it is settled."""
    client.post(ROUTE, key, ASKED)
    wait_until(lambda: client.is_silent(0.01) and held.begun.is_set())


ROUTE, ASKED = "/v1/embeddings", {"model": "e-1", "input": "Hello there"}


def test_others_are_served_while_it_is_read(tmp_path: Path, held: Held) -> None:
    with between(tmp_path, heavy) as (server, _), RawClient(server.port) as client:
        key = server.key()
        ask(client, key, held)
        other = httpx.post(f"{server.url}/v1/chat/completions", json=ASK, headers={"x-api-key": key})
        assert other.status_code == 200
        assert [one.endpoint for one in server.settlements(1)] == ["/v1/chat/completions"]
        held.goes_on.set()
        client.read_until(TOLD + b"}")
        one = server.settlements(2)[1]
    assert (one.endpoint, one.outcome, one.usage) == (ROUTE, Outcome.COMPLETED, Usage(uncached_input=8))


def test_a_client_that_leaves_meanwhile_is_billed_what_was_reported(tmp_path: Path, held: Held) -> None:
    with between(tmp_path, heavy) as (server, _), RawClient(server.port) as client:
        ask(client, server.key(), held)
        client.reset()
        wait_until(lambda: server.app.gateway.draining == 1)
        held.goes_on.set()
        one = server.settlement()
        wait_until(lambda: server.app.admission.in_flight == 0)
    assert (one.outcome, one.usage) == (Outcome.CLIENT_DISCONNECTED, Usage(uncached_input=8))


def test_a_server_that_stops_meanwhile_settles_it(tmp_path: Path, held: Held) -> None:
    with between(tmp_path, heavy) as (server, _), RawClient(server.port) as client:
        ask(client, server.key(), held)
        server.stop(grace_s=0)
        time.sleep(0.5)  # in which it is cancelled
        held.goes_on.set()
        one = server.settlement()
    assert (one.outcome, one.usage) == (Outcome.COMPLETED, Usage(uncached_input=8))


def test_an_upstream_that_breaks_off_leaves_one_event(tmp_path: Path) -> None:
    def broken(peer: Peer) -> None:
        peer.request()
        peer.send(answer(HEAVY, "content-type: application/json")[:-1])
        peer.close()

    with between(tmp_path, broken) as (server, _), RawClient(server.port) as client:
        client.post(ROUTE, server.key(), ASKED)
        client.read_to_end()
        one = server.settlement()
    assert (one.outcome, one.usage_source) == (Outcome.TRUNCATED, UsageSource.ESTIMATED)
    assert one.usage != NO_USAGE
