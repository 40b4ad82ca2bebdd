from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from proxy.errors import StoreError
from proxy.limits import Calendar
from proxy.model import EventState
from proxy.store import ledger, letters, outbox
from proxy.store.database import begin
from proxy.store.ledger import EVERY, Wanted, record
from proxy.store.letters import Letter
from proxy.store.usage import report
from tests.running import EVER
from tests.store.samples import TIME_MS, settlement, settlements

DEAD, DISCARDED, PENDING = EventState.DEAD, EventState.DISCARDED, EventState.PENDING


@pytest.fixture
def dead(connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> sqlite3.Connection:
    """Ten dead letters, a millisecond and a word apart, the last one another tenant's; pages hold three."""
    monkeypatch.setattr(letters, "PAGE_EVENTS", 3)
    record(connection, [settlement(f"req_{number}", time_ms=TIME_MS + number) for number in range(9)])
    record(connection, [settlement("req_9", time_ms=TIME_MS + 9, subject="user-002"), settlement("pending")])
    for number in range(10):
        outbox.refuse(connection, f"req_{number}", f"400: Word{number}")
    return connection


def pages(connection: sqlite3.Connection, wanted: Wanted = EVERY) -> Iterator[list[Letter]]:
    """As who moves them asks for them."""
    page, place = letters.page(connection, wanted)
    yield page
    while place is not None:
        page, place = letters.page(connection, wanted, place)
        yield page


def found(connection: sqlite3.Connection, wanted: Wanted) -> str:
    return "".join(letter.id.removeprefix("req_") for page in pages(connection, wanted) for letter in page)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), "0123456789"),
        (Wanted(subject="user-002"), "9"),
        (Wanted(words="WORD4"), "4"),
        (Wanted(words="%"), ""),
        (Wanted(from_ms=TIME_MS + 3, to_ms=TIME_MS + 8), "34567"),
        (Wanted(subject="user-001", words="word", from_ms=TIME_MS + 7), "78"),
    ],
)
def test_letters_come_in_the_order_of_their_commits_as_they_are_wanted(
    dead: sqlite3.Connection, wanted: Wanted, expected: str
) -> None:
    assert found(dead, wanted) == expected


def test_every_letter_comes_once_though_they_are_moved_meanwhile_and_die_again(dead: sqlite3.Connection) -> None:
    seen = []
    for page in pages(dead):
        seen += [letter.id for letter in page]
        with begin(dead):
            assert letters.replay(dead, page) == len(page)
        outbox.refuse(dead, page[0].id, "again")
        record(dead, [settlement(f"new_{len(seen)}")])
        outbox.refuse(dead, f"new_{len(seen)}", "not meant")
    assert seen == [f"req_{number}" for number in range(10)]


def test_a_replayed_letter_is_pending_with_its_words_and_tries(dead: sqlite3.Connection) -> None:
    (first, *_) = next(pages(dead))
    assert letters.replay(dead, [first]) == 1
    assert letters.replay(dead, [first]) == 0, "it is not dead any more"
    delivery = ledger.event(dead, first.id)
    assert delivery is not None
    assert (delivery.state, delivery.attempts, delivery.error) == (PENDING, 1, "400: Word0")


def test_a_discarded_letter_stays_with_its_reason_and_in_the_totals(dead: sqlite3.Connection) -> None:
    before = report(dead, EVER, Calendar())
    page = next(pages(dead))
    assert letters.discard(dead, page, "a test tenant's \ud800" + "x" * 3_000) == 3
    delivery = ledger.event(dead, "req_0")
    assert delivery is not None
    assert (delivery.state, delivery.error) == (DISCARDED, "400: Word0")
    assert delivery.reason.startswith("a test tenant's ?x")
    assert len(delivery.reason) == 2_000
    assert report(dead, EVER, Calendar()) == before
    assert found(dead, Wanted()) == "3456789"


def test_events_that_are_named_are_told_apart_by_their_states(dead: sqlite3.Connection) -> None:
    letters.discard(dead, letters.named(dead, ["req_1"], DEAD)[DEAD], "ours")
    by_state = letters.named(dead, ["req_1", "req_2", "req_1"], DEAD, DISCARDED)
    assert {state: [letter.id for letter in some] for state, some in by_state.items()} == {
        DEAD: ["req_2"],
        DISCARDED: ["req_1"],
    }
    assert letters.replay(dead, by_state[DISCARDED], DISCARDED) == 1


@pytest.mark.parametrize(
    ("ids", "words"),
    [(["req_1", "nope"], "there is no event nope"), (["pending"], "event pending is pending, and not dead")],
)
def test_an_event_that_is_not_there_to_be_moved_is_refused(
    dead: sqlite3.Connection, ids: list[str], words: str
) -> None:
    with pytest.raises(StoreError, match=f"^{words}$"):
        letters.named(dead, ids, DEAD)


def test_a_page_is_a_bounded_part(connection: sqlite3.Connection) -> None:
    record(connection, settlements(2_500))
    connection.execute("UPDATE events SET state = 'dead'")
    assert [len(page) for page in pages(connection)] == [1_000, 1_000, 500]
