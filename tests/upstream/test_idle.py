"""Who may use a kept connection, and when."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from proxy.upstream import idle as idling
from proxy.upstream.connection import Connection
from proxy.upstream.idle import REST_S, Idle
from tests.scripted import Peer, ScriptedUpstream, answer, answers
from tests.upstream.asking import TIMEOUTS, ask, pool_for


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as unused:
        yield unused


def used_by(tenant: str, sock: socket.socket) -> Connection:
    connection = Connection(sock, TIMEOUTS, lambda _connection, _reusable: None)
    connection.tenant = tenant
    return connection


async def test_its_tenant_has_a_connection_back_at_once_the_last_one_first(sock: socket.socket) -> None:
    idle = Idle()
    first, second = used_by("a", sock), used_by("a", sock)
    idle.put(first, 0.0)
    idle.put(second, 0.1)
    assert len(idle) == 2
    assert idle.take("a", 0.1) is second
    assert idle.take("a", 0.1) is first
    assert idle.take("a", 0.1) is None
    assert len(idle) == 0


async def test_another_tenant_has_it_after_a_rest(sock: socket.socket) -> None:
    idle = Idle()
    first, second, third = (used_by("a", sock) for _ in range(3))
    for number, connection in enumerate((first, second, third)):
        idle.put(connection, number / 10)
    assert idle.take("b", REST_S - 0.01) is None
    assert idle.take("b", REST_S + 0.15) is second  # the last of those that have rested
    assert idle.take("b", REST_S + 0.15) is first
    assert idle.take("b", REST_S + 0.15) is None
    assert idle.take("a", REST_S + 0.15) is third


async def test_what_has_rested_is_still_its_own_tenants(sock: socket.socket) -> None:
    idle = Idle()
    own, others = used_by("a", sock), used_by("b", sock)
    idle.put(own, 0.0)
    idle.put(others, 0.5)
    assert idle.take("c", REST_S) is own
    own.tenant = "c"
    idle.put(own, REST_S)
    assert idle.take("a", REST_S) is None
    assert idle.take("c", REST_S) is own


async def test_the_oldest_is_the_one_that_waited_longest_and_can_be_taken_out(sock: socket.socket) -> None:
    idle = Idle()
    first, second = used_by("a", sock), used_by("b", sock)
    assert idle.oldest() is None
    idle.put(first, 0.0)
    idle.put(second, 2 * REST_S)
    assert idle.take("c", 2 * REST_S) is first
    idle.put(first, 2 * REST_S)
    assert idle.oldest() is second
    idle.remove(second)
    idle.remove(second)  # which need not be there
    assert idle.oldest() is first
    assert len(idle) == 1


LATE = "what another tenant was told"


async def test_an_answer_that_comes_too_late_never_meets_another_tenants_request() -> None:
    """The upstream answers twice, the second time when the connection would be in other hands."""

    def says_it_twice(peer: Peer) -> None:
        peer.request()
        peer.send(answer(LATE.encode()))
        peer.read_head()  # the next request on this connection, if there is one, meets the answer to the last
        peer.send(answer(LATE.encode()))

    with ScriptedUpstream(says_it_twice, default=answers) as upstream:
        async with pool_for(upstream, connections_max=1) as pool:
            assert (await ask(pool, tenant="a")).body == LATE.encode()
            reply = await ask(pool, tenant="b")
            assert reply.tag["connection"] == 1
        assert upstream.counts.accepted == 2


async def test_a_late_answer_closes_the_connection_while_it_rests() -> None:
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream, connections_max=1) as pool:
            await ask(pool, tenant="a")
            upstream.peers[0].send(answer(LATE.encode()))
            await upstream.until_all_closed()
            assert pool.connections == 0


async def test_tenants_share_what_has_rested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idling, "REST_S", 0.05)
    with ScriptedUpstream() as upstream:
        async with pool_for(upstream) as pool:
            await ask(pool, tenant="a")
            await asyncio.sleep(0.06)
            assert (await ask(pool, tenant="b")).tag["connection"] == 0
            assert (await ask(pool, tenant="a")).tag["connection"] == 1
