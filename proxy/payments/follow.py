"""What follows from what was told of an invoice: webhooks of our own, and a tenant suspended or resumed.

All in the caller's transaction, and the same however often, and in whatever order, it is told.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from proxy.model import Notification, Topic
from proxy.payments.invoices import Told
from proxy.store import notifications, payments
from proxy.webhooks.messages import invoice_told

#: Nobody owes it any more.
_SETTLES = (Topic.INVOICE_PAID, Topic.INVOICE_VOIDED)


@dataclass(frozen=True, slots=True)
class Followed:
    """The tenants that an invoice is about; those of them that were suspended now, and those whose suspension ended."""

    tenants: tuple[str, ...] = ()
    suspended: tuple[str, ...] = ()
    resumed: tuple[str, ...] = ()


def follow(connection: sqlite3.Connection, told: Told, *, suspends: bool, now_ms: int) -> Followed:
    """Note it, once for each tenant that it is about, or once for nobody's where none is known."""
    tenants = _tenants_of(connection, told)
    suspended: list[str] = []
    resumed: list[str] = []
    for tenant in tenants:
        if told.topic is Topic.INVOICE_PAYMENT_FAILED and _fails(connection, told, tenant, now_ms, suspends=suspends):
            suspended.append(tenant)
        if told.topic in _SETTLES and _settles(connection, told, tenant, now_ms):
            resumed.append(tenant)
    if notifications.is_on(connection):
        standing = {one: payments.is_suspended(connection, one) for one in tenants} or {"": False}
        new = [message(told, one, now_ms, suspended=is_suspended) for one, is_suspended in standing.items()]
        notifications.note(connection, new)
    return Followed(tuple(tenants), tuple(suspended), tuple(resumed))


def _fails(connection: sqlite3.Connection, told: Told, tenant: str, now_ms: int, *, suspends: bool) -> bool:
    """Whether the tenant is suspended for it now, and was not before."""
    is_news = payments.note(connection, told.invoice, tenant, "failed", told.time_ms)
    return is_news and suspends and payments.suspend(connection, tenant, told.invoice, _event(told), now_ms)


def _settles(connection: sqlite3.Connection, told: Told, tenant: str, now_ms: int) -> bool:
    """Whether the tenant was suspended for it, and is not any more."""
    is_news = payments.note(connection, told.invoice, tenant, "settled", told.time_ms)
    return is_news and bool(payments.resume(connection, tenant, _event(told), now_ms, invoice=told.invoice))


def _tenants_of(connection: sqlite3.Connection, told: Told) -> list[str]:
    """By what it says itself, else by who is known to pay."""
    found = payments.known_tenants(connection, told.named)
    if found and told.source == "openmeter" and told.customer:
        payments.link(connection, told.customer, found)  # Stripe tells of the same customer by this id
    for payer in told.payers:
        found = found or payments.pays_for(connection, payer)
    return found


def message(told: Told, tenant: str, now_ms: int, *, suspended: bool) -> Notification:
    """What webhooks tell of it. `tenant` is empty where nobody knows whose it is."""
    data: dict[str, Any] = {
        "invoice": told.invoice,
        "currency": told.currency or None,
        "customer": told.customer or None,
        "source": told.source,
        "event": told.event,
        "suspended": suspended,
    }
    # A payment may fail again and again; all else happens to an invoice once, whoever tells of it.
    about = [tenant, told.invoice, *([told.event] if told.topic is Topic.INVOICE_PAYMENT_FAILED else [])]
    return invoice_told(told.topic, tenant, about, data, told.time_ms, now_ms)


def _event(told: Told) -> str:
    return f"{told.source} {told.event}"
