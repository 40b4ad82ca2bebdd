"""Clients that ask for long answers and never read them: the upstream has to wait, and nobody else has."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import orjson
import pytest

from proxy.model import Outcome
from tests.gateway.test_forward import CHAT, between
from tests.hostile.shapes import Seen
from tests.raw import RawClient
from tests.running import Running, wait_until
from tests.scripted import Peer, ScriptedUpstream, answer
from tests.streams import ASK, ASK_STREAM, PLAIN, SSE_HEAD, chunk, text
from tests.web.answering import slow_client

SPEECH = "/v1/audio/speech"
SPEAK = {"model": "tts-1", "input": "Hello", "voice": "alloy"}
AUDIO_HEAD = SSE_HEAD.replace(b"text/event-stream", b"audio/mpeg")
ANSWER_BYTES = 8 << 20
PIECES = {CHAT: (SSE_HEAD, chunk(text("x" * 3_800)) * 4), SPEECH: (AUDIO_HEAD, chunk(b"\xff\xfb" * 8_000))}

#: What one such client may cost: what is read at once, what waits to be written, and the text that is counted for it.
COST_BYTES = 2 << 20


def pours(peer: Peer) -> None:
    """Sends as much as it can, over a link that itself holds little."""
    peer._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    while True:
        request = peer.request()
        if request.headers.get("x-good"):
            peer.send(answer(PLAIN, "content-type: application/json"))
            continue
        head, piece = PIECES[request.target]
        peer.send(head)
        while peer.sent < ANSWER_BYTES:
            peer.send(piece)
        peer.send(chunk(b""))


@contextmanager
def deaf_clients(count: int, server: Running, path: str, body: object) -> Iterator[None]:
    data = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nhost: t\r\nx-api-key: {server.key('deaf')}\r\ncontent-length: {len(data)}\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(slow_client(server.port)).sendall(head.encode() + data)
        yield


def wait_until_stuck(upstream: ScriptedUpstream) -> int:
    """Wait until nobody takes anything from the upstream any more; returns how much memory was taken at most."""
    before, sent, memory = -1, 0, 0
    while before < sent:
        time.sleep(0.3)  # that nothing happens can only be seen by waiting
        before, sent = sent, sum(peer.sent for peer in upstream.peers)
        memory = max(memory, memory_bytes())
    return memory


def memory_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def check_others(server: Running, key: str) -> None:
    with RawClient(server.port) as client:
        client.post(CHAT, key, ASK, "x-good: 1", "connection: close")
        assert Seen(client.read_to_end()).body == PLAIN


@pytest.mark.parametrize(
    ("count", "path", "body"), [(1_000, SPEECH, SPEAK), (50, CHAT, ASK_STREAM)], ids=["speech", "text"]
)
def test_clients_that_never_read_hold_back_the_upstream_and_are_gone_after_a_while(
    tmp_path: Path, count: int, path: str, body: object
) -> None:
    variables = {"TOLLGATE_SERVER__WRITE_TIMEOUT_S": "4", "TOLLGATE_UPSTREAM__ON_DISCONNECT": "cancel"}
    with between(tmp_path, default=pours, **variables) as (server, upstream):
        other = server.key("other")
        check_others(server, other)
        before = memory_bytes()
        with deaf_clients(count, server, path, body):
            wait_until(lambda: len(upstream.requests) == 1 + count)
            assert wait_until_stuck(upstream) - before < count * COST_BYTES
            check_others(server, other)

            wait_until(lambda: server.app.admission.in_flight == 0, seconds=30)
            check_others(server, other)
            deaf = [one for one in server.settlements() if one.subject == "deaf"]
            assert len({one.id for one in deaf}) == len(deaf) == count
            assert {one.outcome for one in deaf} == {Outcome.CLIENT_DISCONNECTED}
            assert sum(peer.sent for peer in upstream.peers) < count * ANSWER_BYTES / 2
            wait_until(lambda: upstream.counts.open <= 1)
        assert server.app.gateway.draining == 0
