"""A tenant is onboarded by a running server: at its engine first, and then here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.admin.asking import Operator, operating
from tests.billing.engine import problem
from tests.billing.selling import Selling
from tests.billing.shop import STARTER, TEXT, apply
from tests.running import Running
from tests.streams import ASK

PATH = "/tenants/user-001/onboard"
ASKED = {"plan": "starter"}


@pytest.fixture
def selling() -> Iterator[Selling]:
    """An engine that has the catalog. It tells as little as Konnect."""
    with Selling(konnect=True).running() as one:
        apply(one)
        one.asked.clear()
        yield one
    assert one.faults == []


@pytest.fixture
def both(tmp_path: Path, selling: Selling) -> Iterator[tuple[Running, Operator]]:
    (tmp_path / "billing.toml").write_text(TEXT)
    variables = {"KONNECT_API_URL": selling.url, "TOLLGATE_BILLING__FILE": str(tmp_path / "billing.toml")}
    with operating(tmp_path, **variables) as server_and_operator:
        yield server_and_operator


def there(operator: Operator) -> list[str]:
    """The tenants and the keys that are not the sandbox's own."""
    keys = [one["id"] for one in operator.all("/keys", 10) if one["tenant_id"] != "demo"]
    return [one["id"] for one in operator.all("/tenants", 10) if one["id"] != "demo"] + keys


def test_customer_subscription_and_then_the_key(both: tuple[Running, Operator], selling: Selling) -> None:
    server, operator = both
    keys_then: list[object] = []
    selling.before = lambda _: keys_then.append(there(operator))
    done = operator.done("POST", PATH, json=ASKED | {"name": "Acme", "key_name": "first"})
    assert keys_then
    assert not any(keys_then)
    (customer,), (subscription,) = selling.customers, selling.subscriptions
    assert done["engine"] == {
        "customer_id": customer["id"],
        "subscription_id": subscription["id"],
        "start": done["start"],
        "new_customer": True,
        "new_subscription": True,
    }
    assert (customer["key"], customer["name"]) == ("user-001", "Acme")
    assert (done["plan"], done["version"], done["new_tenant"], done["new_subscription"]) == ("starter", 1, True, True)
    (key,) = operator.all("/keys", 10, tenant_id="user-001")
    assert (key["id"], key["name"]) == (done["key_id"], "first")
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=ASK, headers={"x-api-key": done["key"]})
    assert answer.status_code == 200


def test_again_changes_nothing_and_shows_no_secret(both: tuple[Running, Operator], selling: Selling) -> None:
    _, operator = both
    once = {"idempotency-key": "1"}
    first = operator.done("POST", PATH, json=ASKED, headers=once)
    changes = selling.changes
    repeated = operator.done("POST", PATH, json=ASKED, headers=once)
    assert repeated == first | {"key": None}
    again = operator.done("POST", PATH, json=ASKED)
    assert (again["start"], again["key"], again["new_tenant"], again["new_subscription"]) == (
        *(first["start"], None),
        *(False, False),
    )
    assert selling.changes == changes


@pytest.mark.parametrize("at", range(1, 8))
def test_whatever_call_fails_there_is_no_key_and_the_next_time_goes_on(
    both: tuple[Running, Operator], selling: Selling, at: int
) -> None:
    _, operator = both
    selling.before = lambda _: problem(400) if len(selling.asked) == at else None
    if at <= 6:
        operator.refused("POST", PATH, 502, "engine_failed", json=ASKED)
        assert there(operator) == []
    assert operator.done("POST", PATH, json=ASKED)["key"] is not None
    assert (len(selling.customers), len(selling.subscriptions)) == (1, 1)


def test_many_at_once_make_one(both: tuple[Running, Operator], selling: Selling) -> None:
    _, operator = both
    with ThreadPoolExecutor(8) as pool:
        done = [*pool.map(lambda _: operator("POST", PATH, json=ASKED), range(8))]
    told = [one.json() for one in done if one.status_code == 200]
    assert {one.status_code for one in done} <= {
        200,
        502,
    }  # two that make one customer: the loser is told, and may ask again
    assert len([one for one in told if one["key"]]) == 1
    assert (len(selling.customers), len(selling.subscriptions)) == (1, 1)
    assert len(there(operator)) == 2


def test_while_an_engine_hangs_other_changes_are_made_and_tenants_served(
    both: tuple[Running, Operator], selling: Selling
) -> None:
    server, operator = both
    going_on, asked = threading.Event(), threading.Event()

    def hang(_: str) -> None:
        asked.set()
        assert going_on.wait(30)

    selling.before = hang
    with ThreadPoolExecutor(1) as pool:
        onboarded = pool.submit(operator.done, "POST", PATH, json=ASKED)
        assert asked.wait(30)
        operator.done("POST", "/tenants", 201, json={"id": "acme"})
        key = operator.done("POST", "/tenants/acme/keys", 201)["key"]
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=ASK, headers={"x-api-key": key})
        assert answer.status_code == 200
        going_on.set()
        assert onboarded.result(30)["key"] is not None


def test_what_the_ledger_refuses_never_reaches_the_engine(both: tuple[Running, Operator], selling: Selling) -> None:
    _, operator = both
    for body in ({"plan": "none"}, {}):
        said = operator.refused("POST", PATH, 400, "wrong_input", json=body)
        assert said["errors"][0]["field"] == "plan"
    operator.refused("POST", PATH, 400, "wrong_input", json=ASKED | {"key": "short"})
    operator.refused("POST", PATH, 400, "wrong_input", json=ASKED | {"other": 1})
    assert selling.asked == []
    assert there(operator) == []


def test_the_engine_can_be_left_out(both: tuple[Running, Operator], selling: Selling) -> None:
    _, operator = both
    done = operator.done("POST", PATH, json=ASKED | {"local": True, "no_key": True})
    assert (done["engine"], done["key_id"], done["new_tenant"]) == (None, None, True)
    assert selling.asked == []
    later = operator.done("POST", PATH, json=ASKED)
    assert later["engine"]["new_subscription"]
    assert not later["new_subscription"]


def test_a_catalog_that_is_wrong_names_its_line(
    both: tuple[Running, Operator], selling: Selling, tmp_path: Path
) -> None:
    _, operator = both
    (tmp_path / "billing.toml").write_text(TEXT.replace(STARTER, STARTER.replace("0.000002", "2e-6")))
    said = operator.refused("POST", PATH, 500, "misconfigured", json=ASKED)
    assert "billing.toml:" in said["detail"]
    assert selling.asked == []


def test_without_an_engine_it_is_the_ledger_alone(operator: Operator) -> None:
    done = operator.done("POST", "/tenants/alone/onboard", json={"plan": "free", "key": "ak_alone_123"})
    assert (done["engine"], done["key"], done["limits"]) == (None, "ak_alone_123", ["tokens/period 10,000"])
