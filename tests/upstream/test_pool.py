"""Who gets which connection: bounds, waiting in line, keeping and closing."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from proxy.errors import ClientGone, ConnectFailed, PoolExhausted, UpstreamError
from proxy.upstream.connection import Connection
from proxy.upstream.pool import Pool
from tests.scripted import Peer, Script, ScriptedUpstream, answer, answers
from tests.upstream.asking import Reply, ask, open_sockets, pool_for, rest, send, settled


def held_until(release: threading.Event) -> Script:
    """Answers like `answers`, the first request not before the event."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.wait(release)
        peer.send(answer(b"first"))
        answers(peer)

    return script


async def waiting(pool: Pool, *tasks: asyncio.Task[Reply]) -> None:
    """Give these tasks the turns that they need to stand in line."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


async def test_160_requests_at_once_start_at_once() -> None:
    """No hidden bound: each is at the upstream before the first is answered."""
    release = threading.Event()
    with ScriptedUpstream(default=held_until(release)) as upstream:
        async with pool_for(upstream, connections_max=1000) as pool:
            tasks = [asyncio.create_task(ask(pool)) for _ in range(160)]
            await upstream.until(lambda up: len(up.requests) == 160)
            assert pool.connections == 160
            release.set()
            await asyncio.gather(*tasks)
            await asyncio.gather(*[ask(pool) for _ in range(160)])
            assert upstream.counts.accepted == 160, "kept, and used again"


async def test_the_bound_holds_and_everyone_is_served_in_order() -> None:
    """Twenty requests over three connections: never more, and first come, first served."""
    release = threading.Event()
    order: list[int] = []
    with ScriptedUpstream(default=held_until(release)) as upstream:
        async with pool_for(upstream, connections_max=3, waiting_max=20) as pool:

            async def one(number: int) -> None:
                def begin(_: Connection) -> None:
                    order.append(number)

                await rest(await pool.send("POST", b"/x", [], b"", length=0, tenant="a", begin=begin))

            tasks = [asyncio.create_task(one(number)) for number in range(20)]
            await upstream.until(lambda up: len(up.requests) == 3)
            release.set()
            await asyncio.gather(*tasks)
    assert upstream.counts.accepted == 3
    assert sorted(order[:3]) == [0, 1, 2], "these were connecting, each at its own speed"
    assert order[3:] == list(range(3, 20))


async def test_who_comes_later_does_not_get_in_between() -> None:
    """A connection that comes back belongs to who waits, though a newcomer asks before the waiter runs."""
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream, connections_max=1) as pool:
            holder = await send(pool, target="/holder")
            first = asyncio.create_task(ask(pool, target="/first"))
            await waiting(pool, first)
            while not holder.at_end:
                await holder.read()
            holder.close()  # the turn is given here; `first` runs only at the next turn of the loop
            second = asyncio.create_task(ask(pool, target="/second"))
            await asyncio.gather(first, second)
    assert [request.target for request in upstream.requests] == ["/holder", "/first", "/second"]


async def test_the_queue_has_a_bound() -> None:
    """Who finds it full is refused at once."""
    release = threading.Event()
    with ScriptedUpstream(held_until(release)) as upstream:
        async with pool_for(upstream, connections_max=1, waiting_max=2) as pool:
            tasks = [asyncio.create_task(ask(pool)) for _ in range(3)]
            await waiting(pool, *tasks)
            with pytest.raises(PoolExhausted, match="queue"):
                await ask(pool)
            release.set()
            await asyncio.gather(*tasks)


async def test_waiting_has_a_bound() -> None:
    """Who has waited `wait_s` is refused, and leaves nothing behind in the queue."""
    release = threading.Event()
    with ScriptedUpstream(held_until(release)) as upstream:
        async with pool_for(upstream, connections_max=1, wait_s=0.2) as pool:
            task = asyncio.create_task(ask(pool))
            with pytest.raises(PoolExhausted, match=r"0\.2 s"):
                await asyncio.gather(*[ask(pool) for _ in range(3)])
            release.set()
            await task
            assert (await ask(pool)).tag["connection"] == 0


async def test_a_waiter_that_gives_up_just_when_its_turn_comes_passes_it_on() -> None:
    """No wake-up is lost, wherever the cancellation falls."""
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream, connections_max=1, wait_s=2) as pool:
            for turns in range(4):
                holder = await send(pool)
                quitter = asyncio.create_task(ask(pool))
                heir = asyncio.create_task(ask(pool, target="/heir"))
                await waiting(pool, quitter, heir)
                while not holder.at_end:
                    await holder.read()
                holder.close()
                for _ in range(turns):
                    await asyncio.sleep(0)
                quitter.cancel()
                assert (await heir).tag["target"] == "/heir"
                await settled(quitter)
                assert (await ask(pool)).status == 200
            assert pool.connections == 1


async def test_a_waiter_whose_time_ends_just_when_its_turn_comes_passes_it_on() -> None:
    """The same for timeouts, which fall anywhere: afterwards every place can still be used."""
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream, connections_max=2, waiting_max=64, wait_s=0.001) as pool:
            for _ in range(40):
                results = await asyncio.gather(*[ask(pool) for _ in range(16)], return_exceptions=True)
                assert all(isinstance(result, Reply | PoolExhausted) for result in results)
            assert pool.connections <= 2
            replies = await asyncio.gather(ask(pool), ask(pool))
            assert [reply.status for reply in replies] == [200, 200]


async def test_a_connection_that_cannot_be_made_wakes_who_waits_for_its_place() -> None:
    """Each of them tries for itself, and none waits for its time to end."""
    with ScriptedUpstream() as upstream:
        url = upstream.url
    async with pool_for(url, connections_max=1, wait_s=60) as pool:
        async with asyncio.timeout(5):
            results = await asyncio.gather(*[ask(pool) for _ in range(8)], return_exceptions=True)
        assert all(isinstance(result, ConnectFailed) for result in results)
        assert pool.connections == 0


async def test_a_connection_that_breaks_wakes_who_waits_for_its_place() -> None:
    """The place goes to the next in line, who makes a new connection."""
    release = threading.Event()

    def breaks(peer: Peer) -> None:
        peer.request()
        peer.wait(release)
        peer.reset()

    with ScriptedUpstream(breaks) as upstream:
        async with pool_for(upstream, connections_max=1) as pool:
            broken = asyncio.create_task(ask(pool))
            heir = asyncio.create_task(ask(pool))
            await upstream.until(lambda up: len(up.requests) == 1)
            await waiting(pool, heir)
            release.set()
            assert (await heir).tag["connection"] == 1
            with pytest.raises(UpstreamError):
                await broken


async def test_a_request_that_is_stopped_before_it_is_sent_leaves_its_connection() -> None:
    """What `begin` raises comes out, nothing is sent, and the connection serves the next request."""

    def stop(_: Connection) -> None:
        raise ClientGone("The client left.")

    with ScriptedUpstream() as upstream:
        async with pool_for(upstream, idle_s=0.3) as pool:
            for _ in range(2):
                with pytest.raises(ClientGone):
                    await pool.send("POST", b"/x", [], b"", length=0, tenant="a", begin=stop)
            await asyncio.sleep(0.2)  # the sweeper has come by: what was not used is not old
            assert (await ask(pool)).tag["connection"] == 0
    assert len(upstream.requests) == 1


async def test_a_connection_that_was_idle_for_too_long_is_closed() -> None:
    """The longest idle goes first; the one that is used again and again stays."""
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream, idle_s=0.3) as pool:
            await asyncio.gather(ask(pool), ask(pool))
            assert pool.connections == 2
            while upstream.counts.open == 2:
                await ask(pool)
                await asyncio.sleep(0.01)
            assert pool.connections == 1
            await upstream.until_all_closed()
            assert pool.connections == 0
            assert (await ask(pool)).tag["connection"] == 2
            await upstream.until_all_closed()  # the sweeper, which had gone to rest, runs again


@pytest.mark.parametrize("parting", [b"", b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n", b"x", b"\r\n"])
async def test_a_connection_that_the_upstream_closes_or_speaks_on_while_idle_is_dropped_at_once(parting: bytes) -> None:
    """It does not wait for the next request to be found dead."""
    release = threading.Event()

    def leaves(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"first"))
        peer.wait(release)
        peer.send(parting)
        if not parting:
            peer.half_close()

    with ScriptedUpstream(leaves) as upstream:
        async with pool_for(upstream) as pool:
            await ask(pool)
            assert pool.connections == 1
            release.set()
            await upstream.until_all_closed()
            assert pool.connections == 0
            assert (await ask(pool, b"{}")).tag["connection"] == 1


async def test_a_close_that_the_loop_has_not_seen_yet_is_seen_before_the_connection_is_used() -> None:
    """The kernel knows first: the request goes over a new connection without being sent twice."""
    release = threading.Event()
    closed = threading.Event()

    def leaves(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"first"))
        peer.wait(release)
        peer.close()
        closed.set()

    with ScriptedUpstream(leaves) as upstream:
        async with pool_for(upstream) as pool:
            await ask(pool)
            release.set()
            assert closed.wait(5)  # blocks the loop, so that it can notice nothing
            assert (await ask(pool, b"{}")).tag["connection"] == 1
    assert [request.body for request in upstream.requests] == [b"", b"{}"]


async def test_closing_the_pool_closes_everything_and_refuses_everyone() -> None:
    """Idle, in use, being made, waiting: nothing survives, nothing hangs."""

    def never(peer: Peer) -> None:
        peer.request()
        peer.stall()

    def once(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"first"))
        never(peer)

    with ScriptedUpstream(once, default=never) as upstream:
        async with pool_for(upstream, connections_max=3) as pool:
            await ask(pool)
            tasks = [asyncio.create_task(ask(pool)) for _ in range(5)]
            await upstream.until(lambda up: len(up.requests) == 4)
            await pool.close()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert sum(isinstance(result, PoolExhausted) for result in results) == 2
            with pytest.raises(PoolExhausted, match="stopping"):
                await ask(pool)
            await upstream.until_all_closed()
            assert pool.connections == 0
            await pool.close()


async def test_closing_the_pool_stops_a_connection_that_is_being_made() -> None:
    """It is closed when it arrives, and its request is refused."""
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream) as pool:
            task = asyncio.create_task(ask(pool))
            await asyncio.sleep(0)
            assert pool.connections == 1
            await pool.close()
            with pytest.raises(PoolExhausted, match="stopping"):
                await task
            await upstream.until_all_closed()
    assert upstream.requests == []


async def test_an_answer_that_is_closed_late_or_twice_does_not_touch_the_next_request() -> None:
    """By then the connection is another request's."""
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream, connections_max=1) as pool:
            old = await send(pool)
            while not old.at_end:
                await old.read()
            old.close()
            new = await send(pool, target="/new")
            old.close()
            old.limit(0)
            assert b"/new" in await rest(new)
            old.close()
            assert (await ask(pool)).tag["connection"] == 0


