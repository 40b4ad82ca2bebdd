"""Thresholds: which percentages of which limits were passed, by the ledger, whoever wrote to it and however it ended.

What is settled is read in the order of its commits, and added to what is known of each limit in the window that it
counts in, which is read from the totals where it is not known yet. So each look costs what was settled since the last
one, and a window that ends before its last request is settled is told as any other. What has been looked at stands in
the ledger beside what was noted of it (`proxy.store.notifications`): a crash in between changes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from proxy.errors import StoreError
from proxy.limits import Calendar, amount_of, counts
from proxy.model import TIMELESS, Counted, Limit, Notification, Settlement, Window
from proxy.store import accounts, queries
from proxy.store.ledger import settlement_of
from proxy.store.limits import effective
from proxy.store.notifications import noted_seq
from proxy.store.spent import spent
from proxy.store.tenants import key
from proxy.webhooks.messages import Standing, limit_exhausted, threshold_crossed

#: Settlements that are held in memory at once.
_PAGE_ROWS = 1_000
#: Limits that are remembered; beyond it all are forgotten, and read again when they are used.
_LIMITS_MAX = 50_000
#: Windows of a limit that are remembered: requests are settled after others that came later.
_WINDOWS_MAX = 2
#: The mark of a limit that is exhausted, among percentages.
_EXHAUSTED = 0

#: A subject, and the key that it used.
Account = tuple[str, str]


@dataclass(slots=True)
class _Use:
    """What was used of a limit in one window. `told` are the marks of each value that are noted already."""

    start_ms: int
    end_ms: int
    used: int
    look: int  #: which one has read it, with all that was settled before
    time_ms: int = 0  #: of the latest request in it that was looked at
    told: set[tuple[int, int]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Refused:
    """A request was refused, at this time, for what is used of a hard limit already."""

    account: Account
    limit: Limit
    time_ms: int


@dataclass(slots=True)
class Found:
    """What is to be noted, and up to which settlement that is all; None where none was looked at."""

    notifications: list[Notification]
    seq: int | None


class Thresholds:
    """To be asked by one thread at a time, with the connection that it has for itself."""

    def __init__(self, calendar: Calendar, percents: Sequence[int]) -> None:
        self._calendar = calendar
        self._percents = percents
        self._connection: sqlite3.Connection | None = None
        self._revision = -1
        self._seq: int | None = None
        self._looks = 0
        self._limits: dict[Account, tuple[Limit, ...]] = {}
        self._uses: dict[Counted, list[_Use]] = {}

    def forget(self) -> None:
        """What is known is not kept up, or was not noted: the next look begins where the ledger says."""
        self._connection = None

    def look(
        self, connection: sqlite3.Connection, refused: Collection[Refused], now_ms: int, *, settled: bool = True
    ) -> Found:
        """What of these refusals and, with `settled`, of all that was settled since the last look is to be told.

        In the caller's transaction, so that all that is read is of one moment. What it returns is to be noted; where
        that fails, `forget`. Raises `sqlite3.Error`, after which the next look begins where the ledger says.
        """
        is_kept_up = False
        try:
            self._begin(connection)
            touched: dict[tuple[Counted, int], tuple[Limit, _Use]] = {}
            for one in self._settled(connection) if settled else ():
                self._add(connection, one, touched)
            for refusal in refused:  # a limit that was lowered may be passed without another settlement
                for limit in self._limits_of(connection, refusal.account):
                    use = self._use(connection, limit.counted, refusal.time_ms)
                    touched.setdefault((limit.counted, use.start_ms), (limit, use))
            found: list[Notification] = []
            for limit, use in touched.values():
                found += self._crossed(connection, limit, use, now_ms)
            for refusal in refused:
                use = self._use(connection, refusal.limit.counted, refusal.time_ms)
                found += self._exhausted(connection, refusal.limit, use, now_ms)
            is_kept_up = settled
            return Found(found, self._seq if settled else None)
        finally:
            if not is_kept_up:
                self.forget()

    def _add(
        self,
        connection: sqlite3.Connection,
        one: Settlement,
        touched: dict[tuple[Counted, int], tuple[Limit, _Use]],
    ) -> None:
        for limit in self._limits_of(connection, (one.subject, one.key_id)):
            if counts(limit.counted, one.model):
                use = self._use(connection, limit.counted, one.time_ms)
                if use.look != self._looks:  # else it was in the totals
                    use.used += amount_of(limit.counted, one.usage, one.cost.pico_usd)
                use.time_ms = max(use.time_ms, one.time_ms)
                touched[limit.counted, use.start_ms] = limit, use

    def _begin(self, connection: sqlite3.Connection) -> None:
        self._looks += 1
        (revision,) = connection.execute(accounts.REVISION).fetchone()
        if connection is not self._connection:
            self._connection = connection
            self._seq = noted_seq(connection)
            self._revision = -1
        if revision != self._revision or max(len(self._uses), len(self._limits)) > _LIMITS_MAX:
            # A limit may have been away meanwhile, and what was used without it was not added.
            self._revision = revision
            self._limits.clear()
            self._uses.clear()

    def _settled(self, connection: sqlite3.Connection) -> Iterator[Settlement]:
        (last,) = connection.execute(queries.LAST_SEQ).fetchone()
        if self._seq is None:  # webhooks were off when this ledger was last used
            self._seq = last
        while self._seq < last:
            until = min(self._seq + _PAGE_ROWS, last)
            for row in connection.execute(queries.EVENTS_BETWEEN, (self._seq, until)):
                yield settlement_of(row)
            self._seq = until

    def _limits_of(self, connection: sqlite3.Connection, account: Account) -> tuple[Limit, ...]:
        """Those that are counted in windows which end. What slides is a rate: callers are told with each answer."""
        found = self._limits.get(account)
        if found is None:
            found = self._limits[account] = tuple(
                limit
                for limit in effective(connection, *account)
                if limit.counted.unit not in TIMELESS and limit.counted.window is not Window.MINUTE
            )
        return found

    def _use(self, connection: sqlite3.Connection, counted: Counted, time_ms: int) -> _Use:
        """What is used in the window that this instant lies in, as it is now or was at the last look."""
        known = self._uses.setdefault(counted, [])
        for use in known:
            if use.start_ms <= time_ms < use.end_ms:
                return use
        start_ms, end_ms = self._calendar.bounds(counted.window, time_ms, counted.anchor_ms)
        use = _Use(start_ms, end_ms, spent(connection, counted, self._calendar, time_ms), self._looks)
        known.insert(0, use)
        del known[_WINDOWS_MAX:]
        return use

    def _crossed(self, connection: sqlite3.Connection, limit: Limit, use: _Use, now_ms: int) -> Iterator[Notification]:
        if not use.used:
            return
        for percent in self._percents:
            if use.used * 100 < limit.value * percent:
                break
            if (limit.value, percent) not in use.told:
                use.told.add((limit.value, percent))
                standing = self._standing(connection, limit, use)
                yield threshold_crossed(standing, percent, use.time_ms or now_ms, now_ms)
        if use.used >= limit.value and not limit.soft:
            yield from self._exhausted(connection, limit, use, now_ms)

    def _exhausted(
        self, connection: sqlite3.Connection, limit: Limit, use: _Use, now_ms: int
    ) -> Iterator[Notification]:
        if (limit.value, _EXHAUSTED) not in use.told:
            use.told.add((limit.value, _EXHAUSTED))
            yield limit_exhausted(self._standing(connection, limit, use), use.time_ms or now_ms, now_ms)

    def _standing(self, connection: sqlite3.Connection, limit: Limit, use: _Use) -> Standing:
        tenant = limit.counted.owner
        if limit.counted.scope == "key":
            try:
                tenant = key(connection, tenant).tenant_id
            except StoreError:
                tenant = ""
        return Standing(limit, tenant, use.start_ms, use.end_ms, use.used)
