"""A request on its way up: bodies large and small, answers that come before it is sent, and what is sent twice."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from proxy.errors import BodyTimeout, ConnectionBroken, UpstreamError
from proxy.upstream.connection import Connection, Stale
from tests.scripted import Peer, ScriptedUpstream, answer, answers
from tests.upstream.asking import TIMEOUTS, ask, pool_for, rest, send, settled
from tests.upstream.wire import Wire

LARGE = b"0123456789abcdef" * (1 << 20)  # more than the kernel's buffers hold


async def pieces(body: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def refuses_early(peer: Peer) -> None:
    """Answers a request of which it has read only the head, and does not read the rest."""
    peer.read_head()
    peer.send(answer(b"too large", status="413 Content Too Large"))
    peer.hold()


async def test_the_request_arrives_byte_for_byte() -> None:
    """Head and body reach the upstream as they were given, in one piece."""
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream.url + "/base") as pool:
            answer = await pool.send(
                "PATCH",
                b"/a%2Fb?c=d&e",
                [(b"x-a", b"caf\xe9")],
                b"\x00\xff",
                length=2,
                tenant="a",
                begin=lambda _connection: None,
            )
            await rest(answer)
    assert upstream.requests[0].head == (
        b"PATCH /base/a%%2Fb?c=d&e HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nx-a: caf\xe9\r\ncontent-length: 2\r\n\r\n"
        % upstream.port
    )
    assert upstream.requests[0].body == b"\x00\xff"


async def test_a_request_without_a_body_announces_none() -> None:
    """A GET carries no content-length."""
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream) as pool:
            await rest(await pool.send("GET", b"/x", [], b"", length=None, tenant="a", begin=lambda _connection: None))
    assert "content-length" not in upstream.requests[0].headers


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 262144, 262145, 3_000_000])
async def test_bodies_of_every_size_arrive_whole(size: int) -> None:
    """Joined with the head, sliced or from an iterator: the upstream reads the same bytes, and the connection stays."""
    body = LARGE[:size]
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream) as pool:
            await ask(pool, body)
            await ask(pool, pieces(body, 50_000), length=size)
    assert [request.body == body for request in upstream.requests] == [True, True]
    assert upstream.counts.accepted == 1


@pytest.mark.parametrize("kind", ["bytes", "iterator"])
async def test_an_early_answer_is_delivered_and_its_connection_not_used_again(kind: str) -> None:
    """A 413 that comes while the body is being sent is the answer; the rest of the body is never sent."""
    with ScriptedUpstream(refuses_early, receive_bytes=65536) as upstream:
        async with pool_for(upstream) as pool:
            reply = await ask(pool, LARGE if kind == "bytes" else pieces(LARGE), length=len(LARGE))
            assert (reply.status, reply.body) == (413, b"too large")
            assert pool.connections == 0
            assert (await ask(pool)).tag["connection"] == 1


async def test_an_early_answer_survives_the_reset_that_follows_it() -> None:
    """Servers that answer 413 often close at once, with what they did not read: then our next write fails."""
    closed = threading.Event()

    def refuses_and_closes(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer(b"too large", "connection: close", status="413 Content Too Large"))
        peer.close()
        closed.set()

    async def goes_on() -> AsyncIterator[bytes]:
        yield LARGE[: 1 << 16]
        assert closed.wait(5)  # blocks the loop, so that it writes before it reads
        yield LARGE[1 << 16 : 1 << 17]
        yield LARGE[1 << 17 : 1 << 18]

    with ScriptedUpstream(refuses_and_closes) as upstream:
        async with pool_for(upstream) as pool:
            reply = await ask(pool, goes_on(), length=1 << 18)
    assert (reply.status, reply.body) == (413, b"too large")


async def test_an_early_answer_is_not_reused_even_when_the_body_is_nearly_sent() -> None:
    """A single byte that is not sent yet is enough: it would be the first of the next request."""
    last = asyncio.Event()

    async def hesitates() -> AsyncIterator[bytes]:
        yield b"most"
        await last.wait()
        yield b"!"

    with ScriptedUpstream(refuses_early) as upstream:
        async with pool_for(upstream) as pool:
            assert (await ask(pool, hesitates(), length=5)).status == 413
            assert (await ask(pool)).tag["connection"] == 1


async def test_an_iterator_is_read_no_faster_than_the_upstream_reads() -> None:
    """While the upstream does not read, what waits in this process is one piece of the body."""
    taken = 0
    release = threading.Event()

    async def counts() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(1024):
            taken += 1 << 16
            yield bytes(1 << 16)

    def reads_late(peer: Peer) -> None:
        head = peer.read_head()
        peer.wait(release)
        peer.read_body(head)
        peer.send(answer(b"thanks"))

    with ScriptedUpstream(reads_late) as upstream:
        async with pool_for(upstream) as pool:
            task = asyncio.create_task(ask(pool, counts(), length=1 << 26))
            before = -1
            while before != taken:
                before = taken
                await asyncio.sleep(0.1)
            assert taken < 3 << 23, "only the kernel's buffers may be full"
            release.set()
            assert (await task).body == b"thanks"
            assert taken == 1 << 26
    assert len(upstream.requests[0].body) == 1 << 26


async def test_an_iterator_that_raises_ends_the_request_with_its_own_error() -> None:
    """A client that stops sending is not the upstream's fault: its error comes out as it is."""

    async def breaks() -> AsyncIterator[bytes]:
        yield b"half"
        raise BodyTimeout("The client was too slow.")

    with ScriptedUpstream() as upstream:
        async with pool_for(upstream) as pool:
            with pytest.raises(BodyTimeout):
                await ask(pool, breaks(), length=8)
            await upstream.until_all_closed(accepted=1)
    assert upstream.requests == []


