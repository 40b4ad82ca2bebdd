from __future__ import annotations

import pytest

from proxy.cli.instants import now_ms
from tests.admin.asking import Operator
from tests.cli.conftest import settlement
from tests.running import Running
from tests.web.asking import put


@pytest.mark.parametrize("kind", ["tenant", "key", "plan"])
def test_limits_of_each_kind_of_owner_are_set_and_taken_away_together(
    operator: Operator, tenant: str, kind: str
) -> None:
    key = operator.done("POST", f"/tenants/{tenant}/keys", 201)
    owner = {"tenant": tenant, "key": key["id"], "plan": tenant}[kind]
    path = f"/{kind}s/{owner}/limits"
    asked = {"limits": ["tokens/day=500", "tokens/total=1_000"], "model": "gpt-4o*", "kind": "output", "soft": True}
    done = operator.done("PATCH", path, json=asked)
    assert (done["owner_kind"], done["owner"]) == (kind, owner)
    assert [(one["limit"], one["value"], one["soft"]) for one in done["limits"]] == [
        ("tokens/day (output of gpt-4o*)", 500, True),
        ("tokens/total (output of gpt-4o*)", 1_000, True),
    ]
    named = {"limits": ["tokens/day", "tokens/month"], "model": "gpt-4o*", "kind": "output"}
    assert "has no limit tokens/month" in operator.refused("DELETE", path, 404, "no_such", params=named)["detail"]
    named["limits"] = ["tokens/day", "tokens/total"]
    assert operator.done("DELETE", path, params=named)["limits"] == []


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"limits": []}, "limits", "at least 1 item"),
        ({"limits": ["tokens/week=5"]}, "limits", "'week' is no window"),
        ({"limits": ["tokens/day=5", "tokens/day=6"]}, "limits", "named twice"),
        ({"limits": ["requests/day=5"], "kind": "input"}, "kind", "requests has no kinds"),
        ({"limits": ["tokens/day=5"], "kind": "thoughts"}, "kind", "is no kind of tokens"),
        ({"limits": ["tokens/day=5"], "model": "a\tb"}, "model", "printable"),
        ({}, "limits", "Field required"),
    ],
)
def test_a_limit_that_cannot_be_names_its_field_and_changes_nothing(
    operator: Operator, tenant: str, body: dict[str, object], field: str, words: str
) -> None:
    said = operator.refused("PATCH", f"/tenants/{tenant}/limits", 400, "wrong_input", json=body)
    assert said["errors"][0]["field"] == field
    assert words in said["errors"][0]["detail"]
    assert operator.done("GET", f"/tenants/{tenant}/limits")["limits"] == []


def test_who_or_what_is_not_there_has_no_limits(operator: Operator) -> None:
    one = {"limits": ["inflight=5"]}
    operator.refused("PATCH", "/tenants/nobody/limits", 404, "no_such", json=one)
    operator.refused("PATCH", "/keys/key_0/limits", 404, "no_such", json=one)
    operator.refused("PATCH", "/plans/A%20plan/limits", 400, "wrong_input", json=one)
    for path in ("/tenants/nobody/limits", "/keys/key_0/limits", "/plans/none"):
        operator.refused("GET", path, 404, "no_such")


def test_the_limits_of_a_key_come_on_top_and_each_says_where_it_is_set(
    server: Running, operator: Operator, tenant: str
) -> None:
    key = operator.done("POST", f"/tenants/{tenant}/keys", 201)["id"]
    trusted = operator.done("POST", f"/tenants/{tenant}/keys", 201, json={"trusted": True})["id"]
    operator.done("PATCH", f"/tenants/{tenant}/limits", json={"limits": ["requests/total=10"]})
    operator.done("PATCH", f"/keys/{key}/limits", json={"limits": ["requests/total=5"]})
    put(server, settlement(f"req_{tenant}", subject=tenant, key_id=key, time_ms=now_ms()))
    shown = operator.done("GET", f"/keys/{key}/limits")
    assert (shown["tenant_id"], shown["key_id"], shown["time_zone"]) == (tenant, key, "UTC")
    assert [(one["origin"], one["value"], one["used"], one["remaining"]) for one in shown["limits"]] == [
        ("tenant", 10, 1, 9),
        ("key", 5, 1, 4),
    ]
    assert operator.done("GET", f"/tenants/{tenant}/limits", params={"key_id": key}) == shown
    other = operator.done("POST", "/tenants", 201, json={"id": f"{tenant}-other"})["id"]
    said = operator.refused("GET", f"/tenants/{other}/limits", 409, "refused", params={"key_id": key})
    assert "acts for nobody else" in said["detail"]
    assert operator.done("GET", f"/tenants/{other}/limits", params={"key_id": trusted})["limits"] == []


def test_plans_are_listed_in_pages_with_who_is_on_them(operator: Operator, tenant: str) -> None:
    for name in ("plan-a", "plan-b", "plan-c"):
        operator.done("PATCH", f"/plans/{name}/limits", json={"limits": ["inflight=5"]})
    operator.done("PATCH", f"/tenants/{tenant}", json={"plan": "plan-b"})
    every = operator.all("/plans", 1)
    assert every == operator.all("/plans", 1_000)
    on_each = {one["plan"]: one["tenants"] for one in every}
    assert [on_each[name] for name in ("plan-a", "plan-b", "plan-c")] == [0, 1, 0]
    assert operator.done("GET", "/plans/plan-b") == next(one for one in every if one["plan"] == "plan-b")
