"""Plans, phases and rate cards, as `billing.toml` has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Literal

from proxy.billing.catalog import Aggregation, Entitlement, Feature, Flat, Free, Meter, Package, Phase, Plan, RateCard
from proxy.billing.durations import Duration
from proxy.billing.money import DIGITS, ZERO
from proxy.billing.price_file import read_price
from proxy.billing.reading import Table

#: What the engine takes for the cadence of a plan.
CADENCES = ("P1W", "P2W", "P4W", "P1M", "P3M", "P6M", "P12M", "P1Y")
_HOUR_MS = 3_600_000
_LIMIT_MAX = 2**53
_TERMS: tuple[Literal["in_advance", "in_arrears"], ...] = ("in_advance", "in_arrears")
_ENTITLEMENTS: tuple[Literal["metered", "boolean"], ...] = ("metered", "boolean")


def read_plan(key: str, table: Table, features: Mapping[str, Feature], meters: Mapping[str, Meter]) -> Plan:
    """A plan. With `rate_cards` of its own it has one phase, whose key is `default`."""
    currency = table.choice("currency", DIGITS)
    cadence = Duration.parse(table.choice("billing_cadence", CADENCES))
    cards = _Cards(currency, cadence, features, meters)
    phases = [_phase(one, cards) for one in table.tables("phases")]
    if "rate_cards" in table:
        if phases:
            table.fault("it has phases, which have the rate cards", "move them into a phase", "rate_cards")
        phases.append(Phase("default", "Default", cards.read(table, table.tables("rate_cards"))))
    elif not phases:
        table.fault("it charges nothing at all", f"add [[plans.{key}.rate_cards]]")
    for at, phase in enumerate(phases):
        is_last = at == len(phases) - 1
        if "phases" in table and is_last and phase.duration is not None:
            table.fault("the last phase does not end", "take duration away", "phases", at, "duration")
        elif "phases" in table and not is_last and phase.duration is None:
            table.fault("only the last phase has no end", 'add duration = "P1M"', "phases", at)
        if phase.key in [other.key for other in phases[:at]]:
            table.fault(f"the key {phase.key} stands there twice", "choose another", "phases", at, "key")
    one = Plan(
        key,
        table.name(key),
        currency,
        cadence,
        tuple(phases),
        table.flag("pro_rating_enabled", default=True),
        table.text("description", ""),
    )
    table.end()
    return one


def _phase(table: Table, cards: _Cards) -> Phase:
    key = table.key("key")
    duration = table.duration("duration")
    if duration is not None and duration.about_ms < _HOUR_MS:
        table.fault("a phase lasts an hour at least", 'write duration = "PT1H" or more', "duration")
    one = Phase(
        key,
        table.name(key),
        cards.read(table, table.tables("rate_cards")),
        duration,
        table.text("description", ""),
    )
    table.end()
    return one


class _Cards:
    """Reads the rate cards of one plan."""

    def __init__(
        self, currency: str, cadence: Duration, features: Mapping[str, Feature], meters: Mapping[str, Meter]
    ) -> None:
        self._currency = currency
        self._cadence = cadence
        self._features = features
        self._meters = meters

    def read(self, phase: Table, tables: Iterable[Table]) -> tuple[RateCard, ...]:
        found: list[RateCard] = []
        for table in tables:
            card = self._card(table)
            if card.key in [other.key for other in found]:
                table.fault(f"there is a rate card {card.key} in this phase already", "keep one of them")
            found.append(card)
        if not found:
            phase.fault("a phase has one rate card at least", "add one")
        return tuple(found)

    def _card(self, table: Table) -> RateCard:
        feature = table.reference("feature", self._features)
        # A feature that is not there was told already, and nothing that follows from it need be.
        named = feature.key if feature else table.text("feature") if "feature" in table else None
        key = table.key("key", named)
        if feature is not None and key != feature.key:
            fix = f'write key = "{feature.key}", or leave it away'
            table.fault("a rate card with a feature has the feature's key", fix, "key")
        inner = table.table("price")
        if inner is None:
            table.fault("it must say price", 'add price = { type = "unit", amount = "0.000002" }')
        price = Free() if inner is None else read_price(inner, self._currency, counts_tokens=self._is_tokens(feature))
        is_usage = not isinstance(price, Free | Flat)
        if is_usage and (not feature.meter if feature else "feature" not in table):
            table.fault("what is priced by usage needs a feature with a meter", 'add feature = "…"', "price")
        minimum, maximum = self._commitments(table, is_usage)
        percent, free_units = _discounts(table, is_usage)
        if isinstance(price, Package) and free_units and free_units % (price.quantity_per_package or free_units):
            # Else the two dialects differ: v1 deducts before it counts packages, v3 after.
            fix = "make it a multiple of quantity_per_package"
            table.fault("only whole packages can be free", fix, "discounts", "usage")
        one = RateCard(
            key,
            table.name(feature.name if feature else key),
            price,
            feature.key if feature else "",
            self._is_one_time(table, price),
            self._term(table, price),
            minimum,
            maximum,
            percent,
            free_units,
            self._entitlement(table, feature),
            table.text("description", ""),
        )
        table.end()
        return one

    def _is_tokens(self, feature: Feature | None) -> bool:
        meter = self._meters.get(feature.meter) if feature else None
        return meter is not None and meter.aggregation is Aggregation.SUM and "tokens" in meter.value_property

    def _is_one_time(self, table: Table, price: object) -> bool:
        words = table.text("billing_cadence", self._cadence.iso)
        if words not in ("once", self._cadence.iso):
            fix = f'leave it away, or write "once" for a fee that is charged once (the plan has {self._cadence.iso})'
            table.fault("a rate card recurs as its plan does", fix, "billing_cadence")
        elif words == "once" and not isinstance(price, Flat):
            table.fault("only a flat price can be charged once", "leave billing_cadence away", "billing_cadence")
        return words == "once"

    def _term(self, table: Table, price: object) -> Literal["in_advance", "in_arrears"]:
        term = table.choice("payment_term", _TERMS, "in_arrears")
        if term == "in_advance" and not isinstance(price, Flat):
            table.fault("only a flat price can be paid in advance", 'write "in_arrears"', "payment_term")
        return term

    def _commitments(self, table: Table, is_usage: bool) -> tuple[Decimal | None, Decimal | None]:
        inner = table.table("commitments")
        if inner is None:
            return None, None
        if not is_usage:
            table.fault("only what is priced by usage can have a least and a most", "take it away", "commitments")
        minimum, maximum = inner.amount_or_none("minimum_amount"), inner.amount_or_none("maximum_amount")
        digits = DIGITS[self._currency]
        for name, amount in (("minimum_amount", minimum), ("maximum_amount", maximum)):
            if amount is not None and amount != round(amount, digits):
                inner.fault(f"{self._currency} has {digits} digits after the point", "round it to them", name)
        if minimum is not None and maximum is not None and minimum > maximum:
            inner.fault("it is more than maximum_amount", "exchange the two", "minimum_amount")
        inner.end()
        return minimum, maximum

    def _entitlement(self, table: Table, feature: Feature | None) -> Entitlement | None:
        inner = table.table("entitlement")
        if inner is None:
            return None
        if "feature" not in table:
            table.fault("an entitlement is to a feature", 'add feature = "…"', "entitlement")
        type_ = inner.choice("type", _ENTITLEMENTS, "metered")
        if type_ == "boolean":
            inner.end()
            return Entitlement(type_)
        limit = inner.amount("limit")
        if limit != int(limit) or limit > _LIMIT_MAX:
            inner.fault("it must be a whole number, up to 2**53", "write limit = 10000", "limit")
        if feature is not None and not feature.meter:
            inner.fault(f"feature {feature.key} has no meter", 'write type = "boolean"', "type")
        period = inner.duration("usage_period")
        if period is not None and period.about_ms < _HOUR_MS:
            inner.fault("an allowance lasts an hour at least", 'write "PT1H" or more', "usage_period")
        one = Entitlement(type_, int(limit), inner.flag("is_soft_limit", default=False), period)
        inner.end()
        return one


def _discounts(table: Table, is_usage: bool) -> tuple[Decimal | None, Decimal | None]:
    """The percentage, and the units that are free."""
    inner = table.table("discounts")
    if inner is None:
        return None, None
    percent, units = inner.amount_or_none("percentage"), inner.amount_or_none("usage")
    if percent is not None and not ZERO < percent <= 100:
        inner.fault(
            "it must be more than 0 and at most 100", "write percentage = 10 for ten per cent off", "percentage"
        )
    if units is not None and not is_usage:
        inner.fault("only of what is priced by usage can some be free", "take it away", "usage")
    inner.end()
    return percent, units
