"""What an upstream's bytes mean: status, headers and body, whatever their framing and wherever they are cut."""

from __future__ import annotations

import asyncio
import socket
import threading
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import BadAnswer, ConnectionBroken, UpstreamError
from proxy.upstream.connection import Connection
from proxy.upstream.head import HEAD_BYTES_MAX, INTERIM_MAX
from tests.scripted import Peer, Script, ScriptedUpstream, answer, says
from tests.upstream.asking import TIMEOUTS, Reply, ask, pool_for, rest, send
from tests.upstream.wire import Wire

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LENGTH_5 = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"


def then_closes(data: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(data)
        peer.close()

    return script


#: name → the bytes, and the body that they mean, with the connection kept
KEPT: dict[str, tuple[bytes, int, bytes]] = {
    "length": (answer(b"hello"), 200, b"hello"),
    "empty": (answer(b""), 200, b""),
    "no reason phrase": (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", 200, b"ok"),
    "chunked": (CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", 200, b"hello"),
    "chunked and empty": (CHUNKED + b"0\r\n\r\n", 200, b""),
    "chunk extensions": (CHUNKED + b'5;a=b;c="d"\r\nhello\r\n0;last\r\n\r\n', 200, b"hello"),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nx-a: 1\r\nx-b: 2\r\n\r\n", 200, b"hello"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "304 with the length of what it does not carry": (
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n",
        304,
        b"",
    ),
    "HTTP/1.0 with keep-alive": (
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
        200,
        b"ok",
    ),
    "100": (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"hello"), 200, b"hello"),
    "103": (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + answer(b"hello"), 200, b"hello"),
    "several informational": (b"HTTP/1.1 102 Processing\r\n\r\n" * INTERIM_MAX + answer(b"hello"), 200, b"hello"),
    "a body of CRLFs": (answer(b"\r\n\r\n"), 200, b"\r\n\r\n"),
}
CLOSED: dict[str, tuple[bytes, int, bytes]] = {
    "until close": (b"HTTP/1.1 200 OK\r\n\r\nhello", 200, b"hello"),
    "until close and empty": (b"HTTP/1.1 200 OK\r\n\r\n", 200, b""),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nhello", 200, b"hello"),
    "HTTP/1.0 with a length": (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello"),
    "connection: close": (answer(b"hello", "connection: close"), 200, b"hello"),
    "connection: close, chunked": (
        b"HTTP/1.1 200 OK\r\nconnection: Close\r\ntransfer-encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        200,
        b"x",
    ),
}


@pytest.mark.parametrize("name", KEPT)
async def test_an_answer_with_an_end_of_its_own_keeps_the_connection(name: str) -> None:
    """The body is exactly what its framing says, and the next request goes over the same connection."""
    data, status, body = KEPT[name]
    with ScriptedUpstream(says(data, answer(b"second"))) as upstream:
        async with pool_for(upstream) as pool:
            reply = await ask(pool)
            assert (reply.status, reply.body) == (status, body)
            assert (await ask(pool)).body == b"second"
    assert upstream.counts.accepted == 1


@pytest.mark.parametrize("name", CLOSED)
async def test_an_answer_that_ends_with_the_connection_is_whole_and_the_connection_is_not_used_again(name: str) -> None:
    """The body is all that came before the close."""
    data, status, body = CLOSED[name]
    with ScriptedUpstream(then_closes(data)) as upstream:
        async with pool_for(upstream) as pool:
            reply = await ask(pool)
            assert (reply.status, reply.body) == (status, body)
            assert (await ask(pool)).tag["connection"] == 1


@pytest.mark.parametrize("name", KEPT)
async def test_an_answer_that_comes_byte_by_byte_is_the_same_answer(name: str) -> None:
    """How the network cuts an answer makes no difference."""
    data, status, body = KEPT[name]

    def drips(peer: Peer) -> None:
        peer.request()
        peer.drip(data)

    with ScriptedUpstream(drips) as upstream:
        async with pool_for(upstream) as pool:
            reply = await ask(pool)
    assert (reply.status, reply.body) == (status, body)


async def read_in_pieces(pieces: list[bytes], *, then_eof: bool) -> tuple[Reply | str, bool]:
    """What a connection makes of these reads: the reply (or the kind of error), and whether it stays open."""
    with socket.socket() as unused:
        connection = Connection(unused, TIMEOUTS, lambda _connection, _reusable: None)
        wire = Wire()
        connection.connection_made(wire)
        exchange = asyncio.create_task(connection.exchange(b"head", b"", length=0, reused=False))
        await asyncio.sleep(0)
        for piece in pieces:
            connection.data_received(piece)
        if then_eof:
            connection.eof_received()
        try:
            answer = await exchange
            body = b""
            while data := await answer.read():
                body += data
            answer.close()
        except UpstreamError as error:
            return type(error).__name__, False
        return Reply(answer.status, answer.headers, body), not wire.aborted


BROKEN = [
    LENGTH_5 + b"hell",
    CHUNKED + b"zz\r\n",
    answer(b"ok") * 2,
    LENGTH_5 + b"hello!",
    CHUNKED + b"5\r\nhello!\r\n",
]


@settings(deadline=None, max_examples=300)
@given(data=st.data(), source=st.sampled_from([*(each[0] for each in (KEPT | CLOSED).values()), *BROKEN]))
async def test_any_cut_of_an_answer_gives_the_same_answer(data: st.DataObject, source: bytes) -> None:
    """Status, headers, body and what becomes of the connection depend on the bytes alone."""
    cuts = data.draw(st.lists(st.integers(1, max(1, len(source) - 1)), max_size=8).map(sorted))
    edges = [0, *cuts, len(source)]
    pieces = [source[start:end] for start, end in pairwise(edges) if start < end]
    whole = await read_in_pieces([source], then_eof=True)
    assert await read_in_pieces(pieces, then_eof=True) == whole


async def test_header_values_keep_their_odd_bytes() -> None:
    """obs-text, inner blanks and empty values come as they were sent; names come in lower case, repeats stay."""
    fields = b"X-A: caf\xe9 \xff  x\r\nx-empty:\r\nSet-Cookie: a\r\nset-cookie: b\r\n"
    head = b"HTTP/1.1 200 OK\r\n" + fields + b"content-length: 0\r\n\r\n"
    with ScriptedUpstream(says(head)) as upstream:
        async with pool_for(upstream) as pool:
            reply = await ask(pool)
    assert reply.headers == [
        (b"x-a", b"caf\xe9 \xff  x"),
        (b"x-empty", b""),
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
        (b"content-length", b"0"),
    ]


async def test_the_headers_of_informational_answers_and_trailers_are_not_the_answers() -> None:
    """What comes before or after the answer's own head does not mix with it."""
    hints = b"HTTP/1.1 103 Early Hints\r\nx-early: 1\r\n\r\n"
    with ScriptedUpstream(says(hints + CHUNKED + b"0\r\nx-late: 1\r\n\r\n")) as upstream:
        async with pool_for(upstream) as pool:
            reply = await ask(pool)
    assert reply.headers == [(b"transfer-encoding", b"chunked")]


BAD: dict[str, bytes] = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "status 99": b"HTTP/1.1 99 Low\r\n\r\n",
    "status 600": b"HTTP/1.1 600 High\r\ncontent-length: 0\r\n\r\n",
    "101 without being asked": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "too many informational": b"HTTP/1.1 102 Processing\r\n\r\n" * (INTERIM_MAX + 1),
    "informational with a body": b"HTTP/1.1 110 X\r\ncontent-length: 3\r\n\r\nabc",
    "one huge header": b"HTTP/1.1 200 OK\r\nx: " + b"x" * HEAD_BYTES_MAX + b"\r\ncontent-length: 0\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (HEAD_BYTES_MAX // 6) + b"content-length: 0\r\n\r\n",
    "length and chunked": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "a list of lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello",
    "a signed length": b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello",
    "a length beyond 64 bits": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nhello",
    "gzip": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nx",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a header without a colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "a folded header": b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n",
    "a NUL in a header": b"HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n",
    "a blank before the colon": b"HTTP/1.1 200 OK\r\ncontent-length : 5\r\n\r\nhello",
}


@pytest.mark.parametrize("name", BAD)
async def test_an_answer_that_is_not_http_is_refused_and_its_connection_closed(name: str) -> None:
    """Framing that two readers could understand differently, or that passes a bound, is a `BadAnswer`."""
    with ScriptedUpstream(says(BAD[name])) as upstream:
        async with pool_for(upstream) as pool:
            with pytest.raises(BadAnswer):
                await ask(pool)
            await upstream.until_all_closed()
            assert (await ask(pool)).tag["connection"] == 1
    assert len(upstream.requests) == 2


ENDLESS = {
    "status line": (b"HTTP/1.1 200 ", b"O" * 1000),
    "one header": (b"HTTP/1.1 200 OK\r\nx: ", b"x" * 1000),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 100),
    "a trailer": (CHUNKED + b"1\r\nx\r\n0\r\nx: ", b"x" * 1000),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", b"x: y\r\n" * 100),
    "a chunk extension": (CHUNKED + b"1;", b"x" * 1000),
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_is_not_body_has_a_bound(name: str) -> None:
    """An upstream that never comes to the point is cut off after a bounded number of bytes."""
    start, more = ENDLESS[name]

    def goes_on(peer: Peer) -> None:
        peer.request()
        peer.send(start)
        while True:
            peer.send(more)

    with ScriptedUpstream(goes_on) as upstream:
        async with pool_for(upstream) as pool:
            with pytest.raises(BadAnswer, match="headers"):
                await ask(pool)
            await upstream.until_all_closed()


@pytest.mark.parametrize(
    "chunks", [b"x\r\n", b"-1\r\nx\r\n", b"1 \r\nx\r\n", b"F" * 17 + b"\r\n", b"1\r\nxy\r\n", b"1\nx\n"]
)
async def test_a_chunk_that_is_not_well_formed_breaks_the_body(chunks: bytes) -> None:
    """The bytes before it are delivered, and then the answer is broken rather than ended."""
    with ScriptedUpstream(says(CHUNKED + b"4\r\ngood\r\n" + chunks)) as upstream:
        async with pool_for(upstream) as pool:
            with pytest.raises(BadAnswer):
                await ask(pool)
            await upstream.until_all_closed()


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize(
    "data", [answer(b"hello"), CHUNKED + b"5\r\nhello\r\n0\r\nx: y\r\n\r\n"], ids=["length", "chunked"]
)
async def test_an_upstream_that_breaks_off_anywhere_never_looks_finished(data: bytes, *, reset: bool) -> None:
    """Cut after any of its bytes but the last, an answer is broken; a POST that was fully sent is not sent again."""
    for at in range(len(data)):

        def breaks_off(peer: Peer, end: int = at) -> None:
            peer.request()
            peer.send(data[:end])
            peer.reset() if reset else peer.close()

        with ScriptedUpstream(breaks_off) as upstream:
            async with pool_for(upstream) as pool:
                with pytest.raises(ConnectionBroken):
                    await ask(pool, b"{}")
            assert len(upstream.requests) == 1


async def test_a_reset_does_not_end_a_body_without_a_length() -> None:
    """Only an orderly close says that such a body is whole."""
    delivered = threading.Event()

    def resets(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        peer.wait(delivered)
        peer.reset()

    with ScriptedUpstream(resets) as upstream:
        async with pool_for(upstream) as pool:
            answer = await send(pool)
            assert await answer.read() == b"hello"
            delivered.set()
            with pytest.raises(ConnectionBroken):
                await rest(answer)


async def test_closing_the_pool_does_not_end_a_body_without_a_length() -> None:
    """An answer that is cut off by this side's own stopping is not taken for a whole one."""
    with ScriptedUpstream(says(b"HTTP/1.1 200 OK\r\n\r\nhello")) as upstream:
        async with pool_for(upstream) as pool:
            answer = await send(pool)
            assert await answer.read() == b"hello"
            await pool.close()
            with pytest.raises(ConnectionBroken):
                await rest(answer)
