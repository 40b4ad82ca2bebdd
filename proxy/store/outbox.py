"""The events that the sink has not accepted yet, and their moves (`proxy.model.EventState`)."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from proxy.model import EventState, Settlement
from proxy.store import queries
from proxy.store.commit import GroupCommit
from proxy.store.database import Database, Link
from proxy.store.ledger import settlement_of

_ERROR_CHARS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for the sink. `oldest_ms` is the time of the pending event that was recorded first."""

    pending: int
    dead: int
    recorded: int
    oldest_ms: int | None


def pending(connection: sqlite3.Connection, limit: int) -> list[Settlement]:
    """The oldest pending events, at most `limit`."""
    return [settlement_of(row) for row in connection.execute(queries.PENDING_EVENTS, (limit,))]


def accept(connection: sqlite3.Connection, ids: Sequence[str], now_ms: int) -> None:
    """The sink answered 2xx."""
    connection.execute(queries.MOVE_EVENTS, (EventState.ACCEPTED, "", now_ms, orjson.dumps(ids).decode()))


def refuse(connection: sqlite3.Connection, event_id: str, words: str) -> None:
    """The sink refused this event for good; `words` is what it said."""
    ids = orjson.dumps([event_id]).decode()
    connection.execute(queries.MOVE_EVENTS, (EventState.DEAD, _bounded(words), None, ids))


def note_failure(connection: sqlite3.Connection, ids: Sequence[str], words: str) -> None:
    """A try failed and will be made again."""
    connection.execute(queries.NOTE_FAILURE, (_bounded(words), orjson.dumps(ids).decode()))


def backlog(connection: sqlite3.Connection) -> Backlog:
    count, oldest_ms = connection.execute(queries.PENDING_COUNT).fetchone()
    (dead,) = connection.execute(queries.DEAD_COUNT).fetchone()
    (recorded,) = connection.execute(queries.EVENT_COUNT).fetchone()
    return Backlog(count, dead, recorded, oldest_ms)


class Outbox:
    """What the relay sees of the store: reads on a connection of its own, writes through the group commit.

    Every method may raise `sqlite3.Error`.
    """

    def __init__(self, database: Database, commit: GroupCommit, now_ms: Callable[[], int]) -> None:
        self._commit = commit
        self._now_ms = now_ms
        self._link = Link(database, read_only=True)
        self._reading = threading.Lock()

    async def pending(self, limit: int) -> list[Settlement]:
        return await asyncio.to_thread(self._pending, limit)

    async def accept(self, ids: Sequence[str]) -> None:
        now_ms = self._now_ms()
        await self._commit.run(lambda connection: accept(connection, ids, now_ms))

    async def refuse(self, event_id: str, words: str) -> None:
        await self._commit.run(lambda connection: refuse(connection, event_id, words))

    async def note_failure(self, ids: Sequence[str], words: str) -> None:
        await self._commit.run(lambda connection: note_failure(connection, ids, words))

    def close(self) -> None:
        """Close the reading connection; a later read opens it again."""
        with self._reading:  # a read whose caller was cancelled goes on in its thread
            self._link.close()

    def _pending(self, limit: int) -> list[Settlement]:
        with self._reading:
            try:
                return pending(self._link.connection(), limit)
            except sqlite3.Error:
                self._link.close()
                raise


def _bounded(words: str) -> str:
    return words[:_ERROR_CHARS_MAX].encode("utf-8", "replace").decode()
