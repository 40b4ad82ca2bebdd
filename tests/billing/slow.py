"""A second way from usage to money, to compare with: token by token, in fractions, in whole cents.

It is slow, and shares nothing with `proxy.billing.rating`.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import floor

from proxy.billing.catalog import Flat, Graduated, Package, PerUnit, RateCard, Volume


def cents(amount: Fraction, digits: int) -> int:
    """To whole units of the last digit, half up."""
    whole: int = floor(amount * 10**digits + Fraction(1, 2))
    return whole


def owed(card: RateCard, quantity: int, *, digits: int, share: Fraction = Fraction(1)) -> Fraction:
    """What one rate card comes to."""
    heaps: dict[str, Fraction] = {}
    for heap, price in _prices(card, quantity, share):
        heaps[heap] = heaps.get(heap, Fraction(0)) + price
    found = [cents(amount, digits) for amount in heaps.values()]
    if card.discount_percent is not None:
        rate = Fraction(card.discount_percent) / 100
        found = [one - floor(one * rate + Fraction(1, 2)) for one in found]
    total = sum(found)
    if card.maximum_amount is not None:
        total = min(total, cents(Fraction(card.maximum_amount), digits))
    if card.minimum_amount is not None:
        total = max(total, cents(Fraction(card.minimum_amount), digits))
    return Fraction(total, 10**digits)


def _prices(card: RateCard, quantity: int, share: Fraction) -> Iterator[tuple[str, Fraction]]:
    """Each thing that is paid for, with the heap that is rounded together."""
    price = card.price
    if isinstance(price, Flat):
        yield "fee", Fraction(price.amount) * (Fraction(1) if card.one_time else share)
        return
    paid = [*range(int(card.free_units or 0), quantity)]
    if isinstance(price, Graduated | Volume) and price.tiers[0].flat_price is not None:
        first = price.tiers[0].up_to_amount
        if isinstance(price, Graduated) or first is None or len(paid) <= first:
            yield "fee 0", Fraction(price.tiers[0].flat_price)
    for nth, _ in enumerate(paid, 1):
        match price:
            case PerUnit(amount):
                yield "all", Fraction(amount)
            case Package(amount, size):
                if nth % int(size) == 1 % int(size):
                    yield "packages", Fraction(amount)
            case Graduated(tiers):
                at = sum(1 for tier in tiers if tier.up_to_amount is not None and nth > tier.up_to_amount)
                begins = nth - 1 == (tiers[at - 1].up_to_amount if at else -1)
                yield from _of_tier(tiers[at].unit_price, tiers[at].flat_price if begins else None, at)
            case Volume(tiers):
                at = sum(1 for tier in tiers if tier.up_to_amount is not None and len(paid) > tier.up_to_amount)
                yield from _of_tier(tiers[at].unit_price, tiers[at].flat_price if at and nth == 1 else None, at)


def _of_tier(unit: object, flat: object, at: int) -> Iterator[tuple[str, Fraction]]:
    if flat is not None:
        yield f"fee {at}", Fraction(str(flat))
    if unit is not None:
        yield f"tier {at}", Fraction(str(unit))
