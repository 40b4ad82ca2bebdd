"""The ledger as a reconciliation reads it: in the order of time, and the one move that it makes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson

from proxy.model import EventState, Settlement
from proxy.store import queries
from proxy.store.ledger import settlement_of

#: Rows that are read at once. No transaction lasts longer: a log that a reader holds open only grows.
PAGE_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Recorded:
    """A settlement, where its event stands, and when the sink took it (unix ms; None where it has not)."""

    settlement: Settlement
    state: EventState
    delivered_ms: int | None


def between(connection: sqlite3.Connection, from_ms: int, to_ms: int) -> Iterator[Recorded]:
    """The settlements of requests that arrived in `[from_ms, to_ms)`, in that order, a page at a time.

    It goes by the time of arrival and not by the ids, which begin with it: an id may have been made elsewhere, and an
    event that is overlooked here would never be missed.
    """
    after = (from_ms, -1)
    while True:
        rows = connection.execute(queries.EVENTS_BY_TIME, (*after, to_ms, PAGE_ROWS)).fetchall()
        yield from map(_recorded, rows)
        if len(rows) < PAGE_ROWS:
            return
        time_ms, seq = rows[-1][-2:]
        after = (time_ms, seq)


def recorded(connection: sqlite3.Connection, request_id: str) -> Recorded | None:
    row = connection.execute(queries.EVENT_RECORDED, (request_id,)).fetchone()
    return None if row is None else _recorded(row)


def awaited(connection: sqlite3.Connection) -> int:
    """How many background responses have no event yet, because their usage is not known."""
    count: int = connection.execute(queries.FOLLOWUP_COUNT).fetchone()[0]
    return count


def send_again(connection: sqlite3.Connection, ids: Sequence[str], delivered_until_ms: int) -> int:
    """Have the relay send accepted events that the receiver does not have. Returns how many there were.

    One that was delivered later than that is left alone: it may have been sent again already.
    """
    parameters = (orjson.dumps(ids).decode(), delivered_until_ms)
    return connection.execute(queries.SEND_AGAIN, parameters).rowcount


def note_sent(connection: sqlite3.Connection, event_id: str, now_ms: int) -> None:
    """Parts of an accepted event were sent once more, and accepted."""
    connection.execute(queries.NOTE_SENT, (now_ms, event_id))


def _recorded(row: Sequence[object]) -> Recorded:
    state, delivered_ms, _, _ = row[-4:]
    return Recorded(settlement_of(row), EventState(str(state)), delivered_ms)  # type: ignore[arg-type]
