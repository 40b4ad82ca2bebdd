from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.errors import LedgerUnavailable, RateLimited
from proxy.gateway import shares as shares_
from proxy.gateway.counters import Counters
from proxy.gateway.quotas import Quotas
from proxy.gateway.shares import Shares
from proxy.limits import Calendar
from proxy.model import Caller, Usage
from proxy.store import board as boards
from proxy.store.board import Board
from tests.gateway.spending import Clock, Spending
from tests.gateway.test_quotas import NOW, call, caller
from tests.store.samples import settlement


class Worker:
    """One of several, with a ledger that is a list."""

    def __init__(self, path: Path, place: int, spending: Spending, clock: Clock, *, wait_s: float) -> None:
        self.board = Board(path)
        self.shares = Shares(self.board, place)
        self.quotas = Quotas(
            Counters(spending, Calendar(), clock()),
            output_tokens=100,
            wait_s=wait_s,
            rate_wait_s=0.0,
            now_ms=clock,
            shares=self.shares,
        )
        self.shares.reached(1)


class World:
    def __init__(self, directory: Path) -> None:
        self.board = Board.create(directory / "ledger", 4)
        self.spending = Spending()
        self.clock = Clock()
        self.workers: list[Worker] = []
        self._callers: dict[tuple[str, ...], Caller] = {}

    def worker(self, *, wait_s: float = 5.0) -> Worker:
        place = len(self.workers)
        self.board.take(place)
        self.workers.append(Worker(self.board.path, place, self.spending, self.clock, wait_s=wait_s))
        return self.workers[-1]

    async def standing(self, worker: Worker, *written: str) -> tuple[int, int]:
        account = await worker.quotas.account(self.caller(*written))
        worker.quotas.look(account)
        (entry,) = account.entries
        return entry.counter.used, entry.counter.reserved

    def caller(self, *written: str) -> Caller:
        """The same one each time."""
        return self._callers.setdefault(written, caller(*written))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    for worker in made.workers:
        worker.board.close()
    made.board.close()


async def test_who_waits_for_what_another_has_is_served_when_that_is_given_back(world: World) -> None:
    first, second = world.worker(), world.worker()
    who = caller("tokens/total=100")
    asked = call(who)
    held = await first.quotas.reserve(asked)
    await second.quotas.reserve(call(who))
    ticking = asyncio.create_task(second.shares.run(world.clock))
    waiting = asyncio.create_task(second.quotas.reserve(call(who)))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    first.quotas.release(asked.arrival.id, held)
    await asyncio.wait_for(waiting, 2)
    ticking.cancel()


async def test_what_was_settled_is_a_share_until_the_other_has_read_it(world: World) -> None:
    first, second = world.worker(), world.worker()
    limit = "tokens/total=100"
    asked = call(world.caller(limit))
    held = await first.quotas.reserve(asked)
    assert await world.standing(second, limit) == (0, 50)
    one = settlement(asked.arrival.id, usage=Usage(20), model="gpt-4o", time_ms=NOW)
    first.shares.reached(2)
    first.quotas.settled(one)
    first.quotas.release(asked.arrival.id, held)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await world.standing(second, limit) == (0, 20)
    second.quotas.settled_elsewhere([one])
    second.shares.reached(2)
    first.shares.tick(world.clock())
    assert await world.standing(second, limit) == await world.standing(first, limit) == (20, 0)


async def test_a_place_that_another_has_is_waited_for_a_moment_only(world: World) -> None:
    first, second = world.worker(), world.worker()
    who = caller("inflight=1")
    asked = call(who)
    held = await first.quotas.reserve(asked)
    ticking = asyncio.create_task(second.shares.run(world.clock))
    with pytest.raises(RateLimited, match="You have 1 requests in flight"):
        await asyncio.wait_for(second.quotas.reserve(call(who)), 1)
    waiting = asyncio.create_task(second.quotas.reserve(call(who)))
    await asyncio.sleep(0)
    first.quotas.release(asked.arrival.id, held)
    await asyncio.wait_for(waiting, 1)
    ticking.cancel()


