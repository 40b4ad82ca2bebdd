"""A document read key by key: every fault is noted, with its key, and reading goes on."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from decimal import Decimal

import pytest

from proxy.billing.reading import Fault, Table, Unquoted, dotted, nearest


def read(text: str, question: Callable[[Table], object]) -> tuple[object, list[str]]:
    """What was read, and the faults as they are told."""
    faults: list[Fault] = []
    table = Table((), tomllib.loads(text, parse_float=Unquoted), faults)
    found = question(table)
    return found, [one.told() for one in faults]


@pytest.mark.parametrize(
    ("text", "question", "value"),
    [
        ('x = "a"', lambda one: one.text("x"), "a"),
        ("", lambda one: one.text("x", ""), ""),
        ("", lambda one: one.text("x", "b"), "b"),
        ('x = "a_1"', lambda one: one.key("x"), "a_1"),
        ('x = "b"', lambda one: one.choice("x", ("a", "b")), "b"),
        ("", lambda one: one.choice("x", ("a", "b"), "b"), "b"),
        ("x = true", lambda one: one.flag("x", default=False), True),
        ("", lambda one: one.flag("x", default=True), True),
        ("x = 0.000002", lambda one: one.amount("x"), Decimal("0.000002")),
        ('x = "0.000002"', lambda one: one.amount("x"), Decimal("0.000002")),
        ("x = 20", lambda one: one.amount_or_none("x"), Decimal(20)),
        ("", lambda one: one.amount_or_none("x"), None),
        ('x = "P1M"', lambda one: getattr(one.duration("x"), "months", None), 1),
        ("", lambda one: one.duration("x"), None),
        ("x = 2026-04-13", lambda one: one.instant("x"), 1_776_038_400_000),
        ("x = 2026-04-13T02:00:00+02:00", lambda one: one.instant("x"), 1_776_038_400_000),
        ('x = "2026-04-13T00:00:00Z"', lambda one: one.instant("x"), 1_776_038_400_000),
        ("x = { y = 1 }", lambda one: "y" in (one.table("x") or ()), True),
        ("", lambda one: one.table("x"), None),
        ("x = [{}, {}]", lambda one: [inner.path for inner in one.tables("x")], [("x", 0), ("x", 1)]),
        ("x = { a = {}, b = {} }", lambda one: [name for name, _ in one.named("x")], ["a", "b"]),
    ],
)
def test_what_is_right_is_read(text: str, question: Callable[[Table], object], value: object) -> None:
    assert read(text, question) == (value, [])


@pytest.mark.parametrize(
    ("text", "question", "fault"),
    [
        ("", lambda one: one.text("x"), "it must say x, fix: add x = …"),
        ("x = 1", lambda one: one.text("x"), "x: it must be text, fix: put it in quotes"),
        ("x = 1.5", lambda one: one.text("x"), "x: it must be text, fix: put it in quotes"),
        ('x = ""', lambda one: one.text("x"), "x: it is empty, too long or not printable"),
        ('x = "a\\tb"', lambda one: one.text("x"), "x: it is empty, too long or not printable"),
        ('x = "A"', lambda one: one.key("x"), "x: 'A' is no key that the engine takes"),
        ('x = "a__b"', lambda one: one.key("x"), "x: 'a__b' is no key that the engine takes"),
        (f'x = "{"a" * 65}"', lambda one: one.key("x"), "is no key that the engine takes"),
        (
            'x = "sun"',
            lambda one: one.choice("x", ("sum", "count")),
            "x: it cannot be 'sun', fix: did you mean sum?",
        ),
        ('x = "?"', lambda one: one.choice("x", ("sum", "count")), "fix: there are sum, count"),
        ('x = "true"', lambda one: one.flag("x", default=True), "x: it must be true or false"),
        ("", lambda one: one.amount("x"), "it must say x"),
        ("x = true", lambda one: one.amount("x"), "x: it must be a number"),
        ("x = 2e-06", lambda one: one.amount("x"), "x: it is no plain decimal number such as 0.000002, without sign"),
        ('x = "2e-06"', lambda one: one.amount("x"), "(an exponent is refused by the engine)"),
        ("x = -1", lambda one: one.amount_or_none("x"), "x: it is no plain decimal number"),
        ("x = inf", lambda one: one.amount_or_none("x"), "x: it is no plain decimal number"),
        ('x = "a month"', lambda one: one.duration("x"), "x: 'a month' is no duration in whole units of ISO 8601"),
        ('x = "soon"', lambda one: one.instant("x"), "x: 'soon': write a date"),
        ("x = 2026-04-13T02:00:00", lambda one: one.instant("x"), "x: '2026-04-13 02:00:00': write a date"),
        ("x = 1", lambda one: one.table("x"), "x: it must be a table, fix: write { … }, or a header in brackets"),
        ("x = {}", lambda one: [*one.tables("x")], "x: it must be a list of tables, fix: write [[x]]"),
        ("x = [1]", lambda one: [*one.tables("x")], "x[0]: it must be a table"),
        ("x = { A = {} }", lambda one: [*one.named("x")], "x.A: 'A' is no key that the engine takes"),
    ],
)
def test_what_is_wrong_is_noted_with_its_key(text: str, question: Callable[[Table], object], fault: str) -> None:
    assert fault in "\n".join(read(text, question)[1])


def test_keys_that_nobody_asks_for_are_noted_in_their_order() -> None:
    def question(one: Table) -> None:
        one.text("name", "")
        one.end()

    assert read('nam = "a"\nname = "b"\ncolour = 1', question)[1] == [
        "nam: there is no such key, fix: did you mean name?",
        "colour: there is no such key, fix: there are name",
    ]


def test_paths_are_written_as_people_read_them() -> None:
    assert dotted(("plans", "starter", "rate_cards", 1, "feature")) == "plans.starter.rate_cards[1].feature"
    assert nearest("x", ()) == "there are none"
