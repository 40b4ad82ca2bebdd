"""One connection, thousands of requests, an upstream that misbehaves: nobody ever gets another's answer."""

from __future__ import annotations

import asyncio
import random

import pytest

from proxy.errors import ConnectionBroken, UpstreamError
from tests.scripted import Peer, Script, ScriptedUpstream, answer, answers
from tests.upstream.asking import ask, pool_for, rest, send, settled

LEFT_OVER = [b"x", b"\r\n", answer(b"another's"), b"HTTP/1.1 100 Continue\r\n\r\n", b"\x00" * 100, b"0\r\n\r\n"]


def misbehaves(seed: int) -> Script:
    """Echoes each body as the answer, mostly; what it does besides is drawn from the seed and the connection."""

    def script(peer: Peer) -> None:
        draw = random.Random(seed * 1_000_003 + peer.index)
        while True:
            request = peer.request()
            whole = answer(request.body)
            if draw.random() < 0.5:
                chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(request.body), request.body)
                whole = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk
            if draw.random() < 0.2:
                whole = b"HTTP/1.1 103 Early Hints\r\n\r\n" + whole
            match draw.randrange(12):
                case 0:
                    peer.send(whole[: draw.randrange(len(whole))])
                    return peer.close()
                case 1:
                    peer.send(whole[: draw.randrange(len(whole))])
                    return peer.reset()
                case 2:
                    peer.send(whole + draw.choice(LEFT_OVER))
                case 3:
                    peer.send(whole)
                    return peer.close()
                case 4:
                    peer.drip(whole)
                case _:
                    peer.send(whole)

    return script


@pytest.mark.parametrize("seed", range(3))
async def test_an_answer_is_always_its_own_requests(seed: int) -> None:
    """Of ten thousand requests over one place, each ends with its own body or an error; some are cancelled, some
    stop reading in the middle."""
    draw = random.Random(seed)
    whole = 0
    with ScriptedUpstream(default=misbehaves(seed)) as upstream:
        async with pool_for(upstream, connections_max=1, waiting_max=64) as pool:

            async def one(number: int) -> None:
                nonlocal whole
                body = b"<%d>" % number
                try:
                    got = await send(pool, body)
                    if draw.random() < 0.05:
                        return got.close()
                    assert await rest(got) == body
                    whole += 1
                except UpstreamError:
                    pass

            for start in range(0, 3_400, 8):
                tasks = [asyncio.create_task(one(number)) for number in range(start, start + 8)]
                if draw.random() < 0.2:
                    await asyncio.sleep(draw.random() * 0.002)
                    await settled(tasks[draw.randrange(8)])
                done = await asyncio.gather(*tasks, return_exceptions=True)
                assert not [error for error in done if isinstance(error, AssertionError)]
            assert pool.connections <= 1
    assert whole > 2_000
    bodies = [request.body for request in upstream.requests]
    assert len(bodies) == len(set(bodies)), "a request that had arrived whole was sent again"


@pytest.mark.parametrize("extra", LEFT_OVER)
async def test_bytes_after_an_answer_do_not_reach_the_next(extra: bytes) -> None:
    """The answer stands, and the next request has its own: over a new connection, unless it was an empty line that
    came with the answer, which no parser would take for a part of anything."""

    def says_more(peer: Peer) -> None:
        request = peer.request()
        peer.send(answer(request.body) + extra)
        answers(peer)

    with ScriptedUpstream(says_more) as upstream:
        async with pool_for(upstream, connections_max=1) as pool:
            assert (await ask(pool, b"first")).body == b"first"
            tag = (await ask(pool, b"second")).tag
            assert tag["body"] == "second"
            assert tag["connection"] == (0 if extra == b"\r\n" else 1)


async def test_bytes_that_come_while_the_answer_is_being_read_close_the_connection() -> None:
    """Even an empty line: the answer had ended, so whatever follows was not asked for."""
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream) as pool:
            got = await send(pool, b"first")
            while not got.at_end:
                await got.read()
            upstream.peers[0].send(b"\r\n")
            await upstream.until_all_closed()
            got.close()
            assert (await ask(pool)).tag["connection"] == 1


async def test_an_answer_that_is_not_read_to_its_end_costs_the_connection() -> None:
    """What is left of it would be the next request's."""

    def half(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        peer.stall()

    with ScriptedUpstream(half) as upstream:
        async with pool_for(upstream, connections_max=1) as pool:
            got = await send(pool)
            assert await got.read() == b"half"
            got.close()
            await upstream.until_all_closed()
            assert (await ask(pool)).tag["connection"] == 1


async def test_an_answer_that_filled_the_buffer_and_was_not_read_does_not_leave_a_deaf_connection() -> None:
    """Its reading was paused: whoever had it next would hear nothing."""

    def large(peer: Peer) -> None:
        peer.request()
        peer.send(answer(bytes(400 * 1024)))
        answers(peer)

    with ScriptedUpstream(large) as upstream:
        async with pool_for(upstream, connections_max=1) as pool:
            got = await send(pool)
            await upstream.until(lambda up: up.peers[0].sent > 400 * 1024)
            await asyncio.sleep(0.05)  # it has all come, but for what the kernel holds
            got.close()
            assert (await ask(pool)).status == 200


async def test_many_kept_connections_that_all_died_cost_one_attempt_each_at_most() -> None:
    """After an upstream's restart every request still gets its answer, and none is sent twice."""

    def once(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"first"))
        peer.close()

    with ScriptedUpstream(*[once] * 10) as upstream:
        async with pool_for(upstream) as pool:
            await asyncio.gather(*[ask(pool) for _ in range(10)])
            await upstream.until_all_closed(accepted=10)
            replies = await asyncio.gather(*[ask(pool, b"%d" % number) for number in range(10)], return_exceptions=True)
            assert not [reply for reply in replies if isinstance(reply, ConnectionBroken)]
    assert sorted(request.body for request in upstream.requests[10:]) == [b"%d" % number for number in range(10)]
