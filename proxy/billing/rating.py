"""From a quantity to money: one rate card, one billing period. No I/O, exact decimals.

Each charge (a fee, a tier, the packages) is rounded by itself, half up to the currency's digits, and so are discounts:
as OpenMeter does it, so that a line here is the line there. Then nothing needs rounding any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal, localcontext
from fractions import Fraction

from proxy.billing.catalog import Flat, Graduated, Package, PerUnit, Price, RateCard, Tier, Volume
from proxy.billing.money import EXACT, ZERO, plain, rounded, thousands, total

#: Charges that are a whole line: all of its usage, or its fee.
USAGE, FEE = "usage", "fee"
_ONE = Decimal(1)


@dataclass(frozen=True, slots=True)
class Charge:
    """A part of a line: `quantity` times `unit_price`, less `discount` (all that is deducted), is `amount`.

    `what` says which part, for people; also what share of a fee it is for.
    """

    what: str
    quantity: Decimal
    unit_price: Decimal
    discount: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Line:
    """What a rate card costs in a period. `quantity` is what was metered (1 for a fee), `free` how much of it is not
    charged. `amount` is the sum of the charges.
    """

    card: RateCard
    quantity: Decimal
    free: Decimal
    charges: tuple[Charge, ...]
    amount: Decimal

    @property
    def discount(self) -> Decimal:
        return total(one.discount for one in self.charges)


def rate(card: RateCard, quantity: Decimal, *, digits: int, share: Fraction = Fraction(1)) -> Line:
    """The line for a quantity. `share` of a period is what a flat fee is charged for."""
    with localcontext(EXACT):
        free = min(card.free_units or ZERO, quantity)
        priced = _fee(card, share) if isinstance(card.price, Flat) else _usage(card.price, quantity - free)
        charges = [_rounded(one, digits) for one in priced]
        if card.discount_percent is not None:
            charges = [_less(one, rounded(one.amount * card.discount_percent / 100, digits)) for one in charges]
        if card.maximum_amount is not None:
            charges = [*_capped(charges, card.maximum_amount)]
        missing = (card.minimum_amount or ZERO) - total(one.amount for one in charges)
        if missing > ZERO:
            charges.append(_rounded(Charge("minimum spend", _ONE, missing, ZERO, missing), digits))
        return Line(card, quantity, free, tuple(charges), rounded(total(one.amount for one in charges), digits))


def _usage(price: Price, quantity: Decimal) -> Iterator[Charge]:
    """What usage costs, before rounding and discounts."""
    match price:
        case PerUnit(amount):
            if quantity:
                yield _charge(USAGE, quantity, amount)
        case Package(amount, size):
            packages = (quantity / size).to_integral_value(ROUND_CEILING)
            if packages:
                yield _charge(f"packages of {thousands(size)}", packages, amount)
        case Graduated(tiers):
            yield from _graduated(tiers, quantity)
        case Volume(tiers):
            at = next(at for at, tier in enumerate(tiers) if tier.up_to_amount is None or quantity <= tier.up_to_amount)
            yield from _tier(tiers, at, quantity)


def _graduated(tiers: Sequence[Tier], quantity: Decimal) -> Iterator[Charge]:
    """A tier is entered by the first unit beyond the one before it; the first, also by nothing at all."""
    begins = ZERO
    for at, tier in enumerate(tiers):
        ends = quantity if tier.up_to_amount is None else min(quantity, tier.up_to_amount)
        if at and begins >= quantity:
            return
        yield from _tier(tiers, at, ends - begins)
        begins = ends


def _tier(tiers: Sequence[Tier], at: int, quantity: Decimal) -> Iterator[Charge]:
    tier = tiers[at]
    end = "and more" if tier.up_to_amount is None else f"up to {thousands(tier.up_to_amount)}"
    if tier.flat_price is not None:
        yield _charge(f"tier {at + 1}, {end}: fee", _ONE, tier.flat_price)
    if tier.unit_price is not None and quantity:
        yield _charge(f"tier {at + 1}, {end}", quantity, tier.unit_price)


def _charge(what: str, quantity: Decimal, unit_price: Decimal) -> Charge:
    return Charge(what, quantity, unit_price, ZERO, quantity * unit_price)


def _fee(card: RateCard, share: Fraction) -> Iterator[Charge]:
    """What a flat price costs: all of it for a whole period, or once."""
    assert isinstance(card.price, Flat)
    amount = card.price.amount
    if card.one_time or share == 1:
        yield _charge(FEE, _ONE, amount)
    elif share:
        part = amount * share.numerator / share.denominator
        yield Charge(f"fee for {_percent(share)} % of a period", _ONE, amount, ZERO, part)


def _rounded(one: Charge, digits: int) -> Charge:
    return replace(one, amount=rounded(one.amount, digits))


def _less(one: Charge, discount: Decimal) -> Charge:
    return replace(one, discount=one.discount + discount, amount=one.amount - discount)


def _capped(charges: Sequence[Charge], maximum: Decimal) -> Iterator[Charge]:
    """The charges, one after the other, until they come to the maximum; of the others nothing."""
    left = maximum
    for one in charges:
        capped = _less(one, max(ZERO, one.amount - left))
        left -= capped.amount
        yield capped


def _percent(share: Fraction) -> str:
    return plain(rounded(Decimal(100 * share.numerator) / share.denominator, 2))
