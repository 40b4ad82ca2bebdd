"""Dead letters, as a person handles them: those that are wanted, a page at a time, and the moves back and away.

A page is one short transaction: a server that runs on the same file waits for no more than that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.errors import NoSuch, StoreError
from proxy.model import EventState
from proxy.store import queries
from proxy.store.ledger import EVERY, Wanted
from proxy.store.outbox import bounded, move

#: Moving so many takes some 20 ms.
PAGE_EVENTS = 1_000


@dataclass(frozen=True, slots=True)
class Place:
    """Between two pages: behind which row, and up to which one that was the ledger's last when the first page was read.

    What dies later is not meant, and what dies again does not come twice.
    """

    after_seq: int
    until_seq: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead (or discarded) event, and when its request arrived."""

    id: str
    time_ms: int


def page(
    connection: sqlite3.Connection, wanted: Wanted = EVERY, place: Place | None = None
) -> tuple[list[Letter], Place | None]:
    """Dead letters, oldest first, and where the next page begins, if there is one. They may be moved meanwhile."""
    if place is None:
        place = Place(-1, connection.execute(queries.LAST_SEQ).fetchone()[0])
    parameters = (place.after_seq, place.until_seq, *wanted.row, PAGE_EVENTS)
    rows = connection.execute(queries.DEAD_LETTERS, parameters).fetchall()
    found = [Letter(event_id, time_ms) for _, event_id, time_ms in rows]
    return found, Place(rows[-1][0], place.until_seq) if len(rows) == PAGE_EVENTS else None


def named(connection: sqlite3.Connection, ids: Sequence[str], *states: EventState) -> dict[EventState, list[Letter]]:
    """The events of these ids, by their states. Raises `StoreError` for one that is unknown or in none of `states`."""
    found: dict[EventState, list[Letter]] = {state: [] for state in states}
    for event_id in dict.fromkeys(ids):
        row = connection.execute(queries.STATE_OF, (event_id,)).fetchone()
        if row is None:
            raise NoSuch(f"there is no event {event_id}")
        state, time_ms = EventState(row[0]), row[1]
        if state not in found:
            raise StoreError(f"event {event_id} is {state}, and not {' or '.join(states)}")
        found[state].append(Letter(event_id, time_ms))
    return found


def replay(connection: sqlite3.Connection, letters: Sequence[Letter], state: EventState = EventState.DEAD) -> int:
    """Let the relay send them again; they are where `state` says. Returns how many still were."""
    return move(connection, state, EventState.PENDING, [letter.id for letter in letters])


def discard(connection: sqlite3.Connection, letters: Sequence[Letter], reason: str) -> int:
    """Give them up, for a reason that is kept. Returns how many were still dead."""
    return move(connection, EventState.DEAD, EventState.DISCARDED, [letter.id for letter in letters], bounded(reason))
