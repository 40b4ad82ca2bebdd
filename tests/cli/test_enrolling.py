from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.billing.engine import problem
from tests.billing.selling import Selling
from tests.cli.conftest import Command


@pytest.fixture
def selling(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[Selling]:
    """An engine that has the catalog, and is set for all commands. It tells as little as Konnect."""
    with Selling(konnect=True).running() as one:
        monkeypatch.setenv("KONNECT_API_URL", one.url)
        tollgate.done("billing", "apply")
        one.asked.clear()
        yield one
    assert one.faults == []


def onboard(tollgate: Command, *more: str, tenant: str = "user-001") -> dict[str, object]:
    done: dict[str, object] = tollgate.json("billing", "onboard", tenant, "--plan", "starter", *more)
    return done


def test_customer_subscription_and_then_the_key(tollgate: Command, selling: Selling) -> None:
    keys_then: list[list[object]] = []
    selling.before = lambda _: keys_then.append(tollgate.json("keys", "list")) if not keys_then else None
    done = onboard(tollgate)
    assert keys_then == [[]], "no key while the engine is asked"
    (subscription,) = selling.subscriptions
    assert done["engine"] == {
        "customer_id": selling.customers[0]["id"],
        "subscription_id": subscription["id"],
        "start": done["start"],
        "new_customer": True,
        "new_subscription": True,
    }
    assert str(done["start"]).replace(".000Z", "Z") == subscription["active_from"]
    assert str(done["billing_anchor"]).replace(".000Z", "Z") == subscription["billing_anchor"]
    assert str(done["key"]).startswith("tg_")


def test_again_changes_nothing(tollgate: Command, selling: Selling) -> None:
    first = onboard(tollgate)
    changes = selling.changes
    again = onboard(tollgate)
    assert selling.changes == changes
    assert (again["start"], again["key"], again["new_subscription"]) == (first["start"], None, False)


@pytest.mark.parametrize("at", range(1, 8))
def test_whatever_call_fails_there_is_no_key_and_the_next_time_goes_on(
    tollgate: Command, selling: Selling, at: int
) -> None:
    selling.before = lambda _: problem(400) if len(selling.asked) == at else None
    result = tollgate("billing", "onboard", "user-001", "--plan", "starter")
    assert (result.exit_code == 1) == (at <= 6), "six calls in all"
    if result.exit_code:
        assert tollgate.json("keys", "list") == tollgate.json("tenants", "list") == []
        assert onboard(tollgate)["key"] is not None
    assert (len(selling.customers), len(selling.subscriptions)) == (1, 1)
    assert len(tollgate.json("billing", "subscriptions")) == 1


def test_what_the_ledger_refuses_never_reaches_the_engine(tollgate: Command, selling: Selling) -> None:
    for words in (("a b", "starter"), ("user-001", "none")):
        assert tollgate("billing", "onboard", words[0], "--plan", words[1]).exit_code == 1
    assert selling.asked == []
    assert tollgate.json("tenants", "list") == []


def test_the_engine_can_be_left_out(tollgate: Command, selling: Selling) -> None:
    assert onboard(tollgate, "--local")["engine"] is None
    assert selling.asked == []
    assert onboard(tollgate)["engine"] is not None, "and be told later"


def test_everybody_is_enrolled(tollgate: Command, selling: Selling, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = '[meters.m]\nevent_type = "llm_token_usage"\naggregation = "count"\n[features.f]\nmeter = "m"\n'
    plan = '[plans.p]\ncurrency = "USD"\nbilling_cadence = "P1M"\n[[plans.p.rate_cards]]\nfeature = "f"\n'
    price = 'price = { type = "unit", amount = "0.01" }\n[subscriptions]\na = "p"\nb = "p"\n'
    (tollgate.directory / "own.toml").write_text(catalog + plan + price)
    monkeypatch.setenv("TOLLGATE_BILLING__FILE", "own.toml")
    tollgate.done("billing", "apply")
    done = tollgate.json("billing", "onboard", "--all")
    assert [one["tenant"] for one in done] == ["a", "b"]
    assert [one["key"] for one in selling.customers] == ["a", "b"]


def test_people_are_told_in_words(tollgate: Command, selling: Selling) -> None:
    said = tollgate.done("billing", "onboard", "user-001", "--plan", "starter")
    assert said.startswith("Tenant user-001 is a new customer at the engine, now subscribed there since 20")
    told = "The engine was not told: change the subscription of customer user-001 there as well.\n"
    assert tollgate.done("billing", "change", "user-001", "--plan", "pro").endswith(told)
    assert tollgate.done("billing", "cancel", "user-001").endswith(told)


def test_a_plan_that_was_not_applied_is_told(tollgate: Command, selling: Selling) -> None:
    selling.plans.clear()
    assert "tollgate billing apply" in tollgate.refused("billing", "onboard", "user-001", "--plan", "starter")