async def test_a_limit_on_a_connection_that_is_idle_does_not_fall_on_the_next_request() -> None:
    """Who kept the connection of a request that has ended cannot harm those that follow."""
    seen: list[Connection] = []
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream, connections_max=1) as pool:
            await rest(await pool.send("POST", b"/x", [], b"", length=0, tenant="a", begin=seen.append))
            seen[0].limit(0)
            await asyncio.sleep(0.2)  # the sweeper has come by
            assert (await ask(pool)).tag["connection"] == 0


async def test_no_socket_is_left() -> None:
    """After answers, failures, cancellations and the pool's end the process holds as many sockets as before."""
    gc.collect()
    before = open_sockets()
    with ScriptedUpstream(default=Peer.reset) as dead, ScriptedUpstream() as upstream:
        async with pool_for(dead) as broken, pool_for(upstream) as pool:
            await asyncio.gather(*[ask(broken) for _ in range(10)], return_exceptions=True)
            await asyncio.gather(*[ask(pool) for _ in range(10)])
            tasks = [asyncio.create_task(ask(pool)) for _ in range(16)]
            await asyncio.sleep(0)
            await settled(*tasks)
        await upstream.until_all_closed()
        await dead.until_all_closed()
    gc.collect()
    assert open_sockets() == before
