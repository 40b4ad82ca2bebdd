from __future__ import annotations

import json

from proxy.store import payments
from proxy.store.tenants import set_active
from tests.cli.conftest import Command

CAUSE = "stripe evt_1"


def suspend(tollgate: Command, *invoices: str) -> None:
    with tollgate.database.transaction() as connection:
        for invoice in invoices:
            payments.suspend(connection, "user-001", invoice, CAUSE, 1_776_076_200_000)


def test_who_is_suspended_is_listed_and_shown_and_resumed(tollgate: Command) -> None:
    tollgate("tenants", "create", "user-001")
    assert tollgate("tenants", "suspensions").output == "Nobody was suspended.\n"
    suspend(tollgate, "in_1", "in_2")
    (listed,) = json.loads(tollgate("tenants", "list", "--json").output)
    assert (listed["status"], listed["suspended_since"]) == ("active", "2026-04-13T10:30:00.000Z")
    assert "suspended" in tollgate("tenants", "show", "user-001").output
    assert tollgate("tenants", "resume", "user-001").output == "Tenant user-001 is no longer suspended.\n"
    assert tollgate("tenants", "resume", "user-001").output == "Tenant user-001 was not suspended.\n"
    found = json.loads(tollgate("tenants", "suspensions", "user-001", "--json").output)
    assert [(one["invoice"], one["cause"], one["ended_by"]) for one in found] == [
        ("in_2", CAUSE, "operator"),
        ("in_1", CAUSE, "operator"),
    ]
    assert all(one["until"] for one in found)
    lines = [line.split() for line in tollgate("tenants", "suspensions", "--limit", "1").output.splitlines()]
    assert lines[-1][:2] == ["user-001", "in_2"]
    assert "suspended" not in tollgate("tenants", "list").output


def test_to_resume_is_not_to_enable(tollgate: Command) -> None:
    tollgate("tenants", "create", "user-001")
    suspend(tollgate, "in_1")
    with tollgate.database.transaction() as connection:
        set_active(connection, "user-001", active=False)
    assert "disabled" in tollgate("tenants", "list").output
    said = tollgate("tenants", "resume", "user-001").output
    assert said.endswith("It is disabled still: tollgate tenants enable user-001\n")
    suspend(tollgate, "in_1")
    done = json.loads(tollgate("tenants", "resume", "user-001", "--json").output)
    assert done == {"tenant_id": "user-001", "status": "disabled", "ended": 1}


def test_an_unknown_tenant_is_refused(tollgate: Command) -> None:
    for command in ("resume", "suspensions"):
        result = tollgate("tenants", command, "nobody")
        assert (result.exit_code, result.stderr) == (1, "tollgate: there is no tenant nobody\n")