async def test_a_stream_looks_again_before_it_ends_for_what_another_has(world: World) -> None:
    first, second = world.worker(), world.worker()
    who = caller("tokens/total=100")
    stream, other = call(who), call(who)
    kept = await first.quotas.reserve(stream)
    held = await second.quotas.reserve(other)
    more = asyncio.create_task(first.quotas.more(kept, who.limits, 20))
    await asyncio.sleep(0.04)
    assert not more.done()
    second.quotas.release(other.arrival.id, held)
    assert await asyncio.wait_for(more, 1) == 20
    assert await first.quotas.more(kept, who.limits, 50) == 30
    assert await first.quotas.more(kept, who.limits, 1) == 0
    assert kept.stopped_by == "tokens/total of 100 (tenant)"


async def test_a_background_response_that_another_has_settled_is_given_back(world: World) -> None:
    first, second = world.worker(), world.worker()
    limit = "tokens/total=100"
    asked = call(world.caller(limit))
    held = await first.quotas.reserve(asked)
    held.deferred = True
    first.quotas.release(asked.arrival.id, held)
    assert await world.standing(second, limit) == (0, 50)
    one = settlement(asked.arrival.id, usage=Usage(30), model="gpt-4o", time_ms=NOW)
    second.shares.reached(2)
    second.quotas.settled(one)  # it has asked for it
    await asyncio.sleep(0)
    first.quotas.settled_elsewhere([one])
    first.shares.reached(2)
    await asyncio.sleep(0)
    for worker in (first, second):
        worker.shares.tick(world.clock())
    assert await world.standing(first, limit) == await world.standing(second, limit) == (30, 0)
    assert first.quotas._live == {}


async def test_a_minute_that_is_over_is_nobody_s_share_though_a_request_of_it_goes_on(world: World) -> None:
    first, second = world.worker(), world.worker()
    limit = "requests/minute=10"
    await first.quotas.reserve(call(world.caller(limit)))
    assert await world.standing(second, limit) == (0, 1)
    world.clock.now_ms += 62_000
    first.shares.age(first.quotas._live.values(), world.clock())
    await asyncio.sleep(0)
    assert await world.standing(second, limit) == (0, 0)


async def test_settlements_that_one_worker_never_reads_are_summed_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares_, "_LAGGING_MAX", 10)
    first, second = world.worker(), world.worker()
    limit = "tokens/total=100000"
    for _ in range(35):
        asked = call(world.caller(limit))
        held = await first.quotas.reserve(asked)
        first.shares.reached(first.shares._reached + 1)
        first.quotas.settled(settlement(asked.arrival.id, usage=Usage(20), model="gpt-4o", time_ms=NOW))
        first.quotas.release(asked.arrival.id, held)
        assert len(first.shares._lagging) <= 11
    first.shares.tick(world.clock())
    assert await world.standing(second, limit) == (0, 35 * 20)
    second.shares.reached(100)
    first.shares.tick(world.clock())
    assert await world.standing(second, limit) == (0, 0)


async def test_a_ledger_with_less_in_it_is_waited_for_by_nobody(world: World) -> None:
    first, second = world.worker(), world.worker()
    limit = "tokens/total=100"
    asked = call(world.caller(limit))
    held = await first.quotas.reserve(asked)
    first.shares.reached(50)
    first.quotas.settled(settlement(asked.arrival.id, usage=Usage(20), model="gpt-4o", time_ms=NOW))
    first.quotas.release(asked.arrival.id, held)
    first.shares.reached(3)
    first.shares.tick(world.clock())
    assert await world.standing(second, limit) == (0, 0)


async def test_a_board_that_is_full_refuses_what_is_new_and_goes_on_when_it_is_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = world.worker(), world.worker()
    who = caller("tokens/total=100")
    with monkeypatch.context() as patched:
        patched.setattr(Board, "_move", full)
        patched.setattr(boards, "_FULL", 0.0)
        with pytest.raises(LedgerUnavailable, match="Limits cannot be checked"):
            await first.quotas.reserve(call(who))
        await first.quotas.reserve(call(caller()))  # what has no limits needs no row
    await second.quotas.reserve(call(who))
    await first.quotas.reserve(call(who))


def full(_: Board) -> None:
    raise boards.BoardFull("for a test")
