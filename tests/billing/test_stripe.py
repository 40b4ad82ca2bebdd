"""What is read of Stripe's app and of customers' ways to pay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from starlette.responses import Response

from proxy.billing import stripe
from proxy.billing.openmeter import OpenMeter
from proxy.billing.stripe import App
from proxy.errors import EngineRefused, EngineUnreadable
from tests.billing.collecting import STRIPE, Collecting, profile
from tests.billing.engine import problem

pytestmark = pytest.mark.anyio
KEY = "sk_test_canary1canary2canary3"


@pytest.fixture
def engine() -> Iterator[Collecting]:
    engine = Collecting()
    with engine.running():
        yield engine
    assert engine.faults == []


@asynccontextmanager
async def client(url: str) -> AsyncIterator[OpenMeter]:
    one = OpenMeter(url, tries=1)
    try:
        yield one
    finally:
        await one.close()


async def lacking(engine: Collecting) -> dict[str, tuple[str, ...]]:
    async with client(engine.v3) as v3:
        return {one.key: one.lacks async for one in stripe.customers(v3, await stripe.installed(v3))}


async def test_the_app_is_found_among_others(engine: Collecting) -> None:
    async with client(engine.v3) as v3:
        assert await stripe.installed(v3) is None
        engine.install()
        assert await stripe.installed(v3) == App(STRIPE, "Stripe", "acct_1", False, "ready", "sk_test_***000")
        engine.apps[-1]["deleted_at"] = "2026-02-01T00:00:00Z"
        assert await stripe.installed(v3) is None


@pytest.mark.parametrize(
    ("url", "v1"),
    [
        ("http://localhost:8888/api/v3/openmeter", "http://localhost:8888/api/v1"),
        ("http://localhost:8888/api/v3/openmeter/", "http://localhost:8888/api/v1"),
        ("https://us.api.konghq.com/v3/openmeter", None),
    ],
)
def test_konnect_has_no_v1(url: str, v1: str | None) -> None:
    assert stripe.v1_url(url) == v1


async def test_each_customer_is_told_what_it_lacks(engine: Collecting) -> None:
    engine.add("whole", stripe_customer="cus_1", payment_method="pm_1")
    engine.add("no-card", stripe_customer="cus_2")
    engine.add("nothing")
    engine.add("sandboxed", stripe_customer="cus_3", profile=profile("Sandbox", "")["id"])
    engine.add("invoiced", stripe_customer="cus_4", profile=profile("Enterprise", "")["id"])
    engine.add("lost", profile=profile("Another of them", "")["id"])
    engine.add("gone", deleted=True)
    assert set((await lacking(engine)).values()) == {("the Stripe app",)}
    engine.install()
    engine.profiles.append(profile("Enterprise", STRIPE, method="send_invoice"))
    no_method = "a payment method, unless Stripe has a default one"
    assert await lacking(engine) == {
        "whole": (),
        "no-card": (no_method,),
        "nothing": ("a Stripe customer", no_method),
        "sandboxed": ("a billing profile that collects by Stripe",),
        "invoiced": (),
        "lost": ("a billing profile",),
    }


async def test_more_customers_than_fit_a_page_are_all_told(engine: Collecting) -> None:
    engine.install()
    for number in range(101):
        engine.add(f"user-{number:03}", stripe_customer=f"cus_{number}", payment_method="pm_1")
    assert len(await lacking(engine)) == 101


async def test_a_refusal_that_repeats_the_key_is_told_without_it(engine: Collecting) -> None:
    engine.answers = lambda _: problem(400, f"Invalid API Key provided: {KEY}")
    async with client(f"{engine.url}/api/v1") as v1:
        with pytest.raises(EngineRefused) as refused:
            await stripe.install(v1, KEY, "Stripe")
    assert "Invalid API Key provided: ***" in str(refused.value)
    assert engine.installed == [{"apiKey": KEY, "name": "Stripe", "createBillingProfile": True}]


async def test_an_item_without_what_it_must_have_is_unreadable(engine: Collecting) -> None:
    engine.answers = lambda _: Response(b'{"data":[{"type":"stripe","id":7}]}', media_type="application/json")
    async with client(engine.v3) as v3:
        with pytest.raises(EngineUnreadable, match="an answer has an item without id"):
            await stripe.installed(v3)
