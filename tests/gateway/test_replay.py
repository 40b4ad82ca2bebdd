"""Recorded upstream traffic through the running proxy: what the client sees, and what is in the ledger."""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.model import BUCKETS, NO_UNITS, Outcome, Settlement, UsageSource
from tests import corpus
from tests.corpus import Exchange
from tests.gateway.test_forward import between
from tests.gateway.test_meter_corpus import expected
from tests.raw import RawClient, unchunked_part
from tests.running import Running
from tests.scripted import Peer, ScriptedUpstream, answer
from tests.streams import DONE, SSE_HEAD, USAGE_EVENT, chunk, text

pytestmark = corpus.needed

#: The recorded endpoints that are served and metered; and those of them that take a form.
ROUTES = {
    *("chat/completions", "completions", "responses", "responses/compact", "embeddings", "moderations"),
    *("images/generations", "images/edits", "audio/transcriptions", "audio/speech"),
}
FORMS = ("images/edits", "audio/transcriptions")
#: Of what is sent byte by byte, which takes its time. (All of it: BYTEWISE_MAX=1000000.)
BYTEWISE_MAX = int(os.environ.get("BYTEWISE_MAX", "20000"))
IN_FLIGHT = 16


def recorded() -> list[Exchange]:
    return [one for one in corpus.exchanges() if one.endpoint in ROUTES and one.content_type is not None]


@pytest.fixture
def replaying(tmp_path: Path) -> Iterator[tuple[Running, ScriptedUpstream]]:
    """A proxy whose upstream sends the recording that the request names in `x-replay: <number>:<way>`."""
    exchanges = recorded()

    def replay(peer: Peer) -> None:
        while True:
            asked = peer.request().headers.get("x-replay")
            if asked is None:  # the proxy asks what became of a background response
                peer.send(answer(b"{}", status="404 Not Found"))
                continue
            number, _, way = asked.partition(":")
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
    options = {"stream_options": {"include_usage": True}} if one.endpoint in ("chat/completions", "completions") else {}
    asked: dict[str, Any] = {"model": "m", "stream": one.streamed, **(options if one.streamed else {})}
    body_of: dict[str, Any] = {"json": asked | {"input": "Hello", "messages": []}}
    if one.endpoint in FORMS:
        body_of = {"data": {"model": "m", "stream": str(one.streamed).lower()}, "files": {"file": ("a", b"bytes")}}
    headers = {"x-replay": f"{number}:{way}"}
    with client.stream("POST", f"/v1/{one.endpoint}", headers=headers, **body_of) as seen:
        body = b"".join(seen.iter_raw())
    return seen.headers["x-tollgate-request-id"], body


@pytest.mark.parametrize("way", ["cut", "gzip", "bytewise"])
def test_every_recording_reaches_the_client_as_it_is_and_is_billed_as_reported(
    replaying: tuple[Running, ScriptedUpstream], way: str
) -> None:
    server, _ = replaying
    exchanges = recorded()
    chosen = [n for n, one in enumerate(exchanges) if one.status != 401]
    if way == "bytewise":
        chosen = [n for n in chosen if len(exchanges[n].body) < BYTEWISE_MAX]
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
    counts_tokens = any(name.endswith("_tokens") for name in one.usage or {})
    if one.usage is None or not counts_tokens:
        assert (settlement.usage_source is UsageSource.REPORTED) is (settlement.units != NO_UNITS), one.id
        return
    wanted = expected(one.usage)
    assert usage.total_tokens == wanted["total"], one.id
    assert usage.prompt_tokens == wanted["prompt"], one.id
    assert usage.completion_tokens == wanted["completion"], one.id
    assert usage.cached_input == wanted.get("cached", usage.cached_input), one.id
    assert usage.reasoning == wanted.get("reasoning", usage.reasoning), one.id
    assert settlement.model == wanted.get("model", settlement.model), one.id


def smallest_stream() -> bytes:
    """A recorded stream of OpenAI's with usage and [DONE]."""
    streams = [one.body for one in recorded() if one.id.startswith("openai-chat") and one.streamed and one.usage]
    return min((body for body in streams if body.endswith(DONE)), key=len)


@pytest.mark.parametrize("kind", ["made up", "recorded"])
def test_an_upstream_that_breaks_off_at_any_byte_leaves_one_event_and_a_visibly_broken_answer(
    tmp_path: Path, kind: str
) -> None:
    stream = text("Hel") + text("lo", usage=None) + USAGE_EVENT + DONE if kind == "made up" else smallest_stream()
    (usage_event,) = [one + b"\n\n" for one in stream.split(b"\n\n") if b'"usage":{' in one]
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
        usage_at = whole.index(usage_event) + len(usage_event.rstrip())  # the line's end may be missing
        sources = [settlement.usage_source for settlement in settlements]
        assert set(sources[:body_at]) == {UsageSource.NONE}
        assert set(sources[body_at:usage_at]) == {UsageSource.ESTIMATED}
        assert set(sources[usage_at:]) == {UsageSource.REPORTED}
        assert len({settlement.usage for settlement in settlements[usage_at:]}) == 1
