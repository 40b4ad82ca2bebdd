"""A tenant's subscriptions, one after the other, and the billing periods that people ask for."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from proxy.billing.catalog import Snapshot
from proxy.billing.invoice import Invoice, invoice
from proxy.billing.money import ZERO, total
from proxy.billing.onboarding import going_on, kept
from proxy.billing.periods import BillingPeriod, Outside, Timeline
from proxy.errors import StoreError
from proxy.instants import iso_short, parse_instant
from proxy.limits import Calendar
from proxy.model import Window
from proxy.store import subscriptions, tenants
from proxy.store.subscriptions import Subscription

_MONTH = re.compile(r"\d{4}-\d{2}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which period: `current`, `previous` or the month that it begins in, such as `2026-04`; or from one instant until
    another; or the one that an instant lies in.
    """

    period: str = "current"
    begin: str | None = None
    end: str | None = None


@dataclass(frozen=True, slots=True)
class _Stretch:
    """One subscription, its plan as it was, and its billing periods."""

    subscription: Subscription
    snapshot: Snapshot
    timeline: Timeline


class Account:
    """Of one tenant. Raises `StoreError` where there is no such tenant, or it has never had a subscription."""

    def __init__(self, connection: sqlite3.Connection, tenant_id: str) -> None:
        self._connection = connection
        self.tenant = tenants.tenant(connection, tenant_id)
        self._stretches = [*self._read()]
        if not self._stretches:
            going_on(connection, tenant_id)

    def invoice(self, wanted: Wanted, calendar: Calendar, now_ms: int) -> Invoice:
        """The invoice for a period; dates are the calendar's.

        Raises `ValueError`, worded for the user, for what is no period, and `StoreError` for one that was not billed.
        """
        try:
            stretch, period = self._find(wanted, calendar, now_ms)
        except Outside as error:
            first, last = self._stretches[0].subscription, self._stretches[-1].subscription
            until = "" if last.end_ms is None else f" until {iso_short(last.end_ms)}"
            since = f"tenant {self.tenant.id} is subscribed since {iso_short(first.start_ms)}{until}"
            raise StoreError(f"{error} ({since})") from None
        return invoice(self._connection, self.tenant, stretch.subscription, stretch.snapshot, period, now_ms)

    def revenue(self, from_ms: int, to_ms: int, now_ms: int) -> dict[str, Decimal]:
        """What is charged for a span, until now at most, by currency: each billing period in it, or what of it is.

        A part of a period is billed as if it were one, with its part of the flat fees.
        """
        found: dict[str, Decimal] = {}
        for one in self._stretches:
            ms, end_ms = max(from_ms, one.subscription.start_ms), min(to_ms, now_ms)
            if one.subscription.end_ms is not None:
                end_ms = min(end_ms, one.subscription.end_ms)
            while ms < end_ms:
                try:
                    whole = one.timeline.at(ms)
                except Outside:  # its last phase has ended
                    break
                until_ms = min(whole.to_ms, end_ms)
                is_whole = (whole.from_ms, whole.to_ms) == (ms, until_ms)
                period = whole if is_whole else one.timeline.between(ms, until_ms)
                bill = invoice(self._connection, self.tenant, one.subscription, one.snapshot, period, now_ms)
                found[bill.currency] = total([found.get(bill.currency, ZERO), bill.total])
                ms = until_ms
        return found

    def _read(self) -> Iterator[_Stretch]:
        for one in subscriptions.subscriptions(self._connection, self.tenant.id):
            snapshot = kept(self._connection, one)
            yield _Stretch(one, snapshot, Timeline(one, snapshot.plan))

    def _find(self, wanted: Wanted, calendar: Calendar, now_ms: int) -> tuple[_Stretch, BillingPeriod]:
        if wanted.begin is not None:
            begin_ms = parse_instant(wanted.begin, calendar)
            stretch = self._at(begin_ms)
            if wanted.end is None:
                return stretch, stretch.timeline.at(begin_ms)
            end_ms = parse_instant(wanted.end, calendar)
            if end_ms <= begin_ms:
                raise ValueError(f"{wanted.end} is not after {wanted.begin}")
            return stretch, stretch.timeline.between(begin_ms, end_ms)
        if wanted.period == "current":
            stretch = self._at(now_ms)
            return stretch, stretch.timeline.at(now_ms)
        if wanted.period == "previous":
            last_ms = self._begin_of_current(now_ms) - 1
            stretch = self._at(last_ms)
            return stretch, stretch.timeline.at(last_ms)
        return self._beginning_in(wanted.period, calendar)

    def _at(self, ms: int) -> _Stretch:
        for one in self._stretches:
            start_ms, end_ms = one.subscription.start_ms, one.subscription.end_ms
            if start_ms <= ms and (end_ms is None or ms < end_ms):
                return one
        raise Outside(f"there was no subscription at {iso_short(ms)}")

    def _begin_of_current(self, now_ms: int) -> int:
        """When the running period began; without one, when the last subscription ended."""
        end_ms = self._stretches[-1].subscription.end_ms
        if end_ms is not None and end_ms <= now_ms:
            return end_ms
        return self._at(now_ms).timeline.at(now_ms).from_ms

    def _beginning_in(self, month: str, calendar: Calendar) -> tuple[_Stretch, BillingPeriod]:
        if not _MONTH.fullmatch(month):
            raise ValueError(f"{month[:100]!r}: write current, previous or a month such as 2026-04")
        from_ms, to_ms = calendar.bounds(Window.MONTH, parse_instant(f"{month}-01", calendar))
        found = [(one, period) for one in self._stretches for period in one.timeline.beginning_in(from_ms, to_ms)]
        if not found:
            raise Outside(f"no billing period begins in {month}")
        if len(found) > 1:
            begins = ", ".join(iso_short(period.from_ms) for _, period in found)
            raise ValueError(f"several billing periods begin in {month}; name one with --from, of {begins}")
        return found[0]
