"""What follows, in whatever order and however often it is told."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.payments.follow import Followed, follow
from proxy.payments.invoices import from_openmeter, from_stripe
from proxy.store import notifications, payments
from proxy.store.database import Database
from proxy.store.tenants import create_tenant
from tests.payments.senders import (
    CUSTOMER,
    INVOICE,
    PERSON,
    TIME_S,
    of_tenant,
    openmeter_event,
    openmeter_failed,
    stripe_event,
)

NOW_MS = TIME_S * 1000 + 5


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """With two tenants, and webhooks on."""
    database = Database(f"sqlite:///{tmp_path}/tollgate.db")
    database.create()
    with closing(database.connect()) as connection:
        for tenant in ("user-001", "user-002"):
            create_tenant(connection, tenant, now_ms=1)
        notifications.switch(connection, on=True)
        yield connection


def tell(connection: sqlite3.Connection, document: dict[str, Any], *, suspends: bool = True) -> Followed:
    reader = from_stripe if document.get("object") == "event" else from_openmeter
    told = reader(orjson.dumps(document))
    assert told is not None
    return follow(connection, told, suspends=suspends, now_ms=NOW_MS)


def noted(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """What webhooks tell, the oldest first."""
    found = reversed(notifications.newest(connection, limit=99))
    return [orjson.loads(sent.notification.body) for sent in found]


def is_suspended(connection: sqlite3.Connection, tenant: str = "user-001") -> bool:
    return payments.is_suspended(connection, tenant)


def stripe(kind: str, time: int = 0, event: str = "evt_1", **given_: Any) -> dict[str, Any]:
    return stripe_event(kind, created=TIME_S + time, event=event, metadata=of_tenant(), **given_)


def test_a_failed_payment_suspends_and_the_payment_resumes(connection: sqlite3.Connection) -> None:
    assert tell(connection, openmeter_failed()) == Followed(("user-001",), suspended=("user-001",))
    assert is_suspended(connection)
    assert not is_suspended(connection, "user-002")
    paid = openmeter_event(status="paid", time_s=TIME_S + 60, event="01G65Z755AFWAKHE12NY000EV2")
    assert tell(connection, paid) == Followed(("user-001",), resumed=("user-001",))
    assert not is_suspended(connection)
    (suspension,) = payments.suspensions(connection, limit=9)
    assert (suspension.cause, suspension.ended_by) == (
        "openmeter 01G65Z755AFWAKHE12NY000EV1",
        "openmeter 01G65Z755AFWAKHE12NY000EV2",
    )
    assert noted(connection) == [
        {
            "type": "invoice.payment_failed",
            "timestamp": "2026-04-13T10:30:00.000Z",
            "data": {
                "tenant": "user-001",
                "invoice": INVOICE,
                "currency": "USD",
                "customer": CUSTOMER,
                "source": "openmeter",
                "event": "01G65Z755AFWAKHE12NY000EV1",
                "suspended": True,
            },
        },
        {
            "type": "invoice.paid",
            "timestamp": "2026-04-13T10:31:00.000Z",
            "data": {
                "tenant": "user-001",
                "invoice": INVOICE,
                "currency": "USD",
                "customer": CUSTOMER,
                "source": "openmeter",
                "event": "01G65Z755AFWAKHE12NY000EV2",
                "suspended": False,
            },
        },
    ]


def test_without_the_option_nobody_is_suspended_and_all_is_told(connection: sqlite3.Connection) -> None:
    assert tell(connection, stripe("invoice.payment_failed"), suspends=False) == Followed(("user-001",))
    assert not is_suspended(connection)
    assert [one["type"] for one in noted(connection)] == ["invoice.payment_failed"]


def test_a_payment_ends_a_suspension_although_the_option_is_off_by_now(connection: sqlite3.Connection) -> None:
    tell(connection, stripe("invoice.payment_failed"))
    tell(connection, stripe("invoice.voided", 1), suspends=False)
    assert not is_suspended(connection)


def test_a_tenant_with_two_unpaid_invoices_waits_for_both(connection: sqlite3.Connection) -> None:
    tell(connection, stripe("invoice.payment_failed", invoice="in_1"))
    tell(connection, stripe("invoice.payment_failed", invoice="in_2"))
    tell(connection, stripe("invoice.paid", 9, invoice="in_1"))
    assert is_suspended(connection)
    tell(connection, stripe("invoice.paid", 9, invoice="in_2"))
    assert not is_suspended(connection)


def test_a_payment_from_before_the_failure_resumes_nobody(connection: sqlite3.Connection) -> None:
    tell(connection, stripe("invoice.payment_failed", 5))
    assert tell(connection, stripe("invoice.payment_succeeded", 4, "evt_0")).resumed == ()
    assert is_suspended(connection)


def test_a_failure_from_before_the_payment_suspends_nobody(connection: sqlite3.Connection) -> None:
    tell(connection, stripe("invoice.paid", 5))
    assert tell(connection, stripe("invoice.payment_failed", 5, "evt_0")).suspended == ()
    assert not is_suspended(connection)
    assert [one["type"] for one in noted(connection)] == ["invoice.paid", "invoice.payment_failed"]


def test_a_repeat_after_an_operator_has_resumed_changes_nothing(connection: sqlite3.Connection) -> None:
    tell(connection, stripe("invoice.payment_failed"))
    payments.resume(connection, "user-001", payments.OPERATOR, NOW_MS)
    tell(connection, stripe("invoice.payment_failed"))
    assert not is_suspended(connection)
    tell(connection, stripe("invoice.payment_failed", 3600, "evt_2"))
    assert is_suspended(connection), "it was tried again, and failed again"


_STORY = [
    stripe("invoice.created", 0, "evt_a"),
    stripe("invoice.finalized", 1, "evt_b"),
    stripe("invoice.payment_failed", 2, "evt_c"),
    stripe("invoice.payment_failed", 3, "evt_d"),
    stripe("invoice.paid", 4, "evt_e"),
    stripe("invoice.payment_succeeded", 4, "evt_f"),
    stripe("invoice.payment_failed", 5, "evt_g", invoice="in_2"),
]


@given(order=st.permutations([*_STORY, *_STORY]))
def test_in_any_order_and_twice_it_ends_alike(order: list[dict[str, Any]]) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript((Path(payments.__file__).parent / "schema.sql").read_text())
        create_tenant(connection, "user-001", now_ms=1)
        notifications.switch(connection, on=True)
        for document in order:
            tell(connection, document)
        open_ones = [one.invoice for one in payments.suspensions(connection, limit=99) if one.end_ms is None]
        types = sorted((one["type"], one["data"]["invoice"]) for one in noted(connection))
    assert open_ones == ["in_2"]
    first = "in_1Canary"
    assert types == [
        ("invoice.created", first),
        ("invoice.finalized", first),
        ("invoice.paid", first),
        ("invoice.payment_failed", first),
        ("invoice.payment_failed", first),
        ("invoice.payment_failed", "in_2"),
    ]


def test_stripe_and_openmeter_tell_of_the_same_invoice_and_customer(connection: sqlite3.Connection) -> None:
    tell(connection, openmeter_event(status="issued"))
    ours = {"om_invoice_id": INVOICE, "om_customer_id": CUSTOMER}
    at_stripe = stripe_event("invoice.payment_failed", created=TIME_S + 5, metadata=ours)
    assert tell(connection, at_stripe).suspended == ("user-001",)
    paid = openmeter_event(status="paid", time_s=TIME_S + 9, event="01G65Z755AFWAKHE12NY000EV2")
    assert tell(connection, paid).resumed == ("user-001",)
    tell(connection, stripe_event("invoice.paid", created=TIME_S + 8, event="evt_2", metadata=ours))
    types = [one["type"] for one in noted(connection)]
    assert types == ["invoice.finalized", "invoice.payment_failed", "invoice.paid"]


def test_all_tenants_that_a_customer_pays_for_are_meant(connection: sqlite3.Connection) -> None:
    tell(connection, openmeter_failed(key="acme-inc", subjects=("user-002", "user-001", "user-009")))
    assert is_suspended(connection)
    assert is_suspended(connection, "user-002")
    assert [one["data"]["tenant"] for one in noted(connection)] == ["user-002", "user-001"]
    tell(connection, stripe_event("invoice.paid", created=TIME_S + 1, metadata={"om_invoice_id": INVOICE}))
    assert is_suspended(connection), "nobody knows whose it is"
    linked = {"om_invoice_id": INVOICE, "om_customer_id": CUSTOMER}
    tell(connection, stripe_event("invoice.paid", created=TIME_S + 1, metadata=linked))
    assert not is_suspended(connection)
    assert not is_suspended(connection, "user-002")


@pytest.mark.parametrize(
    "document",
    [
        openmeter_failed(key="nobody"),
        openmeter_failed(key=None),
        stripe_event(metadata=of_tenant("nobody")),
        stripe_event(metadata={"om_customer_id": CUSTOMER}),
    ],
)
def test_of_nobody_that_is_known_it_is_told_without_who_it_is(
    connection: sqlite3.Connection, document: dict[str, Any]
) -> None:
    assert tell(connection, document) == Followed()
    tell(connection, document)
    (one,) = noted(connection)
    assert one["data"]["tenant"] is None
    assert one["data"]["suspended"] is False
    for value in (*PERSON.values(), "nobody"):
        assert value not in orjson.dumps(one).decode()


def test_who_becomes_known_is_suspended_when_it_is_told_again(connection: sqlite3.Connection) -> None:
    failed = stripe_event(customer="cus_7")
    tell(connection, failed)
    payments.link(connection, "cus_7", ["user-002"])
    assert tell(connection, failed).suspended == ("user-002",)


def test_while_webhooks_are_off_nothing_is_noted(connection: sqlite3.Connection) -> None:
    notifications.switch(connection, on=False)
    assert tell(connection, stripe("invoice.payment_failed")).suspended == ("user-001",)
    assert noted(connection) == []
