"""Notifications, which webhooks carry: noted once for each thing that they tell of, and sent as events are."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from proxy.errors import StoreError
from proxy.model import EventState, Notification, Topic
from proxy.store import queries
from proxy.store.outbox import Line, bounded, move

_COLUMNS = 6


@dataclass(frozen=True, slots=True)
class Sent:
    """A notification and where it stands. `error` is the receiver's last words, `reason` why it was discarded."""

    notification: Notification
    state: EventState
    attempts: int
    error: str
    delivered_ms: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How many wait for the receiver, and how many it refused for good."""

    pending: int
    dead: int


def switch(connection: sqlite3.Connection, *, on: bool) -> None:
    """Webhooks are on: what is settled from now on is looked at, also after a crash. Or off: it is not.

    Where they were on already, the look goes on where it stood.
    """
    connection.execute(queries.BEGIN_NOTING if on else queries.END_NOTING)


def is_on(connection: sqlite3.Connection) -> bool:
    return connection.execute(queries.NOTED).fetchone() is not None


def noted_seq(connection: sqlite3.Connection) -> int | None:
    """Up to which settlement (`events.seq`) all is noted; None where webhooks are off."""
    row = connection.execute(queries.NOTED).fetchone()
    return None if row is None else int(row[0])


def note(connection: sqlite3.Connection, found: Sequence[Notification], seq: int | None = None) -> int:
    """Note what is not noted yet, and up to which settlement (`seq`) that is all. Returns how many were new."""
    new = sum(
        connection.execute(
            queries.INSERT_NOTIFICATION, (one.id, one.topic, one.subject, one.about, one.body, one.time_ms)
        ).rowcount
        for one in found
    )
    if seq is not None and not connection.execute(queries.MOVE_NOTED, (seq,)).rowcount:
        switch(connection, on=True)  # the ledger is one that was put in its place, from before webhooks were on
    return new


def counts(connection: sqlite3.Connection) -> Counts:
    return Counts(*connection.execute(queries.NOTIFICATION_COUNTS).fetchone())


def notification(connection: sqlite3.Connection, notification_id: str) -> Sent:
    """Raises `StoreError` where there is none."""
    row = connection.execute(queries.NOTIFICATION, (notification_id,)).fetchone()
    if row is None:
        raise StoreError(f"there is no webhook {notification_id}; `tollgate webhooks list` shows their ids")
    return _sent(row)


def newest(
    connection: sqlite3.Connection,
    *,
    state: EventState | None = None,
    topic: Topic | None = None,
    subject: str = "",
    limit: int,
) -> list[Sent]:
    """The newest first: all, or those in one state, of one type, about one tenant."""
    wanted = (state or "", topic or "", subject)
    row = tuple(value for value in wanted for _ in range(2))
    return [_sent(found) for found in connection.execute(queries.NOTIFICATIONS_NEWEST, (*row, limit))]


def dead(connection: sqlite3.Connection) -> list[str]:
    """The ids of all dead letters, oldest first."""
    return [one_id for (one_id,) in connection.execute(queries.DEAD_NOTIFICATIONS)]


def replay(connection: sqlite3.Connection, ids: Sequence[str]) -> int:
    """Send dead letters again, and what was discarded. Raises `StoreError` for any other, and then moves none."""
    found = _named(connection, ids, EventState.DEAD, EventState.DISCARDED)
    return sum(move(connection, state, EventState.PENDING, of, line=NOTIFICATIONS) for state, of in found.items())


def discard(connection: sqlite3.Connection, ids: Sequence[str], reason: str) -> int:
    """Give dead letters up, for a reason that is kept. Raises `StoreError` for any other, and then moves none."""
    found = _named(connection, ids, EventState.DEAD)[EventState.DEAD]
    return move(connection, EventState.DEAD, EventState.DISCARDED, found, bounded(reason), line=NOTIFICATIONS)


def _named(connection: sqlite3.Connection, ids: Sequence[str], *states: EventState) -> dict[EventState, list[str]]:
    found: dict[EventState, list[str]] = {state: [] for state in states}
    for one_id in dict.fromkeys(ids):
        state = notification(connection, one_id).state
        if state not in found:
            raise StoreError(f"webhook {one_id} is {state}, and not {' or '.join(states)}")
        found[state].append(one_id)
    return found


def _notification(row: Sequence[Any]) -> Notification:
    one_id, topic, subject, about, body, time_ms = row[:_COLUMNS]
    return Notification(one_id, Topic(topic), subject, about, body, time_ms)


def _sent(row: Sequence[Any]) -> Sent:
    state, attempts, error, delivered_ms, reason = row[_COLUMNS:]
    return Sent(_notification(row), EventState(state), attempts, error, delivered_ms, reason)


#: Their outbox.
NOTIFICATIONS = Line(
    queries.PENDING_NOTIFICATIONS,
    queries.PENDING_NOTIFICATIONS_NEWEST,
    queries.MOVE_NOTIFICATIONS,
    queries.NOTE_NOTIFICATION_FAILURE,
    _notification,
)
