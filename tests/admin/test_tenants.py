from __future__ import annotations

import pytest

from tests.admin.asking import Operator


def test_a_tenant_is_created_shown_and_changed(operator: Operator) -> None:
    made = operator.done("POST", "/tenants", 201, json={"id": "acme", "name": "Acme [GmbH]"})
    assert (made["id"], made["name"], made["status"], made["plan"]) == ("acme", "Acme [GmbH]", "active", None)
    assert operator.done("GET", "/tenants/acme") == made | {"limits": [], "declared_in": None}
    changed = operator.done("PATCH", "/tenants/acme", json={"status": "disabled", "period_anchor": "2026-11-15"})
    assert changed == made | {"status": "disabled", "period_anchor": "2026-11-15T00:00:00.000Z"}
    assert operator.done("PATCH", "/tenants/acme", json={}) == changed
    assert operator.done("PATCH", "/tenants/acme", json={"upstream_key": "env:ACME"})["upstream_key"] == "env:ACME"
    assert operator.done("PATCH", "/tenants/acme", json={"upstream_key": ""})["upstream_key"] is None


def test_all_that_a_change_names_is_changed_or_nothing(operator: Operator, tenant: str) -> None:
    before = operator.done("GET", f"/tenants/{tenant}")
    body = {"status": "disabled", "upstream_key": "env:KEY", "period_anchor": "the 15th"}
    said = operator.refused("PATCH", f"/tenants/{tenant}", 400, "wrong_input", json=body)
    assert said["errors"][0]["field"] == "period_anchor"
    assert operator.done("GET", f"/tenants/{tenant}") == before


def test_a_tenant_is_shown_with_where_each_of_its_limits_comes_from(operator: Operator, tenant: str) -> None:
    operator.done("PATCH", "/plans/pro/limits", json={"limits": ["tokens/month=1000", "requests/minute=60"]})
    operator.done("PATCH", f"/tenants/{tenant}", json={"plan": "pro"})
    operator.done("PATCH", f"/tenants/{tenant}/limits", json={"limits": ["requests/minute=6"]})
    shown = operator.done("GET", f"/tenants/{tenant}")
    assert [(one["limit"], one["value"], one["origin"], one["used"]) for one in shown["limits"]] == [
        ("requests/minute", 6, "tenant", 0),
        ("tokens/month", 1_000, "plan pro", 0),
    ]


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("PATCH", {}), ("PATCH", {"plan": ""})])
def test_a_tenant_that_is_none_is_told(operator: Operator, method: str, body: object) -> None:
    said = operator.refused(method, "/tenants/nobody", 404, "no_such", json=body)
    assert said["detail"] == "there is no tenant nobody"


def test_an_id_that_is_taken_is_a_conflict(operator: Operator, tenant: str) -> None:
    said = operator.refused("POST", "/tenants", 409, "refused", json={"id": tenant})
    assert said["detail"] == f"there is a tenant {tenant} already"


def test_pages_hold_each_tenant_once_whatever_is_added_meanwhile(operator: Operator) -> None:
    for number in range(7):
        operator.done("POST", "/tenants", 201, json={"id": f"page-{number}"})
    page = operator.done("GET", "/tenants?limit=3&after=page-")
    assert [one["id"] for one in page["data"]] == ["page-0", "page-1", "page-2"]
    for added in ("page-00", "page-31"):
        operator.done("POST", "/tenants", 201, json={"id": added})
    rest = operator.done("GET", f"/tenants?limit=100&after={page['next']}")
    assert [one["id"] for one in rest["data"]][:5] == ["page-3", "page-31", "page-4", "page-5", "page-6"]
    assert rest["next"] is None
    every = operator.all("/tenants", 2)
    assert [one["id"] for one in every] == sorted({one["id"] for one in every})
