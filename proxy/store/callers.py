"""Who a key belongs to: remembered, and never staler than half a second."""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hmac import compare_digest

import orjson

from proxy.errors import LedgerUnavailable
from proxy.model import Caller, Limit, Tenant
from proxy.store import accounts
from proxy.store.database import Database, Link
from proxy.store.limits import effective

log = logging.getLogger(__name__)

#: A change by another process (a revocation on the command line) is noticed within this time, whatever the load.
_STALE_S = 0.5
_REMEMBERED_MAX = 10_000
#: Reads are made in the event loop's thread, so they hardly wait. Beside a writer they never do.
_BUSY_MS = 50


class Callers:
    """Looks keys up by hash. A key that is not remembered is always asked for, so a new one works at once."""

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._link = Link(database, read_only=True, busy_ms=_BUSY_MS)
        self._monotonic = monotonic
        # Ordered, for from a plain dict the oldest is found the later the more have gone before it.
        self._remembered: OrderedDict[bytes, Caller] = OrderedDict()
        self._limits: OrderedDict[tuple[str, str], tuple[Limit, ...]] = OrderedDict()
        #: Which state of which file is remembered.
        self._seen: tuple[sqlite3.Connection, int] | None = None
        self._checked_at = -math.inf
        self._fails = False

    async def find(self, key_hash: bytes) -> Caller | None:
        """The caller, or None for a key that is unknown or revoked. Raises `LedgerUnavailable`."""
        if self._monotonic() - self._checked_at < _STALE_S and (known := self._remembered.get(key_hash)):
            return known
        with self._guarded():
            if self._monotonic() - self._checked_at >= _STALE_S:
                self._check_revision()
            return self._remembered.get(key_hash) or self._look_up(key_hash)

    async def tenant(self, tenant_id: str) -> Tenant | None:
        """The tenant of this id, if there is one. Raises `LedgerUnavailable`."""
        with self._guarded():
            row = self._link.connection().execute(accounts.TENANT, (tenant_id,)).fetchone()
        return None if row is None else Tenant(*row)

    async def limits(self, tenant_id: str, key_id: str) -> tuple[Limit, ...]:
        """What a subject may use with a key. The same object until something changes. Raises `LedgerUnavailable`."""
        with self._guarded():
            if self._monotonic() - self._checked_at >= _STALE_S:
                self._check_revision()
            known = self._limits.get((tenant_id, key_id))
            return self._look_up_limits(tenant_id, key_id) if known is None else known

    async def revision(self) -> object:
        """Another one when something has changed. Raises `LedgerUnavailable`."""
        with self._guarded():
            if self._monotonic() - self._checked_at >= _STALE_S:
                self._check_revision()
            return self._seen

    def recheck(self) -> None:
        """Something was changed here just now: it is in force with the next request."""
        self._checked_at = -math.inf

    def close(self) -> None:
        """Close the connection; a later look-up opens it again."""
        self._link.close()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._link.close()
            if not self._fails:
                log.error("keys cannot be looked up, requests are refused until they can: %s", error)
            self._fails = True
            raise LedgerUnavailable("Keys cannot be checked at the moment. Try again soon.") from None
        self._fails = False

    def _check_revision(self) -> None:
        checked_at = self._monotonic()
        connection = self._link.connection()
        (revision,) = connection.execute(accounts.REVISION).fetchone()
        if self._seen != (connection, revision):
            self._remembered.clear()
            self._limits.clear()
            self._seen = (connection, revision)
        self._checked_at = checked_at

    def _look_up(self, key_hash: bytes) -> Caller | None:
        row = self._link.connection().execute(accounts.CALLER, (key_hash,)).fetchone()
        if row is None or not compare_digest(row[-1], key_hash):
            return None
        key_id, tenant_id, status, models, trusted, expires_ms, upstream_key, suspended_ms, _ = row
        caller = Caller(
            key_id,
            tenant_id,
            status == "active",
            frozenset(orjson.loads(models)),
            bool(trusted),
            expires_ms,
            upstream_key,
            own_account=bool(upstream_key),
            limits=self._look_up_limits(tenant_id, key_id),
            suspended=suspended_ms is not None,
        )
        if len(self._remembered) >= _REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        self._remembered[key_hash] = caller
        return caller

    def _look_up_limits(self, tenant_id: str, key_id: str) -> tuple[Limit, ...]:
        if len(self._limits) >= _REMEMBERED_MAX:
            self._limits.popitem(last=False)
        limits = self._limits[tenant_id, key_id] = effective(self._link.connection(), tenant_id, key_id)
        return limits
