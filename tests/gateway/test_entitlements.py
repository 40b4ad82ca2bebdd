"""What is known of an engine's grants, with its clock in the test's hands."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.errors import (
    EngineRefused,
    EngineUnavailable,
    EntitlementUnknown,
    Forbidden,
    QuotaExceeded,
    RateLimited,
)
from proxy.gateway import entitlements as entitlements_
from proxy.gateway.entitlements import AT_ONCE, Entitlements
from proxy.model import Access, Usage
from proxy.sections import EntitlementSettings
from tests.gateway.spending import quotas
from tests.gateway.test_quotas import call, caller
from tests.store.samples import settlement

WHO = "user-001"


class Engine:
    """Answers what `grants` says, or raises it; waits for `go_on` first."""

    def __init__(self, grants: Access | Exception | None = None) -> None:
        self.grants = grants
        self.asked: list[str] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.at_once = self.most_at_once = 0

    async def access(self, subject: str) -> Access | None:
        self.asked.append(subject)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.go_on.wait()
        finally:
            self.at_once -= 1
        if isinstance(self.grants, Exception):
            raise self.grants
        return self.grants


class Time:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


class World:
    def __init__(self, engine: Engine, **settings: Any) -> None:
        self.engine = engine
        self.time = Time()
        self.waiting: dict[str, int] = {}
        self.fails: Exception | None = None
        self.forgotten = 0
        self.looked = asyncio.Event()
        given = {"feature": "ai_tokens", "refresh_s": 30, "stale_s": 300, "lag_s": 10, **settings}
        settings_ = EntitlementSettings.model_validate(given)
        self.kept = Entitlements(engine, settings_, self._undelivered, self._forget, monotonic=self.time)

    async def _undelivered(self) -> Mapping[str, int]:
        self.looked.set()
        if self.fails is not None:
            raise self.fails
        return dict(self.waiting)

    def _forget(self) -> None:
        self.forgotten += 1

    def room(self, who: str = WHO) -> int:
        counter = self.kept.limit_of(who)[1]
        return -counter.used - counter.reserved

    def settle(self, tokens: int, who: str = WHO) -> None:
        self.kept.settled(settlement("req", subject=who, usage=Usage(tokens)))

    async def pass_(self, seconds: float) -> None:
        """Time passes, and what is due in the background is done."""
        self.time.s += seconds
        await self.kept._look()
        await self.kept._ask_due()


@asynccontextmanager
async def world(grants: Access | Exception | None = None, **settings: Any) -> AsyncIterator[World]:
    made = World(Engine(grants), **settings)
    try:
        yield made
    finally:
        await made.kept.stop()


def metered(balance: int | None, *, granted: bool = True) -> Access:
    return Access(granted, True, balance)


async def test_the_first_request_asks_and_the_next_ones_do_not() -> None:
    async with world(metered(500)) as one:
        for _ in range(5):
            await one.kept.check(WHO)
        assert one.engine.asked == [WHO]
        assert one.room() == 500


async def test_requests_at_the_same_time_share_the_question() -> None:
    async with world(metered(500)) as one:
        one.engine.go_on.clear()
        checks = [asyncio.create_task(one.kept.check(WHO)) for _ in range(50)]
        await asyncio.sleep(0.02)
        one.engine.go_on.set()
        await asyncio.gather(*checks)
        assert one.engine.asked == [WHO]


@pytest.mark.parametrize(
    ("access", "error", "words"),
    [
        (metered(0, granted=False), QuotaExceeded, "Your plan's entitlement ai_tokens is used up"),
        (metered(None, granted=False), QuotaExceeded, "is used up"),
        (Access(granted=False), Forbidden, r"does not include this \(entitlement ai_tokens\)"),
    ],
)
async def test_what_is_not_granted_is_refused_and_why(access: Access, error: type[Exception], words: str) -> None:
    async with world(access) as one:
        with pytest.raises(error, match=words):
            await one.kept.check(WHO)


async def test_who_is_no_customer_and_who_is_granted_without_end_have_no_limit_here() -> None:
    for access in (None, Access(granted=True), metered(None)):
        async with world(access) as one:
            await one.kept.check(WHO)
            one.settle(10**9)
            assert one.room() > 2**53


async def test_what_the_engine_cannot_have_seen_is_subtracted() -> None:
    async with world(metered(1000)) as one:
        one.waiting = {WHO: 70, "other": 500}
        await one.kept.check(WHO)
        assert one.room() == 930  # of what waits for delivery it knows nothing
        one.settle(100)
        assert one.room() == 830  # of what was used since neither
        one.waiting = {}
        one.engine.grants = metered(900)
        await one.pass_(5)
        assert one.engine.asked == [WHO]
        await one.pass_(6)  # the first answer is asked for again soon
        assert one.engine.asked == [WHO] * 2
        # It may have seen the hundred, and what was delivered a moment ago, or not: as if it had not.
        assert one.room() == 900 - 100 - 70
        one.engine.grants = metered(830)
        await one.pass_(31)
        assert one.room() == 830


async def test_what_is_settled_while_the_engine_thinks_is_subtracted_too() -> None:
    async with world(metered(1000)) as one:
        await one.kept.check(WHO)
        await one.pass_(12)
        one.engine.go_on.clear()
        one.time.s += 31
        asking = asyncio.create_task(one.kept._ask_due())
        await asyncio.sleep(0.01)
        one.settle(40)
        one.time.s += 2
        one.settle(2)
        one.engine.go_on.set()
        await asking
        assert one.room() == 958


async def test_a_new_period_is_noticed_and_sooner_while_nothing_is_left() -> None:
    async with world(metered(100)) as one:
        await one.kept.check(WHO)
        await one.pass_(12)
        assert len(one.engine.asked) == 2
        one.settle(100)
        await one.kept.check(WHO)  # there is access; what is left is the quotas' matter
        one.engine.grants = metered(1000)
        await one.pass_(11)
        assert one.room() == 900


async def test_an_answer_holds_until_it_is_stale_and_then_what_is_set_for_that() -> None:
    for when_unknown in ("allow", "refuse"):
        async with world(metered(100), when_unknown=when_unknown) as one:
            await one.kept.check(WHO)
            one.engine.grants = EngineUnavailable("no answer")
            await one.pass_(40)
            assert one.kept.trouble == "no answer"
            await one.pass_(250)
            await one.kept.check(WHO)
            assert one.room() == 100
            await one.pass_(20)
            asked = len(one.engine.asked)
            if when_unknown == "refuse":
                with pytest.raises(EntitlementUnknown, match="Try again soon"):
                    await one.kept.check(WHO)
            else:
                await one.kept.check(WHO)
                assert one.room() > 2**53
            assert len(one.engine.asked) == asked, "nobody waits for an engine that is down"
            one.engine.grants = metered(70)
            await one.pass_(20)
            await one.kept.check(WHO)
            assert (one.room(), one.kept.trouble) == (70, "")


@pytest.mark.parametrize("error", [EngineUnavailable("no answer"), EngineRefused("401", 401)])
async def test_an_engine_that_fails_from_the_start_is_waited_for_once(error: Exception) -> None:
    async with world(error, when_unknown="refuse") as one:
        for _ in range(5):
            with pytest.raises(EntitlementUnknown):
                await one.kept.check(WHO)
        assert len(one.engine.asked) == 1
        one.engine.grants = metered(70)
        await one.pass_(6)
        await one.kept.check(WHO)
        assert one.room() == 70


async def test_an_engine_that_says_nothing_is_waited_for_a_moment_by_all_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entitlements_, "FIRST_WAIT_S", 0.05)
    async with world(metered(70)) as one:
        one.engine.go_on.clear()
        await one.kept.check(WHO)
        assert one.room() > 2**53
        one.time.s += 0.05
        await asyncio.wait_for(one.kept.check(WHO), 0.04)
        one.engine.go_on.set()
        await asyncio.sleep(0.01)
        assert (one.room(), one.engine.asked) == (70, [WHO])


async def test_one_tenant_that_cannot_be_asked_for_does_not_keep_others_from_being_asked() -> None:
    class Picky(Engine):
        async def access(self, subject: str) -> Access | None:
            await super().access(subject)
            if subject == "odd":
                raise EngineRefused("400", 400)
            return metered(len(self.asked))

    one = World(Picky())
    for who in ("odd", "a", "b"):
        await one.kept.check(who)
    one.engine.asked.clear()
    for _ in range(3):
        await one.pass_(31)
        for who in ("odd", "a", "b"):
            await one.kept.check(who)
    assert one.engine.asked.count("a") == one.engine.asked.count("b") == 3
    await one.kept.stop()


async def test_while_the_engine_is_down_one_is_asked_for_all() -> None:
    async with world(metered(70)) as one:
        for number in range(40):
            await one.kept.check(f"t{number}")
        one.engine.grants = EngineUnavailable("down")
        await one.pass_(31)  # all that are on their way
        one.engine.asked.clear()
        await one.pass_(31)
        await one.pass_(31)
        assert len(one.engine.asked) == 2
        assert one.engine.asked[0] != one.engine.asked[1]
        one.engine.grants = metered(60)
        await one.pass_(31)
        await one.pass_(31)
        assert {one.room(f"t{number}") for number in range(40)} == {60}
        assert one.kept.questions["failed"] == 42


async def test_questions_in_the_background_are_few_at_once_and_of_those_who_ask() -> None:
    async with world(metered(70)) as one:
        for number in range(100):
            await one.kept.check(f"t{number}")
        one.engine.asked.clear()
        one.engine.go_on.clear()
        one.time.s += 31
        asking = asyncio.create_task(one.kept._ask_due())
        await asyncio.sleep(0.02)
        assert (len(one.engine.asked), one.engine.most_at_once) == (AT_ONCE, AT_ONCE)
        one.engine.go_on.set()
        await asking
        assert len(one.engine.asked) == 100
        await one.pass_(400)
        assert len(one.engine.asked) == 100, "nobody has sent a request lately"


async def test_what_is_remembered_has_a_bound_and_what_is_in_flight_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entitlements_, "STANDINGS_MAX", 100)
    async with world(metered(1000)) as one:
        kept = quotas(entitled=one.kept.limit_of)
        who = caller()
        await one.kept.check(who.subject)
        await kept.reserve(call(who))
        for number in range(250):
            await one.kept.check(f"t{number}")
        assert len(one.kept._standings) <= 100
        assert one.forgotten == 2
        assert one.room(who.subject) == 950


async def test_a_grant_is_one_limit_more_of_each_account() -> None:
    async with world(metered(100)) as one:
        kept = quotas(entitled=one.kept.limit_of, stops_streams=True, caps_output=True)
        who = caller("tokens/total=1000")
        await one.kept.check(who.subject)
        first = await kept.reserve(call(who, tokens=10, output=60))
        with pytest.raises(RateLimited, match="entitlement ai_tokens: left 100, of which"):
            await kept.reserve(call(who, tokens=10, output=60))
        with pytest.raises(QuotaExceeded, match="Your plan's entitlement ai_tokens has 100 tokens left"):
            await kept.reserve(call(who, tokens=10, output=100))
        last = await kept.reserve(call(who, tokens=10, output=20))
        assert await kept.more(last, who.limits, 50) == 0
        assert last.stopped_by == "entitlement ai_tokens"
        kept.release("x", first)
        one.settle(70, who.subject)
        assert one.room(who.subject) == 0


async def test_a_grant_without_end_neither_caps_nor_stops_anything() -> None:
    async with world(None) as one:
        kept = quotas(entitled=one.kept.limit_of, stops_streams=True, caps_output=True)
        who = caller()
        await one.kept.check(who.subject)
        held = await kept.reserve(call(who, output=None))
        assert (held.cap, held.stop_at) == (None, None)


async def test_a_ledger_that_cannot_be_read_counts_as_trouble_and_another_one_is_asked_anew() -> None:
    async with world(metered(100), when_unknown="refuse") as one:
        one.fails = sqlite3.OperationalError("disk I/O error")
        with pytest.raises(EntitlementUnknown):
            await one.kept.check(WHO)
        one.fails = None
        await one.pass_(6)
        await one.kept.check(WHO)
        one.engine.asked.clear()
        one.kept.settled_elsewhere([settlement("req", subject=WHO, usage=Usage(30))])
        assert one.room() == 70
        one.kept.settled_elsewhere(None)
        await one.kept.check(WHO)
        assert one.engine.asked == [WHO]


async def test_it_starts_and_stops_in_any_order_and_looks_by_itself() -> None:
    async with world(metered(100), lag_s=0, refresh_s=1) as one:
        await one.kept.stop()
        one.kept.start()
        one.kept.start()
        await one.kept.check(WHO)
        one.looked.clear()
        await asyncio.wait_for(one.looked.wait(), 5)
        await one.kept.stop()
        await one.kept.stop()
