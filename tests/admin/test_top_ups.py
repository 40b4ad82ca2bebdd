from __future__ import annotations

import pytest

from proxy.limits import VALUE_MAX
from tests.admin.asking import Operator


def test_a_prepaid_amount_is_added_once_for_each_id(operator: Operator, tenant: str) -> None:
    asked = {"unit": "tokens", "amount": 50_000, "id": f"invoice/{tenant}", "note": "November"}
    first = operator.done("POST", f"/tenants/{tenant}/top-ups", 201, json=asked)
    assert (first["added"], first["total"]["value"], first["total"]["origin"]) == (True, 50_000, "prepaid")
    assert operator.done("POST", f"/tenants/{tenant}/top-ups", 201, json=asked) == first | {"added": False}
    other = operator.refused("POST", f"/tenants/{tenant}/top-ups", 409, "refused", json=asked | {"amount": 1})
    assert "of another amount or for another tenant" in other["detail"]
    (listed,) = operator.all("/top-ups", 10, tenant_id=tenant)
    assert listed.pop("created_at").endswith("Z")
    assert listed == asked | {"tenant_id": tenant}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"unit": "tokens", "amount": 0}, "amount"),
        ({"unit": "tokens", "amount": VALUE_MAX + 1}, "amount"),
        ({"unit": "tokens", "amount": 10**30}, "amount"),
        ({"unit": "tokens", "amount": 1.5}, "amount"),
        ({"unit": "tokens", "amount": "1.5"}, "amount"),
        ({"unit": "tokens", "amount": True}, "amount"),
        ({"unit": "usd", "amount": 1.5}, "amount"),
        ({"unit": "usd", "amount": "1.0000000000001"}, "amount"),
        ({"unit": "usd", "amount": "-1"}, "amount"),
        ({"unit": "inflight", "amount": 1}, "unit"),
        ({"unit": "tokens", "amount": 1, "id": "a b"}, "id"),
        ({"unit": "tokens", "amount": 1, "note": "x" * 1_001}, "note"),
    ],
)
def test_an_amount_that_cannot_be_names_its_field(
    operator: Operator, tenant: str, body: dict[str, object], field: str
) -> None:
    said = operator.refused("POST", f"/tenants/{tenant}/top-ups", 400, "wrong_input", json=body)
    assert said["errors"][0]["field"] == field
    assert operator.all("/top-ups", 10, tenant_id=tenant) == []


def test_amounts_are_listed_newest_first_in_pages_that_nothing_moves(operator: Operator, tenant: str) -> None:
    made = [
        operator.done("POST", f"/tenants/{tenant}/top-ups", 201, json={"unit": "requests", "amount": 1})["id"]
        for _ in range(5)
    ]
    page = operator.done("GET", "/top-ups", params={"limit": "2", "tenant_id": tenant})
    assert [one["id"] for one in page["data"]] == [made[4], made[3]]
    operator.done("POST", f"/tenants/{tenant}/top-ups", 201, json={"unit": "requests", "amount": 1})
    after = {"limit": "2", "tenant_id": tenant, "after": page["next"]}
    assert [one["id"] for one in operator.done("GET", "/top-ups", params=after)["data"]] == [made[2], made[1]]
    assert operator.all("/top-ups", 2) == operator.all("/top-ups", 1_000)
    assert operator.refused("GET", "/top-ups?after=nope", 400, "wrong_input")["errors"][0]["field"] == "after"
    operator.refused("GET", "/top-ups?tenant_id=nobody", 404, "no_such")
    operator.refused("POST", "/tenants/nobody/top-ups", 404, "no_such", json={"unit": "tokens", "amount": 1})


def test_money_is_added_and_listed_in_dollars(operator: Operator, tenant: str) -> None:
    body = {"unit": "usd", "amount": "20.50", "id": "pay_1"}
    done = operator.done("POST", f"/tenants/{tenant}/top-ups", 201, json=body)
    assert (done["amount"], done["total"]["value"], done["total"]["remaining"]) == ("20.5", "20.5", "20.5")
    assert [one["amount"] for one in operator.all("/top-ups", 10, tenant_id=tenant)] == ["20.5"]
