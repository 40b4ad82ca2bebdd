from __future__ import annotations

import tomllib
from decimal import Decimal

import pytest

from proxy.billing.catalog import Flat, Free, Graduated, Package, PerUnit, Price, Tier, Volume
from proxy.billing.price_file import read_price
from proxy.billing.reading import Fault, Table, Unquoted


def read(text: str, *, currency: str = "USD", counts_tokens: bool = True) -> tuple[Price, list[str]]:
    faults: list[Fault] = []
    table = Table(("price",), tomllib.loads(f"x = {text}", parse_float=Unquoted)["x"], faults)
    return read_price(table, currency, counts_tokens=counts_tokens), [one.told() for one in faults]


def number(words: str) -> Decimal:
    return Decimal(words)


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ('{ type = "free" }', Free()),
        ('{ type = "flat", amount = "20" }', Flat(number("20"))),
        ('{ type = "unit", amount = 0.000002 }', PerUnit(number("0.000002"))),
        (
            '{ type = "package", amount = "2", quantity_per_package = 1000000 }',
            Package(number("2"), number("1000000")),
        ),
        (
            '{ type = "graduated", tiers = [{ up_to_amount = 10, unit_price = "0" }, { flat_price = "1" }] }',
            Graduated((Tier(number("10"), number("0"), None), Tier(None, None, number("1")))),
        ),
        ('{ type = "volume", tiers = [{ unit_price = "0.0009" }] }', Volume((Tier(None, number("0.0009")),))),
    ],
)
def test_prices(text: str, price: Price) -> None:
    assert read(text) == (price, [])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{}", "price: it must say type"),
        ('{ type = "tiered" }', "price.type: it cannot be 'tiered'"),
        ('{ type = "unit" }', "price: it must say amount"),
        ('{ type = "unit", amount = "1e-6" }', "price.amount: it is no plain decimal number"),
        ('{ type = "free", amount = "1" }', "price.amount: there is no such key"),
        (
            '{ type = "package", amount = "1", quantity_per_package = 0 }',
            "quantity_per_package: it must be a whole number",
        ),
        (
            '{ type = "package", amount = "1", quantity_per_package = 1.5 }',
            "quantity_per_package: it must be a whole number",
        ),
        ('{ type = "graduated" }', "price.tiers: it has no tiers"),
        ('{ type = "volume", tiers = [] }', "price.tiers: it has no tiers"),
        ('{ type = "volume", tiers = [{}] }', "price.tiers[0]: it has no price"),
        (
            '{ type = "volume", tiers = [{ up_to_amount = 5, unit_price = "0" }] }',
            "tiers[0].up_to_amount: the last tier has no end",
        ),
        (
            '{ type = "graduated", tiers = [{ unit_price = "0" }, { unit_price = "0" }] }',
            "price.tiers[0]: only the last tier has no end",
        ),
        (
            '{ type = "graduated", tiers = [{ up_to_amount = 0, unit_price = "0" }, { unit_price = "0" }] }',
            "tiers[0].up_to_amount: it ends before it begins, fix: write more than 0",
        ),
        (
            '{ type = "graduated", tiers = [{ up_to_amount = 9, unit_price = 0 }, { up_to_amount = 9 }, {}] }',
            "tiers[1].up_to_amount: it ends before it begins, fix: write more than 9",
        ),
        (
            '{ type = "graduated", tiers = [{ price = "0" }] }',
            "tiers[0].price: there is no such key, fix: did you mean unit_price?",
        ),
    ],
)
def test_what_is_wrong_with_a_price(text: str, fault: str) -> None:
    assert fault in "\n".join(read(text)[1])


def test_a_price_that_looks_like_one_of_a_million_is_questioned() -> None:
    (fault,) = read('{ type = "unit", amount = "2" }')[1]
    assert fault == (
        "price.amount: prices are for one token, and this makes 2000000 USD for a million, fix: write"
        ' "0.000002" if that was the price of a million, "0.002" if of a thousand, or add confirmed = true to the price'
    )


@pytest.mark.parametrize(
    ("text", "is_asked"),
    [
        ('{ type = "unit", amount = "0.0009" }', False),
        ('{ type = "unit", amount = "0.001" }', True),
        ('{ type = "unit", amount = "1", confirmed = true }', False),
        ('{ type = "unit", amount = "1", confirmed = false }', True),
        ('{ type = "package", amount = "999", quantity_per_package = 1000000 }', False),
        ('{ type = "package", amount = "1000", quantity_per_package = 1000000 }', True),
        ('{ type = "graduated", tiers = [{ unit_price = "0.002" }] }', True),
        ('{ type = "graduated", confirmed = true, tiers = [{ unit_price = "0.002" }] }', False),
        ('{ type = "volume", tiers = [{ flat_price = "20" }] }', False),
        ('{ type = "flat", amount = "20" }', False),
    ],
)
def test_which_prices_are_questioned(text: str, is_asked: bool) -> None:
    assert bool(read(text)[1]) is is_asked


def test_only_prices_of_tokens_are_questioned_and_need_a_confirmation() -> None:
    assert read('{ type = "unit", amount = "0.5" }', counts_tokens=False) == (PerUnit(number("0.5")), [])
    assert (
        "confirmed: there is no such key"
        in read('{ type = "unit", amount = "1", confirmed = true }', counts_tokens=False)[1][0]
    )


@pytest.mark.parametrize(
    ("currency", "amount", "is_asked"), [("JPY", "0.09", False), ("JPY", "0.1", True), ("KWD", "0.0001", True)]
)
def test_other_currencies_are_questioned_by_their_digits(currency: str, amount: str, is_asked: bool) -> None:
    assert bool(read(f'{{ type = "unit", amount = "{amount}" }}', currency=currency)[1]) is is_asked
