"""TLS: whom we trust, and where an answer ends."""

from __future__ import annotations

import asyncio
import ssl
import threading
from pathlib import Path

import pytest
import trustme

from proxy.errors import ConfigurationError, ConnectFailed, ConnectionBroken
from proxy.upstream.connect import tls_context
from tests.scripted import Peer, ScriptedUpstream, answer, answers, says
from tests.upstream.asking import ask, open_sockets, pool_for, rest, send, settled

LARGE = b"0123456789abcdef" * (1 << 19)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def server(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    return server(authority, "127.0.0.1")


async def test_the_right_name_from_a_trusted_authority_passes(tls: ssl.SSLContext, ca_file: str) -> None:
    """Requests and answers of any size go through, http/1.1 is agreed on, and the connection is kept."""

    def echoes(peer: Peer) -> None:
        while True:
            peer.send(answer(peer.request().body))

    with ScriptedUpstream(echoes, tls=tls) as upstream:
        async with pool_for(upstream, ca_file=ca_file) as pool:
            for body in (b"{}", LARGE, b""):
                assert (await ask(pool, body)).body == body
        await upstream.until_all_closed(accepted=1)
        assert upstream.peers[0].protocol == "http/1.1"


@pytest.mark.parametrize("name", ["127.0.0.2", "api.openai.com"])
async def test_a_certificate_for_another_name_is_refused(authority: trustme.CA, ca_file: str, name: str) -> None:
    """Before a byte of the request is sent."""
    with ScriptedUpstream(tls=server(authority, name)) as upstream:
        async with pool_for(upstream, ca_file=ca_file) as pool:
            with pytest.raises(ConnectFailed, match="certificate"):
                await ask(pool)
            assert pool.connections == 0
        await upstream.until_all_closed()
    assert upstream.requests == []


async def test_an_unknown_authority_is_refused(tls: ssl.SSLContext) -> None:
    """Without `ca_file` only the system's authorities count."""
    with ScriptedUpstream(tls=tls) as upstream:
        async with pool_for(upstream) as pool:
            with pytest.raises(ConnectFailed, match="certificate"):
                await ask(pool)
        await upstream.until_all_closed()
    assert upstream.requests == []


@pytest.mark.parametrize("text", [None, "nonsense"])
def test_a_ca_file_that_cannot_be_read_stops_the_start(tmp_path: Path, text: str | None) -> None:
    """The message names the key and the file."""
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"upstream\.ca_file: .*ca\.pem"):
        tls_context(str(path))


async def test_an_upstream_that_does_not_speak_tls_is_a_failed_connection(ca_file: str) -> None:
    """Garbage, an answer in clear text, or a close where the greeting should come."""

    def clear(peer: Peer) -> None:
        peer.send(answer(b"in the clear"))

    def closes(peer: Peer) -> None:
        peer.close()

    for script in (clear, closes):
        with ScriptedUpstream(script) as upstream:
            async with pool_for(upstream.url.replace("http", "https"), ca_file=ca_file) as pool:
                with pytest.raises(ConnectFailed):
                    await ask(pool)
                assert pool.connections == 0
            await upstream.until_all_closed()


async def test_a_handshake_that_stalls_is_given_up_and_closed(ca_file: str) -> None:
    """The connect timeout covers it; the socket does not stay."""
    before = open_sockets()
    with ScriptedUpstream(default=Peer.stall) as upstream:
        async with pool_for(upstream.url.replace("http", "https"), ca_file=ca_file, connect_timeout_s=0.3) as pool:
            with pytest.raises(ConnectFailed, match=r"within 0\.3 s"):
                await ask(pool)
            await upstream.until_all_closed(accepted=1)
    assert open_sockets() == before


@pytest.mark.parametrize("turns", range(30))
async def test_a_request_that_is_cancelled_while_it_connects_leaves_nothing(
    tls: ssl.SSLContext, ca_file: str, turns: int
) -> None:
    """At any turn of the loop between the lookup and the end of the handshake."""
    with ScriptedUpstream(tls=tls) as upstream:
        async with pool_for(upstream, ca_file=ca_file, connections_max=1) as pool:
            task = asyncio.create_task(ask(pool))
            for _ in range(turns):
                await asyncio.sleep(0)
            await settled(task)
            # A busy machine may have answered it before; then its connection serves again.
            assert (await ask(pool)).status == 200
            assert pool.connections == 1
        await upstream.until_all_closed()


