from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from proxy.gateway.counters import Counters
from proxy.gateway.fellows import Fellows
from proxy.gateway.quotas import Quotas
from proxy.gateway.reservation import Share
from proxy.gateway.shares import Shares
from proxy.limits import Calendar
from proxy.model import Limit
from proxy.store.board import Board, Row, State
from proxy.store.commit import GroupCommit
from proxy.store.database import Database
from proxy.store.holds import Holds
from tests.gateway.test_quotas import call, caller, limits
from tests.running import wait_until
from tests.store.samples import TIME_MS

OTHER = 1


class Known:
    """One limits for all callers; another object is another revision."""

    def __init__(self) -> None:
        self.now: tuple[Limit, ...] = ()
        self.error: Exception | None = None

    async def revision(self) -> object:
        if self.error is not None:
            raise self.error
        return self.now

    async def limits(self, tenant_id: str, key_id: str) -> tuple[Limit, ...]:
        return self.now


class World:
    """One worker at a board, and what it is told of limits."""

    def __init__(self, directory: Path) -> None:
        self.database = Database(f"sqlite:///{directory}/tollgate.db")
        self.database.create()
        self.board = Board.create(self.database.path, 4)
        self.board.take(0)
        self.commit = GroupCommit(self.database)
        self.shares = Shares(self.board, 0)
        self.commit.reached = self.shares.reached
        self.callers = Known()
        self.quotas = Quotas(
            Counters(self.commit, Calendar(), TIME_MS),
            output_tokens=7,
            wait_s=5,
            rate_wait_s=0,
            now_ms=lambda: TIME_MS,
            shares=self.shares,
        )
        self.holds = Holds(self.database.path)
        self.fellows = Fellows(self.shares, self.quotas, self.commit, self.holds, self.callers, lambda: TIME_MS)

    def reserve_elsewhere(self, key: int, amount: int) -> None:
        with self.board:
            row = Row(key, 0)
            row.own = amount
            self.board.put(row, OTHER)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.commit.start()
    yield made
    await made.fellows.stop()
    await made.commit.stop()
    made.board.close()


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, lambda: bool(condition()))


async def test_others_wait_for_a_worker_from_its_start_on(world: World) -> None:
    assert world.board.state(0) is State.STARTING
    await world.fellows.start()
    assert world.board.state(0) is State.LIVE
    await world.fellows.start()  # which changes nothing


async def test_what_is_in_flight_counts_in_a_limit_that_is_new(world: World) -> None:
    await world.fellows.start()
    who = caller()
    reservation = await world.quotas.reserve(call(who))
    assert not reservation.share
    await asyncio.sleep(0.3)
    world.callers.now = limits("tokens/total=100", "inflight=3")
    await until(lambda: reservation.share)
    with world.board:
        share = reservation.share or Share()
        found = [world.board.add_up(row, OTHER) for row, _ in [*share.rows, *share.places]]
    assert found == [50, 1]


async def test_a_dead_worker_s_share_goes_when_its_traces_are_settled(world: World) -> None:
    world.board.take(OTHER)
    world.board.name(OTHER, 4_000_000)
    world.board.see(OTHER, 0)
    world.reserve_elsewhere(7, 30)
    traces = world.database.path.with_name("tollgate.db-holds-4000000-abc")
    traces.touch()
    await world.fellows.start()
    world.board.bury(OTHER)
    await asyncio.sleep(0.6)
    assert world.board.state(OTHER) is State.DEAD
    traces.unlink()
    await until(lambda: world.board.state(OTHER) is State.FREE)
    with world.board:
        assert world.board.add_up(Row(7, 0), 0) == 0


async def test_its_counts_are_told_at_the_start_and_at_the_end_and_trouble_ends_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []
    world.fellows.publish = lambda: told.append(1)

    world.callers.error = sqlite3.OperationalError("locked")
    await world.fellows.start()
    await until(lambda: told)
    await asyncio.sleep(0.3)
    assert not caplog.records
    world.callers.error = KeyError("a fault of ours")
    with caplog.at_level(logging.ERROR):
        await until(lambda: "other workers could not be followed" in caplog.text)
    before = len(told)
    await world.fellows.stop()
    assert len(told) == before + 1
