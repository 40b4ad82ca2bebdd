from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import StoreError
from proxy.store import accounts, payments
from proxy.store.payments import OPERATOR, Suspension
from proxy.store.tenants import create_tenant, set_active, tenant


@pytest.fixture(autouse=True)
def _tenants(connection: sqlite3.Connection) -> None:
    for one in ("acme", "other"):
        create_tenant(connection, one, now_ms=1)


def revision(connection: sqlite3.Connection) -> int:
    number: int = connection.execute(accounts.REVISION).fetchone()[0]
    return number


def test_only_what_is_later_is_news(connection: sqlite3.Connection) -> None:
    assert payments.note(connection, "in_1", "acme", "failed", 5)
    assert not payments.note(connection, "in_1", "acme", "failed", 5), "told again"
    assert not payments.note(connection, "in_1", "acme", "settled", 4), "paid before it failed"
    assert payments.note(connection, "in_1", "acme", "settled", 5), "in the same second, it is paid in the end"
    assert not payments.note(connection, "in_1", "acme", "failed", 5)
    assert payments.note(connection, "in_1", "acme", "failed", 6)
    assert payments.note(connection, "in_1", "other", "settled", 1), "another's"
    assert payments.note(connection, "in_2", "acme", "settled", 1), "another invoice"


@given(told=st.permutations([("failed", 1), ("failed", 3), ("settled", 3), ("failed", 2)]), last=st.booleans())
def test_in_any_order_the_latest_holds(told: list[tuple[str, int]], last: bool) -> None:
    told = [*told, ("failed", 4)] if last else told
    with sqlite3.connect(":memory:") as connection:
        connection.execute(
            "CREATE TABLE payments (invoice, tenant_id, state, time_ms, PRIMARY KEY (invoice, tenant_id))"
        )
        for state, time_ms in told:
            payments.note(connection, "in_1", "acme", state, time_ms)  # type: ignore[arg-type]
        states = dict(connection.execute("SELECT state, time_ms FROM payments").fetchall())
    connection.close()
    assert states == ({"failed": 4} if last else {"settled": 3})


def test_a_tenant_is_suspended_until_each_of_its_invoices_is_settled(connection: sqlite3.Connection) -> None:
    before = revision(connection)
    assert payments.suspend(connection, "acme", "in_1", "stripe evt_1", 10)
    assert not payments.suspend(connection, "acme", "in_1", "stripe evt_2", 11), "it is already"
    assert payments.suspend(connection, "acme", "in_2", "stripe evt_3", 12)
    assert revision(connection) == before + 2, "servers notice"
    assert tenant(connection, "acme").suspended_ms == 10
    assert not payments.is_suspended(connection, "other")
    assert payments.resume(connection, "acme", "stripe evt_4", 20, invoice="in_1") == 1
    assert tenant(connection, "acme").suspended_ms == 12
    assert payments.resume(connection, "acme", OPERATOR, 21) == 1
    assert payments.resume(connection, "acme", OPERATOR, 22) == 0
    assert not payments.is_suspended(connection, "acme")
    assert payments.suspensions(connection, "acme", limit=9) == [
        Suspension("acme", "in_2", "stripe evt_3", 12, 21, "operator", 2),
        Suspension("acme", "in_1", "stripe evt_1", 10, 20, "stripe evt_4", 1),
    ]
    assert payments.suspensions(connection, limit=1)[0].invoice == "in_2"
    assert [one.id for one in payments.suspensions(connection, before=2, limit=9)] == [1]
    assert payments.suspensions(connection, before=10**30, limit=9)[0].id == 2
    assert payments.suspensions(connection, "other", limit=9) == []


def test_a_clock_that_was_set_back_ends_no_suspension_before_it_began(connection: sqlite3.Connection) -> None:
    payments.suspend(connection, "acme", "in_1", "stripe evt_1", 10)
    payments.resume(connection, "acme", OPERATOR, 3)
    assert payments.suspensions(connection, limit=9) == [
        Suspension("acme", "in_1", "stripe evt_1", 10, 10, "operator", 1)
    ]


def test_who_is_disabled_stays_so(connection: sqlite3.Connection) -> None:
    set_active(connection, "acme", active=False)
    payments.suspend(connection, "acme", "in_1", "stripe evt_1", 10)
    payments.resume(connection, "acme", OPERATOR, 20)
    assert (tenant(connection, "acme").status, tenant(connection, "acme").suspended_ms) == ("disabled", None)
    payments.suspend(connection, "acme", "in_1", "stripe evt_2", 30)
    set_active(connection, "acme", active=True)
    assert payments.is_suspended(connection, "acme"), "to enable a tenant is no payment"


def test_nobody_else_can_be_resumed_or_pay(connection: sqlite3.Connection) -> None:
    with pytest.raises(StoreError, match="there is no tenant nobody"):
        payments.resume(connection, "nobody", OPERATOR, 20)
    assert payments.known_tenants(connection, ["nobody", "other", "acme", "other"]) == ["other", "acme"]


def test_a_payer_is_linked_to_whom_it_pays_for_now(connection: sqlite3.Connection) -> None:
    payments.link(connection, "cus_1", ["other", "acme"])
    payments.link(connection, "cus_2", ["acme"])
    assert payments.pays_for(connection, "cus_1") == ["acme", "other"]
    payments.link(connection, "cus_1", ["acme"])
    changes = connection.total_changes
    payments.link(connection, "cus_1", ["acme"])
    assert connection.total_changes == changes, "nothing to write"
    assert payments.pays_for(connection, "cus_1") == payments.pays_for(connection, "cus_2") == ["acme"]
    assert payments.pays_for(connection, "cus_3") == []