async def test_a_close_notify_ends_a_body_without_a_length(tls: ssl.SSLContext, ca_file: str) -> None:
    """The upstream said that it has said everything."""

    def says_goodbye(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + LARGE)
        peer.close()

    with ScriptedUpstream(says_goodbye, tls=tls) as upstream:
        async with pool_for(upstream, ca_file=ca_file) as pool:
            assert (await ask(pool)).body == LARGE


async def test_a_cut_does_not_end_a_body_without_a_length(tls: ssl.SSLContext, ca_file: str) -> None:
    """Without a close_notify anyone on the way may have cut it (RFC 9112, section 9.8)."""

    def is_cut(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        peer.close(notify=False)

    with ScriptedUpstream(is_cut, tls=tls) as upstream:
        async with pool_for(upstream, ca_file=ca_file) as pool:
            got = await send(pool)
            assert await got.read() == b"hello"
            with pytest.raises(ConnectionBroken):
                await rest(got)


@pytest.mark.parametrize("notify", [True, False])
async def test_a_cut_after_a_body_with_a_length_is_no_loss(tls: ssl.SSLContext, ca_file: str, *, notify: bool) -> None:
    """Its end is known without it."""

    def closes(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"hello"))
        peer.close(notify=notify)

    with ScriptedUpstream(closes, tls=tls) as upstream:
        async with pool_for(upstream, ca_file=ca_file) as pool:
            assert (await ask(pool)).body == b"hello"
            await upstream.until_all_closed()
            assert (await ask(pool)).tag["connection"] == 1


async def test_what_waits_for_a_slow_reader_survives_the_upstreams_close(tls: ssl.SSLContext, ca_file: str) -> None:
    """uvloop's TLS drops what it holds for a paused reader: so it must not be the one that is paused."""
    sent = threading.Event()

    def closes(peer: Peer) -> None:
        peer.request()
        peer.send(answer(LARGE, "connection: close"))
        sent.set()
        peer.close()

    with ScriptedUpstream(closes, tls=tls) as upstream:
        async with pool_for(upstream, ca_file=ca_file) as pool:
            got = await send(pool)
            body = b""
            while data := await got.read():
                body += data
                await asyncio.sleep(0.005)  # slower than the upstream
            got.close()
    assert sent.is_set()
    assert body == LARGE


async def test_a_large_body_waits_for_an_upstream_under_tls_too(tls: ssl.SSLContext, ca_file: str) -> None:
    """An early answer is delivered, the connection not used again."""

    def refuses(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer(b"too large", status="413 Content Too Large"))
        peer.hold()

    with ScriptedUpstream(refuses, tls=tls, receive_bytes=65536) as upstream:
        async with pool_for(upstream, ca_file=ca_file) as pool:
            assert (await ask(pool, LARGE)).status == 413
            assert (await ask(pool)).tag["connection"] == 1


async def test_a_half_sent_request_goes_again_under_tls_too(tls: ssl.SSLContext, ca_file: str) -> None:
    """Once, over a new connection; one that was sent whole does not."""

    def dies(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"first"))
        peer.read_head()
        peer.read(1)
        peer.reset()

    with ScriptedUpstream(dies, dies, tls=tls, receive_bytes=65536) as upstream:
        async with pool_for(upstream, ca_file=ca_file) as pool:
            await ask(pool)
            with pytest.raises(ConnectionBroken):
                await ask(pool, b"{}")
            await ask(pool)
            assert (await ask(pool, LARGE)).tag["connection"] == 2


async def test_bytes_on_an_idle_connection_and_its_close_are_seen_under_tls_too(
    tls: ssl.SSLContext, ca_file: str
) -> None:
    """It is dropped at once."""
    with ScriptedUpstream(says(answer(b"first")), says(answer(b"second")), tls=tls) as upstream:
        async with pool_for(upstream, ca_file=ca_file) as pool:
            await ask(pool)
            upstream.peers[0].send(answer(b"unasked"))
            await upstream.until_all_closed(accepted=1)
            await ask(pool)
            upstream.peers[1].half_close()
            await upstream.until_all_closed(accepted=2)
            assert pool.connections == 0
            assert (await ask(pool)).tag["connection"] == 2


async def test_ipv6_under_tls(authority: trustme.CA, ca_file: str) -> None:
    """The certificate names the address."""
    with ScriptedUpstream(answers, tls=server(authority, "::1"), host="::1") as upstream:
        async with pool_for(upstream, ca_file=ca_file) as pool:
            assert (await ask(pool)).status == 200
