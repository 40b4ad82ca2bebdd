"""Dead letters, as a person handles them: those that are wanted, a page at a time, and the moves back and away.

A page is one short transaction: a server that runs on the same file waits for no more than that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proxy.errors import StoreError
from proxy.model import EventState
from proxy.store import queries
from proxy.store.ledger import EVERY, Wanted
from proxy.store.outbox import bounded, move

#: Moving so many takes some 20 ms.
PAGE_EVENTS = 1_000


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead (or discarded) event, and when its request arrived."""

    id: str
    time_ms: int


def pages(connection: sqlite3.Connection, wanted: Wanted = EVERY) -> Iterator[list[Letter]]:
    """The dead letters that there are by now, oldest first. They may be moved as they come."""
    (until_seq,) = connection.execute(queries.LAST_SEQ).fetchone()
    after_seq = -1
    while True:
        parameters = (after_seq, until_seq, *wanted.row, PAGE_EVENTS)
        rows = connection.execute(queries.DEAD_LETTERS, parameters).fetchall()
        if not rows:
            return
        yield [Letter(event_id, time_ms) for _, event_id, time_ms in rows]
        after_seq = rows[-1][0]


def named(connection: sqlite3.Connection, ids: Sequence[str], *states: EventState) -> dict[EventState, list[Letter]]:
    """The events of these ids, by their states. Raises `StoreError` for one that is unknown or in none of `states`."""
    found: dict[EventState, list[Letter]] = {state: [] for state in states}
    for event_id in dict.fromkeys(ids):
        row = connection.execute(queries.STATE_OF, (event_id,)).fetchone()
        if row is None:
            raise StoreError(f"there is no event {event_id}")
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
