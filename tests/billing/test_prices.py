"""The price book: whose price holds, for how long that is remembered, and that faults of a list cost no settlement."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from proxy.billing import prices
from proxy.billing.prices import SANDBOX, PriceBook
from proxy.billing.tariff import FREE, MILLION, NOTHING, PARTS_PER_PICO, UNPRICED, Holding, Rates, Tariff
from proxy.model import NO_USAGE, Cost, CostState, Units, Usage, UsageSource
from tests.store.samples import TIME_MS, settlement


def tariff(rate: int, origin: str = "") -> Tariff:
    return Tariff((Rates(uncached_input=rate, text_output=rate).filled(),), (), origin)


class List:
    """Knows one model, at so many pico-dollars a token, from a time on. Counts what it is asked."""

    def __init__(self, model: str, from_ms: float = -math.inf, pico: int = 1) -> None:
        self.model = model
        self.pico = pico
        self.from_ms = from_ms
        self.asked = 0

    def find(self, provider: str, model: str, time_ms: int, tier: str = "") -> Holding:
        del provider, tier
        self.asked += 1
        if model != self.model:
            return Holding(None)
        if time_ms < self.from_ms:
            return Holding(None, until_ms=self.from_ms)
        return Holding(tariff(self.pico * PARTS_PER_PICO, self.model), self.from_ms)


def test_the_first_list_that_knows_a_model_tells_its_price_from_its_time_on() -> None:
    own, other = List("m", TIME_MS), List("m")
    book = PriceBook([own, other])
    later, earlier = book.tariff("p", "m", TIME_MS), book.tariff("p", "m", TIME_MS - 1)
    assert book.tariff("p", "m", TIME_MS) == later
    assert book.holding("p", "m", TIME_MS - 1) == Holding(earlier, until_ms=TIME_MS)
    assert book.tariff("p", "x", 0) is None


def test_what_was_found_is_remembered_for_as_long_as_it_holds() -> None:
    own = List("m", TIME_MS)
    book = PriceBook([own])
    for time_ms in (TIME_MS - 5, TIME_MS - 1):
        assert book.tariff("p", "m", time_ms) is None
    assert own.asked == 1
    for time_ms in (TIME_MS, TIME_MS + 10**12):
        assert book.tariff("p", "m", time_ms) is not None
    assert own.asked == 2


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "_REMEMBERED_MAX", 3)
    own = List("m")
    book = PriceBook([own])
    for model in ("a", "b", "c", "d", "a"):
        book.tariff("p", model, 0)
    assert own.asked == 5
    book.tariff("p", "x" * 100_000, 0)
    assert own.asked == 5


def test_the_answering_model_is_priced_and_else_the_one_that_was_asked_for() -> None:
    book = PriceBook([List("answered", pico=2), List("asked", pico=3)])

    def cost(model: str, requested: str = "asked") -> Cost:
        return book.cost(settlement("1", model=model, requested_model=requested, usage=Usage(1)))

    assert cost("answered") == Cost(2, CostState.PRICED)
    assert cost("elsewhere") == cost("") == Cost(3, CostState.PRICED)
    assert cost("x", "y") == UNPRICED


def test_a_failure_asks_no_list() -> None:
    own = List("m")
    failed = settlement("1", status=404, usage=NO_USAGE, usage_source=UsageSource.NONE)
    assert PriceBook([own]).cost(failed) == NOTHING
    assert own.asked == 0


def test_a_cost_is_given_once() -> None:
    book = PriceBook([])
    known = settlement("1", cost=Cost(7, CostState.PRICED))
    assert book.costed(known) is known
    assert book.costed(settlement("1")).cost == UNPRICED


class Broken:
    def find(self, provider: str, model: str, time_ms: int, tier: str = "") -> Holding:
        raise LookupError("a list that is not what it was")


def test_a_list_that_fails_leaves_models_unpriced_and_requests_settled(caplog: pytest.LogCaptureFixture) -> None:
    book = PriceBook([Broken(), List("m")])
    assert book.costed(settlement("1", model="m")).cost == UNPRICED
    assert "could not be looked up: it is unpriced" in caplog.text
    caplog.clear()
    book.costed(settlement("2", model="m", requested_model="m"))
    assert caplog.text == ""


def test_the_sandbox_is_free_unless_the_operator_says_otherwise(tmp_path: Path) -> None:
    free = PriceBook.of(None)
    assert free.tariff(SANDBOX, "any", 0) == Tariff((FREE,), (), "the sandbox")
    most = free.most(SANDBOX, "any", 0, 100, Units(1, 1, 1))
    assert most is not None
    assert most.is_free
    path = tmp_path / "prices.toml"
    path.write_text('[[price]]\nmodel = "gpt-4o"\ninput_per_million = "1"\noutput_per_million = "2"\n')
    own = PriceBook.of(str(path))
    most = own.most(SANDBOX, "gpt-4o", 0, MILLION, Units())
    assert most is not None
    assert most.pico(MILLION) == 3 * 10**12
    openai = own.tariff("openai", "gpt-4o", 0), free.tariff("openai", "gpt-4o", 0)
    assert openai[0] != openai[1]
    assert own.most("openai", "no-such-model", 0, 1, Units()) is None