async def test_an_iterator_that_is_cancelled_ends_the_request() -> None:
    """Nothing waits for a body that cannot come any more."""

    async def cancels() -> AsyncIterator[bytes]:
        yield b"half"
        raise asyncio.CancelledError

    with ScriptedUpstream() as upstream:
        async with pool_for(upstream) as pool:
            with pytest.raises(ConnectionBroken):
                await ask(pool, cancels(), length=8)
            await upstream.until_all_closed(accepted=1)


@pytest.mark.parametrize("sent", [b"short", b"much too long"])
async def test_a_body_that_belies_its_length_is_never_followed_by_another_request(sent: bytes) -> None:
    """Excess bytes would be the upstream's next request, missing ones would be taken from it."""
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream) as pool:
            with pytest.raises(ValueError, match="Content-Length"):
                await ask(pool, pieces(sent), length=8)
            await upstream.until_all_closed(accepted=1)
            assert (await ask(pool)).tag["connection"] == 1


async def test_a_request_that_was_sent_whole_on_a_kept_connection_is_not_sent_again() -> None:
    """The upstream may have acted on it, even where not a byte of an answer came."""

    def dies_at_the_second(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"first"))
        peer.request()
        peer.close()

    with ScriptedUpstream(dies_at_the_second) as upstream:
        async with pool_for(upstream) as pool:
            await ask(pool, b"first")
            with pytest.raises(ConnectionBroken):
                await ask(pool, b"second")
            await upstream.until_all_closed()
    assert [request.body for request in upstream.requests] == [b"first", b"second"]
    assert upstream.counts.accepted == 1


def dies_while_the_second_comes(peer: Peer) -> None:
    peer.request()
    peer.send(answer(b"first"))
    peer.read_head()
    peer.read(1)
    peer.reset()


async def test_a_request_that_was_half_sent_on_a_kept_connection_is_sent_once_more() -> None:
    """It cannot have been processed. The second attempt goes over a new connection."""
    with ScriptedUpstream(dies_while_the_second_comes, receive_bytes=65536) as upstream:
        async with pool_for(upstream) as pool:
            await ask(pool)
            assert (await ask(pool, LARGE)).tag["connection"] == 1
    assert [len(request.body) for request in upstream.requests] == [0, len(LARGE)]
    assert upstream.counts.accepted == 2


