"""What other processes record in the same ledger, noticed by the one connection that writes in this process.

SQLite counts the commits of others (`PRAGMA data_version`), so that a process which is alone reads nothing again. And
rows only ever come at the end: what stands behind the last row that is known is another's.
"""

from __future__ import annotations

import sqlite3

from proxy.model import Settlement
from proxy.store import queries
from proxy.store.ledger import settlement_of

#: Rows of others that are read at once; where there are more, whoever wants to know reads the totals again.
_ROWS_MAX = 10_000


class Others:
    """Asked by the writer. What was noticed stands until it is taken (`news`)."""

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None
        self._version = -1
        self._seq: int | None = None  # the last row that is known; None before the first look
        self._news: list[list[Settlement] | None] = []

    def look(self, connection: sqlite3.Connection) -> None:
        """Before this process writes, in the same transaction; or while it writes nothing, in any or none."""
        version = _number(connection, "PRAGMA data_version")
        if connection is self._connection and version == self._version:
            return
        last = _number(connection, queries.LAST_SEQ)
        if self._seq is not None and last != self._seq:
            if 0 < last - self._seq <= _ROWS_MAX:
                rows = connection.execute(queries.EVENTS_BETWEEN, (self._seq, last))
                self._news.append([settlement_of(row) for row in rows])
            else:
                self._news.append(None)  # a great many, or a ledger with less in it: a backup
        self._seq = last
        self._connection = connection
        self._version = version

    @property
    def seq(self) -> int:
        """The last row that is known."""
        return self._seq or 0

    def committed(self, last: int) -> None:
        """What this process wrote has its last row here."""
        self._seq = last

    def news(self) -> list[list[Settlement] | None]:
        """What others have recorded, since this was last called; None: more than can be told."""
        found, self._news = self._news, []
        return found


def last_row(connection: sqlite3.Connection) -> int:
    return _number(connection, queries.LAST_SEQ)


def _number(connection: sqlite3.Connection, sql: str) -> int:
    number: int = connection.execute(sql).fetchone()[0]
    return number
