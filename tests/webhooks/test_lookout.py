"""What the lookout notes, and when: beside a ledger on disk with its group commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.limits import Calendar, Written
from proxy.model import Caller, Topic
from proxy.sections import WebhookSettings
from proxy.store import notifications
from proxy.store.ledger import record
from proxy.store.limits import effective, set_limit
from proxy.store.outbox import Backlog
from proxy.store.tenants import create_key, create_tenant
from proxy.webhooks.lookout import KEYS_EVERY_MS, POLL_S, Lookout
from tests.delivery.ledger import NOW_MS, Ledger, settlement
from tests.delivery.relaying import until

pytestmark = pytest.mark.anyio

DAY_MS = 86_400_000
TOKENS = settlement().usage.total_tokens
CALLER = Caller("key_1", "user-001", True, frozenset(), False, None)


@dataclass
class Leader:
    leads: bool = True
    woken: int = 0

    def wake(self) -> None:
        self.woken += 1


class Desk:
    """A lookout that runs, and what it has noted."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.leader = Leader()
        self.now_ms = NOW_MS
        self.lookout = self._new()

    def _new(self) -> Lookout:
        settings = WebhookSettings(key_expiry_days=7)
        return Lookout(
            self.ledger.database,
            self.ledger.commit,
            self.leader,
            settings,
            Calendar(),
            now_ms=lambda: self.now_ms,
            gather_s=0.01,
        )

    async def restart(self) -> None:
        await self.lookout.stop()
        self.lookout = self._new()
        self.lookout.start()

    async def settle(self, *numbers: int, **changes: Any) -> None:
        await self.ledger.record(*(replace(settlement(number), **changes) for number in numbers))
        self.lookout.wake()

    def limit(self, *written: str, soft: bool = False) -> None:
        with self.ledger.database.transaction() as connection:
            for one in written:
                set_limit(connection, "tenant", "user-001", Written.parse(one), soft=soft)

    def noted(self) -> list[tuple[str, Any]]:
        """Each by its type, and what is particular to it."""
        with closing(self.ledger.database.connect(read_only=True)) as connection:
            found = notifications.newest(connection, limit=1_000)
        bodies = [orjson.loads(sent.notification.body) for sent in reversed(found)]
        return [(body["type"], _particular(body["data"])) for body in bodies]

    def seq(self) -> int | None:
        with closing(self.ledger.database.connect(read_only=True)) as connection:
            return notifications.noted_seq(connection)

    async def until_noted(self, count: int) -> None:
        await until(lambda: len(self.noted()) >= count)


def _particular(data: dict[str, Any]) -> Any:
    return data.get("percent") or data.get("name") or data.get("late_after_s")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    ledger = Ledger(tmp_path)
    ledger.open()
    with ledger.database.transaction() as connection:
        create_tenant(connection, "user-001", now_ms=0)
        notifications.switch(connection, on=True)
    desk = Desk(ledger)
    yield desk
    await desk.lookout.stop()
    await ledger.close()


@asynccontextmanager
async def looking(desk: Desk) -> AsyncIterator[None]:
    desk.lookout.start()
    yield
    await desk.lookout.stop()


async def test_what_is_settled_is_looked_at_when_it_wakes_and_the_sender_is_woken(desk: Desk) -> None:
    desk.limit(f"tokens/day={2 * TOKENS}", soft=True)
    async with looking(desk):
        await desk.settle(1)
        await asyncio.sleep(0.1)
        assert (desk.noted(), desk.leader.woken) == ([], 0)
        await desk.settle(2)
        await desk.until_noted(2)
    assert desk.noted() == [(Topic.THRESHOLD_CROSSED, 80), (Topic.THRESHOLD_CROSSED, 100)]
    assert desk.leader.woken == 1
    assert desk.seq() == 2


