"""Whose each id is: at once where it is noted, with the next commit everywhere else, and the first stays."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator

import pytest

from proxy.errors import LedgerUnavailable
from proxy.store import owned
from proxy.store.commit import GroupCommit
from proxy.store.database import Database
from proxy.store.owned import Owned

pytestmark = pytest.mark.anyio

NOW = 1_000_000


@pytest.fixture
async def commit(database: Database) -> AsyncIterator[GroupCommit]:
    made = GroupCommit(database)
    made.start()
    yield made
    await made.stop()


@pytest.fixture
async def owners(database: Database, commit: GroupCommit) -> AsyncIterator[Owned]:
    made = Owned(database, commit, lambda: NOW)
    yield made
    made.close()


@pytest.fixture
async def elsewhere(database: Database) -> AsyncIterator[Owned]:
    """The same, in another server with the same ledger."""
    commit = GroupCommit(database)
    commit.start()
    made = Owned(database, commit, lambda: NOW)
    yield made
    made.close()
    await commit.stop()


async def test_an_id_is_known_before_it_is_on_disk(owners: Owned) -> None:
    assert await owners.owner("resp_1") is None
    written = owners.remember(["resp_1", "msg_1", "resp_1"], "acme")
    assert written is not None
    assert not written.done()
    assert await owners.owner("resp_1") == await owners.owner("msg_1") == "acme"
    await written
    assert await owners.owner("resp_1") == "acme"


async def test_what_is_known_costs_no_further_commit(owners: Owned) -> None:
    written = owners.remember(["resp_1"], "acme")
    assert written is not None
    await written
    assert owners.remember(["resp_1"], "acme") is None
    assert owners.remember([], "acme") is None


async def test_another_server_knows_it_as_soon_as_it_is_on_disk(
    owners: Owned, elsewhere: Owned, connection: sqlite3.Connection
) -> None:
    written = owners.remember(["conv_1"], "acme")
    assert written is not None
    await written
    assert await elsewhere.owner("conv_1") == "acme"
    assert connection.execute("SELECT * FROM owned").fetchall() == [("conv_1", "acme", NOW)]


async def test_the_first_who_is_told_of_an_id_keeps_it(owners: Owned, elsewhere: Owned) -> None:
    first = owners.remember(["resp_1"], "acme")
    assert first is not None
    await first
    here = owners.remember(["resp_1"], "other")
    there = elsewhere.remember(["resp_1", "resp_2"], "other")
    assert here is not None
    assert there is not None
    await here
    await there
    for one in (owners, elsewhere):
        assert await one.owner("resp_1") == "acme"
        assert await one.owner("resp_2") == "other"


async def test_what_is_gone_is_nobodys(owners: Owned, elsewhere: Owned, connection: sqlite3.Connection) -> None:
    owners.remember(["resp_1", "resp_2"], "acme")
    await owners.forget("resp_1")
    assert await owners.owner("resp_1") is None
    assert await elsewhere.owner("resp_1") is None
    assert connection.execute("SELECT id FROM owned").fetchall() == [("resp_2",)]


async def test_memory_is_bounded_and_the_disk_remembers_the_rest(
    owners: Owned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owned, "_REMEMBERED_MAX", 3)
    written = owners.remember([f"resp_{number}" for number in range(10)], "acme")
    assert written is not None
    await written
    for number in range(10):
        assert await owners.owner(f"resp_{number}") == "acme"
        assert len(owners._remembered) <= 3


async def test_a_store_that_fails_refuses_and_heals(
    database: Database, owners: Owned, caplog: pytest.LogCaptureFixture
) -> None:
    written = owners.remember(["resp_1"], "acme")
    assert written is not None
    await written
    away = database.path.with_name("away.db")
    database.path.rename(away)
    assert await owners.owner("resp_1") == "acme"  # this is known without it
    with pytest.raises(LedgerUnavailable), caplog.at_level(logging.ERROR):
        await owners.owner("resp_2")
    assert "owners cannot be looked up" in caplog.text
    lost = owners.remember(["resp_3"], "acme")
    assert lost is not None
    with pytest.raises(sqlite3.Error):
        await lost
    assert "could not be written" in caplog.text
    away.rename(database.path)
    assert await owners.owner("resp_2") is None
