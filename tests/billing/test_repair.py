"""What is sent again: what is proven to be absent, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from proxy.billing.comparison import LATE_MS, Absent
from proxy.billing.reconcile import Missing
from proxy.billing.repair import Repair
from proxy.delivery.cloudevents import events_of
from proxy.errors import SinkUnavailable
from proxy.model import EventState
from tests.billing.books import Books
from tests.delivery.ledger import NOW_MS, settlement

ACCEPTED, PENDING = EventState.ACCEPTED, EventState.PENDING
DELIVERED_MS = NOW_MS + 60_000
LATER_MS = NOW_MS + 600_000


class Sink:
    """Takes what it is given, unless it is down."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.down = False

    async def deliver(self, events: Sequence[dict[str, Any]]) -> None:
        if self.down:
            raise SinkUnavailable("503")
        self.taken += [event["id"] for event in events]

    async def close(self) -> None:
        pass


@pytest.fixture
def sink() -> Sink:
    return Sink()


def mending(books: Books, sink: Sink, *, now_ms: int = LATER_MS) -> Repair:
    return Repair(books.database, sink, visible_ms=DELIVERED_MS, now_ms=lambda: now_ms)


def missing(books: Books, number: int, *kinds: str, proven: bool = True) -> Missing:
    """A request that is missing as a whole, or these events of it."""
    one = books.recorded(f"req-{number:04}")
    assert one is not None
    events = events_of(one.settlement, "tollgate", "prompt")
    gone = tuple(event for event in events if not kinds or event["data"]["type"] in kinds)
    return Missing(Absent(one, gone, whole=len(gone) == len(events)), proven)


async def test_a_whole_request_waits_for_the_relay_again(books: Books, sink: Sink) -> None:
    books.record([settlement(number) for number in range(4)])
    repair = mending(books, sink)
    await repair([missing(books, 1), missing(books, 3)])
    assert [(one.state, one.delivered_ms) for one in books.all()] == [
        (ACCEPTED, DELIVERED_MS),
        (PENDING, None),
        (ACCEPTED, DELIVERED_MS),
        (PENDING, None),
    ]
    assert (repair.requests, repair.parts, repair.stale, sink.taken) == (2, 0, 0, [])


async def test_parts_of_a_request_are_sent_here_and_nothing_beside_them(books: Books, sink: Sink) -> None:
    books.record([settlement(1), settlement(2)])
    repair = mending(books, sink)
    await repair([missing(books, 1, "output"), missing(books, 2, "input", "reasoning")])
    assert sink.taken == ["req-0001:output", "req-0002:input", "req-0002:reasoning"]
    assert [(one.state, one.delivered_ms) for one in books.all()] == [(ACCEPTED, LATER_MS)] * 2, (
        "too recent from now on"
    )
    assert (repair.requests, repair.parts) == (0, 3)


async def test_what_is_not_proven_is_left_alone(books: Books, sink: Sink) -> None:
    books.record([settlement(1), settlement(2)])
    repair = mending(books, sink)
    await repair([missing(books, 1, proven=False), missing(books, 2, "input", proven=False)])
    assert {one.state for one in books.all()} == {ACCEPTED}
    assert (repair.requests, repair.parts, repair.stale, sink.taken) == (0, 0, 0, [])


async def test_what_was_sent_again_by_another_is_not_sent_a_third_time(books: Books, sink: Sink) -> None:
    books.record([settlement(1)])
    found = [missing(books, 1)]
    first, second = mending(books, sink), mending(books, sink)
    await first(found)
    await second(found)
    assert (first.requests, second.requests) == (1, 0)


async def test_events_that_an_invoice_may_not_have_waited_for_are_counted(books: Books, sink: Sink) -> None:
    books.record([replace(settlement(1), time_ms=NOW_MS), replace(settlement(2), time_ms=NOW_MS + 1)])
    repair = mending(books, sink, now_ms=NOW_MS + 1 + LATE_MS)
    await repair([missing(books, 1), missing(books, 2)])
    assert repair.stale == 4, "the four of the older one"


async def test_a_sink_that_takes_nothing_ends_it_and_nothing_is_noted(books: Books, sink: Sink) -> None:
    books.record([settlement(1)])
    sink.down = True
    with pytest.raises(SinkUnavailable):
        await mending(books, sink)([missing(books, 1, "input")])
    assert [one.delivered_ms for one in books.all()] == [DELIVERED_MS]