async def test_what_another_process_recorded_is_found_without_a_wake(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert POLL_S <= 5
    monkeypatch.setattr("proxy.webhooks.lookout.POLL_S", 0.02)
    desk.limit("requests/total=1", soft=True)
    async with looking(desk):
        with desk.ledger.database.transaction() as connection:
            record(connection, [settlement(1)])
        await desk.until_noted(2)


async def test_what_was_settled_before_a_crash_is_noted_at_the_next_start(desk: Desk) -> None:
    desk.limit("requests/total=1", soft=True)
    await desk.settle(1)
    async with looking(desk):
        await desk.until_noted(2)
    await desk.restart()
    await desk.settle(2)
    await asyncio.sleep(0.05)
    assert len(desk.noted()) == 2


async def test_a_stop_looks_once_more_and_remembers_how_far_it_has_come(desk: Desk) -> None:
    desk.limit("requests/total=100")
    async with looking(desk):
        await desk.settle(1, 2, 3)
    assert desk.seq() == 3


async def test_how_far_it_has_come_is_noted_now_and_then(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.webhooks.lookout._UNNOTED_MAX", 3)
    async with looking(desk):
        await desk.settle(1, 2)
        await asyncio.sleep(0.05)
        assert desk.seq() == 0
        await desk.settle(3)
        await until(lambda: desk.seq() == 3)


async def test_who_does_not_lead_notes_refusals_alone(desk: Desk) -> None:
    desk.limit("requests/day=1")
    desk.leader.leads = False
    with closing(desk.ledger.database.connect()) as connection:
        create_key(connection, "user-001", name="soon", expires_ms=NOW_MS + DAY_MS, now_ms=0)
        (limit,) = effective(connection, "user-001")
    async with looking(desk):
        await desk.settle(1)
        await asyncio.sleep(0.05)
        assert desk.noted() == []
        desk.lookout.refused(CALLER, limit, NOW_MS + DAY_MS)
        await desk.until_noted(3)
        assert desk.seq() == 0
        desk.leader.leads = True
        await desk.settle(2)
        await until(lambda: (Topic.KEY_EXPIRING, "soon") in desk.noted())
    assert len(desk.noted()) == 4


async def test_a_client_that_goes_on_asking_is_told_of_once_in_each_window(desk: Desk) -> None:
    desk.limit("requests/day=10")
    with closing(desk.ledger.database.connect()) as connection:
        (limit,) = effective(connection, "user-001")
    async with looking(desk):
        for _ in range(100):
            desk.lookout.refused(CALLER, limit, NOW_MS + DAY_MS)
        await desk.until_noted(1)
        desk.now_ms += DAY_MS
        desk.lookout.refused(CALLER, limit, NOW_MS + 2 * DAY_MS)
        await desk.until_noted(2)
    assert desk.noted() == [(Topic.LIMIT_EXHAUSTED, None)] * 2


async def test_keys_are_looked_through_every_hour_and_each_expiry_is_told_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.webhooks.lookout.POLL_S", 0.02)

    def key(name: str, expires_ms: int) -> None:
        with desk.ledger.database.transaction() as connection:
            create_key(connection, "user-001", name=name, expires_ms=expires_ms, now_ms=0)

    key("soon", NOW_MS + 7 * DAY_MS)
    key("late", NOW_MS + 7 * DAY_MS + 1)
    async with looking(desk):
        await desk.until_noted(1)
        key("new", NOW_MS + DAY_MS)
        desk.now_ms += KEYS_EVERY_MS - 1
        await asyncio.sleep(0.1)
        assert desk.noted() == [(Topic.KEY_EXPIRING, "soon")]
        desk.now_ms += 1
        await desk.until_noted(3)
        await desk.restart()
        await asyncio.sleep(0.05)
    assert desk.noted() == [(Topic.KEY_EXPIRING, name) for name in ("soon", "new", "late")]


async def test_a_late_backlog_is_told_once_for_each_stage_of_the_same_trouble(desk: Desk) -> None:
    async with looking(desk):
        for late_s in (2_700, 2_700, 72_000):
            desk.lookout.backlog_late(Backlog(5, 0, 0, NOW_MS - 9_000_000), late_s, "late")
        desk.lookout.backlog_late(Backlog(0, 0, 0, None), 2_700, "nothing waits any more")
        await desk.until_noted(2)
        desk.lookout.backlog_late(Backlog(1, 0, 0, NOW_MS), 2_700, "another time")
        await desk.until_noted(3)
    assert desk.noted() == [(Topic.BACKLOG_LATE, late_s) for late_s in (2_700, 72_000, 2_700)]


async def test_a_ledger_that_fails_loses_nothing_of_it(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.limit("requests/day=2")
    with closing(desk.ledger.database.connect()) as connection:
        (limit,) = effective(connection, "user-001")
    await desk.settle(1, 2)
    away = desk.ledger.database.path.with_name("away.db")
    desk.ledger.database.path.rename(away)
    with caplog.at_level(logging.WARNING, logger="proxy.webhooks"):
        async with looking(desk):
            desk.lookout.refused(CALLER, limit, NOW_MS + DAY_MS)
            desk.lookout.backlog_late(Backlog(1, 0, 0, NOW_MS), 2_700, "late")
            await until(lambda: bool(caplog.messages))
            away.rename(desk.ledger.database.path)
            desk.lookout.wake()
            await desk.until_noted(4)
    assert len(caplog.messages) == 1
    assert "is noted later" in caplog.messages[0]
    assert set(desk.noted()) == {
        (Topic.BACKLOG_LATE, 2_700),
        (Topic.THRESHOLD_CROSSED, 80),
        (Topic.THRESHOLD_CROSSED, 100),
        (Topic.LIMIT_EXHAUSTED, None),
    }


async def test_a_fault_of_ours_is_logged_and_the_look_is_taken_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = [RuntimeError("a fault")]
    original = notifications.counts

    def counts(*arguments: Any) -> Any:
        if faults:
            raise faults.pop()
        return original(*arguments)

    monkeypatch.setattr(notifications, "counts", counts)
    desk.limit("requests/total=1", soft=True)
    async with looking(desk):
        await desk.settle(1)
        await until(lambda: not faults)
        desk.lookout.wake()
        await desk.until_noted(2)
    assert "failed unexpectedly" in caplog.text


async def test_it_starts_and_stops_in_any_order_and_more_than_once(desk: Desk) -> None:
    await desk.lookout.stop()
    for _ in range(2):
        desk.lookout.start()
        desk.lookout.start()
        async with asyncio.timeout(5):
            await desk.lookout.stop()
            await desk.lookout.stop()
