"""Each percentage of each limit is told once in each window, if and only if so much was used, by the ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.limits import Calendar, Written, amount_of, counts
from proxy.model import Limit, Notification, Settlement, Topic, Unit, Usage, Window
from proxy.store import limits as stored
from proxy.store import notifications
from proxy.store.database import migrate
from proxy.store.ledger import HOUR_MS, record
from proxy.store.limits import effective
from proxy.store.tenants import create_key, create_tenant, set_upstream_key
from proxy.webhooks.thresholds import Refused, Thresholds
from tests.store.samples import SAMPLE, TIME_MS

PERCENTS = (50, 80, 100, 150)
DAY_MS = 24 * HOUR_MS
BERLIN = Calendar.of("Europe/Berlin")
Told = tuple[str, str, str, int, int, int | None]


@dataclass
class World:
    """A ledger in memory, who looks at it, and what was settled."""

    connection: sqlite3.Connection
    keys: list[str] = field(default_factory=list)
    settled: list[Settlement] = field(default_factory=list)
    thresholds: Thresholds = field(default_factory=lambda: Thresholds(BERLIN, PERCENTS))
    others: Thresholds = field(default_factory=lambda: Thresholds(BERLIN, PERCENTS))
    ids: Iterator[int] = field(default_factory=count)

    def limit(
        self, *written: str, owner: str = "user-001", model: str = "", kind: str = "", soft: bool = False
    ) -> None:
        for one in written:
            scope: stored.Owner = "key" if owner in self.keys else "tenant"
            stored.set_limit(self.connection, scope, owner, Written.parse(one), model=model, tokens=kind, soft=soft)

    def settle(self, tokens: int, time_ms: int = TIME_MS, *, key: int = 0, **changes: Any) -> None:
        settlement = replace(
            SAMPLE,
            id=f"req_{next(self.ids)}",
            key_id=self.keys[key],
            time_ms=time_ms,
            usage=Usage(uncached_input=tokens),
            **changes,
        )
        self.settled.append(settlement)
        record(self.connection, [settlement])

    def look(self, *refused: Refused, settled: bool = True) -> list[Notification]:
        """One look, and what was new in it."""
        found = self.thresholds.look(self.connection, refused, TIME_MS, settled=settled)
        known = {one.about for one in self.noted()}
        notifications.note(self.connection, found.notifications, found.seq)
        return [one for one in self.noted() if one.about not in known]

    def crash(self) -> None:
        """A look whose findings are lost, and a new process."""
        self.thresholds.look(self.connection, (), TIME_MS)
        self.restart()

    def restart(self) -> None:
        self.thresholds = Thresholds(BERLIN, PERCENTS)

    def change_sides(self) -> None:
        """Another process looks next, and both believe to be the one that does."""
        self.thresholds, self.others = self.others, self.thresholds

    def noted(self) -> list[Notification]:
        found = notifications.newest(self.connection, limit=1_000_000)
        return [sent.notification for sent in reversed(found)]

    def limits(self) -> set[Limit]:
        return {
            limit
            for key in self.keys
            for subject in ("user-001", "user-002")
            for limit in effective(self.connection, subject, key)
        }


@pytest.fixture
def world() -> Iterator[World]:
    with closing(made()) as connection:
        yield of(connection)


def made() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    notifications.switch(connection, on=True)
    return connection


def of(connection: sqlite3.Connection) -> World:
    world = World(connection)
    for tenant in ("user-001", "user-002"):
        create_tenant(connection, tenant, now_ms=TIME_MS - 40 * DAY_MS)
        world.keys.append(create_key(connection, tenant, now_ms=0)[0].id)
    return world


def told(found: list[Notification]) -> list[tuple[str, int | None]]:
    return [(one.topic, orjson.loads(one.body)["data"].get("percent")) for one in found]


def crossed(*percents: int) -> list[tuple[str, int | None]]:
    return [(Topic.THRESHOLD_CROSSED, percent) for percent in percents]


# One after the other


def test_what_was_jumped_is_told_in_order_and_each_once(world: World) -> None:
    world.limit("tokens/day=100", soft=True)
    world.settle(49)
    assert world.look() == []
    world.settle(31)
    assert told(world.look()) == crossed(50, 80)
    assert world.look() == []
    world.settle(200)
    assert told(world.look()) == crossed(100, 150)
    world.settle(200)
    assert world.look() == []


def test_a_hard_limit_that_is_used_up_is_told_apart(world: World) -> None:
    world.limit("tokens/day=100")
    world.settle(100)
    assert told(world.look()) == [*crossed(50, 80, 100), (Topic.LIMIT_EXHAUSTED, None)]


def test_it_says_how_the_limit_stands(world: World) -> None:
    world.limit("tokens/month=100", model="gpt-4o*", kind="input")
    world.settle(83)
    *_, one = world.look()
    assert one.subject == "user-001"
    body = orjson.loads(one.body)
    assert body == {
        "type": "limit.threshold_crossed",
        "timestamp": "2026-04-13T10:30:00.000Z",
        "data": {
            "percent": 80,
            "tenant": "user-001",
            "key_id": None,
            "limit": "tokens/month (input of gpt-4o*)",
            "unit": "tokens",
            "window": "month",
            "model": "gpt-4o*",
            "kind": "input",
            "origin": "tenant",
            "soft": False,
            "value": 100,
            "used": 83,
            "remaining": 17,
            "began_at": "2026-03-31T22:00:00.000Z",
            "renews_at": "2026-04-30T22:00:00.000Z",
        },
    }


def test_a_limit_of_a_key_is_told_with_the_keys_tenant(world: World) -> None:
    world.limit("requests/total=2", owner=world.keys[1])
    world.settle(1, key=1, subject="somebody-it-acts-for")
    (one,) = world.look()
    data = orjson.loads(one.body)["data"]
    assert (data["tenant"], data["key_id"], data["limit"]) == ("user-002", world.keys[1], "requests/total")
    assert (data["began_at"], data["renews_at"]) == (None, None)


def test_a_raise_and_a_top_up_begin_anew_and_a_lower_limit_is_told_at_the_next_request(world: World) -> None:
    world.limit("tokens/total=100")
    world.settle(80)
    assert told(world.look()) == crossed(50, 80)
    stored.top_up(world.connection, "user-001", Unit.TOKENS, 100, top_up_id="one", note="", now_ms=0)
    world.settle(20)
    assert told(world.look()) == crossed(50)
    world.limit("tokens/total=0")
    world.settle(1)
    rest = [*crossed(100), (Topic.LIMIT_EXHAUSTED, None)]
    assert told(world.look()) == rest, "of the value 100 the others were told"
    world.limit("tokens/total=100")
    world.settle(1)
    assert world.look() == [], "of the value 200 the half was told"


def test_a_refusal_is_told_once_a_window_and_shows_a_limit_that_was_lowered(world: World) -> None:
    world.limit("tokens/day=1000")
    world.settle(450)
    assert world.look() == []
    world.limit("tokens/day=500")
    (limit,) = effective(world.connection, "user-001", world.keys[0])
    refused = Refused(("user-001", world.keys[0]), limit, TIME_MS)
    assert told(world.look(refused)) == [*crossed(50, 80), (Topic.LIMIT_EXHAUSTED, None)]
    assert world.look(refused) == []
    assert told(world.look(replace(refused, time_ms=TIME_MS + DAY_MS))) == [(Topic.LIMIT_EXHAUSTED, None)]


def test_who_does_not_lead_tells_refusals_alone_and_counts_right_when_it_leads(world: World) -> None:
    world.limit("tokens/day=100", soft=True)
    world.settle(40)
    (limit,) = effective(world.connection, "user-001", world.keys[0])
    assert told(world.look(Refused(("user-001", world.keys[0]), limit, TIME_MS), settled=False)) == [
        (Topic.LIMIT_EXHAUSTED, None)
    ]
    assert notifications.noted_seq(world.connection) == 0
    world.settle(5)
    assert world.look() == [], "45 tokens are used, and no one of them twice"
    world.settle(5)
    assert told(world.look()) == crossed(50)


def test_what_slides_and_what_is_not_summed_is_not_told(world: World) -> None:
    world.limit("tokens/minute=10", "requests/minute=1", "inflight=1", "max_tokens=5")
    for _ in range(3):
        world.settle(100)
    assert world.look() == []


def test_a_limit_that_was_away_counts_what_was_used_meanwhile(world: World) -> None:
    world.limit("tokens/day=100", soft=True)
    world.settle(10)
    assert world.look() == []
    stored.unset_limit(world.connection, "tenant", "user-001", Unit.TOKENS, Window.DAY)
    world.settle(35)
    assert world.look() == []
    world.limit("tokens/day=100", soft=True)
    world.settle(5)
    assert told(world.look()) == crossed(50)


def test_what_is_settled_after_its_window_has_ended_counts_there(world: World) -> None:
    world.limit("tokens/hour=100", soft=True)
    world.settle(30, TIME_MS + HOUR_MS)
    assert world.look() == []
    world.settle(45, TIME_MS)
    assert world.look() == []
    world.settle(5, TIME_MS)
    (one,) = world.look()
    assert orjson.loads(one.body)["data"]["began_at"] == "2026-04-13T10:00:00.000Z"


def test_what_was_settled_while_webhooks_were_off_is_not_told_by_itself(world: World) -> None:
    world.limit("tokens/hour=100", soft=True)
    notifications.switch(world.connection, on=False)
    world.settle(60)
    world.settle(70, TIME_MS + HOUR_MS)
    notifications.switch(world.connection, on=True)
    assert world.look() == []
    world.settle(1, TIME_MS + HOUR_MS)
    assert told(world.look()) == crossed(50), "of the hour that goes on, and not of the one before"


def test_a_ledger_from_before_webhooks_that_takes_the_place_of_this_one_is_looked_at_from_its_end(world: World) -> None:
    with closing(made()) as connection:
        other = of(connection)
        other.thresholds = world.thresholds
        notifications.switch(connection, on=False)
        other.limit("tokens/hour=100", soft=True)
        other.settle(60)
        world.look()
        assert other.look() == []
        assert notifications.noted_seq(connection) == 1, "and from now on a crash loses nothing"
        other.settle(1)
        assert told(other.look()) == crossed(50)


# In any order

settles = st.tuples(
    st.just("settle"),
    st.integers(min_value=0, max_value=90),
    st.sampled_from([0, HOUR_MS - 1, HOUR_MS, 13 * HOUR_MS, 12 * HOUR_MS - 30 * 60_000, DAY_MS, 20 * DAY_MS]),
    st.integers(min_value=0, max_value=1),
    st.sampled_from(["user-001", "user-002"]),
    st.sampled_from(["gpt-4o-2024-08-06", "o3"]),
)
does = st.sampled_from(["look", "look", "crash", "restart", "revise", "stand by", "change sides"])


@given(deeds=st.lists(settles | st.tuples(does), max_size=40))
def test_in_any_order_each_mark_is_told_once_if_and_only_if_it_was_reached(deeds: list[tuple[Any, ...]]) -> None:
    with closing(made()) as connection:
        world = of(connection)
        world.limit("tokens/hour=50", "tokens/month=400", "requests/day=4")
        world.limit("tokens/day=120", soft=True, model="gpt-4o*")
        world.limit("tokens/period=200", "tokens/total=500", owner="user-002")
        world.limit("tokens/day=100", owner=world.keys[0], soft=True)
        for deed in deeds:
            match deed:
                case ("settle", tokens, after_ms, key, subject, model):
                    world.settle(tokens, TIME_MS + after_ms, key=key, subject=subject, model=model)
                case ("look",):
                    world.look()
                case ("crash",):
                    world.crash()
                case ("restart",):
                    world.restart()
                case ("revise",):
                    set_upstream_key(connection, "user-001", "")
                case ("change sides",):
                    world.change_sides()
                case ("stand by",):
                    world.look(settled=False)
        world.look()
        found = [named(one) for one in world.noted()]
        assert len(found) == len(set(found))
        assert set(found) == expected(world)


def named(one: Notification) -> Told:
    topic, scope, owner, name, start_ms, value, *percent = orjson.loads(one.about)
    del topic
    return scope, owner, name, start_ms, value, percent[0] if percent else None


def expected(world: World) -> set[Told]:
    """The same, summed from every settlement alone."""
    sums: dict[tuple[Limit, int], int] = {}
    for limit in world.limits():
        counted = limit.counted
        for one in world.settled:
            owner = one.subject if counted.scope == "tenant" else one.key_id
            if owner == counted.owner and counts(counted, one.model):
                start_ms, _ = BERLIN.bounds(counted.window, one.time_ms, counted.anchor_ms)
                sums[limit, start_ms] = sums.get((limit, start_ms), 0) + amount_of(
                    counted, one.usage, one.cost.pico_usd
                )
    return {
        (limit.counted.scope, limit.counted.owner, limit.counted.name, start_ms, limit.value, percent)
        for (limit, start_ms), used in sums.items()
        for percent in (*PERCENTS, None)
        if used * 100 >= limit.value * (percent or 100) and not (percent is None and limit.soft)
    }
