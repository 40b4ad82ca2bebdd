from __future__ import annotations

import pytest

from tests.admin.asking import Operator


def test_a_key_is_made_listed_rotated_and_revoked(operator: Operator, tenant: str) -> None:
    asked = {"name": "ci", "models": ["gpt-4o", "gpt-4o"], "expires": "2099-12-31T00:00:00Z", "trusted": True}
    made = operator.done("POST", f"/tenants/{tenant}/keys", 201, json=asked)
    secret = made.pop("key")
    assert secret.startswith("tg_")
    assert (made["name"], made["models"], made["trusted"], made["hint"]) == ("ci", ["gpt-4o"], True, secret[-4:])
    assert operator.done("GET", f"/keys/{made['id']}") == made
    assert operator.all("/keys", 10, tenant_id=tenant) == [made]
    rotated = operator.done("POST", f"/keys/{made['id']}/rotate", 201, json={"overlap": "0s"})
    assert (rotated["replaces"], rotated["models"], rotated["name"]) == (made["id"], ["gpt-4o"], "ci")
    assert rotated["key"] not in (secret, "")
    assert operator.done("GET", f"/keys/{made['id']}")["status"] == "expired"
    for _ in range(2):
        assert operator.done("POST", f"/keys/{rotated['id']}/revoke")["status"] == "revoked"
    said = operator.refused("POST", f"/keys/{rotated['id']}/rotate", 409, "refused", json={})
    assert "revoked or expired" in said["detail"]


def test_a_key_of_one_s_own_is_taken_once(operator: Operator, tenant: str) -> None:
    made = operator.done("POST", f"/tenants/{tenant}/keys", 201, json={"key": "ak_user1_abc123"})
    assert (made["key"], made["hint"]) == ("ak_user1_abc123", "")
    said = operator.refused("POST", f"/tenants/{tenant}/keys", 409, "refused", json={"key": "ak_user1_abc123"})
    assert said["detail"] == "this key is in use already"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"key": "short"}, "key"),
        ({"expires": "soon"}, "expires"),
        ({"expires": "2020-01-01"}, "expires"),
        ({"models": [""]}, "models.0"),
        ({"models": "gpt-4o"}, "models"),
    ],
)
def test_what_cannot_be_names_its_field_and_makes_no_key(
    operator: Operator, tenant: str, body: dict[str, object], field: str
) -> None:
    said = operator.refused("POST", f"/tenants/{tenant}/keys", 400, "wrong_input", json=body)
    assert said["errors"][0]["field"] == field
    assert operator.all("/keys", 10, tenant_id=tenant) == []


def test_keys_of_nobody_are_none(operator: Operator) -> None:
    operator.refused("POST", "/tenants/nobody/keys", 404, "no_such")
    operator.refused("GET", "/keys?tenant_id=nobody", 404, "no_such")
    operator.refused("GET", "/keys?after=key_0", 404, "no_such")
    for method, path in (("GET", "/keys/key_0"), ("POST", "/keys/key_0/rotate"), ("POST", "/keys/key_0/revoke")):
        operator.refused(method, path, 404, "no_such")


def test_pages_hold_each_key_once_in_the_order_of_the_whole(operator: Operator, tenant: str) -> None:
    made = [operator.done("POST", f"/tenants/{tenant}/keys", 201)["id"] for _ in range(5)]
    every = operator.all("/keys", 1_000)
    for limit in (1, 2, 3, 5):
        assert operator.all("/keys", limit) == every
        found = operator.all("/keys", limit, tenant_id=tenant)
        assert sorted(one["id"] for one in found) == sorted(made)


def test_a_key_s_own_limits_are_shown_with_it(operator: Operator, tenant: str) -> None:
    key = operator.done("POST", f"/tenants/{tenant}/keys", 201)
    operator.done("PATCH", f"/keys/{key['id']}/limits", json={"limits": ["requests/day=5"], "soft": True})
    (listed,) = operator.all("/keys", 10, tenant_id=tenant)
    assert [(one["limit"], one["value"], one["soft"]) for one in listed["limits"]] == [("requests/day", 5, True)]
