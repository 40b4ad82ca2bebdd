"""Whose it is what was made upstream: remembered at once, on disk with the next commit, known to every server."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial

from proxy.errors import LedgerUnavailable
from proxy.store import queries
from proxy.store.commit import GroupCommit
from proxy.store.database import Database, Link

log = logging.getLogger(__name__)

_REMEMBERED_MAX = 50_000
#: Reads are made in the event loop's thread, so they hardly wait. Beside a writer they never do.
_BUSY_MS = 50


class Owned:
    """The owner (a subject) of each id. The first who is told of an id owns it for good, or until it is forgotten."""

    def __init__(self, database: Database, commit: GroupCommit, now_ms: Callable[[], int]) -> None:
        self._link = Link(database, read_only=True, busy_ms=_BUSY_MS)
        self._commit = commit
        self._now_ms = now_ms
        # Ordered, for from a plain dict the oldest is found the later the more have gone before it.
        self._remembered: OrderedDict[str, str] = OrderedDict()

    async def owner(self, owned_id: str) -> str | None:
        """Whose it is; None where nobody made it through this proxy. Raises `LedgerUnavailable`."""
        known = self._remembered.get(owned_id)
        if known is not None:
            return known
        try:
            row = self._link.connection().execute(queries.OWNER, (owned_id,)).fetchone()
        except sqlite3.Error as error:
            self._link.close()
            log.error("owners cannot be looked up, requests that name ids are refused until they can: %s", error)
            raise LedgerUnavailable("Ids cannot be checked at the moment. Try again soon.") from None
        if row is None:
            return None
        self._remember(owned_id, row[0])
        return str(row[0])

    def remember(self, ids: Iterable[str], subject: str) -> asyncio.Future[int] | None:
        """Note that these are a subject's; the future is done when that is on disk. None: it was known already."""
        new = [one for one in dict.fromkeys(ids) if self._remembered.get(one) != subject]
        if not new:
            return None
        for one in new:
            if one not in self._remembered:
                self._remember(one, subject)
        rows = [(one, subject, self._now_ms()) for one in new]
        written = self._commit.run(partial(_insert, rows=rows))
        written.add_done_callback(partial(self._check, new))
        return written

    def forget(self, owned_id: str) -> asyncio.Future[int]:
        """Nobody owns it any more, because it is gone upstream. The future is done when that is on disk."""
        self._remembered.pop(owned_id, None)
        forgotten = self._commit.run(partial(_delete, owned_id=owned_id))
        forgotten.add_done_callback(partial(self._check, [owned_id]))
        return forgotten

    def close(self) -> None:
        """Close the connection; a later look-up opens it again."""
        self._link.close()

    def _remember(self, owned_id: str, subject: str) -> None:
        if len(self._remembered) >= _REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        self._remembered[owned_id] = subject

    def _check(self, ids: list[str], done: asyncio.Future[int]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            log.error("whose %s is could not be written, and is known until the next start only: %s", ids, error)
        elif done.cancelled() or done.result() < len(ids):
            # Some were on disk already, perhaps as another's, who was told first. What is on disk counts.
            for one in ids:
                self._remembered.pop(one, None)


def _insert(connection: sqlite3.Connection, rows: list[tuple[str, str, int]]) -> int:
    return connection.executemany(queries.INSERT_OWNED, rows).rowcount


def _delete(connection: sqlite3.Connection, owned_id: str) -> int:
    return connection.execute(queries.DELETE_OWNED, (owned_id,)).rowcount
