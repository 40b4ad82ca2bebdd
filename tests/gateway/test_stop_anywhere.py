"""A stop falls between two events, wherever the upstream's bytes are cut; and a proxy that is killed knows no less."""

from __future__ import annotations

import gzip
import signal
import threading
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import httpx
from hypothesis import given
from hypothesis import strategies as st

from proxy.gateway.stop import StoppableMeter
from proxy.model import Outcome
from proxy.store.database import Database
from proxy.store.tenants import create_key, create_tenant
from proxy.wire.closing import closing_for
from proxy.wire.coding import Identity
from proxy.wire.endpoints import CHAT_COMPLETIONS
from tests.gateway.test_forward import CHAT
from tests.gateway.test_stop import HEAD, STOPS, WORD, events, said, stopping, stream, tokens, words
from tests.process import process
from tests.raw import RawClient, unchunked
from tests.running import wait_until
from tests.scripted import Peer, ScriptedUpstream, answer
from tests.streams import ASK_STREAM, SSE_HEAD, chunk, event, text
from tests.test_limits_hold import limit, spent_by

EVENTS = [
    text(WORD),
    b": ping\n\n",
    text(" two words"),
    text("", usage=None),
    text("é\r"),
    b"id: 7\r\n\r\n",
    text("ab"),
]


def meter(tokens: int) -> StoppableMeter:
    ends = closing_for(CHAT, tells_usage=False)
    assert ends is not None
    return StoppableMeter(Identity(), CHAT_COMPLETIONS, {}, ends, tokens, hides_usage=False, shown=None)


@given(st.lists(st.sampled_from(EVENTS), max_size=12), st.lists(st.integers(0, 400)), st.integers(0, 40))
def test_the_same_events_pass_however_the_bytes_are_cut(parts: list[bytes], cuts: list[int], tokens: int) -> None:
    raw = b"".join(parts)
    whole, cut = meter(tokens), meter(tokens)
    at = [0, *sorted(min(one, len(raw)) for one in cuts), len(raw)]
    passed = whole.feed(raw)
    assert b"".join(cut.feed(raw[start:end]) for start, end in pairwise(at)) == passed
    assert (whole.is_full, whole.delivered().streamed()) == (cut.is_full, cut.delivered().streamed())
    assert raw.startswith(passed)
    assert passed in {b"".join(parts[:count]) for count in range(len(parts) + 1)}
    whole.allow(10_000)
    assert passed + whole.resume() == raw


def test_a_stream_that_comes_byte_by_byte_ends_between_two_events(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SSE_HEAD)
        for _ in range(40):
            peer.send(chunk(text(WORD, **HEAD)[:7]))
            for byte in text(WORD, **HEAD)[7:]:
                peer.send(b"1\r\n%c\r\n" % byte)

    with stopping(tmp_path, default=script) as (server, _):
        key = server.key()
        limit(server.app.database, "tokens/total=30")
        found = events(stream(server, key))
        assert {one["choices"][0]["delta"].get("content") for one in found[:-1]} == {WORD}
        assert server.settlement().usage.completion_tokens == tokens(said(found))


def test_choices_that_come_one_after_the_other_are_stopped_in_the_second(tmp_path: Path) -> None:
    def choice(index: int, reason: str | None, **delta: str) -> bytes:
        return event({"id": "x", **HEAD, "choices": [{"index": index, "delta": delta, "finish_reason": reason}]})

    def script(peer: Peer) -> None:
        peer.request()
        first = choice(0, None, content=WORD) * 40 + choice(0, "stop", content=WORD)
        peer.send(SSE_HEAD + chunk(first) + chunk(choice(1, None, content=WORD) * 400))

    with stopping(tmp_path, default=script, TOLLGATE_LIMITS__OUTPUT_TOKENS="20") as (server, _):
        key = server.key()
        limit(server.app.database, "tokens/total=100")
        ends = [one["choices"][0] for one in events(stream(server, key, n=2))]
        reasons = [(one["index"], one["finish_reason"]) for one in ends if one["finish_reason"]]
        assert reasons == [(0, "stop"), (1, "length")]
        assert server.settlement().usage.total_tokens <= 100 + tokens(WORD)


def test_one_that_comes_compressed_although_nobody_asked_is_uncompressed_and_stopped(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        assert peer.request().headers["accept-encoding"] == "identity"
        coded = gzip.compress(text(WORD, **HEAD) * 500)
        peer.send(answer(coded, "content-type: text/event-stream", "content-encoding: gzip"))

    with stopping(tmp_path, default=script) as (server, _), RawClient(server.port) as client:
        key = server.key()
        limit(server.app.database, "tokens/total=200")
        body = ASK_STREAM | {"stream_options": {"include_usage": True}}
        client.post(CHAT, key, body, "accept-encoding: gzip")
        raw = client.read_until(b"0\r\n\r\n")
        assert b"content-encoding" not in raw
        assert events(unchunked(raw))[-1]["usage"]["total_tokens"] == server.settlement().usage.total_tokens
        assert server.settlement().outcome is Outcome.STOPPED


def test_killed_in_the_middle_of_streams_the_limit_holds_afterwards(tmp_path: Path) -> None:
    begun = threading.Event()

    def endless(peer: Peer) -> None:
        peer.request()
        peer.send(SSE_HEAD + chunk(text(WORD, **HEAD) * 150))
        peer.wait(begun)
        peer.send(chunk(text(WORD, **HEAD)))
        peer.hold()

    database = Database(f"sqlite:///{tmp_path}/tollgate.db")
    database.create()
    with database.transaction() as connection:
        create_tenant(connection, "user-001", now_ms=0)
        key = create_key(connection, "user-001", now_ms=0)[1]
    limit(database, "tokens/total=1000")
    with ScriptedUpstream(default=endless) as upstream:
        variables = {"TOLLGATE_DATABASE_URL": f"sqlite:///{tmp_path}/tollgate.db", "OPENAI_API_KEY": "sk-x", **STOPS}
        with process(tmp_path, OPENAI_BASE_URL=f"{upstream.url}/v1", **variables) as server:
            port = int(server.url.rpartition(":")[2])
            clients = [RawClient(port) for _ in range(3)]
            for client in clients:
                client.post(CHAT, key, ASK_STREAM)
            for client in clients:
                client.read_until(text(WORD, **HEAD) * 100)
            threading.Event().wait(0.4)  # how much has come is noted now and then
            begun.set()
            wait_until(lambda: all(peer.sent > len(text(WORD, **HEAD)) * 150 for peer in upstream.peers))
            threading.Event().wait(0.3)
            server.stop(signal.SIGKILL)
        for client in clients:
            client.reset()
    again = tmp_path / "again"
    again.mkdir()
    with ScriptedUpstream(default=words(1000)) as upstream:
        variables["OPENAI_BASE_URL"] = f"{upstream.url}/v1"
        with process(again, **variables) as server:
            wait_until(lambda: spent_by(database, "user-001") > 300)  # the three, by what was noted of them
            before = spent_by(database, "user-001")
            served = httpx.post(server.url + CHAT, json=ASK_STREAM, headers={"x-api-key": key}, timeout=30)
            assert events(served.content)[-1]["choices"][0]["finish_reason"] == "length"
            wait_until(lambda: spent_by(database, "user-001") > before)
            assert 990 <= spent_by(database, "user-001") <= 1000 + tokens(WORD)
    with closing(database.connect()) as connection:
        outcomes = [one for (one,) in connection.execute("SELECT outcome FROM events ORDER BY seq")]
    assert outcomes == [Outcome.INTERRUPTED] * 3 + [Outcome.STOPPED]
