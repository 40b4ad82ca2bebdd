"""The search alone, without a relay: what it asks to be sent next, and what it concludes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.delivery import search as searching
from proxy.delivery.search import FAILURES_MAX, REFUSED_MAX, TRIES_MAX, Search
from proxy.model import Settlement
from tests.delivery.ledger import settlement

RETRY_S = 60.0


@dataclass(slots=True)
class Line:
    """Pending events and a clock, moved by the search's advice as the relay does it, with nothing in between."""

    waiting: list[Settlement]
    refuses: Callable[[Settlement], bool] = lambda one: False
    fails: Callable[[Settlement], bool] = lambda one: False
    #: How many it takes at once. Where it is told more, it fails, or asks to wait.
    room: int = 1_000
    puts_off: bool = False
    batch_max: int = 8
    now_s: float = 0.0
    taken: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    calls: int = 0
    sizes: list[int] = field(default_factory=list)

    def drain(self, calls_max: int) -> Search[Settlement]:
        search: Search[Settlement] = Search(self.batch_max, RETRY_S, lambda: self.now_s)
        while self.waiting and self.calls < calls_max:
            self._turn(search)
        return search

    def _turn(self, search: Search[Settlement]) -> None:
        batch = self._next(search)
        if not batch:
            search.nothing_waits()
            self.now_s += RETRY_S
            return
        self.calls += 1
        self.sizes += [len(batch)]
        if len(batch) > self.room and self.puts_off:
            search.put_off(batch)
            self.now_s += 1.0
        elif any(map(self.fails, batch)) or len(batch) > self.room:
            if not search.failed(batch, "500"):
                self.now_s += 1.0
        elif any(map(self.refuses, batch)):
            if search.refused(batch):
                self._remove(batch)
                self.dead += [batch[0].id]
                search.buried(batch[0])
        else:
            condemned = search.accepted(batch)
            self._remove(batch)
            self.taken += [one.id for one in batch]
            if condemned is not None:
                self._remove([condemned.settlement])
                self.dead += [condemned.settlement.id]
                search.condemned(condemned)

    def _next(self, search: Search[Settlement]) -> list[Settlement]:
        if (due := search.due()) is not None:
            return [due]
        if search.is_probing:
            return self.waiting[-1:]
        return search.without_suspects(self.waiting[: search.size + search.aside])

    def _remove(self, batch: list[Settlement]) -> None:
        self.waiting = [one for one in self.waiting if one not in batch]


def events(count: int) -> list[Settlement]:
    return [settlement(number) for number in range(count)]


def among(numbers: set[int]) -> Callable[[Settlement], bool]:
    ids = {settlement(number).id for number in numbers}
    return lambda one: one.id in ids


@given(st.sets(st.integers(0, 39), max_size=REFUSED_MAX - 1), st.integers(1, 20))
def test_what_is_refused_becomes_dead_and_all_else_is_taken_once(poison: set[int], batch_max: int) -> None:
    line = Line(events(40), refuses=among(poison), batch_max=batch_max)
    line.drain(calls_max=400)
    assert sorted(line.dead) == [settlement(number).id for number in sorted(poison)]
    assert sorted([*line.taken, *line.dead]) == [one.id for one in events(40)]


def test_one_that_is_refused_costs_two_calls_for_each_halving() -> None:
    line = Line(events(64), refuses=among({37}), batch_max=64)
    line.drain(calls_max=100)
    assert line.calls == 1 + 2 * 6
    assert line.dead == [settlement(37).id]


def test_where_everything_is_refused_only_ten_become_dead_and_then_the_newest_is_tried_alone() -> None:
    line = Line(events(100), refuses=lambda one: True)
    search = line.drain(calls_max=60)
    assert search.is_probing
    first = [one.id for one in events(REFUSED_MAX)]
    assert line.dead[:REFUSED_MAX] == first
    assert set(line.dead[REFUSED_MAX:]) == {one.id for one in events(100)[-len(line.dead) + REFUSED_MAX :]}


