"""Prices, as `billing.toml` has them, and the question whether one is per token or per million of them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from proxy.billing.catalog import Flat, Free, Graduated, Package, PerUnit, Price, Tier, Volume
from proxy.billing.money import DIGITS, ZERO, plain
from proxy.billing.reading import Table

_TYPES = ("free", "flat", "unit", "package", "graduated", "volume")
_AMOUNT = "amount"
#: No model costs as much a token: a thousand dollars for a million. Other currencies have it by their digits.
_DEAR_PER_TOKEN = Decimal("0.001")
_CENTS = 2


def read_price(table: Table, currency: str, *, counts_tokens: bool) -> Price:
    """`counts_tokens`: its unit is a token, so that a high price of one is questioned."""
    type_ = table.choice("type", _TYPES)
    if table.text("type", "") != type_:
        return Free()  # which was told; what else there should be, nobody knows
    confirmed = counts_tokens and table.flag("confirmed", default=False)
    check = _Question(currency) if counts_tokens and not confirmed else _accept
    price: Price
    match type_:
        case "flat":
            price = Flat(table.amount(_AMOUNT))
        case "unit":
            price = PerUnit(table.amount(_AMOUNT))
            check(table, _AMOUNT, price.amount)
        case "package":
            price = Package(table.amount(_AMOUNT), table.amount("quantity_per_package"))
            if price.quantity_per_package <= ZERO or price.quantity_per_package % 1:
                table.fault("it must be a whole number of units", "write 1000000 for a million", "quantity_per_package")
            else:
                check(table, _AMOUNT, price.amount / price.quantity_per_package)
        case "graduated" | "volume":
            tiers = _tiers(table, check)
            price = Graduated(tiers) if type_ == "graduated" else Volume(tiers)
        case _:
            price = Free()
    table.end()
    return price


def _tiers(table: Table, check: Callable[[Table, str, Decimal], None]) -> tuple[Tier, ...]:
    found: list[Tier] = []
    inner = [*table.tables("tiers")]
    if not inner:
        table.fault("it has no tiers", 'add tiers = [{ up_to_amount = 1000, unit_price = "0.1" }, …]', "tiers")
    for at, one in enumerate(inner):
        tier = Tier(
            one.amount_or_none("up_to_amount"), one.amount_or_none("unit_price"), one.amount_or_none("flat_price")
        )
        if "unit_price" not in one and "flat_price" not in one:
            one.fault("it has no price", 'add unit_price = "0" where it is free')
        if tier.unit_price is not None:
            check(one, "unit_price", tier.unit_price)
        is_last = at == len(inner) - 1
        if is_last and tier.up_to_amount is not None:
            one.fault("the last tier has no end: more may be used", "take up_to_amount away", "up_to_amount")
        elif not is_last and "up_to_amount" not in one:
            one.fault("only the last tier has no end", "add up_to_amount = …")
        before = found[-1].up_to_amount if found else ZERO
        if not is_last and tier.up_to_amount is not None and before is not None and tier.up_to_amount <= before:
            one.fault("it ends before it begins", f"write more than {plain(before)}", "up_to_amount")
        one.end()
        found.append(tier)
    return tuple(found)


class _Question:
    """Asks whether a price was meant for one token."""

    def __init__(self, currency: str) -> None:
        self._currency = currency
        self._dear = _DEAR_PER_TOKEN.scaleb(_CENTS - DIGITS[currency])

    def __call__(self, table: Table, key: str, amount: Decimal) -> None:
        if amount < self._dear:
            return
        million = plain(amount * 1_000_000)
        table.fault(
            f"prices are for one token, and this makes {million} {self._currency} for a million",
            f'write "{plain(amount.scaleb(-6))}" if that was the price of a million, "{plain(amount.scaleb(-3))}" if of'
            " a thousand, or add confirmed = true to the price",
            key,
        )


def _accept(table: Table, key: str, amount: Decimal) -> None:
    """Whatever it is."""
