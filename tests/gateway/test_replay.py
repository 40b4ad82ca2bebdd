"""Recorded upstream traffic through the running proxy: what the client sees, and what is in the ledger."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from proxy.model import BUCKETS, Outcome, Settlement, UsageSource
from tests import corpus
from tests.corpus import Exchange
from tests.gateway.test_forward import between
from tests.gateway.test_meter_corpus import expected
from tests.raw import RawClient, unchunked_part
from tests.running import Running
from tests.scripted import Peer, ScriptedUpstream
from tests.streams import DONE, SSE_HEAD, USAGE_EVENT, chunk, text

pytestmark = corpus.needed

#: The recorded endpoints that are served, and the route of each.
ROUTES = ("chat/completions", "completions", "responses", "embeddings")
IN_FLIGHT = 16


def recorded() -> list[Exchange]:
    return [one for one in corpus.exchanges() if one.endpoint in ROUTES and one.content_type is not None]


@pytest.fixture
def replaying(tmp_path: Path) -> Iterator[tuple[Running, ScriptedUpstream]]:
    """A proxy whose upstream sends the recording that the request names in `x-replay: <number>:<way>`."""
    exchanges = recorded()

    def replay(peer: Peer) -> None:
        while True:
            number, _, way = peer.request().headers["x-replay"].partition(":")
            one = exchanges[int(number)]
            body = gzip.compress(one.body) if way == "gzip" else one.body
            assert one.content_type is not None
            coding = b"content-encoding: gzip\r\n" if way == "gzip" else b""
            head = b"HTTP/1.1 %d X\r\ncontent-type: %b\r\n%btransfer-encoding: chunked\r\n\r\n"
            peer.send(head % (one.status, one.content_type, coding))
            cuts = random.Random(int(number))
            at = 0
            while at < len(body):
                size = 1 if way == "bytewise" else cuts.choice([1, 7, 100, 1460, 20_000])
                peer.send(chunk(body[at : at + size]))
                at += size
            peer.send(chunk(b""))

    with between(tmp_path, default=replay) as pair:
        yield pair


def ask(client: httpx.Client, number: int, one: Exchange, way: str) -> tuple[str, bytes]:
    """The id of the request, and the body as it came."""
    options = {"stream_options": {"include_usage": True}} if one.endpoint != "responses" else {}
    asked = {"model": "m", "stream": one.streamed, "messages": [], **(options if one.streamed else {})}
    with client.stream("POST", f"/v1/{one.endpoint}", json=asked, headers={"x-replay": f"{number}:{way}"}) as answer:
        body = b"".join(answer.iter_raw())
    return answer.headers["x-tollgate-request-id"], body


@pytest.mark.parametrize("way", ["cut", "gzip", "bytewise"])
def test_every_recording_reaches_the_client_as_it_is_and_is_billed_as_reported(
    replaying: tuple[Running, ScriptedUpstream], way: str
) -> None:
    server, _ = replaying
    exchanges = recorded()
    # Byte by byte, the largest would take minutes; any size is cut anywhere in the other ways.
    chosen = [n for n, one in enumerate(exchanges) if one.status != 401 and (way != "bytewise" or len(one.body) < 6000)]
    assert len(chosen) > 400
    seen: dict[str, int] = {}
    with (
        httpx.Client(base_url=server.url, headers={"x-api-key": server.key()}, timeout=60) as client,
        ThreadPoolExecutor(IN_FLIGHT) as threads,
    ):
        asked = threads.map(lambda n: (n, *ask(client, n, exchanges[n], way)), chosen)
        for number, request_id, body in asked:
            one = exchanges[number]
            assert (gzip.decompress(body) if way == "gzip" else body) == one.body, one.id
            seen[request_id] = number
    settlements = server.settlements(len(chosen))
    assert {settlement.id for settlement in settlements} == set(seen)
    for settlement in settlements:
        check(settlement, exchanges[seen[settlement.id]])


def check(settlement: Settlement, one: Exchange) -> None:
    usage = settlement.usage
    assert sum(getattr(usage, bucket) for bucket in BUCKETS) == usage.total_tokens
    if one.status >= 400:
        assert (settlement.outcome, usage.total_tokens) == (Outcome.UPSTREAM_ERROR, 0), one.id
        return
    if one.usage is None:
        assert settlement.usage_source is not UsageSource.REPORTED, one.id
        return
    wanted = expected(one.usage)
    assert usage.total_tokens == wanted["total"], one.id
    assert usage.prompt_tokens == wanted["prompt"], one.id
    assert usage.completion_tokens == wanted["completion"], one.id
    assert usage.cached_input == wanted.get("cached", usage.cached_input), one.id
    assert usage.reasoning == wanted.get("reasoning", usage.reasoning), one.id
    assert settlement.model == wanted.get("model", settlement.model), one.id


def test_an_upstream_that_breaks_off_at_any_byte_leaves_one_event_and_a_visibly_broken_answer(tmp_path: Path) -> None:
    stream = text("Hel") + text("lo", usage=None) + USAGE_EVENT + DONE
    whole = SSE_HEAD + chunk(stream) + chunk(b"")
    body_at = whole.index(b"\r\n\r\n") + 4
    data_at = whole.index(stream)

    def cut_off(peer: Peer) -> None:
        cut = int(peer.request().headers["x-cut"])
        peer.send(whole[:cut])
        peer.close()

    asked = {"model": "m", "stream": True, "stream_options": {"include_usage": True}}
    with between(tmp_path, default=cut_off) as (server, upstream):
        key = server.key()
        for cut in range(len(whole)):
            with RawClient(server.port) as client:
                client.post("/v1/chat/completions", key, asked, f"x-cut: {cut}", "connection: close")
                head, _, seen = client.read_to_end().partition(b"\r\n\r\n")
            if cut < body_at:
                assert head.startswith(b"HTTP/1.1 502 ")
                continue
            assert head.startswith(b"HTTP/1.1 200 ")
            assert not seen.endswith(b"\r\n0\r\n\r\n")
            assert unchunked_part(seen) == stream[: max(0, cut - data_at)]
        settlements = server.settlements(len(whole))
        assert len(settlements) == len(whole) == len(upstream.requests)
        outcomes = [settlement.outcome for settlement in settlements]
        assert set(outcomes[:body_at]) == {Outcome.UPSTREAM_ERROR}
        # Once [DONE] has come, the answer is whole to any client, although its framing is not.
        done_at = whole.index(DONE) + len(DONE)
        assert set(outcomes[body_at:done_at]) == {Outcome.TRUNCATED}
        assert set(outcomes[done_at:]) == {Outcome.COMPLETED}
        usage_at = whole.index(USAGE_EVENT) + len(USAGE_EVENT)
        sources = [settlement.usage_source for settlement in settlements]
        assert set(sources[:body_at]) == {UsageSource.NONE}
        assert set(sources[body_at:usage_at]) == {UsageSource.ESTIMATED}
        assert set(sources[usage_at:]) == {UsageSource.REPORTED}
        assert {settlement.usage.total_tokens for settlement in settlements[usage_at:]} == {13}
