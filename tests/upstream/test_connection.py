"""The pace of an answer: who waits for whom, how much waits in memory, and when waiting ends."""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from proxy.errors import ConnectionBroken, UpstreamTimeout
from proxy.upstream.connection import BUFFER_BYTES_MAX, Timeouts
from tests.scripted import Peer, Script, ScriptedUpstream, answer, answers, says
from tests.upstream.asking import ask, pool_for, rest, send

FAST = Timeouts(first_byte_s=0.3, between_bytes_s=0.3)
BLOCK = bytes(1 << 20)


def floods(megabytes: int) -> Script:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (megabytes << 20))
        for _ in range(megabytes):
            peer.send(BLOCK)
        peer.close()

    return script


async def stands_still(upstream: ScriptedUpstream) -> int:
    """How much the first connection's script could send before it had to wait."""
    await upstream.until(lambda up: bool(up.peers) and up.peers[0].sent > 0)
    before = -1
    while before != upstream.peers[0].sent:
        before = upstream.peers[0].sent
        await asyncio.sleep(0.1)
    return before


async def test_a_reader_that_stops_stops_the_upstream_and_no_timeout_counts_that() -> None:
    """The upstream waits in the kernel, longer than any timeout, and then everything comes, its close included."""
    with ScriptedUpstream(floods(48)) as upstream:
        async with pool_for(upstream, timeouts=FAST) as pool:
            answer = await send(pool)
            assert await stands_still(upstream) < 24 << 20, "only the kernel's buffers may be full"
            await asyncio.sleep(2 * FAST.between_bytes_s)
            assert len(await rest(answer)) == 48 << 20


#: What uvloop reads at once.
READ_BYTES = 256_000


async def test_a_large_answer_passes_through_little_memory() -> None:
    """50 MB take the buffer and the read that overfilled it, at most, and copies of that on its way."""
    with ScriptedUpstream(floods(50)) as upstream:
        async with pool_for(upstream) as pool:
            answer = await send(pool)
            tracemalloc.start()
            size = 0
            while data := await answer.read():
                size += len(data)
                await asyncio.sleep(0.001)  # slower than the upstream, so that the buffer fills
            answer.close()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert size == 50 << 20
    assert peak < BUFFER_BYTES_MAX + 7 * READ_BYTES


