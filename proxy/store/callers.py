"""Who a key belongs to: remembered, and never staler than half a second."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from hmac import compare_digest

import orjson

from proxy.errors import LedgerUnavailable
from proxy.model import Caller
from proxy.store import queries
from proxy.store.database import Database

#: A change by another process (a revocation on the command line) is noticed within this time, whatever the load.
_STALE_S = 0.5
_REMEMBERED_MAX = 10_000


class Callers:
    """Looks keys up by hash. A key that is not remembered is always asked for, so a new one works at once."""

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._connection: sqlite3.Connection | None = None
        self._remembered: dict[bytes, Caller] = {}
        self._revision = -1
        self._checked_at = -_STALE_S

    async def find(self, key_hash: bytes) -> Caller | None:
        """The caller, or None for a key that is unknown or revoked. Raises `LedgerUnavailable`."""
        try:
            if self._monotonic() - self._checked_at >= _STALE_S:
                self._check_revision()
            return self._remembered.get(key_hash) or self._look_up(key_hash)
        except sqlite3.Error as error:
            self.close()
            raise LedgerUnavailable(f"Keys cannot be checked at the moment: {error}.") from None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _check_revision(self) -> None:
        checked_at = self._monotonic()
        (revision,) = self._read().execute(queries.REVISION).fetchone()
        if revision != self._revision:
            self._remembered.clear()
            self._revision = revision
        self._checked_at = checked_at

    def _look_up(self, key_hash: bytes) -> Caller | None:
        row = self._read().execute(queries.CALLER, (key_hash,)).fetchone()
        if row is None or not compare_digest(row[6], key_hash):
            return None
        key_id, tenant_id, status, models, trusted, expires_ms, _ = row
        caller = Caller(
            key_id, tenant_id, status == "active", frozenset(orjson.loads(models)), bool(trusted), expires_ms
        )
        if len(self._remembered) >= _REMEMBERED_MAX:
            self._remembered.pop(next(iter(self._remembered)))
        self._remembered[key_hash] = caller
        return caller

    def _read(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._database.connect(read_only=True)
        return self._connection
