"""A tenant becomes a customer with a subscription: once, whatever happens on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from starlette.responses import Response

from proxy.billing.enrolment import Enrolled, Enrolment
from proxy.billing.openmeter import OpenMeter
from proxy.errors import EngineError, EngineRefused, EngineUnavailable, EngineUnreadable
from tests.billing.engine import problem
from tests.billing.selling import Selling
from tests.billing.shop import no_wait, stocked

NOW = datetime(2026, 4, 13, 10, 30, 0, 123_000, tzinfo=UTC)
NOW_MS = 1_776_076_200_000
ANCHOR_MS = NOW_MS - 86_400_000


@pytest.fixture(autouse=True)
async def _stocked(selling: Selling) -> None:
    selling.now = lambda: NOW
    await stocked(selling)


async def enrol(selling: Selling, tenant: str = "user-001", plan: str = "starter", **options: Any) -> Enrolled:
    engine = OpenMeter(selling.url, sleep=no_wait)
    try:
        return await Enrolment(engine, sleep=no_wait, **options).enrol(tenant, plan, anchor_ms=ANCHOR_MS)
    finally:
        await engine.close()


async def test_a_customer_and_then_a_subscription(selling: Selling) -> None:
    selling.asked.clear()
    done = await enrol(selling)
    assert (done.start_ms, done.anchor_ms) == (NOW_MS, ANCHOR_MS)
    assert (done.is_new_customer, done.is_new) == (True, True)
    assert selling.changes == ["POST /customers", "POST /subscriptions"]
    (customer,), (subscription,) = selling.customers, selling.subscriptions
    assert customer["usage_attribution"] == {"subject_keys": ["user-001"]}
    assert subscription["customer_id"] == customer["id"] == done.customer_id
    again = await enrol(selling)
    assert (again.is_new_customer, again.is_new) == (False, False)
    assert (again.start_ms, again.subscription_id) == (done.start_ms, done.subscription_id)
    assert len(selling.changes) == 2


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_whatever_is_lost_nothing_is_made_twice(selling: Selling, lost: str) -> None:
    for at in range(7):
        selling.customers.clear()
        selling.subscriptions.clear()
        calls = count()

        def fail(_: str, calls: Iterator[int] = calls, at: int = at) -> Response | None:
            return problem(502) if next(calls) == at else None

        setattr(selling, lost, fail)
        await enrol(selling)
        assert (len(selling.customers), len(selling.subscriptions)) == (1, 1)


async def test_four_at_once_make_one_of_each(selling: Selling) -> None:
    done = await asyncio.gather(*(enrol(selling) for _ in range(4)))
    assert (len(selling.customers), len(selling.subscriptions)) == (1, 1)
    assert sum(one.is_new for one in done) == sum(one.is_new_customer for one in done) == 1
    assert len({one.subscription_id for one in done}) == 1


async def test_a_customer_that_is_made_between_two_looks_is_found(selling: Selling) -> None:
    await enrol(selling)
    made = selling.customers.pop()
    looks = count(1)
    selling.before = lambda call: (
        selling.customers.append(made) if call == "GET /customers" and next(looks) == 2 else None
    )
    assert not (await enrol(selling)).is_new_customer


async def test_it_gives_up_in_the_end(selling: Selling) -> None:
    selling.before = lambda call: problem(503) if call == "POST /subscriptions" else None
    with pytest.raises(EngineUnavailable):
        await enrol(selling, tries=3)
    assert selling.changes.count("POST /subscriptions") == 3


async def test_a_plan_that_is_not_published_is_applied_first(selling: Selling) -> None:
    selling.plans[0]["status"] = "draft"
    with pytest.raises(EngineError, match="plan starter is not published there: tollgate billing apply"):
        await enrol(selling)
    assert selling.customers == []


async def test_a_customer_with_other_subjects_is_nobody_elses_to_change(selling: Selling) -> None:
    await enrol(selling)
    selling.customers[0]["usage_attribution"]["subject_keys"] = ["a", "b"]
    with pytest.raises(EngineError, match=r"customer user-001 has other subjects \(a, b\): add user-001"):
        await enrol(selling)
    selling.customers[0]["usage_attribution"]["subject_keys"] = []
    assert not (await enrol(selling)).is_new_customer, "its key is a subject as well"


async def test_a_subject_of_another_customer_is_told(selling: Selling) -> None:
    await enrol(selling, "acme")
    selling.customers[0]["usage_attribution"]["subject_keys"] = ["acme", "user-001"]
    with pytest.raises(EngineError, match="the usage of user-001 is attributed to customer acme"):
        await enrol(selling)


async def test_another_plan_there_is_told(selling: Selling) -> None:
    await enrol(selling, plan="pro")
    with pytest.raises(EngineError, match="customer user-001 is subscribed to another plan than starter there"):
        await enrol(selling)
    selling.subscriptions[0]["status"] = "canceled"
    assert (await enrol(selling)).is_new


async def test_an_earlier_version_of_the_plan_is_the_plan(selling: Selling) -> None:
    await enrol(selling)
    selling.plans[0]["status"] = "archived"
    selling.plans.append({**selling.plans[0], "id": "01G65Z755AFWAKHE12NY999999", "status": "active", "version": 2})
    assert not (await enrol(selling)).is_new


async def test_a_payment_that_is_not_set_up_is_explained(selling: Selling) -> None:
    selling.payment_is_broken = True
    with pytest.raises(EngineRefused, match=r"tenant user-001: .* 'invalid billing setup'.*default payment method"):
        await enrol(selling)
    assert len(selling.customers) == 1
    selling.payment_is_broken = False
    assert not (await enrol(selling)).is_new_customer


@pytest.mark.parametrize("change", [{"billing_anchor": "today"}, {"billing_anchor": None}])
async def test_an_answer_that_cannot_be_is_refused(selling: Selling, change: dict[str, Any]) -> None:
    await enrol(selling)
    selling.subscriptions[0] |= change
    with pytest.raises(EngineUnreadable, match="billing_anchor"):
        await enrol(selling)
    selling.faults.clear()
