"""What a tenant owes for a billing period: the quantities of the ledger, rated by the plan as it was."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from proxy.billing.catalog import Flat, RateCard, Snapshot
from proxy.billing.money import DIGITS, rounded, total
from proxy.billing.periods import BillingPeriod
from proxy.billing.quantities import quantities
from proxy.billing.rating import Line, rate
from proxy.model import Tenant
from proxy.store.subscriptions import Subscription

_ONE = Decimal(1)


@dataclass(frozen=True, slots=True)
class Invoice:
    """The lines and their sum, in the plan's currency. `is_open`: the period is not over, and more may come."""

    tenant: Tenant
    subscription: Subscription
    snapshot: Snapshot
    period: BillingPeriod
    lines: tuple[Line, ...]
    total: Decimal
    is_open: bool

    @property
    def currency(self) -> str:
        return self.snapshot.plan.currency


def invoice(
    connection: sqlite3.Connection,
    tenant: Tenant,
    subscription: Subscription,
    snapshot: Snapshot,
    period: BillingPeriod,
    now_ms: int,
) -> Invoice:
    """The invoice for a period of this subscription, by what the ledger has now."""
    digits = DIGITS[snapshot.plan.currency]
    used = quantities(connection, tenant.id, period.from_ms, period.to_ms, snapshot)
    lines = tuple(
        rate(card, _quantity(card, used), digits=digits, share=period.share)
        for card in period.phase.rate_cards
        if _is_due(card, period)
    )
    owed = rounded(total(line.amount for line in lines), digits)
    return Invoice(tenant, subscription, snapshot, period, lines, owed, is_open=period.to_ms > now_ms)


def _quantity(card: RateCard, used: Mapping[str, Decimal]) -> Decimal:
    """A fee is charged once, whatever it is for."""
    return _ONE if isinstance(card.price, Flat) else used.get(card.feature, _ONE)


def _is_due(card: RateCard, period: BillingPeriod) -> bool:
    return period.is_first or not card.one_time
