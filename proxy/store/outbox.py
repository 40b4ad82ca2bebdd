"""What receivers have not accepted yet, and its moves (`proxy.model.EventState`): events, and others by the same rules.

Where no `line` is named, the events are meant.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson

from proxy.model import EventState, Settlement
from proxy.store import queries
from proxy.store.commit import GroupCommit
from proxy.store.database import Database, Link
from proxy.store.ledger import settlement_of

_WORDS_CHARS_MAX = 2_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Line(Generic[T]):
    """A table whose rows wait for a receiver: its SQL, and what a row of those that wait is."""

    oldest: str
    newest: str
    moves: Mapping[tuple[EventState, EventState], str]
    failure: str
    item: Callable[[Sequence[Any]], T]


EVENTS = Line(
    queries.PENDING_EVENTS, queries.PENDING_EVENTS_NEWEST, queries.MOVE_EVENTS, queries.NOTE_FAILURE, settlement_of
)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the sink has not taken. `oldest_ms` is the time of the pending event that was recorded first."""

    pending: int
    dead: int
    discarded: int
    oldest_ms: int | None

    def age_s(self, now_ms: int) -> int | None:
        """Whole seconds that the oldest one has waited; 0 where the clock was set back, None where nothing waits."""
        return None if self.oldest_ms is None else max(0, now_ms - self.oldest_ms) // 1_000


def pending(connection: sqlite3.Connection, limit: int, *, newest: bool = False) -> list[Settlement]:
    """The oldest pending events, at most `limit`, the oldest first; or the newest, the newest first."""
    return waiting(connection, EVENTS, limit, newest=newest)


def waiting(connection: sqlite3.Connection, line: Line[T], limit: int, *, newest: bool = False) -> list[T]:
    """The same, of any line."""
    return [line.item(row) for row in connection.execute(line.newest if newest else line.oldest, (limit,))]


def undelivered(connection: sqlite3.Connection) -> dict[str, int]:
    """The tokens of what is pending, by subject. Takes time in proportion to how much that is."""
    return dict(connection.execute(queries.UNDELIVERED).fetchall())


def move(
    connection: sqlite3.Connection,
    before: EventState,
    after: EventState,
    ids: Sequence[str],
    *noted: str | int,
    line: Line[Any] = EVENTS,
) -> int:
    """Move those that stand where they are said to, and leave the others alone. Returns how many there were.

    `noted` is what the move notes (`queries.MOVE_EVENTS`). Raises `KeyError` for one that is not in `MOVES`.
    """
    return connection.execute(line.moves[before, after], (*noted, orjson.dumps(ids).decode())).rowcount


def accept(connection: sqlite3.Connection, ids: Sequence[str], now_ms: int, *, line: Line[Any] = EVENTS) -> None:
    """The receiver answered 2xx."""
    move(connection, EventState.PENDING, EventState.ACCEPTED, ids, now_ms, line=line)


def refuse(connection: sqlite3.Connection, one_id: str, words: str, *, line: Line[Any] = EVENTS) -> None:
    """The receiver refused this one for good; `words` is what it said."""
    move(connection, EventState.PENDING, EventState.DEAD, [one_id], bounded(words), line=line)


def note_failure(connection: sqlite3.Connection, ids: Sequence[str], words: str, *, line: Line[Any] = EVENTS) -> None:
    """A try failed and will be made again."""
    connection.execute(line.failure, (bounded(words), orjson.dumps(ids).decode()))


def backlog(connection: sqlite3.Connection) -> Backlog:
    """Counted from the indexes of these states: what it costs depends on them, and not on the ledger's size."""
    pending_count, oldest_ms = connection.execute(queries.PENDING_COUNT).fetchone()
    (dead,) = connection.execute(queries.DEAD_COUNT).fetchone()
    (discarded,) = connection.execute(queries.DISCARDED_COUNT).fetchone()
    return Backlog(pending_count, dead, discarded, oldest_ms)


def recorded(connection: sqlite3.Connection) -> int:
    """How many events there are in all, from the totals."""
    count: int = connection.execute(queries.EVENT_COUNT).fetchone()[0]
    return count


class Outbox(Generic[T]):
    """What a relay sees of the store: reads on a connection of its own, writes through the group commit.

    Every method may raise `sqlite3.Error`.
    """

    def __init__(self, database: Database, commit: GroupCommit, now_ms: Callable[[], int], line: Line[T]) -> None:
        self._commit = commit
        self._now_ms = now_ms
        self._line = line
        self._link = Link(database, read_only=True)
        self._reading = threading.Lock()

    async def pending(self, limit: int, *, newest: bool = False) -> list[T]:
        return await asyncio.to_thread(self._pending, limit, newest)

    async def accept(self, ids: Sequence[str]) -> None:
        now_ms = self._now_ms()
        await self._commit.run(lambda connection: accept(connection, ids, now_ms, line=self._line))

    async def refuse(self, one_id: str, words: str) -> None:
        await self._commit.run(lambda connection: refuse(connection, one_id, words, line=self._line))

    async def note_failure(self, ids: Sequence[str], words: str) -> None:
        await self._commit.run(lambda connection: note_failure(connection, ids, words, line=self._line))

    def close(self) -> None:
        """Close the reading connection; a later read opens it again."""
        with self._reading:  # a read whose caller was cancelled goes on in its thread
            self._link.close()

    def _pending(self, limit: int, newest: bool) -> list[T]:
        with self._reading:
            try:
                return waiting(self._link.connection(), self._line, limit, newest=newest)
            except sqlite3.Error:
                self._link.close()
                raise


def bounded(words: str) -> str:
    """Words of others, as they are stored."""
    return words[:_WORDS_CHARS_MAX].encode("utf-8", "replace").decode()