class BreakingWire(Wire):
    """Fails at its nth write, and takes what follows in silence, as transports do."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self._writes = writes

    def write(self, data: object) -> None:
        self._writes -= 1
        self.aborted = self.aborted or self._writes <= 0


@pytest.mark.parametrize(("writes", "size"), [(1, 2), (2, 1 << 20), (5, 1 << 20)])
async def test_what_a_broken_transport_swallowed_was_not_sent(writes: int, size: int) -> None:
    """The loop reports the failure only later; until then every write seems to succeed."""
    with socket.socket() as unused:
        connection = Connection(unused, TIMEOUTS, lambda _connection, _reusable: None)
        connection.connection_made(BreakingWire(writes))
        exchange = asyncio.create_task(connection.exchange(b"head", bytes(size), length=size, reused=True))
        await asyncio.sleep(0.01)
        connection.connection_lost(ConnectionResetError())
        with pytest.raises(Stale):
            await exchange


async def test_the_second_attempt_does_not_take_another_kept_connection() -> None:
    """Kept connections die together, when an upstream restarts: one failure is enough to ask for a new one."""
    scripts = [dies_while_the_second_comes] * 3
    with ScriptedUpstream(*scripts, receive_bytes=65536) as upstream:
        async with pool_for(upstream, connections_max=3) as pool:
            held = [await send(pool) for _ in scripts]
            for one in held:
                await rest(one)
            assert (await ask(pool, LARGE)).tag["connection"] == 3
            assert upstream.counts.accepted == 4


async def test_a_half_sent_request_on_a_new_connection_is_not_sent_again() -> None:
    """A new connection that dies says something about the upstream, not about how long it was kept."""

    def dies(peer: Peer) -> None:
        peer.read_head()
        peer.reset()

    with ScriptedUpstream(default=dies, receive_bytes=65536) as upstream:
        async with pool_for(upstream) as pool:
            with pytest.raises(ConnectionBroken):
                await ask(pool, LARGE)
    assert upstream.counts.accepted == 1


async def test_a_half_sent_iterator_is_not_sent_again() -> None:
    """Its first half is gone."""
    with ScriptedUpstream(dies_while_the_second_comes, receive_bytes=65536) as upstream:
        async with pool_for(upstream) as pool:
            await ask(pool)
            with pytest.raises(ConnectionBroken):
                await ask(pool, pieces(LARGE), length=len(LARGE))
    assert upstream.counts.accepted == 1


async def test_an_answer_that_began_is_never_asked_for_again() -> None:
    """One byte of an answer shows that the upstream was at work, however little of the request it had."""

    def begins(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"first"))
        peer.read_head()
        peer.send(b"H")
        peer.read(1)
        peer.close()

    with ScriptedUpstream(begins, receive_bytes=65536) as upstream:
        async with pool_for(upstream) as pool:
            await ask(pool)
            with pytest.raises(ConnectionBroken):
                await ask(pool, LARGE)
    assert upstream.counts.accepted == 1


async def test_an_upstream_that_closes_every_new_connection_is_given_up() -> None:
    """No loop of attempts: the failure is reported after the first new connection."""
    with ScriptedUpstream(default=Peer.close) as upstream:
        async with pool_for(upstream) as pool:
            with pytest.raises(UpstreamError):
                await ask(pool)
    assert upstream.counts.accepted == 1


async def test_an_upstream_that_speaks_first_gets_no_second_chance() -> None:
    """An answer before the request cannot be its answer for long: the connection is not kept, nothing loops."""

    def babbles(peer: Peer) -> None:
        peer.send(answer(b"unasked") * 2)

    with ScriptedUpstream(babbles, answers) as upstream:
        async with pool_for(upstream) as pool:
            with suppress(UpstreamError):
                await ask(pool)
            assert (await ask(pool)).tag["connection"] == 1
    assert upstream.counts.accepted == 2


@pytest.mark.parametrize("when", range(12))
async def test_a_request_that_is_cancelled_anywhere_closes_its_connection_and_frees_its_place(when: int) -> None:
    """After any number of turns of the loop: nothing stays open, and a pool of one serves the next."""

    def slow(peer: Peer) -> None:
        head = peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
        peer.read_body(head)
        peer.stall()

    with ScriptedUpstream(slow, receive_bytes=65536) as upstream:
        async with pool_for(upstream, connections_max=1) as pool:
            task = asyncio.create_task(ask(pool, LARGE))
            for _ in range(when):
                await asyncio.sleep(0)
            await settled(task)
            assert task.cancelled()
            assert (await ask(pool)).status == 200 if upstream.counts.accepted else True
            assert pool.connections <= 1
            await pool.close()
            await upstream.until_all_closed()