def test_one_acceptance_ends_the_probing() -> None:
    line = Line(events(100), refuses=among(set(range(30))))
    search = line.drain(calls_max=500)
    assert not search.is_probing
    assert not line.waiting
    assert sorted(line.dead) == [one.id for one in events(30)]


def test_an_event_that_the_sink_always_fails_at_holds_up_nothing() -> None:
    line = Line(events(200), fails=among({3}), batch_max=8)
    search = line.drain(calls_max=200)
    assert (line.waiting, search.aside, line.dead) == ([settlement(3)], 1, [])
    assert len(line.taken) == 199


def test_it_is_condemned_only_by_deliveries_that_succeed_right_after_it_failed() -> None:
    line = Line(events(4_000), fails=among({3}), batch_max=1)
    tries = 0

    def fails(one: Settlement) -> bool:
        nonlocal tries
        line.now_s += RETRY_S  # each of them is due by then
        tries += one == settlement(3)
        return one == settlement(3)

    line.fails = fails
    line.drain(calls_max=8_000)
    assert line.dead == [settlement(3).id]
    assert tries >= TRIES_MAX
    assert len(line.taken) == 3_999


@pytest.mark.parametrize("batch_max", [1, 8])
def test_while_everything_fails_nothing_becomes_dead_and_nothing_is_concluded(batch_max: int) -> None:
    line = Line(events(20), fails=lambda one: True, batch_max=batch_max)
    search = line.drain(calls_max=3_000)
    assert line.dead == []
    assert search.failing == 0
    line.fails = lambda one: False
    line.calls = 0
    while line.waiting and line.calls < 100:
        line._turn(search)
    assert sorted(line.taken) == [one.id for one in events(20)]


def test_a_sink_that_fails_now_and_then_is_not_searched() -> None:
    search: Search[Settlement] = Search(8, RETRY_S, lambda: 0.0)
    for _ in range(10):
        for _ in range(FAILURES_MAX - 1):
            assert not search.failed(events(8), "500")
            assert not search.is_on
        assert search.accepted(events(8)) is None


def test_no_more_are_set_aside_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "SUSPECTS_MAX", 3)
    line = Line(events(20), fails=lambda one: True, batch_max=1)
    assert line.drain(calls_max=500).aside == 3


def test_an_outage_in_between_says_nothing_of_the_event_in_question() -> None:
    now_s = 0.0
    search: Search[Settlement] = Search(1, RETRY_S, lambda: now_s)
    bad, good = events(2)
    for _ in range(FAILURES_MAX):
        search.failed([bad], "500")
    assert search.aside == 1
    search.unavailable([good])
    assert search.accepted([good]) is None
    assert search.failing == 0


@pytest.mark.parametrize("puts_off", [False, True])
@pytest.mark.parametrize("room", [1, 3, 10, 99])
def test_a_sink_that_takes_no_more_at_once_gets_no_more(room: int, puts_off: bool) -> None:
    line = Line(events(600), room=room, puts_off=puts_off, batch_max=100)
    line.drain(1_000)
    assert line.taken == [one.id for one in events(600)], "each once, in their order"
    assert line.dead == []
    in_vain = sum(size > room for size in line.sizes)
    assert in_vain < 4 * 7 + len(line.sizes) / 3


def test_when_it_takes_more_again_it_gets_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "GROWS_AFTER", 3)
    line = Line(events(2_000), room=10, batch_max=100)
    search = line.drain(60)
    assert search.size <= 25
    line.room = 1_000
    while line.waiting:
        line._turn(search)
    assert line.sizes[-2] == 100
    assert line.taken == [one.id for one in events(2_000)]


def test_one_that_waits_for_ever_does_not_keep_the_others() -> None:
    line = Line(events(300), fails=among({7}), batch_max=100)
    line.drain(60)
    assert len(line.taken) == 299
    assert line.dead == []