async def test_events_pass_as_they_come() -> None:
    """Nothing waits for more: each chunk can be read before the upstream sends the next."""
    steps = [threading.Event() for _ in range(5)]

    def streams(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for number, step in enumerate(steps):
            peer.wait(step)
            peer.send(b"3\r\n<%d>\r\n" % number)
        peer.send(b"0\r\n\r\n")
        answers(peer)

    with ScriptedUpstream(streams) as upstream:
        async with pool_for(upstream) as pool:
            answer = await send(pool)
            for number, step in enumerate(steps):
                assert not answer.at_end
                step.set()
                assert await answer.read() == b"<%d>" % number
            assert await rest(answer) == b""
            assert (await ask(pool)).tag["connection"] == 0


async def test_the_end_is_known_with_the_last_bytes() -> None:
    """`at_end` holds as soon as the last bytes are read, so that they can be held back for the settlement."""
    with ScriptedUpstream(says(answer(b"all"))) as upstream:
        async with pool_for(upstream) as pool:
            one = await send(pool)
            assert await one.read() == b"all"
            assert one.at_end
            one.close()


def silent(*pieces: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.request()
        for piece in pieces:
            peer.send(piece)
        peer.stall()

    return script


@pytest.mark.parametrize(
    "pieces",
    [[], [b"HTTP/1.1 100 Continue\r\n\r\n"], [b"HTTP/1.1 200 OK\r\nx:"]],
    ids=["nothing", "informational", "half a head"],
)
async def test_an_upstream_that_does_not_answer_is_given_up(pieces: list[bytes]) -> None:
    """The first byte timeout runs to the end of the final head. Its connection is closed."""
    with ScriptedUpstream(silent(*pieces)) as upstream:
        async with pool_for(upstream, timeouts=Timeouts(0.3, 5)) as pool:
            start = time.monotonic()
            with pytest.raises(UpstreamTimeout, match=r"0\.3 s"):
                await ask(pool)
            assert 0.25 < time.monotonic() - start < 1
            await upstream.until_all_closed()


async def test_informational_answers_do_not_prolong_the_wait() -> None:
    """An upstream that only ever says that it is working is given up all the same."""

    def works(peer: Peer) -> None:
        peer.request()
        while True:
            peer.send(b"HTTP/1.1 102 Processing\r\n")
            time.sleep(0.05)  # the upstream's own pace
            peer.send(b"x: y\r\n\r\n")

    with ScriptedUpstream(works) as upstream:
        async with pool_for(upstream, timeouts=Timeouts(0.3, 5)) as pool:
            with pytest.raises(UpstreamTimeout):
                await ask(pool)


async def test_an_upstream_that_stops_in_its_answer_is_given_up() -> None:
    """What came is delivered first, then the timeout."""
    with ScriptedUpstream(silent(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")) as upstream:
        async with pool_for(upstream, timeouts=Timeouts(5, 0.3)) as pool:
            answer = await send(pool)
            assert await answer.read() == b"half"
            with pytest.raises(UpstreamTimeout, match="middle"):
                await answer.read()
            answer.close()
            await upstream.until_all_closed()


async def test_a_slow_answer_that_goes_on_is_borne() -> None:
    """The time between two reads counts, not the whole."""

    def slow(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n")
        for _ in range(6):
            time.sleep(0.1)  # the upstream's own pace
            peer.send(b"x")

    with ScriptedUpstream(slow) as upstream:
        async with pool_for(upstream, timeouts=FAST) as pool:
            assert (await ask(pool)).body == b"xxxxxx"


async def test_a_slow_client_that_sends_is_not_the_upstreams_silence() -> None:
    """While a piece of the request's body is waited for, no timeout of the upstream runs; then it does."""

    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(2.5 * FAST.first_byte_s)
        yield b"b"

    with ScriptedUpstream(says(answer(b"ok")), silent()) as upstream:
        async with pool_for(upstream, timeouts=FAST, connections_max=1) as pool:
            assert (await ask(pool, slow(), length=2)).body == b"ok"
            with pytest.raises(UpstreamTimeout):
                await ask(pool, slow(), length=2)


async def test_an_upstream_that_does_not_take_the_request_is_given_up() -> None:
    """A body that gets stuck counts as silence, for bytes and iterators alike."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield BLOCK

    with ScriptedUpstream(default=Peer.stall, receive_bytes=65536) as upstream:
        async with pool_for(upstream, timeouts=FAST) as pool:
            for body in (endless(), bytes(64 << 20)):
                with pytest.raises(UpstreamTimeout):
                    await ask(pool, body, length=64 << 20)


async def test_an_upload_may_take_longer_than_the_first_byte_timeout() -> None:
    """A slow link is not a silent upstream, as long as it takes a slice now and then."""

    def sips(peer: Peer) -> None:
        head = peer.read_head()
        for _ in range(8):
            time.sleep(0.1)  # the upstream's own pace
            peer.read(1 << 20)
        peer.send(answer(head[:4]))

    with ScriptedUpstream(sips, receive_bytes=65536) as upstream:
        async with pool_for(upstream, timeouts=FAST) as pool:
            assert (await ask(pool, bytes(8 << 20))).body == b"POST"


async def test_a_limit_ends_an_answer_that_keeps_coming() -> None:
    """`limit` is for a client that left: the rest may come for so long, and no longer."""

    def drips_for_ever(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            time.sleep(0.02)  # the upstream's own pace
            peer.send(b"x")

    with ScriptedUpstream(drips_for_ever) as upstream:
        async with pool_for(upstream) as pool:
            answer = await send(pool)
            answer.limit(0.3)
            start = time.monotonic()
            with pytest.raises(UpstreamTimeout):
                await rest(answer)
            assert 0.25 < time.monotonic() - start < 1
            await upstream.until_all_closed()


async def test_a_limit_holds_while_the_reader_has_stopped() -> None:
    """A reader that never comes back does not keep the connection for ever."""
    with ScriptedUpstream(floods(48)) as upstream:
        async with pool_for(upstream) as pool:
            answer = await send(pool)
            await stands_still(upstream)
            answer.limit(0.2)
            await upstream.until_all_closed()
            with pytest.raises(UpstreamTimeout):
                await rest(answer)


async def test_a_whole_answer_has_no_timeout() -> None:
    """When everything has come, the reader may take its time, and the connection is kept."""
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream, timeouts=FAST) as pool:
            answer = await send(pool)
            await asyncio.sleep(0)
            answer.limit(0.1)
            await asyncio.sleep(2 * FAST.between_bytes_s)
            assert b"connection" in await rest(answer)
            assert (await ask(pool)).tag["connection"] == 0


async def test_an_upstream_that_dies_while_the_reader_has_stopped_breaks_the_answer_at_its_end() -> None:
    """What had come is delivered, then the answer is broken."""
    filled = threading.Event()

    def dies(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (1 << 30))
        peer.send(BLOCK)
        peer.wait(filled)
        peer.close()

    with ScriptedUpstream(dies) as upstream:
        async with pool_for(upstream) as pool:
            answer = await send(pool)
            await upstream.until(lambda up: up.peers[0].sent > 1 << 20)
            filled.set()
            await upstream.until_all_closed()
            size = 0
            while size < 1 << 20:
                size += len(await answer.read())
            with pytest.raises(ConnectionBroken):
                await rest(answer)
