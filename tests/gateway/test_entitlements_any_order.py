"""Settle, deliver, look, ask, in any order and at any pace: what is left is never more than what is left."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.gateway.entitlements import Entitlements
from proxy.model import Access, Usage
from proxy.sections import EntitlementSettings
from tests.gateway.test_entitlements import Time
from tests.store.samples import settlement

WHO, TOTAL, LAG_S = "user-001", 100_000, 10
seconds = st.sampled_from([0.0, 0.3, 2.0, 4.9, 5.0, 11.0, 31.0, 70.0])
happens = st.one_of(
    st.tuples(st.just("settle"), st.integers(1, 900)),
    st.tuples(st.just("deliver"), st.floats(0, LAG_S)),  # all that waits; the engine sees it so much later
    st.tuples(st.just("pass"), seconds),
    st.tuples(st.just("look"), st.just(0)),
)
steps = happens | st.tuples(st.just("ask"), st.lists(happens, max_size=6))  # and what happens meanwhile


@dataclass(slots=True)
class Event:
    tokens: int
    visible_s: float | None = None  #: None: it waits for delivery


class Model:
    """The ledger, the sink and the engine, each as slow as it may be."""

    def __init__(self) -> None:
        self.time = Time()
        self.events: list[Event] = []
        self.meanwhile: list[tuple[str, Any]] = []
        given = {"feature": "ai_tokens", "lag_s": LAG_S, "refresh_s": 30, "stale_s": 10**6}
        settings_ = EntitlementSettings.model_validate(given)
        self.kept = Entitlements(self, settings_, self._undelivered, lambda: None, monotonic=self.time)

    async def access(self, subject: str) -> Access:
        balance = TOTAL - sum(one.tokens for one in self.events if (one.visible_s or 2**60) <= self.time.s)
        for kind, value in self.meanwhile:
            await self.step(kind, value)
        return Access(granted=True, metered=True, balance=balance)

    async def _undelivered(self) -> Mapping[str, int]:
        return {WHO: sum(one.tokens for one in self.events if one.visible_s is None)}

    async def step(self, kind: str, value: Any) -> None:
        match kind:
            case "settle":
                self.events.append(Event(value))
                self.kept.settled(settlement("req", subject=WHO, usage=Usage(value)))
            case "deliver":
                for one in self.events:
                    if one.visible_s is None:
                        one.visible_s = self.time.s + value
            case "pass":
                self.time.s += value
            case "look":
                await self.kept._look()
            case "ask":
                self.meanwhile = value
                self.kept._standings[WHO].due_s = 0
                self.kept._standings[WHO].active_s = self.time.s
                await self.kept._ask_due()

    @property
    def room(self) -> int:
        return -self.kept.limit_of(WHO)[1].used

    @property
    def left(self) -> int:
        return TOTAL - sum(one.tokens for one in self.events)


@given(st.lists(steps, min_size=20, max_size=60))
@settings(max_examples=150, deadline=None)
def test_what_is_left_is_never_more_than_what_is_left(todo: list[tuple[str, Any]]) -> None:
    async def run() -> None:
        one = Model()
        await one.kept.check(WHO)
        for kind, value in todo:
            await one.step(kind, value)
            assert one.room <= one.left
        # When all has come to rest, it is exactly that.
        await one.step("deliver", 0)
        for _ in range(3):
            await one.step("pass", LAG_S + 2)
            await one.step("look", 0)
        await one.step("ask", [])
        assert one.room == one.left
        await one.kept.stop()

    asyncio.run(run())
