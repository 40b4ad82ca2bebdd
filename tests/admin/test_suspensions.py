from __future__ import annotations

from proxy.store import payments
from tests.admin.asking import Operator
from tests.running import Running


def test_who_is_suspended_is_listed_in_pages_and_resumed(server: Running, operator: Operator, tenant: str) -> None:
    with server.app.database.transaction() as connection:
        for number in range(5):
            payments.suspend(connection, tenant, f"in_{number}", f"stripe evt_{number}", 1_776_076_200_000)
    assert operator.done("GET", f"/tenants/{tenant}")["suspended_since"] == "2026-04-13T10:30:00.000Z"
    every = operator.all("/suspensions", 2, tenant_id=tenant)
    assert [one["invoice"] for one in every] == [f"in_{number}" for number in reversed(range(5))]
    assert every[0]["cause"] == "stripe evt_4"
    assert (every[0]["until"], every[0]["ended_by"]) == (None, None)
    resumed = operator.done("POST", f"/tenants/{tenant}/resume", json={})
    assert resumed == {"tenant_id": tenant, "status": "active", "ended": 5}
    assert operator.done("GET", f"/tenants/{tenant}")["suspended_since"] is None
    assert {one["ended_by"] for one in operator.all("/suspensions", 10, tenant_id=tenant)} == {"operator"}


def test_what_is_asked_wrong_is_told(operator: Operator) -> None:
    assert operator.refused("GET", "/suspensions?after=x", 400, "wrong_input")["errors"][0]["field"] == "after"
    operator.refused("GET", "/suspensions?tenant_id=nobody", 404, "no_such")
    operator.refused("POST", "/tenants/nobody/resume", 404, "no_such", json={})
