"""What tenants are charged for a span, beside what their requests cost whoever runs this service."""

from __future__ import annotations

from decimal import Decimal

from proxy.admin.operation import Answer, Context
from proxy.billing.account import Account
from proxy.billing.money import EXACT, plain
from proxy.errors import StoreError
from proxy.instants import Period
from proxy.store.usage import Line

_USD = "USD"


class Margin(Answer):
    """Amounts are decimal strings; there are none of a tenant that is not billed here."""

    revenue: dict[str, str]
    """What its subscriptions charge for this time, up to now, by currency."""
    margin_usd: str | None
    """That less the cost; null where it is charged in another currency, or something it used has no price."""


def margin_of(context: Context, tenant_id: str, line: Line, period: Period) -> Margin:
    """Of a tenant whose usage in a period this is."""
    try:
        charged = Account(context.connection, tenant_id).revenue(period.from_ms, period.to_ms, context.now_ms)
    except StoreError:  # it is no tenant, or has never been subscribed
        return Margin(revenue={}, margin_usd=None)
    costs = line.costs
    is_known = costs.priced_requests + costs.free_requests == line.requests and not charged.keys() - {_USD}
    margin = None
    if charged and is_known:
        margin = plain(EXACT.subtract(charged[_USD], Decimal(costs.pico_usd).scaleb(-12, EXACT)))
    return Margin(revenue={currency: f"{amount:f}" for currency, amount in charged.items()}, margin_usd=margin)
